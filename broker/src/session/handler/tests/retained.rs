//! Retained messages among live ones: none follows a newer message of its topic, and none comes twice.

use std::sync::Arc;

use mqtt::{Property, QoS, ReasonCode};
use state::{Delivery, Message, Number, QueuePage, Queued, Record, SubscriptionIds, Via};

use super::{plan, v5};
use crate::session::testing::{Rig, id};
use crate::session::{Input, RequestKind};

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn delivery(payload: &[u8], qos: QoS, via: Via) -> Delivery {
    published(1_000_000, payload, qos, via)
}

fn published(at: u64, payload: &[u8], qos: QoS, via: Via) -> Delivery {
    let message = Arc::new(Message::new("t", &[], payload, QOS2, true, at));
    Delivery { message, qos, retain: via == Via::Retained, subscription_ids: SubscriptionIds::NONE, via }
}

fn retained(payload: &[u8], qos: QoS) -> Delivery {
    delivery(payload, qos, Via::Retained)
}

fn live(payload: &[u8], qos: QoS) -> Delivery {
    delivery(payload, qos, Via::Subscription)
}

/// SUBSCRIBE to `t`, answered.
fn subscribe(rig: &mut Rig) {
    rig.bytes(&[0x82, 7, 0, 1, 0, 0, 1, b't', 2]);
    rig.input(Input::Responded(id(1), RequestKind::Subscribe, vec![ReasonCode::GrantedQoS2]));
    rig.sent();
    rig.effects();
}

/// The last byte of each PUBLISH that was written: its payload.
fn payloads(rig: &mut Rig) -> Vec<u8> {
    let sent = rig.sent();
    let (mut rest, mut found) = (sent.as_slice(), Vec::new());
    while let Ok(Some(frame)) = mqtt::frame::split(rest, u32::MAX) {
        found.extend(frame.raw.last().filter(|_| frame.raw[0] & 0xf0 == 0x30));
        rest = &rest[frame.raw.len()..];
    }
    found
}

// ARCHITECTURE, rule 37: QoS 0 overtakes what waits for the client.
#[test]
fn a_retained_message_that_waits_is_outdated_by_one_that_overtakes_it() {
    let mut rig = plan().with(Property::ReceiveMaximum(1)).open();
    subscribe(&mut rig);
    for payload in *b"ab" {
        let retained = retained(&[payload], QOS1);
        rig.session.hand_in(&retained, 0);
        rig.input(Input::Retained(retained));
    }
    rig.input(Input::Deliver(live(b"c", QOS0)));
    assert_eq!(payloads(&mut rig), b"ac");
    assert!(payloads(rig.bytes(&[0x40, 2, 0, 1])).is_empty());
    rig.input(Input::Deliver(live(b"d", QOS1)));
    assert_eq!(payloads(&mut rig), b"d");
}

// ARCHITECTURE, rule 37: another worker has put the newer one into the queue first, and told of it last.
#[test]
fn a_retained_message_that_is_behind_a_newer_one_in_the_stored_queue_goes_unsent() {
    let mut rig = plan().stored(1, 1, 1).open();
    subscribe(&mut rig);
    rig.session.hand_in(&retained(b"a", QOS1), 0);
    rig.input(Input::DeliverStored(Number(2), retained(b"a", QOS1)));
    assert_eq!(rig.effect_names(), ["read 1 512"]);
    let record = |number, delivery| Queued { number: Number(number), record: Record::Message(delivery) };
    let records = vec![record(1, live(b"b", QOS1)), record(2, retained(b"a", QOS1))];
    rig.input(Input::Queue(Ok(QueuePage { records, next: Number(3) })));
    assert_eq!(payloads(&mut rig), b"b");
    assert_eq!(rig.effect_names(), ["acknowledge 2"]);
}

// The same, when the connection that read them is gone.
#[test]
fn a_later_connection_does_not_get_a_retained_message_behind_a_newer_one() {
    let mut rig = plan().stored(1, 1, 3).open();
    rig.effects();
    let record = |number, delivery| Queued { number: Number(number), record: Record::Message(delivery) };
    let records = vec![
        record(1, published(1_000_001, b"b", QOS1, Via::Subscription)),
        record(2, published(1_000_000, b"a", QOS1, Via::Retained)),
    ];
    rig.input(Input::Queue(Ok(QueuePage { records, next: Number(3) })));
    assert_eq!(payloads(&mut rig), b"b");
    assert!(rig.session.outdated.is_none(), "it is forgotten when nothing is left to be outdated");
}

// What is sent late is not what is new.
// v5 [MQTT-3.3.1-9]
#[test]
fn a_retained_message_is_not_outdated_by_an_older_one_that_waited_before_it() {
    let (older, newer) =
        (published(1, b"a", QOS1, Via::Subscription), published(2, b"b", QOS1, Via::Retained));
    let record = |number, delivery| Queued { number: Number(number), record: Record::Message(delivery) };
    for sent in [1, 2] {
        // Left in the queue by the connection before; the first one perhaps sent.
        let mut rig = plan().stored(1, sent, 3).open();
        rig.effects();
        let records = vec![record(1, older.clone()), record(2, newer.clone())];
        rig.input(Input::Queue(Ok(QueuePage { records, next: Number(3) })));
        assert_eq!(payloads(&mut rig), b"ab", "{sent}");
    }
    // On one connection.
    let mut rig = plan().with(Property::ReceiveMaximum(1)).open();
    subscribe(&mut rig);
    let first = published(1, b"0", QOS1, Via::Subscription);
    rig.input(Input::Deliver(first)).input(Input::Deliver(older));
    subscribe(&mut rig);
    rig.session.hand_in(&newer, 0);
    rig.input(Input::Retained(newer));
    rig.bytes(&[0x40, 2, 0, 1]).bytes(&[0x40, 2, 0, 2]);
    assert_eq!(payloads(&mut rig), b"ab");
}

#[test]
fn a_message_that_came_as_a_retained_one_does_not_come_live_again() {
    for qos in [QOS0, QOS1, QOS2] {
        let mut rig = v5();
        subscribe(&mut rig);
        rig.input(Input::Retained(retained(b"a", qos)));
        rig.session.close_retained();
        for _ in 0..2 {
            rig.input(Input::Deliver(live(b"a", qos)));
        }
        assert_eq!(payloads(&mut rig), b"aa", "{qos:?}: what is published twice comes twice");
    }
    let mut rig = plan().stored(1, 1, 1).open();
    subscribe(&mut rig);
    rig.input(Input::DeliverStored(Number(1), retained(b"a", QOS2)));
    rig.input(Input::DeliverStored(Number(2), live(b"a", QOS2)));
    assert_eq!(payloads(&mut rig), b"a");
    assert_eq!(rig.effect_names(), ["acknowledge 2"]);
}

// What is sent again on another connection is part of its flow, whatever came after it.
// v5 [MQTT-4.4.0-1]
#[test]
fn a_retained_message_in_flight_is_sent_again() {
    let mut rig = plan().stored(1, 3, 3).open();
    let record = |number, delivery| Queued { number: Number(number), record: Record::Message(delivery) };
    let records = vec![record(1, retained(b"a", QOS1)), record(2, live(b"b", QOS1))];
    rig.input(Input::Queue(Ok(QueuePage { records, next: Number(3) })));
    assert_eq!(payloads(&mut rig), b"ab");
}

// Another SUBSCRIBE comes while the retained message of the first one is on its way into the stored queue, behind the live copy.
#[test]
fn a_later_subscribe_lets_no_retained_message_of_an_earlier_one_come_twice() {
    let mut rig = plan().stored(1, 1, 1).open();
    subscribe(&mut rig);
    let (live, retained) = (live(b"a", QOS1), retained(b"a", QOS1));
    rig.session.hand_in(&retained, 0);
    rig.input(Input::DeliverStored(Number(1), live));
    assert_eq!(payloads(&mut rig), b"a");
    subscribe(&mut rig);
    rig.input(Input::DeliverStored(Number(2), retained.clone()));
    assert!(payloads(&mut rig).is_empty());
    // v5 [MQTT-3.3.1-9]: what the second one asked for comes, as often as it has filters that match.
    for number in 3..5 {
        rig.session.hand_in(&retained, 1);
        rig.input(Input::DeliverStored(Number(number), retained.clone()));
    }
    assert_eq!(payloads(&mut rig), b"aa");
    (0..2).for_each(|_| rig.session.hand_in(&retained, 1));
    for number in 5..7 {
        rig.input(Input::DeliverStored(Number(number), retained.clone()));
    }
    assert_eq!(payloads(&mut rig), b"aa");
}

#[test]
fn nothing_is_remembered_when_no_retained_message_is_awaited() {
    let mut rig = v5();
    subscribe(&mut rig);
    assert!(rig.session.outdated.is_some());
    rig.session.close_retained();
    rig.input(Input::Writable);
    assert!(rig.session.outdated.is_none());
    rig.input(Input::Deliver(live(b"a", QOS1)));
    assert!(rig.session.outdated.is_none());
}
