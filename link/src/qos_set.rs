//! Which Qualities of Service a rule is about: a number (`1`) or a list (`[0, 1]`) where it is written, a list in tokens.

use std::fmt;

use mqtt::QoS;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of QoS levels that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QosSet(u8);

impl QosSet {
    /// Every level.
    pub const ALL: Self = Self(0b111);

    /// Whether it holds every level.
    // By reference for serde's `skip_serializing_if`.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    pub fn is_all(&self) -> bool {
        *self == Self::ALL
    }

    /// The levels up to and with `max`.
    pub const fn up_to(max: QoS) -> Self {
        match max {
            QoS::AtMostOnce => Self(0b001),
            QoS::AtLeastOnce => Self(0b011),
            QoS::ExactlyOnce => Self::ALL,
        }
    }

    /// Those of `levels`; `None` if there are none.
    pub fn of(levels: impl IntoIterator<Item = QoS>) -> Option<Self> {
        let bits = levels.into_iter().fold(0, |bits, qos| bits | bit(qos));
        (bits != 0).then_some(Self(bits))
    }

    /// Whether it holds this level.
    pub const fn contains(self, qos: QoS) -> bool {
        self.0 & bit(qos) != 0
    }

    fn levels(self) -> impl Iterator<Item = QoS> {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
            .into_iter()
            .filter(move |qos| self.contains(*qos))
    }
}

const fn bit(qos: QoS) -> u8 {
    1 << qos.as_u8()
}

impl Default for QosSet {
    fn default() -> Self {
        Self::ALL
    }
}

impl Serialize for QosSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.levels().map(QoS::as_u8))
    }
}

impl<'de> Deserialize<'de> for QosSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Levels)
    }
}

struct Levels;

impl<'de> Visitor<'de> for Levels {
    type Value = QosSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0, 1 or 2, or a list of these")
    }

    fn visit_u64<E: Error>(self, level: u64) -> Result<QosSet, E> {
        let qos = u8::try_from(level).ok().and_then(|level| QoS::try_from(level).ok());
        qos.and_then(|qos| QosSet::of([qos])).ok_or_else(|| E::custom("expected 0, 1 or 2"))
    }

    fn visit_i64<E: Error>(self, level: i64) -> Result<QosSet, E> {
        self.visit_u64(u64::try_from(level).unwrap_or(u64::MAX))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut levels: A) -> Result<QosSet, A::Error> {
        let mut bits = 0;
        while let Some(QosSet(bit)) = levels.next_element()? {
            bits |= bit;
        }
        if bits == 0 {
            return Err(A::Error::custom("an empty list of QoS: the rule would never apply"));
        }
        Ok(QosSet(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_from_a_number_or_a_list_and_written_as_a_list() {
        let cases = [("0", "[0]"), ("2", "[2]"), ("[1]", "[1]"), ("[1,0]", "[0,1]"), ("[0,1,2]", "[0,1,2]")];
        for (read, written) in cases {
            let set: QosSet = serde_json::from_str(read).unwrap();
            assert_eq!(serde_json::to_string(&set).unwrap(), written, "{read}");
        }
        for wrong in ["3", "-1", "256", "[]", "[3]", "\"1\"", "true"] {
            assert!(serde_json::from_str::<QosSet>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_highest_level_is_a_set() {
        for max in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
            assert!(all.into_iter().all(|qos| QosSet::up_to(max).contains(qos) == (qos <= max)), "{max:?}");
        }
        assert!(QosSet::of([]).is_none());
    }
}
