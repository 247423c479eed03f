//! Devices that leave while they have no worker, or one that does not answer.

use ::link::CloseCause;
use ::link::wire::RefuseReason;
use mqtt::QoS;

use super::Setup;
use super::device::{TestDevice, publish};
use crate::fake::{PATIENCE, eventually};

#[tokio::test]
async fn a_device_that_left_while_it_had_no_worker_is_still_told_of() {
    let mut setup = Setup::with(1, |config| config.backoff_max_ms = 125).await;
    let (mut device, _) = setup.device(7).await;
    let dead = setup.fakes.remove(0);
    let address = dead.address;
    dead.kill().await;
    eventually("it has no worker", || setup.metric("workers_moving") == 1.0).await;
    device.push(&publish(QoS::AtLeastOnce, 1, b"last")).expect("taken");
    device.close(CloseCause::Abnormal);
    assert_eq!(setup.metric("workers_closing"), 1.0);
    let again = super::FakeWorker::start_at(address, &setup.store, None).await;
    eventually("the end", || *setup.store.closed.lock() == [(7, CloseCause::Abnormal)]).await;
    assert_eq!(setup.store.published.lock()[&7], [&b"last"[..]]);
    assert_eq!(again.opens().len(), 1);
    assert_eq!(setup.workers.stop(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_device_that_leaves_while_its_move_is_refused_is_still_told_of() {
    let setup = Setup::new(1).await;
    let (device, _) = setup.device(7).await;
    setup.fakes[0].manner(|manner| manner.refuses = Some(RefuseReason::Overloaded));
    setup.fakes[0].cut();
    eventually("it was refused", || setup.fakes[0].opens().len() > 2).await;
    device.close(CloseCause::Abnormal);
    let asked = setup.fakes[0].opens().len();
    eventually("it was refused again", || setup.fakes[0].opens().len() > asked + 1).await;
    setup.fakes[0].manner(|manner| manner.refuses = None);
    eventually("the end", || *setup.store.closed.lock() == [(7, CloseCause::Abnormal)]).await;
    assert_eq!(setup.workers.stop(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_device_that_gives_up_on_a_mute_worker_is_not_kept_for_ever() {
    let setup = Setup::with(1, |config| config.handoff_timeout_ms = 1_000).await;
    setup.fakes[0].manner(|manner| manner.is_mute = true);
    let device = TestDevice::begin(&setup.workers, 7);
    eventually("it was asked for", || setup.fakes[0].opens().len() == 1).await;
    device.close(CloseCause::Abnormal);
    assert_eq!(setup.metric("workers_closing"), 1.0);
    assert_eq!(setup.workers.stop(PATIENCE).await, 0);
    assert_eq!(setup.metric("workers_closing"), 0.0);
}

// Each holds its CONNECT packet: those who connect and leave at once must not wait for the end of a time-out.
#[tokio::test]
async fn a_device_that_has_left_is_forgotten_when_nobody_is_to_be_told() {
    let mut setup = Setup::new(1).await;
    setup.fakes[0].manner(|manner| manner.is_mute = true);
    let mut device = TestDevice::begin(&setup.workers, 7);
    eventually("it was asked for", || setup.fakes[0].opens().len() == 1).await;
    let kept = std::sync::Arc::downgrade(&device.shared());
    device.close(CloseCause::Abnormal);
    assert_eq!(kept.strong_count(), 1, "its link has it");
    setup.fakes.remove(0).kill().await;
    eventually("nobody has it", || kept.strong_count() == 0).await;
}

#[tokio::test]
async fn a_device_that_leaves_while_its_stream_is_taken_from_it_is_still_told_of() {
    let setup = Setup::new(1).await;
    let (mut device, _) = setup.device(7).await;
    let shared = device.shared();
    let at = shared.lock().0.route.place().expect("a place").clone();
    // As when the link is lost and its driver has not come to this device yet.
    let left = at.link.give_up(at.stream).expect("open");
    device.close(CloseCause::Abnormal);
    assert!(shared.lost(at, left));
    setup.workers.0.devices.agenda.push([shared]);
    eventually("the end", || *setup.store.closed.lock() == [(7, CloseCause::Abnormal)]).await;
}

#[tokio::test]
async fn a_device_that_gave_up_is_forgotten_also_when_a_link_came_up_meanwhile() {
    let setup = Setup::with(1, |config| config.handoff_timeout_ms = 1_000).await;
    setup.fakes[0].manner(|manner| manner.is_mute = true);
    let device = TestDevice::begin(&setup.workers, 7);
    eventually("it was asked for", || setup.fakes[0].opens().len() == 1).await;
    device.close(CloseCause::Abnormal);
    setup.workers.0.devices.agenda.hurry();
    eventually("it was looked at", || setup.workers.0.devices.agenda.is_idle()).await;
    assert_eq!(setup.workers.stop(PATIENCE).await, 0);
}
