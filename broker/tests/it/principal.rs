//! A session is its principal's alone: nobody else gets what waits in it, ends its connection or changes it. And what rights
//! have come to since counts for what was left behind.

use std::sync::Arc;

use broker::{Broker, BrokerConfig, ForeignSession, Rules};
use link::{Action, Effect, Passport, Rule, Stream};
use mqtt::{QoS, ReasonCode};
use prometheus_client::registry::Registry;
use state::{MemoryStore, Store};

use crate::device::{Device, Got, How, World};
use crate::will::has_will;

const REFUSED: Got = Got::ConnAck { session_present: false, code: 0x85 };

fn accepted(session_present: bool) -> Got {
    Got::ConnAck { session_present, code: 0 }
}

/// Every way in which a connection may ask.
fn ways(subject: &str) -> [How<'_>; 4] {
    [(true, 0), (true, 60), (false, 0), (false, 60)].map(|(clean_start, expiry_s)| How {
        clean_start,
        expiry_s,
        will: Some(("will/other", 0)),
        ..How::clean("dev").by(subject)
    })
}

fn allowing(how: &How<'_>, topics: &[&str]) -> Passport {
    let topics = topics.iter().map(|topic| (*topic).into()).collect();
    let rule = Rule::new(Effect::Allow, Action::All, topics);
    Passport { rules: [rule].into(), ..how.passport() }
}

fn watcher(world: &World) -> Device {
    let mut watcher = world.connect(&How::clean("watcher"));
    watcher.subscribe("will/#", 0);
    watcher.drain();
    watcher
}

#[tokio::test]
async fn a_live_connection_of_somebody_else_is_not_ended() {
    for hers in ways("alice") {
        let world = World::new().await;
        let mut watcher = watcher(&world);
        let mut alice = world.connect(&How { will: Some(("will/hers", 0)), ..hers });
        alice.subscribe("secret/#", 1);
        alice.drain();
        for his in ways("bob").into_iter().chain(ways("")) {
            let mut bob = world.connect(&his);
            assert_eq!(bob.drain(), [REFUSED]);
            assert_eq!(bob.closed, Some(ReasonCode::ClientIdentifierNotValid));
        }
        watcher.publish("secret/x", b"hers", QoS::AtLeastOnce, false);
        assert_eq!(alice.payloads(), [b"hers"]);
        assert_eq!(alice.closed, None);
        // Her own connections replace each other as ever.
        let mut again = world.connect(&ways("alice")[3]);
        assert!(matches!(again.got(), Some(Got::ConnAck { code: 0, .. })));
        alice.pump();
        assert_eq!(alice.closed, Some(ReasonCode::SessionTakenOver));
        assert_eq!(watcher.payloads(), [b"gone"], "her Will, and none of theirs");
    }
}

#[tokio::test]
async fn what_waits_for_somebody_else_stays_hers_with_her_subscriptions() {
    let world = World::new().await;
    let alice = How::stored("dev").by("alice");
    let mut device = world.connect(&alice);
    device.subscribe("secret/#", 1);
    device.lose();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("secret/x", b"1", QoS::AtLeastOnce, false);
    for his in ways("bob") {
        assert_eq!(world.connect(&his).drain(), [REFUSED]);
    }
    publisher.publish("secret/x", b"2", QoS::AtLeastOnce, false);
    let mut device = world.connect(&alice);
    assert_eq!(device.got(), Some(accepted(true)));
    assert_eq!(device.payloads(), [b"1", b"2"]);
    publisher.publish("secret/x", b"3", QoS::AtLeastOnce, false);
    assert_eq!(device.payloads(), [b"3"]);
}

#[tokio::test]
async fn a_session_that_is_over_is_anybodys() {
    let world = World::new().await;
    world.connect(&How::clean("dev").by("alice")).disconnect();
    assert_eq!(world.connect(&How::clean("dev").by("bob")).got(), Some(accepted(false)));
    let stored = world.connect(&How::stored("dev").by("alice"));
    drop(stored);
    assert_eq!(world.connect(&How::clean("dev").by("bob")).got(), Some(REFUSED));
    world.connect(&How::clean("dev").by("alice")).disconnect();
    assert_eq!(world.connect(&How::stored("dev").by("bob")).got(), Some(accepted(false)));
}

// The store knows nothing of sessions that end with their connection: of two that come at once one is refused.
#[tokio::test]
async fn of_two_that_come_at_once_one_is_refused() {
    for (first, second) in [
        (How::clean("dev"), How::stored("dev")),
        (How::stored("dev"), How::clean("dev")),
        (How::clean("dev"), How::clean("dev")),
        (How::stored("dev"), How::stored("dev")),
    ] {
        let world = World::new().await;
        world.store.hold();
        let mut alice = world.connect(&first.by("alice"));
        let mut bob = world.connect(&second.by("bob"));
        world.store.let_go();
        assert_eq!(alice.got(), Some(accepted(false)));
        assert_eq!(bob.got(), Some(REFUSED));
        assert_eq!(alice.closed, None);
        alice.disconnect();
        assert!(world.store.stats().sessions <= 1, "none is left of bob's");
        let mut alice = world.connect(&How::stored("dev").by("alice"));
        assert!(matches!(alice.got(), Some(Got::ConnAck { code: 0, .. })));
    }
}

#[tokio::test]
async fn each_has_a_session_of_its_own_where_that_is_configured() {
    let config = BrokerConfig {
        sys_interval_s: 0,
        foreign_session: ForeignSession::Separate,
        ..BrokerConfig::default()
    };
    let world = World::with(config, MemoryStore::new()).await;
    let mut publisher = world.connect(&How::clean("publisher"));
    for how in [How::clean("dev"), How::stored("dev")] {
        let mut devices: Vec<Device> =
            ["alice", "bob", ""].map(|subject| world.connect(&how.clone().by(subject))).into();
        for (device, topic) in devices.iter_mut().zip(["a", "b", "c"]) {
            assert_eq!(device.got(), Some(accepted(false)));
            device.subscribe(topic, 1);
            device.drain();
        }
        for topic in ["a", "b", "c"] {
            publisher.publish(topic, topic.as_bytes(), QoS::AtLeastOnce, false);
        }
        for (device, topic) in devices.iter_mut().zip(["a", "b", "c"]) {
            assert_eq!((device.payloads(), device.closed), (vec![topic.as_bytes().to_vec()], None));
        }
        // Only one's own is taken over.
        let mut again = world.connect(&how.clone().by("bob"));
        assert_eq!(again.got(), Some(accepted(how.expiry_s > 0)));
        let closed: Vec<_> = devices
            .iter_mut()
            .map(|device| {
                device.pump();
                device.closed
            })
            .collect();
        assert_eq!(closed, [None, Some(ReasonCode::SessionTakenOver), None]);
    }
}

#[tokio::test]
async fn a_connection_whose_passport_is_about_somebody_else_ends() {
    for how in [How::clean("dev").by("alice"), How::stored("dev").by("alice")] {
        let world = World::new().await;
        let mut device = world.connect(&how);
        device.drain();
        let other = how.clone().by("bob").passport();
        device.stream.as_mut().unwrap().renew(Arc::new(other.clone()));
        assert_eq!(device.drain(), [Got::Other { first_byte: 0xe0, body: vec![0x87] }]);
        assert_eq!(device.closed, Some(ReasonCode::NotAuthorized));
        device.stream = None;
        // Before CONNACK.
        world.store.hold();
        let mut device = world.connect(&how);
        device.stream.as_mut().unwrap().renew(Arc::new(other));
        world.store.let_go();
        assert_eq!(device.drain(), [Got::ConnAck { session_present: false, code: 0x87 }]);
    }
}

#[tokio::test]
async fn what_was_queued_before_a_right_was_taken_away_is_not_delivered() {
    let world = World::new().await;
    let how = How { receive_maximum: 1, ..How::stored("dev").by("alice") };
    let mut device = world.connect(&how);
    device.subscribe("secret/#", 2);
    device.subscribe("t", 2);
    let mut publisher = world.connect(&How::clean("publisher"));
    for (topic, qos) in [
        ("secret/in/flight", QoS::ExactlyOnce),
        ("secret/1", QoS::AtLeastOnce),
        ("t", QoS::AtLeastOnce),
        ("secret/2", QoS::ExactlyOnce),
        ("t", QoS::ExactlyOnce),
    ] {
        publisher.publish(topic, topic.as_bytes(), qos, false);
    }
    assert_eq!(device.payloads(), [b"secret/in/flight"]);
    device.lose();
    let mut device = Device::connect_with(&world.broker, &how, allowing(&how, &["t"]));
    assert_eq!(device.got(), Some(accepted(true)));
    // The flow that the device knows of is ended; what it may have follows.
    assert_eq!(device.drain(), [Got::Other { first_byte: 0x62, body: vec![0, 1] }]);
    device.acknowledge(0x70, 1);
    let got = |qos, id| {
        let (topic, payload) = ("t".to_owned(), b"t".to_vec());
        Got::Publish { topic, payload, qos, dup: false, retain: false, id: Some(id) }
    };
    assert_eq!(device.drain(), [got(1, 3)]);
    device.acknowledge(0x40, 3);
    assert_eq!(device.drain(), [got(2, 5)]);
    device.acknowledge(0x50, 5);
    device.acknowledge(0x70, 5);
    assert_eq!(world.store.stats().queued_messages, 0);
}

#[tokio::test]
async fn a_will_whose_right_was_taken_away_is_published_by_nobody() {
    for (how, dies) in [(How::clean("dev"), false), (How::stored("dev"), false), (How::stored("dev"), true)] {
        let how = How { will: Some(("will/x", 0)), ..how.by("alice") };
        let world = World::new().await;
        let mut watcher = watcher(&world);
        let mut device = world.connect(&how);
        device.stream.as_mut().unwrap().renew(Arc::new(allowing(&how, &["t"])));
        if dies {
            // The worker, with its edge: only the store can tell.
            world.store.restart(0);
        } else {
            device.lose();
        }
        assert!(!has_will(&world));
        assert!(watcher.payloads().is_empty());
    }
}

#[tokio::test]
async fn a_will_that_its_owner_finds_due_passes_the_rules_of_its_new_passport() {
    for allowed in [false, true] {
        let world = World::new().await;
        let mut watcher = watcher(&world);
        let how = How { will: Some(("will/x", 0)), ..How::stored("dev").by("alice") };
        let _old = world.connect(&how);
        let passport = allowing(&how, if allowed { &["will/x"] } else { &["t"] });
        let _new = Device::connect_with(&world.broker, &How { will: None, ..how }, passport);
        assert_eq!(watcher.payloads().len(), usize::from(allowed));
        assert!(!has_will(&world));
    }
}

#[tokio::test]
async fn a_will_that_is_due_passes_the_rules_in_force_where_they_are_known() {
    for (known, expected) in [(Some("will/x"), 1), (Some("t"), 0), (None, 0)] {
        let how = How { will: Some(("will/x", 0)), ..How::stored("dev").by("alice") };
        let passport = known.map(|topic| Arc::new(allowing(&how, &[topic])));
        let rules: Rules = Arc::new(move |subject, client_id| {
            assert_eq!((subject, client_id), ("alice", "dev"));
            passport.clone()
        });
        let store = MemoryStore::new();
        let config = BrokerConfig {
            sys_interval_s: 0,
            foreign_session: ForeignSession::Separate,
            ..BrokerConfig::default()
        };
        let shared = Arc::new(store.clone());
        let broker = Broker::start_with(Some(rules), config, shared, &mut Registry::default()).await.unwrap();
        let world = World { store, broker };
        let mut watcher = watcher(&world);
        world.connect(&how).lose();
        assert_eq!(watcher.payloads().len(), expected);
        assert!(!has_will(&world));
    }
}
