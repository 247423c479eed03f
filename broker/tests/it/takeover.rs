//! The index against the store where connections overlap, and answers that come when nobody waits for them any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use link::{Outgoing, Stream};
use mqtt::{QoS, ReasonCode};

use crate::device::{Device, Got, How, World};

/// The Reason Code of the PUBACK for a message to `topic`.
fn puback(publisher: &mut Device, topic: &str) -> u8 {
    publisher.drain();
    publisher.publish(topic, b"x", QoS::AtLeastOnce, false);
    let Some(Got::Other { first_byte: 0x40, body }) = publisher.drain().pop() else { panic!("no PUBACK") };
    body.get(2).copied().unwrap_or(0)
}

// v5 [MQTT-3.10.4-2]
#[tokio::test]
async fn unsubscribing_before_suback_leaves_no_subscription_behind() {
    let world = World::new().await;
    let mut device = world.connect(&How::stored("device"));
    world.store.hold();
    device.subscribe("t", 1);
    device.unsubscribe("t");
    world.store.let_go();
    assert_eq!(device.drain().len(), 3, "CONNACK, SUBACK, UNSUBACK");
    let mut publisher = world.connect(&How::clean("publisher"));
    assert_eq!(puback(&mut publisher, "t"), ReasonCode::NoMatchingSubscribers as u8);
    assert!(device.payloads().is_empty());
}

#[tokio::test]
async fn a_subscription_counts_although_its_connection_was_lost_before_suback() {
    let world = World::new().await;
    let mut device = world.connect(&How::stored("device"));
    device.subscribe("first", 1);
    world.store.hold();
    device.subscribe("second", 1);
    device.lose();
    world.store.let_go();
    let mut device = world.connect(&How::stored("device"));
    let mut publisher = world.connect(&How::clean("publisher"));
    assert_eq!(puback(&mut publisher, "second"), 0);
    assert_eq!(device.payloads(), [b"x"]);
}

#[tokio::test]
async fn a_connection_that_was_taken_over_cannot_unsubscribe_the_new_one() {
    let world = World::new().await;
    let mut old = world.connect(&How::stored("device"));
    old.subscribe("t", 1);
    let mut new = world.connect(&How::stored("device"));
    new.drain();
    // It has not been polled since, so it does not know.
    old.unsubscribe("t");
    assert_eq!(old.closed, Some(ReasonCode::SessionTakenOver));
    let mut publisher = world.connect(&How::clean("publisher"));
    assert_eq!(puback(&mut publisher, "t"), 0);
    assert_eq!(new.payloads(), [b"x"]);
}

#[tokio::test]
async fn a_late_disconnect_of_a_connection_that_was_taken_over_ends_nothing() {
    let world = World::new().await;
    let mut old = world.connect(&How::stored("device"));
    old.subscribe("t", 1);
    let mut new = world.connect(&How::stored("device"));
    new.drain();
    // DISCONNECT with Session Expiry Interval 0.
    old.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    let mut publisher = world.connect(&How::clean("publisher"));
    assert_eq!(puback(&mut publisher, "t"), 0);
    assert_eq!(new.payloads(), [b"x"]);
    let mut third = world.connect(&How::stored("device"));
    new.pump();
    assert_eq!(new.closed, Some(ReasonCode::SessionTakenOver));
    assert_eq!(third.got(), Some(Got::ConnAck { session_present: true, code: 0 }));
}

#[tokio::test]
async fn an_old_connection_leaves_no_subscription_of_a_discarded_session_behind() {
    let world = World::new().await;
    let mut device = world.connect(&How::stored("device"));
    device.subscribe("t", 1);
    world.store.hold();
    device.subscribe("u", 1);
    let mut clean = world.connect(&How { clean_start: true, ..How::stored("device") });
    world.store.let_go();
    device.pump();
    clean.drain();
    let mut publisher = world.connect(&How::clean("publisher"));
    for topic in ["t", "u"] {
        assert_eq!(puback(&mut publisher, topic), ReasonCode::NoMatchingSubscribers as u8, "{topic}");
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_device_that_does_not_read_learns_of_its_takeover_and_is_woken_by_nothing_else() {
    let world = World::new().await;
    let mut old = world.connect(&How::stored("device"));
    old.subscribe("t", 1);
    old.drain();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let (mut cx, mut out) = (Context::from_waker(&waker), Outgoing::new());
    let stream = old.stream.as_mut().unwrap();
    assert!(stream.poll_end(&mut cx, &mut out).is_pending());
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("t", b"x", QoS::AtLeastOnce, false);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    let _new = world.connect(&How::stored("device"));
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    let ended = stream.poll_end(&mut cx, &mut out);
    assert_eq!(ended, Poll::Ready(ReasonCode::SessionTakenOver));
    assert_eq!(out.chunk()[0], 0xe0);
    let mut idle = world.connect(&How::clean("idle"));
    let stream = idle.stream.as_mut().unwrap();
    assert!(stream.poll_end(&mut cx, &mut out).is_pending());
    world.broker.end_connections(ReasonCode::ServerShuttingDown);
    assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    assert_eq!(stream.poll_end(&mut cx, &mut out), Poll::Ready(ReasonCode::ServerShuttingDown));
}
