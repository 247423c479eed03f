//! The bytes between edge and worker: frames of stream, kind, length and body. Sans-I/O, strict and bounded; what a frame
//! may do to a link is left to [`crate::mux`]. The reference is `docs/link.md`.

mod decode;
mod error;
mod field;
mod hello;
mod open;

use bytes::{BufMut, Bytes, BytesMut};
use mqtt::{OwnedFrame, ReasonCode};
use prometheus_client::encoding::EncodeLabelValue;

pub use decode::{Decoded, FrameLimits, decode};
pub use error::WireError;
pub use field::TEXT_BYTES_MAX;
pub use hello::{FEATURE_RETAINED, FEATURE_YIELD, FEATURES, Hello, VERSION, VERSION_OLDEST, Versions};

use crate::{CloseCause, Open, Outgoing};

/// The body of OPEN: the passport is a token.
pub type OpenBody = Open<Bytes>;

/// Bytes before every body: stream (4), kind (1), length of the body (4). All numbers are big-endian.
pub const HEADER_BYTES: usize = 9;

/// Bytes of a PACKET frame beside the Control Packet: the header and the number.
pub const PACKET_OVERHEAD_BYTES: usize = HEADER_BYTES + 8;

/// The bit of a kind that says: who does not know it may skip it.
pub const OPTIONAL: u8 = 0x80;

/// Largest body of an optional frame of unknown kind, bytes.
pub const OPTIONAL_BYTES_MAX: u32 = 64 * 1024;

/// What an edge keeps for each stream of what [`Kind::Retained`] told, bytes at most.
pub const RETAINED_BYTES_MAX: usize = 32 * 1024;

/// Numbers that one DURABLE may list.
pub const DURABLE_BEYOND_MAX: usize = 1024;

/// One device's conversation on a link. The edge counts them from 1 and uses none twice; 0 is the link itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// What HELLO, DRAIN, PING and PONG are sent on.
    pub const LINK: Self = Self(0);
}

mqtt::numbered! {
    /// What a frame is. Numbers with [`OPTIONAL`] set are left to later versions.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Kind {
        /// First on a link, in both directions.
        Hello = 1,
        /// Edge to worker: a device asks for its session.
        Open = 2,
        /// Worker to edge: it has it.
        Opened = 3,
        /// Worker to edge: it does not get it here.
        Refused = 4,
        /// One Control Packet.
        Packet = 5,
        /// Worker to edge: effects that outlive the worker.
        Durable = 6,
        /// The end of a stream.
        Close = 7,
        /// Edge to worker: a renewed passport.
        Passport = 8,
        /// Credit of a stream.
        Window = 9,
        /// The sender is about to leave.
        Drain = 10,
        /// Asks for a sign of life.
        Ping = 11,
        /// Answers a PING.
        Pong = 12,
        /// Worker to edge: another connection has the session.
        Yield = 13,
        /// Worker to edge: whether it reaches its store. Optional: an edge that does not know it goes on without.
        Store = 0x81,
        /// Worker to edge: which retained messages the device is still to get. Optional: where it is not known they are lost when
        /// the device moves.
        Retained = 0x82,
    }
}

impl Kind {
    /// Whether it is about the link, on stream 0, and not about one stream.
    pub const fn is_for_link(self) -> bool {
        matches!(self, Self::Hello | Self::Drain | Self::Ping | Self::Pong | Self::Store)
    }
}

mqtt::numbered! {
    /// Why a worker does not open a stream.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
    pub enum RefuseReason {
        /// It is about to leave; another worker will do.
        Draining = 1,
        /// It has as many connections as it may have, or too much to do; another worker may do.
        Overloaded = 2,
        /// It cannot reach the store. The deadline of a handoff stands still meanwhile.
        StoreAway = 3,
        /// There is no such session any more; the device is told 0x8B or 0x89.
        SessionGone = 4,
        /// The session belongs to another connection; the device is told 0x8E. Never a reason to resume.
        TakenOver = 5,
        /// The passport is not accepted.
        Passport = 6,
        /// CONNECT is refused; the CONNACK that says so comes along.
        Connect = 7,
    }
}

impl RefuseReason {
    /// Whether the same OPEN may succeed at another worker, or later.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Draining | Self::Overloaded | Self::StoreAway)
    }
}

/// How a stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Edge to worker: the device's connection ended. Kept and replayed like a PACKET.
    Device(CloseCause),
    /// Edge to worker: the edge has given up this stream, its device stays; no Will is due.
    Moved,
    /// Worker to edge: the connection ends.
    Worker {
        /// For logs and metrics.
        reason: ReasonCode,
        /// The last Control Packet for the device, outside the window; empty for none.
        packet: Bytes,
    },
}

/// One frame, without its stream. Decoded bodies share the buffer that they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// [`Kind::Hello`].
    Hello(Hello),
    /// [`Kind::Open`].
    Open(Box<OpenBody>),
    /// [`Kind::Opened`].
    Opened {
        /// CONNACK for the device; empty on a resume.
        connack: Bytes,
    },
    /// [`Kind::Refused`].
    Refused {
        /// Why.
        reason: RefuseReason,
        /// What the device is told (CONNACK or DISCONNECT); empty to leave that to the edge.
        packet: Bytes,
    },
    /// [`Kind::Packet`].
    Packet {
        /// 1 for the first PACKET or CLOSE of a stream in a direction, then one more for each.
        number: u64,
        /// One whole Control Packet.
        packet: OwnedFrame,
    },
    /// [`Kind::Durable`].
    Durable {
        /// Everything up to this number has its effect in the store, or needs none.
        through: u64,
        /// Later ones too, ascending; each is told once. At most [`DURABLE_BEYOND_MAX`].
        beyond: Vec<u64>,
    },
    /// [`Kind::Close`].
    Close {
        /// As in PACKET; 0 with [`Ending::Moved`], which is not numbered.
        number: u64,
        /// How.
        ending: Ending,
    },
    /// [`Kind::Passport`].
    Passport {
        /// The token, which replaces that of OPEN.
        token: Bytes,
    },
    /// [`Kind::Window`].
    Window {
        /// Bytes of PACKET frames that the receiver may send beyond what it may already.
        credit_bytes: u32,
    },
    /// [`Kind::Drain`].
    Drain {
        /// When the sender closes the link, from now. Until then the edge moves its connections.
        within_ms: u32,
    },
    /// [`Kind::Ping`].
    Ping {
        /// Comes back in PONG.
        token: u64,
    },
    /// [`Kind::Pong`].
    Pong {
        /// That of the PING.
        token: u64,
    },
    /// [`Kind::Yield`]: what the device has sent already is to come, and then CLOSE. Only where
    /// [`FEATURE_YIELD`] is in force.
    Yield,
    /// [`Kind::Store`].
    Store {
        /// It is without its store for now. Until this is told it has it.
        is_away: bool,
    },
    /// [`Kind::Retained`].
    Retained {
        /// It is added to what was told before. Otherwise it takes the place of that; empty for none.
        is_more: bool,
        /// Only workers know what it says.
        due: Bytes,
    },
}

/// Appends a PACKET frame without one being made; a large Control Packet is shared and not copied.
pub(crate) fn encode_packet(stream: StreamId, number: u64, packet: &Bytes, out: &mut Outgoing) {
    let head = out.buffer();
    encode_header(stream, Kind::Packet, 8 + packet.len(), head);
    head.put_u64(number);
    out.put_shared(packet);
}

fn encode_header(stream: StreamId, kind: Kind, body_len: usize, out: &mut BytesMut) {
    out.put_u32(stream.0);
    out.put_u8(kind as u8);
    out.put_u32(field::len_u32(body_len));
}

impl Frame {
    /// Which kind it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Open(_) => Kind::Open,
            Self::Opened { .. } => Kind::Opened,
            Self::Refused { .. } => Kind::Refused,
            Self::Packet { .. } => Kind::Packet,
            Self::Durable { .. } => Kind::Durable,
            Self::Close { .. } => Kind::Close,
            Self::Passport { .. } => Kind::Passport,
            Self::Window { .. } => Kind::Window,
            Self::Drain { .. } => Kind::Drain,
            Self::Ping { .. } => Kind::Ping,
            Self::Pong { .. } => Kind::Pong,
            Self::Yield => Kind::Yield,
            Self::Store { .. } => Kind::Store,
            Self::Retained { .. } => Kind::Retained,
        }
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        match self {
            Self::Hello(hello) => hello.encoded_len(),
            Self::Open(open) => open.encoded_len(),
            Self::Opened { connack } => connack.len(),
            Self::Refused { packet, .. } => 1 + packet.len(),
            Self::Packet { packet, .. } => 8 + packet.len(),
            Self::Durable { beyond, .. } => 8 + 8 * beyond.len(),
            Self::Close { ending: Ending::Worker { packet, .. }, .. } => 10 + packet.len(),
            Self::Close { .. } => 10,
            Self::Passport { token } => token.len(),
            Self::Window { .. } | Self::Drain { .. } => 4,
            Self::Ping { .. } | Self::Pong { .. } => 8,
            Self::Yield => 0,
            Self::Store { .. } => 1,
            Self::Retained { due, .. } => 1 + due.len(),
        }
    }

    /// Appends the whole frame.
    pub fn encode(&self, stream: StreamId, out: &mut BytesMut) {
        out.reserve(HEADER_BYTES + self.body_len());
        self.encode_head(stream, out);
        out.put_slice(self.tail());
    }

    /// Appends the whole frame; a large Control Packet is shared and not copied.
    pub fn encode_shared(&self, stream: StreamId, out: &mut Outgoing) {
        self.encode_head(stream, out.buffer());
        out.put_shared(self.tail());
    }

    /// What ends the body and can be many bytes.
    fn tail(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match self {
            Self::Opened { connack: tail }
            | Self::Refused { packet: tail, .. }
            | Self::Packet { packet: OwnedFrame { raw: tail, .. }, .. }
            | Self::Close { ending: Ending::Worker { packet: tail, .. }, .. }
            | Self::Passport { token: tail }
            | Self::Retained { due: tail, .. } => tail,
            _ => &NONE,
        }
    }

    /// Everything before [`Frame::tail`].
    fn encode_head(&self, stream: StreamId, out: &mut BytesMut) {
        encode_header(stream, self.kind(), self.body_len(), out);
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Open(open) => open.encode(out),
            Self::Opened { .. } | Self::Passport { .. } | Self::Yield => {}
            Self::Refused { reason, .. } => out.put_u8(*reason as u8),
            Self::Packet { number, .. } => out.put_u64(*number),
            Self::Durable { through, beyond } => {
                out.put_u64(*through);
                beyond.iter().for_each(|number| out.put_u64(*number));
            }
            Self::Close { number, ending } => {
                out.put_u64(*number);
                out.put_slice(&match ending {
                    // What is not answered has said DISCONNECT by then.
                    Ending::Device(CloseCause::Abnormal | CloseCause::Unanswered) => [1, 0],
                    Ending::Device(CloseCause::Shutdown) => [2, 0],
                    Ending::Moved => [3, 0],
                    Ending::Worker { reason, .. } => [4, *reason as u8],
                });
            }
            Self::Window { credit_bytes: number } | Self::Drain { within_ms: number } => out.put_u32(*number),
            Self::Ping { token } | Self::Pong { token } => out.put_u64(*token),
            Self::Store { is_away: yes } | Self::Retained { is_more: yes, .. } => out.put_u8(u8::from(*yes)),
        }
    }
}
