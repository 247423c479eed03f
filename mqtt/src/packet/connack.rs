//! CONNACK (v5 section 3.2). Before MQTT 5 its Reason Code is written as a CONNECT return code.

use bytes::BufMut;

use super::connect::check_authentication;
use super::{put_packet, whole_len};
use crate::bytes_io::Reader;
use crate::error::DecodeError;
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::property_id::Place;
use crate::reason::{ConnectReturnCode, ReasonCode};
use crate::receiver::Receiver;
use crate::version::ProtocolVersion;

/// The server answers a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether the server goes on with a stored session. 3.1 cannot say so: there it is written and read as `false`.
    pub session_present: bool,
    /// Before MQTT 5 the Reason Code that says the same as the return code, see [`ConnectReturnCode`].
    pub reason: ReasonCode,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
}

impl<'a> ConnAck<'a> {
    /// An answer without properties.
    pub const fn new(session_present: bool, reason: ReasonCode) -> Self {
        Self { session_present, reason, properties: Properties::EMPTY }
    }

    pub(super) fn decode(version: ProtocolVersion, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        let code = reader.u8()?;
        // v5 [MQTT-3.2.2-1]; the byte is unused in 3.1.
        if flags & !1 != 0 && version != ProtocolVersion::V31 {
            return Err(DecodeError::ConnAckReservedFlag);
        }
        let session_present = flags & 1 != 0 && version != ProtocolVersion::V31;
        let unknown = DecodeError::ReasonCodeNotAllowed { code, packet: PacketType::ConnAck };
        let (reason, properties) = if version.is_v5() {
            let reason = ReasonCode::try_from(code).map_err(|_| unknown)?;
            if !reason.is_allowed(PacketType::ConnAck, Receiver::Client) {
                return Err(unknown);
            }
            (reason, Properties::decode(reader, Place::ConnAck, Receiver::Client)?)
        } else {
            (ConnectReturnCode::from_u8(code).ok_or(unknown)?.reason(), Properties::EMPTY)
        };
        // v5 [MQTT-3.2.2-6], v3.1.1 [MQTT-3.2.2-4]
        if session_present && reason != ReasonCode::Success {
            return Err(DecodeError::SessionPresentWithRefusal);
        }
        check_authentication(properties)?;
        Ok(Self { session_present, reason, properties })
    }

    /// Writes the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        put_packet(PacketType::ConnAck, self.remaining_len(version), out, |out| {
            out.put_u8(u8::from(self.session_present && version != ProtocolVersion::V31));
            if version.is_v5() {
                out.put_u8(self.reason.as_u8());
                self.properties.encode(out);
            } else {
                out.put_u8(ConnectReturnCode::from_reason(self.reason).as_u8());
            }
        });
    }

    /// Bytes that [`ConnAck::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        whole_len(self.remaining_len(version))
    }

    fn remaining_len(&self, version: ProtocolVersion) -> usize {
        2 + if version.is_v5() { self.properties.encoded_len() } else { 0 }
    }
}
