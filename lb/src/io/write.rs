//! One write for all that a turn has to say.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use link::Outgoing;
use tokio::io::AsyncWrite;

/// Writes what the stream takes. Ready when all of `out` is written and flushed. `written` counts the bytes, whatever
/// the result.
pub(crate) fn poll_write_all<T: AsyncWrite + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    out: &mut Outgoing,
    written: &mut usize,
) -> Poll<io::Result<()>> {
    while !out.is_empty() {
        let count = if out.is_contiguous() || !io.is_write_vectored() {
            ready!(Pin::new(&mut *io).poll_write(cx, out.chunk()))?
        } else {
            let mut slices = [IoSlice::new(&[]); 64];
            let used = out.slices(&mut slices);
            ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..used]))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *written += count;
        out.advance(count);
    }
    Pin::new(io).poll_flush(cx)
}
