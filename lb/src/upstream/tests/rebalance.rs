//! Sessions that are moved so that every worker has its share.

use std::sync::Arc;

use ::link::wire::RefuseReason;
use mqtt::QoS;
use tokio::time::{Duration, sleep};

use super::device::{TestDevice, publish};
use super::worker::FakeWorker;
use super::{Setup, packet};
use crate::fake::eventually;

/// Some ticks.
const A_WHILE: Duration = Duration::from_millis(3_500);

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
        self.workers.0.found(&listed);
        self.all_up(self.fakes.len()).await;
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

#[tokio::test]
async fn workers_that_join_and_come_back_are_given_the_excess_and_not_more() {
    const DEVICES: usize = 120;
    let mut setup = Setup::with(2, |config| config.backoff_max_ms = 125).await;
    let mut devices = setup.devices(DEVICES as u128).await;
    sleep(A_WHILE).await;
    assert_eq!(setup.rebalanced(), 0.0, "they are even");

    setup.join().await;
    let mut expected = setup.excess(DEVICES, 3);
    assert!(expected >= 20, "{expected}");
    setup.settled(DEVICES, 3).await;
    sleep(A_WHILE).await;
    assert_eq!(setup.rebalanced(), expected as f64);

    // One leaves for a while. What the others got of it they give back, as far as it is too much.
    let gone = setup.fakes.remove(0);
    let address = gone.address;
    gone.kill().await;
    setup.settled(DEVICES, 2).await;
    setup.fakes.push(FakeWorker::start_at(address, &setup.store, None).await);
    setup.all_up(3).await;
    expected += setup.excess(DEVICES, 3);
    setup.settled(DEVICES, 3).await;
    sleep(A_WHILE).await;
    assert_eq!(setup.rebalanced(), expected as f64);

    for device in &mut devices {
        assert_eq!(device.publish_all(3, 2).await, [1; 3]);
    }
    assert!(setup.store.closed.lock().is_empty());
}

#[tokio::test]
async fn those_whose_place_is_at_the_worker_that_joined_go_first() {
    let mut setup = Setup::new(1).await;
    let _devices = setup.devices(100).await;
    setup.join().await;
    setup.settled(100, 2).await;
    let ring = setup.workers.0.ring.load_full();
    let joined = setup.fakes.last().expect("it");
    for open in joined.opens() {
        let client_id = format!("device-{}", open.connection_id.0);
        let best = ring.candidates(&client_id).next().expect("one");
        assert_eq!(best.address, joined.address, "{client_id}");
    }
}

#[tokio::test]
async fn moves_are_paced() {
    let mut setup = Setup::with(1, |config| config.rebalance_per_s = 5).await;
    let _devices = setup.devices(60).await;
    setup.join().await;
    eventually("the first are moved", || setup.rebalanced() == 5.0).await;
    sleep(Duration::from_millis(600)).await;
    assert_eq!(setup.rebalanced(), 5.0);
    eventually("the next are moved", || setup.rebalanced() == 10.0).await;
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let mut setup = Setup::with(1, |config| config.rebalance_per_s = 0).await;
    let _devices = setup.devices(20).await;
    setup.join().await;
    sleep(A_WHILE).await;
    assert_eq!(setup.rebalanced(), 0.0);
}

#[tokio::test]
async fn who_has_something_under_way_stays() {
    let mut setup = Setup::new(1).await;
    setup.fakes[0].manner(|manner| manner.holds_packets = true);
    let mut devices = setup.devices(40).await;
    for device in devices.iter_mut().skip(10) {
        device.send(&publish(QoS::AtLeastOnce, 1, b"x")).await;
    }
    eventually("they have come", || (10..40).all(|number| setup.fakes[0].packets(number).len() == 1)).await;
    setup.join().await;
    assert_eq!(setup.excess(40, 2), 15);
    eventually("the idle ones have moved", || setup.rebalanced() == 10.0).await;
    sleep(A_WHILE).await;
    assert_eq!(setup.rebalanced(), 10.0);
    let moved = setup.fakes[1].opens();
    assert!(moved.iter().all(|open| open.connection_id.0 < 10));
}

#[tokio::test]
async fn a_worker_that_takes_nobody_is_left_alone() {
    let mut setup = Setup::with(1, |config| config.backoff_max_ms = 125).await;
    let mut devices = setup.devices(60).await;
    let joining = FakeWorker::start(&setup.store, None).await;
    joining.manner(|manner| manner.refuses = Some(RefuseReason::Overloaded));
    let listed = [&setup.fakes[0], &joining].map(|fake| (fake.address, "127.0.0.1".to_owned()));
    setup.workers.0.found(&listed.into());
    setup.fakes.push(joining);
    setup.all_up(2).await;
    let asked = |setup: &Setup| {
        let opens = setup.fakes[1].opens();
        opens.iter().map(|open| open.connection_id.0).collect::<std::collections::BTreeSet<_>>().len()
    };
    eventually("it was asked", || asked(&setup) > 0).await;
    eventually("all are back", || setup.metric("workers_moving") == 0.0 && setup.shares().contains(&60))
        .await;
    let before = asked(&setup);
    sleep(A_WHILE).await;
    assert!(asked(&setup) <= before + 1, "{before} and {}", asked(&setup));
    for device in &mut devices {
        assert_eq!(device.publish_all(1, 1).await, [1]);
    }
    setup.fakes[1].manner(|manner| manner.refuses = None);
    setup.settled(60, 2).await;
}

#[tokio::test]
async fn who_has_not_read_and_answered_what_came_stays() {
    let setup = Setup::new(1).await;
    let (mut device, _) = setup.device(7).await;
    let shared = device.shared();
    let worker = shared.route.lock().place.as_ref().expect("a place").link.worker.clone();
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
        &setup.workers.0.metrics,
    ));
    assert!(!shared.mark_excess(&other));
}
