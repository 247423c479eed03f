//! Messages that a client may not have any more when their turn comes.

use std::sync::Arc;

use link::{Action, Effect as Verdict, Passport, Rule};
use mqtt::{Property, QoS};
use state::{Number, QueuePage, Queued, Record};

use super::{join, plan, rule, v5};
use crate::session::Input;
use crate::session::testing::{Rig, delivery};

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn may_have_t() -> Vec<Rule> {
    vec![rule(Verdict::Allow, Action::Subscribe, "t")]
}

fn renewed() -> Input<'static> {
    let rules = may_have_t().into();
    let passport = Passport::new("alice".into(), "client".into(), rules);
    Input::Renewed(Arc::new(passport))
}

fn message(number: u64, topic: &str, qos: QoS) -> Queued {
    Queued { number: Number(number), record: Record::Message(delivery(topic, b"", qos)) }
}

fn page(records: Vec<Queued>, next: u64) -> Input<'static> {
    Input::Queue(Ok(QueuePage { records, next: Number(next) }))
}

#[test]
fn what_waits_in_the_queue_passes_the_rules_of_now() {
    let mut plan = plan().stored(1, 4, 7);
    plan.rules = Some(may_have_t());
    let mut rig = plan.open();
    rig.effects();
    let released = Queued { number: Number(3), record: Record::Released };
    let queue = vec![
        message(1, "secret", QOS1),
        message(2, "secret", QOS2),
        released,
        message(4, "secret", QOS2),
        message(5, "t", QOS2),
        message(6, "secret", QOS1),
    ];
    rig.input(page(queue, 7));
    // What the client has taken goes on; 5 was not sent before.
    assert_eq!(rig.sent(), join(&[&[0x62, 2, 0, 3], &[0x34, 6, 0, 1, b't', 0, 5, 0]]));
    let counted = |qos| format!("dropped ReceiverNotAuthorized {qos}");
    let expected = [
        counted(1),
        "acknowledge 1".to_owned(),
        // The client may have it, and its identifier taken.
        counted(2),
        "release 2".to_owned(),
        counted(2),
        "acknowledge 4".to_owned(),
        counted(1),
        "acknowledge 6".to_owned(),
    ];
    assert_eq!(rig.effect_names(), expected);
    assert_eq!(rig.input(Input::Released(Number(2), Ok(()))).sent(), [0x62, 2, 0, 2]);
    // One that has it, and one that has not: v5 4.3.3, PUBCOMP 0x92.
    rig.bytes(&[0x70, 2, 0, 3]).bytes(&[0x70, 3, 0, 2, 0x92]).bytes(&[0x50, 2, 0, 5]);
    assert_eq!(rig.effect_names(), ["acknowledge 3", "acknowledge 2", "release 5"]);
}

#[test]
fn live_messages_of_a_stored_session_pass_them_too() {
    let mut plan = plan().stored(1, 1, 1);
    plan.rules = Some(may_have_t());
    let mut rig = plan.open();
    // Another worker did not know yet that the subscription has ended.
    rig.input(Input::DeliverStored(Number(1), delivery("secret", b"", QOS1)));
    rig.input(Input::Deliver(delivery("secret", b"", QOS0)));
    assert!(rig.sent().is_empty());
    let expected = ["dropped ReceiverNotAuthorized 1", "acknowledge 1", "dropped ReceiverNotAuthorized 0"];
    assert_eq!(rig.effect_names(), expected);
    rig.input(Input::DeliverStored(Number(2), delivery("t", b"", QOS1)));
    assert_eq!(rig.sent(), [0x32, 6, 0, 1, b't', 0, 2, 0]);
}

fn one_in_flight_two_waiting() -> Rig {
    let mut rig = plan().with(Property::ReceiveMaximum(1)).open();
    rig.input(Input::Deliver(delivery("secret", b"", QOS2)));
    rig.input(Input::Deliver(delivery("secret", b"", QOS1)));
    rig.input(Input::Deliver(delivery("t", b"", QOS1)));
    rig.sent();
    rig
}

#[test]
fn what_waits_when_the_passport_is_renewed_passes_the_new_rules() {
    let mut rig = one_in_flight_two_waiting();
    rig.input(renewed());
    for retained in [QOS0, QOS1] {
        rig.input(Input::Retained(delivery("secret", b"", retained)));
    }
    rig.effects();
    // What was sent before goes its way to the end.
    assert_eq!(rig.bytes(&[0x50, 2, 0, 1]).sent(), [0x62, 2, 0, 1]);
    rig.bytes(&[0x70, 2, 0, 1]);
    assert_eq!(rig.sent(), [0x32, 6, 0, 1, b't', 0, 3, 0]);
    assert_eq!(rig.effect_names(), ["dropped ReceiverNotAuthorized 1"]);
    rig.bytes(&[0x40, 2, 0, 3]);
    assert_eq!(rig.effect_names(), ["dropped ReceiverNotAuthorized 1"], "the retained one");
}

#[test]
fn the_same_rules_again_change_nothing() {
    let mut rig = one_in_flight_two_waiting();
    let all = Passport::unrestricted("alice".into(), "client".into());
    rig.input(Input::Renewed(Arc::new(all)));
    rig.bytes(&[0x50, 2, 0, 1]).bytes(&[0x70, 2, 0, 1]).bytes(&[0x40, 2, 0, 2]);
    let expected: Vec<u8> = join(&[
        &[0x62, 2, 0, 1],
        &[0x32, 11, 0, 6, b's', b'e', b'c', b'r', b'e', b't', 0, 2, 0],
        &[0x32, 6, 0, 1, b't', 0, 3, 0],
    ]);
    assert_eq!(rig.sent(), expected);
}

#[test]
fn a_session_whose_subscriptions_are_all_covered_is_not_looked_into() {
    let mut rig = v5();
    rig.input(Input::Deliver(delivery("$SYS/x", b"", QOS0)));
    assert!(!rig.sent().is_empty());
    // Renewed every few minutes, most passports say what they said before.
    let mut plan = plan();
    plan.rules = Some(may_have_t());
    let mut rig = plan.open();
    rig.input(renewed()).input(Input::Deliver(delivery("x", b"", QOS0)));
    assert!(!rig.sent().is_empty());
}
