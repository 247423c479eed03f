//! Framing: whole Control Packets out of bytes. The fixed header is checked, and the size bound holds, before the body
//! has arrived. What depends on the protocol version is left to [`crate::Packet::decode`]. Streams: [`FrameBuffer`].

mod buffer;

use bytes::{Buf, Bytes, BytesMut};

pub use buffer::{FrameBuffer, Frames, RESERVE_BYTES_MAX};

use crate::error::DecodeError;
use crate::packet_type::PacketType;
use crate::varint;

/// The largest Control Packet that the format allows: 268,435,460 bytes.
pub const PACKET_SIZE_MAX: u32 = 1 + 4 + varint::MAX;

/// One whole Control Packet, its fixed header checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The whole packet.
    pub raw: &'a [u8],
    /// Whether Remaining Length takes the fewest bytes. MQTT 5 demands it [MQTT-1.5.5-1], 3.1 and 3.1.1 do not.
    pub minimal_length: bool,
    packet_type: PacketType,
    header_len: u8,
}

impl<'a> Frame<'a> {
    /// The type in the first byte.
    pub const fn packet_type(&self) -> PacketType {
        self.packet_type
    }

    /// The first byte: type and flags.
    pub const fn first_byte(&self) -> u8 {
        self.raw[0]
    }

    /// What follows the fixed header; as long as Remaining Length says.
    pub fn body(&self) -> &'a [u8] {
        &self.raw[usize::from(self.header_len)..]
    }
}

/// One whole Control Packet that owns its bytes (shared with the buffer that it was split from).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedFrame {
    /// The whole packet.
    pub raw: Bytes,
    /// As [`Frame::minimal_length`].
    pub minimal_length: bool,
    packet_type: PacketType,
    header_len: u8,
}

impl OwnedFrame {
    /// The borrowed form, for decoding.
    pub fn as_frame(&self) -> Frame<'_> {
        Frame {
            raw: &self.raw,
            minimal_length: self.minimal_length,
            packet_type: self.packet_type,
            header_len: self.header_len,
        }
    }

    /// The type in the first byte.
    pub const fn packet_type(&self) -> PacketType {
        self.packet_type
    }

    /// What follows the fixed header, without a copy.
    pub fn body(&self) -> Bytes {
        self.raw.slice(usize::from(self.header_len)..)
    }
}

/// A fixed header that has arrived in full.
#[derive(Debug, Clone, Copy)]
struct Header {
    packet_type: PacketType,
    len: u8,
    /// Bytes of the whole packet.
    total: usize,
    minimal_length: bool,
}

impl Header {
    /// Parses the front of `buf`; `None` while the header is cut off.
    #[inline]
    fn parse(buf: &[u8], packet_size_max: u32, flags: Flags) -> Result<Option<Self>, DecodeError> {
        let Some((&first_byte, rest)) = buf.split_first() else { return Ok(None) };
        let packet_type = check_first_byte(first_byte, flags)?;
        let Some(length) = varint::decode(rest)? else { return Ok(None) };
        let size = 1 + u32::from(length.len) + length.value;
        if size > packet_size_max {
            return Err(DecodeError::PacketTooLarge { size, max: packet_size_max });
        }
        Ok(Some(Self {
            packet_type,
            len: 1 + length.len,
            total: size as usize,
            minimal_length: length.minimal,
        }))
    }

    fn frame(self, raw: &[u8]) -> Frame<'_> {
        Frame {
            raw,
            minimal_length: self.minimal_length,
            packet_type: self.packet_type,
            header_len: self.len,
        }
    }
}

/// How much of a first byte is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flags {
    /// As MQTT 3.1 has them: DUP, QoS and RETAIN are unused in most packets, and say nothing.
    Unused,
    /// As MQTT 3.1.1 and 5 have them: reserved, each with its value. v5 [MQTT-2.1.3-1]
    Reserved,
}

/// Type and flags of a first byte.
#[inline]
fn check_first_byte(first_byte: u8, reading: Flags) -> Result<PacketType, DecodeError> {
    let packet = PacketType::from_first_byte(first_byte).ok_or(DecodeError::ReservedPacketType)?;
    let flags = first_byte & 0x0F;
    match packet {
        // v5 [MQTT-3.3.1-4], v5 [MQTT-3.3.1-2]
        PacketType::Publish if flags & 0b0110 == 0b0110 => Err(DecodeError::PublishQoS),
        PacketType::Publish if flags & 0b1110 == 0b1000 => Err(DecodeError::DupAtQoS0),
        PacketType::Publish => Ok(packet),
        // v5 [MQTT-2.1.3-1]
        _ if first_byte == packet.first_byte() => Ok(packet),
        _ if reading == Flags::Reserved => Err(DecodeError::FixedHeaderFlags { packet }),
        // 3.1 sections 3.6, 3.8 and 3.10: they are of QoS 1, and DUP when they are sent again.
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe if flags & 0b0110 != 0b0010 => {
            Err(DecodeError::FixedHeaderFlags { packet })
        }
        _ => Ok(packet),
    }
}

/// Whether `packet` is a PUBLISH at QoS 0, as its first byte says: it is never acknowledged.
#[inline]
pub fn is_qos0_publish(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first_byte| first_byte & 0b1111_0110 == 0b0011_0000)
}

/// The first whole Control Packet at the front of `buf`; `None` when more bytes are needed.
///
/// `packet_size_max` bounds the whole packet in bytes, fixed header included; it is checked as soon as Remaining Length is
/// there. Flags that only MQTT 3.1 lets pass do so here: decoding refuses them for the later versions.
///
/// # Errors
/// A first byte or a Remaining Length that no packet may have, or a packet over the bound.
#[inline]
pub fn split(buf: &[u8], packet_size_max: u32) -> Result<Option<Frame<'_>>, DecodeError> {
    let Some(header) = Header::parse(buf, packet_size_max, Flags::Unused)? else { return Ok(None) };
    Ok(buf.get(..header.total).map(|raw| header.frame(raw)))
}

/// As [`split`], on shared bytes: the packet is taken off the front of `buf` without a copy.
///
/// # Errors
/// As [`split`]; `buf` is then unchanged.
pub fn split_bytes(buf: &mut BytesMut, packet_size_max: u32) -> Result<Option<OwnedFrame>, DecodeError> {
    let Some(header) = Header::parse(buf, packet_size_max, Flags::Unused)? else { return Ok(None) };
    if buf.remaining() < header.total {
        return Ok(None);
    }
    Ok(Some(OwnedFrame {
        raw: buf.split_to(header.total).freeze(),
        minimal_length: header.minimal_length,
        packet_type: header.packet_type,
        header_len: header.len,
    }))
}
