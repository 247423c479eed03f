//! The fifteen Control Packets as borrowed views. One file per packet (or family); each validates in `decode` all that one
//! packet alone can show, so that a view that exists is a valid packet.

pub(crate) mod ack;
pub(crate) mod auth;
pub(crate) mod connack;
pub(crate) mod connect;
pub(crate) mod disconnect;
pub mod publish;
pub(crate) mod suback;
pub(crate) mod subscribe;
pub(crate) mod unsubscribe;

use bytes::BufMut;

use crate::bytes_io::{Reader, packet_len, put_fixed_header};
use crate::error::DecodeError;
use crate::frame::Frame;
use crate::packet_type::PacketType;
use crate::receiver::Receiver;
use crate::version::ProtocolVersion;
use ack::{Ack, AckKind};
use auth::Auth;
use connack::ConnAck;
use connect::Connect;
use disconnect::Disconnect;
use publish::Publish;
use suback::{SubAck, UnsubAck};
use subscribe::Subscribe;
use unsubscribe::Unsubscribe;

/// A Control Packet, validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// CONNECT
    Connect(Connect<'a>),
    /// CONNACK
    ConnAck(ConnAck<'a>),
    /// PUBLISH
    Publish(Publish<'a>),
    /// PUBACK
    PubAck(Ack<'a>),
    /// PUBREC
    PubRec(Ack<'a>),
    /// PUBREL
    PubRel(Ack<'a>),
    /// PUBCOMP
    PubComp(Ack<'a>),
    /// SUBSCRIBE
    Subscribe(Subscribe<'a>),
    /// SUBACK
    SubAck(SubAck<'a>),
    /// UNSUBSCRIBE
    Unsubscribe(Unsubscribe<'a>),
    /// UNSUBACK
    UnsubAck(UnsubAck<'a>),
    /// PINGREQ
    PingReq,
    /// PINGRESP
    PingResp,
    /// DISCONNECT
    Disconnect(Disconnect<'a>),
    /// AUTH
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Decodes a packet that arrived at `receiver` on a connection of `version`. Allocates nothing.
    ///
    /// A CONNECT names its own version and must agree with `version`; use [`Connect::decode`] for the first packet of a
    /// connection.
    ///
    /// # Errors
    /// The first fault found, in the order of the fields.
    #[inline]
    pub fn decode(
        version: ProtocolVersion,
        receiver: Receiver,
        frame: Frame<'a>,
    ) -> Result<Self, DecodeError> {
        if frame.packet_type() == PacketType::Publish {
            return Publish::decode(version, receiver, frame).map(Self::Publish);
        }
        Self::decode_rare(version, receiver, frame)
    }

    fn decode_rare(
        version: ProtocolVersion,
        receiver: Receiver,
        frame: Frame<'a>,
    ) -> Result<Self, DecodeError> {
        check_frame(version, frame)?;
        check_direction(version, receiver, frame.packet_type())?;
        let mut reader = Reader::new(frame.body());
        let read = &mut reader;
        let ack = |read: &mut Reader<'a>, kind| Ack::decode(version, receiver, kind, read);
        let packet = match frame.packet_type() {
            PacketType::Connect => {
                let connect = Connect::decode(frame)?;
                if connect.version != version {
                    return Err(DecodeError::UnsupportedProtocolLevel { level: connect.version.level() });
                }
                return Ok(Self::Connect(connect));
            }
            PacketType::Publish => return Publish::decode(version, receiver, frame).map(Self::Publish),
            PacketType::ConnAck => Self::ConnAck(ConnAck::decode(version, read)?),
            PacketType::PubAck => Self::PubAck(ack(read, AckKind::PubAck)?),
            PacketType::PubRec => Self::PubRec(ack(read, AckKind::PubRec)?),
            PacketType::PubRel => Self::PubRel(ack(read, AckKind::PubRel)?),
            PacketType::PubComp => Self::PubComp(ack(read, AckKind::PubComp)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::decode(version, read)?),
            PacketType::SubAck => Self::SubAck(SubAck::decode(version, read)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::decode(version, read)?),
            PacketType::UnsubAck => Self::UnsubAck(UnsubAck::decode(version, read)?),
            PacketType::PingReq => Self::PingReq,
            PacketType::PingResp => Self::PingResp,
            PacketType::Disconnect => Self::Disconnect(Disconnect::decode(version, receiver, read)?),
            PacketType::Auth => Self::Auth(Auth::decode(receiver, read)?),
        };
        reader.finish()?;
        Ok(packet)
    }

    /// The type of the packet.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Writes the packet. What `version` does not know (properties, Reason Codes on acknowledgements) is left out; a CONNECT
    /// is written in its own version. An AUTH before MQTT 5, and a packet over 268,435,460 bytes, is not written at all.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        match self {
            Self::Connect(connect) => connect.encode(out),
            Self::ConnAck(connack) => connack.encode(version, out),
            Self::Publish(publish) => publish.encode(version, out),
            Self::PubAck(ack) => ack.encode(AckKind::PubAck, version, out),
            Self::PubRec(ack) => ack.encode(AckKind::PubRec, version, out),
            Self::PubRel(ack) => ack.encode(AckKind::PubRel, version, out),
            Self::PubComp(ack) => ack.encode(AckKind::PubComp, version, out),
            Self::Subscribe(subscribe) => subscribe.encode(version, out),
            Self::SubAck(suback) => suback.encode(version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Self::UnsubAck(unsuback) => unsuback.encode(version, out),
            Self::PingReq | Self::PingResp => out.put_slice(&[self.packet_type().first_byte(), 0]),
            Self::Disconnect(disconnect) => disconnect.encode(version, out),
            Self::Auth(auth) => auth.encode(version, out),
        }
    }

    /// Bytes that [`Packet::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        match self {
            Self::Connect(connect) => connect.encoded_len(),
            Self::ConnAck(connack) => connack.encoded_len(version),
            Self::Publish(publish) => publish.encoded_len(version),
            Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) => {
                ack.encoded_len(version)
            }
            Self::Subscribe(subscribe) => subscribe.encoded_len(version),
            Self::SubAck(suback) => suback.encoded_len(version),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encoded_len(version),
            Self::UnsubAck(unsuback) => unsuback.encoded_len(version),
            Self::PingReq | Self::PingResp => 2,
            Self::Disconnect(disconnect) => disconnect.encoded_len(version),
            Self::Auth(auth) => auth.encoded_len(version),
        }
    }
}

/// What framing let pass because it did not know the version.
#[inline]
pub(crate) fn check_frame(version: ProtocolVersion, frame: Frame<'_>) -> Result<(), DecodeError> {
    // v5 [MQTT-1.5.5-1]
    if !frame.minimal_length && version.is_v5() {
        return Err(DecodeError::VariableByteIntegerNotMinimal);
    }
    let packet = frame.packet_type();
    if packet == PacketType::Publish || version == ProtocolVersion::V31 {
        return Ok(());
    }
    // v5 [MQTT-2.1.3-1]; 3.1 had flags that are unused, and DUP on a repeated PUBREL or SUBSCRIBE.
    if frame.first_byte() != packet.first_byte() {
        return Err(DecodeError::FixedHeaderFlags { packet });
    }
    Ok(())
}

fn check_direction(
    version: ProtocolVersion,
    receiver: Receiver,
    packet: PacketType,
) -> Result<(), DecodeError> {
    let only_to = match packet {
        PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PingReq => {
            Some(Receiver::Server)
        }
        PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
            Some(Receiver::Client)
        }
        // Before MQTT 5 a server only closes.
        PacketType::Disconnect if !version.is_v5() => Some(Receiver::Server),
        PacketType::Auth if !version.is_v5() => return Err(DecodeError::ReservedPacketType),
        _ => None,
    };
    match only_to {
        Some(end) if end != receiver => Err(DecodeError::WrongDirection { packet }),
        _ => Ok(()),
    }
}

/// Writes a fixed header with the required flags and, if the packet is not too long, the rest.
fn put_packet<B: BufMut>(packet: PacketType, remaining: usize, out: &mut B, body: impl FnOnce(&mut B)) {
    if put_fixed_header(packet.first_byte(), remaining, out) {
        body(out);
    }
}

/// Bytes of a whole packet; 0 when it is too long to be written.
const fn whole_len(remaining: usize) -> usize {
    if remaining > crate::varint::MAX as usize { 0 } else { packet_len(remaining) }
}
