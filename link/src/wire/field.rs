//! Fields of bodies: numbers, texts, bytes and lists with their lengths before them, read without a copy but
//! for texts.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::WireError;

/// Bytes of the longest text.
pub const TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// Values of the longest list.
pub(super) const LIST_MAX: usize = u16::MAX as usize;

/// `text`, if it is no longer than a text may be, or else nothing: a Client Identifier, a method and a topic come out of a
/// packet and are never longer, names are bounded by the configuration.
fn bounded(text: &str) -> &str {
    if text.len() <= TEXT_BYTES_MAX { text } else { "" }
}

/// Bytes of a text with its length before it.
pub(super) fn text_len(text: &str) -> usize {
    2 + bounded(text).len()
}

/// Appends a text with its length before it.
pub(super) fn put_text(text: &str, out: &mut BytesMut) {
    let text = bounded(text);
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text.as_bytes());
}

/// A length as the wire has it. Nothing near the bound is ever encoded: [`crate::mux`] refuses it before.
pub(super) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Appends `bytes` with their length before them.
pub(super) fn put_bytes(bytes: &Bytes, out: &mut BytesMut) {
    out.put_u32(len_u32(bytes.len()));
    out.put_slice(bytes);
}

/// Appends whether there is a value, and then the value.
pub(super) fn put_option<T: ?Sized>(
    value: Option<&T>,
    out: &mut BytesMut,
    put: impl FnOnce(&T, &mut BytesMut),
) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(value, out);
    }
}

/// Appends how many there are (at most [`LIST_MAX`]), and then each.
pub(super) fn put_list<T>(values: &[T], out: &mut BytesMut, mut put: impl FnMut(&T, &mut BytesMut)) {
    let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    values.iter().take(usize::from(count)).for_each(|value| put(value, out));
}

/// Reads a body from its front.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    fn need(&self, len: usize, field: &'static str) -> Result<(), WireError> {
        if self.0.len() < len { Err(WireError::Short(field)) } else { Ok(()) }
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.need(1, field)?;
        Ok(self.0.get_u8())
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        self.need(2, field)?;
        Ok(self.0.get_u16())
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.need(4, field)?;
        Ok(self.0.get_u32())
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        self.need(8, field)?;
        Ok(self.0.get_u64())
    }

    pub(super) fn u128(&mut self, field: &'static str) -> Result<u128, WireError> {
        self.need(16, field)?;
        Ok(self.0.get_u128())
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        self.need(N, field)?;
        let mut array = [0; N];
        self.0.copy_to_slice(&mut array);
        Ok(array)
    }

    /// A copy: what came by a link shares its large buffer.
    pub(super) fn text(&mut self, field: &'static str) -> Result<Arc<str>, WireError> {
        let len = usize::from(self.u16(field)?);
        self.need(len, field)?;
        let text = std::str::from_utf8(&self.0[..len]).map_err(|_| WireError::NotUtf8(field))?.into();
        self.0.advance(len);
        Ok(text)
    }

    pub(super) fn bytes(&mut self, field: &'static str) -> Result<Bytes, WireError> {
        let len = self.u32(field)? as usize;
        self.need(len, field)?;
        Ok(self.0.split_to(len))
    }

    pub(super) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        match self.u8(field)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(WireError::Value(field)),
        }
    }

    /// A list whose values take `bytes_min` bytes each at least, so that nothing is allocated for values that are not
    /// there.
    pub(super) fn list<T>(
        &mut self,
        field: &'static str,
        bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = usize::from(self.u16(field)?);
        self.need(count * bytes_min, field)?;
        (0..count).map(|_| read(self)).collect()
    }

    /// What is left.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }
}
