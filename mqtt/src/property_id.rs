//! The 27 property identifiers, the type of each value, and where each may stand (table 2-4).

macro_rules! properties {
    ($($id:ident = $byte:literal, $kind:ident, [$($place:ident),*];)*) => {
        crate::numbered! {
            /// Identifier of a property. Identifiers are Variable Byte Integers, but all that are defined take one byte.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub enum PropertyId {
                $(
                    #[doc = concat!(stringify!($byte), ": see [`crate::Property::", stringify!($id), "`].")]
                    $id = $byte,
                )*
            }
        }

        impl PropertyId {
            pub(crate) const fn value_kind(self) -> ValueKind {
                match self {
                    $(Self::$id => ValueKind::$kind,)*
                }
            }

            const fn places(self) -> u16 {
                match self {
                    $(Self::$id => $(Place::$place.bit())|*,)*
                }
            }
        }
    };
}

properties! {
    PayloadFormatIndicator = 0x01, Byte, [Publish, Will];
    MessageExpiryInterval = 0x02, FourBytes, [Publish, Will];
    ContentType = 0x03, String, [Publish, Will];
    ResponseTopic = 0x08, String, [Publish, Will];
    CorrelationData = 0x09, Binary, [Publish, Will];
    SubscriptionIdentifier = 0x0B, VarInt, [Publish, Subscribe];
    SessionExpiryInterval = 0x11, FourBytes, [Connect, ConnAck, Disconnect];
    AssignedClientIdentifier = 0x12, String, [ConnAck];
    ServerKeepAlive = 0x13, TwoBytes, [ConnAck];
    AuthenticationMethod = 0x15, String, [Connect, ConnAck, Auth];
    AuthenticationData = 0x16, Binary, [Connect, ConnAck, Auth];
    RequestProblemInformation = 0x17, Byte, [Connect];
    WillDelayInterval = 0x18, FourBytes, [Will];
    RequestResponseInformation = 0x19, Byte, [Connect];
    ResponseInformation = 0x1A, String, [ConnAck];
    ServerReference = 0x1C, String, [ConnAck, Disconnect];
    ReasonString = 0x1F, String, [ConnAck, Ack, SubAck, Disconnect, Auth];
    ReceiveMaximum = 0x21, TwoBytes, [Connect, ConnAck];
    TopicAliasMaximum = 0x22, TwoBytes, [Connect, ConnAck];
    TopicAlias = 0x23, TwoBytes, [Publish];
    MaximumQoS = 0x24, Byte, [ConnAck];
    RetainAvailable = 0x25, Byte, [ConnAck];
    UserProperty = 0x26, StringPair, [Connect, Will, ConnAck, Publish, Ack, Subscribe, SubAck, Unsubscribe, Disconnect, Auth];
    MaximumPacketSize = 0x27, FourBytes, [Connect, ConnAck];
    WildcardSubscriptionAvailable = 0x28, Byte, [ConnAck];
    SubscriptionIdentifierAvailable = 0x29, Byte, [ConnAck];
    SharedSubscriptionAvailable = 0x2A, Byte, [ConnAck];
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

impl PropertyId {
    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// Whether the property may stand in `place`. One that may not makes the packet malformed.
    #[inline]
    pub(crate) const fn is_allowed_in(self, place: Place) -> bool {
        self.places() & place.bit() != 0
    }
}
