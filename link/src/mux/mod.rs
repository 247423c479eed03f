//! The two ends of a link as state machines without I/O and without a clock: bytes and the time go in, events and bytes
//! come out. [`EdgeEnd`] keeps what a replay needs, [`WorkerEnd`] reports what is durable. Rules: `docs/link.md`.
//!
//! A turn of either: `receive` what was read, `poll_event` until it is empty, call what follows from that, `tick`, and write
//! what `outgoing` holds with one vectored write.

mod answer;
mod credit;
mod done;
mod edge;
mod flows;
mod liveness;
mod replay;
mod transport;
mod worker;

use std::sync::Arc;
use std::time::Duration;

pub use answer::{Asked, answered_by, asked_by};
pub use credit::packet_cost;
pub use edge::{EdgeEnd, EdgeEvent, NotOpened, NotSent, Unfinished};
pub use flows::OpenFlows;
pub use replay::{DevicePacket, Replay};
pub use worker::{WorkerEnd, WorkerEvent};

use mqtt::OwnedFrame;

use crate::ExchangeKey;
use crate::wire::{FrameLimits, Hello, Kind, StreamId, Versions, WireError};

/// An end that has heard nothing for so long asks for a sign of life, and again after as long.
pub const PING_AFTER: Duration = Duration::from_millis(500);

/// An end that has heard nothing for so long takes the link for dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(2);

/// Bytes that wait to be written to a link, from which on no PACKET is added. Other frames are few and small.
pub const OUTGOING_BYTES_MAX: usize = 1024 * 1024;

/// One part in so many of the streams that a link may open is left when it wants to be replaced.
pub const WORN_PART: u32 = 8;

/// Default of [`Settings::window_bytes`].
pub const WINDOW_BYTES: u32 = 64 * 1024;

/// Default of [`Settings::kept_bytes_max`].
pub const KEPT_BYTES_MAX: usize = 256 * 1024;

/// Default of [`Settings::kept_count_max`].
pub const KEPT_COUNT_MAX: usize = 1024;

/// What one end is and takes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The edge's or the worker's name.
    pub id: Arc<str>,
    /// The versions that it speaks: [`Versions::OURS`].
    pub versions: Versions,
    /// Credit in bytes of every stream towards this end; not 0. One packet may exceed it.
    pub window_bytes: u32,
    /// Bounds of single frames.
    pub limits: FrameLimits,
    /// At the edge, streams that one link may open in its life. The identifiers have 32 bits, and none is used twice.
    pub streams_max: u32,
    /// What a worker says in [`Hello::handoff_grace_ms`]; 0 at the edge.
    pub handoff_grace_ms: u32,
    /// What a worker says in [`Hello::passport_key`]; all zero at the edge.
    pub passport_key: ExchangeKey,
    /// At the edge, from how many bytes on a stream takes no more packets for the worker: those not yet durable and those
    /// not yet sent together. The last may exceed it.
    pub kept_bytes_max: usize,
    /// The same as a number of packets.
    pub kept_count_max: usize,
}

impl Settings {
    /// The defaults for an end of this name.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            versions: Versions::OURS,
            window_bytes: WINDOW_BYTES,
            limits: FrameLimits::default(),
            streams_max: u32::MAX,
            handoff_grace_ms: 0,
            passport_key: ExchangeKey::default(),
            kept_bytes_max: KEPT_BYTES_MAX,
            kept_count_max: KEPT_COUNT_MAX,
        }
    }
}

/// What HELLO said about the other end, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherEnd {
    /// Its HELLO.
    pub hello: Hello,
    /// The version in force.
    pub version: u16,
    /// The features in force.
    pub features: u64,
}

/// Why a link is over. It says nothing about any device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A frame that cannot be read.
    #[error("malformed frame")]
    Wire(#[source] WireError),
    /// The two are more than one release apart.
    #[error("no version of the protocol in common: {ours:?} here, {theirs:?} there")]
    NoCommonVersion {
        /// Of this end.
        ours: Versions,
        /// Of the other.
        theirs: Versions,
    },
    /// A frame that this end does not take, or not now.
    #[error("unexpected {kind:?} on stream {}", .stream.0)]
    Unexpected {
        /// Its kind.
        kind: Kind,
        /// On this stream.
        stream: StreamId,
    },
    /// A frame of a stream that was never opened.
    #[error("stream {} was never opened", .0.0)]
    UnknownStream(StreamId),
    /// OPEN with an identifier at or below an earlier one.
    #[error("stream {} is opened again or out of order", .0.0)]
    StreamReused(StreamId),
    /// A number that does not follow the one before.
    #[error("number {found} on stream {} where {expected} follows", .stream.0)]
    NumberGap {
        /// On this stream.
        stream: StreamId,
        /// What should have come.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A packet without credit.
    #[error("window of stream {} exceeded", .0.0)]
    WindowExceeded(StreamId),
    /// More credit than the window.
    #[error("credit beyond the window of stream {}", .0.0)]
    CreditExceeded(StreamId),
    /// DURABLE goes back, or ahead of what was sent.
    #[error("impossible report of what is durable on stream {}", .0.0)]
    ImpossibleDurable(StreamId),
    /// Nothing was heard for [`DEAD_AFTER`].
    #[error("silence")]
    Silent,
    /// The link was over before.
    #[error("the link is over")]
    Over,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no room now; an event tells when there is. QoS 0 may be dropped (and is to be counted), the rest waits.
    #[error("no room on the stream")]
    Full,
    /// Larger than the other end takes.
    #[error("packet larger than {max} bytes")]
    TooLarge {
        /// What it takes, bytes.
        max: u32,
    },
    /// The stream is over, or about to be, or not opened yet.
    #[error("the stream takes no packets")]
    NoStream,
}

/// Whether the other end takes `packet`. What it does not take would end the link, and with it everyone's streams.
fn check(packet: &OwnedFrame, max: u32) -> Result<(), SendError> {
    if packet.len() > max as usize { Err(SendError::TooLarge { max }) } else { Ok(()) }
}
