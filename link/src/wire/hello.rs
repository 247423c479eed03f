//! HELLO: who is there, which versions and features it speaks, and what it is ready to take. Its layout is for ever; later
//! versions append fields, which earlier ones do not read.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::WireError;
use super::field::{Reader, put_text, text_len};
use crate::ExchangeKey;

/// The version of the protocol that this release prefers.
pub const VERSION: u16 = 1;

/// The oldest version that this release speaks: that of the release before, or the same.
pub const VERSION_OLDEST: u16 = 1;

/// A worker asks for the last words of a device whose session another connection has: [`super::Kind::Yield`].
pub const FEATURE_YIELD: u64 = 1;

/// A worker tells which retained messages a device is still to get ([`super::Kind::Retained`]), and takes what another one told
/// ([`crate::Resume::retained_due`]).
pub const FEATURE_RETAINED: u64 = 2;

/// The features that this release knows, one bit each.
pub const FEATURES: u64 = FEATURE_YIELD | FEATURE_RETAINED;

/// What every HELLO begins with.
const MAGIC: [u8; 4] = *b"TGlk";

/// The versions that one end speaks, all between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest, which it prefers.
    pub newest: u16,
}

impl Versions {
    /// Those of this release.
    pub const OURS: Self = Self { oldest: VERSION_OLDEST, newest: VERSION };

    /// The newest version that both speak; `None` when the two are not neighbours.
    pub fn agree(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// The first frame of each end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it speaks.
    pub versions: Versions,
    /// What it knows beyond that; those that both know are in force.
    pub features: u64,
    /// The worker's or the edge's name.
    pub id: Arc<str>,
    /// Credit in bytes of every stream towards this end when it opens; not 0.
    pub window_bytes: u32,
    /// Largest Control Packet, in bytes, that this end takes.
    pub packet_bytes_max: u32,
    /// Of a worker: for how long it leaves the session of a device as it is when the link is lost, milliseconds. 0 from an
    /// edge, and from a worker that does not say.
    pub handoff_grace_ms: u32,
    /// Of a worker: what edges agree by on a key for passports with it. All zero from an edge, and from a worker that does not
    /// say.
    pub passport_key: ExchangeKey,
}

impl Hello {
    pub(super) fn encoded_len(&self) -> usize {
        MAGIC.len() + 2 + 2 + 8 + text_len(&self.id) + 4 + 4 + 4 + self.passport_key.len()
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&MAGIC);
        out.put_u16(self.versions.oldest);
        out.put_u16(self.versions.newest);
        out.put_u64(self.features);
        put_text(&self.id, out);
        out.put_u32(self.window_bytes);
        out.put_u32(self.packet_bytes_max);
        out.put_u32(self.handoff_grace_ms);
        out.put_slice(&self.passport_key);
    }

    pub(super) fn decode(mut body: Reader) -> Result<Self, WireError> {
        if body.array::<4>("magic").ok() != Some(MAGIC) {
            return Err(WireError::NotALink);
        }
        let versions = Versions { oldest: body.u16("oldest version")?, newest: body.u16("newest version")? };
        if versions.oldest > versions.newest {
            return Err(WireError::Value("newest version"));
        }
        let features = body.u64("features")?;
        let id = body.text("id")?;
        let window_bytes = body.u32("window")?;
        if window_bytes == 0 {
            return Err(WireError::Value("window"));
        }
        let packet_bytes_max = body.u32("packet size")?;
        // Appended later than the others: a neighbour may not have them.
        let handoff_grace_ms = body.u32("handoff grace").unwrap_or_default();
        let passport_key = body.array("passport key").unwrap_or_default();
        Ok(Self { versions, features, id, window_bytes, packet_bytes_max, handoff_grace_ms, passport_key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_agree_on_the_newest_version_of_both() {
        let agree = |a: (u16, u16), b: (u16, u16)| {
            let [a, b] = [a, b].map(|(oldest, newest)| Versions { oldest, newest });
            assert_eq!(a.agree(b), b.agree(a));
            a.agree(b)
        };
        assert_eq!(agree((1, 1), (1, 1)), Some(1));
        assert_eq!(agree((1, 2), (2, 3)), Some(2));
        assert_eq!(agree((1, 3), (2, 3)), Some(3));
        assert_eq!(agree((1, 2), (3, 4)), None);
    }
}
