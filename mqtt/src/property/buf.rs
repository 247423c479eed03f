//! Properties that are being written.

use bytes::BufMut;

use super::{Properties, Property};
use crate::bytes_io::{put_binary, put_string};
use crate::property_id::PropertyId;
use crate::varint;

/// Encoded properties that grow; [`PropertiesBuf::as_properties`] lends them to a packet.
///
/// It writes what it is told. Which property belongs to which packet, and how often, is for the caller to know; a string or
/// binary value over 65,535 bytes is cut (a string at a character).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PropertiesBuf {
    bytes: Vec<u8>,
    present: u64,
}

impl PropertiesBuf {
    /// No properties; allocates nothing.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), present: 0 }
    }

    /// Adds `property`.
    #[must_use]
    pub fn with(mut self, property: Property<'_>) -> Self {
        self.push(property);
        self
    }

    /// Adds `property`.
    pub fn push(&mut self, property: Property<'_>) {
        let id = property.id();
        self.present |= id.bit();
        let out = &mut self.bytes;
        out.put_u8(id.as_u8());
        match property {
            Property::PayloadFormatIndicator(flag)
            | Property::RequestProblemInformation(flag)
            | Property::RequestResponseInformation(flag)
            | Property::RetainAvailable(flag)
            | Property::WildcardSubscriptionAvailable(flag)
            | Property::SubscriptionIdentifierAvailable(flag)
            | Property::SharedSubscriptionAvailable(flag) => out.put_u8(u8::from(flag)),
            Property::MaximumQoS(qos) => out.put_u8(qos.as_u8()),
            Property::ServerKeepAlive(value)
            | Property::ReceiveMaximum(value)
            | Property::TopicAliasMaximum(value)
            | Property::TopicAlias(value) => out.put_u16(value),
            Property::MessageExpiryInterval(value)
            | Property::SessionExpiryInterval(value)
            | Property::WillDelayInterval(value)
            | Property::MaximumPacketSize(value) => out.put_u32(value),
            Property::SubscriptionIdentifier(value) => varint::put(value, out),
            Property::ContentType(text)
            | Property::ResponseTopic(text)
            | Property::AssignedClientIdentifier(text)
            | Property::AuthenticationMethod(text)
            | Property::ResponseInformation(text)
            | Property::ServerReference(text)
            | Property::ReasonString(text) => put_string(text, out),
            Property::CorrelationData(bytes) | Property::AuthenticationData(bytes) => put_binary(bytes, out),
            Property::UserProperty(name, value) => {
                put_string(name, out);
                put_string(value, out);
            }
        }
    }

    /// Removes all; keeps the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.present = 0;
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The properties for a packet.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties { raw: &self.bytes, present: self.present }
    }
}

impl<'a> FromIterator<Property<'a>> for PropertiesBuf {
    fn from_iter<I: IntoIterator<Item = Property<'a>>>(properties: I) -> Self {
        let mut buf = Self::new();
        buf.extend(properties);
        buf
    }
}

impl<'a> Extend<Property<'a>> for PropertiesBuf {
    fn extend<I: IntoIterator<Item = Property<'a>>>(&mut self, properties: I) {
        properties.into_iter().for_each(|property| self.push(property));
    }
}

impl Property<'_> {
    /// The identifier of the property.
    pub const fn id(&self) -> PropertyId {
        match self {
            Self::PayloadFormatIndicator(_) => PropertyId::PayloadFormatIndicator,
            Self::MessageExpiryInterval(_) => PropertyId::MessageExpiryInterval,
            Self::ContentType(_) => PropertyId::ContentType,
            Self::ResponseTopic(_) => PropertyId::ResponseTopic,
            Self::CorrelationData(_) => PropertyId::CorrelationData,
            Self::SubscriptionIdentifier(_) => PropertyId::SubscriptionIdentifier,
            Self::SessionExpiryInterval(_) => PropertyId::SessionExpiryInterval,
            Self::AssignedClientIdentifier(_) => PropertyId::AssignedClientIdentifier,
            Self::ServerKeepAlive(_) => PropertyId::ServerKeepAlive,
            Self::AuthenticationMethod(_) => PropertyId::AuthenticationMethod,
            Self::AuthenticationData(_) => PropertyId::AuthenticationData,
            Self::RequestProblemInformation(_) => PropertyId::RequestProblemInformation,
            Self::WillDelayInterval(_) => PropertyId::WillDelayInterval,
            Self::RequestResponseInformation(_) => PropertyId::RequestResponseInformation,
            Self::ResponseInformation(_) => PropertyId::ResponseInformation,
            Self::ServerReference(_) => PropertyId::ServerReference,
            Self::ReasonString(_) => PropertyId::ReasonString,
            Self::ReceiveMaximum(_) => PropertyId::ReceiveMaximum,
            Self::TopicAliasMaximum(_) => PropertyId::TopicAliasMaximum,
            Self::TopicAlias(_) => PropertyId::TopicAlias,
            Self::MaximumQoS(_) => PropertyId::MaximumQoS,
            Self::RetainAvailable(_) => PropertyId::RetainAvailable,
            Self::UserProperty(..) => PropertyId::UserProperty,
            Self::MaximumPacketSize(_) => PropertyId::MaximumPacketSize,
            Self::WildcardSubscriptionAvailable(_) => PropertyId::WildcardSubscriptionAvailable,
            Self::SubscriptionIdentifierAvailable(_) => PropertyId::SubscriptionIdentifierAvailable,
            Self::SharedSubscriptionAvailable(_) => PropertyId::SharedSubscriptionAvailable,
        }
    }
}
