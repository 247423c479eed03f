//! What a handshake keeps of a packet that is not complete, as far as it is more than most have.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::shared::Shared;

/// Room for the first read: nearly every CONNECT.
pub(super) const FIRST_READ_BYTES: usize = 1_024;

/// Why there is no more of a packet.
pub(super) enum NoMore {
    /// The connection failed or ended.
    Lost(io::Error),
    /// Incomplete packets of all handshakes take as much as they may, and this one most.
    NoRoom,
}

/// What the incomplete packet of a handshake takes of the room for all, beyond the first read.
pub(super) struct RoomTaken<'a> {
    shared: &'a Shared,
    slot: Option<u32>,
}

impl<'a> RoomTaken<'a> {
    pub(super) fn none(shared: &'a Shared) -> Self {
        Self { shared, slot: None }
    }

    /// Reads more behind what `buffer` holds, as long as there is room for that.
    pub(super) async fn read<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        buffer: &mut BytesMut,
    ) -> Result<(), NoMore> {
        self.hold(buffer.len()).await;
        let mut read = pin!(io.read_buf(buffer));
        poll_fn(|cx| {
            if self.slot.is_some_and(|slot| self.shared.arriving.is_condemned(slot)) {
                return Poll::Ready(Err(NoMore::NoRoom));
            }
            read.as_mut().poll(cx).map(|read| match read.map_err(NoMore::Lost)? {
                0 => Err(NoMore::Lost(io::ErrorKind::UnexpectedEof.into())),
                _ => Ok(()),
            })
        })
        .await
    }

    /// So many bytes are kept from now on.
    pub(super) async fn hold(&mut self, bytes: usize) {
        let bytes = bytes.saturating_sub(FIRST_READ_BYTES);
        if self.slot.is_none() && bytes > 0 {
            let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            self.slot = Some(self.shared.arriving.insert(waker));
        }
        if let Some(slot) = self.slot {
            self.shared.hold_arriving(slot, bytes);
        }
    }
}

impl Drop for RoomTaken<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.shared.arriving.remove(slot);
        }
    }
}
