//! DISCONNECT (v5 section 3.14).

use bytes::BufMut;

use super::ack::read_reason;
use super::{put_packet, whole_len};
use crate::bytes_io::Reader;
use crate::error::DecodeError;
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::property_id::Place;
use crate::reason::ReasonCode;
use crate::receiver::Receiver;
use crate::version::ProtocolVersion;

/// The last packet of a connection. Before MQTT 5 only a client sends it, and it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Always `Success` before MQTT 5.
    pub reason: ReasonCode,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    /// One without properties.
    pub const fn new(reason: ReasonCode) -> Self {
        Self { reason, properties: Properties::EMPTY }
    }

    pub(super) fn decode(
        version: ProtocolVersion,
        receiver: Receiver,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        // The short forms of section 3.14.2.1: no Reason Code means Success, no Property Length means 0.
        if !version.is_v5() || reader.is_empty() {
            return Ok(Self::new(ReasonCode::Success));
        }
        let reason = read_reason(PacketType::Disconnect, receiver, reader)?;
        let properties = if reader.is_empty() {
            Properties::EMPTY
        } else {
            Properties::decode(reader, Place::Disconnect, receiver)?
        };
        Ok(Self { reason, properties })
    }

    /// Writes the packet, in its shortest form.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        let remaining = self.remaining_len(version);
        put_packet(PacketType::Disconnect, remaining, out, |out| {
            if remaining > 0 {
                out.put_u8(self.reason.as_u8());
            }
            if remaining > 1 {
                self.properties.encode(out);
            }
        });
    }

    /// Bytes that [`Disconnect::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        whole_len(self.remaining_len(version))
    }

    fn remaining_len(&self, version: ProtocolVersion) -> usize {
        match (version.is_v5(), self.properties.is_empty()) {
            (true, false) => 1 + self.properties.encoded_len(),
            (true, true) if self.reason != ReasonCode::Success => 1,
            _ => 0,
        }
    }
}
