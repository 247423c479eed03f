//! Properties of MQTT 5 (section 2.2.2): a validated raw slice, read lazily. Validation: `check`; writing: `buf`; the summary
//! of a PUBLISH: `publish`.

mod buf;
mod check;
mod publish;

pub use buf::PropertiesBuf;
pub use publish::PublishProperties;

use bytes::BufMut;

use crate::bytes_io::{Reader, string};
use crate::property_id::{PropertyId, ValueKind};
use crate::qos::QoS;
use crate::varint;

/// One property with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property<'a> {
    /// 0x01: whether the payload is said to be UTF-8.
    PayloadFormatIndicator(bool),
    /// 0x02: lifetime of the message in seconds.
    MessageExpiryInterval(u32),
    /// 0x03: content type of the payload.
    ContentType(&'a str),
    /// 0x08: topic for the response.
    ResponseTopic(&'a str),
    /// 0x09: tells the requester which request a response answers.
    CorrelationData(&'a [u8]),
    /// 0x0B: 1 to 268,435,455.
    SubscriptionIdentifier(u32),
    /// 0x11: seconds; 0xFFFF_FFFF is for ever.
    SessionExpiryInterval(u32),
    /// 0x12: the Client Identifier that the server chose.
    AssignedClientIdentifier(&'a str),
    /// 0x13: the Keep Alive that the server demands, in seconds.
    ServerKeepAlive(u16),
    /// 0x15: name of the authentication method.
    AuthenticationMethod(&'a str),
    /// 0x16: data of the authentication method.
    AuthenticationData(&'a [u8]),
    /// 0x17: whether the client wants Reason Strings and User Properties on failures.
    RequestProblemInformation(bool),
    /// 0x18: seconds between the end of the connection and the Will Message.
    WillDelayInterval(u32),
    /// 0x19: whether the client wants Response Information.
    RequestResponseInformation(bool),
    /// 0x1A: basis for Response Topics.
    ResponseInformation(&'a str),
    /// 0x1C: another server to use.
    ServerReference(&'a str),
    /// 0x1F: for people who diagnose.
    ReasonString(&'a str),
    /// 0x21: QoS 1 and 2 messages that may be unacknowledged, 1 to 65,535.
    ReceiveMaximum(u16),
    /// 0x22: the highest Topic Alias accepted.
    TopicAliasMaximum(u16),
    /// 0x23: 1 to 65,535.
    TopicAlias(u16),
    /// 0x24: the highest QoS that the server supports, 0 or 1.
    MaximumQoS(QoS),
    /// 0x25: whether the server supports retained messages.
    RetainAvailable(bool),
    /// 0x26: name and value.
    UserProperty(&'a str, &'a str),
    /// 0x27: bytes of a whole packet, 1 or more.
    MaximumPacketSize(u32),
    /// 0x28: whether the server supports wildcards in subscriptions.
    WildcardSubscriptionAvailable(bool),
    /// 0x29: whether the server supports Subscription Identifiers.
    SubscriptionIdentifierAvailable(bool),
    /// 0x2A: whether the server supports Shared Subscriptions.
    SharedSubscriptionAvailable(bool),
}

/// The properties of one packet, validated: every value parses, is in range and belongs there, and nothing that may come
/// once comes twice.
///
/// Equality is that of the encoded bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Properties<'a> {
    raw: &'a [u8],
    /// Bit n: the property with identifier n is present.
    present: u64,
}

impl PartialEq for Properties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for Properties<'_> {}

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Properties<'static> = Properties { raw: &[], present: 0 };

    /// The properties as encoded, without the Property Length.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Whether `id` is present; no scan.
    pub const fn contains(&self, id: PropertyId) -> bool {
        self.present & id.bit() != 0
    }

    /// The first property `id`. One scan at most, none when it is absent.
    pub fn find(&self, id: PropertyId) -> Option<Property<'a>> {
        if !self.contains(id) {
            return None;
        }
        self.raw_iter().find(|raw| raw.id == id).and_then(RawProperty::read)
    }

    /// All properties in the order of the packet.
    pub fn iter(&self) -> PropertiesIter<'a> {
        PropertiesIter { raw: self.raw_iter() }
    }

    /// Bytes of Property Length and properties together.
    pub(crate) fn encoded_len(&self) -> usize {
        // A slice over the maximum is refused when the packet is written.
        varint::len(u32::try_from(self.raw.len()).unwrap_or(u32::MAX)) + self.raw.len()
    }

    /// Writes Property Length and properties. v5 [MQTT-2.2.2-1]
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        varint::put(u32::try_from(self.raw.len()).unwrap_or(u32::MAX), out);
        out.put_slice(self.raw);
    }

    const fn raw_iter(&self) -> RawIter<'a> {
        RawIter { rest: self.raw }
    }
}

impl<'a> IntoIterator for &Properties<'a> {
    type Item = Property<'a>;
    type IntoIter = PropertiesIter<'a>;

    fn into_iter(self) -> PropertiesIter<'a> {
        self.iter()
    }
}

/// Iterator over [`Properties`].
#[derive(Debug, Clone)]
pub struct PropertiesIter<'a> {
    raw: RawIter<'a>,
}

impl<'a> Iterator for PropertiesIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        self.raw.next().and_then(RawProperty::read)
    }
}

/// One property whose extent is known and whose value is not read.
#[derive(Debug, Clone, Copy)]
struct RawProperty<'a> {
    id: PropertyId,
    /// Identifier and value, as encoded.
    whole: &'a [u8],
}

/// Splits properties without reading their values. Ends at the first byte that is not one.
#[derive(Debug, Clone)]
struct RawIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RawIter<'a> {
    type Item = RawProperty<'a>;

    #[inline]
    fn next(&mut self) -> Option<RawProperty<'a>> {
        let id = PropertyId::from_u8(*self.rest.first()?)?;
        let mut reader = Reader::new(&self.rest[1..]);
        match id.value_kind() {
            ValueKind::Byte => reader.bytes(1).ok()?,
            ValueKind::TwoBytes => reader.bytes(2).ok()?,
            ValueKind::FourBytes => reader.bytes(4).ok()?,
            ValueKind::VarInt => reader.varint().map(|_| &[][..]).ok()?,
            ValueKind::String | ValueKind::Binary => reader.binary().ok()?,
            ValueKind::StringPair => {
                reader.binary().ok()?;
                reader.binary().ok()?
            }
        };
        let (whole, rest) = self.rest.split_at(self.rest.len() - reader.rest().len());
        self.rest = rest;
        Some(RawProperty { id, whole })
    }
}

impl<'a> RawProperty<'a> {
    /// The property with its value; always `Some` for validated properties.
    fn read(self) -> Option<Property<'a>> {
        let mut value = Reader::new(self.whole.get(1..)?);
        let read = &mut value;
        Some(match self.id {
            PropertyId::PayloadFormatIndicator => Property::PayloadFormatIndicator(flag(read)?),
            PropertyId::MessageExpiryInterval => Property::MessageExpiryInterval(read.u32().ok()?),
            PropertyId::ContentType => Property::ContentType(text(read)?),
            PropertyId::ResponseTopic => Property::ResponseTopic(text(read)?),
            PropertyId::CorrelationData => Property::CorrelationData(read.binary().ok()?),
            PropertyId::SubscriptionIdentifier => Property::SubscriptionIdentifier(read.varint().ok()?),
            PropertyId::SessionExpiryInterval => Property::SessionExpiryInterval(read.u32().ok()?),
            PropertyId::AssignedClientIdentifier => Property::AssignedClientIdentifier(text(read)?),
            PropertyId::ServerKeepAlive => Property::ServerKeepAlive(read.u16().ok()?),
            PropertyId::AuthenticationMethod => Property::AuthenticationMethod(text(read)?),
            PropertyId::AuthenticationData => Property::AuthenticationData(read.binary().ok()?),
            PropertyId::RequestProblemInformation => Property::RequestProblemInformation(flag(read)?),
            PropertyId::WillDelayInterval => Property::WillDelayInterval(read.u32().ok()?),
            PropertyId::RequestResponseInformation => Property::RequestResponseInformation(flag(read)?),
            PropertyId::ResponseInformation => Property::ResponseInformation(text(read)?),
            PropertyId::ServerReference => Property::ServerReference(text(read)?),
            PropertyId::ReasonString => Property::ReasonString(text(read)?),
            PropertyId::ReceiveMaximum => Property::ReceiveMaximum(read.u16().ok()?),
            PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(read.u16().ok()?),
            PropertyId::TopicAlias => Property::TopicAlias(read.u16().ok()?),
            PropertyId::MaximumQoS => Property::MaximumQoS(QoS::try_from(read.u8().ok()?).ok()?),
            PropertyId::RetainAvailable => Property::RetainAvailable(flag(read)?),
            PropertyId::UserProperty => Property::UserProperty(text(read)?, text(read)?),
            PropertyId::MaximumPacketSize => Property::MaximumPacketSize(read.u32().ok()?),
            PropertyId::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag(read)?),
            PropertyId::SubscriptionIdentifierAvailable => {
                Property::SubscriptionIdentifierAvailable(flag(read)?)
            }
            PropertyId::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag(read)?),
        })
    }
}

fn flag(value: &mut Reader<'_>) -> Option<bool> {
    value.u8().ok().map(|byte| byte != 0)
}

fn text<'a>(value: &mut Reader<'a>) -> Option<&'a str> {
    value.binary().and_then(string).ok()
}
