//! The first packet of a connection, which must be CONNECT, in however many pieces it comes. Bytes that follow it are kept:
//! clients may send on before CONNACK.

use std::io;

use bytes::BytesMut;
use mqtt::{DecodeError, OwnedFrame, PacketType};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Room for the first read: nearly every CONNECT.
const FIRST_READ_BYTES: usize = 1_024;

/// The level is among so many first bytes: fixed header, Protocol Name, level.
const LEVEL_BYTES_MAX: usize = 5 + 8 + 1;

/// A whole CONNECT packet, framed but not decoded.
pub(crate) struct Peeked {
    /// The packet.
    pub(crate) connect: OwnedFrame,
    /// What came after it.
    pub(crate) pipelined: BytesMut,
}

/// Why there is no CONNECT.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeekError {
    /// The connection failed or ended.
    #[error("connection lost before CONNECT was complete")]
    Lost(#[source] io::Error),
    /// The first packet is another one.
    // v5 [MQTT-3.1.0-1]
    #[error("the first packet is not CONNECT")]
    NotConnect,
    /// It cannot be framed; the protocol level is there if the bytes so far say it.
    #[error("CONNECT cannot be framed")]
    Malformed(#[source] DecodeError, Option<u8>),
}

/// Reads until CONNECT is complete; the deadline is the caller's. Not cancel safe.
pub(crate) async fn connect<T: AsyncRead + Unpin>(io: &mut T, bytes_max: u32) -> Result<Peeked, PeekError> {
    let mut buffer = BytesMut::with_capacity(FIRST_READ_BYTES);
    loop {
        let count = io.read_buf(&mut buffer).await.map_err(PeekError::Lost)?;
        if count == 0 {
            return Err(PeekError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        if buffer.first().is_some_and(|&first| first >> 4 != PacketType::Connect as u8) {
            return Err(PeekError::NotConnect);
        }
        match mqtt::frame::split_bytes(&mut buffer, bytes_max) {
            Ok(Some(connect)) => return Ok(Peeked { connect, pipelined: buffer }),
            Ok(None) => {}
            // A few bytes more tell the version, and with it how to answer.
            Err(_) if level(&buffer).is_none() && buffer.len() < LEVEL_BYTES_MAX => {}
            Err(error) => {
                return Err(PeekError::Malformed(error, level(&buffer)));
            }
        }
    }
}

/// The level byte of a CONNECT that may be incomplete or wrong elsewhere; `None` if the Protocol Name is unknown or not
/// there yet.
pub(crate) fn level(connect: &[u8]) -> Option<u8> {
    let length_bytes = connect.get(1..)?.iter().take(4).position(|byte| byte & 0x80 == 0)? + 1;
    let body = connect.get(1 + length_bytes..)?;
    let rest = body.strip_prefix(b"\0\x04MQTT").or_else(|| body.strip_prefix(b"\0\x06MQIsdp"))?;
    rest.first().copied()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const CONNECT: &[u8] = b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01a";

    #[tokio::test]
    async fn connect_may_come_in_any_two_pieces_and_what_follows_is_kept() {
        let stream = [CONNECT, b"\xC0\0"].concat();
        for cut in 1..stream.len() {
            let (mut device, mut edge) = tokio::io::duplex(64);
            let (first, second) = stream.split_at(cut);
            device.write_all(first).await.expect("first piece");
            let second = second.to_vec();
            let writer = tokio::spawn(async move {
                device.write_all(&second).await.expect("second piece");
                device
            });
            let peeked = connect(&mut edge, 256).await.expect("a CONNECT");
            assert_eq!(peeked.connect.raw, CONNECT, "cut at {cut}");
            drop(writer.await.expect("writer"));
            let mut rest = peeked.pipelined.to_vec();
            edge.read_to_end(&mut rest).await.expect("rest");
            assert_eq!(rest, b"\xC0\0", "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn another_first_packet_is_refused_at_its_first_byte() {
        for first in [0xC0, 0x30, 0x20, 0xE0, 0x00, 0xF0, b'G'] {
            let error = connect(&mut &[first][..], 256).await.err().expect("refused");
            assert!(matches!(error, PeekError::NotConnect), "{first:#x} {error}");
        }
    }

    #[tokio::test]
    async fn an_oversize_connect_is_refused_as_soon_as_its_version_is_known() {
        for (bytes, expected) in [
            (&b"\x10\xFF\xFF\x03\0\x04MQTT\x05"[..], Some(5)),
            (b"\x10\xFF\xFF\x03\0\x06MQIsdp\x03", Some(3)),
            (b"\x10\xFF\xFF\x03\0\x04XXXX\x05\x02\0\x3C\0\0", None),
        ] {
            let error = connect(&mut &bytes[..], 256).await.err().expect("refused");
            match error {
                PeekError::Malformed(DecodeError::PacketTooLarge { .. }, found) => {
                    assert_eq!(found, expected);
                }
                other => panic!("{other}"),
            }
        }
    }

    #[tokio::test]
    async fn a_wrong_fixed_header_is_malformed() {
        for (bytes, expected) in [
            (&b"\x11\x0D\0\x04MQTT\x05"[..], Some(5)),
            (b"\x10\xFF\xFF\xFF\xFF\x01\0\x04MQTT\x05\0", None),
            // TLS on the wrong port.
            (b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03\0\0\0", None),
        ] {
            match connect(&mut &bytes[..], 256).await.err().expect("refused") {
                PeekError::Malformed(_, found) => assert_eq!(found, expected, "{bytes:x?}"),
                other => panic!("{other}"),
            }
        }
    }
}
