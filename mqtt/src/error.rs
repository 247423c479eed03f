//! Why bytes were refused: one variant per cause, each with the Reason Code that the specification gives it.

use crate::packet_type::PacketType;
use crate::property_id::PropertyId;
use crate::reason::ReasonCode;
use crate::topic::TopicError;

/// A fault of the peer in one Control Packet. The connection ends after any of them. v5 [MQTT-4.13.1-1]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Type 0, or AUTH before MQTT 5.
    #[error("the Control Packet type is reserved")]
    ReservedPacketType,
    /// v5 [MQTT-2.1.3-1]
    #[error("the fixed header flags of {packet} are not the required ones")]
    FixedHeaderFlags {
        /// The packet whose first byte is wrong.
        packet: PacketType,
    },
    /// v5 [MQTT-3.3.1-4]
    #[error("PUBLISH with both QoS bits set")]
    PublishQoS,
    /// v5 [MQTT-3.3.1-2]
    #[error("PUBLISH at QoS 0 with the DUP flag set")]
    DupAtQoS0,
    /// A Variable Byte Integer of more than four bytes.
    #[error("a Variable Byte Integer is longer than four bytes")]
    VariableByteIntegerTooLong,
    /// v5 [MQTT-1.5.5-1]
    #[error("a Variable Byte Integer is not written in the fewest bytes")]
    VariableByteIntegerNotMinimal,
    /// The whole packet, fixed header included, is longer than the receiver allows.
    #[error("a packet of {size} bytes is over the maximum of {max}")]
    PacketTooLarge {
        /// Bytes of the whole packet.
        size: u32,
        /// Bytes allowed.
        max: u32,
    },
    /// A field, or the packet, ends before its contents do.
    #[error("a field runs past the end of the packet")]
    FieldPastEnd,
    /// Bytes are left after the last field.
    #[error("bytes follow the last field of the packet")]
    TrailingBytes,
    /// v5 [MQTT-1.5.4-1]
    #[error("a string is not UTF-8")]
    StringNotUtf8,
    /// v5 [MQTT-1.5.4-2]
    #[error("a string contains U+0000")]
    StringHasNul,
    /// v5 [MQTT-2.2.1-3], v5 [MQTT-2.2.1-4]
    #[error("the Packet Identifier is zero")]
    ZeroPacketId,
    /// This end never receives that packet.
    #[error("{packet} does not travel in this direction")]
    WrongDirection {
        /// The packet that came.
        packet: PacketType,
    },
    /// A Reason Code that is unknown, or not one of those that the packet may carry.
    #[error("Reason Code {code:#04x} is not allowed in {packet}")]
    ReasonCodeNotAllowed {
        /// The byte that came.
        code: u8,
        /// The packet that carried it.
        packet: PacketType,
    },
    /// Neither `MQTT` nor `MQIsdp`. v5 [MQTT-3.1.2-1]
    #[error("the Protocol Name is unknown")]
    UnsupportedProtocolName,
    /// v5 [MQTT-3.1.2-2]
    #[error("protocol level {level} is not supported")]
    UnsupportedProtocolLevel {
        /// The level byte of the CONNECT.
        level: u8,
    },
    /// v5 [MQTT-3.1.2-3]
    #[error("the reserved flag of CONNECT is set")]
    ConnectReservedFlag,
    /// v5 [MQTT-3.1.2-12]
    #[error("the Will QoS is 3")]
    WillQoS,
    /// v5 [MQTT-3.1.2-11], v5 [MQTT-3.1.2-13]
    #[error("Will QoS or Will Retain is set without the Will Flag")]
    WillFlagsWithoutWill,
    /// v3.1.1 [MQTT-3.1.2-22]
    #[error("a Password without a User Name")]
    PasswordWithoutUserName,
    /// v5 [MQTT-3.2.2-1]
    #[error("a reserved Connect Acknowledge Flag is set")]
    ConnAckReservedFlag,
    /// v5 [MQTT-3.2.2-6]
    #[error("CONNACK with Session Present and a refusal")]
    SessionPresentWithRefusal,
    /// The Will Topic or the Topic Name of a PUBLISH breaks the rules of section 4.7.
    #[error("the Topic Name is not valid")]
    TopicName(#[source] TopicError),
    /// A Topic Filter breaks the rules of section 4.7 or 4.8.
    #[error("the Topic Filter is not valid")]
    TopicFilter(#[source] TopicError),
    /// A Response Topic breaks the rules of section 4.7. v5 [MQTT-3.3.2-14]
    #[error("the Response Topic is not valid")]
    ResponseTopic(#[source] TopicError),
    /// Zero-length Topic Name and no Topic Alias (section 3.3.2.1).
    #[error("PUBLISH with neither a Topic Name nor a Topic Alias")]
    TopicMissing,
    /// v5 [MQTT-3.8.3-2], v5 [MQTT-3.10.3-2]; SUBACK and UNSUBACK alike.
    #[error("{packet} with an empty payload")]
    EmptyPayload {
        /// The packet without a payload.
        packet: PacketType,
    },
    /// v5 [MQTT-3.8.3-5]
    #[error("reserved bits of the Subscription Options are set")]
    SubscriptionOptionsReserved,
    /// Section 3.8.3.1.
    #[error("the Maximum QoS of a subscription is 3")]
    SubscriptionQoS,
    /// Section 3.8.3.1.
    #[error("the Retain Handling of a subscription is 3")]
    RetainHandling,
    /// v5 [MQTT-3.8.3-4]
    #[error("No Local on a Shared Subscription")]
    NoLocalOnSharedSubscription,
    /// The identifier names no property (section 2.2.2.2).
    #[error("property {id:#04x} is unknown")]
    PropertyUnknown {
        /// First byte of the identifier.
        id: u8,
    },
    /// The property belongs to other packets (section 2.2.2.2).
    #[error("{id:?} is not a property of this packet")]
    PropertyNotAllowed {
        /// The property that came.
        id: PropertyId,
    },
    /// The property belongs to this packet, but this end may not send it. v5 [MQTT-3.14.2-2], v5 [MQTT-3.3.4-6]
    #[error("{id:?} does not travel in this direction")]
    PropertyDirection {
        /// The property that came.
        id: PropertyId,
    },
    /// A property that may come once came again.
    #[error("{id:?} is present twice")]
    PropertyRepeated {
        /// The property that came twice.
        id: PropertyId,
    },
    /// A value outside of the range of its property.
    #[error("the value of {id:?} is out of range")]
    PropertyValue {
        /// The property with the wrong value.
        id: PropertyId,
    },
    /// Sections 3.1.2.11.10 and 3.15.2.2.3.
    #[error("Authentication Data without an Authentication Method")]
    AuthenticationDataWithoutMethod,
    /// Section 3.15.2.2.2.
    #[error("AUTH without an Authentication Method")]
    AuthenticationMethodMissing,
}

impl DecodeError {
    /// The Reason Code for the CONNACK or DISCONNECT that answers this fault.
    ///
    /// Where the specification names none but Malformed Packet or Protocol Error, an invalid topic is reported by the
    /// narrower 0x90 or 0x8F, so that whoever debugs the client sees which field was wrong.
    pub const fn reason_code(&self) -> ReasonCode {
        match self {
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedProtocolName | Self::UnsupportedProtocolLevel { .. } => {
                ReasonCode::UnsupportedProtocolVersion
            }
            Self::TopicName(_) => ReasonCode::TopicNameInvalid,
            Self::TopicFilter(_) => ReasonCode::TopicFilterInvalid,
            Self::PropertyValue { id: PropertyId::TopicAlias } => ReasonCode::TopicAliasInvalid,
            Self::ReservedPacketType
            | Self::FixedHeaderFlags { .. }
            | Self::PublishQoS
            | Self::DupAtQoS0
            | Self::VariableByteIntegerTooLong
            | Self::VariableByteIntegerNotMinimal
            | Self::FieldPastEnd
            | Self::TrailingBytes
            | Self::StringNotUtf8
            | Self::StringHasNul
            | Self::ConnectReservedFlag
            | Self::WillQoS
            | Self::WillFlagsWithoutWill
            | Self::PasswordWithoutUserName
            | Self::ConnAckReservedFlag
            | Self::SubscriptionOptionsReserved
            | Self::PropertyUnknown { .. }
            | Self::PropertyNotAllowed { .. } => ReasonCode::MalformedPacket,
            _ => ReasonCode::ProtocolError,
        }
    }
}
