//! Encoded, then decoded, every packet is what it was: all versions, both directions, any legal contents.

use mqtt::{
    Ack, Auth, ConnAck, Connect, ConnectReturnCode, Disconnect, Packet, PacketType, Properties,
    PropertiesBuf, Property, PropertyId, ProtocolVersion, Publish, QoS, ReasonCode, Receiver, SubAck,
    Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe, Will, frame,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::strategy::{
    self, binary, packet_id, properties, qos, reason, receiver, text, topic_name, version,
};

fn check(version: ProtocolVersion, receiver: Receiver, packet: Packet<'_>) -> Result<(), TestCaseError> {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    prop_assert_eq!(bytes.len(), packet.encoded_len(version));
    let frame = frame::split(&bytes, frame::PACKET_SIZE_MAX)?.expect("a whole packet");
    prop_assert!(frame.minimal_length);
    prop_assert_eq!(frame.raw.len(), bytes.len());
    prop_assert_eq!(frame.packet_type(), packet.packet_type());
    prop_assert_eq!(Packet::decode(version, receiver, frame), Ok(packet));
    Ok(())
}

/// Properties as the version knows them.
fn known(version: ProtocolVersion, buf: &PropertiesBuf) -> Properties<'_> {
    if version.is_v5() { buf.as_properties() } else { Properties::EMPTY }
}

fn both(allowed: fn(Receiver) -> BoxedStrategy<ReasonCode>) -> impl Strategy<Value = (Receiver, ReasonCode)> {
    receiver().prop_flat_map(move |receiver| (Just(receiver), allowed(receiver)))
}

prop_compose! {
    fn connect_properties()(
        plain in properties(strategy::CONNECT),
        authenticated in strategy::with_authentication(strategy::CONNECT),
        use_plain: bool,
    ) -> PropertiesBuf {
        if use_plain { plain } else { authenticated }
    }
}

type OwnedWill = (QoS, bool, String, Vec<u8>, PropertiesBuf);

fn will() -> impl Strategy<Value = Option<OwnedWill>> {
    prop::option::of((qos(), any::<bool>(), topic_name(), binary(), properties(strategy::WILL)))
}

proptest! {
    #[test]
    fn connect_survives(
        version in version(), bridge: bool, clean_start: bool, keep_alive_s: u16, buf in connect_properties(),
        client_id in text(), will in will(),
        user_name in prop::option::of(text()), password in prop::option::of(binary()),
    ) {
        let will = will.as_ref().map(|(qos, retain, topic, payload, buf)| Will {
            qos: *qos, retain: *retain, topic, payload, properties: known(version, buf),
        });
        let password = password.filter(|_| user_name.is_some() || version.is_v5());
        let connect = Connect {
            version, is_bridge: bridge && !version.is_v5(), clean_start, keep_alive_s, properties: known(version, &buf), client_id: &client_id, will,
            user_name: user_name.as_deref(), password: password.as_deref(),
        };
        check(version, Receiver::Server, Packet::Connect(connect))?;
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        prop_assert_eq!(Connect::decode(frame::split(&bytes, u32::MAX)?.unwrap()), Ok(connect));
    }

    #[test]
    fn connack_survives(
        version in version(), reason in reason(PacketType::ConnAck, Receiver::Client), session_present: bool,
        plain in properties(strategy::CONNACK), authenticated in strategy::with_authentication(strategy::CONNACK),
        use_plain: bool,
    ) {
        let buf = if use_plain { plain } else { authenticated };
        // The older versions have six codes and 3.1 has no Session Present.
        let reason = if version.is_v5() { reason } else { ConnectReturnCode::from_reason(reason).reason() };
        let session_present =
            session_present && reason == ReasonCode::Success && version != ProtocolVersion::V31;
        let connack = ConnAck { session_present, reason, properties: known(version, &buf) };
        check(version, Receiver::Client, Packet::ConnAck(connack))?;
    }

    #[test]
    fn publish_survives(
        version in version(), receiver in receiver(), dup: bool, qos in qos(), retain: bool, topic in topic_name(),
        id in packet_id(), mut buf in properties(strategy::PUBLISH), payload in binary(), by_alias: bool,
        subscription_ids in vec(1..=mqtt::varint::MAX, 0..4),
    ) {
        if receiver == Receiver::Client {
            buf.extend(subscription_ids.into_iter().map(Property::SubscriptionIdentifier));
        }
        let properties = known(version, &buf);
        let by_alias = by_alias && properties.contains(PropertyId::TopicAlias);
        check(version, receiver, Packet::Publish(Publish {
            dup: dup && qos != QoS::AtMostOnce, qos, retain, topic: if by_alias { "" } else { &topic },
            packet_id: Some(id).filter(|_| qos != QoS::AtMostOnce), properties, payload: &payload,
        }))?;
    }

    #[test]
    fn acknowledgements_survive(
        version in version(), receiver in receiver(), packet_id in packet_id(),
        received in reason(PacketType::PubAck, Receiver::Server),
        released in reason(PacketType::PubRel, Receiver::Server),
        buf in properties(&[PropertyId::ReasonString]),
    ) {
        let ack = |reason| Ack {
            packet_id,
            reason: if version.is_v5() { reason } else { ReasonCode::Success },
            properties: known(version, &buf),
        };
        check(version, receiver, Packet::PubAck(ack(received)))?;
        check(version, receiver, Packet::PubRec(ack(received)))?;
        check(version, receiver, Packet::PubRel(ack(released)))?;
        check(version, receiver, Packet::PubComp(ack(released)))?;
    }

    #[test]
    fn subscribe_survives(
        version in version(), packet_id in packet_id(), list in vec(strategy::subscription(), 1..6),
        buf in properties(&[PropertyId::SubscriptionIdentifier]),
    ) {
        let list: Vec<_> = list.iter().map(|(filter, options)| {
            let options = if version.is_v5() { *options } else { SubscriptionOptions::new(options.qos) };
            (filter.as_str(), options)
        }).collect();
        let properties = known(version, &buf);
        let subscribe = Subscribe { packet_id, properties, subscriptions: list.as_slice().into() };
        check(version, Receiver::Server, Packet::Subscribe(subscribe))?;
        prop_assert!(subscribe.iter().eq(list.iter().copied()));
    }

    #[test]
    fn suback_survives(
        version in version(), packet_id in packet_id(),
        list in vec(reason(PacketType::SubAck, Receiver::Client), 1..6),
        buf in properties(&[PropertyId::ReasonString]),
    ) {
        let list: Vec<_> = list.into_iter().map(|reason| {
            if reason.is_error() && !version.is_v5() { ReasonCode::UnspecifiedError } else { reason }
        }).collect();
        let properties = known(version, &buf);
        check(version, Receiver::Client, Packet::SubAck(SubAck { packet_id, properties, codes: list.as_slice().into() }))?;
    }

    #[test]
    fn unsubscribe_survives(
        version in version(), packet_id in packet_id(), list in vec(strategy::topic_filter(), 1..6),
        buf in properties(&[]),
    ) {
        let list: Vec<_> = list.iter().map(String::as_str).collect();
        let properties = known(version, &buf);
        let unsubscribe = Unsubscribe { packet_id, properties, filters: list.as_slice().into() };
        check(version, Receiver::Server, Packet::Unsubscribe(unsubscribe))?;
        prop_assert!(unsubscribe.iter().eq(list.iter().copied()));
    }

    #[test]
    fn unsuback_survives(
        version in version(), packet_id in packet_id(),
        list in vec(reason(PacketType::UnsubAck, Receiver::Client), 1..6),
        buf in properties(&[PropertyId::ReasonString]),
    ) {
        let list = if version.is_v5() { list } else { Vec::new() };
        let properties = known(version, &buf);
        let codes = list.as_slice().into();
        check(version, Receiver::Client, Packet::UnsubAck(UnsubAck { packet_id, properties, codes }))?;
    }

    #[test]
    fn disconnect_survives(
        version in version(),
        (receiver, reason) in both(|receiver| reason(PacketType::Disconnect, receiver).boxed()),
        from_client in properties(&[PropertyId::SessionExpiryInterval, PropertyId::ReasonString]),
        from_server in properties(&[PropertyId::ServerReference, PropertyId::ReasonString]),
    ) {
        let receiver = if version.is_v5() { receiver } else { Receiver::Server };
        let buf = if receiver == Receiver::Server { from_client } else { from_server };
        check(version, receiver, Packet::Disconnect(Disconnect {
            reason: if version.is_v5() { reason } else { ReasonCode::Success },
            properties: known(version, &buf),
        }))?;
    }

    #[test]
    fn auth_survives(
        (receiver, reason) in both(|receiver| reason(PacketType::Auth, receiver).boxed()),
        buf in strategy::with_authentication(&[PropertyId::ReasonString]),
    ) {
        let auth = Auth { reason, properties: buf.as_properties() };
        check(ProtocolVersion::V5, receiver, Packet::Auth(auth))?;
    }

    #[test]
    fn pings_survive(version in select(&ProtocolVersion::ALL[..])) {
        check(version, Receiver::Server, Packet::PingReq)?;
        check(version, Receiver::Client, Packet::PingResp)?;
    }
}
