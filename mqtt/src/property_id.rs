//! The 27 property identifiers, the type of each value, and where each may stand (table 2-4).

/// Identifier of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PropertyId {
    /// 0x01: see [`crate::Property::PayloadFormatIndicator`].
    PayloadFormatIndicator = 0x01,
    /// 0x02: see [`crate::Property::MessageExpiryInterval`].
    MessageExpiryInterval = 0x02,
    /// 0x03: see [`crate::Property::ContentType`].
    ContentType = 0x03,
    /// 0x08: see [`crate::Property::ResponseTopic`].
    ResponseTopic = 0x08,
    /// 0x09: see [`crate::Property::CorrelationData`].
    CorrelationData = 0x09,
    /// 0x0B: see [`crate::Property::SubscriptionIdentifier`].
    SubscriptionIdentifier = 0x0B,
    /// 0x11: see [`crate::Property::SessionExpiryInterval`].
    SessionExpiryInterval = 0x11,
    /// 0x12: see [`crate::Property::AssignedClientIdentifier`].
    AssignedClientIdentifier = 0x12,
    /// 0x13: see [`crate::Property::ServerKeepAlive`].
    ServerKeepAlive = 0x13,
    /// 0x15: see [`crate::Property::AuthenticationMethod`].
    AuthenticationMethod = 0x15,
    /// 0x16: see [`crate::Property::AuthenticationData`].
    AuthenticationData = 0x16,
    /// 0x17: see [`crate::Property::RequestProblemInformation`].
    RequestProblemInformation = 0x17,
    /// 0x18: see [`crate::Property::WillDelayInterval`].
    WillDelayInterval = 0x18,
    /// 0x19: see [`crate::Property::RequestResponseInformation`].
    RequestResponseInformation = 0x19,
    /// 0x1A: see [`crate::Property::ResponseInformation`].
    ResponseInformation = 0x1A,
    /// 0x1C: see [`crate::Property::ServerReference`].
    ServerReference = 0x1C,
    /// 0x1F: see [`crate::Property::ReasonString`].
    ReasonString = 0x1F,
    /// 0x21: see [`crate::Property::ReceiveMaximum`].
    ReceiveMaximum = 0x21,
    /// 0x22: see [`crate::Property::TopicAliasMaximum`].
    TopicAliasMaximum = 0x22,
    /// 0x23: see [`crate::Property::TopicAlias`].
    TopicAlias = 0x23,
    /// 0x24: see [`crate::Property::MaximumQoS`].
    MaximumQoS = 0x24,
    /// 0x25: see [`crate::Property::RetainAvailable`].
    RetainAvailable = 0x25,
    /// 0x26: see [`crate::Property::UserProperty`].
    UserProperty = 0x26,
    /// 0x27: see [`crate::Property::MaximumPacketSize`].
    MaximumPacketSize = 0x27,
    /// 0x28: see [`crate::Property::WildcardSubscriptionAvailable`].
    WildcardSubscriptionAvailable = 0x28,
    /// 0x29: see [`crate::Property::SubscriptionIdentifierAvailable`].
    SubscriptionIdentifierAvailable = 0x29,
    /// 0x2A: see [`crate::Property::SharedSubscriptionAvailable`].
    SharedSubscriptionAvailable = 0x2A,
}

/// Type of a value (section 1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    Byte,
    TwoBytes,
    FourBytes,
    VarInt,
    String,
    Binary,
    StringPair,
}

/// What properties belong to. PUBACK, PUBREC, PUBREL and PUBCOMP share one; so do SUBACK and UNSUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Place {
    Connect,
    Will,
    ConnAck,
    Publish,
    Ack,
    Subscribe,
    SubAck,
    Unsubscribe,
    Disconnect,
    Auth,
}

impl Place {
    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    id: PropertyId,
    kind: ValueKind,
    places: u16,
}

/// One more than the highest identifier.
const TABLE_LEN: usize = 0x2B;

static TABLE: [Option<Row>; TABLE_LEN] = {
    let mut table = [None; TABLE_LEN];
    let mut at = 0;
    while at < PropertyId::ALL.len() {
        let id = PropertyId::ALL[at];
        table[id as usize] = Some(Row { id, kind: id.kind(), places: id.places() });
        at += 1;
    }
    table
};

impl PropertyId {
    /// All identifiers in the order of their bytes.
    pub const ALL: [Self; 27] = [
        Self::PayloadFormatIndicator,
        Self::MessageExpiryInterval,
        Self::ContentType,
        Self::ResponseTopic,
        Self::CorrelationData,
        Self::SubscriptionIdentifier,
        Self::SessionExpiryInterval,
        Self::AssignedClientIdentifier,
        Self::ServerKeepAlive,
        Self::AuthenticationMethod,
        Self::AuthenticationData,
        Self::RequestProblemInformation,
        Self::WillDelayInterval,
        Self::RequestResponseInformation,
        Self::ResponseInformation,
        Self::ServerReference,
        Self::ReasonString,
        Self::ReceiveMaximum,
        Self::TopicAliasMaximum,
        Self::TopicAlias,
        Self::MaximumQoS,
        Self::RetainAvailable,
        Self::UserProperty,
        Self::MaximumPacketSize,
        Self::WildcardSubscriptionAvailable,
        Self::SubscriptionIdentifierAvailable,
        Self::SharedSubscriptionAvailable,
    ];

    /// The byte on the wire.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// The identifier with this byte. Identifiers are Variable Byte Integers, but all that are defined take one byte.
    #[inline]
    pub fn from_u8(byte: u8) -> Option<Self> {
        Some(TABLE.get(usize::from(byte))?.as_ref()?.id)
    }

    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }

    #[inline]
    pub(crate) fn value_kind(self) -> ValueKind {
        match &TABLE[self as usize] {
            Some(row) => row.kind,
            None => self.kind(),
        }
    }

    /// Whether the property may stand in `place`. One that may not makes the packet malformed.
    #[inline]
    pub(crate) fn is_allowed_in(self, place: Place) -> bool {
        let places = match &TABLE[self as usize] {
            Some(row) => row.places,
            None => self.places(),
        };
        places & place.bit() != 0
    }

    const fn kind(self) -> ValueKind {
        match self {
            Self::PayloadFormatIndicator
            | Self::RequestProblemInformation
            | Self::RequestResponseInformation
            | Self::MaximumQoS
            | Self::RetainAvailable
            | Self::WildcardSubscriptionAvailable
            | Self::SubscriptionIdentifierAvailable
            | Self::SharedSubscriptionAvailable => ValueKind::Byte,
            Self::MessageExpiryInterval
            | Self::SessionExpiryInterval
            | Self::WillDelayInterval
            | Self::MaximumPacketSize => ValueKind::FourBytes,
            Self::ContentType
            | Self::ResponseTopic
            | Self::AssignedClientIdentifier
            | Self::AuthenticationMethod
            | Self::ResponseInformation
            | Self::ServerReference
            | Self::ReasonString => ValueKind::String,
            Self::CorrelationData | Self::AuthenticationData => ValueKind::Binary,
            Self::SubscriptionIdentifier => ValueKind::VarInt,
            Self::ServerKeepAlive | Self::ReceiveMaximum | Self::TopicAliasMaximum | Self::TopicAlias => {
                ValueKind::TwoBytes
            }
            Self::UserProperty => ValueKind::StringPair,
        }
    }

    const fn places(self) -> u16 {
        use Place as P;
        match self {
            Self::PayloadFormatIndicator
            | Self::MessageExpiryInterval
            | Self::ContentType
            | Self::ResponseTopic
            | Self::CorrelationData => P::Publish.bit() | P::Will.bit(),
            Self::SubscriptionIdentifier => P::Publish.bit() | P::Subscribe.bit(),
            Self::SessionExpiryInterval => P::Connect.bit() | P::ConnAck.bit() | P::Disconnect.bit(),
            Self::AssignedClientIdentifier
            | Self::ServerKeepAlive
            | Self::ResponseInformation
            | Self::MaximumQoS
            | Self::RetainAvailable
            | Self::WildcardSubscriptionAvailable
            | Self::SubscriptionIdentifierAvailable
            | Self::SharedSubscriptionAvailable => P::ConnAck.bit(),
            Self::AuthenticationMethod | Self::AuthenticationData => {
                P::Connect.bit() | P::ConnAck.bit() | P::Auth.bit()
            }
            Self::RequestProblemInformation | Self::RequestResponseInformation => P::Connect.bit(),
            Self::WillDelayInterval => P::Will.bit(),
            Self::ServerReference => P::ConnAck.bit() | P::Disconnect.bit(),
            Self::ReasonString => {
                P::ConnAck.bit() | P::Ack.bit() | P::SubAck.bit() | P::Disconnect.bit() | P::Auth.bit()
            }
            Self::ReceiveMaximum | Self::TopicAliasMaximum | Self::MaximumPacketSize => {
                P::Connect.bit() | P::ConnAck.bit()
            }
            Self::TopicAlias => P::Publish.bit(),
            Self::UserProperty => u16::MAX,
        }
    }
}
