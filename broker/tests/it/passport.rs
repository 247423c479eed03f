//! Passports that are renewed while their devices are connected: what they allow counts from then on, for what was asked before
//! too. Authorization is looked at on PUBLISH, SUBSCRIBE and for the Will, and again with every renewal.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use broker::{ClusterSettings, LinkConfig};
use link::wire::RefuseReason;
use link::{Action, Effect, Passport, Rule, Stream};
use mqtt::ReasonCode;
use state::{MemoryCluster, MemoryStore};

use crate::device::{Got, How, World};
use crate::edge::{Edge, Worker, sign};
use crate::handoff::Clock;

fn allowing(client_id: &str, topics: &[&str]) -> Passport {
    let topics = topics.iter().map(|topic| (*topic).into()).collect();
    let rule = Rule::new(Effect::Allow, Action::All, topics);
    Passport { rules: [rule].into(), ..Passport::unrestricted("".into(), client_id.into()) }
}

fn now_s() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn suback(id: u8, code: u8) -> Got {
    Got::Other { first_byte: 0x90, body: vec![0, id, 0, code] }
}

fn publish(topic: &str, payload: &[u8]) -> Got {
    Got::Publish { topic: topic.into(), payload: payload.into(), qos: 0, dup: false, retain: false, id: None }
}

/// What one device is left with when its passport allows `a/#` and no longer `b/#`.
async fn narrow(worker: &Worker, how: &How<'_>) {
    let mut edge = Edge::dial(worker).await;
    edge.connect(&How::clean("publisher")).await;
    edge.connect(how).await;
    for (id, filter) in [(1, "a/#"), (2, "b/x"), (3, "+/x")] {
        edge.subscribe("device", id, filter, 0);
        assert_eq!(edge.got("device").await, suback(id, 0));
    }
    edge.renew("device", sign(&allowing("device", &["a/#"])));
    // Answered when the renewal has had its effect, 0x87: not authorized.
    edge.subscribe("device", 4, "b/x", 0);
    assert_eq!(edge.got("device").await, suback(4, 0x87));
    edge.publish("device", 1, 5, "b/x", b"mine");
    assert_eq!(edge.got("device").await, Got::Other { first_byte: 0x40, body: vec![0, 5, 0x87] });
    for topic in ["b/x", "a/x"] {
        edge.publish("publisher", 1, 6, topic, b"x");
        edge.got("publisher").await;
    }
    // `+/x` went too: it could match what is not allowed.
    assert_eq!(edge.got("device").await, publish("a/x", b"x"));
    assert_eq!(edge.drain("device").await, []);
    // A passport that allows more again brings nothing back, but allows to ask.
    edge.renew("device", sign(&allowing("device", &["#"])));
    edge.publish("publisher", 1, 7, "b/x", b"y");
    edge.got("publisher").await;
    assert_eq!(edge.drain("device").await, []);
    edge.subscribe("device", 8, "b/x", 0);
    assert_eq!(edge.got("device").await, suback(8, 0));
}

#[tokio::test]
async fn subscriptions_that_a_renewed_passport_does_not_cover_end() {
    for how in [How::clean("device"), How::stored("device")] {
        narrow(&Worker::new(&MemoryStore::new()).await, &how).await;
        let cluster = MemoryCluster::new();
        let _clock = Clock::of(&cluster);
        let worker = Worker::sharing(&cluster, LinkConfig::default(), ClusterSettings::default()).await;
        narrow(&worker, &how).await;
    }
}

#[tokio::test]
async fn subscriptions_that_ended_so_do_not_come_back_with_the_session() {
    let store = MemoryStore::new();
    let worker = Worker::new(&store).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::clean("publisher")).await;
    edge.connect(&How::stored("device")).await;
    for (id, filter) in [(1, "a"), (2, "b")] {
        edge.subscribe("device", id, filter, 0);
        assert_eq!(edge.got("device").await, suback(id, 0));
    }
    edge.renew("device", sign(&allowing("device", &["a"])));
    edge.drain("device").await;
    edge.close("device");
    edge.until("the close is durable", |edge| edge.device("device").is_finished).await;
    edge.connect(&How::stored("device")).await;
    for topic in ["b", "a"] {
        edge.publish("publisher", 1, 6, topic, b"x");
        edge.got("publisher").await;
    }
    assert_eq!(edge.drain("device").await, [publish("a", b"x")]);
}

#[tokio::test]
async fn a_subscribe_that_was_under_way_when_the_passport_was_renewed_ends_too() {
    let store = MemoryStore::new();
    let worker = Worker::new(&store).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::clean("publisher")).await;
    edge.connect(&How::stored("device")).await;
    store.hold();
    edge.subscribe("device", 1, "b", 0);
    edge.subscribe("device", 2, "a", 0);
    edge.until("the store is asked", |_| store.held() >= 2).await;
    edge.renew("device", sign(&allowing("device", &["a"])));
    // Refused at once, as its identifier is in use: the renewal has had its effect, and the two before are not answered.
    edge.subscribe("device", 1, "b", 0);
    assert_eq!(edge.got("device").await, suback(1, 0x91));
    store.let_go();
    assert_eq!((edge.got("device").await, edge.got("device").await), (suback(1, 0), suback(2, 0)));
    edge.drain("device").await;
    for topic in ["b", "a"] {
        edge.publish("publisher", 1, 6, topic, b"x");
        edge.got("publisher").await;
    }
    assert_eq!(edge.drain("device").await, [publish("a", b"x")]);
}

#[tokio::test]
async fn a_will_that_a_renewed_passport_does_not_cover_is_not_published() {
    for how in [How::clean("device"), How::stored("device")] {
        let world = World::new().await;
        let mut watcher = world.connect(&How::clean("watcher"));
        watcher.subscribe("will/#", 0);
        watcher.drain();
        let how = How { will: Some(("will/x", 0)), ..how };
        let mut device = world.connect(&how);
        device.stream.as_mut().unwrap().renew(Arc::new(allowing("device", &["a"])));
        device.lose();
        assert!(watcher.payloads().is_empty());
        let mut device = world.connect(&how);
        device.stream.as_mut().unwrap().renew(Arc::new(allowing("device", &["will/#"])));
        device.lose();
        assert_eq!(watcher.payloads(), [b"gone"]);
    }
}

#[tokio::test]
async fn a_passport_that_comes_before_the_session_is_open_counts() {
    const DEVICES: usize = 40;
    let store = MemoryStore::new();
    let worker = Worker::new(&store).await;
    let mut edge = Edge::dial(&worker).await;
    // More than a worker looks at in one go, and the store answers none of them yet.
    store.hold();
    let names: Vec<String> = (0..DEVICES).map(|number| format!("device-{number}")).collect();
    for name in &names {
        edge.open(&How::stored(name), sign(&allowing(name, &["#"])));
        edge.renew(name, sign(&allowing(name, &["a"])));
    }
    edge.until("the store is asked", |_| store.held() >= DEVICES).await;
    store.let_go();
    for name in &names {
        edge.until("CONNACK", |edge| edge.device(name).connack.is_some()).await;
        edge.subscribe(name, 1, "b", 0);
        assert_eq!(edge.got(name).await, suback(1, 0x87));
    }
}

#[tokio::test]
async fn a_passport_that_has_expired_is_honoured_for_a_while_on_a_resume_and_opens_nothing_new() {
    let cluster = MemoryCluster::new();
    let _clock = Clock::of(&cluster);
    let config = LinkConfig { passport_grace_ms: 60_000, ..LinkConfig::default() };
    let settings = ClusterSettings::default();
    let first = Worker::sharing(&cluster, config.clone(), settings.clone()).await;
    let second = Worker::sharing(&cluster, config, settings).await;
    let (mut edge, mut other) = (Edge::dial(&first).await, Edge::dial(&second).await);
    let how = How::stored("device");
    let passport =
        |expires_at_s| sign(&Passport { expires_at_s: Some(expires_at_s), ..allowing("device", &["#"]) });
    edge.open(&how, passport(now_s() + 600));
    edge.until("CONNACK", |edge| edge.device("device").connack.is_some()).await;
    // Ended, but not for longer than the grace: what the edge has when authentication is away.
    edge.device_mut("device").open.passport = passport(now_s() - 5);
    let adrift = edge.give_up("device");
    other.resume("device", adrift);
    other.until("the resume", |edge| edge.device("device").is_resumed).await;
    other.renew("device", passport(now_s() + 600));
    assert_eq!(other.drain("device").await, []);

    // Beyond the grace nobody takes it, and within the grace nobody opens with it.
    other.device_mut("device").open.passport = passport(now_s() - 100);
    let adrift = other.give_up("device");
    edge.resume("device", adrift);
    edge.until("the refusal", |edge| edge.device("device").refused.is_some()).await;
    assert_eq!(edge.device("device").refused, Some(RefuseReason::Passport));
    edge.open(&how, passport(now_s() - 5));
    edge.until("the refusal", |edge| edge.device("device").refused.is_some()).await;
    assert_eq!(edge.device("device").refused, Some(RefuseReason::Passport));
    assert_eq!(edge.device("device").closed.as_ref().map(|(reason, _)| *reason), None::<ReasonCode>);
}
