//! The fifteen Control Packet types and the fixed-header flags that each demands.

crate::numbered! {
    /// Type of a Control Packet: the upper four bits of its first byte.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum PacketType {
        /// Client asks for a connection.
        Connect = 1,
        /// Server answers a CONNECT.
        ConnAck = 2,
        /// An Application Message.
        Publish = 3,
        /// Answer to a QoS 1 PUBLISH.
        PubAck = 4,
        /// First answer to a QoS 2 PUBLISH.
        PubRec = 5,
        /// Answer to PUBREC.
        PubRel = 6,
        /// Answer to PUBREL.
        PubComp = 7,
        /// Client subscribes.
        Subscribe = 8,
        /// Answer to SUBSCRIBE.
        SubAck = 9,
        /// Client unsubscribes.
        Unsubscribe = 10,
        /// Answer to UNSUBSCRIBE.
        UnsubAck = 11,
        /// Client asks for a sign of life.
        PingReq = 12,
        /// Answer to PINGREQ.
        PingResp = 13,
        /// The last packet of a connection.
        Disconnect = 14,
        /// Enhanced authentication, v5 only.
        Auth = 15,
    }
}

impl PacketType {
    /// The type in the upper four bits of `first_byte`; `None` for the reserved type 0.
    pub const fn from_first_byte(first_byte: u8) -> Option<Self> {
        Self::from_u8(first_byte >> 4)
    }

    /// The first byte of a packet of this type with its required flags (for PUBLISH: QoS 0, no DUP, no RETAIN).
    pub const fn first_byte(self) -> u8 {
        let flags = match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }

    /// The name as the specification writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

impl std::fmt::Display for PacketType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
