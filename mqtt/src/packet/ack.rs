//! PUBACK, PUBREC, PUBREL and PUBCOMP (v5 sections 3.4 to 3.7), which have one form.

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

/// Which of the four an [`Ack`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// PUBACK
    PubAck,
    /// PUBREC
    PubRec,
    /// PUBREL
    PubRel,
    /// PUBCOMP
    PubComp,
}

impl AckKind {
    /// The type of the packet.
    pub const fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }
}

/// A step of a QoS 1 or 2 flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// That of the PUBLISH. v5 [MQTT-2.2.1-5]
    pub packet_id: PacketId,
    /// Always `Success` before MQTT 5.
    pub reason: ReasonCode,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    /// A step without properties.
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: Properties::EMPTY }
    }

    pub(super) fn decode(
        version: ProtocolVersion,
        receiver: Receiver,
        kind: AckKind,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        // The short forms of section 3.4.2.1: no Reason Code means Success, no Property Length means 0.
        if !version.is_v5() || reader.is_empty() {
            return Ok(Self::new(packet_id, ReasonCode::Success));
        }
        let reason = read_reason(kind.packet_type(), receiver, reader)?;
        let properties = if reader.is_empty() {
            Properties::EMPTY
        } else {
            Properties::decode(reader, Place::Ack, receiver)?
        };
        Ok(Self { packet_id, reason, properties })
    }

    /// Writes the packet as `kind`, in its shortest form.
    #[inline]
    pub fn encode(&self, kind: AckKind, version: ProtocolVersion, out: &mut impl BufMut) {
        let remaining = self.remaining_len(version);
        put_packet(kind.packet_type(), remaining, out, |out| {
            out.put_u16(self.packet_id.as_u16());
            if remaining > 2 {
                out.put_u8(self.reason.as_u8());
            }
            if remaining > 3 {
                self.properties.encode(out);
            }
        });
    }

    /// Bytes that [`Ack::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        whole_len(self.remaining_len(version))
    }

    fn remaining_len(&self, version: ProtocolVersion) -> usize {
        match (version.is_v5(), self.properties.is_empty()) {
            (true, false) => 3 + self.properties.encoded_len(),
            (true, true) if self.reason != ReasonCode::Success => 3,
            _ => 2,
        }
    }
}

/// A Reason Code that `packet` may carry to `receiver`.
pub(super) fn read_reason(
    packet: PacketType,
    receiver: Receiver,
    reader: &mut Reader<'_>,
) -> Result<ReasonCode, DecodeError> {
    let code = reader.u8()?;
    match ReasonCode::try_from(code) {
        Ok(reason) if reason.is_allowed(packet, receiver) => Ok(reason),
        _ => Err(DecodeError::ReasonCodeNotAllowed { code, packet }),
    }
}
