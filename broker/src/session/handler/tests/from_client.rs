//! PUBLISH, PUBREL from the client: acknowledgements, order, identifiers, quotas, aliases, authorization.

use link::{Action, Effect as RuleEffect};
use mqtt::{ProtocolVersion, QoS, ReasonCode};
use state::StoreError;

use super::{join, plan, rule, v5, v311};
use crate::session::testing::{Plan, Rig, id};
use crate::session::{Effect, Input};

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn unavailable() -> StoreError {
    StoreError::Unavailable(std::sync::Arc::new(std::io::Error::other("away")))
}

// v5 [MQTT-3.3.2-17], v5 [MQTT-3.3.2-4], v5 [MQTT-3.3.2-15], v5 [MQTT-3.3.2-16], v5 [MQTT-3.3.2-20]
#[test]
fn a_message_is_handed_on_with_its_properties_and_without_what_is_between_us() {
    let mut rig = v5();
    // Topic Alias 1, User Property b=1, Message Expiry Interval 60, User Property a=2.
    let properties = [
        &[0x23, 0, 1][..],
        &[0x26, 0, 1, b'b', 0, 1, b'1'],
        &[0x02, 0, 0, 0, 60],
        &[0x26, 0, 1, b'a', 0, 1, b'2'],
    ]
    .concat();
    let mut packet = vec![0x31, 4 + u8::try_from(properties.len()).unwrap() + 3, 0, 1, b't'];
    packet.push(u8::try_from(properties.len()).unwrap());
    packet.extend_from_slice(&properties);
    packet.extend_from_slice(b"xyz");
    rig.bytes(&packet);
    let Some(Effect::Publish(None, message)) = rig.effects().pop() else { panic!("no publish") };
    assert_eq!((message.topic(), message.payload_slice(), message.retain()), ("t", &b"xyz"[..], true));
    assert_eq!(message.properties(), [0x26, 0, 1, b'b', 0, 1, b'1', 0x26, 0, 1, b'a', 0, 1, b'2']);
    assert_eq!(message.expires_at(), Some(rig.now + 60_000));
    assert_eq!(message.published_at(), rig.now);
}

// v5 [MQTT-4.3.2-4]
#[test]
fn puback_waits_for_the_store() {
    let mut rig = v5();
    rig.publish("a", QOS1, 7);
    assert!(rig.sent().is_empty());
    assert_eq!(rig.effect_names(), ["publish 7 a"]);
    assert_eq!(rig.published(7, QOS1).sent(), [0x40, 2, 0, 7]);
    rig.publish("a", QOS1, 7).input(Input::Published(id(7), QOS1, Ok(ReasonCode::NoMatchingSubscribers)));
    assert_eq!(rig.sent(), [0x40, 3, 0, 7, 0x10]);
}

#[test]
fn acknowledgements_have_no_reason_code_before_mqtt_5() {
    let mut rig = v311();
    rig.publish("a", QOS1, 7).input(Input::Published(id(7), QOS1, Ok(ReasonCode::NoMatchingSubscribers)));
    assert_eq!(rig.sent(), [0x40, 2, 0, 7]);
    rig.publish("a", QOS2, 8).input(Input::Published(id(8), QOS2, Ok(ReasonCode::NoMatchingSubscribers)));
    assert_eq!(rig.sent(), [0x50, 2, 0, 8]);
}

#[test]
fn acknowledgements_go_out_in_the_order_of_the_messages() {
    let mut rig = v5();
    rig.publish("a", QOS1, 1).publish("b", QOS2, 2).publish("c", QOS1, 3);
    rig.published(3, QOS1).published(2, QOS2);
    assert!(rig.sent().is_empty());
    assert_eq!(rig.published(1, QOS1).sent(), join(&[&[0x40, 2, 0, 1], &[0x50, 2, 0, 2], &[0x40, 2, 0, 3]]));
}

// P9
#[test]
fn nothing_is_acknowledged_while_the_store_is_away() {
    for version in ProtocolVersion::ALL {
        let mut rig = Rig::new(version);
        rig.publish("a", QOS1, 1).input(Input::Published(id(1), QOS1, Err(unavailable())));
        assert!(rig.sent().is_empty());
        assert_eq!(rig.effect_names(), ["publish 1 a"]);
        rig.published(1, QOS1);
        assert_eq!(rig.sent(), [0x40, 2, 0, 1]);
    }
}

#[test]
fn a_full_store_refuses_a_message_with_0x97() {
    let mut rig = v5();
    rig.publish("a", QOS2, 1).input(Input::Published(id(1), QOS2, Err(StoreError::RetainedQuota)));
    assert_eq!(rig.sent(), [0x50, 3, 0, 1, 0x97]);
}

#[test]
fn a_newer_owner_ends_the_connection() {
    let mut rig = v5();
    rig.publish("a", QOS1, 1).input(Input::Published(id(1), QOS1, Err(StoreError::Fenced)));
    assert_eq!(rig.sent(), [0xE0, 1, 0x8E]);
}

// v5 [MQTT-4.3.3-8], v5 [MQTT-4.3.3-10], v5 [MQTT-4.3.3-11], v5 [MQTT-4.3.3-12]
#[test]
fn a_qos_2_message_is_published_once_until_pubrel() {
    let mut rig = v5();
    rig.publish("a", QOS2, 5).publish("a", QOS2, 5);
    assert_eq!(rig.effect_names(), ["publish 5 a"]);
    // One PUBREC acknowledges both.
    assert_eq!(rig.published(5, QOS2).sent(), [0x50, 2, 0, 5]);
    assert_eq!(rig.publish("a", QOS2, 5).sent(), [0x50, 2, 0, 5]);
    assert!(rig.effects().is_empty());
    assert_eq!(rig.bytes(&[0x62, 2, 0, 5]).sent(), [0x70, 2, 0, 5]);
    assert_eq!(rig.publish("a", QOS2, 5).effect_names(), ["publish 5 a"]);
}

// v5 [MQTT-4.3.3-9]
#[test]
fn a_refused_qos_2_message_frees_its_identifier() {
    let mut rig = v5();
    rig.publish("$SYS/a", QOS2, 5);
    assert_eq!(rig.sent(), [0x50, 3, 0, 5, 0x87]);
    assert_eq!(rig.effect_names(), ["dropped NotAuthorized 2"]);
    rig.publish("a", QOS2, 5).input(Input::Published(id(5), QOS2, Err(StoreError::RetainedQuota)));
    rig.effects();
    assert_eq!(rig.publish("a", QOS2, 5).effect_names(), ["publish 5 a"]);
}

#[test]
fn pubrel_for_nothing_is_answered() {
    assert_eq!(v5().bytes(&[0x62, 2, 0, 9]).sent(), [0x70, 3, 0, 9, 0x92]);
    assert_eq!(v311().bytes(&[0x62, 2, 0, 9]).sent(), [0x70, 2, 0, 9]);
}

#[test]
fn pubrel_before_pubrec_is_a_protocol_error() {
    let mut rig = v5();
    rig.publish("a", QOS2, 5).bytes(&[0x62, 2, 0, 5]);
    assert_eq!(rig.closing().reason, ReasonCode::ProtocolError);
}

#[test]
fn pubcomp_of_a_stored_session_waits_for_the_store() {
    let mut rig = plan().stored(1, 1, 1).open();
    rig.publish("a", QOS2, 5).published(5, QOS2);
    rig.sent();
    rig.effects();
    rig.bytes(&[0x62, 2, 0, 5]);
    assert!(rig.sent().is_empty());
    assert_eq!(rig.effect_names(), ["forget 5"]);
    // Still taken: not published again.
    assert_eq!(rig.publish("a", QOS2, 5).sent(), [0x50, 3, 0, 5, 0x91]);
    assert!(rig.effects().is_empty());
    assert_eq!(rig.input(Input::Forgotten(id(5), Ok(()))).sent(), [0x70, 2, 0, 5]);
}

// v5 [MQTT-4.3.3-10]
#[test]
fn identifiers_of_an_earlier_connection_are_known() {
    let mut stored = plan().stored(1, 1, 1).configure(|c| c.receive_maximum = 1);
    if let Some(owned) = &mut stored.stored {
        owned.received = vec![id(5), id(6)];
    }
    let mut rig = stored.open();
    assert_eq!(rig.publish("a", QOS2, 5).sent(), [0x50, 2, 0, 5]);
    assert!(rig.effects().is_empty());
    // They do not count against the Receive Maximum of this connection.
    assert_eq!(rig.publish("a", QOS1, 1).effect_names(), ["publish 1 a"]);
}

/// A stored session that has `5` from an earlier connection.
fn with_received() -> Rig {
    let mut stored = plan().stored(1, 1, 1);
    if let Some(owned) = &mut stored.stored {
        owned.received = vec![id(5)];
    }
    stored.open()
}

// What is sent again before it is retained before it; and that it was is not known.
#[test]
fn a_message_of_an_earlier_connection_is_retained_again_in_its_place() {
    let mut rig = with_received();
    let retained = |qos, packet_id| {
        let publish = testkit::connection::publish("a", b"x", qos, packet_id);
        mqtt::Packet::Publish(mqtt::Publish { retain: true, dup: true, ..publish })
    };
    rig.packet(&retained(QOS1, 4)).packet(&retained(QOS2, 5)).packet(&retained(QOS2, 5));
    assert_eq!(rig.effect_names(), ["publish 4 a", "retain 5 a"]);
    assert!(rig.published(5, QOS2).sent().is_empty(), "the first was not acknowledged");
    assert_eq!(rig.published(4, QOS1).sent(), [0x40, 2, 0, 4, 0x50, 2, 0, 5]);
    rig.bytes(&[0x62, 2, 0, 5]);
    assert_eq!(rig.effect_names(), ["forget 5"]);
}

// v5 [MQTT-4.3.3-9]: the store may have it by the time that a part is refused.
#[test]
fn the_identifier_of_a_refused_qos_2_message_is_forgotten_by_the_store() {
    for mut rig in [with_received(), plan().stored(1, 1, 1).open()] {
        let publish = testkit::connection::publish("a", b"x", QOS2, 5);
        rig.packet(&mqtt::Packet::Publish(mqtt::Publish { retain: true, ..publish }));
        rig.effects();
        rig.input(Input::Published(id(5), QOS2, Err(StoreError::RetainedQuota)));
        assert_eq!(rig.effect_names(), ["forget 5"]);
        assert_eq!(rig.sent(), [0x50, 3, 0, 5, 0x97]);
        assert_eq!(rig.publish("b", QOS2, 5).effect_names(), ["publish 5 b"]);
        rig.input(Input::Forgotten(id(5), Ok(())));
        assert_eq!(rig.published(5, QOS2).sent(), [0x50, 2, 0, 5]);
    }
}

/// `PUBLISH` of "denied" with DUP, as a client sends it again.
fn denied_again(retain: bool) -> mqtt::Packet<'static> {
    let publish = testkit::connection::publish("denied", b"x", QOS2, 5);
    mqtt::Packet::Publish(mqtt::Publish { dup: true, retain, ..publish })
}

fn denying(mut plan: Plan) -> Plan {
    let deny = rule(RuleEffect::Deny, Action::Publish, "denied");
    plan.rules = Some(vec![deny, rule(RuleEffect::Allow, Action::Publish, "#")]);
    plan
}

// v5 [MQTT-4.3.3-10]: with an error the client would use the identifier for another message, which would be taken for this one.
#[test]
fn a_qos_2_message_that_was_taken_is_acknowledged_again_though_it_is_denied_now() {
    for (version, retain) in ProtocolVersion::ALL.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let mut plan = denying(Plan::new(version).stored(1, 1, 1));
        if let Some(owned) = &mut plan.stored {
            owned.received = vec![id(5)];
        }
        let mut rig = plan.open();
        assert_eq!(rig.packet(&denied_again(retain)).sent(), [0x50, 2, 0, 5]);
        assert!(rig.effects().is_empty());
        assert_eq!(rig.bytes(&[0x62, 2, 0, 5]).effect_names(), ["forget 5"]);
        assert_eq!(rig.input(Input::Forgotten(id(5), Ok(()))).sent(), [0x70, 2, 0, 5]);
        assert_eq!(rig.publish("b", QOS2, 5).effect_names(), ["publish 5 b"]);
    }
}

#[test]
fn nobody_is_asked_about_a_qos_2_message_that_was_taken_unless_it_is_retained_again() {
    for retain in [false, true] {
        let mut plan = plan().stored(1, 1, 1);
        plan.rules = Some(vec![rule(RuleEffect::Ask, Action::Publish, "#")]);
        if let Some(owned) = &mut plan.stored {
            owned.received = vec![id(5)];
        }
        let mut rig = plan.open();
        let mut bytes = Vec::new();
        denied_again(retain).encode(ProtocolVersion::V5, &mut bytes);
        let frame = mqtt::frame::split(&bytes, u32::MAX).unwrap().unwrap();
        assert_eq!(rig.session.questions(frame, rig.now).0.len(), usize::from(retain));
        assert_eq!(rig.bytes(&bytes).sent(), [0x50, 2, 0, 5], "nobody has answered");
    }
}

#[test]
fn a_qos_2_message_that_is_under_way_is_not_refused_when_it_comes_again() {
    let mut rig = v5();
    rig.publish("denied", QOS2, 5).effects();
    let deny = vec![rule(RuleEffect::Deny, Action::Publish, "#")].into();
    rig.input(Input::Renewed(std::sync::Arc::new(link::Passport::new(
        "alice".into(),
        "client".into(),
        deny,
    ))));
    assert!(rig.packet(&denied_again(false)).sent().is_empty());
    assert_eq!(rig.published(5, QOS2).sent(), [0x50, 2, 0, 5]);
}

// v5 [MQTT-4.3.3-9]: the store may have it as not routed to the end, from a connection or a worker before.
#[test]
fn a_qos_2_message_that_may_have_come_before_is_refused_when_the_store_has_forgotten_it() {
    let again = denied_again(false);
    let mqtt::Packet::Publish(publish) = again else { panic!("it is a PUBLISH") };
    let replayed = mqtt::Packet::Publish(mqtt::Publish { dup: false, ..publish });
    let restored = denying(plan().stored(1, 1, 1)).configure(|c| c.receive_maximum = 2);
    for (plan, packet) in [(restored, again), (denying(plan().stored(1, 1, 1).resumed(1)), replayed)] {
        let mut rig = plan.open();
        rig.effects();
        assert!(rig.packet(&packet).packet(&again).sent().is_empty());
        assert_eq!(rig.effect_names()[..2], ["forget 5", "dropped NotAuthorized 2"]);
        assert_eq!(rig.input(Input::Forgotten(id(5), Ok(()))).sent(), [0x50, 3, 0, 5, 0x87]);
        assert_eq!(rig.publish("b", QOS2, 5).effect_names(), ["publish 5 b"]);
        assert_eq!(rig.published(5, QOS2).sent(), [0x50, 2, 0, 5]);
        // A first attempt costs the store nothing.
        assert_eq!(rig.publish("denied", QOS2, 6).sent(), [0x50, 3, 0, 6, 0x87]);
        assert_eq!(rig.effect_names(), ["dropped NotAuthorized 2"]);
    }
}

#[test]
fn messages_that_wait_to_be_refused_count_against_the_receive_maximum() {
    let mut rig = denying(plan().stored(1, 1, 1)).configure(|c| c.receive_maximum = 1).open();
    rig.packet(&denied_again(false)).effects();
    let mqtt::Packet::Publish(publish) = denied_again(false) else { panic!("it is a PUBLISH") };
    rig.packet(&mqtt::Packet::Publish(mqtt::Publish { packet_id: Some(id(6)), ..publish }));
    assert_eq!(rig.closing().reason, ReasonCode::ReceiveMaximumExceeded);
    let mut rig = denying(plan().stored(1, 1, 1)).open();
    rig.packet(&denied_again(false)).effects();
    assert_eq!(rig.bytes(&[0x62, 2, 0, 5]).closing().reason, ReasonCode::ProtocolError, "before PUBREC");
}

// v5 [MQTT-3.3.4-7]
#[test]
fn more_than_the_receive_maximum_ends_the_connection() {
    let mut rig = plan().configure(|c| c.receive_maximum = 2).open();
    rig.publish("a", QOS1, 1).publish("a", QOS2, 2).publish("a", QoS::AtMostOnce, 0).published(1, QOS1);
    rig.publish("a", QOS1, 3).effects();
    assert_eq!(rig.publish("a", QOS1, 4).closing().reason, ReasonCode::ReceiveMaximumExceeded);
    let mut older = Plan::new(ProtocolVersion::V311).configure(|c| c.receive_maximum = 1).open();
    assert_eq!(older.publish("a", QOS1, 1).publish("a", QOS1, 2).effects().len(), 2);
}

#[test]
fn a_topic_that_is_not_allowed_is_refused() {
    let open = |version| {
        let mut plan = Plan::new(version);
        plan.rules = Some(vec![rule(RuleEffect::Allow, Action::Publish, "own/#")]);
        plan.open()
    };
    let mut rig = open(ProtocolVersion::V5);
    assert_eq!(rig.publish("own/a", QOS1, 1).effect_names(), ["publish 1 own/a"]);
    rig.published(1, QOS1).sent();
    assert_eq!(rig.publish("other", QOS1, 2).sent(), [0x40, 3, 0, 2, 0x87]);
    assert_eq!(rig.publish("other", QOS2, 3).sent(), [0x50, 3, 0, 3, 0x87]);
    assert!(rig.publish("other", QoS::AtMostOnce, 0).sent().is_empty());
    let dropped = ["dropped NotAuthorized 1", "dropped NotAuthorized 2", "dropped NotAuthorized 0"];
    assert_eq!(rig.effect_names(), dropped);
    // v3.1.1 [MQTT-3.3.5-2]
    let mut older = open(ProtocolVersion::V311);
    assert_eq!(older.publish("other", QOS1, 2).sent(), [0x40, 2, 0, 2]);
    assert_eq!(
        older.publish("other", QOS2, 3).bytes(&[0x62, 2, 0, 3]).sent(),
        [0x50, 2, 0, 3, 0x70, 2, 0, 3]
    );
    assert_eq!(older.effect_names(), ["dropped NotAuthorized 1", "dropped NotAuthorized 2"]);
}

#[test]
fn a_topic_of_too_many_levels_is_refused() {
    let mut rig = plan().configure(|c| c.topic_levels_max = 3).open();
    assert_eq!(rig.publish("a/b/c", QOS1, 1).effect_names(), ["publish 1 a/b/c"]);
    rig.published(1, QOS1).sent();
    assert_eq!(rig.publish("a/b/c/d", QOS1, 2).sent(), [0x40, 3, 0, 2, 0x90]);
    assert_eq!(rig.publish("///", QOS2, 3).sent(), [0x50, 3, 0, 3, 0x90]);
    rig.publish("///", QoS::AtMostOnce, 0);
    assert_eq!(rig.closing().reason, ReasonCode::TopicNameInvalid);
}

// v5 [MQTT-3.3.2-8], v5 [MQTT-3.3.2-9], v5 [MQTT-3.3.2-12]
#[test]
fn topic_aliases_stand_for_topics() {
    let publish = |rig: &mut Rig, topic: &[u8], alias: u8| {
        let length = u8::try_from(topic.len()).unwrap();
        let packet = [&[0x30, 6 + length, 0, length], topic, &[3, 0x23, 0, alias]].concat();
        rig.bytes(&packet).effect_names()
    };
    let mut rig = plan().configure(|c| c.topic_alias_max = 2).open();
    assert_eq!(publish(&mut rig, b"a", 1), ["publish 0 a"]);
    assert_eq!(publish(&mut rig, b"b", 2), ["publish 0 b"]);
    assert_eq!(publish(&mut rig, b"", 1), ["publish 0 a"]);
    assert_eq!(publish(&mut rig, b"c", 1), ["publish 0 c"]);
    assert_eq!(publish(&mut rig, b"", 1), ["publish 0 c"]);
    assert_eq!(publish(&mut rig, b"a", 3), ["close 0x94"]);
    let mut rig = v5();
    assert_eq!(publish(&mut rig, b"a", 0), ["close 0x94"]);
    let mut rig = v5();
    assert_eq!(publish(&mut rig, b"", 1), ["close 0x82"]);
    let mut none = plan().configure(|c| c.topic_alias_max = 0).open();
    assert_eq!(publish(&mut none, b"a", 1), ["close 0x94"]);
}

#[test]
fn an_identifier_that_another_flow_uses_is_refused() {
    let mut rig = v5();
    rig.publish("a", QOS2, 5);
    rig.effects();
    rig.publish("a", QOS1, 5);
    assert!(rig.effects().is_empty());
    assert_eq!(rig.published(5, QOS2).sent(), join(&[&[0x50, 2, 0, 5], &[0x40, 3, 0, 5, 0x91]]));
    // While a SUBSCRIBE with it is under way.
    rig.bytes(&[0x82, 7, 0, 6, 0, 0, 1, b'a', 0]).effects();
    assert_eq!(rig.publish("a", QOS1, 6).sent(), [0x40, 3, 0, 6, 0x91]);
}

#[test]
fn a_session_expiry_property_does_not_belong_into_publish() {
    let mut rig = v5();
    rig.bytes(&[0x30, 9, 0, 1, b'a', 5, 0x11, 0, 0, 0, 1]);
    assert_eq!(rig.closing().reason, ReasonCode::MalformedPacket);
}
