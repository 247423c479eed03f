//! Will Messages: when they are published and when not, section 3.1.2.5 and the note in 3.1.4.

use std::time::Duration;

use broker::BrokerConfig;
use mqtt::QoS;
use state::{Due, MemoryStore, Store};

use crate::device::{Got, How, World};

/// Whether a Will is to be published some time.
pub(crate) fn has_will(world: &World) -> bool {
    let (tx, rx) = std::sync::mpsc::channel();
    world.store.claim_due(u64::MAX / 2, 10, Box::new(move |due| tx.send(due.unwrap()).unwrap()));
    rx.recv().unwrap().iter().any(|due| matches!(due, Due::Will(..)))
}

#[tokio::test]
async fn a_will_is_published_when_the_connection_is_lost_and_not_after_disconnect() {
    let world = World::new().await;
    let mut watcher = world.connect(&How::clean("watcher"));
    watcher.subscribe("will/#", 1);
    watcher.drain();
    for how in [How::clean("c"), How::stored("s")] {
        let how = How { will: Some(("will/x", 0)), ..how };
        world.connect(&how).disconnect();
        // v5 [MQTT-3.14.4-3]
        assert!(watcher.payloads().is_empty());
        world.connect(&how).lose();
        assert_eq!(watcher.payloads(), [b"gone"]);
    }
}

#[tokio::test]
async fn a_delayed_will_is_published_after_its_delay_and_only_once() {
    let world = World::new().await;
    let mut watcher = world.connect(&How::clean("watcher"));
    watcher.subscribe("will/#", 0);
    watcher.drain();
    world.connect(&How { will: Some(("will/x", 1)), ..How::stored("s") }).lose();
    assert!(watcher.payloads().is_empty());
    assert!(matches!(watcher.wait().await, Got::Publish { .. }));
    assert!(!has_will(&world), "none is left");
    assert!(watcher.payloads().is_empty());
}

// v5 [MQTT-3.1.3-9]
#[tokio::test]
async fn coming_back_before_the_delay_has_passed_cancels_the_will() {
    let world = World::new().await;
    let mut watcher = world.connect(&How::clean("watcher"));
    watcher.subscribe("will/#", 0);
    watcher.drain();
    let how = How { will: Some(("will/x", 100)), ..How::stored("s") };
    world.connect(&how).lose();
    let _back = world.connect(&how);
    assert!(!has_will(&world));
    assert!(watcher.payloads().is_empty());
}

#[tokio::test]
async fn a_takeover_publishes_the_will_unless_it_is_delayed_and_the_session_goes_on() {
    let cases = [
        // delay, clean start of the new connection, published
        (0, false, true),
        (0, true, true),
        (100, true, true),
        (100, false, false),
    ];
    for (delay, clean_start, published) in cases {
        let world = World::new().await;
        let mut watcher = world.connect(&How::clean("watcher"));
        watcher.subscribe("will/#", 0);
        watcher.drain();
        let old = How { will: Some(("will/x", delay)), ..How::stored("s") };
        let mut first = world.connect(&old);
        let _second = world.connect(&How { clean_start, ..How::stored("s") });
        first.pump();
        assert_eq!(!watcher.payloads().is_empty(), published, "delay {delay}, clean start {clean_start}");
    }
}

#[tokio::test]
async fn a_refused_will_does_not_cost_the_session_its_owner() {
    let world = World::new().await;
    let mut owner = world.connect(&How::stored("s"));
    owner.subscribe("t", 1);
    owner.drain();
    let deep = "x/".repeat(200);
    let mut refused = world.connect(&How { will: Some((&deep, 0)), ..How::stored("s") });
    assert_eq!(refused.got(), Some(Got::ConnAck { session_present: false, code: 0x90 }));
    assert!(refused.closed.is_some());
    drop(refused);
    owner.pump();
    assert!(owner.closed.is_none());
    owner.lose();
    assert_eq!(world.connect(&How::stored("s")).got(), Some(Got::ConnAck { session_present: true, code: 0 }));
}

// Section 3.1.4: the takeover decides about the Will, and the loss of the old connection adds none.
#[tokio::test]
async fn a_will_is_published_once_when_the_connection_is_lost_during_its_takeover() {
    for clean_start in [false, true] {
        let world = World::new().await;
        let mut watcher = world.connect(&How::clean("watcher"));
        watcher.subscribe("will/#", 0);
        watcher.drain();
        let mut old = world.connect(&How { will: Some(("will/x", 0)), ..How::stored("s") });
        world.store.hold();
        let _new = world.connect(&How { clean_start, ..How::stored("s") });
        old.lose();
        world.store.let_go();
        assert_eq!(watcher.payloads(), [b"gone"], "clean start {clean_start}");
    }
}

#[tokio::test]
async fn a_will_that_cannot_be_retained_is_published_only_once() {
    let world = World::with(
        BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() },
        MemoryStore::with_limits(u64::MAX, usize::MAX, 1, u64::MAX),
    )
    .await;
    let mut watcher = world.connect(&How::clean("watcher"));
    watcher.subscribe("will/#", 0);
    watcher.drain();
    watcher.publish("other", b"retained", QoS::AtLeastOnce, true);
    world.connect(&How { will: Some(("will/x", 1)), will_retain: true, ..How::stored("s") }).lose();
    let published = async {
        while watcher.payloads().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), published).await.expect("the Will is published");
    // The store gives a Will that is not finished again after a while.
    assert!(!has_will(&world));
}

// ARCHITECTURE, rule 26: its worker may die before it is where it must be, and then another one publishes it.
#[tokio::test]
async fn a_will_stays_with_the_store_until_it_was_published() {
    let world = World::new().await;
    let mut watcher = world.connect(&How::stored("watcher"));
    watcher.subscribe("will/#", 1);
    watcher.drain();
    let mut device = world.connect(&How { will: Some(("will/x", 0)), ..How::stored("s") });
    let has_will = |world: &World| {
        let (tx, rx) = std::sync::mpsc::channel();
        world.store.claim_due(u64::MAX / 2, 10, Box::new(move |due| tx.send(due.unwrap()).unwrap()));
        rx
    };
    let is_will = |due: &Due| matches!(due, Due::Will(..));
    world.store.hold();
    device.lose();
    // The session is let go, the Will is handed out; that it is in the queue is not answered yet.
    assert!(world.store.step() && world.store.step());
    let early = has_will(&world);
    world.store.let_go();
    assert!(early.recv().unwrap().iter().any(is_will));
    assert!(!has_will(&world).recv().unwrap().iter().any(is_will));
}

// v5 [MQTT-3.8.3-3]
#[tokio::test]
async fn a_will_does_not_go_to_its_own_client_with_no_local() {
    let world = World::new().await;
    let how = How { will: Some(("will/x", 0)), ..How::stored("s") };
    let mut client = world.connect(&how);
    client.subscribe("will/#", 0b101);
    client.lose();
    let mut other = world.connect(&How::clean("other"));
    other.publish("will/y", b"heard", QoS::AtLeastOnce, false);
    assert_eq!(world.connect(&how).payloads(), [b"heard"]);
}
