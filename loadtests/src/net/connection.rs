//! One client connection: its socket, where it stands, what waits to be written and the start of a packet not yet whole.

use super::transport::Transport;
use mqtt::ProtocolVersion;

/// What the connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The TCP handshake.
    AwaitingTcp,
    /// The TLS handshake, if any, and CONNACK: CONNECT is queued behind the handshake.
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
        version: ProtocolVersion,
        connect: &[u8],
        opened_ns: u64,
    ) -> Self {
        Self {
            transport,
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

    /// Whether its TLS session was resumed.
    #[must_use]
    pub(crate) fn is_resumed(&self) -> bool {
        self.transport.tls().and_then(|tls| tls.handshake_kind()) == Some(rustls::HandshakeKind::Resumed)
    }
}
