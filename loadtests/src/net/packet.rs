//! The packets that this tool sends. The codec encodes them once; what differs per message (Packet Identifier, stamp) is
//! patched into a copy.

use mqtt::{
    Ack, AckKind, ConnAck, Connect, Packet, PacketId, Properties, PropertiesBuf, Property, PropertyId,
    ProtocolVersion, PublishHead, QoS, ReasonCode, Subscribe, SubscriptionOptions, Subscriptions,
};

use crate::measure::payload::Stamp;

/// What CONNECT says.
#[derive(Debug, Clone)]
pub(crate) struct ConnectOptions {
    /// Protocol version.
    pub(crate) version: ProtocolVersion,
    /// Client Identifier.
    pub(crate) client_id: String,
    /// Clean Session or Clean Start. Without it an MQTT 5 session never expires.
    pub(crate) clean: bool,
    /// Keep Alive in seconds; 0 switches it off.
    pub(crate) keep_alive_s: u16,
}

/// User Name and Password of CONNECT.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    /// User Name; `%c` in it stands for the Client Identifier.
    pub(crate) user: String,
    /// Password.
    pub(crate) password: String,
}

/// Encodes CONNECT.
#[must_use]
pub(crate) fn connect(options: &ConnectOptions, login: Option<&Login>) -> Vec<u8> {
    let user = login.map(|login| login.user.replace("%c", &options.client_id));
    let mut properties = PropertiesBuf::new();
    if !options.clean && options.version.is_v5() {
        properties.push(Property::SessionExpiryInterval(u32::MAX));
    }
    let connect = Connect {
        version: options.version,
        is_bridge: false,
        clean_start: options.clean,
        keep_alive_s: options.keep_alive_s,
        properties: properties.as_properties(),
        client_id: &options.client_id,
        will: None,
        user_name: user.as_deref(),
        password: login.map(|login| login.password.as_bytes()),
    };
    let mut bytes = Vec::new();
    connect.encode(&mut bytes);
    bytes
}

/// Encodes SUBSCRIBE for one Topic Filter.
#[must_use]
pub(crate) fn subscribe(version: ProtocolVersion, filter: &str, qos: QoS) -> Vec<u8> {
    let list = [(filter, SubscriptionOptions::new(qos))];
    let subscribe = Subscribe {
        packet_id: PacketId::MIN,
        properties: Properties::EMPTY,
        subscriptions: Subscriptions::from(&list[..]),
    };
    let mut bytes = Vec::new();
    subscribe.encode(version, &mut bytes);
    bytes
}

/// Appends PUBACK, PUBREC, PUBREL or PUBCOMP. Without a Reason Code all versions write the same bytes.
#[inline]
pub(crate) fn acknowledge(kind: AckKind, packet_id: PacketId, out: &mut Vec<u8>) {
    Ack::new(packet_id, ReasonCode::Success).encode(kind, ProtocolVersion::V311, out);
}

/// What the broker refused, if that is what the packet says: CONNACK, SUBACK or DISCONNECT with an error.
#[must_use]
pub(crate) fn refusal(packet: &Packet<'_>) -> Option<String> {
    let (name, reason) = match packet {
        Packet::ConnAck(connack) => ("CONNACK", Some(connack.reason)),
        Packet::SubAck(suback) => ("SUBACK", suback.codes.iter().find(|code| code.is_error())),
        Packet::Disconnect(disconnect) => ("DISCONNECT", Some(disconnect.reason)),
        _ => return None,
    };
    let reason = reason.filter(|reason| reason.is_error())?;
    Some(format!("{name} with {:#04x} ({})", reason.as_u8(), reason.label()))
}

/// How many QoS 1 and 2 messages the broker takes at a time. v5 [MQTT-3.3.4-7]
#[must_use]
pub(crate) fn receive_max(connack: &ConnAck<'_>) -> u16 {
    match connack.properties.find(PropertyId::ReceiveMaximum) {
        Some(Property::ReceiveMaximum(most)) => most,
        _ => u16::MAX,
    }
}

/// An encoded PUBLISH of which the Packet Identifier and the stamp are filled in per message.
#[derive(Debug, Clone)]
pub(crate) struct PublishTemplate {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl PublishTemplate {
    /// Encodes a PUBLISH with a payload of `payload_len` bytes; one that is too short for a stamp goes without.
    #[must_use]
    pub(crate) fn new(
        version: ProtocolVersion,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload_len: usize,
    ) -> Self {
        let head = PublishHead {
            dup: false,
            qos,
            retain,
            topic,
            packet_id: Some(PacketId::MIN),
            alias: None,
            message_expiry_remaining_s: None,
            subscription_ids: &[],
            properties: &[],
            payload_len,
        };
        let mut bytes = Vec::new();
        head.encode_into(version, &mut bytes);
        let payload_at = bytes.len();
        bytes.resize(payload_at + payload_len, b'.');
        // Empty properties take one byte between Packet Identifier and payload.
        let packet_id_at = (qos != QoS::AtMostOnce).then(|| payload_at - 2 - usize::from(version.is_v5()));
        Self { bytes, packet_id_at, payload_at }
    }

    /// Appends one message to `out`.
    #[inline]
    pub(crate) fn append(&self, out: &mut Vec<u8>, packet_id: PacketId, stamp: &Stamp) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let message = &mut out[start..];
        if let Some(at) = self.packet_id_at {
            message[at..at + 2].copy_from_slice(&packet_id.as_u16().to_be_bytes());
        }
        stamp.write(&mut message[self.payload_at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt::{Receiver, frame};

    fn decode(version: ProtocolVersion, bytes: &[u8]) -> Packet<'_> {
        let frame = frame::split(bytes, frame::PACKET_SIZE_MAX).unwrap().unwrap();
        assert_eq!(frame.raw.len(), bytes.len());
        Packet::decode(version, Receiver::Server, frame).unwrap()
    }

    #[test]
    fn a_template_carries_identifier_and_stamp_in_every_version_and_qos() {
        for version in ProtocolVersion::ALL {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let template = PublishTemplate::new(version, "a/b", qos, false, 256);
                let stamp = Stamp { publisher: 3, sequence: 9, due_ns: 77 };
                let (mut out, packet_id) = (vec![0xaa], PacketId::new(0x1234).unwrap());
                template.append(&mut out, packet_id, &stamp);
                let Packet::Publish(publish) = decode(version, &out[1..]) else {
                    panic!("not a PUBLISH");
                };
                assert_eq!((publish.topic, publish.qos), ("a/b", qos));
                assert_eq!(publish.packet_id, (qos != QoS::AtMostOnce).then_some(packet_id));
                assert_eq!(publish.payload.len(), 256);
                assert_eq!(Stamp::read(publish.payload), Some(stamp));
            }
        }
    }

    #[test]
    fn an_empty_payload_stays_empty() {
        let template = PublishTemplate::new(ProtocolVersion::V5, "a", QoS::AtLeastOnce, true, 0);
        let mut out = Vec::new();
        template.append(&mut out, PacketId::MIN, &Stamp { publisher: 0, sequence: 0, due_ns: 0 });
        let Packet::Publish(publish) = decode(ProtocolVersion::V5, &out) else {
            panic!("not a PUBLISH");
        };
        assert!(publish.retain && publish.payload.is_empty());
    }

    #[test]
    fn a_stored_session_of_mqtt_5_never_expires() {
        let mut options = ConnectOptions {
            version: ProtocolVersion::V5,
            client_id: "c".to_owned(),
            clean: false,
            keep_alive_s: 7,
        };
        let bytes = connect(&options, None);
        let Packet::Connect(read) = decode(ProtocolVersion::V5, &bytes) else {
            panic!("not a CONNECT");
        };
        assert_eq!((read.client_id, read.clean_start, read.keep_alive_s), ("c", false, 7));
        let expiry = read.properties.find(PropertyId::SessionExpiryInterval);
        assert_eq!(expiry, Some(Property::SessionExpiryInterval(u32::MAX)));
        options.version = ProtocolVersion::V311;
        assert!(matches!(decode(ProtocolVersion::V311, &connect(&options, None)), Packet::Connect(_)));
    }

    #[test]
    fn each_client_may_have_a_user_name_of_its_own() {
        let options = ConnectOptions {
            version: ProtocolVersion::V311,
            client_id: "c-7".to_owned(),
            clean: true,
            keep_alive_s: 0,
        };
        let login = Login { user: "device-%c".to_owned(), password: "p".to_owned() };
        let bytes = connect(&options, Some(&login));
        let Packet::Connect(read) = decode(ProtocolVersion::V311, &bytes) else {
            panic!("not a CONNECT");
        };
        assert_eq!((read.user_name, read.password), (Some("device-c-7"), Some(&b"p"[..])));
    }

    #[test]
    fn refusals_name_packet_and_reason() {
        let refused = ConnAck::new(false, ReasonCode::NotAuthorized);
        assert!(refusal(&Packet::ConnAck(refused)).unwrap().starts_with("CONNACK with 0x87"));
        assert_eq!(refusal(&Packet::ConnAck(ConnAck::new(false, ReasonCode::Success))), None);
        assert_eq!(refusal(&Packet::PingResp), None);
    }

    #[test]
    fn a_subscription_names_filter_and_qos() {
        for version in ProtocolVersion::ALL {
            let bytes = subscribe(version, "a/+", QoS::ExactlyOnce);
            let Packet::Subscribe(read) = decode(version, &bytes) else {
                panic!("not a SUBSCRIBE");
            };
            let filters: Vec<_> = read.iter().map(|(filter, options)| (filter, options.qos)).collect();
            assert_eq!(filters, [("a/+", QoS::ExactlyOnce)]);
        }
    }
}
