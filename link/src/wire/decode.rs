//! Frames out of bytes. What a header alone can show to be wrong is found before a byte of the body is waited for.

use bytes::{Bytes, BytesMut};
use mqtt::{OwnedFrame, ReasonCode, frame};

use super::field::Reader;
use super::hello::Hello;
use super::{
    DURABLE_BEYOND_MAX, Ending, Frame, HEADER_BYTES, Kind, OPTIONAL, OPTIONAL_BYTES_MAX, OpenBody,
    RETAINED_BYTES_MAX, RefuseReason, StreamId, WireError,
};
use crate::CloseCause;

/// By how much a PUBLISH may grow between its publisher and whoever it goes to, bytes: the topic in full where there was an
/// alias, and Subscription Identifiers.
const GROWTH_BYTES: u32 = 128 * 1024;

/// Largest HELLO, bytes; above what this release sends, since later ones append fields.
const HELLO_BYTES_MAX: u32 = 128 * 1024;

/// What the receiver is ready to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Largest Control Packet, bytes.
    pub packet_bytes_max: u32,
    /// Largest passport, bytes.
    pub passport_bytes_max: u32,
    /// Largest OPEN, bytes: CONNECT, passport, CONNACK, flows and aliases together.
    pub open_bytes_max: u32,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { packet_bytes_max: 1024 * 1024, passport_bytes_max: 64 * 1024, open_bytes_max: 4 * 1024 * 1024 }
    }
}

impl FrameLimits {
    /// For devices that send packets of up to so many bytes.
    pub fn for_packets(bytes_max: u32) -> Self {
        let default = Self::default();
        let packet_bytes_max = bytes_max.saturating_add(GROWTH_BYTES).min(frame::PACKET_SIZE_MAX);
        Self { packet_bytes_max: packet_bytes_max.max(default.packet_bytes_max), ..default }
    }

    /// Bytes of the longest body.
    const fn body_max(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Hello => HELLO_BYTES_MAX,
            Kind::Open => self.open_bytes_max,
            Kind::Opened => self.packet_bytes_max,
            Kind::Refused => self.packet_bytes_max.saturating_add(1),
            Kind::Packet => self.packet_bytes_max.saturating_add(8),
            Kind::Durable => 8 + 8 * DURABLE_BEYOND_MAX as u32,
            Kind::Close => self.packet_bytes_max.saturating_add(10),
            Kind::Passport => self.passport_bytes_max,
            Kind::Window | Kind::Drain => 4,
            Kind::Ping | Kind::Pong => 8,
            Kind::Yield => 0,
            Kind::Store => 1,
            Kind::Retained => 1 + RETAINED_BYTES_MAX as u32,
        }
    }
}

/// What was taken off the front of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A frame.
    Frame(StreamId, Frame),
    /// An optional frame of a kind that this release does not know.
    Skipped {
        /// Its number.
        kind: u8,
    },
}

/// Takes the first whole frame off the front of `buf`, without a copy; `None` when more bytes are needed.
///
/// `buf` never has to grow beyond the largest frame that `limits` allow: a length above it is an error as soon as the
/// header is there.
///
/// # Errors
/// What is wrong with the frame; `buf` is then of no further use.
pub fn decode(buf: &mut BytesMut, limits: &FrameLimits) -> Result<Option<Decoded>, WireError> {
    let Some(&[s0, s1, s2, s3, number, l0, l1, l2, l3]) = buf.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let stream = StreamId(u32::from_be_bytes([s0, s1, s2, s3]));
    let len = u32::from_be_bytes([l0, l1, l2, l3]);
    let kind = Kind::from_u8(number);
    let max = match kind {
        Some(kind) if kind.is_for_link() == (stream == StreamId::LINK) => limits.body_max(kind),
        Some(_) => return Err(WireError::WrongStream(number)),
        None if number & OPTIONAL != 0 => OPTIONAL_BYTES_MAX,
        None => return Err(WireError::UnknownKind(number)),
    };
    if len > max {
        return Err(WireError::TooLong { kind: number, len, max });
    }
    let whole = HEADER_BYTES + len as usize;
    if buf.len() < whole {
        return Ok(None);
    }
    let body = Reader(buf.split_to(whole).freeze().split_off(HEADER_BYTES));
    match kind {
        Some(kind) => Ok(Some(Decoded::Frame(stream, decode_body(kind, body)?))),
        None => Ok(Some(Decoded::Skipped { kind: number })),
    }
}

fn decode_body(kind: Kind, mut body: Reader) -> Result<Frame, WireError> {
    let frame = match kind {
        Kind::Hello => return Ok(Frame::Hello(Hello::decode(body)?)),
        Kind::Open => Frame::Open(Box::new(OpenBody::decode(&mut body)?)),
        Kind::Opened => return Ok(Frame::Opened { connack: packet_or_none(body.rest(), "CONNACK")? }),
        Kind::Refused => {
            let reason = RefuseReason::from_u8(body.u8("reason")?).ok_or(WireError::Value("reason"))?;
            return Ok(Frame::Refused { reason, packet: packet_or_none(body.rest(), "packet")? });
        }
        Kind::Packet => {
            let number = decode_number(&mut body)?;
            return Ok(Frame::Packet { number, packet: one_packet(body.rest(), "packet")? });
        }
        Kind::Durable => decode_durable(&mut body)?,
        Kind::Close => return decode_close(body),
        Kind::Passport => return Ok(Frame::Passport { token: body.rest() }),
        Kind::Window => match body.u32("credit")? {
            0 => return Err(WireError::Value("credit")),
            credit_bytes => Frame::Window { credit_bytes },
        },
        Kind::Drain => Frame::Drain { within_ms: body.u32("time")? },
        Kind::Ping => Frame::Ping { token: body.u64("token")? },
        Kind::Pong => Frame::Pong { token: body.u64("token")? },
        Kind::Yield => Frame::Yield,
        Kind::Store => Frame::Store { is_away: decode_bool(&mut body, "store")? },
        Kind::Retained => {
            let is_more = decode_bool(&mut body, "retained")?;
            return Ok(Frame::Retained { is_more, due: body.rest() });
        }
    };
    body.end()?;
    Ok(frame)
}

fn decode_bool(body: &mut Reader, field: &'static str) -> Result<bool, WireError> {
    match body.u8(field)? {
        value @ (0 | 1) => Ok(value == 1),
        _ => Err(WireError::Value(field)),
    }
}

fn decode_number(body: &mut Reader) -> Result<u64, WireError> {
    match body.u64("number")? {
        0 => Err(WireError::Value("number")),
        number => Ok(number),
    }
}

fn decode_durable(body: &mut Reader) -> Result<Frame, WireError> {
    let through = body.u64("through")?;
    let mut beyond = Vec::with_capacity(body.0.len() / 8);
    let mut last = through;
    while body.end().is_err() {
        let number = body.u64("beyond")?;
        if number <= last {
            return Err(WireError::Value("beyond"));
        }
        last = number;
        beyond.push(number);
    }
    Ok(Frame::Durable { through, beyond })
}

fn decode_close(mut body: Reader) -> Result<Frame, WireError> {
    let number = body.u64("number")?;
    let [how, reason] = body.array::<2>("ending")?;
    let ending = match (how, reason) {
        (1, 0) => Ending::Device(CloseCause::Abnormal),
        (2, 0) => Ending::Device(CloseCause::Shutdown),
        (3, 0) => Ending::Moved,
        (4, _) => {
            let reason = ReasonCode::try_from(reason).map_err(|_| WireError::Value("reason"))?;
            let packet = packet_or_none(std::mem::take(&mut body.0), "packet")?;
            Ending::Worker { reason, packet }
        }
        _ => return Err(WireError::Value("ending")),
    };
    if (number == 0) != (ending == Ending::Moved) {
        return Err(WireError::Value("number"));
    }
    body.end()?;
    Ok(Frame::Close { number, ending })
}

/// `bytes`, if they are one whole Control Packet as far as its fixed header tells.
pub(super) fn one_packet(bytes: Bytes, field: &'static str) -> Result<OwnedFrame, WireError> {
    let packet = OwnedFrame::from_bytes(bytes, frame::PACKET_SIZE_MAX);
    packet.ok().flatten().ok_or(WireError::NotOnePacket(field))
}

fn packet_or_none(bytes: Bytes, field: &'static str) -> Result<Bytes, WireError> {
    if bytes.is_empty() { Ok(bytes) } else { one_packet(bytes, field).map(|packet| packet.raw) }
}
