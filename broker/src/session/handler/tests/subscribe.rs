//! SUBSCRIBE, UNSUBSCRIBE and the retained messages that follow.

use link::{Action, Effect as RuleEffect};
use mqtt::{
    Packet, PacketId, Properties, ProtocolVersion, QoS, ReasonCode, RetainHandling, SubscriptionOptions,
};

use super::{plan, rule, v5, v311};
use crate::session::testing::{Plan, Rig, delivery, id};
use crate::session::{Effect, Input, Request, RequestKind, SubscribeItem};

fn subscribe(rig: &mut Rig, packet_id: u16, filters: &[&str]) -> Vec<String> {
    let list: Vec<_> = filters.iter().map(|f| (*f, SubscriptionOptions::new(QoS::AtLeastOnce))).collect();
    let packet = mqtt::Subscribe {
        packet_id: PacketId::new(packet_id).unwrap(),
        properties: Properties::EMPTY,
        subscriptions: list.as_slice().into(),
    };
    rig.packet(&Packet::Subscribe(packet)).effect_names()
}

fn granted(rig: &mut Rig, packet_id: u16, codes: &[ReasonCode]) -> Vec<u8> {
    rig.input(Input::Responded(id(packet_id), RequestKind::Subscribe, codes.to_vec())).sent()
}

// v5 [MQTT-3.8.4-1], v5 [MQTT-3.8.4-2], v5 [MQTT-3.8.4-6], v5 [MQTT-3.9.3-1]
#[test]
fn suback_waits_for_the_subscriptions() {
    let mut rig = v5();
    assert_eq!(subscribe(&mut rig, 3, &["a/+", "b/#"]), ["subscribe 3 a/+ b/#"]);
    assert!(rig.sent().is_empty());
    let suback = granted(&mut rig, 3, &[ReasonCode::GrantedQoS1, ReasonCode::QuotaExceeded]);
    assert_eq!(suback, [0x90, 5, 0, 3, 0, 1, 0x97]);
    let mut older = v311();
    subscribe(&mut older, 3, &["a", "b"]);
    let suback = granted(&mut older, 3, &[ReasonCode::GrantedQoS1, ReasonCode::QuotaExceeded]);
    // v3.1.1 [MQTT-3.9.3-2]
    assert_eq!(suback, [0x90, 4, 0, 3, 1, 0x80]);
}

#[test]
fn options_and_the_identifier_are_handed_on() {
    let mut rig = v5();
    // Subscription Identifier 200; QoS 2, No Local, Retain As Published, Retain Handling 1.
    rig.bytes(&[0x82, 10, 0, 1, 3, 0x0B, 0xC8, 0x01, 0, 1, b'a', 0b01_1110]);
    let Some(Effect::Request(_, Request::Subscribe(items))) = rig.effects().pop() else {
        panic!("no subscribe")
    };
    let SubscribeItem { subscription, retain_handling, .. } = &items[0];
    let subscription = subscription.as_ref().unwrap();
    assert_eq!(*retain_handling, RetainHandling::SendIfNew);
    let expected = state::SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        subscription_id: 200,
    };
    assert_eq!((&*subscription.filter, subscription.options), ("a", expected));
}

// Another worker may have carried them out, and told nobody.
// v5 [MQTT-3.3.1-10], v5 section 3.11.3
#[test]
fn requests_that_are_said_again_are_taken_for_new_ones() {
    let mut rig = plan().stored(1, 1, 1).resumed(2).open();
    let mut requests = |expected: bool| {
        rig.bytes(&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0b01_0000]).bytes(&[0xa2, 6, 0, 2, 0, 0, 1, b'a']);
        let mut again = rig.effects().into_iter().filter_map(|effect| match effect {
            Effect::Request(_, Request::Subscribe(items)) => {
                Some(items[0].retain_handling == RetainHandling::Send)
            }
            Effect::Request(_, Request::Unsubscribe { is_again, .. }) => Some(is_again),
            _ => None,
        });
        assert_eq!((again.next(), again.next()), (Some(expected), Some(expected)));
        for (packet, kind) in [(1, RequestKind::Subscribe), (2, RequestKind::Unsubscribe)] {
            rig.input(Input::Responded(id(packet), kind, vec![ReasonCode::Success]));
        }
    };
    requests(true);
    requests(false);
}

#[test]
fn filters_that_are_not_allowed_are_refused_one_by_one() {
    let open = |version| {
        let mut plan = Plan::new(version).configure(|c| c.topic_levels_max = 3);
        plan.rules = Some(vec![rule(RuleEffect::Allow, Action::Subscribe, "own/#")]);
        plan.open()
    };
    let mut rig = open(ProtocolVersion::V5);
    let effects = subscribe(&mut rig, 1, &["own/a", "other", "own/a/b/c", "$share/g/own/#"]);
    assert_eq!(effects, ["limited topic_levels_max", "subscribe 1 own/a 0x87 0x8f $share/g/own/#"]);
    let mut older = open(ProtocolVersion::V311);
    assert!(subscribe(&mut older, 1, &["other"]).is_empty());
    assert_eq!(older.sent(), [0x90, 3, 0, 1, 0x80]);
}

// v5 [MQTT-4.8.2-1], v5 [MQTT-4.8.2-2], v5 [MQTT-3.8.3-4]
#[test]
fn shared_subscriptions_are_checked() {
    let mut rig = plan().configure(|c| c.shared_subscriptions = false).open();
    assert!(subscribe(&mut rig, 1, &["$share/g/a"]).is_empty());
    assert_eq!(rig.sent(), [0x90, 4, 0, 1, 0, 0x9E]);
    for filter in ["$share/a", "$share//a", "$share/g/", "$share/+/a"] {
        let mut rig = v5();
        assert_eq!(subscribe(&mut rig, 1, &[filter]), ["close 0x8f"], "{filter}");
    }
    let mut rig = v5();
    rig.bytes(&[0x82, 16, 0, 1, 0, 0, 10, b'$', b's', b'h', b'a', b'r', b'e', b'/', b'g', b'/', b'a', 0b100]);
    assert_eq!(rig.closing().reason, ReasonCode::ProtocolError);
    let mut rig = v5();
    subscribe(&mut rig, 1, &["$share/g/a"]);
    assert_eq!(granted(&mut rig, 1, &[ReasonCode::GrantedQoS1]), [0x90, 4, 0, 1, 0, 1]);
    assert!(rig.effects().is_empty(), "no retained messages for a share");
}

#[test]
fn one_subscription_too_many_is_refused_and_a_replaced_one_is_not() {
    let mut rig = plan().configure(|c| c.subscriptions_max = 2).open();
    let limited = "limited subscriptions_max";
    assert_eq!(subscribe(&mut rig, 1, &["a", "b", "c", "a"]), [limited, "subscribe 1 a b 0x97 a"]);
    let codes = [ReasonCode::Success, ReasonCode::Success, ReasonCode::QuotaExceeded, ReasonCode::Success];
    granted(&mut rig, 1, &codes);
    rig.effects();
    assert_eq!(subscribe(&mut rig, 2, &["b"]), ["subscribe 2 b"]);
    assert_eq!(subscribe(&mut rig, 3, &["d"]), [limited]);
    assert!(rig.sent().is_empty(), "in its turn");
    let told = granted(&mut rig, 2, &[ReasonCode::Success]);
    assert_eq!(told, [0x90, 4, 0, 2, 0, 0, 0x90, 4, 0, 3, 0, 0x97]);
    rig.bytes(&[0xA2, 6, 0, 4, 0, 0, 1, b'a']).input(Input::Responded(
        id(4),
        RequestKind::Unsubscribe,
        vec![ReasonCode::Success],
    ));
    rig.effects();
    assert_eq!(subscribe(&mut rig, 5, &["d"]), ["subscribe 5 d"]);
}

#[test]
fn a_stored_session_counts_the_subscriptions_it_had() {
    let mut plan = plan().configure(|c| c.subscriptions_max = 1).stored(1, 1, 1);
    let options = state::SubscriptionOptions {
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
    };
    if let Some(owned) = &mut plan.stored {
        owned.subscriptions = vec![state::Subscription { filter: "a".into(), options }];
    }
    let mut rig = plan.open();
    assert_eq!(subscribe(&mut rig, 1, &["b"]), ["limited subscriptions_max"]);
    assert_eq!(subscribe(&mut rig, 2, &["a"]), ["subscribe 2 a"]);
}

// v5 [MQTT-2.2.1-3]
#[test]
fn an_identifier_in_use_is_refused() {
    let mut rig = v5();
    subscribe(&mut rig, 1, &["a"]);
    assert!(subscribe(&mut rig, 1, &["b", "c"]).is_empty());
    assert_eq!(rig.sent(), [0x90, 5, 0, 1, 0, 0x91, 0x91]);
    assert!(rig.bytes(&[0xA2, 6, 0, 1, 0, 0, 1, b'a']).effects().is_empty());
    assert_eq!(rig.sent(), [0xB0, 4, 0, 1, 0, 0x91]);
    rig.publish("a", QoS::AtLeastOnce, 2).effects();
    assert!(subscribe(&mut rig, 2, &["b"]).is_empty());
    assert_eq!(rig.sent(), [0x90, 4, 0, 2, 0, 0x91]);
}

#[test]
fn requests_under_way_are_bounded() {
    let mut rig = v5();
    for n in 1..=256 {
        assert_eq!(subscribe(&mut rig, n, &["a"]).len(), 1);
    }
    assert!(subscribe(&mut rig, 257, &["a"]).is_empty());
    assert_eq!(rig.sent(), [0x90, 4, 1, 1, 0, 0x97]);
    rig.bytes(&[0xA2, 6, 1, 2, 0, 0, 1, b'a']);
    assert_eq!(rig.sent(), [0xB0, 4, 1, 2, 0, 0x83]);
}

// v5 [MQTT-3.10.4-4], v5 [MQTT-3.10.4-5], v5 [MQTT-3.11.3-1]
#[test]
fn unsuback_tells_of_each_filter() {
    let mut rig = v5();
    rig.bytes(&[0xA2, 9, 0, 9, 0, 0, 1, b'a', 0, 1, b'b']);
    assert_eq!(rig.effect_names(), ["unsubscribe 9 a b"]);
    rig.input(Input::Responded(
        id(9),
        RequestKind::Unsubscribe,
        vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted],
    ));
    assert_eq!(rig.sent(), [0xB0, 5, 0, 9, 0, 0, 0x11]);
    let mut older = v311();
    older.bytes(&[0xA2, 5, 0, 9, 0, 1, b'a']).input(Input::Responded(
        id(9),
        RequestKind::Unsubscribe,
        vec![ReasonCode::Success],
    ));
    assert_eq!(older.sent(), [0xB0, 2, 0, 9]);
}

#[test]
fn an_answer_to_nothing_is_not_written() {
    let mut rig = v5();
    rig.input(Input::Responded(id(1), RequestKind::Subscribe, vec![ReasonCode::Success]));
    rig.input(Input::Responded(id(1), RequestKind::Unsubscribe, vec![ReasonCode::Success]));
    assert!(rig.sent().is_empty());
}

// v5 [MQTT-3.1.2-24]
#[test]
fn a_suback_over_the_maximum_packet_size_ends_the_connection() {
    let mut rig = plan().with(mqtt::Property::MaximumPacketSize(20)).open();
    let filters = ["a"; 20];
    subscribe(&mut rig, 1, &filters);
    assert_eq!(granted(&mut rig, 1, &[ReasonCode::Success; 20]), [0xE0, 1, 0x95]);
    assert_eq!(rig.closing().reason, ReasonCode::PacketTooLarge);
}

#[test]
fn retained_messages_are_asked_for_as_the_client_takes_them() {
    let mut rig = plan().with(mqtt::Property::ReceiveMaximum(10)).open();
    subscribe(&mut rig, 1, &["#"]);
    granted(&mut rig, 1, &[ReasonCode::GrantedQoS1]);
    assert_eq!(rig.effect_names(), ["retained 64"]);
    for _ in 0..64 {
        rig.input(Input::Retained(delivery("t", b"r", QoS::AtLeastOnce)));
    }
    // 10 are in flight and 54 wait: there is room for some more.
    assert_eq!(rig.effect_names(), ["retained 64"]);
    for _ in 0..64 {
        rig.input(Input::Retained(delivery("t", b"r", QoS::AtLeastOnce)));
    }
    assert!(rig.effects().is_empty());
    let mut asked = 0;
    for n in 1..=128 {
        rig.bytes(&[0x40, 2, 0, n]);
        asked += rig.effect_names().len();
    }
    assert_eq!(asked, 1);
}

#[test]
fn retained_messages_of_qos_0_are_asked_for_when_the_transport_took_the_last_ones() {
    let mut rig = v5();
    subscribe(&mut rig, 1, &["#"]);
    granted(&mut rig, 1, &[ReasonCode::GrantedQoS1]);
    rig.effects();
    for _ in 0..64 {
        rig.input(Input::Retained(delivery("t", &[0; 8000], QoS::AtMostOnce)));
    }
    assert!(rig.effects().is_empty());
    rig.sent();
    assert_eq!(rig.input(Input::Writable).effect_names(), ["retained 64"]);
}

// However many packets it comes in, what waits for the store is bounded by what a client may subscribe to.
#[test]
fn filters_under_way_have_a_bound() {
    let mut rig = plan().configure(|c| c.subscriptions_max = 3).open();
    assert_eq!(subscribe(&mut rig, 1, &["a", "b", "c"]).len(), 1);
    assert!(subscribe(&mut rig, 2, &["a"]).is_empty());
    assert_eq!(rig.sent(), [0x90, 4, 0, 2, 0, 0x97]);
    // UNSUBSCRIBE of "a".
    rig.bytes(&[0xA2, 6, 0, 3, 0, 0, 1, b'a']);
    assert_eq!(rig.sent(), [0xB0, 4, 0, 3, 0, 0x83]);
    granted(&mut rig, 1, &[ReasonCode::GrantedQoS1; 3]);
    rig.effects();
    assert_eq!(subscribe(&mut rig, 2, &["a"]), ["subscribe 2 a"]);
}
