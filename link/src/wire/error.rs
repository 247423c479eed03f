//! What can be wrong with the bytes of a link. Each ends the link: there is no way to go on behind a frame that is not
//! understood.

/// A fault of the peer, named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A kind that is not known and not marked as optional.
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    /// A body longer than its kind may have; found before it is buffered.
    #[error("body of {len} bytes in a frame of kind {kind}, at most {max} are allowed")]
    TooLong {
        /// Its number.
        kind: u8,
        /// As announced, bytes.
        len: u32,
        /// The bound, bytes.
        max: u32,
    },
    /// A frame about the link on a stream, or one about a stream on none.
    #[error("frame of kind {0} on a stream where it may not be")]
    WrongStream(u8),
    /// A body that ends within a field.
    #[error("body ends before its field {0}")]
    Short(&'static str),
    /// Bytes behind the last field.
    #[error("{0} bytes behind the last field")]
    Trailing(usize),
    /// A value that a field may not have.
    #[error("field {0} has a value that it may not have")]
    Value(&'static str),
    /// Text that is not UTF-8.
    #[error("field {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A body that is not exactly one Control Packet.
    #[error("field {0} is not one whole control packet")]
    NotOnePacket(&'static str),
    /// A HELLO that does not begin as one does: the peer is something else.
    #[error("the peer does not speak the protocol of links")]
    NotALink,
}
