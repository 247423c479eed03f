//! Why connections are refused and why they end, as data: the variants are the metric labels.

use authsvc::RevokeReason;
use mqtt::ReasonCode;

use crate::tls;

link::labels! {
    /// How far a handshake had come when it failed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) enum HandshakeStage {
        /// Waiting for the first byte.
        FirstByte = "first_byte",
        /// Waiting for the PROXY protocol header.
        ProxyHeader = "proxy_header",
        /// In the TLS handshake.
        Tls = "tls",
        /// In the WebSocket upgrade.
        WebSocket = "websocket",
        /// Waiting for the CONNECT packet.
        Connect = "connect",
        /// In authentication.
        Authentication = "authentication",
    }
}

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    /// It took longer than its deadline.
    Timeout,
    /// It had no turn in time.
    Overload,
    /// The peer broke off.
    ConnectionLost,
    /// The peer broke the rules of the stage.
    Invalid,
    /// CONNECT or AUTH was answered by a refusal.
    Refused,
    /// The TLS handshake failed.
    Tls(tls::TlsFailure),
}

impl HandshakeFailure {
    /// As metrics and logs write it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Overload => "overload",
            Self::ConnectionLost => "connection_lost",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Tls(failure) => failure.label(),
        }
    }
}

link::labels! {
    /// Why a connection is turned away as soon as it is accepted, or given up for others, before anything is paid for it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) enum ShedReason {
        /// `connections_max` is reached.
        ConnectionsMax = "connections_max",
        /// `handshakes_max` is reached: given up for one that came later.
        HandshakesMax = "handshakes_max",
        /// Its listener has taken as many as it may in this second.
        ListenerRate = "listener_rate",
        /// Its source connects too often.
        SourceRate = "source_rate",
        /// Its source has `source_connections_max` connections.
        SourceConnectionsMax = "source_connections_max",
        /// The process has no descriptor left.
        Descriptors = "descriptors",
    }
}

/// Why the connection of a device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// It sent DISCONNECT.
    ClientDisconnect,
    /// It closed the connection without DISCONNECT.
    ConnectionClosed,
    /// The connection failed.
    ConnectionLost,
    /// Nothing came for one and a half times the Keep Alive.
    KeepAliveTimeout,
    /// The worker did not open its session in time.
    OpenTimeout,
    /// It left bytes unread for too long.
    WriteTimeout,
    /// It sent what framing or the edge's own packets do not allow; the code says what.
    BadPacket(ReasonCode),
    /// It has sent more than it may for too long, though it was held back.
    TooFast,
    /// Incomplete packets of all connections went past their bound, by this one.
    ReceiveBufferFull,
    /// The process has too much memory, and its device left much unread.
    OutOfMemory,
    /// Re-authentication failed.
    ReAuthentication,
    /// Nobody could say whether it has succeeded.
    ReAuthenticationUndecided,
    /// Its passport was not renewed: who it is, or that it may connect, is not so any more.
    PassportDenied,
    /// Its passport ended before it could be renewed.
    PassportExpired,
    /// Who it is was revoked.
    Revoked(RevokeReason),
    /// Another connection has its session.
    TakenOver,
    /// The worker ended it, with this code.
    Worker(ReasonCode),
    /// The edge shuts down.
    Shutdown,
}

impl CloseReason {
    /// The Reason Code that says it, if there is one.
    pub(crate) fn code(self) -> Option<ReasonCode> {
        match self {
            Self::BadPacket(reason) | Self::Worker(reason) => Some(reason),
            Self::KeepAliveTimeout => Some(ReasonCode::KeepAliveTimeout),
            Self::OpenTimeout => Some(ReasonCode::ServerUnavailable),
            Self::TooFast => Some(ReasonCode::MessageRateTooHigh),
            Self::ReceiveBufferFull | Self::OutOfMemory => Some(ReasonCode::QuotaExceeded),
            Self::ReAuthentication | Self::PassportDenied | Self::PassportExpired => {
                Some(ReasonCode::NotAuthorized)
            }
            Self::ReAuthenticationUndecided => Some(ReasonCode::ServerBusy),
            Self::Revoked(reason) => Some(reason.reason_code()),
            Self::TakenOver => Some(ReasonCode::SessionTakenOver),
            Self::Shutdown => Some(ReasonCode::ServerShuttingDown),
            Self::ClientDisconnect | Self::ConnectionClosed | Self::ConnectionLost | Self::WriteTimeout => {
                None
            }
        }
    }

    /// As metrics and logs write it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::ClientDisconnect => "client_disconnect",
            Self::ConnectionClosed => "connection_closed",
            Self::ConnectionLost => "connection_lost",
            Self::KeepAliveTimeout => "keep_alive_timeout",
            Self::OpenTimeout => "open_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::TooFast => ReasonCode::MessageRateTooHigh.label(),
            Self::ReceiveBufferFull => "receive_buffer_full",
            Self::OutOfMemory => "out_of_memory",
            Self::ReAuthentication => "re_authentication",
            Self::ReAuthenticationUndecided => "re_authentication_undecided",
            Self::PassportDenied => "passport_denied",
            Self::PassportExpired => "passport_expired",
            Self::Revoked(RevokeReason::Administrative) => "revoked",
            Self::Revoked(RevokeReason::CredentialsChanged) => "credentials_changed",
            Self::BadPacket(reason) | Self::Worker(reason) => reason.label(),
            Self::TakenOver => ReasonCode::SessionTakenOver.label(),
            Self::Shutdown => "server_shutting_down",
        }
    }
}
