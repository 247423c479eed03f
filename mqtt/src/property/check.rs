//! Validation of properties as they arrive: known, allowed in this place and direction, in range, not repeated.

use super::Properties;
use crate::bytes_io::{Reader, string};
use crate::error::DecodeError;
use crate::property_id::{Place, PropertyId, ValueKind};
use crate::receiver::Receiver;
use crate::topic;

impl<'a> Properties<'a> {
    /// Reads Property Length and the properties after it.
    #[inline]
    pub(crate) fn decode(
        reader: &mut Reader<'a>,
        place: Place,
        receiver: Receiver,
    ) -> Result<Self, DecodeError> {
        let len = reader.varint()?;
        if len == 0 {
            return Ok(Self::EMPTY);
        }
        // `usize` holds every Variable Byte Integer on the platforms with 32-bit pointers and up.
        Self::check(reader.bytes(len as usize)?, place, receiver)
    }

    fn check(raw: &'a [u8], place: Place, receiver: Receiver) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let mut present = 0u64;
        while !reader.is_empty() {
            let byte = reader.u8()?;
            let id = PropertyId::from_u8(byte).ok_or(DecodeError::PropertyUnknown { id: byte })?;
            if !id.is_allowed_in(place) {
                return Err(DecodeError::PropertyNotAllowed { id });
            }
            check_direction(id, place, receiver)?;
            if present & id.bit() != 0 && !may_repeat(id, place) {
                return Err(DecodeError::PropertyRepeated { id });
            }
            present |= id.bit();
            check_value(id, &mut reader)?;
        }
        Ok(Self { raw, present })
    }
}

#[inline]
fn check_direction(id: PropertyId, place: Place, receiver: Receiver) -> Result<(), DecodeError> {
    let forbidden = match (id, place) {
        // v5 [MQTT-3.3.4-6]
        (PropertyId::SubscriptionIdentifier, Place::Publish) => receiver == Receiver::Server,
        // v5 [MQTT-3.14.2-2]
        (PropertyId::SessionExpiryInterval, Place::Disconnect) => receiver == Receiver::Client,
        _ => false,
    };
    if forbidden { Err(DecodeError::PropertyDirection { id }) } else { Ok(()) }
}

#[inline]
const fn may_repeat(id: PropertyId, place: Place) -> bool {
    match id {
        PropertyId::UserProperty => true,
        // One per matching subscription. v5 [MQTT-3.3.4-4]
        PropertyId::SubscriptionIdentifier => matches!(place, Place::Publish),
        _ => false,
    }
}

#[inline]
fn check_value(id: PropertyId, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let in_range = match id.value_kind() {
        // Every one-byte property is a flag; Maximum QoS knows 0 and 1 too (section 3.2.2.3.4).
        ValueKind::Byte => reader.u8()? <= 1,
        ValueKind::TwoBytes => {
            let zero_is_allowed = matches!(id, PropertyId::ServerKeepAlive | PropertyId::TopicAliasMaximum);
            reader.u16()? != 0 || zero_is_allowed
        }
        ValueKind::FourBytes => reader.u32()? != 0 || id != PropertyId::MaximumPacketSize,
        ValueKind::VarInt => reader.varint()? != 0,
        ValueKind::Binary => {
            reader.binary()?;
            true
        }
        ValueKind::String => {
            let text = reader.string()?;
            if id == PropertyId::ResponseTopic {
                topic::validate_name(text).map_err(DecodeError::ResponseTopic)?;
            }
            true
        }
        // v5 [MQTT-1.5.7-1]
        ValueKind::StringPair => {
            string(reader.binary()?)?;
            string(reader.binary()?)?;
            true
        }
    };
    if in_range { Ok(()) } else { Err(DecodeError::PropertyValue { id }) }
}
