//! Buffers lent to a connection for the length of one call. Each thread keeps one per purpose; a connection that needs
//! bytes kept between calls copies exactly those.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// Plaintext of one TLS record (RFC 8446 section 5.1), bytes.
pub(super) const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Ciphertext taken from the socket by one read, or given to it by one write, bytes.
pub(super) const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Ciphertext that may wait for its completion: one record, or the records of one handshake message, bytes.
pub(super) const PARTIAL_BYTES_MAX: usize = 32 * 1024;

type Slot = Cell<Option<Vec<u8>>>;

thread_local! {
    static INCOMING: Slot = const { Cell::new(None) };
    static OUTGOING: Slot = const { Cell::new(None) };
    static GATHERED: Slot = const { Cell::new(None) };
}

/// A thread's buffer on loan. Taken rather than borrowed, so that a TLS stream inside a TLS stream gets another.
pub(super) struct Loan {
    bytes: Vec<u8>,
    home: &'static LocalKey<Slot>,
}

impl Loan {
    /// Room for waiting ciphertext and one batch read behind it.
    pub(super) fn incoming() -> Self {
        Self::take(&INCOMING, PARTIAL_BYTES_MAX + BATCH_BYTES_MAX)
    }

    /// Room for one batch of plaintext after encryption. Small fragments need more: see [`Loan::reserve`].
    pub(super) fn outgoing() -> Self {
        Self::take(&OUTGOING, BATCH_BYTES_MAX + 8 * 1024)
    }

    /// Room for the plaintext of one record.
    pub(super) fn gathered() -> Self {
        Self::take(&GATHERED, RECORD_BYTES_MAX)
    }

    fn take(home: &'static LocalKey<Slot>, size: usize) -> Self {
        let bytes = home.try_with(Cell::take).ok().flatten().unwrap_or_else(|| vec![0; size]);
        Self { bytes, home }
    }

    /// Makes the buffer at least `size` bytes long.
    pub(super) fn reserve(&mut self, size: usize) {
        if self.bytes.len() < size {
            self.bytes.resize(size, 0);
        }
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that is ending has no slot left: the buffer goes with it.
        let _ = self.home.try_with(|slot| slot.set(Some(bytes)));
    }
}
