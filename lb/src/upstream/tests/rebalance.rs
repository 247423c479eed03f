//! Sessions that are moved so that every worker has its share.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::link::wire::RefuseReason;
use mqtt::QoS;
use tokio::time::timeout;

use super::device::{TestDevice, publish};
use super::worker::FakeWorker;
use super::{Setup, packet};
use crate::fake::{PATIENCE, eventually};
use crate::upstream::WorkersConfig;
use crate::upstream::discovery::list;
use crate::upstream::rebalance::{Balance, choose, run};

/// Of the default load factor, for so many devices at so many workers.
fn bound(devices: usize, workers: usize) -> usize {
    (devices * 5).div_ceil(workers * 4)
}

impl Setup {
    async fn devices(&self, count: u128) -> Vec<TestDevice> {
        let mut devices = Vec::new();
        for connection in 0..count {
            devices.push(TestDevice::connect(&self.workers, connection).await);
        }
        devices
    }

    /// How many sessions each worker on the ring has.
    fn shares(&self) -> Vec<usize> {
        self.workers.0.ring.load().workers().map(|worker| worker.streams()).collect()
    }

    fn excess(&self, devices: usize, workers: usize) -> usize {
        self.shares().into_iter().map(|share| share.saturating_sub(bound(devices, workers))).sum()
    }

    fn rebalanced(&self) -> f64 {
        self.metric("workers_moves_total{reason=\"rebalance\"")
    }

    /// Another worker joins.
    async fn join(&mut self) {
        self.fakes.push(FakeWorker::start(&self.store, None).await);
        let listed = self.fakes.iter().map(|fake| (fake.address, "127.0.0.1".to_owned())).collect();
        list(&self.workers.0, &listed);
        self.all_up(self.fakes.len()).await;
    }

    /// Looks so many times. How many devices are to be moved, each time.
    async fn look(&self, balance: &mut Balance, looks: usize, max: usize) -> Vec<usize> {
        let mut chosen = Vec::new();
        for _ in 0..looks {
            chosen.push(balance.look(&self.workers.0, max).await);
        }
        chosen
    }

    /// The second worker refuses so many, each of them once or more, and the first has all again.
    async fn all_back(&self, refused: usize) {
        let before = self.fakes[1].opens().len();
        let is_back = || self.metric("workers_moving") == 0.0 && self.shares().contains(&60);
        eventually("all are back", || self.asked_since(before).len() == refused && is_back()).await;
    }

    /// Who has asked the second worker, after so many times.
    fn asked_since(&self, opens: usize) -> BTreeSet<u128> {
        self.fakes[1].opens()[opens..].iter().map(|open| open.connection_id.0).collect()
    }

    async fn settled(&self, devices: usize, workers: usize) {
        eventually("the shares are even", || {
            let shares = self.shares();
            shares.len() == workers
                && shares.iter().sum::<usize>() == devices
                && self.excess(devices, workers) == 0
                && self.metric("workers_moving") == 0.0
        })
        .await;
    }
}

/// As many as may be moved in one go.
const MAX: usize = 100;

/// Nobody is moved but when the test looks.
fn by_hand(config: &mut WorkersConfig) {
    config.rebalance_per_s = 0;
    config.backoff_max_ms = 125;
}

#[tokio::test]
async fn workers_that_join_and_come_back_are_given_the_excess_and_not_more() {
    const DEVICES: usize = 120;
    let mut setup = Setup::with(2, by_hand).await;
    let mut balance = Balance::default();
    let mut devices = setup.devices(DEVICES as u128).await;
    assert_eq!(setup.look(&mut balance, 3, MAX).await, [0; 3], "they are even");

    setup.join().await;
    let mut expected = setup.excess(DEVICES, 3);
    assert!(expected >= 20, "{expected}");
    assert_eq!(setup.look(&mut balance, 2, MAX).await, [0, expected], "it may be gone again");
    setup.settled(DEVICES, 3).await;
    assert_eq!(setup.look(&mut balance, 3, MAX).await, [0; 3]);
    assert_eq!(setup.rebalanced(), expected as f64);

    // One leaves for a while. What the others got of it they give back, as far as it is too much.
    let gone = setup.fakes.remove(0);
    let address = gone.address;
    gone.kill().await;
    setup.settled(DEVICES, 2).await;
    assert_eq!(setup.look(&mut balance, 1, MAX).await, [0]);
    setup.fakes.push(FakeWorker::start_at(address, &setup.store, None).await);
    setup.all_up(3).await;
    let excess = setup.excess(DEVICES, 3);
    assert_eq!(setup.look(&mut balance, 2, MAX).await, [0, excess]);
    setup.settled(DEVICES, 3).await;
    expected += excess;
    assert_eq!(setup.look(&mut balance, 3, MAX).await, [0; 3]);
    assert_eq!(setup.rebalanced(), expected as f64);

    for device in &mut devices {
        assert_eq!(device.publish_all(3, 2).await, [1; 3]);
    }
    assert!(setup.store.closed.lock().is_empty());
}

// The only one here that goes by the clock.
#[tokio::test]
async fn those_whose_place_is_at_the_worker_that_joined_go_first() {
    let mut setup = Setup::new(1).await;
    let _devices = setup.devices(100).await;
    setup.join().await;
    setup.settled(100, 2).await;
    let ring = setup.workers.0.ring.load_full();
    let joined = setup.fakes.last().expect("it");
    let has_place_there = |connection: u128| {
        let best = ring.candidates(&format!("device-{connection}")).next().expect("one");
        best.address == joined.address
    };
    let opens = joined.opens();
    let came_home = opens.iter().filter(|open| has_place_there(open.connection_id.0)).count();
    let all = (0..100).filter(|connection| has_place_there(*connection)).count();
    assert_eq!(came_home, all.min(opens.len()), "of {}", opens.len());
}

#[tokio::test]
async fn moves_are_paced() {
    let mut setup = Setup::with(1, by_hand).await;
    let mut balance = Balance::default();
    let _devices = setup.devices(60).await;
    setup.join().await;
    assert_eq!(setup.look(&mut balance, 1, 5).await, [0]);
    for moved in [5.0, 10.0] {
        assert_eq!(setup.look(&mut balance, 1, 5).await, [5]);
        eventually("they are moved", || setup.rebalanced() == moved).await;
    }
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let setup = Setup::with(1, by_hand).await;
    timeout(PATIENCE, run(setup.workers.0.clone())).await.expect("nobody looks");
}

#[tokio::test]
async fn who_has_something_under_way_stays() {
    let mut setup = Setup::with(1, by_hand).await;
    let mut balance = Balance::default();
    setup.fakes[0].manner(|manner| manner.holds_packets = true);
    let mut devices = setup.devices(40).await;
    for device in devices.iter_mut().skip(10) {
        device.send(&publish(QoS::AtLeastOnce, 1, b"x")).await;
    }
    eventually("they have come", || (10..40).all(|number| setup.fakes[0].packets(number).len() == 1)).await;
    setup.join().await;
    assert_eq!(setup.excess(40, 2), 15);
    assert_eq!(setup.look(&mut balance, 2, MAX).await, [0, 10]);
    eventually("the idle ones have moved", || setup.rebalanced() == 10.0).await;
    assert_eq!(setup.look(&mut balance, 2, MAX).await, [0; 2]);
    let moved = setup.fakes[1].opens();
    assert!(moved.iter().all(|open| open.connection_id.0 < 10));
}

#[tokio::test]
async fn the_only_one_with_nothing_under_way_is_found() {
    let setup = Setup::with(1, by_hand).await;
    setup.fakes[0].manner(|manner| manner.holds_packets = true);
    let mut devices = setup.devices(40).await;
    for device in devices.iter_mut().skip(1) {
        device.send(&publish(QoS::AtLeastOnce, 1, b"x")).await;
    }
    let ring = setup.workers.0.ring.load_full();
    let worker = ring.workers().next().expect("one").clone();
    let chosen = choose(&setup.workers.0, &ring, &worker, 1).await;
    assert!(matches!(&chosen[..], [device] if Arc::ptr_eq(device, &devices[0].shared())));
}

#[tokio::test]
async fn a_worker_that_takes_nobody_is_left_alone() {
    let mut setup = Setup::with(1, by_hand).await;
    let mut balance = Balance::default();
    let mut devices = setup.devices(60).await;
    let joining = FakeWorker::start(&setup.store, None).await;
    joining.manner(|manner| manner.refuses = Some(RefuseReason::Overloaded));
    let listed = [&setup.fakes[0], &joining].map(|fake| (fake.address, "127.0.0.1".to_owned()));
    list(&setup.workers.0, &listed.into());
    setup.fakes.push(joining);
    setup.all_up(2).await;
    let excess = setup.excess(60, 2);
    assert_eq!(setup.look(&mut balance, 2, MAX).await, [0, excess]);
    setup.all_back(excess).await;
    assert_eq!(setup.look(&mut balance, 3, MAX).await, [0, 0, 1]);
    setup.all_back(1).await;
    assert_eq!(setup.look(&mut balance, 4, MAX).await, [0; 4]);
    for device in &mut devices {
        assert_eq!(device.publish_all(1, 1).await, [1]);
    }
    setup.fakes[1].manner(|manner| manner.refuses = None);
    assert_eq!(setup.look(&mut balance, 1, MAX).await, [1]);
    eventually("it is taken", || setup.shares().contains(&59) && setup.metric("workers_moving") == 0.0).await;
    assert_eq!(setup.look(&mut balance, 1, MAX).await, [excess - 1], "it has come to its senses");
    setup.settled(60, 2).await;
}

#[tokio::test]
async fn who_has_not_read_and_answered_what_came_stays() {
    let setup = Setup::new(1).await;
    let (mut device, _) = setup.device(7).await;
    let shared = device.shared();
    let worker = shared.lock().0.route.place().expect("a place").link.worker.clone();
    assert!(shared.mark_excess(&worker));
    setup.fakes[0].push(7, publish(QoS::AtLeastOnce, 1, b"x"));
    eventually("it has come", || !shared.mail.lock().is_empty()).await;
    assert!(!shared.mark_excess(&worker));
    assert_eq!(packet(device.next().await)[0], 0x32);
    assert!(!shared.mark_excess(&worker));
    device.send(&b"\x40\x02\0\x01"[..].into()).await;
    eventually("that is with the worker", || shared.mark_excess(&worker)).await;
    let other = Arc::new(super::super::worker::Worker::new(
        "127.0.0.1:1".parse().expect("address"),
        String::new(),
        &setup.workers.0.devices.metrics,
    ));
    assert!(!shared.mark_excess(&other));
}
