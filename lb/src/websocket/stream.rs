//! A WebSocket connection as the byte stream that its binary frames carry. v5 [MQTT-6.0.0-2]: Control Packets may span
//! and share frames, so nothing here knows about them. One write is one frame.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::WsError;
use crate::io::AwaitingWriter;

use super::frame::{Control, FrameReader, Opcode, SENT_HEADER_BYTES_MAX, append_control, encode_header};

/// Payload of one frame to the client, bytes: with its header one batch of the TLS layer below.
const SENT_BYTES_MAX: usize = 64 * 1024 - SENT_HEADER_BYTES_MAX;
/// Reads in a row that may carry nothing, but pings and empty frames; then others have their turn.
const EMPTY_READS_MAX: usize = 4;
/// Slices gathered into one frame, header included.
const SLICES_MAX: usize = 64;

/// The server side of a WebSocket connection.
///
/// Reading: a close frame is the end of the stream and is answered; an end without one is the end of the stream too,
/// but within a frame it is `UnexpectedEof`. Violations are `InvalidData` with a [`WsError`] inside, after the client
/// was told. Writing: what `poll_write` accepted may still wait in the stream; `poll_flush` says when it has left, and a
/// task that goes on reading drives it too. All operations are cancel safe.
pub struct WsStream<IO> {
    io: IO,
    reader: FrameReader,
    /// What waits, if anything does.
    waiting: Option<Box<Backlogged>>,
    close_received: bool,
    close_sent: bool,
    writer: AwaitingWriter,
    fault: Option<Box<WsError>>,
}

/// Bytes that wait on their way in or out.
#[derive(Default)]
struct Backlogged {
    /// What the client sent right behind its request.
    incoming: Bytes,
    /// Frames, the first of them begun perhaps.
    outgoing: Vec<u8>,
    gone: usize,
    /// The payload of the last ping that was not answered. RFC 6455 section 5.5.3: earlier ones need no answer.
    pong: Option<Box<[u8]>>,
}

impl Backlogged {
    fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty() || self.pong.is_some()
    }
}

impl<IO> WsStream<IO> {
    pub(super) fn new(io: IO, leftover: Bytes) -> Self {
        let waiting = (!leftover.is_empty())
            .then(|| Box::new(Backlogged { incoming: leftover, ..Backlogged::default() }));
        Self {
            io,
            reader: FrameReader::default(),
            waiting,
            close_received: false,
            close_sent: false,
            writer: AwaitingWriter::default(),
            fault: None,
        }
    }

    /// The transport.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The transport. Reading or writing it directly breaks the framing.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Whether frames wait for the transport.
    pub fn has_unsent(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.has_outgoing())
    }

    /// Exchanges the transport, for a connection that moves to another runtime.
    ///
    /// # Errors
    /// Those of `exchange`; the connection is then lost.
    pub fn map_io<IO2, E>(self, exchange: impl FnOnce(IO) -> Result<IO2, E>) -> Result<WsStream<IO2>, E> {
        Ok(WsStream {
            io: exchange(self.io)?,
            reader: self.reader,
            waiting: self.waiting,
            close_received: self.close_received,
            close_sent: self.close_sent,
            writer: AwaitingWriter::default(),
            fault: self.fault,
        })
    }

    fn waiting(&mut self) -> &mut Backlogged {
        self.waiting.get_or_insert_default()
    }

    fn queue_close(&mut self, status: Option<u16>) {
        if !self.close_sent {
            self.close_sent = true;
            let status = status.map(u16::to_be_bytes);
            let waiting = self.waiting();
            waiting.pong = None;
            append_control(Opcode::Close, status.as_ref().map_or(&[], |bytes| bytes), &mut waiting.outgoing);
        }
    }

    /// Reads the frames in `bytes` and returns how many bytes they carry, moved to the front.
    fn read_frames(&mut self, bytes: &mut [u8]) -> usize {
        let mut carried = 0;
        let mut ping = None;
        let mut close = None;
        let outcome = self.reader.read(bytes, &mut carried, |control| match control {
            Control::Ping(payload) => {
                ping = Some(payload);
                true
            }
            Control::Close(status) => {
                close = Some(status);
                false
            }
        });
        if let Some(payload) = ping
            && !self.close_sent
        {
            self.waiting().pong = Some(payload);
        }
        if let Some(status) = close {
            self.close_received = true;
            self.queue_close(status);
        }
        if let Err(error) = outcome {
            self.queue_close(error.close_status());
            self.fault = Some(Box::new(error));
        }
        carried
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WsStream<IO> {
    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Ok(())) };
        loop {
            // Behind what waits, or answers to a client that does not read would pile up.
            if waiting.outgoing.is_empty()
                && let Some(payload) = waiting.pong.take()
            {
                append_control(Opcode::Pong, &payload, &mut waiting.outgoing);
            }
            if waiting.outgoing.is_empty() {
                break;
            }
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &waiting.outgoing[waiting.gone..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.gone += count;
            if waiting.gone == waiting.outgoing.len() {
                waiting.outgoing = Vec::new();
                waiting.gone = 0;
            }
        }
        if waiting.incoming.is_empty() {
            self.waiting = None;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain_for_writer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_drain(cx);
        match polled {
            Poll::Pending => self.writer.wait(cx),
            Poll::Ready(_) => self.writer.clear(),
        }
        polled
    }

    /// Writes what waits from a task that reads, unless another one is waiting to do it.
    fn drain_aside(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.has_unsent()
            && self.writer.yields_to(cx)
            && let Poll::Ready(outcome) = self.poll_drain(cx)
        {
            self.writer.wake();
            return outcome;
        }
        Ok(())
    }

    /// Puts bytes from the client behind what is filled.
    fn poll_raw(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(waiting) = &mut self.waiting
            && !waiting.incoming.is_empty()
        {
            let count = waiting.incoming.len().min(out.remaining());
            out.put_slice(&waiting.incoming.split_to(count));
            if waiting.incoming.is_empty() {
                waiting.incoming = Bytes::new();
                if !waiting.has_outgoing() {
                    self.waiting = None;
                }
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, out)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, payload: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.close_sent {
            return Poll::Ready(Err(WsError::Closed.into()));
        }
        ready!(self.poll_drain_for_writer(cx))?;
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut total = 0;
        let mut used = 1;
        for slice in payload.iter().filter(|slice| !slice.is_empty()).take(SLICES_MAX - 1) {
            let fits = slice.len().min(SENT_BYTES_MAX - total);
            slices[used] = IoSlice::new(&slice[..fits]);
            total += fits;
            used += 1;
            if total == SENT_BYTES_MAX {
                break;
            }
        }
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut header = [0; SENT_HEADER_BYTES_MAX];
        let size = encode_header(Opcode::Binary, total, &mut header);
        slices[0] = IoSlice::new(&header[..size]);
        let frame = &slices[..used];
        let polled = if self.io.is_write_vectored() {
            Pin::new(&mut self.io).poll_write_vectored(cx, frame)
        } else {
            Pin::new(&mut self.io).poll_write(cx, &rest_of(frame, 0))
        };
        let Poll::Ready(sent) = polled? else {
            self.writer.wait(cx);
            return Poll::Pending;
        };
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if sent < size + total {
            // The frame has begun, so all of it must follow.
            self.waiting().outgoing = rest_of(frame, sent);
            if let Poll::Ready(outcome) = self.poll_drain(cx) {
                outcome?;
            }
        }
        Poll::Ready(Ok(total))
    }
}

/// The bytes of `slices` behind the first `skip`.
fn rest_of(slices: &[IoSlice<'_>], skip: usize) -> Vec<u8> {
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    let mut rest = Vec::with_capacity(total - skip);
    let mut skip = skip;
    for slice in slices {
        let skipped = skip.min(slice.len());
        rest.extend_from_slice(&slice[skipped..]);
        skip -= skipped;
    }
    rest
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.drain_aside(cx)?;
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let start = out.filled().len();
        for _ in 0..EMPTY_READS_MAX {
            if let Some(fault) = this.fault.take() {
                this.close_received = true;
                return Poll::Ready(Err((*fault).into()));
            }
            if this.close_received {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_raw(cx, out))?;
            if out.filled().len() == start {
                if this.reader.is_within_frame() {
                    return Poll::Ready(Err(WsError::Truncated.into()));
                }
                return Poll::Ready(Ok(()));
            }
            let carried = this.read_frames(&mut out.filled_mut()[start..]);
            out.set_filled(start + carried);
            this.drain_aside(cx)?;
            if carried > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain_for_writer(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Sends a close frame with status 1000, if none was sent, and shuts the transport down.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue_close(Some(1000));
        ready!(self.poll_drain_for_writer(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
