//! PUBLISH (v5 section 3.3): the view of one that arrives, and [`PublishHead`] for the many that leave.

use bytes::BufMut;

use super::{check_frame, whole_len};
use crate::bytes_io::{Reader, fitting, put_fixed_header, string_len};
use crate::error::DecodeError;
use crate::frame::Frame;
use crate::packet_id::PacketId;
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::property_id::{Place, PropertyId};
use crate::qos::QoS;
use crate::receiver::Receiver;
use crate::topic;
use crate::varint;
use crate::version::ProtocolVersion;

const RETAIN: u8 = 0b0001;
const QOS_SHIFT: u8 = 1;
const DUP: u8 = 0b1000;

/// An Application Message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent before; never at QoS 0.
    pub dup: bool,
    /// Quality of Service.
    pub qos: QoS,
    /// To be retained, or sent because it is.
    pub retain: bool,
    /// A valid Topic Name; empty only in MQTT 5 with a Topic Alias.
    pub topic: &'a str,
    /// Present exactly at QoS 1 and 2. v5 [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// Any bytes.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Decodes a PUBLISH that arrived at `receiver`. Allocates nothing.
    ///
    /// # Errors
    /// [`DecodeError::WrongDirection`] for a frame of another type; else the first fault found.
    #[inline]
    pub fn decode(
        version: ProtocolVersion,
        receiver: Receiver,
        frame: Frame<'a>,
    ) -> Result<Self, DecodeError> {
        check_frame(version, frame)?;
        let packet = frame.packet_type();
        if packet != PacketType::Publish {
            return Err(DecodeError::WrongDirection { packet });
        }
        let flags = frame.first_byte();
        // v5 [MQTT-3.3.1-4]
        let qos = QoS::from_bits(flags >> QOS_SHIFT).ok_or(DecodeError::PublishQoS)?;
        let mut reader = Reader::new(frame.body());
        // v5 [MQTT-3.3.2-1]
        let topic = reader.string()?;
        let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id()?) };
        let properties = if version.is_v5() {
            Properties::decode(&mut reader, Place::Publish, receiver)?
        } else {
            Properties::EMPTY
        };
        if topic.is_empty() && version.is_v5() {
            // Section 3.3.2.1
            if !properties.contains(PropertyId::TopicAlias) {
                return Err(DecodeError::TopicMissing);
            }
        } else {
            // v5 [MQTT-3.3.2-2], v5 [MQTT-4.7.3-1]
            topic::validate_name(topic).map_err(DecodeError::TopicName)?;
        }
        Ok(Self {
            dup: flags & DUP != 0,
            qos,
            retain: flags & RETAIN != 0,
            topic,
            packet_id,
            properties,
            payload: reader.take_rest(),
        })
    }

    /// Writes the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        if self.head().encode_into(version, out) {
            out.put_slice(self.payload);
        }
    }

    /// Bytes that [`Publish::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.head().encoded_len(version)
    }

    fn head(&self) -> PublishHead<'a> {
        PublishHead {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic,
            packet_id: self.packet_id,
            alias: None,
            message_expiry_remaining_s: None,
            subscription_ids: &[],
            properties: self.properties.as_bytes(),
            payload_len: self.payload.len(),
        }
    }
}

/// Everything of a PUBLISH but the bytes of its payload: what fan-out writes per subscriber (or per group of equal ones).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishHead<'a> {
    /// Sent before on this session. Not written at QoS 0. v5 [MQTT-3.3.1-2]
    pub dup: bool,
    /// Quality of Service.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// A valid Topic Name; may be empty when `alias` is set and known to the receiver.
    pub topic: &'a str,
    /// Needed at QoS 1 and 2 (1 is written if it is missing), not written at QoS 0.
    pub packet_id: Option<PacketId>,
    /// Topic Alias, not 0.
    pub alias: Option<u16>,
    /// Message Expiry Interval less the time that the message has waited, in seconds. v5 [MQTT-3.3.2-6]
    pub message_expiry_remaining_s: Option<u32>,
    /// One for each matching subscription that has one. v5 [MQTT-3.3.4-3..5]
    pub subscription_ids: &'a [u32],
    /// Other properties, encoded and valid: [`crate::PublishProperties::forwardable`].
    pub properties: &'a [u8],
    /// Bytes of the payload that the caller writes after the head.
    pub payload_len: usize,
}

impl PublishHead<'_> {
    /// Writes all that comes before the payload. `false`, and nothing written, when the packet would be over
    /// [`crate::frame::PACKET_SIZE_MAX`]. Before MQTT 5 the properties are left out.
    #[inline]
    pub fn encode_into(&self, version: ProtocolVersion, out: &mut impl BufMut) -> bool {
        let properties_len = self.properties_len(version);
        if !put_fixed_header(self.first_byte(), self.remaining_len(version, properties_len), out) {
            return false;
        }
        let topic = fitting(self.topic);
        // `fitting` bounds the length to 16 bits.
        out.put_u16(topic.len() as u16);
        out.put_slice(topic.as_bytes());
        if self.qos != QoS::AtMostOnce {
            out.put_u16(self.packet_id.unwrap_or(PacketId::MIN).as_u16());
        }
        if version.is_v5() {
            self.put_properties(properties_len, out);
        }
        true
    }

    /// Bytes of the whole packet, payload included; 0 when it is too long to be written.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        whole_len(self.remaining_len(version, self.properties_len(version)))
    }

    fn first_byte(&self) -> u8 {
        let dup = if self.dup && self.qos != QoS::AtMostOnce { DUP } else { 0 };
        PacketType::Publish.first_byte() | dup | self.qos.as_u8() << QOS_SHIFT | u8::from(self.retain)
    }

    fn properties_len(&self, version: ProtocolVersion) -> usize {
        if !version.is_v5() {
            return 0;
        }
        let subscription_ids: usize = self.subscription_ids.iter().map(|&id| 1 + varint::len(id)).sum();
        self.alias.map_or(0, |_| 3)
            + self.message_expiry_remaining_s.map_or(0, |_| 5)
            + subscription_ids
            + self.properties.len()
    }

    fn remaining_len(&self, version: ProtocolVersion, properties_len: usize) -> usize {
        let packet_id_len = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let length_len = if version.is_v5() { varint::len(capped(properties_len)) } else { 0 };
        let head = string_len(self.topic) + packet_id_len + length_len + properties_len;
        head.saturating_add(self.payload_len)
    }

    fn put_properties(&self, len: usize, out: &mut impl BufMut) {
        varint::put(capped(len), out);
        if let Some(alias) = self.alias {
            out.put_u8(PropertyId::TopicAlias.as_u8());
            out.put_u16(alias);
        }
        if let Some(seconds) = self.message_expiry_remaining_s {
            out.put_u8(PropertyId::MessageExpiryInterval.as_u8());
            out.put_u32(seconds);
        }
        for &id in self.subscription_ids {
            out.put_u8(PropertyId::SubscriptionIdentifier.as_u8());
            varint::put(id, out);
        }
        out.put_slice(self.properties);
    }
}

fn capped(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
