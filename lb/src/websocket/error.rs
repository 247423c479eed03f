//! Why an upgrade was refused and why a WebSocket connection was closed, with the status that the client is told.

use std::io;

/// What went wrong with a WebSocket connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WsError {
    /// The upgrade was answered with an HTTP error.
    #[error("the upgrade was refused: {0}")]
    Refused(Refusal),
    /// The request was no HTTP, too large, or the connection broke.
    #[error("the client's request failed")]
    Http(#[source] hyper::Error),
    /// A text frame. v5 [MQTT-6.0.0-1]
    #[error("the client sent a text frame")]
    TextFrame,
    /// A frame without a mask (RFC 6455 section 5.1).
    #[error("the client sent a frame that is not masked")]
    Unmasked,
    /// A reserved bit without an extension.
    #[error("the client set a reserved bit")]
    ReservedBit,
    /// A reserved opcode.
    #[error("the client used a reserved opcode")]
    ReservedOpcode,
    /// A control frame in fragments.
    #[error("the client fragmented a control frame")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("the client sent a control frame of more than 125 bytes")]
    LongControl,
    /// A continuation of nothing.
    #[error("the client continued a message that had not begun")]
    UnexpectedContinuation,
    /// A new message before the end of the last one.
    #[error("the client began a message within a message")]
    UnfinishedMessage,
    /// A length in more bytes than it needs, or with its highest bit set (RFC 6455 section 5.2).
    #[error("the client encoded a length badly")]
    BadLength,
    /// A frame beyond the bound.
    #[error("the client announced a frame beyond the bound")]
    FrameTooLarge,
    /// A close frame with an impossible status or text.
    #[error("the client sent a malformed close frame")]
    BadClose,
    /// End of stream within a frame.
    #[error("the connection ended within a frame")]
    Truncated,
    /// A close frame was sent.
    #[error("the WebSocket connection is closed")]
    Closed,
}

impl WsError {
    /// The close status for the client (RFC 6455 section 7.4.1), if it is to be told.
    pub fn close_status(&self) -> Option<u16> {
        match self {
            Self::TextFrame => Some(1003),
            Self::FrameTooLarge => Some(1009),
            Self::Refused(_) | Self::Http(_) | Self::Truncated | Self::Closed => None,
            _ => Some(1002),
        }
    }
}

impl From<WsError> for io::Error {
    fn from(error: WsError) -> Self {
        let kind = match error {
            WsError::Truncated | WsError::Http(_) => io::ErrorKind::UnexpectedEof,
            WsError::Closed => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Why an upgrade was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Another path: 404.
    #[error("no such path")]
    Path,
    /// Not GET: 405.
    #[error("the method is not GET")]
    Method,
    /// No upgrade to WebSocket was asked for: 426.
    #[error("no upgrade to WebSocket was asked for")]
    NotUpgrade,
    /// Another version than 13: 426.
    #[error("the WebSocket version is not 13")]
    Version,
    /// No good `Sec-WebSocket-Key`: 400.
    #[error("the key is missing or malformed")]
    Key,
    /// HTTP/1.0, or a request with a body: 400.
    #[error("the request cannot be upgraded")]
    Request,
    /// `mqtt` is not among the subprotocols: 400. v5 [MQTT-6.0.0-3]
    #[error("the subprotocol mqtt was not offered")]
    Subprotocol,
    /// The origin is not on the list: 403.
    #[error("the origin is not allowed")]
    Origin,
}

impl Refusal {
    /// The HTTP status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Path => 404,
            Self::Method => 405,
            Self::NotUpgrade | Self::Version => 426,
            Self::Key | Self::Request | Self::Subprotocol => 400,
            Self::Origin => 403,
        }
    }
}
