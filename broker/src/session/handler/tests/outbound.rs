//! Messages to a client whose queue is in memory: flows, window, bounds, expiry, size, aliases, properties.

use mqtt::{Property, ProtocolVersion, QoS};
use state::{Message, SubscriptionIds};

use super::{join, plan, v5, v311};
use crate::session::Input;
use crate::session::testing::{Plan, delivery};

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

// v5 [MQTT-4.3.1-1], v5 [MQTT-4.3.2-2], v5 [MQTT-4.3.3-2], v5 [MQTT-2.2.1-4]
#[test]
fn a_message_is_written_as_its_qos_says() {
    let mut rig = v5();
    rig.input(Input::Deliver(delivery("t", b"x", QOS0)));
    rig.input(Input::Deliver(delivery("t", b"x", QOS1)));
    rig.input(Input::Deliver(delivery("t", b"x", QOS2)));
    let expected = join(&[
        &[0x30, 5, 0, 1, b't', 0, b'x'],
        &[0x32, 7, 0, 1, b't', 0, 1, 0, b'x'],
        &[0x34, 7, 0, 1, b't', 0, 2, 0, b'x'],
    ]);
    assert_eq!(rig.sent(), expected);
    let mut older = v311();
    older.input(Input::Deliver(delivery("t", b"x", QOS1)));
    assert_eq!(older.sent(), [0x32, 6, 0, 1, b't', 0, 1, b'x']);
}

// v5 [MQTT-3.3.2-6], v5 [MQTT-3.3.4-3], v5 [MQTT-3.3.4-4], v5 [MQTT-3.3.2-18]
#[test]
fn what_belongs_to_a_delivery_is_written() {
    let mut rig = v5();
    let user = [0x26, 0, 1, b'k', 0, 1, b'v'];
    let message = Message::new("t", &user, b"x", QOS0, true, rig.now - 1500).with_expiry(Some(10));
    let mut delivery = delivery("t", b"", QOS0);
    delivery.message = message.into();
    delivery.retain = true;
    delivery.subscription_ids = SubscriptionIds::from_slice(&[1, 200]);
    rig.input(Input::Deliver(delivery));
    let properties = join(&[&[0x02, 0, 0, 0, 9], &[0x0B, 1], &[0x0B, 0xC8, 0x01], &user]);
    let expected = join(&[&[0x31, 22, 0, 1, b't', 17], &properties, b"x"]);
    assert_eq!(rig.sent(), expected);
}

// v5 [MQTT-4.3.3-4], v5 [MQTT-4.3.3-5], v5 [MQTT-4.6.0-4]
#[test]
fn qos_2_goes_by_pubrec_and_pubcomp() {
    let mut rig = v5();
    rig.input(Input::Deliver(delivery("t", b"x", QOS2))).sent();
    assert_eq!(rig.bytes(&[0x50, 2, 0, 1]).sent(), [0x62, 2, 0, 1]);
    assert_eq!(rig.session.outbound.inflight(), 1);
    assert_eq!(rig.bytes(&[0x50, 2, 0, 1]).sent(), [0x62, 2, 0, 1]);
    assert!(rig.bytes(&[0x70, 2, 0, 1]).sent().is_empty());
    assert_eq!(rig.session.outbound.inflight(), 0);
    assert!(rig.effects().is_empty());
}

// v5 [MQTT-4.4.0-2]
#[test]
fn a_refusal_by_the_client_ends_the_flow() {
    let mut rig = v5();
    rig.input(Input::Deliver(delivery("t", b"x", QOS2)))
        .input(Input::Deliver(delivery("t", b"x", QOS1)))
        .sent();
    rig.bytes(&[0x50, 3, 0, 1, 0x80]).bytes(&[0x40, 3, 0, 2, 0x97]);
    assert!(rig.sent().is_empty());
    assert_eq!(rig.effect_names(), ["dropped Refused 2", "dropped Refused 1"]);
    assert_eq!(rig.session.outbound.inflight(), 0);
}

#[test]
fn acknowledgements_for_nothing_change_nothing() {
    let mut rig = v5();
    rig.input(Input::Deliver(delivery("t", b"x", QOS1))).sent();
    // PUBACK and PUBCOMP for other identifiers, and the wrong packet for this one.
    rig.bytes(&[0x40, 2, 0, 9]).bytes(&[0x70, 2, 0, 1]).bytes(&[0x70, 2, 0, 9]);
    assert!(rig.sent().is_empty());
    assert_eq!(rig.bytes(&[0x50, 2, 0, 9]).sent(), [0x62, 3, 0, 9, 0x92]);
    assert!(rig.bytes(&[0x50, 3, 0, 9, 0x80]).sent().is_empty());
    assert!(rig.effects().is_empty());
    assert_eq!(rig.session.outbound.inflight(), 1);
    assert_eq!(v311().bytes(&[0x50, 2, 0, 9]).sent(), [0x62, 2, 0, 9]);
}

// v5 [MQTT-3.3.4-9], v5 [MQTT-4.9.0-2], v5 [MQTT-4.9.0-3], v5 [MQTT-3.3.4-10]
#[test]
fn the_receive_maximum_holds_messages_back_and_nothing_else() {
    let mut rig = plan().with(Property::ReceiveMaximum(1)).open();
    for payload in [b"1", b"2", b"3"] {
        rig.input(Input::Deliver(delivery("t", payload, QOS2)));
    }
    assert_eq!(rig.sent(), [0x34, 7, 0, 1, b't', 0, 1, 0, b'1']);
    rig.input(Input::Deliver(delivery("t", b"0", QOS0)));
    assert_eq!(rig.sent(), [0x30, 5, 0, 1, b't', 0, b'0']);
    assert_eq!(rig.bytes(&[0x50, 2, 0, 1]).sent(), [0x62, 2, 0, 1]);
    // PUBREC does not give the window back, PUBCOMP does, PUBREC with an error too.
    assert_eq!(rig.bytes(&[0x70, 2, 0, 1]).sent(), [0x34, 7, 0, 1, b't', 0, 2, 0, b'2']);
    assert_eq!(rig.bytes(&[0x50, 3, 0, 2, 0x80]).sent(), [0x34, 7, 0, 1, b't', 0, 3, 0, b'3']);
}

#[test]
fn a_full_queue_drops_the_newest() {
    let plan = plan().with(Property::ReceiveMaximum(1)).configure(|c| c.queue_messages_max = 3);
    let mut rig = plan.open();
    for payload in [b"1", b"2", b"3", b"4"] {
        rig.input(Input::Deliver(delivery("t", payload, QOS1)));
    }
    assert_eq!(rig.effect_names(), ["dropped QueueFull 1"]);
    rig.sent();
    assert!(rig.bytes(&[0x40, 2, 0, 1]).sent().ends_with(b"2"));

    let mut rig =
        Plan::new(ProtocolVersion::V5).configure(|c| (c.queue_bytes_max, c.inflight_max) = (1000, 1)).open();
    for _ in 0..3 {
        rig.input(Input::Deliver(delivery("t", &[0; 600], QOS1)));
    }
    assert_eq!(rig.effect_names(), ["dropped QueueFull 1"]);
}

// v5 [MQTT-3.3.2-5]
#[test]
fn an_expired_message_is_dropped_before_it_is_sent() {
    let mut rig = plan().with(Property::ReceiveMaximum(1)).open();
    let expiring = |now| {
        let mut delivery = delivery("t", b"", QOS1);
        delivery.message = Message::new("t", &[], b"old", QOS1, false, now).with_expiry(Some(1)).into();
        delivery
    };
    let now = rig.now;
    rig.input(Input::Deliver(delivery("t", b"1", QOS1))).input(Input::Deliver(expiring(now)));
    rig.input(Input::Deliver(delivery("t", b"3", QOS1))).sent();
    rig.now += 1000;
    let sent = rig.bytes(&[0x40, 2, 0, 1]).sent();
    assert_eq!(sent, [0x32, 7, 0, 1, b't', 0, 3, 0, b'3']);
    let mut late = expiring(now);
    late.qos = QOS0;
    rig.input(Input::Deliver(late));
    assert_eq!(rig.effect_names(), ["dropped Expired 1", "dropped Expired 0"]);
}

// v5 [MQTT-3.1.2-24], v5 [MQTT-3.1.2-25]
#[test]
fn a_message_over_the_maximum_packet_size_is_as_if_completed() {
    let mut rig = plan().with(Property::MaximumPacketSize(30)).open();
    for (qos, len) in [(QOS0, 24), (QOS0, 25), (QOS1, 23), (QOS1, 22)] {
        rig.input(Input::Deliver(delivery("t", &vec![b'x'; len], qos)));
    }
    let sent = rig.sent();
    assert_eq!(sent.len(), 60);
    assert_eq!(sent[30..37], [0x32, 28, 0, 1, b't', 0, 2]);
    assert_eq!(rig.effect_names(), ["dropped TooLarge 0", "dropped TooLarge 1"]);
    assert_eq!(rig.session.outbound.inflight(), 1);
}

#[test]
fn qos_0_is_dropped_for_a_client_that_does_not_read() {
    let mut rig = plan().configure(|c| c.qos0_bytes_max = 100).open();
    for _ in 0..3 {
        rig.input(Input::Deliver(delivery("t", &[0; 60], QOS0)));
    }
    assert_eq!(rig.effect_names(), ["dropped SlowClient 0"]);
    rig.sent();
    rig.input(Input::Deliver(delivery("t", &[0; 60], QOS0)));
    assert!(rig.effects().is_empty());
}

#[test]
fn qos_1_waits_for_a_client_that_does_not_read() {
    let mut rig = v5();
    for _ in 0..6 {
        rig.input(Input::Deliver(delivery("t", &[0; 100_000], QOS1)));
    }
    assert_eq!(rig.session.outbound.inflight(), 3);
    assert!(rig.session.waits_for_room());
    assert!(rig.wire_len() > 300_000);
    rig.sent();
    rig.input(Input::Writable);
    assert_eq!(rig.session.outbound.inflight(), 6);
    assert!(!rig.session.waits_for_room());
    assert!(rig.effects().is_empty());
}

// v5 [MQTT-3.3.2-11], v5 [MQTT-3.1.2-26], v5 [MQTT-3.1.2-27]
#[test]
fn a_repeated_topic_is_sent_as_its_alias_when_the_client_allows_it() {
    let mut rig = plan().with(Property::TopicAliasMaximum(1)).open();
    rig.input(Input::Deliver(delivery("topic", b"1", QOS0)))
        .input(Input::Deliver(delivery("topic", b"2", QOS0)));
    rig.input(Input::Deliver(delivery("other", b"3", QOS0)));
    let expected = join(&[
        &[0x30, 12, 0, 5, b't', b'o', b'p', b'i', b'c', 3, 0x23, 0, 1, b'1'],
        &[0x30, 7, 0, 0, 3, 0x23, 0, 1, b'2'],
        &[0x30, 9, 0, 5, b'o', b't', b'h', b'e', b'r', 0, b'3'],
    ]);
    assert_eq!(rig.sent(), expected);
    let mut none = v5();
    none.input(Input::Deliver(delivery("topic", b"1", QOS0)));
    assert_eq!(none.sent(), [0x30, 9, 0, 5, b't', b'o', b'p', b'i', b'c', 0, b'1']);
}

#[test]
fn an_alias_is_not_taken_by_a_message_that_is_too_large() {
    let plan = plan().with(Property::TopicAliasMaximum(1)).with(Property::MaximumPacketSize(20));
    let mut rig = plan.open();
    rig.input(Input::Deliver(delivery("topic", &[0; 20], QOS0)));
    assert_eq!(rig.effect_names(), ["dropped TooLarge 0"]);
    rig.input(Input::Deliver(delivery("topic", b"1", QOS0)));
    assert_eq!(rig.sent(), [0x30, 12, 0, 5, b't', b'o', b'p', b'i', b'c', 3, 0x23, 0, 1, b'1']);
}

// v5 [MQTT-3.1.2-25] is about what the message itself needs.
#[test]
fn a_message_is_not_too_large_for_an_alias_that_it_does_not_need() {
    let plan = plan().with(Property::TopicAliasMaximum(1)).with(Property::MaximumPacketSize(20));
    let mut rig = plan.open();
    rig.input(Input::Deliver(delivery("topic", &[7; 10], QOS0)));
    let sent = rig.sent();
    assert_eq!((sent.len(), &sent[..10]), (20, &[0x30, 18, 0, 5, b't', b'o', b'p', b'i', b'c', 0][..]));
    rig.input(Input::Deliver(delivery("topic", &[7; 7], QOS0)));
    assert_eq!(rig.sent()[9..13], [3, 0x23, 0, 1], "there is room for it");
    rig.input(Input::Deliver(delivery("topic", &[7; 11], QOS0)));
    assert_eq!(rig.sent()[..4], [0x30, 17, 0, 0], "it is shorter by the alias");
    rig.input(Input::Deliver(delivery("topic", &[7; 15], QOS0)));
    assert_eq!(rig.effect_names(), ["dropped TooLarge 0"]);
}

#[test]
fn large_payloads_are_shared_and_small_ones_copied() {
    let mut rig = v5();
    let large = delivery("t", &[7; 5000], QOS0);
    rig.input(Input::Deliver(delivery("t", b"x", QOS0))).input(Input::Deliver(large));
    let sent = rig.sent();
    assert_eq!(sent.len(), 7 + 5008 - 1);
    assert!(sent.ends_with(&[7; 5000]));
}

#[test]
fn a_pubrec_without_subscribers_goes_on_as_any_other() {
    let mut rig = v5();
    rig.input(Input::Deliver(delivery("t", b"x", QOS2))).sent();
    assert_eq!(rig.bytes(&[0x50, 3, 0, 1, 0x10]).sent(), [0x62, 2, 0, 1]);
}
