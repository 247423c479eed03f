//! CONNACK and what CONNECT binds.

use bytes::Bytes;
use link::{Action, AuthenticationOutcome, Effect};
use mqtt::{ConnAck, Packet, Property, PropertyId, ProtocolVersion, QoS, ReasonCode, Receiver};

use super::{plan, rule};
use crate::session::handler::connect::response_prefix;
use crate::session::testing::{Plan, delivery};

fn connack(bytes: &[u8], version: ProtocolVersion) -> ConnAck<'_> {
    let frame = mqtt::frame::split(bytes, u32::MAX).unwrap().unwrap();
    assert_eq!(frame.raw.len(), bytes.len(), "nothing but CONNACK");
    match Packet::decode(version, Receiver::Client, frame).unwrap() {
        Packet::ConnAck(connack) => connack,
        other => panic!("{other:?}"),
    }
}

// v5 [MQTT-3.1.4-5], v5 [MQTT-3.2.2-2]
#[test]
fn connack_tells_what_differs_from_the_defaults() {
    let (rig, bytes, effects) = plan().with(Property::SessionExpiryInterval(5)).try_open();
    assert!(rig.is_ok() && effects.is_empty());
    let connack = connack(&bytes, ProtocolVersion::V5);
    assert!(!connack.session_present);
    let properties: Vec<_> = connack.properties.iter().collect();
    let expected = [
        Property::ReceiveMaximum(1024),
        Property::MaximumPacketSize(1_179_648),
        Property::TopicAliasMaximum(32),
    ];
    assert_eq!(properties, expected);
}

#[test]
fn connack_of_the_older_versions_is_four_bytes() {
    for (version, present) in [(ProtocolVersion::V31, 0), (ProtocolVersion::V311, 1)] {
        let mut plan = Plan::new(version).stored(1, 1, 1);
        plan.clean_start = false;
        assert_eq!(plan.try_open().1, [0x20, 2, present, 0], "{version:?}");
        assert_eq!(Plan::new(version).try_open().1, [0x20, 2, 0, 0], "{version:?}");
    }
}

// v5 [MQTT-3.2.2-3]
#[test]
fn session_present_is_what_the_store_says() {
    for present in [true, false] {
        let mut plan = plan().with(Property::SessionExpiryInterval(60)).stored(1, 1, 1);
        if let Some(owned) = &mut plan.stored {
            owned.present = present;
        }
        let bytes = plan.try_open().1;
        assert_eq!(connack(&bytes, ProtocolVersion::V5).session_present, present);
    }
}

#[test]
fn a_session_expiry_interval_that_was_shortened_is_told() {
    let plan = plan().with(Property::SessionExpiryInterval(100)).configure(|c| c.session_expiry_max_s = 30);
    let (rig, bytes, _) = plan.try_open();
    let properties = connack(&bytes, ProtocolVersion::V5).properties;
    let told = properties.find(PropertyId::SessionExpiryInterval);
    assert_eq!(told, Some(Property::SessionExpiryInterval(30)));
    assert_eq!(rig.unwrap().session.connection_lost().expiry_s, 30);
}

#[test]
fn clean_session_of_the_older_versions_says_how_long_a_session_lives() {
    let kept = |expiry_s| {
        let mut kept = Plan::new(ProtocolVersion::V311).configure(|c| c.session_expiry_v3_s = expiry_s);
        kept.clean_start = false;
        kept.open().session.connection_lost().expiry_s
    };
    assert_eq!((kept(60), kept(u32::MAX)), (60, u32::MAX));
    assert_eq!(Plan::new(ProtocolVersion::V311).open().session.connection_lost().expiry_s, 0);
}

// v5 [MQTT-3.2.2-16], v5 [MQTT-4.12.0-5], v5 [MQTT-3.2.2-21]
#[test]
fn what_the_edge_decided_is_told() {
    let mut plan = plan().configure(|c| c.shared_subscriptions = false);
    plan.assigned = true;
    plan.server_keep_alive_s = Some(30);
    let data = Some(Bytes::from_static(b"v=1"));
    plan.authentication = Some(AuthenticationOutcome { method: "SCRAM-SHA-256".into(), data });
    let bytes = plan.try_open().1;
    let properties = connack(&bytes, ProtocolVersion::V5).properties;
    for property in [
        Property::AssignedClientIdentifier("client"),
        Property::ServerKeepAlive(30),
        Property::AuthenticationMethod("SCRAM-SHA-256"),
        Property::AuthenticationData(b"v=1"),
        Property::SharedSubscriptionAvailable(false),
    ] {
        assert_eq!(properties.find(property.id()), Some(property));
    }
}

// v5 [MQTT-3.1.2-28]
#[test]
fn response_information_comes_only_when_it_was_asked_for() {
    for (asked, told) in [(false, None), (true, Some(Property::ResponseInformation("response/client")))] {
        let bytes = plan().with(Property::RequestResponseInformation(asked)).try_open().1;
        let properties = connack(&bytes, ProtocolVersion::V5).properties;
        assert_eq!(properties.find(PropertyId::ResponseInformation), told);
    }
    for client_id in ["#", "+", "a/+/b"] {
        assert_eq!(response_prefix(client_id), None, "{client_id} is no part of a topic");
    }
}

// v5 [MQTT-3.1.2-24]
#[test]
fn connack_respects_the_maximum_packet_size() {
    let open = |max| {
        let plan = plan().with(Property::RequestResponseInformation(true));
        plan.with(Property::MaximumPacketSize(max)).try_open()
    };
    let needed = open(20);
    assert!(needed.0.is_ok());
    assert!(needed.1.len() <= 20);
    for (max, connack) in [(10, &[0x20, 3, 0, 0x95, 0][..]), (5, &[0x20, 3, 0, 0x95, 0]), (4, &[])] {
        let refused = open(max);
        assert_eq!(refused.0.err(), Some(ReasonCode::PacketTooLarge));
        assert_eq!(refused.1, connack, "{max}");
    }
}

#[test]
fn a_will_that_may_not_be_published_refuses_the_connection() {
    let sys = |version| {
        let mut plan = Plan::new(version);
        plan.will_topic = Some("$SYS/broker");
        plan.try_open()
    };
    let (refused, bytes, effects) = sys(ProtocolVersion::V5);
    assert_eq!(refused.err(), Some(ReasonCode::NotAuthorized));
    assert!(effects.is_empty());
    assert_eq!(bytes, [0x20, 3, 0, 0x87, 0]);
    assert_eq!(sys(ProtocolVersion::V311).1, [0x20, 2, 0, 5]);

    let mut deep = plan().configure(|c| c.topic_levels_max = 2);
    deep.will_topic = Some("a/b/c");
    assert_eq!(deep.try_open().1, [0x20, 3, 0, 0x90, 0]);

    let mut denied = plan();
    denied.rules = Some(vec![rule(Effect::Allow, Action::Subscribe, "#")]);
    denied.will_topic = Some("a");
    assert_eq!(denied.try_open().0.err(), Some(ReasonCode::NotAuthorized));
}

// v5 [MQTT-3.3.4-9], v5 [MQTT-4.9.0-1]
#[test]
fn receive_maximum_is_the_smaller_of_the_clients_and_ours() {
    for (client, ours, window) in [(2, 10, 2), (10, 2, 2)] {
        let plan = plan().with(Property::ReceiveMaximum(client)).configure(|c| c.inflight_max = ours);
        let mut rig = plan.open();
        for _ in 0..5 {
            rig.input(crate::session::Input::Deliver(delivery("t", b"", QoS::AtLeastOnce)));
        }
        assert_eq!(rig.session.outbound.inflight(), window);
    }
}

#[test]
fn a_session_in_memory_begins_with_identifier_1_and_asks_for_nothing() {
    let (rig, _, effects) = plan().try_open();
    assert_eq!(rig.unwrap().session.sent().0, 1);
    assert!(effects.is_empty());
}
