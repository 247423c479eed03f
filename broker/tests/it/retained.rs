//! Retained messages for new subscriptions.

use mqtt::QoS;

use crate::device::{Got, How, World};

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
