//! What one connection of a client said last, before what the next one of it asks for: ARCHITECTURE, rules 32 and 33.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use broker::{BrokerConfig, ClusterSettings, LinkConfig};
use link::{CloseCause, Stream as _};
use mqtt::QoS;
use state::{MemoryCluster, MemoryStore};

use crate::device::{Device, Got, How, World};
use crate::edge::{Edge, Worker};
use crate::moody::{Asked, Moody};

/// A device with a Will, which may come back within the hour.
pub(crate) const DEVICE: How<'_> = How {
    client_id: "device",
    subject: "",
    clean_start: false,
    expiry_s: 3600,
    will: Some(("will/x", 0)),
    will_retain: false,
    receive_maximum: 10,
};

/// A worker whose store takes what it is told to take, and somebody who watches for Wills.
async fn world(takes: impl Fn(Asked) -> bool + Send + Sync + 'static) -> (World, Device) {
    let inner = MemoryStore::new();
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(Moody::new(inner.clone(), takes)), inner).await;
    let mut watcher = world.connect(&How::clean("watcher"));
    watcher.subscribe("will/#", 0);
    watcher.drain();
    (world, watcher)
}

// v5 [MQTT-3.14.4-3]
#[tokio::test]
async fn a_disconnect_waits_for_no_message() {
    let is_away = Arc::new(AtomicBool::new(false));
    let mood = Arc::clone(&is_away);
    let (world, mut watcher) =
        world(move |asked| asked != Asked::Publish || !mood.load(Ordering::Relaxed)).await;
    let mut subscriber = world.connect(&How::stored("subscriber"));
    subscriber.subscribe("t", 1);
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    is_away.store(true, Ordering::Relaxed);
    publisher.publish("t", b"x", QoS::AtLeastOnce, false);
    assert!(publisher.drain().is_empty(), "it waits");
    world.connect(&DEVICE).disconnect();
    let mut back = world.connect(&DEVICE);
    assert_eq!(back.wait().await, Got::ConnAck { session_present: true, code: 0 });
    assert!(watcher.payloads().is_empty());
    is_away.store(false, Ordering::Relaxed);
    assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, .. }));
}

// v5 [MQTT-3.14.4-3]
#[tokio::test]
async fn a_disconnect_that_the_store_did_not_take_comes_before_the_next_connect() {
    let refusals = AtomicUsize::new(3);
    let refuses = move || refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    let (world, mut watcher) = world(move |asked| asked != Asked::Release || refuses().is_err()).await;
    for _ in 0..2 {
        world.connect(&DEVICE).disconnect();
        let mut back = world.connect(&DEVICE);
        assert_eq!(back.wait().await, Got::ConnAck { session_present: true, code: 0 });
        back.disconnect();
    }
    // Its Session Expiry Interval counts too: DISCONNECT with 0.
    let mut last = world.connect(&DEVICE);
    last.wait().await;
    last.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    let mut back = world.connect(&DEVICE);
    assert_eq!(back.wait().await, Got::ConnAck { session_present: false, code: 0 });
    assert!(watcher.payloads().is_empty());
}

#[tokio::test]
async fn a_connect_whose_device_has_gone_is_not_carried_out_later() {
    let is_away = Arc::new(AtomicBool::new(false));
    let claims = Arc::new(AtomicUsize::new(0));
    let (mood, counted) = (Arc::clone(&is_away), Arc::clone(&claims));
    let (world, mut watcher) = world(move |asked| {
        counted.fetch_add(usize::from(asked == Asked::Claim), Ordering::Relaxed);
        asked != Asked::Release || !mood.load(Ordering::Relaxed)
    })
    .await;
    is_away.store(true, Ordering::Relaxed);
    world.connect(&DEVICE).disconnect();
    let before = claims.load(Ordering::Relaxed);
    let mut gone = world.connect(&DEVICE);
    assert!(gone.drain().is_empty(), "what it asks waits");
    gone.lose();
    is_away.store(false, Ordering::Relaxed);
    let mut back = world.connect(&DEVICE);
    assert_eq!(back.wait().await, Got::ConnAck { session_present: true, code: 0 });
    assert_eq!(claims.load(Ordering::Relaxed), before + 1, "nobody asked for the one that has gone");
    assert!(watcher.payloads().is_empty());
}

#[tokio::test]
async fn a_connect_without_connack_leaves_no_will() {
    for clean_start in [false, true] {
        let (world, mut watcher) = world(|_| true).await;
        world.store.hold();
        let how = How { clean_start, ..DEVICE };
        let mut device = world.connect(&how);
        assert!(device.drain().is_empty());
        device.stream.take().unwrap().close(CloseCause::Unanswered);
        world.store.let_go();
        assert!(watcher.payloads().is_empty(), "{clean_start}");
        let mut back = world.connect(&how);
        assert!(matches!(back.wait().await, Got::ConnAck { code: 0, .. }));
        assert!(watcher.payloads().is_empty(), "{clean_start}");
        back.lose();
        assert_eq!(watcher.payloads(), [b"gone"], "{clean_start}");
    }
}

/// A device at one edge has said this, and its edge not handed it over, when it connects at another edge. What came of it.
async fn taken_over_at_another_edge(says: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
    let cluster = MemoryCluster::new();
    let worker = Worker::sharing(&cluster, LinkConfig::default(), ClusterSettings::default()).await;
    let mut one = Edge::dial(&worker).await;
    let mut two = Edge::dial(&worker).await;
    two.connect(&How::clean("watcher")).await;
    two.subscribe("watcher", 1, "#", 0);
    two.drain("watcher").await;
    one.connect(&DEVICE).await;
    one.device_mut("device").yields_at_once = false;
    two.connect(&DEVICE).await;
    one.until("the question", |edge| edge.device("device").is_asked_to_yield).await;
    assert!(one.device("device").closed.is_none());
    for packet in says {
        one.send("device", packet);
    }
    one.close("device");
    one.until("the end", |edge| edge.device("device").is_finished).await;
    let mut payloads = Vec::new();
    for got in two.drain("watcher").await {
        if let Got::Publish { payload, .. } = got {
            payloads.push(payload);
        }
    }
    (payloads, two.devices.len())
}

#[tokio::test]
async fn what_the_edge_of_a_connection_still_holds_counts_when_another_edge_has_the_device() {
    let (publish, disconnect) = (b"\x30\x05\0\x01t\0x", b"\xe0\0");
    let (payloads, _) = taken_over_at_another_edge(&[publish, disconnect]).await;
    assert_eq!(payloads, [b"x"], "the message, and no Will");
    let (payloads, _) = taken_over_at_another_edge(&[]).await;
    assert_eq!(payloads, [b"gone"], "it has not said DISCONNECT");
    // With Reason Code 0x04 the Will is wanted.
    let (payloads, _) = taken_over_at_another_edge(&[b"\xe0\x01\x04"]).await;
    assert_eq!(payloads, [b"gone"]);
}
