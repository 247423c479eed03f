//! Sessions that end, resume and are taken over.

use broker::BrokerConfig;
use mqtt::{QoS, ReasonCode};
use state::MemoryStore;

use crate::device::{Got, How, World};

const ACCEPTED_NEW: Got = Got::ConnAck { session_present: false, code: 0 };
const ACCEPTED_RESUMED: Got = Got::ConnAck { session_present: true, code: 0 };

#[tokio::test]
async fn a_stored_session_gets_what_came_while_it_was_away() {
    let world = World::new().await;
    let mut away = world.connect(&How::stored("away"));
    assert_eq!(away.got(), Some(ACCEPTED_NEW));
    away.subscribe("t/#", 2);
    away.drain();
    away.lose();
    let mut publisher = world.connect(&How::clean("publisher"));
    for (qos, payload) in [(QoS::AtMostOnce, b"0"), (QoS::AtLeastOnce, b"1"), (QoS::ExactlyOnce, b"2")] {
        publisher.publish("t/x", payload, qos, false);
    }
    let mut back = world.connect(&How::stored("away"));
    assert_eq!(back.got(), Some(ACCEPTED_RESUMED));
    assert_eq!(back.payloads(), [b"1", b"2"]);
    assert!(back.closed.is_none());
}

// v5 [MQTT-4.4.0-1], [MQTT-3.3.1-1]
#[tokio::test]
async fn what_was_sent_and_not_acknowledged_comes_again_with_dup() {
    let world = World::new().await;
    let mut first = world.connect(&How::stored("again"));
    first.subscribe("t", 1);
    first.drain();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("t", b"a", QoS::AtLeastOnce, false);
    let Some(Got::Publish { dup: false, id: Some(id), .. }) = first.got() else { panic!("no PUBLISH") };
    first.lose();
    publisher.publish("t", b"b", QoS::AtLeastOnce, false);
    let mut second = world.connect(&How::stored("again"));
    second.got();
    let Some(Got::Publish { dup: true, id: Some(again), payload, .. }) = second.got() else {
        panic!("no DUP")
    };
    assert_eq!((again, payload.as_slice()), (id, b"a".as_slice()));
    let Some(Got::Publish { dup: false, payload, .. }) = second.got() else { panic!("no second message") };
    assert_eq!(payload, b"b");
}

// v5 [MQTT-3.1.4-3]
#[tokio::test]
async fn the_old_connection_of_a_client_is_told_that_it_was_taken_over() {
    let world = World::new().await;
    for how in [How::clean("same"), How::stored("same")] {
        let mut old = world.connect(&how);
        old.drain();
        let mut new = world.connect(&how);
        old.pump();
        assert_eq!(old.got(), Some(Got::Other { first_byte: 0xe0, body: vec![0x8e] }));
        assert_eq!(old.closed, Some(ReasonCode::SessionTakenOver));
        assert!(matches!(new.got(), Some(Got::ConnAck { code: 0, .. })));
        old.stream = None;
        new.subscribe("still/here", 0);
        assert!(
            matches!(new.got(), Some(Got::Other { first_byte: 0x90, .. })),
            "the new one is not disturbed"
        );
    }
}

#[tokio::test]
async fn a_clean_start_discards_the_stored_session() {
    let world = World::new().await;
    let mut first = world.connect(&How::stored("c"));
    first.subscribe("t", 1);
    first.lose();
    let mut clean = world.connect(&How::clean("c"));
    assert_eq!(clean.got(), Some(ACCEPTED_NEW));
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("t", b"x", QoS::AtLeastOnce, false);
    // v5 PUBACK 0x10: nobody is subscribed any more.
    assert_eq!(publisher.drain().last(), Some(&Got::Other { first_byte: 0x40, body: vec![0, 2, 0x10] }));
    assert!(clean.payloads().is_empty());
}

#[tokio::test]
async fn a_session_expires_and_its_subscriptions_go() {
    let world = World::new().await;
    let mut short = world.connect(&How { expiry_s: 1, ..How::stored("short") });
    short.subscribe("t", 1);
    short.lose();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    let gone = async {
        loop {
            let id = publisher.publish("t", b"x", QoS::AtLeastOnce, false);
            let answer = publisher.wait().await;
            if answer == (Got::Other { first_byte: 0x40, body: vec![(id >> 8) as u8, id as u8, 0x10] }) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("the session expires");
    assert_eq!(world.connect(&How::stored("short")).got(), Some(ACCEPTED_NEW));
}

// HAZARDS 15, v5 [MQTT-4.3.3-10]
#[tokio::test]
async fn a_repeated_qos_2_publish_is_not_routed_twice_even_on_a_new_connection() {
    let world = World::new().await;
    let mut subscriber = world.connect(&How::clean("subscriber"));
    subscriber.subscribe("t", 2);
    subscriber.drain();
    let mut publisher = world.connect(&How::stored("publisher"));
    publisher.publish_as(7, "t", b"x", QoS::ExactlyOnce, false);
    publisher.publish_as(7, "t", b"x", QoS::ExactlyOnce, false);
    publisher.lose();
    let mut publisher = world.connect(&How::stored("publisher"));
    publisher.publish_as(7, "t", b"x", QoS::ExactlyOnce, false);
    publisher.acknowledge(0x62, 7);
    assert_eq!(subscriber.payloads(), [b"x"]);
    // After PUBCOMP the identifier is free again: [MQTT-4.3.3-12].
    publisher.publish_as(7, "t", b"y", QoS::ExactlyOnce, false);
    assert_eq!(subscriber.payloads(), [b"y"]);
}

#[tokio::test]
async fn a_stored_session_reads_its_queue_as_fast_as_it_acknowledges() {
    let world = World::new().await;
    let how = How { receive_maximum: 10, ..How::stored("slow") };
    let mut slow = world.connect(&how);
    slow.subscribe("t", 1);
    slow.lose();
    let mut publisher = world.connect(&How::clean("publisher"));
    for n in 0..2000_u32 {
        publisher.publish("t", &n.to_be_bytes(), QoS::AtLeastOnce, false);
    }
    let mut slow = world.connect(&how);
    let mut seen = Vec::new();
    loop {
        let turn = slow.drain();
        let mut ids = Vec::new();
        for got in turn {
            if let Got::Publish { payload, id: Some(id), .. } = got {
                seen.push(u32::from_be_bytes(payload.try_into().unwrap()));
                ids.push(id);
            }
        }
        assert!(ids.len() <= 10, "v5 [MQTT-3.3.4-9]");
        if ids.is_empty() {
            break;
        }
        ids.into_iter().for_each(|id| slow.acknowledge(0x40, id));
    }
    assert_eq!(seen, (0..2000).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_slow_device_leaves_counts_against_the_bound_until_it_is_sent() {
    let config = BrokerConfig { sys_interval_s: 0, qos0_bytes_max: 1 << 20, ..BrokerConfig::default() };
    let world = World::with(config, MemoryStore::new()).await;
    let mut slow = world.connect(&How::clean("slow"));
    slow.subscribe("t", 0);
    slow.drain();
    let mut publisher = world.connect(&How::clean("publisher"));
    for _ in 0..3 {
        for _ in 0..300 {
            publisher.publish("t", &[7; 10_000], QoS::AtMostOnce, false);
        }
        slow.turn();
    }
    let count = slow.payloads().len();
    // 1 MiB and what three turns have written.
    assert!((104..140).contains(&count), "{count}");
}

// Retained and repeated messages are sent like any other.
#[tokio::test]
async fn sys_counts_what_was_written() {
    let config = BrokerConfig { sys_interval_s: 1, ..BrokerConfig::default() };
    let world = World::with(config, MemoryStore::new()).await;
    let mut publisher = world.connect(&How::clean("publisher"));
    for n in 0..10 {
        publisher.publish(&format!("r/{n}"), b"v", QoS::AtLeastOnce, true);
    }
    let mut subscriber = world.connect(&How::stored("subscriber"));
    subscriber.subscribe("r/+", 1);
    assert_eq!(subscriber.payloads().len(), 10);
    let mut again = world.connect(&How::stored("subscriber"));
    assert_eq!(again.payloads().len(), 10);
    again.subscribe("$SYS/broker/publish/messages/sent", 0);
    let counted = async {
        loop {
            let Got::Publish { payload, .. } = again.wait().await else { continue };
            let count: u32 = String::from_utf8(payload).unwrap().parse().unwrap();
            if count >= 20 {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), counted).await.expect("20 were written");
}
