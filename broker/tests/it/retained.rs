//! Retained messages for new subscriptions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::BrokerConfig;
use mqtt::QoS;
use state::{MemoryStore, StoreError};

use crate::device::{Device, Got, How, World};
use crate::moody::{Asked, Moody};

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
