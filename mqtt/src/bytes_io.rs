//! Bounds-checked reading of the data types of section 1.5, and the writers that mirror it.

use bytes::BufMut;

use crate::error::DecodeError;
use crate::packet_id::PacketId;
use crate::varint;

/// The bytes of a packet that are still to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::FieldPastEnd)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::FieldPastEnd)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A Variable Byte Integer inside of a v5 packet, where the shortest form is demanded. v5 [MQTT-1.5.5-1]
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let read = varint::decode(self.rest)?.ok_or(DecodeError::FieldPastEnd)?;
        if !read.minimal {
            return Err(DecodeError::VariableByteIntegerNotMinimal);
        }
        self.rest = &self.rest[usize::from(read.len)..];
        Ok(read.value)
    }

    /// Binary Data (section 1.5.6).
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// A UTF-8 Encoded String (section 1.5.4).
    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        string(self.binary()?)
    }

    /// v5 [MQTT-2.2.1-3], v5 [MQTT-2.2.1-4]
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::ZeroPacketId)
    }

    /// All that is left.
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Refuses bytes after the last field.
    #[inline]
    pub(crate) const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// `bytes` as a string: well-formed UTF-8 without U+0000; U+FEFF stays. v5 [MQTT-1.5.4-1..3]
#[inline]
pub(crate) fn string(bytes: &[u8]) -> Result<&str, DecodeError> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| DecodeError::StringNotUtf8)?;
    // A fold without an early exit becomes vector code; the strings are short.
    if bytes.iter().fold(false, |found, &byte| found | (byte == 0)) {
        return Err(DecodeError::StringHasNul);
    }
    Ok(text)
}

/// The part of `text` that fits a UTF-8 Encoded String: all of it, or whole characters up to 65,535 bytes.
pub(crate) fn fitting(text: &str) -> &str {
    const LEN_MAX: usize = u16::MAX as usize;
    if text.len() <= LEN_MAX { text } else { &text[..text.floor_char_boundary(LEN_MAX)] }
}

/// The part of `bytes` that fits Binary Data: up to 65,535 bytes.
pub(crate) fn fitting_binary(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(usize::from(u16::MAX))]
}

pub(crate) fn string_len(text: &str) -> usize {
    2 + fitting(text).len()
}

pub(crate) fn binary_len(bytes: &[u8]) -> usize {
    2 + fitting_binary(bytes).len()
}

pub(crate) fn put_string(text: &str, out: &mut impl BufMut) {
    put_binary(fitting(text).as_bytes(), out);
}

pub(crate) fn put_binary(bytes: &[u8], out: &mut impl BufMut) {
    let bytes = fitting_binary(bytes);
    // `fitting_binary` bounds the length to 16 bits.
    out.put_slice(&(bytes.len() as u16).to_be_bytes());
    out.put_slice(bytes);
}

/// Bytes of a whole packet with `remaining` bytes after the fixed header.
pub(crate) const fn packet_len(remaining: usize) -> usize {
    let capped = if remaining > varint::MAX as usize { varint::MAX } else { remaining as u32 };
    1 + varint::len(capped) + remaining
}

/// Writes a fixed header. `false`, and nothing written, when `remaining` is more than the format can say.
#[must_use]
pub(crate) fn put_fixed_header(first_byte: u8, remaining: usize, out: &mut impl BufMut) -> bool {
    let Ok(remaining) = u32::try_from(remaining) else { return false };
    if remaining > varint::MAX {
        return false;
    }
    let (length, len) = varint::encode(remaining);
    let mut header = [first_byte, 0, 0, 0, 0];
    header[1..].copy_from_slice(&length);
    out.put_slice(&header[..1 + len]);
    true
}
