//! Retained messages for new subscriptions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::BrokerConfig;
use mqtt::QoS;
use state::{MemoryStore, StoreError};
use testkit::front::Asked;

use crate::device::{Device, Got, How, World};
use crate::moody::{Keeper, Kept, Moody};

#[tokio::test]
async fn every_retained_message_that_matches_comes_whatever_their_number() {
    let world = World::new().await;
    let mut publisher = world.connect(&How::clean("publisher"));
    // HAZARDS 23: more than any page.
    for n in 0..3000 {
        publisher.publish(&format!("r/{n}"), b"v", QoS::AtLeastOnce, true);
    }
    for (how, options) in [(How::clean("memory"), 1), (How::stored("stored"), 1), (How::clean("zero"), 0)] {
        let mut subscriber = world.connect(&how);
        subscriber.subscribe("r/+", options);
        let mut topics = std::collections::HashSet::new();
        loop {
            let turn = subscriber.drain();
            if turn.is_empty() {
                break;
            }
            for got in turn {
                if let Got::Publish { topic, id, retain, .. } = got {
                    assert!(retain, "v5 [MQTT-3.3.1-8]");
                    assert!(topics.insert(topic), "each once");
                    if let Some(id) = id {
                        subscriber.acknowledge(0x40, id);
                    }
                }
            }
        }
        assert_eq!(topics.len(), 3000, "{}", how.client_id);
    }
}

#[tokio::test]
async fn an_empty_payload_removes_the_retained_message() {
    let world = World::new().await;
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("r", b"v", QoS::AtMostOnce, true);
    publisher.publish("r", b"", QoS::AtMostOnce, true);
    let mut subscriber = world.connect(&How::clean("subscriber"));
    subscriber.subscribe("r", 0);
    assert!(subscriber.payloads().is_empty());
}

// Their size is no reason to drop any: they are taken as the device makes room.
#[tokio::test]
async fn retained_messages_larger_than_any_queue_all_come() {
    let config = BrokerConfig {
        sys_interval_s: 0,
        qos0_bytes_max: 1 << 20,
        queue_bytes_max: 36 << 20,
        ..BrokerConfig::default()
    };
    let world = World::with(config, MemoryStore::new()).await;
    let mut publisher = world.connect(&How::clean("publisher"));
    let body = vec![7; 500_000];
    for n in 0..100 {
        publisher.publish(&format!("r/{n}"), &body, QoS::AtLeastOnce, true);
    }
    for (how, options) in [(How::clean("memory"), 1), (How::stored("stored"), 1), (How::clean("zero"), 0)] {
        let mut subscriber = world.connect(&how);
        subscriber.subscribe("r/+", options);
        let mut count = 0;
        loop {
            let turn = subscriber.drain();
            if turn.is_empty() {
                break;
            }
            for got in turn {
                if let Got::Publish { id, .. } = got {
                    count += 1;
                    if let Some(id) = id {
                        subscriber.acknowledge(0x40, id);
                    }
                }
            }
        }
        assert_eq!(count, 100, "{}", how.client_id);
    }
}

// P9
#[tokio::test]
async fn a_store_that_goes_away_loses_no_retained_message_of_a_subscription() {
    let world = World::new().await;
    let mut publisher = world.connect(&How::clean("publisher"));
    for n in 0..300 {
        publisher.publish(&format!("r/{n}"), b"v", QoS::AtLeastOnce, true);
    }
    let mut subscriber = world.connect(&How { receive_maximum: 10, ..How::stored("stored") });
    subscriber.subscribe("r/+", 1);
    let away = StoreError::Unavailable(Arc::new(std::io::Error::other("away")));
    let mut topics = std::collections::HashSet::new();
    let all = async {
        while topics.len() < 300 {
            world.store.fail_with((topics.len() / 40 % 2 == 0).then(|| away.clone()));
            for got in subscriber.drain() {
                if let Got::Publish { topic, id: Some(id), .. } = got {
                    topics.insert(topic);
                    subscriber.acknowledge(0x40, id);
                }
            }
            world.store.fail_with(None);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let finished = tokio::time::timeout(Duration::from_secs(30), all).await;
    assert!(finished.is_ok(), "{} of 300 came", topics.len());
}

// v5 [MQTT-3.10.4-2]
#[tokio::test]
async fn after_unsuback_no_retained_message_comes() {
    let world = World::new().await;
    let mut publisher = world.connect(&How::clean("publisher"));
    for n in 0..1000 {
        publisher.publish(&format!("r/{n}"), b"v", QoS::AtLeastOnce, true);
    }
    for how in [How::clean("memory"), How::stored("stored")] {
        let mut subscriber = world.connect(&How { receive_maximum: 10, ..how });
        subscriber.subscribe("r/+", 1);
        let mut ids: Vec<u16> = Vec::new();
        let mut count = 0;
        subscriber.unsubscribe("r/+");
        loop {
            for got in subscriber.drain() {
                if let Got::Publish { id: Some(id), .. } = got {
                    count += 1;
                    ids.push(id);
                }
            }
            let Some(id) = ids.pop() else { break };
            subscriber.acknowledge(0x40, id);
        }
        // What was queued before may come.
        assert!(count < 200, "{}: {count}", how.client_id);
        subscriber.subscribe("r/7", 1);
        assert_eq!(subscriber.payloads(), [b"v"], "{}", how.client_id);
    }
}

// Rule 17 of the design: a client that has the new value is not given the old one after it.
#[tokio::test]
async fn a_retained_message_that_was_replaced_does_not_follow_the_new_one() {
    let world = World::new().await;
    let mut publisher = world.connect(&How::clean("publisher"));
    for n in 0..200 {
        publisher.publish(&format!("r/{n}"), b"old", QoS::AtLeastOnce, true);
    }
    let mut subscriber = world.connect(&How { receive_maximum: 10, ..How::clean("memory") });
    subscriber.subscribe("+/+", 1);
    for n in 0..200 {
        publisher.publish(&format!("r/{n}"), b"new", QoS::AtLeastOnce, true);
    }
    let mut last = std::collections::HashMap::new();
    loop {
        let turn = subscriber.drain();
        if turn.is_empty() {
            break;
        }
        for got in turn {
            if let Got::Publish { topic, payload, id, .. } = got {
                last.insert(topic, payload);
                if let Some(id) = id {
                    subscriber.acknowledge(0x40, id);
                }
            }
        }
    }
    let old = last.values().filter(|payload| payload.as_slice() == b"old").count();
    assert_eq!((last.len(), old), (200, 0));
}

// The older one is refused when the newer one waits already.
#[tokio::test]
async fn what_an_overloaded_store_refuses_late_is_not_retained_over_what_came_after_it() {
    let inner = MemoryStore::new();
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let (store, first) = Moody::keeping(inner.clone(), move |asked, _| {
        let is_kept = asked == Asked::Retain && is_first.swap(false, std::sync::atomic::Ordering::Relaxed);
        is_kept.then_some(Kept::Call)
    });
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    publisher.publish("r", b"old", QoS::AtLeastOnce, true);
    world.store.fail_with(Some(testkit::front::unavailable()));
    publisher.publish("r", b"new", QoS::AtLeastOnce, true);
    assert!(publisher.drain().is_empty());
    assert_eq!(first.let_go(), 1);
    world.store.fail_with(None);
    for _ in 0..2 {
        assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, .. }));
    }
    let mut subscriber = world.connect(&How::clean("subscriber"));
    subscriber.subscribe("r", 1);
    assert_eq!(subscriber.payloads(), [b"new"]);
}

// v5 [MQTT-3.3.1-9]: whatever it was given before by another subscription.
#[tokio::test]
async fn who_subscribes_is_given_what_it_has_live_already() {
    for how in [How::clean("memory"), How::stored("stored")] {
        for qos in 0..3 {
            let world = World::new().await;
            let mut publisher = world.connect(&How::clean("publisher"));
            publisher.publish("r/old", b"v", QoS::AtLeastOnce, true);
            let mut subscriber = world.connect(&how);
            subscriber.subscribe("r/+", qos);
            take_all(&mut subscriber);
            publisher.publish("r/t", b"v", QoS::ExactlyOnce, true);
            assert_eq!(take_all(&mut subscriber).len(), 1, "live");
            for filter in ["r/t", "r/t", "+/t"] {
                subscriber.subscribe(filter, qos);
                let expected = [("r/t".to_owned(), b"v".to_vec())];
                assert_eq!(take_all(&mut subscriber), expected, "{}, QoS {qos}, {filter}", how.client_id);
            }
        }
    }
}

// ARCHITECTURE, rule 17.
#[tokio::test]
async fn who_subscribes_while_a_message_is_retained_gets_it() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let comes = Arc::new(Mutex::new(None::<Device>));
        let came = Arc::new(Mutex::new(None));
        let mood = {
            let (comes, came) = (comes.clone(), came.clone());
            move |asked| {
                let device = if asked == Asked::Retain { comes.lock().unwrap().take() } else { None };
                if let Some(mut device) = device {
                    device.subscribe("r", 1);
                    *came.lock().unwrap() = Some(device);
                }
                true
            }
        };
        let inner = MemoryStore::new();
        let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
        let world = World::over(config, Arc::new(Moody::new(inner.clone(), mood)), inner).await;
        *comes.lock().unwrap() = Some(world.connect(&How::clean("subscriber")));
        let mut publisher = world.connect(&How::clean("publisher"));
        publisher.publish("r", b"v", qos, true);
        let mut subscriber = came.lock().unwrap().take().unwrap();
        assert_eq!(subscriber.payloads(), [b"v"], "{qos:?}");
    }
}

/// A world whose pages of retained messages are kept back, with a publisher.
async fn keeping(kept: Kept) -> (World, Keeper, Device) {
    let inner = MemoryStore::new();
    let (store, pages) =
        Moody::keeping(inner.clone(), move |asked, _| (asked == Asked::Retained).then_some(kept));
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let publisher = world.connect(&How::clean("publisher"));
    (world, pages, publisher)
}

/// Topic and payload of all that comes, acknowledged to the end.
fn take_all(device: &mut Device) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let turn = device.drain();
        if turn.is_empty() {
            return all;
        }
        for got in turn {
            match got {
                Got::Publish { topic, payload, qos, id, .. } => {
                    all.push((topic, payload));
                    if let Some(id) = id {
                        device.acknowledge(if qos == 2 { 0x50 } else { 0x40 }, id);
                    }
                }
                Got::Other { first_byte: 0x62, body } => {
                    device.acknowledge(0x70, u16::from_be_bytes([body[0], body[1]]));
                }
                _ => {}
            }
        }
    }
}

/// The same, before the pages are let go and after.
fn take_all_after(device: &mut Device, pages: &Keeper) -> Vec<(String, Vec<u8>)> {
    let mut all = take_all(device);
    while pages.let_go() > 0 {
        all.extend(take_all(device));
    }
    all
}

const KINDS: [(&str, bool, u8); 5] = [
    ("memory", false, 1),
    ("memory-2", false, 2),
    ("stored", true, 1),
    ("stored-2", true, 2),
    ("zero", false, 0),
];

fn how(client_id: &str, is_stored: bool) -> How<'_> {
    if is_stored { How::stored(client_id) } else { How::clean(client_id) }
}

// ARCHITECTURE, rule 37.
#[tokio::test]
async fn a_page_on_its_way_is_outdated_by_what_comes_before_it() {
    for (client_id, is_stored, qos) in KINDS {
        let (world, pages, mut publisher) = keeping(Kept::Answer).await;
        for n in 0..4 {
            publisher.publish(&format!("r/{n}"), b"old", QoS::ExactlyOnce, true);
        }
        let mut subscriber = world.connect(&how(client_id, is_stored));
        subscriber.subscribe("r/+", qos);
        // With QoS 0, too: a message may overtake what waits with another.
        publisher.publish("r/0", b"new", QoS::AtMostOnce, true);
        publisher.publish("r/1", b"new", QoS::ExactlyOnce, true);
        publisher.publish("r/2", b"", QoS::AtLeastOnce, true);
        let mut got = take_all(&mut subscriber);
        assert_eq!(got.len(), 3, "{client_id}: {got:?}");
        while pages.let_go() > 0 {
            got.extend(take_all(&mut subscriber));
        }
        got.sort_unstable();
        let wanted = [("r/0", "new"), ("r/1", "new"), ("r/2", ""), ("r/3", "old")];
        assert_eq!(got, wanted.map(|(topic, payload)| (topic.to_owned(), payload.into())), "{client_id}");
    }
}

// ARCHITECTURE, rule 37.
#[tokio::test]
async fn what_came_live_does_not_come_again_as_a_retained_message() {
    for (client_id, is_stored, qos) in KINDS {
        let (world, pages, mut publisher) = keeping(Kept::Call).await;
        let mut subscriber = world.connect(&how(client_id, is_stored));
        subscriber.subscribe("r/+", qos);
        publisher.publish("r/0", b"v", QoS::ExactlyOnce, true);
        let got = take_all_after(&mut subscriber, &pages);
        assert_eq!(got, [("r/0".to_owned(), b"v".to_vec())], "{client_id}");
    }
}

// v5 [MQTT-3.8.3-3]; what was retained before is sent as to anybody.
#[tokio::test]
async fn what_its_publisher_retains_after_a_no_local_subscription_does_not_come_back() {
    const NO_LOCAL: u8 = 4;
    for (client_id, is_stored, qos) in KINDS {
        let (world, pages, mut publisher) = keeping(Kept::Call).await;
        publisher.publish("r/1", b"old", QoS::AtLeastOnce, true);
        let mut own = world.connect(&how(client_id, is_stored));
        own.publish("r/2", b"before", QoS::AtLeastOnce, true);
        own.subscribe("r/+", qos | NO_LOCAL);
        own.publish("r/0", b"own", QoS::AtLeastOnce, true);
        own.publish("r/1", b"own", QoS::AtMostOnce, true);
        let got = take_all_after(&mut own, &pages);
        assert_eq!(got, [("r/2".to_owned(), b"before".to_vec())], "{client_id}");
    }
}

// What is remembered is bounded: a page that was on its way meanwhile is read again.
#[tokio::test]
async fn a_page_is_read_again_when_more_came_meanwhile_than_is_remembered() {
    let (world, pages, mut publisher) = keeping(Kept::Answer).await;
    publisher.publish("r/0", b"old", QoS::AtLeastOnce, true);
    publisher.publish("r/kept", b"old", QoS::AtLeastOnce, true);
    let mut subscriber = world.connect(&How::clean("subscriber"));
    subscriber.subscribe("#", 0);
    for n in 0..3 * 8192 {
        publisher.publish(&format!("r/{n}"), b"new", QoS::AtMostOnce, true);
        if n % 64 == 0 {
            assert!(!subscriber.drain().is_empty());
        }
    }
    subscriber.drain();
    assert_eq!(pages.let_go(), 1);
    assert_eq!(take_all(&mut subscriber), [], "it is old");
    let mut retained = std::collections::HashMap::new();
    while pages.let_go() > 0 {
        retained.extend(take_all(&mut subscriber));
    }
    assert_eq!(retained.remove("r/kept"), Some(b"old".to_vec()));
    assert!(retained.values().all(|payload| payload == b"new"));
}

// What was matched before the subscription, and waits for the store, comes as a retained message.
#[tokio::test]
async fn a_retained_message_that_waits_for_the_store_is_read_by_who_subscribes_meanwhile() {
    let refuses = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mood = Arc::clone(&refuses);
    let inner = MemoryStore::new();
    let store = Moody::new(inner.clone(), move |asked| {
        asked != Asked::Retain || !mood.load(std::sync::atomic::Ordering::Relaxed)
    });
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("r", b"v", QoS::AtLeastOnce, true);
    let mut subscriber = world.connect(&How::clean("subscriber"));
    subscriber.subscribe("r", 1);
    refuses.store(false, std::sync::atomic::Ordering::Relaxed);
    loop {
        if let Got::Publish { payload, .. } = subscriber.wait().await {
            assert_eq!(payload, b"v");
            return;
        }
    }
}

#[tokio::test]
async fn a_retained_message_of_qos_0_is_not_replaced_by_an_older_one_that_had_to_wait() {
    let refuses = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mood = Arc::clone(&refuses);
    let inner = MemoryStore::new();
    let store = Moody::new(inner.clone(), move |asked| {
        asked != Asked::Retain || !mood.load(std::sync::atomic::Ordering::Relaxed)
    });
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    publisher.publish("r", b"older", QoS::AtLeastOnce, true);
    publisher.publish("other", b"older", QoS::AtLeastOnce, true);
    refuses.store(false, std::sync::atomic::Ordering::Relaxed);
    publisher.publish("r", b"newer", QoS::AtMostOnce, true);
    for _ in 0..2 {
        assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, .. }));
    }
    let mut subscriber = world.connect(&How::clean("subscriber"));
    subscriber.subscribe("r", 1);
    assert_eq!(subscriber.payloads(), [b"newer"]);
}
