//! The index against the store where connections overlap, and answers that come when nobody waits for them any more.

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
