//! Simulations: so many seeds in an ordinary run, one that is replayed, or as many as somebody wants.

use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that try seeds at once, at most.
const THREADS_MAX: usize = 4;

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seed that `TIDEGATE_SEED` asks for alone.
pub fn replayed() -> Option<u64> {
    number_from_environment("TIDEGATE_SEED")
}

/// Runs a simulation with the seed that `TIDEGATE_SEED` names, or with as many as `TIDEGATE_SEEDS` says, or with `seeds` of them,
/// and prints and
/// answers how often `what` happened in all.
///
/// # Panics
/// When a run does, with its seed; and when something of `what` never happened with any seed.
pub fn run<const N: usize>(
    seeds: u64,
    what: [&str; N],
    simulate: impl Fn(u64) -> [usize; N] + Sync,
) -> [usize; N] {
    let tell = |counts: [usize; N]| {
        let told: Vec<_> = what.iter().zip(counts).map(|(what, count)| format!("{count} {what}")).collect();
        println!("{}", told.join(", "));
        counts
    };
    if let Some(seed) = replayed() {
        return tell(simulate(seed));
    }
    let seeds = number_from_environment("TIDEGATE_SEEDS").unwrap_or(seeds);
    let next = AtomicU64::new(0);
    let try_seeds = || {
        let mut total = [0; N];
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return total;
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulate(seed)));
            let counts = result.unwrap_or_else(|_| panic!("replay with TIDEGATE_SEED={seed}"));
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let totals: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(try_seeds)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a seed failed")).collect()
    });
    let total = tell(std::array::from_fn(|at| totals.iter().map(|total| total[at]).sum()));
    assert!(total.iter().all(|count| *count > 0), "something never happened");
    total
}
