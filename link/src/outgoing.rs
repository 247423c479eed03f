//! Bytes on their way to one device: small packets are copied together so that one write sends many, large payloads are
//! shared and never copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// From this size on a payload is shared instead of copied. Below it, a copy costs less than one more slice of a
/// vectored write.
pub const SHARED_BYTES_MIN: usize = 4096;

/// Slices handed to one vectored write.
const SLICES_MAX: usize = 64;

/// A queue of bytes to write. Empty it owns no memory beyond its last small buffer; [`Outgoing::shrink`] gives that back
/// too.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Whole runs of bytes, first to be written first.
    sealed: VecDeque<Bytes>,
    /// What is still being appended to; written after all of `sealed`.
    open: BytesMut,
    sealed_bytes: usize,
}

impl Outgoing {
    /// Nothing to write.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where small packets are encoded to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.open
    }

    /// Appends a copy of `bytes`.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.open.put_slice(bytes);
    }

    /// Appends `bytes` by reference if they are many, as a copy if they are few.
    pub fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            self.open.put_slice(&bytes);
        } else {
            self.put_run(bytes);
        }
    }

    /// As [`Outgoing::put_bytes`], for bytes that are needed elsewhere too: few of them gain no reference.
    pub fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            self.open.put_slice(bytes);
        } else {
            self.put_run(bytes.clone());
        }
    }

    fn put_run(&mut self, bytes: Bytes) {
        if !self.open.is_empty() {
            let run = self.open.split().freeze();
            self.sealed_bytes += run.len();
            self.sealed.push_back(run);
        }
        self.sealed_bytes += bytes.len();
        self.sealed.push_back(bytes);
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.sealed_bytes + self.open.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.sealed.is_empty()
    }

    /// The first contiguous run of what waits.
    pub fn chunk(&self) -> &[u8] {
        self.sealed.front().map_or(&self.open, |run| run)
    }

    /// Whether [`Outgoing::chunk`] is all that waits, so that a plain write does.
    pub fn is_contiguous(&self) -> bool {
        self.sealed.is_empty() || (self.open.is_empty() && self.sealed.len() == 1)
    }

    /// Fills `slices` for a vectored write and answers how many were used.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut used = 0;
        let runs = self.sealed.iter().map(|run| &**run).chain((!self.open.is_empty()).then_some(&*self.open));
        for (slot, run) in slices.iter_mut().zip(runs) {
            *slot = IoSlice::new(run);
            used += 1;
        }
        used
    }

    /// Drops the first `written` bytes.
    pub fn advance(&mut self, mut written: usize) {
        while let Some(front) = self.sealed.front_mut() {
            if written < front.len() {
                front.advance(written);
                self.sealed_bytes -= written;
                return;
            }
            written -= front.len();
            self.sealed_bytes -= front.len();
            self.sealed.pop_front();
        }
        if written >= self.open.len() {
            self.open.clear();
        } else {
            self.open.advance(written);
        }
    }

    /// Takes the first `len` bytes off, or all if there are fewer: shared where they are one run, otherwise copied together.
    pub fn take(&mut self, len: usize) -> Bytes {
        let Some(front) = self.sealed.front_mut() else {
            return self.open.split_to(len.min(self.open.len())).freeze();
        };
        if front.len() > len {
            self.sealed_bytes -= len;
            return front.split_to(len);
        }
        if front.len() == len {
            self.sealed_bytes -= len;
            return self.sealed.pop_front().unwrap_or_default();
        }
        let mut taken = BytesMut::with_capacity(len.min(self.len()));
        while taken.len() < len && !self.is_empty() {
            let chunk = self.chunk();
            let used = chunk.len().min(len - taken.len());
            taken.put_slice(&chunk[..used]);
            self.advance(used);
        }
        taken.freeze()
    }

    /// Takes everything out of `other`, after what waits here.
    pub fn append(&mut self, other: &mut Self) {
        for run in other.sealed.drain(..) {
            self.put_bytes(run);
        }
        other.sealed_bytes = 0;
        self.open.put_slice(&other.open);
        other.open.clear();
    }

    /// Gives memory back that nothing uses.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(out: &mut Outgoing, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !out.is_empty() {
            let chunk = out.chunk();
            let n = chunk.len().min(step);
            all.extend_from_slice(&chunk[..n]);
            out.advance(n);
        }
        all
    }

    #[test]
    fn small_packets_are_copied_together_and_large_ones_are_shared() {
        let mut out = Outgoing::new();
        out.put_slice(b"head");
        let large = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        out.put_bytes(large.clone());
        out.put_bytes(Bytes::from_static(b"tail"));
        assert_eq!(out.len(), 8 + SHARED_BYTES_MIN);
        assert_eq!(out.slices(&mut [IoSlice::new(&[]); SLICES_MAX]), 3);
        assert!(!out.is_contiguous());
        let expected = [b"head".as_slice(), &large, b"tail"].concat();
        assert_eq!(drain(&mut out, 1000), expected);
        assert_eq!(out.len(), 0);
    }

    #[test]
    fn what_is_taken_is_shared_where_it_is_one_run() {
        let mut out = Outgoing::new();
        let large = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        out.put_slice(b"ahead");
        out.put_bytes(large.clone());
        out.put_slice(b"behind");
        assert_eq!(&*out.take(2), b"ah");
        assert_eq!(&*out.take(4), b"ead\x07");
        assert_eq!(out.take(SHARED_BYTES_MIN - 2).as_ptr(), large[1..].as_ptr());
        assert_eq!(&*out.take(1), b"\x07");
        assert_eq!(out.len(), 6);
        assert_eq!(&*out.take(100), b"behind");
        assert!(out.is_empty() && out.take(1).is_empty());
    }

    #[test]
    fn one_outgoing_appends_to_another_in_order() {
        let (mut first, mut second) = (Outgoing::new(), Outgoing::new());
        first.put_slice(b"a");
        second.put_slice(b"b");
        second.put_bytes(Bytes::from(vec![b'c'; SHARED_BYTES_MIN]));
        second.put_slice(b"d");
        first.append(&mut second);
        assert!(second.is_empty());
        let all = drain(&mut first, 3);
        assert_eq!((all[0], all[1], all[2], all.len()), (b'a', b'b', b'c', SHARED_BYTES_MIN + 3));
        assert_eq!(all.last(), Some(&b'd'));
    }

    #[test]
    fn an_empty_one_gives_its_memory_back() {
        let mut out = Outgoing::new();
        out.put_slice(&[0; 512]);
        out.advance(512);
        out.shrink();
        assert_eq!(out.buffer().capacity(), 0);
    }
}
