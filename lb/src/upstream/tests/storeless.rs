//! Workers that say that they are without their store.

use tokio::time::Duration;

use super::Setup;
use super::device::TestDevice;
use crate::fake::eventually;

const MOVED: &str = "workers_moves_total{reason=\"store_away\",outcome=\"moved\"}";

async fn devices(setup: &Setup, count: u128) -> Vec<(TestDevice, usize)> {
    let mut devices = Vec::new();
    for connection in 0..count {
        devices.push(setup.device(connection).await);
    }
    devices
}

// CORRECTNESS 38.
#[tokio::test]
async fn devices_of_a_worker_without_its_store_go_to_one_that_has_it() {
    let setup = Setup::new(3).await;
    let mut devices = devices(&setup, 40).await;
    let there = devices.iter().filter(|(_, place)| *place == 0).count();
    assert!(there > 3);
    // What is sent to it meanwhile gets no answer there.
    setup.fakes[0].manner(|manner| manner.holds_packets = true);
    setup.fakes[0].tell_store(true);
    for (device, _) in &mut devices {
        assert_eq!(device.publish_all(5, 5).await, vec![1; 5]);
    }
    assert_eq!(setup.metric(MOVED) as usize, there, "only those that were there");
    assert!(setup.store.closed.lock().is_empty());
    // Who comes now is served elsewhere.
    let before = setup.fakes[0].opens().len();
    for connection in 100..120 {
        drop(TestDevice::connect(&setup.workers, connection).await);
    }
    assert_eq!(setup.fakes[0].opens().len(), before);
    setup.fakes[0].manner(|manner| manner.holds_packets = false);
    setup.fakes[0].tell_store(false);
    setup.all_up(3).await;
    for connection in 200..240 {
        drop(TestDevice::connect(&setup.workers, connection).await);
    }
    assert!(setup.fakes[0].opens().len() > before, "it serves again");
}

#[tokio::test]
async fn when_no_worker_has_its_store_devices_stay_where_they_are() {
    let setup = Setup::new(2).await;
    let devices = devices(&setup, 20).await;
    setup.fakes[0].tell_store(true);
    setup.fakes[1].tell_store(true);
    eventually("both are known to be without", || setup.metric("workers_healthy") == 0.0).await;
    // Longer than one that is alone waits.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    // One has it first.
    setup.fakes[0].tell_store(false);
    eventually("one has it", || setup.metric("workers_healthy") == 1.0).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    setup.fakes[1].tell_store(false);
    eventually("both have it", || setup.metric("workers_healthy") == 2.0).await;
    assert_eq!(setup.metric("workers_moves_total"), 0.0);
    assert_eq!(setup.fakes.iter().map(|fake| fake.opens().len()).sum::<usize>(), devices.len());
}
