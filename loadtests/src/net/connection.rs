//! One client connection: its socket, where it stands, what waits to be written and the start of a packet not yet whole.

use std::io;

use super::transport::Transport;
use super::websocket::WebSocket;
use mqtt::ProtocolVersion;

/// What the connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The TCP handshake.
    AwaitingTcp,
    /// The TLS handshake and the upgrade, if any, and CONNACK: CONNECT is queued behind them.
    AwaitingConnack,
    /// Nothing; packets flow.
    Open,
    /// The broker's close, after DISCONNECT.
    AwaitingClose,
}

/// One client connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) transport: Transport,
    pub(super) websocket: Option<Box<WebSocket>>,
    pub(super) stage: Stage,
    pub(super) version: ProtocolVersion,
    pub(super) out: Vec<u8>,
    pub(super) out_sent: usize,
    pub(super) blocked: bool,
    pub(super) queued: bool,
    pub(super) partial: Vec<u8>,
    pub(super) opened_ns: u64,
}

impl Connection {
    /// A connection whose socket is being connected and whose first bytes will be `connect`.
    #[must_use]
    pub(crate) fn new(
        transport: Transport,
        websocket: Option<Box<WebSocket>>,
        version: ProtocolVersion,
        connect: &[u8],
        opened_ns: u64,
    ) -> Self {
        Self {
            transport,
            websocket,
            stage: Stage::AwaitingTcp,
            version,
            out: connect.to_vec(),
            out_sent: 0,
            blocked: false,
            queued: false,
            partial: Vec::new(),
            opened_ns,
        }
    }

    /// Writes what is queued, in a frame on a WebSocket. Returns whether all of it left.
    ///
    /// # Errors
    /// Socket errors; a full socket is not an error.
    pub(super) fn send(&mut self) -> io::Result<bool> {
        match &mut self.websocket {
            None => self.transport.send(&mut self.out, &mut self.out_sent),
            Some(websocket) => {
                websocket.frame(&mut self.out);
                self.transport.send(&mut websocket.framed, &mut self.out_sent)
            }
        }
    }

    /// Whether TLS, the WebSocket or MQTT has bytes for the socket.
    #[must_use]
    pub(super) fn wants_write(&self) -> bool {
        !self.out.is_empty()
            || self.transport.tls().is_some_and(|tls| tls.wants_write())
            || self.websocket.as_ref().is_some_and(|websocket| websocket.wants_write())
    }

    /// Whether its TLS session was resumed.
    #[must_use]
    pub(crate) fn is_resumed(&self) -> bool {
        self.transport.tls().and_then(|tls| tls.handshake_kind()) == Some(rustls::HandshakeKind::Resumed)
    }
}
