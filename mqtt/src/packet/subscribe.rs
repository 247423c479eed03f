//! SUBSCRIBE (v5 section 3.8).

use bytes::BufMut;

use super::{put_packet, whole_len};
use crate::bytes_io::{Reader, put_string, string_len};
use crate::error::DecodeError;
use crate::packet_id::PacketId;
use crate::packet_type::PacketType;
use crate::property::{Properties, Property};
use crate::property_id::{Place, PropertyId};
use crate::qos::QoS;
use crate::receiver::Receiver;
use crate::topic;
use crate::version::ProtocolVersion;

const QOS: u8 = 0b0000_0011;
const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED: u8 = 0b1100_0000;

/// When a subscription brings the retained messages (section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// 0: whenever the subscription is made. v5 [MQTT-3.3.1-9]
    #[default]
    Send = 0,
    /// 1: only if it did not exist. v5 [MQTT-3.3.1-10]
    SendIfNew = 1,
    /// 2: never. v5 [MQTT-3.3.1-11]
    DoNotSend = 2,
}

/// The options of one subscription. All but `qos` are MQTT 5 only; the default is what the older versions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubscriptionOptions {
    /// The highest QoS wanted.
    pub qos: QoS,
    /// Not the client's own messages.
    pub no_local: bool,
    /// RETAIN flag as the publisher set it.
    pub retain_as_published: bool,
    /// When the retained messages come.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// Options with this QoS and the defaults of the older versions.
    pub const fn new(qos: QoS) -> Self {
        Self { qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send }
    }

    /// The byte on the wire; before MQTT 5 the QoS alone.
    pub const fn to_byte(self, version: ProtocolVersion) -> u8 {
        let qos = self.qos.as_u8();
        if !version.is_v5() {
            return qos;
        }
        let no_local = if self.no_local { NO_LOCAL } else { 0 };
        let retain_as_published = if self.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 };
        qos | no_local | retain_as_published | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT
    }

    /// The options in `byte`, all versions.
    ///
    /// # Errors
    /// Reserved bits, QoS 3, Retain Handling 3.
    pub const fn from_byte(version: ProtocolVersion, byte: u8) -> Result<Self, DecodeError> {
        let reserved = if version.is_v5() { RESERVED } else { !QOS };
        // v5 [MQTT-3.8.3-5], v3.1.1 [MQTT-3-8.3-4]
        if byte & reserved != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved);
        }
        let Some(qos) = QoS::from_bits(byte) else { return Err(DecodeError::SubscriptionQoS) };
        let retain_handling = match byte >> RETAIN_HANDLING_SHIFT {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::RetainHandling),
        };
        Ok(Self {
            qos,
            no_local: byte & NO_LOCAL != 0,
            retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
            retain_handling,
        })
    }
}

/// The Topic Filters of a SUBSCRIBE with their options.
#[derive(Debug, Clone, Copy)]
pub struct Subscriptions<'a>(SubscriptionSource<'a>);

#[derive(Debug, Clone, Copy)]
enum SubscriptionSource<'a> {
    /// A payload that was validated.
    Wire(ProtocolVersion, &'a [u8]),
    List(&'a [(&'a str, SubscriptionOptions)]),
}

impl<'a> From<&'a [(&'a str, SubscriptionOptions)]> for Subscriptions<'a> {
    fn from(list: &'a [(&'a str, SubscriptionOptions)]) -> Self {
        Self(SubscriptionSource::List(list))
    }
}

impl PartialEq for Subscriptions<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Subscriptions<'_> {}

impl<'a> Subscriptions<'a> {
    /// The Topic Filters and options in order; the filters of a decoded packet are valid.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, SubscriptionOptions)> + use<'a> {
        let (version, mut wire, list) = match self.0 {
            SubscriptionSource::Wire(version, payload) => (version, Reader::new(payload), [].as_slice()),
            SubscriptionSource::List(list) => (ProtocolVersion::V5, Reader::new(&[]), list),
        };
        let from_wire = std::iter::from_fn(move || {
            let filter = wire.string().ok()?;
            Some((filter, SubscriptionOptions::from_byte(version, wire.u8().ok()?).ok()?))
        });
        from_wire.chain(list.iter().copied())
    }

    fn encoded_len(&self) -> usize {
        match self.0 {
            SubscriptionSource::Wire(_, payload) => payload.len(),
            SubscriptionSource::List(list) => list.iter().map(|(filter, _)| string_len(filter) + 1).sum(),
        }
    }
}

/// A client subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Answered by the SUBACK with the same. v5 [MQTT-3.8.4-2]
    pub packet_id: PacketId,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// At least one. v5 [MQTT-3.8.3-2]
    pub subscriptions: Subscriptions<'a>,
}

impl<'a> Subscribe<'a> {
    /// The Topic Filters and options in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, SubscriptionOptions)> + use<'a> {
        self.subscriptions.iter()
    }

    /// The Subscription Identifier for all subscriptions of the packet.
    pub fn subscription_id(&self) -> Option<u32> {
        match self.properties.find(PropertyId::SubscriptionIdentifier) {
            Some(Property::SubscriptionIdentifier(id)) => Some(id),
            _ => None,
        }
    }

    pub(super) fn decode(version: ProtocolVersion, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            Properties::decode(reader, Place::Subscribe, Receiver::Server)?
        } else {
            Properties::EMPTY
        };
        // v5 [MQTT-3.8.3-2]
        if reader.is_empty() {
            return Err(DecodeError::EmptyPayload { packet: PacketType::Subscribe });
        }
        let payload = reader.take_rest();
        let mut entries = Reader::new(payload);
        while !entries.is_empty() {
            // v5 [MQTT-3.8.3-1]
            let filter = entries.string()?;
            let options = SubscriptionOptions::from_byte(version, entries.u8()?)?;
            topic::validate_filter(filter).map_err(DecodeError::TopicFilter)?;
            // v5 [MQTT-3.8.3-4]
            if options.no_local && topic::is_shared(filter) {
                return Err(DecodeError::NoLocalOnSharedSubscription);
            }
        }
        Ok(Self {
            packet_id,
            properties,
            subscriptions: Subscriptions(SubscriptionSource::Wire(version, payload)),
        })
    }

    /// Writes the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        put_packet(PacketType::Subscribe, self.remaining_len(version), out, |out| {
            out.put_u16(self.packet_id.as_u16());
            if version.is_v5() {
                self.properties.encode(out);
            }
            for (filter, options) in self.iter() {
                put_string(filter, out);
                out.put_u8(options.to_byte(version));
            }
        });
    }

    /// Bytes that [`Subscribe::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        whole_len(self.remaining_len(version))
    }

    fn remaining_len(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() { self.properties.encoded_len() } else { 0 };
        2 + properties + self.subscriptions.encoded_len()
    }
}
