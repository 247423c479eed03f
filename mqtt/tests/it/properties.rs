//! Reading and writing of properties.

use std::borrow::Cow;

use mqtt::{Packet, PropertiesBuf, Property, PropertyId, ProtocolVersion, Publish, QoS, Receiver, frame};
use proptest::prelude::*;

use crate::strategy;

fn all_values() -> Vec<Property<'static>> {
    vec![
        Property::PayloadFormatIndicator(true),
        Property::MessageExpiryInterval(1),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("r/t"),
        Property::CorrelationData(&[0, 255]),
        Property::SubscriptionIdentifier(268_435_455),
        Property::SessionExpiryInterval(u32::MAX),
        Property::AssignedClientIdentifier("auto"),
        Property::ServerKeepAlive(0),
        Property::AuthenticationMethod("SCRAM-SHA-256"),
        Property::AuthenticationData(b"n,,"),
        Property::RequestProblemInformation(false),
        Property::WillDelayInterval(5),
        Property::RequestResponseInformation(true),
        Property::ResponseInformation("info"),
        Property::ServerReference("other"),
        Property::ReasonString("why"),
        Property::ReceiveMaximum(65_535),
        Property::TopicAliasMaximum(0),
        Property::TopicAlias(7),
        Property::MaximumQoS(QoS::AtLeastOnce),
        Property::RetainAvailable(false),
        Property::UserProperty("k", "v"),
        Property::MaximumPacketSize(1),
        Property::WildcardSubscriptionAvailable(true),
        Property::SubscriptionIdentifierAvailable(false),
        Property::SharedSubscriptionAvailable(true),
    ]
}

#[test]
fn every_property_is_read_as_it_was_written() {
    let values = all_values();
    assert_eq!(values.iter().map(Property::id).collect::<Vec<_>>(), PropertyId::ALL);
    let buf: PropertiesBuf = values.iter().copied().collect();
    let properties = buf.as_properties();
    assert_eq!(properties.iter().collect::<Vec<_>>(), values);
    for value in values {
        assert!(properties.contains(value.id()));
        assert_eq!(properties.find(value.id()), Some(value));
        assert_eq!(PropertyId::from_u8(value.id().as_u8()), Some(value.id()));
    }
}

#[test]
fn absent_properties_are_not_found() {
    let buf = PropertiesBuf::new().with(Property::TopicAlias(1));
    assert_eq!(buf.as_properties().find(PropertyId::ContentType), None);
    assert!(PropertiesBuf::new().as_properties().is_empty());
}

#[test]
fn cleared_properties_can_be_written_again() {
    let mut buf = PropertiesBuf::new().with(Property::TopicAlias(1));
    buf.clear();
    assert!(buf.is_empty() && !buf.as_properties().contains(PropertyId::TopicAlias));
    buf.push(Property::ReasonString("why"));
    assert_eq!(buf.as_properties().iter().count(), 1);
}

#[test]
fn a_string_over_65_535_bytes_is_cut_at_a_character() {
    let long = "é".repeat(40_000);
    let buf = PropertiesBuf::new().with(Property::ReasonString(&long));
    let read = buf.as_properties().find(PropertyId::ReasonString);
    assert_eq!(read, Some(Property::ReasonString(&long[..65_534])));
}

/// v5 [MQTT-3.1.3-10], v5 [MQTT-3.3.2-18]
#[test]
fn user_properties_keep_their_order() {
    let pairs = [("b", "1"), ("a", "2"), ("b", "1")].map(|(name, value)| Property::UserProperty(name, value));
    let buf: PropertiesBuf = pairs.into_iter().collect();
    assert_eq!(buf.as_properties().iter().collect::<Vec<_>>(), pairs);
}

#[test]
fn what_can_be_forwarded_is_lent_when_nothing_must_go() {
    let buf = PropertiesBuf::new().with(Property::ContentType("x")).with(Property::UserProperty("k", "v"));
    let properties = buf.as_properties();
    assert!(matches!(properties.forwardable(), Cow::Borrowed(raw) if raw == properties.as_bytes()));
    let only_alias = PropertiesBuf::new().with(Property::TopicAlias(1));
    assert!(matches!(only_alias.as_properties().forwardable(), Cow::Borrowed([])));
}

#[test]
fn what_is_between_server_and_client_is_not_forwarded() {
    let kept =
        [Property::UserProperty("k", "1"), Property::ResponseTopic("r"), Property::UserProperty("k", "2")];
    let buf = PropertiesBuf::new()
        .with(Property::TopicAlias(9))
        .with(kept[0])
        .with(Property::MessageExpiryInterval(60))
        .with(kept[1])
        .with(Property::SubscriptionIdentifier(300))
        .with(kept[2])
        .with(Property::WillDelayInterval(5));
    let expected: PropertiesBuf = kept.into_iter().collect();
    let summary = buf.as_properties().publish_summary();
    assert_eq!(summary.forwardable, expected.as_properties().as_bytes());
    assert_eq!(summary.topic_alias, Some(9));
    assert_eq!(summary.message_expiry_s, Some(60));
    assert_eq!(summary.will_delay_s, Some(5));
    assert_eq!(summary.response_topic, Some("r"));
    assert_eq!((summary.payload_is_text, summary.content_type, summary.correlation_data), (None, None, None));
    assert_eq!(buf.as_properties().subscription_ids().collect::<Vec<_>>(), [300]);
}

proptest! {
    /// v5 [MQTT-3.3.2-4], v5 [MQTT-3.3.2-15..18], v5 [MQTT-3.3.2-20]
    #[test]
    fn forwarded_properties_are_unaltered_and_in_order(buf in strategy::properties(strategy::PUBLISH)) {
        let dropped = [PropertyId::TopicAlias, PropertyId::MessageExpiryInterval];
        let properties = buf.as_properties();
        let expected: PropertiesBuf =
            properties.iter().filter(|property| !dropped.contains(&property.id())).collect();
        prop_assert_eq!(&*properties.forwardable(), expected.as_properties().as_bytes());
        prop_assert_eq!(&*properties.publish_summary().forwardable, expected.as_properties().as_bytes());
    }

    #[test]
    fn decoded_properties_know_what_they_contain(buf in strategy::properties(strategy::PUBLISH)) {
        let publish = Publish {
            dup: false, qos: QoS::AtMostOnce, retain: false, topic: "t", packet_id: None,
            properties: buf.as_properties(), payload: b"",
        };
        let mut bytes = Vec::new();
        publish.encode(ProtocolVersion::V5, &mut bytes);
        let frame = frame::split(&bytes, u32::MAX)?.unwrap();
        let Ok(Packet::Publish(read)) = Packet::decode(ProtocolVersion::V5, Receiver::Server, frame) else {
            return Err(TestCaseError::fail("not decoded"));
        };
        for id in PropertyId::ALL {
            prop_assert_eq!(read.properties.contains(id), buf.as_properties().contains(id));
            prop_assert_eq!(read.properties.find(id), buf.as_properties().find(id));
        }
    }
}
