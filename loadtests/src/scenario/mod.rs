//! The scenarios, one file or directory each.

pub(crate) mod authenticate;
pub(crate) mod bulk;
pub(crate) mod connect;
pub(crate) mod idle;
pub(crate) mod publisher;
pub(crate) mod retained;
pub(crate) mod stored;
pub(crate) mod storm;
pub(crate) mod subscribe;
pub(crate) mod throughput;

/// A name that differs from run to run, for topics and Client Identifiers.
#[must_use]
pub(crate) fn run_name() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// The `worker`-th share of `total` things among `workers`.
#[must_use]
pub(crate) fn share(total: u32, worker: u32, workers: u32) -> u32 {
    total / workers + u32::from(worker < total % workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole() {
        for total in [0, 1, 7, 50] {
            let shares: Vec<u32> = (0..4).map(|worker| share(total, worker, 4)).collect();
            assert_eq!(shares.iter().sum::<u32>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
