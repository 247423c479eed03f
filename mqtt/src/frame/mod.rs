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

    /// Whether this is a PUBLISH at QoS 0, which is never acknowledged.
    pub const fn is_qos0_publish(&self) -> bool {
        self.first_byte() & 0b1111_0110 == 0b0011_0000
    }

    /// What follows the fixed header; as long as Remaining Length says.
    pub fn body(&self) -> &'a [u8] {
        &self.raw[usize::from(self.header_len)..]
    }

    /// A copy that owns its bytes.
    pub fn copied(&self) -> OwnedFrame {
        self.owned(Bytes::copy_from_slice(self.raw))
    }

    /// A copy with the flags that MQTT 3.1.1 and 5 demand, in place of those that MQTT 3.1 does not use.
    pub fn copied_with_reserved_flags(&self) -> OwnedFrame {
        if self.packet_type == PacketType::Publish {
            return self.copied();
        }
        let mut raw = BytesMut::from(self.raw);
        raw[0] = self.packet_type.first_byte();
        self.owned(raw.freeze())
    }

    fn owned(&self, raw: Bytes) -> OwnedFrame {
        OwnedFrame {
            raw,
            minimal_length: self.minimal_length,
            packet_type: self.packet_type,
            header_len: self.header_len,
        }
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
    /// `raw` as the one whole Control Packet that it is; `None` where it is less than one, or more. `packet_size_max` bounds it
    /// as it does in [`split`].
    ///
    /// # Errors
    /// As [`split`].
    pub fn from_bytes(raw: Bytes, packet_size_max: u32) -> Result<Option<Self>, DecodeError> {
        let header = Header::parse(&raw, packet_size_max, Flags::Unused)?;
        Ok(header.filter(|header| header.total == raw.len()).map(|header| header.own(raw)))
    }

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

    /// As [`Frame::is_qos0_publish`].
    pub fn is_qos0_publish(&self) -> bool {
        self.as_frame().is_qos0_publish()
    }

    /// Bytes of the whole packet.
    #[expect(clippy::len_without_is_empty, reason = "a packet has two bytes at least")]
    pub fn len(&self) -> usize {
        self.raw.len()
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

    fn own(self, raw: Bytes) -> OwnedFrame {
        self.frame(&[]).owned(raw)
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
    Ok(Some(header.own(buf.split_to(header.total).freeze())))
}
