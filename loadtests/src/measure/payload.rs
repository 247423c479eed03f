//! The 24 bytes at the head of every payload: who sent it, which one it is, and when it was due. The rest is filler.

/// Bytes of a stamp; payloads are never shorter.
pub(crate) const STAMP_BYTES: usize = 24;
const MAGIC: u32 = 0x7464_6c31;

/// What a publisher writes into a payload and a subscriber reads out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Number of the publisher within its thread.
    pub(crate) publisher: u32,
    /// Number of the message among this publisher's, from 0.
    pub(crate) sequence: u64,
    /// When the message was due, in nanoseconds on the worker's clock.
    pub(crate) due_ns: u64,
}

impl Stamp {
    /// Writes the stamp over the first [`STAMP_BYTES`] of `payload`; shorter slices are left alone.
    pub(crate) fn write(&self, payload: &mut [u8]) {
        let Some(head) = payload.first_chunk_mut::<STAMP_BYTES>() else {
            return;
        };
        head[..4].copy_from_slice(&MAGIC.to_be_bytes());
        head[4..8].copy_from_slice(&self.publisher.to_be_bytes());
        head[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        head[16..].copy_from_slice(&self.due_ns.to_be_bytes());
    }

    /// Reads the stamp, or `None` if the payload was not written by this tool.
    #[must_use]
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let head = payload.first_chunk::<STAMP_BYTES>()?;
        let (magic, rest) = head.split_first_chunk::<4>()?;
        let (publisher, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, due_ns) = rest.split_first_chunk::<8>()?;
        (u32::from_be_bytes(*magic) == MAGIC).then_some(Self {
            publisher: u32::from_be_bytes(*publisher),
            sequence: u64::from_be_bytes(*sequence),
            due_ns: u64::from_be_bytes(*due_ns.first_chunk()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_as_written() {
        let stamp = Stamp { publisher: 7, sequence: u64::MAX - 1, due_ns: 12_345_678_901 };
        let mut payload = [0u8; 256];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert!(payload[STAMP_BYTES..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn foreign_and_short_payloads_have_no_stamp() {
        assert_eq!(Stamp::read(&[0; 256]), None);
        assert_eq!(Stamp::read(&[0x74, 0x64, 0x6c, 0x31]), None);
    }
}
