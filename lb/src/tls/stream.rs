//! A TLS connection as `AsyncRead + AsyncWrite`. Ciphertext that the socket does not take waits in the stream, at most
//! one batch of it: the next write then has to wait too.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::TlsError;
use super::facts::TlsFacts;
use super::scratch::{BATCH_BYTES_MAX, Loan, RECORD_BYTES_MAX};
use super::session::Session;
use crate::io::AwaitingWriter;

/// Batches of records in a row that may carry nothing; then others have their turn.
const EMPTY_READS_MAX: usize = 4;

/// The server side of a TLS connection whose handshake is done.
///
/// Reading: end of stream is reported only after `close_notify`; without it the error is `UnexpectedEof`.
/// Writing: what `poll_write` accepted may still wait in the stream; `poll_flush` says when it has left, and a task that
/// goes on reading drives it too. All operations are cancel safe.
pub struct TlsStream<IO> {
    io: IO,
    session: Box<Session>,
    writer: AwaitingWriter,
}

impl<IO> TlsStream<IO> {
    pub(super) fn new(io: IO, session: Box<Session>) -> Self {
        Self { io, session, writer: AwaitingWriter::default() }
    }

    /// What was agreed in the handshake. To be taken once: the server name is moved out, so that an idle connection
    /// does not keep it.
    ///
    /// # Errors
    /// [`TlsError::ClientCertificateRefused`] if the client's certificate cannot be parsed,
    /// [`TlsError::ClientCertificateExpired`] if it has expired since the session that was resumed began.
    pub fn facts(&mut self) -> Result<TlsFacts, TlsError> {
        TlsFacts::take(&mut self.session)
    }

    /// Whether ciphertext waits for the socket.
    pub fn has_unsent(&self) -> bool {
        !self.session.outgoing.is_empty()
    }

    /// Whether decrypted bytes wait to be read.
    pub fn has_unread(&self) -> bool {
        !self.session.plaintext.is_empty()
    }

    /// The transport.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The transport. Reading or writing it directly breaks the session.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Exchanges the transport, for a connection that moves to another runtime.
    ///
    /// # Errors
    /// Those of `exchange`; the connection is then lost.
    pub fn map_io<IO2, E>(self, exchange: impl FnOnce(IO) -> Result<IO2, E>) -> Result<TlsStream<IO2>, E> {
        Ok(TlsStream { io: exchange(self.io)?, session: self.session, writer: AwaitingWriter::default() })
    }

    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO> {
    /// Reads one batch of ciphertext and decrypts what is whole. `Ok(0)`: end of stream.
    pub(super) fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<Result<usize, TlsError>> {
        let kept = self.session.incoming.len();
        // No more than the caller can take, or whole batches would wait as plaintext.
        let batch = (out.remaining() + RECORD_BYTES_MAX).min(BATCH_BYTES_MAX);
        let mut scratch = Loan::incoming();
        let mut fresh = ReadBuf::new(&mut scratch[kept..kept + batch]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut fresh)).map_err(TlsError::Broken)?;
        let count = fresh.filled().len();
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        scratch[..kept].copy_from_slice(&self.session.incoming);
        self.session.receive(&mut scratch[..kept + count], out)?;
        Poll::Ready(Ok(count))
    }

    /// Writes what waits.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.outgoing.is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, self.session.outgoing.rest()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.session.outgoing.consume(count);
        }
        self.session.outgoing_may_wait = false;
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
        if !self.session.outgoing.is_empty()
            && self.writer.yields_to(cx)
            && let Poll::Ready(outcome) = self.poll_drain(cx)
        {
            self.writer.wake();
            return outcome;
        }
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, plain: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.session.failed || self.session.close_sent {
            return Poll::Ready(Err(TlsError::Closed.into()));
        }
        if !self.session.outgoing_may_wait {
            ready!(self.poll_drain_for_writer(cx))?;
        }
        let mut scratch = Loan::outgoing();
        let mut used = self.session.outgoing.rest().len();
        scratch.reserve(used);
        scratch[..used].copy_from_slice(self.session.outgoing.rest());
        let taken = self.session.seal(plain, &mut scratch, &mut used)?;
        if taken == 0 {
            return Poll::Ready(Ok(0));
        }
        self.session.outgoing = Default::default();
        self.session.outgoing_may_wait = false;
        let mut sent = 0;
        while sent < used {
            match Pin::new(&mut self.io).poll_write(cx, &scratch[sent..used]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.session.outgoing.append(&scratch[sent..used]);
                    break;
                }
            }
        }
        Poll::Ready(Ok(taken))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.session.outgoing_may_wait {
            this.drain_aside(cx)?;
        }
        if out.remaining() == 0 || this.session.read_waiting(out) {
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        for _ in 0..EMPTY_READS_MAX {
            if this.session.peer_closed {
                return Poll::Ready(Ok(()));
            }
            if this.session.failed {
                let fault = this.session.fault.take().map_or(TlsError::Closed, |fault| *fault);
                return Poll::Ready(Err(fault.into()));
            }
            match ready!(this.poll_batch(cx, out)) {
                Ok(0) => return Poll::Ready(Err(TlsError::Truncated.into())),
                Ok(_) => {}
                Err(error) => {
                    // The alert, as far as the socket takes it: the connection is over either way.
                    let _ = this.drain_aside(cx);
                    if out.filled().len() == before {
                        return Poll::Ready(Err(error.into()));
                    }
                    this.session.failed = true;
                    this.session.fault = Some(Box::new(error));
                }
            }
            if out.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(plain)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plain: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, plain)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain_for_writer(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.close()?;
        ready!(self.poll_drain_for_writer(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
