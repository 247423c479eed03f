//! Which worker serves whom: a consistent hash over the workers that are ready, so that all edges agree without talking, and
//! a bound on what one of them may have more than the mean.

use std::sync::Arc;

use consistent_hash::{DefaultHash, Node, StaticHashRing};

use super::worker::Worker;

/// Points of each worker on the ring: enough that shares differ by a tenth or so. All edges must have the same.
const POINTS: usize = 160;

/// Workers by the points of their addresses.
pub(super) struct Ring {
    points: StaticHashRing<'static, String, Arc<Worker>, DefaultHash>,
}

impl Ring {
    pub(super) fn new(workers: impl IntoIterator<Item = Arc<Worker>>) -> Self {
        let nodes = workers.into_iter().map(|worker| Node {
            key: worker.address.to_string(),
            value: worker,
            quantity: POINTS,
        });
        Self { points: StaticHashRing::new(DefaultHash, nodes) }
    }

    pub(super) fn len(&self) -> usize {
        self.points.nodes().len()
    }

    /// The workers for a Client Identifier, best first. Without memory of who was passed over: the caller asks the next.
    pub(super) fn candidates(&self, client_id: &str) -> impl Iterator<Item = &Arc<Worker>> {
        self.points.calc_candidates(&client_id).map(|node| &node.value)
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.points.nodes().iter().map(|node| &node.value)
    }

    pub(super) fn has(&self, worker: &Arc<Worker>) -> bool {
        self.workers().any(|other| Arc::ptr_eq(other, worker))
    }

    /// How many streams a worker may have when there are `more` of them than now.
    pub(super) fn bound(&self, more: usize, load_factor: f64) -> usize {
        let all: usize = self.workers().map(|worker| worker.streams()).sum();
        bound(all + more, self.len(), load_factor)
    }
}

fn bound(all: usize, workers: usize, load_factor: f64) -> usize {
    // Far below the integers that a double holds.
    (all as f64 * load_factor / workers.max(1) as f64).ceil() as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::upstream::metrics::Metrics;

    fn worker(number: u8) -> Arc<Worker> {
        let address = std::net::SocketAddr::from(([10, 0, 0, number], 7883));
        Arc::new(Worker::new(address, "10.0.0.1".to_owned(), &Metrics::default()))
    }

    fn first(ring: &Ring, client_id: &str) -> u8 {
        let worker = ring.candidates(client_id).next().expect("one");
        match worker.address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        }
    }

    // Edges of neighbouring releases must agree: whoever changes this moves every session once.
    #[test]
    fn the_places_of_sessions_are_these() {
        let ring = Ring::new([worker(1), worker(2), worker(3)]);
        let places: Vec<u8> = (0..16).map(|number| first(&ring, &format!("device-{number}"))).collect();
        assert_eq!(places, GOLDEN);
        let order: Vec<String> =
            ring.candidates("device-0").map(|worker| worker.address.to_string()).collect();
        assert_eq!(order, GOLDEN_ORDER);
    }

    const GOLDEN: [u8; 16] = [3, 1, 3, 1, 1, 2, 2, 1, 1, 2, 2, 3, 1, 3, 1, 3];
    const GOLDEN_ORDER: [&str; 3] = ["10.0.0.3:7883", "10.0.0.1:7883", "10.0.0.2:7883"];

    #[test]
    fn shares_are_about_equal_and_a_lost_worker_moves_only_its_own() {
        let all = Ring::new([worker(1), worker(2), worker(3)]);
        let two = Ring::new([worker(3), worker(1)]);
        let mut shares = BTreeMap::new();
        for number in 0..6_000 {
            let client_id = format!("device-{number}");
            let place = first(&all, &client_id);
            *shares.entry(place).or_insert(0) += 1;
            if place != 2 {
                assert_eq!(first(&two, &client_id), place);
            }
        }
        assert!(shares.values().all(|share| (1_500..2_500).contains(share)), "{shares:?}");
    }

    #[test]
    fn the_bound_is_above_the_mean_by_the_factor() {
        assert_eq!(bound(1, 3, 1.25), 1);
        assert_eq!(bound(100, 4, 1.25), 32);
        assert_eq!(bound(100, 1, 1.25), 125);
    }
}
