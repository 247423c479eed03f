//! Variable Byte Integers (v5 section 1.5.5): one to four bytes, seven bits each, least significant first.

use bytes::BufMut;

use crate::error::DecodeError;

/// The largest value: 268,435,455.
pub const MAX: u32 = 0x0FFF_FFFF;

/// A Variable Byte Integer found at the front of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// The value, at most [`MAX`].
    pub value: u32,
    /// Bytes that it took, 1 to 4.
    pub len: u8,
    /// Whether no shorter encoding exists. v5 [MQTT-1.5.5-1]
    pub minimal: bool,
}

/// Reads the integer at the front of `bytes`; `None` when it is cut off.
///
/// # Errors
/// [`DecodeError::VariableByteIntegerTooLong`] when the fourth byte announces a fifth.
pub fn decode(bytes: &[u8]) -> Result<Option<Decoded>, DecodeError> {
    let mut value = 0u32;
    for (at, &byte) in (0u8..4).zip(bytes) {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some(Decoded { value, len: at + 1, minimal: byte != 0 || at == 0 }));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DecodeError::VariableByteIntegerTooLong) }
}

/// Bytes that the shortest encoding of `value` takes: 1 to 4.
pub const fn len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// The shortest encoding of `value` and its length. A value above [`MAX`] is written as `MAX`.
pub const fn encode(value: u32) -> ([u8; 4], usize) {
    let value = if value > MAX { MAX } else { value };
    let len = len(value);
    let mut bytes = [0u8; 4];
    let mut at = 0;
    while at < len {
        let more = if at + 1 < len { 0x80 } else { 0 };
        bytes[at] = (value >> (7 * at)) as u8 & 0x7F | more;
        at += 1;
    }
    (bytes, len)
}

/// Writes `value` in its shortest encoding. A value above [`MAX`] is written as `MAX`.
pub fn put(value: u32, out: &mut impl BufMut) {
    let (bytes, len) = encode(value);
    out.put_slice(&bytes[..len]);
}
