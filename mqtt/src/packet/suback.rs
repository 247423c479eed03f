//! SUBACK and UNSUBACK (v5 sections 3.9 and 3.11).

use bytes::BufMut;

use super::{put_packet, whole_len};
use crate::bytes_io::Reader;
use crate::error::DecodeError;
use crate::packet_id::PacketId;
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::property_id::Place;
use crate::reason::ReasonCode;
use crate::receiver::Receiver;
use crate::version::ProtocolVersion;

/// The Reason Codes of a SUBACK or UNSUBACK, one per Topic Filter and in their order. v5 [MQTT-3.9.3-1], v5 [MQTT-3.11.3-1]
#[derive(Debug, Clone, Copy)]
pub struct ReasonCodes<'a>(CodeSource<'a>);

#[derive(Debug, Clone, Copy)]
enum CodeSource<'a> {
    /// A payload that was validated.
    Wire(&'a [u8]),
    List(&'a [ReasonCode]),
}

impl<'a> From<&'a [ReasonCode]> for ReasonCodes<'a> {
    fn from(list: &'a [ReasonCode]) -> Self {
        Self(CodeSource::List(list))
    }
}

impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ReasonCodes<'_> {}

impl<'a> ReasonCodes<'a> {
    /// The codes in order.
    pub fn iter(&self) -> impl Iterator<Item = ReasonCode> + use<'a> {
        let (wire, list) = match self.0 {
            CodeSource::Wire(payload) => (payload, [].as_slice()),
            CodeSource::List(list) => ([].as_slice(), list),
        };
        wire.iter().filter_map(|&byte| ReasonCode::try_from(byte).ok()).chain(list.iter().copied())
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        match self.0 {
            CodeSource::Wire(payload) => payload.len(),
            CodeSource::List(list) => list.len(),
        }
    }

    /// Whether there are none: so in every UNSUBACK before MQTT 5.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn decode(packet: PacketType, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let payload = reader.take_rest();
        if payload.is_empty() {
            return Err(DecodeError::EmptyPayload { packet });
        }
        let allowed = |code: u8| {
            ReasonCode::try_from(code).is_ok_and(|reason| reason.is_allowed(packet, Receiver::Client))
        };
        match payload.iter().find(|&&code| !allowed(code)) {
            Some(&code) => Err(DecodeError::ReasonCodeNotAllowed { code, packet }),
            None => Ok(Self(CodeSource::Wire(payload))),
        }
    }
}

/// The server answers a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// That of the SUBSCRIBE. v5 [MQTT-3.8.4-2]
    pub packet_id: PacketId,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// The granted QoS or the failure, per subscription. Before MQTT 5 every failure is written as 0x80.
    pub codes: ReasonCodes<'a>,
}

impl<'a> SubAck<'a> {
    pub(super) fn decode(version: ProtocolVersion, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let packet = PacketType::SubAck;
        let packet_id = reader.packet_id()?;
        if version.is_v5() {
            let properties = Properties::decode(reader, Place::SubAck, Receiver::Client)?;
            return Ok(Self { packet_id, properties, codes: ReasonCodes::decode(packet, reader)? });
        }
        let payload = reader.rest();
        // v3.1.1 [MQTT-3.9.3-2]
        if let Some(&code) = payload.iter().find(|code| !matches!(code, 0..=2 | 0x80)) {
            return Err(DecodeError::ReasonCodeNotAllowed { code, packet });
        }
        Ok(Self { packet_id, properties: Properties::EMPTY, codes: ReasonCodes::decode(packet, reader)? })
    }

    /// Writes the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        put_packet(PacketType::SubAck, self.remaining_len(version), out, |out| {
            out.put_u16(self.packet_id.as_u16());
            if version.is_v5() {
                self.properties.encode(out);
            }
            for reason in self.codes.iter() {
                let failed = reason.is_error() && !version.is_v5();
                out.put_u8(if failed { ReasonCode::UnspecifiedError } else { reason }.as_u8());
            }
        });
    }

    /// Bytes that [`SubAck::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        whole_len(self.remaining_len(version))
    }

    fn remaining_len(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() { self.properties.encoded_len() } else { 0 };
        2 + properties + self.codes.len()
    }
}

/// The server answers an UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// That of the UNSUBSCRIBE. v5 [MQTT-3.10.4-5]
    pub packet_id: PacketId,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// MQTT 5 only.
    pub codes: ReasonCodes<'a>,
}

impl<'a> UnsubAck<'a> {
    pub(super) fn decode(version: ProtocolVersion, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        if !version.is_v5() {
            let codes = ReasonCodes(CodeSource::Wire(&[]));
            return Ok(Self { packet_id, properties: Properties::EMPTY, codes });
        }
        let properties = Properties::decode(reader, Place::SubAck, Receiver::Client)?;
        Ok(Self { packet_id, properties, codes: ReasonCodes::decode(PacketType::UnsubAck, reader)? })
    }

    /// Writes the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        put_packet(PacketType::UnsubAck, self.remaining_len(version), out, |out| {
            out.put_u16(self.packet_id.as_u16());
            if version.is_v5() {
                self.properties.encode(out);
                self.codes.iter().for_each(|reason| out.put_u8(reason.as_u8()));
            }
        });
    }

    /// Bytes that [`UnsubAck::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        whole_len(self.remaining_len(version))
    }

    fn remaining_len(&self, version: ProtocolVersion) -> usize {
        2 + if version.is_v5() { self.properties.encoded_len() + self.codes.len() } else { 0 }
    }
}
