//! AUTH (v5 section 3.15); MQTT 5 only.

use bytes::BufMut;

use super::ack::read_reason;
use super::connect::check_authentication;
use super::{put_packet, whole_len};
use crate::bytes_io::Reader;
use crate::error::DecodeError;
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::property_id::{Place, PropertyId};
use crate::reason::ReasonCode;
use crate::receiver::Receiver;
use crate::version::ProtocolVersion;

/// A step of enhanced authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// `Success` (from the server), `ContinueAuthentication` or `ReAuthenticate` (from the client). v5 [MQTT-3.15.2-1]
    pub reason: ReasonCode,
    /// Authentication Method among them, unless the reason is `Success`.
    pub properties: Properties<'a>,
}

impl<'a> Auth<'a> {
    pub(super) fn decode(receiver: Receiver, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let packet = PacketType::Auth;
        // Remaining Length 0 means Success without properties (section 3.15.2.1).
        if reader.is_empty() {
            let reason = ReasonCode::Success;
            if !reason.is_allowed(packet, receiver) {
                return Err(DecodeError::ReasonCodeNotAllowed { code: reason.as_u8(), packet });
            }
            return Ok(Self { reason, properties: Properties::EMPTY });
        }
        let reason = read_reason(packet, receiver, reader)?;
        let properties = Properties::decode(reader, Place::Auth, receiver)?;
        check_authentication(properties)?;
        // Section 3.15.2.2.2 demands the method, section 3.15.2.1 shows a Success without one.
        if reason != ReasonCode::Success && !properties.contains(PropertyId::AuthenticationMethod) {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        Ok(Self { reason, properties })
    }

    /// Writes the packet; nothing before MQTT 5, which has no AUTH.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        if !version.is_v5() {
            return;
        }
        let remaining = self.remaining_len();
        put_packet(PacketType::Auth, remaining, out, |out| {
            if remaining > 0 {
                out.put_u8(self.reason.as_u8());
                self.properties.encode(out);
            }
        });
    }

    /// Bytes that [`Auth::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        if version.is_v5() { whole_len(self.remaining_len()) } else { 0 }
    }

    fn remaining_len(&self) -> usize {
        if self.reason == ReasonCode::Success && self.properties.is_empty() {
            return 0;
        }
        1 + self.properties.encoded_len()
    }
}
