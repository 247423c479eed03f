//! Quality of Service levels.

/// Quality of Service of a message or a subscription, ordered by strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// Level 0.
    #[default]
    AtMostOnce = 0,
    /// Level 1.
    AtLeastOnce = 1,
    /// Level 2.
    ExactlyOnce = 2,
}

/// A number other than 0, 1 and 2 where a Quality of Service was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a Quality of Service")]
pub struct InvalidQoS(pub u8);

impl QoS {
    /// The level as written on the wire.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// The level of the two low bits of `bits`; `None` for 3. v5 [MQTT-3.3.1-4]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

impl TryFrom<u8> for QoS {
    type Error = InvalidQoS;

    fn try_from(level: u8) -> Result<Self, InvalidQoS> {
        match level {
            0..=2 => Self::from_bits(level).ok_or(InvalidQoS(level)),
            _ => Err(InvalidQoS(level)),
        }
    }
}

impl From<QoS> for u8 {
    fn from(qos: QoS) -> Self {
        qos.as_u8()
    }
}
