//! Writing: the fan-out head, what the older versions leave out, and what cannot be written.

use bytes::{BufMut, BytesMut};
use mqtt::{
    Ack, AckKind, Auth, ConnAck, Connect, ConnectReturnCode, PacketId, Properties, PropertiesBuf, Property,
    ProtocolVersion, Publish, PublishHead, QoS, ReasonCode, Receiver, frame,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::strategy::{packet_id, properties, qos, topic_name, version};
use crate::vector;

const HEAD: PublishHead<'_> = PublishHead {
    dup: false,
    qos: QoS::AtMostOnce,
    retain: false,
    topic: "a/b",
    packet_id: None,
    alias: None,
    message_expiry_remaining_s: None,
    subscription_ids: &[],
    properties: &[],
    payload_len: 2,
};

fn head(head: PublishHead<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(head.encode_into(version, &mut out));
    assert_eq!(out.len() + head.payload_len, head.encoded_len(version));
    out
}

#[test]
fn a_head_is_all_but_the_payload() {
    assert_eq!(head(HEAD, ProtocolVersion::V311), vector::bytes("30 07 s'a/b'"));
    assert_eq!(head(HEAD, ProtocolVersion::V5), vector::bytes("30 08 s'a/b' 00"));
    let user = PropertiesBuf::new().with(Property::UserProperty("k", "v"));
    let full = PublishHead {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id: PacketId::new(258),
        alias: Some(7),
        message_expiry_remaining_s: Some(9),
        subscription_ids: &[1, 128],
        properties: user.as_properties().as_bytes(),
        ..HEAD
    };
    assert_eq!(head(full, ProtocolVersion::V31), vector::bytes("3D 09 s'a/b' 0102"));
    let expected = "3D 1E s'a/b' 0102 V( 23 0007 02 00000009 0B 01 0B 8001 26 s'k' s'v' )";
    assert_eq!(head(full, ProtocolVersion::V5), vector::bytes(expected));
}

#[test]
fn dup_and_packet_identifier_are_not_written_at_qos_0() {
    // v5 [MQTT-3.3.1-2], v5 [MQTT-2.2.1-2]
    let written = head(PublishHead { dup: true, packet_id: PacketId::new(5), ..HEAD }, ProtocolVersion::V311);
    assert_eq!(written, vector::bytes("30 07 s'a/b'"));
}

proptest! {
    #[test]
    fn a_head_and_a_payload_are_a_publish(
        version in version(), dup: bool, qos in qos(), retain: bool, topic in topic_name(), id in packet_id(),
        alias in prop::option::of(1..=u16::MAX), expiry in prop::option::of(any::<u32>()),
        subscription_ids in vec(1..=mqtt::varint::MAX, 0..4),
        buf in properties(&[mqtt::PropertyId::ContentType]), payload in vec(any::<u8>(), 0..300),
    ) {
        let head = PublishHead {
            dup, qos, retain, topic: &topic, packet_id: Some(id), alias, message_expiry_remaining_s: expiry,
            subscription_ids: &subscription_ids, properties: buf.as_properties().as_bytes(),
            payload_len: payload.len(),
        };
        let mut out = BytesMut::new();
        prop_assert!(head.encode_into(version, &mut out));
        out.put_slice(&payload);
        prop_assert_eq!(out.len(), head.encoded_len(version));
        let read = Publish::decode(version, Receiver::Client, frame::split(&out, u32::MAX)?.unwrap())?;
        prop_assert_eq!(read.dup, dup && qos != QoS::AtMostOnce);
        prop_assert_eq!((read.qos, read.retain, read.topic, read.payload), (qos, retain, &*topic, &*payload));
        prop_assert_eq!(read.packet_id, Some(id).filter(|_| qos != QoS::AtMostOnce));
        if version.is_v5() {
            let summary = read.properties.publish_summary();
            prop_assert_eq!((summary.topic_alias, summary.message_expiry_s), (alias, expiry));
            prop_assert_eq!(read.properties.subscription_ids().collect::<Vec<_>>(), subscription_ids);
            prop_assert_eq!(&*summary.forwardable, buf.as_properties().as_bytes());
        } else {
            prop_assert!(read.properties.is_empty());
        }
    }
}

#[test]
fn a_packet_over_the_format_is_not_written() {
    let mut out = Vec::new();
    for payload_len in [mqtt::varint::MAX as usize, usize::MAX] {
        let head = PublishHead { payload_len, ..HEAD };
        assert!(!head.encode_into(ProtocolVersion::V5, &mut out));
        assert_eq!(head.encoded_len(ProtocolVersion::V5), 0);
    }
    assert!(out.is_empty());
    let largest = PublishHead { payload_len: mqtt::varint::MAX as usize - 6, ..HEAD };
    assert_eq!(largest.encoded_len(ProtocolVersion::V5), frame::PACKET_SIZE_MAX as usize);
    assert!(largest.encode_into(ProtocolVersion::V5, &mut out));
}

#[test]
fn acknowledgements_before_5_have_no_reason_code() {
    let buf = PropertiesBuf::new().with(Property::ReasonString("why"));
    let ack =
        Ack { packet_id: PacketId::MAX, reason: ReasonCode::QuotaExceeded, properties: buf.as_properties() };
    for version in [ProtocolVersion::V31, ProtocolVersion::V311] {
        let mut out = Vec::new();
        ack.encode(AckKind::PubRec, version, &mut out);
        assert_eq!(out, [0x50, 2, 0xFF, 0xFF]);
    }
}

#[test]
fn auth_before_5_is_not_written() {
    let auth = Auth { reason: ReasonCode::ContinueAuthentication, properties: Properties::EMPTY };
    let mut out = Vec::new();
    auth.encode(ProtocolVersion::V311, &mut out);
    assert_eq!((out.len(), auth.encoded_len(ProtocolVersion::V311)), (0, 0));
}

#[test]
fn a_password_alone_gets_an_empty_user_name_before_5() {
    let connect = |version| Connect {
        version,
        is_bridge: false,
        clean_start: true,
        keep_alive_s: 0,
        properties: Properties::EMPTY,
        client_id: "c",
        will: None,
        user_name: None,
        password: Some(b"p"),
    };
    let mut out = Vec::new();
    connect(ProtocolVersion::V311).encode(&mut out);
    assert_eq!(out, vector::bytes("10 V( s'MQTT' 04 C2 0000 s'c' s'' s'p' )"));
    assert_eq!(out.len(), connect(ProtocolVersion::V311).encoded_len());
    out.clear();
    connect(ProtocolVersion::V5).encode(&mut out);
    assert_eq!(out, vector::bytes("10 V( s'MQTT' 05 42 0000 V() s'c' s'p' )"));
}

#[test]
fn refusals_before_5_use_the_nearest_return_code() {
    for (reason, code) in [
        (ReasonCode::Success, 0),
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::ServerBusy, 3),
        (ReasonCode::QuotaExceeded, 3),
        (ReasonCode::ConnectionRateExceeded, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
        (ReasonCode::Banned, 5),
    ] {
        assert_eq!(ConnectReturnCode::from_reason(reason).as_u8(), code, "{reason:?}");
        let mut out = Vec::new();
        ConnAck::new(false, reason).encode(ProtocolVersion::V311, &mut out);
        assert_eq!(out, [0x20, 2, 0, code]);
        assert_eq!(ConnectReturnCode::from_u8(code).map(ConnectReturnCode::as_u8), Some(code));
    }
}

#[test]
fn reason_codes_are_their_bytes() {
    for reason in ReasonCode::ALL {
        assert_eq!(ReasonCode::try_from(reason.as_u8()), Ok(reason));
        assert_eq!(reason.is_error(), reason.as_u8() >= 0x80);
    }
    assert_eq!((0..=255).filter(|&byte| ReasonCode::try_from(byte).is_ok()).count(), ReasonCode::ALL.len());
    assert_eq!(ReasonCode::NormalDisconnection, ReasonCode::GrantedQoS0);
    assert_eq!(ReasonCode::granted(QoS::ExactlyOnce), ReasonCode::GrantedQoS2);
    assert_eq!(ReasonCode::SessionTakenOver.label(), "session_taken_over");
}

#[test]
fn packet_identifiers_go_round_without_zero() {
    assert_eq!(PacketId::MAX.next(), PacketId::MIN);
    assert_eq!(PacketId::MIN.next().as_u16(), 2);
    assert_eq!(PacketId::new(0), None);
}

#[test]
fn qualities_of_service_are_ordered_by_strength() {
    assert_eq!(QoS::ExactlyOnce.min(QoS::AtLeastOnce), QoS::AtLeastOnce);
    assert_eq!(QoS::try_from(2), Ok(QoS::ExactlyOnce));
    assert!(QoS::try_from(3).is_err() && QoS::try_from(4).is_err());
}
