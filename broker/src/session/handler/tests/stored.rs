//! Messages to a client whose queue is in the store: resending, reading ahead, gaps, durability of each step.

use mqtt::{Property, QoS};
use state::{Message, Number, QueuePage, Queued, Record, StoreError};

use super::{join, plan};
use crate::session::testing::{Rig, delivery, id};
use crate::session::{Effect, Input, StoreOp};

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn message(number: u64, qos: QoS) -> Queued {
    let payload = number.to_string();
    Queued { number: Number(number), record: Record::Message(delivery("t", payload.as_bytes(), qos)) }
}

fn page(records: Vec<Queued>, next: u64) -> Input<'static> {
    Input::Queue(Ok(QueuePage { records, next: Number(next) }))
}

fn stored(number: u64, qos: QoS) -> Input<'static> {
    Input::DeliverStored(Number(number), delivery("t", number.to_string().as_bytes(), qos))
}

// v5 [MQTT-4.4.0-1], v5 [MQTT-3.3.1-1], v5 [MQTT-4.6.0-1], v5 [MQTT-4.3.3-6]
#[test]
fn what_was_in_flight_is_sent_again_in_order_with_its_identifiers() {
    let mut rig = plan().stored(3, 6, 7).open();
    assert_eq!(rig.effect_names(), ["read 3 512"]);
    let released = Queued { number: Number(4), record: Record::Released };
    // 5 was acknowledged before.
    rig.input(page(vec![message(3, QOS2), released, message(6, QOS1)], 7));
    let expected = join(&[
        &[0x3C, 7, 0, 1, b't', 0, 3, 0, b'3'],
        &[0x62, 2, 0, 4],
        // Not sent before: no DUP.
        &[0x32, 7, 0, 1, b't', 0, 6, 0, b'6'],
    ]);
    assert_eq!(rig.sent(), expected);
    assert!(rig.effects().is_empty());
    assert_eq!(rig.session.sent(), Number(7));
    rig.bytes(&[0x70, 2, 0, 4]).bytes(&[0x40, 2, 0, 6]);
    assert_eq!(rig.effect_names(), ["acknowledge 4", "acknowledge 6"]);
}

// A note of it may come from before the session was here last, when the device had not released it yet.
// v5 [MQTT-4.3.3-6]
#[test]
fn what_may_have_been_sent_before_is_what_the_queue_says() {
    let mut rig = plan().stored(3, 4, 4).open();
    assert!(rig.input(stored(3, QOS2)).sent().is_empty());
    let released = Queued { number: Number(3), record: Record::Released };
    assert_eq!(rig.input(page(vec![released], 4)).sent(), [0x62, 2, 0, 3]);
    assert_eq!(rig.input(stored(4, QOS1)).sent(), [0x32, 7, 0, 1, b't', 0, 4, 0, b'4']);
}

#[test]
fn what_was_sent_before_stays_noted_when_it_was_not_sent_again() {
    let mut rig = plan().with(Property::ReceiveMaximum(1)).stored(1, 5, 9).open();
    rig.input(page((1..9).map(|n| message(n, QOS1)).collect(), 9));
    assert_eq!(rig.session.sent(), Number(5));
    for n in 1..6 {
        rig.bytes(&[0x40, 2, 0, n]);
    }
    assert_eq!(rig.session.sent(), Number(7));
}

// v5 [MQTT-4.3.3-7]
#[test]
fn what_was_sent_does_not_expire() {
    let mut rig = plan().stored(1, 2, 3).open();
    rig.effects();
    let old = |number| {
        let mut delivery = delivery("t", b"", QOS2);
        delivery.message = Message::new("t", &[], b"old", QOS2, false, 0).with_expiry(Some(1)).into();
        Queued { number: Number(number), record: Record::Message(delivery) }
    };
    rig.input(page(vec![old(1), old(2)], 3));
    // Message Expiry Interval 0 is what is left.
    let expected = [0x3C, 14, 0, 1, b't', 0, 1, 5, 0x02, 0, 0, 0, 0, b'o', b'l', b'd'];
    assert_eq!(rig.sent(), expected);
    assert_eq!(rig.effect_names(), ["dropped Expired 2", "acknowledge 2"]);
}

#[test]
fn each_step_of_a_qos_2_flow_waits_for_the_store() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.input(stored(1, QOS2)).sent();
    rig.bytes(&[0x50, 2, 0, 1]);
    assert!(rig.sent().is_empty());
    assert_eq!(rig.effect_names(), ["release 1"]);
    assert_eq!(rig.input(Input::Released(Number(1), Ok(()))).sent(), [0x62, 2, 0, 1]);
    rig.bytes(&[0x70, 2, 0, 1]);
    assert_eq!(rig.effect_names(), ["acknowledge 1"]);
    // A late answer changes nothing.
    assert!(rig.input(Input::Released(Number(1), Ok(()))).sent().is_empty());
}

#[test]
fn pubrec_is_tried_again_when_the_store_was_away() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.input(stored(1, QOS2)).bytes(&[0x50, 2, 0, 1]);
    let away = StoreError::Unavailable(std::sync::Arc::new(std::io::Error::other("away")));
    rig.input(Input::Released(Number(1), Err(away)));
    rig.sent();
    rig.effects();
    assert_eq!(rig.bytes(&[0x50, 2, 0, 1]).effect_names(), ["release 1"]);
}

// What one client asks of the store has a bound, however often it says the same.
#[test]
fn pubrec_and_pubrel_ask_the_store_once_while_it_has_not_answered() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.input(stored(1, QOS2));
    rig.publish("t", QOS2, 5).published(5, QOS2);
    rig.effects();
    for _ in 0..3 {
        rig.bytes(&[0x50, 2, 0, 1]).bytes(&[0x62, 2, 0, 5]);
    }
    assert_eq!(rig.effect_names(), ["release 1", "forget 5"]);
    rig.sent();
    rig.input(Input::Forgotten(id(5), Ok(()))).input(Input::Released(Number(1), Ok(())));
    assert_eq!(rig.sent(), [0x70, 2, 0, 5, 0x62, 2, 0, 1]);
}

// A store over several servers may have it as not routed to the end, and would take the next message with this identifier for
// the same one.
#[test]
fn pubrel_for_an_identifier_of_an_earlier_connection_is_told_the_store() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.bytes(&[0x62, 2, 0, 9]).bytes(&[0x62, 2, 0, 9]);
    assert_eq!(rig.effect_names(), ["forget 9"]);
    assert!(rig.sent().is_empty());
    rig.input(Input::Forgotten(id(9), Ok(())));
    assert_eq!(rig.sent(), [0x70, 3, 0, 9, 0x92]);
    assert_eq!(rig.publish("t", QOS2, 9).effect_names(), ["publish 9 t"]);
}

#[test]
fn a_refusal_by_the_client_removes_the_record() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.input(stored(1, QOS2)).input(stored(2, QOS1));
    rig.bytes(&[0x50, 3, 0, 1, 0x80]).bytes(&[0x40, 3, 0, 2, 0x80]);
    let expected = ["acknowledge 1", "dropped Refused 2", "acknowledge 2", "dropped Refused 1"];
    assert_eq!(rig.effect_names(), expected);
}

#[test]
fn messages_beyond_the_window_are_read_ahead_and_then_left_in_the_store() {
    let mut rig = plan().with(Property::ReceiveMaximum(1)).stored(1, 1, 1).open();
    for n in 1..=600 {
        rig.input(stored(n, QOS1));
    }
    assert_eq!(rig.session.outbound.waiting(), 512);
    assert!(rig.effects().is_empty());
    let mut reads = Vec::new();
    for n in 1..=600_u16 {
        let [high, low] = n.to_be_bytes();
        rig.bytes(&[0x40, 2, high, low]);
        for effect in rig.effects() {
            if let Effect::Store(StoreOp::ReadQueue(from, _)) = effect {
                reads.push(from.0);
                rig.input(page((from.0..=600).map(|n| message(n, QOS1)).collect(), 601));
            }
        }
    }
    assert_eq!(reads, [514]);
    assert_eq!(rig.session.sent(), Number(601));
    assert_eq!(rig.session.outbound.inflight(), 0);
}

#[test]
fn a_gap_makes_the_session_read_its_queue_once() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.input(stored(1, QOS1)).input(stored(3, QOS1)).input(stored(4, QOS1));
    assert_eq!(rig.effect_names(), ["read 2 512"]);
    // Late, then again in the page.
    rig.input(stored(2, QOS1)).input(stored(2, QOS1));
    rig.input(page(vec![message(2, QOS1), message(3, QOS1), message(4, QOS1)], 5));
    assert!(rig.effects().is_empty());
    assert_eq!(rig.session.sent(), Number(5));
    rig.input(stored(1, QOS1)).input(stored(5, QOS1));
    assert_eq!(rig.session.sent(), Number(6));
}

#[test]
fn messages_that_were_not_handed_in_are_read() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.input(stored(1, QOS1)).input(Input::Missed(Number(3)));
    assert_eq!(rig.effect_names(), ["read 2 512"]);
    rig.input(page(vec![message(2, QOS1), message(3, QOS1)], 4)).input(Input::Missed(Number(2)));
    assert!(rig.effects().is_empty());
    assert_eq!(rig.session.sent(), Number(4));
}

#[test]
fn a_queue_that_ends_early_is_not_read_for_ever() {
    let mut rig = plan().stored(1, 1, 4).open();
    rig.effects();
    rig.input(page(Vec::new(), 1));
    assert!(rig.effects().is_empty());
    assert_eq!(rig.input(stored(1, QOS1)).session.sent(), Number(2));
}

#[test]
fn a_queue_longer_than_a_page_is_read_page_by_page() {
    let mut rig = plan().stored(1, 1, 1001).open();
    assert_eq!(rig.effect_names(), ["read 1 512"]);
    rig.input(page((1..=512).map(|n| message(n, QOS1)).collect(), 513));
    assert_eq!(rig.effect_names(), ["read 513 512"]);
    rig.input(page((513..=1000).map(|n| message(n, QOS1)).collect(), 1001));
    assert!(rig.effects().is_empty());
    assert_eq!(rig.session.outbound.inflight(), 1000);
}

#[test]
fn a_message_too_large_for_the_client_leaves_the_store() {
    let mut rig = plan().with(Property::MaximumPacketSize(30)).stored(1, 1, 1).open();
    rig.input(Input::DeliverStored(Number(1), delivery("t", &[0; 30], QOS1)));
    assert_eq!(rig.effect_names(), ["dropped TooLarge 1", "acknowledge 1"]);
}

// The client may have it, and would take a later message with its identifier for this one.
#[test]
fn a_qos_2_message_that_was_sent_and_cannot_be_sent_again_is_released() {
    let large = delivery("t", &[0; 30], QOS2);
    let expired = {
        let message = Message::new("t", &[], b"x", QOS2, false, 0).with_expiry(Some(1));
        state::testing::delivery(&message.into(), QOS2)
    };
    for (delivery, reason) in [(large, "TooLarge"), (expired, "Expired")] {
        let mut plan = plan().with(Property::MaximumPacketSize(30)).stored(1, 1, 4);
        if let Some(owned) = &mut plan.stored {
            // On an earlier connection than the last one.
            owned.repeats = Number(3);
        }
        let mut rig = plan.open();
        rig.effects();
        let copy = |number| Queued { number: Number(number), record: Record::Message(delivery.clone()) };
        rig.input(page(vec![copy(1), message(2, QOS1), copy(3)], 4));
        assert_eq!(rig.sent(), [0x3A, 7, 0, 1, b't', 0, 2, 0, b'2']);
        let dropped = format!("dropped {reason} 2");
        assert_eq!(rig.effect_names(), [&*dropped, "release 1", &*dropped, "acknowledge 3"]);
        assert_eq!(rig.input(Input::Released(Number(1), Ok(()))).sent(), [0x62, 2, 0, 1]);
        assert_eq!(rig.bytes(&[0x70, 2, 0, 1]).effect_names(), ["acknowledge 1"]);
    }
}

#[test]
fn qos_0_takes_no_number() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.input(Input::Deliver(delivery("t", b"0", QoS::AtMostOnce))).input(stored(1, QOS1));
    let expected = join(&[&[0x30, 5, 0, 1, b't', 0, b'0'], &[0x32, 7, 0, 1, b't', 0, 1, 0, b'1']]);
    assert_eq!(rig.sent(), expected);
}

#[test]
fn a_store_that_lost_the_session_ends_the_connection() {
    for error in [StoreError::Fenced, StoreError::NoSession] {
        let mut rig: Rig = plan().stored(1, 1, 2).open();
        rig.effects();
        rig.input(Input::Queue(Err(error)));
        assert_eq!(rig.sent(), [0xE0, 1, 0x8E]);
    }
    let mut rig = plan().stored(1, 1, 2).open();
    rig.input(Input::Forgotten(id(1), Err(StoreError::Damaged { what: "test" })));
    assert_eq!(rig.sent(), [0xE0, 1, 0x80]);
}

// ARCHITECTURE, rule 13; v5 [MQTT-2.2.1-4].
#[test]
fn what_would_have_an_identifier_that_is_taken_waits() {
    // As far apart as there are identifiers.
    let released = Queued { number: Number(65_536), record: Record::Released };
    let publish = [0x32, 11, 0, 1, b't', 0, 1, 0, b'6', b'5', b'5', b'3', b'6'];
    for (later, packet) in [(message(65_536, QOS1), &publish[..]), (released, &[0x62, 2, 0, 1])] {
        let mut rig = plan().stored(1, 1, 65_537).open();
        rig.input(page(vec![message(1, QOS1), later], 65_537));
        assert_eq!(rig.sent(), [0x32, 7, 0, 1, b't', 0, 1, 0, b'1']);
        assert_eq!(rig.bytes(&[0x40, 2, 0, 1]).sent(), packet);
    }
}
