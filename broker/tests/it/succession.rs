//! What one connection of a client said last, before what the next one of it asks for: ARCHITECTURE, rules 32 and 33.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker::{BrokerConfig, ClusterSettings, LinkConfig};
use link::{CloseCause, Stream as _};
use mqtt::QoS;
use state::{MemoryCluster, MemoryStore};
use testkit::front::Asked;

use crate::device::{Device, Got, How, World};
use crate::edge::{Edge, Worker, sign};
use crate::moody::Moody;

/// A device with a Will, which may come back within the hour.
pub(crate) const DEVICE: How<'_> = How {
    client_id: "device",
    subject: "",
    clean_start: false,
    expiry_s: 3600,
    will: Some(("will/x", 0)),
    will_retain: false,
    will_qos: QoS::AtLeastOnce,
    will_expiry_s: None,
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

const SAYS_OLD: &[u8] = b"\x30\x07\0\x01t\0old";
const DISCONNECT: &[u8] = b"\xe0\0";

/// A worker, somebody who listens to everything, and edges without devices.
struct Edges {
    _worker: Worker,
    watcher: Edge,
    all: Vec<Edge>,
}

impl Edges {
    async fn dial(count: usize) -> Self {
        let cluster = MemoryCluster::new();
        let worker = Worker::sharing(&cluster, LinkConfig::default(), ClusterSettings::default()).await;
        let mut watcher = Edge::dial(&worker).await;
        watcher.connect(&How::clean("watcher")).await;
        watcher.subscribe("watcher", 1, "#", 0);
        watcher.drain("watcher").await;
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Edge::dial(&worker).await);
        }
        Self { _worker: worker, watcher, all }
    }

    /// The device connects at the first edge, then at the others, one after the other, and publishes the number of each before
    /// it has its CONNACK there. No edge answers when it is asked to yield.
    async fn come_and_go(&mut self, how: &How<'_>) {
        for (number, edge) in self.all.iter_mut().enumerate() {
            edge.open(how, sign(&how.passport()));
            edge.device_mut("device").yields_at_once = false;
            match number {
                0 => edge.until("CONNACK", |edge| edge.device("device").connack.is_some()).await,
                _ => {
                    edge.publish("device", 0, 0, "t", number.to_string().as_bytes());
                    edge.settle().await;
                }
            }
        }
        let is_asked = |edge: &Edge| edge.device("device").is_asked_to_yield;
        self.all[0].until("the question", is_asked).await;
        for edge in &mut self.all[1..] {
            edge.settle().await;
        }
    }

    fn is_served(&self, edge: usize) -> bool {
        self.all[edge].device("device").connack.is_some()
    }

    async fn be_served(&mut self, edge: usize) {
        let is_served = |edge: &Edge| edge.device("device").connack.is_some();
        self.all[edge].until("CONNACK", is_served).await;
        self.all[edge].settle().await;
    }

    /// What the first edge still held, and the end.
    async fn hand_over(&mut self, says: &[&[u8]]) {
        let edge = &mut self.all[0];
        assert!(edge.device("device").closed.is_none());
        for packet in says {
            edge.send("device", packet);
        }
        edge.close("device");
        edge.until("the end", |edge| edge.device("device").is_finished).await;
    }

    /// The device leaves an edge in good order.
    async fn go(&mut self, edge: usize) {
        self.all[edge].send("device", DISCONNECT);
        self.all[edge].close("device");
        self.all[edge].settle().await;
    }

    async fn heard(&mut self) -> Vec<String> {
        let mut heard = Vec::new();
        for got in self.watcher.drain("watcher").await {
            if let Got::Publish { payload, .. } = got {
                heard.push(String::from_utf8(payload).unwrap());
            }
        }
        heard
    }
}

#[tokio::test]
async fn what_the_edge_of_a_connection_still_holds_counts_when_another_edge_has_the_device() {
    for expiry_s in [0, 3600] {
        let how = How { clean_start: expiry_s == 0, expiry_s, ..DEVICE };
        let said: [(&[&[u8]], _); 3] = [
            (&[SAYS_OLD, DISCONNECT], ["old", "1"]),
            // It has not said DISCONNECT.
            (&[], ["gone", "1"]),
            // With Reason Code 0x04 the Will is wanted.
            (&[b"\xe0\x01\x04"], ["gone", "1"]),
        ];
        for (says, expected) in said {
            let mut edges = Edges::dial(2).await;
            edges.come_and_go(&how).await;
            assert!(!edges.is_served(1), "not before the other one is over");
            edges.hand_over(says).await;
            edges.be_served(1).await;
            assert_eq!(edges.heard().await, expected, "{expiry_s}");
        }
    }
}

// What is acknowledged comes again on the other connection, what is not is carried out here.
#[tokio::test]
async fn what_comes_by_a_topic_alias_goes_where_the_message_before_it_has_set_it() {
    let by_alias = b"\x30\x09\0\0\x03\x23\0\x01old";
    let sets_it = b"\x32\x0a\0\x01t\0\x07\x03\x23\0\x01x";
    let had_set_it = b"\x30\x08\0\x01u\x03\x23\0\x01u";
    let said: [(&[&[u8]], &[_]); 2] = [
        (&[had_set_it, sets_it, by_alias, DISCONNECT], &[("u", "u"), ("t", "old"), ("t", "1")]),
        (&[sets_it, by_alias, DISCONNECT], &[("t", "old"), ("t", "1")]),
    ];
    for (says, expected) in said {
        let mut edges = Edges::dial(2).await;
        edges.come_and_go(&DEVICE).await;
        edges.hand_over(says).await;
        edges.be_served(1).await;
        let heard = edges.watcher.drain("watcher").await;
        let message = |got: &Got| match got {
            Got::Publish { topic, payload, .. } => {
                Some((topic.clone(), String::from_utf8_lossy(payload).into()))
            }
            _ => None,
        };
        let heard: Vec<(_, String)> = heard.iter().filter_map(message).collect();
        let expected: Vec<_> =
            expected.iter().map(|(topic, text)| (topic.to_string(), text.to_string())).collect();
        assert_eq!(heard, expected);
    }
}

#[tokio::test]
async fn a_device_waits_for_the_edge_that_it_came_from_no_longer_than_a_second() {
    let mut edges = Edges::dial(2).await;
    edges.come_and_go(&DEVICE).await;
    let before = Instant::now();
    edges.be_served(1).await;
    let took = before.elapsed();
    // A stream that does not yield is ended after two seconds at the earliest.
    assert!(took > Duration::from_millis(500) && took < Duration::from_millis(1800), "{took:?}");
    assert_eq!(edges.heard().await, ["1"]);
    // Its Will still waits for how that connection ends.
    edges.hand_over(&[SAYS_OLD, DISCONNECT]).await;
    assert!(edges.heard().await.is_empty(), "it would come behind a newer one");
}

#[tokio::test]
async fn connections_at_three_edges_follow_each_other_though_one_goes_before_it_was_served() {
    for goes_early in [false, true] {
        let mut edges = Edges::dial(3).await;
        edges.come_and_go(&DEVICE).await;
        if goes_early {
            edges.go(1).await;
        }
        edges.all[2].settle().await;
        assert!(!edges.is_served(1) && !edges.is_served(2));
        edges.hand_over(&[SAYS_OLD, DISCONNECT]).await;
        if !goes_early {
            edges.be_served(1).await;
            edges.all[2].settle().await;
            assert!(!edges.is_served(2));
            edges.go(1).await;
        }
        edges.all[1].until("the end", |edge| edge.device("device").is_finished).await;
        edges.be_served(2).await;
        assert_eq!(edges.heard().await, ["old", "1", "2"], "{goes_early}");
    }
}

#[tokio::test]
async fn who_waits_for_one_that_waits_is_served_though_that_one_is_lost() {
    let mut edges = Edges::dial(3).await;
    edges.come_and_go(&DEVICE).await;
    edges.all.remove(1).cut();
    edges.all[1].settle().await;
    assert!(!edges.is_served(1));
    edges.hand_over(&[SAYS_OLD, DISCONNECT]).await;
    edges.be_served(1).await;
    assert_eq!(edges.heard().await, ["old", "2"]);
}

#[tokio::test]
async fn nobody_waits_for_an_edge_whose_link_is_over() {
    let mut edges = Edges::dial(2).await;
    edges.come_and_go(&DEVICE).await;
    edges.all.remove(0).cut();
    let before = Instant::now();
    edges.be_served(0).await;
    assert!(before.elapsed() < Duration::from_millis(900), "{:?}", before.elapsed());
}
