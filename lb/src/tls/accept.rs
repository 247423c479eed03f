//! The handshake. The deadline is the caller's: dropping the future gives it up and closes the connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::TlsError;
use super::session::Session;
use super::stream::TlsStream;
use super::telemetry::Telemetry;

/// Accepts TLS connections by the configuration in force at the moment.
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<ArcSwap<ServerConfig>>,
    alpn_strict: bool,
    telemetry: Arc<Telemetry>,
}

impl TlsAcceptor {
    /// An acceptor over a configuration that may be exchanged. Handshakes under way keep the one they began with.
    pub fn new(config: Arc<ArcSwap<ServerConfig>>) -> Self {
        Self::counted(config, false, Arc::default())
    }

    /// The same, and has handshakes counted.
    pub(super) fn counted(
        config: Arc<ArcSwap<ServerConfig>>,
        alpn_strict: bool,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        Self { config, alpn_strict, telemetry }
    }

    /// Begins a handshake.
    pub fn accept<IO: AsyncRead + AsyncWrite + Unpin>(&self, io: IO) -> Accept<IO> {
        let state = match Session::new(self.config.load_full(), self.alpn_strict) {
            Ok(session) => State::AwaitingClient(TlsStream::new(io, Box::new(session))),
            Err(error) => State::Failed(error, None),
        };
        Accept { state, answers: 0, telemetry: Arc::clone(&self.telemetry) }
    }
}

/// A handshake under way.
#[must_use = "a handshake makes progress only when it is polled"]
pub struct Accept<IO> {
    state: State<IO>,
    /// Flights that were made for the client.
    answers: u8,
    telemetry: Arc<Telemetry>,
}

enum State<IO> {
    AwaitingClient(TlsStream<IO>),
    /// The alert is on its way.
    Failed(TlsError, Option<TlsStream<IO>>),
    Done,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Accept<IO> {
    type Output = Result<TlsStream<IO>, TlsError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::AwaitingClient(mut stream) => match advance(&mut stream, &mut self.answers, cx) {
                    Poll::Pending => {
                        self.state = State::AwaitingClient(stream);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(())) => {
                        self.telemetry.count(&stream.session().tls);
                        return Poll::Ready(Ok(stream));
                    }
                    Poll::Ready(Err(error)) => self.state = State::Failed(error, Some(stream)),
                },
                State::Failed(error, Some(mut stream)) => {
                    if stream.poll_drain(cx).is_pending() {
                        self.state = State::Failed(error, Some(stream));
                        return Poll::Pending;
                    }
                    return Poll::Ready(Err(error));
                }
                State::Failed(error, None) => return Poll::Ready(Err(error)),
                State::Done => return Poll::Ready(Err(TlsError::Closed)),
            }
        }
    }
}

impl<IO> Accept<IO> {
    /// The transport, if what is expensive is still to be done: the server's key exchange and signature, which answer a
    /// ClientHello, the second one where the first was answered by HelloRetryRequest (RFC 8446 section 4.1.4).
    pub(crate) fn before_signature(&mut self) -> Option<&IO> {
        let State::AwaitingClient(stream) = &mut self.state else { return None };
        let retried = stream.session().tls.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest);
        (self.answers < 1 + u8::from(retried)).then_some(stream.get_ref())
    }
}

fn advance<IO: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<IO>,
    answers: &mut u8,
    cx: &mut Context<'_>,
) -> Poll<Result<(), TlsError>> {
    loop {
        let session = stream.session();
        let done = !session.tls.is_handshaking();
        if done && session.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
            // What TLS 1.3 sends after the client's Finished are tickets: they leave with the first data, in its write.
            session.outgoing_may_wait = true;
            return Poll::Ready(Ok(()));
        }
        ready!(stream.poll_drain(cx)).map_err(TlsError::Broken)?;
        if done {
            return Poll::Ready(Ok(()));
        }
        // Plaintext that came with the client's last flight waits in the session.
        if ready!(stream.poll_batch(cx, &mut ReadBuf::new(&mut [])))? == 0 {
            return Poll::Ready(Err(TlsError::WentAway));
        }
        *answers = answers.saturating_add(u8::from(stream.has_unsent()));
    }
}
