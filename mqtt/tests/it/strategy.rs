//! Generators of valid parts of packets.

use mqtt::{
    PacketId, PacketType, PropertiesBuf, Property, PropertyId, ProtocolVersion, QoS, ReasonCode, Receiver,
    RetainHandling, SubscriptionOptions,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn version() -> impl Strategy<Value = ProtocolVersion> {
    select(&ProtocolVersion::ALL[..])
}

pub(crate) fn receiver() -> impl Strategy<Value = Receiver> {
    select(&[Receiver::Server, Receiver::Client][..])
}

pub(crate) fn qos() -> impl Strategy<Value = QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..])
}

pub(crate) fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

/// A UTF-8 Encoded String.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        30 => any::<String>().prop_map(|text| text.replace('\0', "0")),
        4 => (0..70usize).prop_map(|len| "\u{FEFF}é".repeat(len)),
        1 => Just("x".repeat(65_535)),
    ]
}

pub(crate) fn binary() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

pub(crate) fn topic_name() -> impl Strategy<Value = String> {
    text().prop_map(|text| {
        let name = text.replace(['+', '#'], "/");
        if name.is_empty() { "/".to_owned() } else { name }
    })
}

pub(crate) fn topic_filter() -> impl Strategy<Value = String> {
    let level = prop_oneof!["[a-c$]{0,2}", Just("+".to_owned())];
    let share = prop::option::weighted(0.2, "[a-zé]{1,3}");
    (share, vec(level, 1..5), any::<bool>()).prop_map(|(share, mut levels, multi)| {
        if multi {
            levels.push("#".to_owned());
        }
        let filter = levels.join("/");
        let filter = if filter.is_empty() { "/".to_owned() } else { filter };
        share.map_or(filter.clone(), |share| format!("$share/{share}/{filter}"))
    })
}

pub(crate) fn subscription() -> impl Strategy<Value = (String, SubscriptionOptions)> {
    let handling = select(&[RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend][..]);
    (topic_filter(), qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        |(filter, qos, no_local, retain_as_published, retain_handling)| {
            let no_local = no_local && !filter.starts_with("$share/");
            (filter, SubscriptionOptions { qos, no_local, retain_as_published, retain_handling })
        },
    )
}

/// A Reason Code that the packet may carry to `receiver`.
pub(crate) fn reason(packet: PacketType, receiver: Receiver) -> impl Strategy<Value = ReasonCode> {
    let allowed: Vec<_> =
        ReasonCode::ALL.into_iter().filter(|reason| reason.is_allowed(packet, receiver)).collect();
    select(allowed)
}

/// Some of the properties `ids`, each once, and User Properties, in any order.
pub(crate) fn properties(ids: &'static [PropertyId]) -> impl Strategy<Value = PropertiesBuf> {
    let singles: Vec<_> = ids.iter().map(|&id| prop::option::of(property(id)).boxed()).collect();
    (singles, vec(property(PropertyId::UserProperty), 0..3))
        .prop_map(|(singles, users)| singles.into_iter().flatten().chain(users).collect::<Vec<_>>())
        .prop_shuffle()
        .prop_map(|parts| join(&parts))
}

/// As [`properties`], with an Authentication Method and, if there is one, Authentication Data.
pub(crate) fn with_authentication(ids: &'static [PropertyId]) -> impl Strategy<Value = PropertiesBuf> {
    let method = property(PropertyId::AuthenticationMethod);
    let data = prop::option::of(property(PropertyId::AuthenticationData));
    (properties(ids), method, data).prop_map(|(others, method, data)| {
        join(&[Some(others), Some(method), data].map(Option::unwrap_or_default))
    })
}

fn join(parts: &[PropertiesBuf]) -> PropertiesBuf {
    let mut joined = PropertiesBuf::new();
    parts.iter().for_each(|part| joined.extend(part.as_properties().iter()));
    joined
}

/// One property with any legal value.
pub(crate) fn property(id: PropertyId) -> BoxedStrategy<PropertiesBuf> {
    fn one(property: Property<'_>) -> PropertiesBuf {
        PropertiesBuf::new().with(property)
    }
    macro_rules! of {
        ($values:expr, $variant:ident) => {
            $values.prop_map(|value| one(Property::$variant(value))).boxed()
        };
        ($values:expr, ref $variant:ident) => {
            $values.prop_map(|value| one(Property::$variant(&value))).boxed()
        };
    }
    match id {
        PropertyId::PayloadFormatIndicator => of!(any::<bool>(), PayloadFormatIndicator),
        PropertyId::MessageExpiryInterval => of!(any::<u32>(), MessageExpiryInterval),
        PropertyId::ContentType => of!(text(), ref ContentType),
        PropertyId::ResponseTopic => of!(topic_name(), ref ResponseTopic),
        PropertyId::CorrelationData => of!(binary(), ref CorrelationData),
        PropertyId::SubscriptionIdentifier => of!(1..=mqtt::varint::MAX, SubscriptionIdentifier),
        PropertyId::SessionExpiryInterval => of!(any::<u32>(), SessionExpiryInterval),
        PropertyId::AssignedClientIdentifier => of!(text(), ref AssignedClientIdentifier),
        PropertyId::ServerKeepAlive => of!(any::<u16>(), ServerKeepAlive),
        PropertyId::AuthenticationMethod => of!(text(), ref AuthenticationMethod),
        PropertyId::AuthenticationData => of!(binary(), ref AuthenticationData),
        PropertyId::RequestProblemInformation => of!(any::<bool>(), RequestProblemInformation),
        PropertyId::WillDelayInterval => of!(any::<u32>(), WillDelayInterval),
        PropertyId::RequestResponseInformation => of!(any::<bool>(), RequestResponseInformation),
        PropertyId::ResponseInformation => of!(text(), ref ResponseInformation),
        PropertyId::ServerReference => of!(text(), ref ServerReference),
        PropertyId::ReasonString => of!(text(), ref ReasonString),
        PropertyId::ReceiveMaximum => of!(1..=u16::MAX, ReceiveMaximum),
        PropertyId::TopicAliasMaximum => of!(any::<u16>(), TopicAliasMaximum),
        PropertyId::TopicAlias => of!(1..=u16::MAX, TopicAlias),
        PropertyId::MaximumQoS => of!(select(&[QoS::AtMostOnce, QoS::AtLeastOnce][..]), MaximumQoS),
        PropertyId::RetainAvailable => of!(any::<bool>(), RetainAvailable),
        PropertyId::UserProperty => {
            (text(), text()).prop_map(|(name, value)| one(Property::UserProperty(&name, &value))).boxed()
        }
        PropertyId::MaximumPacketSize => of!(1..=u32::MAX, MaximumPacketSize),
        PropertyId::WildcardSubscriptionAvailable => of!(any::<bool>(), WildcardSubscriptionAvailable),
        PropertyId::SubscriptionIdentifierAvailable => of!(any::<bool>(), SubscriptionIdentifierAvailable),
        PropertyId::SharedSubscriptionAvailable => of!(any::<bool>(), SharedSubscriptionAvailable),
    }
}

/// The properties of a PUBLISH that travel in both directions.
pub(crate) const PUBLISH: &[PropertyId] = &[
    PropertyId::PayloadFormatIndicator,
    PropertyId::MessageExpiryInterval,
    PropertyId::ContentType,
    PropertyId::ResponseTopic,
    PropertyId::CorrelationData,
    PropertyId::TopicAlias,
];

/// The properties of a Will.
pub(crate) const WILL: &[PropertyId] = &[
    PropertyId::PayloadFormatIndicator,
    PropertyId::MessageExpiryInterval,
    PropertyId::ContentType,
    PropertyId::ResponseTopic,
    PropertyId::CorrelationData,
    PropertyId::WillDelayInterval,
];

/// The properties of a CONNECT but those of authentication.
pub(crate) const CONNECT: &[PropertyId] = &[
    PropertyId::SessionExpiryInterval,
    PropertyId::ReceiveMaximum,
    PropertyId::MaximumPacketSize,
    PropertyId::TopicAliasMaximum,
    PropertyId::RequestResponseInformation,
    PropertyId::RequestProblemInformation,
];

/// The properties of a CONNACK but those of authentication.
pub(crate) const CONNACK: &[PropertyId] = &[
    PropertyId::SessionExpiryInterval,
    PropertyId::ReceiveMaximum,
    PropertyId::MaximumQoS,
    PropertyId::RetainAvailable,
    PropertyId::MaximumPacketSize,
    PropertyId::AssignedClientIdentifier,
    PropertyId::TopicAliasMaximum,
    PropertyId::ReasonString,
    PropertyId::WildcardSubscriptionAvailable,
    PropertyId::SubscriptionIdentifierAvailable,
    PropertyId::SharedSubscriptionAvailable,
    PropertyId::ServerKeepAlive,
    PropertyId::ResponseInformation,
    PropertyId::ServerReference,
];
