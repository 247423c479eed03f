//! The Packet Identifier, which is never zero.

use std::num::NonZeroU16;

/// A Packet Identifier, 1 to 65,535. v5 [MQTT-2.2.1-3], v5 [MQTT-2.2.1-4]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// The smallest Packet Identifier.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// The largest Packet Identifier.
    pub const MAX: Self = Self(NonZeroU16::MAX);

    /// The identifier `id`; `None` for 0.
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The identifier as a number.
    pub const fn as_u16(self) -> u16 {
        self.0.get()
    }

    /// The next identifier; 1 follows 65,535.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(id) => Self(id),
            None => Self::MIN,
        }
    }
}

impl From<PacketId> for u16 {
    fn from(id: PacketId) -> Self {
        id.as_u16()
    }
}

impl std::fmt::Display for PacketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
