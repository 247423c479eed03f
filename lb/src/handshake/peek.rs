//! The first packet of a connection, which must be CONNECT, in however many pieces it comes. Bytes that follow it are kept:
//! clients may send on before CONNACK.

use std::io;

use bytes::BytesMut;
use mqtt::{DecodeError, OwnedFrame, PacketType};
use tokio::io::AsyncRead;
use tokio::time::{Duration, timeout};

use super::room::{FIRST_READ_BYTES, NoMore, RoomTaken};
use crate::shared::Shared;

/// How long a CONNECT that is known to be wrong may take to say its level, so that it can be answered. The rest is mostly
/// there: a packet in pieces is rare, and its refusal is not to wait for a deadline.
const LEVEL_WITHIN: Duration = Duration::from_millis(500);

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
    /// Incomplete packets of all handshakes take as much as they may, and this one most.
    #[error("no room for an incomplete CONNECT")]
    NoRoom,
}

impl From<NoMore> for PeekError {
    fn from(reason: NoMore) -> Self {
        match reason {
            NoMore::Lost(error) => Self::Lost(error),
            NoMore::NoRoom => Self::NoRoom,
        }
    }
}

/// Reads until CONNECT is complete; the deadline is the caller's. Not cancel safe.
pub(crate) async fn connect<T: AsyncRead + Unpin>(io: &mut T, shared: &Shared) -> Result<Peeked, PeekError> {
    let bytes_max = shared.config.connect_bytes_max;
    let mut buffer = BytesMut::with_capacity(FIRST_READ_BYTES);
    let mut room = RoomTaken::none(shared);
    loop {
        room.read(io, &mut buffer).await?;
        if buffer.first().is_some_and(|&first| first >> 4 != PacketType::Connect as u8) {
            return Err(PeekError::NotConnect);
        }
        match mqtt::frame::split_bytes(&mut buffer, bytes_max) {
            Ok(Some(connect)) => return Ok(Peeked { connect, pipelined: buffer }),
            Ok(None) => {}
            Err(error) => {
                let level = timeout(LEVEL_WITHIN, await_level(io, &mut buffer, &mut room))
                    .await
                    .unwrap_or(Ok(None))?;
                return Err(PeekError::Malformed(error, level));
            }
        }
    }
}

/// Reads the few bytes more of a faulty CONNECT that tell its version, and with it how to answer.
async fn await_level<T: AsyncRead + Unpin>(
    io: &mut T,
    buffer: &mut BytesMut,
    room: &mut RoomTaken<'_>,
) -> Result<Option<u8>, PeekError> {
    loop {
        match look_for_level(buffer) {
            Level::Told(level) => return Ok(Some(level)),
            Level::Unknown => return Ok(None),
            Level::NotYet => room.read(io, buffer).await?,
        }
    }
}

/// What the first bytes of a CONNECT say about its version.
enum Level {
    Told(u8),
    /// Nothing, whatever follows.
    Unknown,
    NotYet,
}

/// The level byte of a CONNECT that may be incomplete or wrong elsewhere.
fn look_for_level(connect: &[u8]) -> Level {
    let Some(length) = connect.get(1..) else { return Level::NotYet };
    let Some(last) = length.iter().take(4).position(|byte| byte & 0x80 == 0) else {
        return if length.len() < 4 { Level::NotYet } else { Level::Unknown };
    };
    let body = &length[last + 1..];
    for name in [&b"\0\x04MQTT"[..], b"\0\x06MQIsdp"] {
        match body.strip_prefix(name) {
            Some(rest) => return rest.first().map_or(Level::NotYet, |&level| Level::Told(level)),
            None if name.starts_with(body) => return Level::NotYet,
            None => {}
        }
    }
    Level::Unknown
}

/// The level byte of a CONNECT; `None` if it says none.
pub(crate) fn level(connect: &[u8]) -> Option<u8> {
    match look_for_level(connect) {
        Level::Told(level) => Some(level),
        Level::Unknown | Level::NotYet => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;
    use crate::config::EdgeConfig;
    use crate::fake;

    const CONNECT: &[u8] = b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01a";

    fn shared(receive_buffer_bytes_max: usize) -> std::sync::Arc<Shared> {
        let config =
            EdgeConfig { connect_bytes_max: 4_096, receive_buffer_bytes_max, ..EdgeConfig::default() };
        fake::admitted(config).door().shared.clone()
    }

    /// The error of a device that sends `bytes` and then waits, and when it is known.
    async fn refusal(bytes: &[u8]) -> (PeekError, Duration) {
        let (mut device, mut edge) = tokio::io::duplex(8_192);
        device.write_all(bytes).await.expect("written");
        let since = Instant::now();
        let error = connect(&mut edge, &shared(1 << 20)).await.err().expect("refused");
        (error, since.elapsed())
    }

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
            let peeked = connect(&mut edge, &shared(1 << 20)).await.expect("a CONNECT");
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
            let (error, _) = refusal(&[first]).await;
            assert!(matches!(error, PeekError::NotConnect), "{first:#x} {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_oversize_connect_is_refused_as_soon_as_its_version_is_known() {
        for (bytes, expected) in [
            (&b"\x10\xFF\xFF\x03\0\x04MQTT\x05"[..], Some(5)),
            (b"\x10\xFF\xFF\x03\0\x06MQIsdp\x03", Some(3)),
            (b"\x10\xFF\xFF\x03\0\x04XXXX", None),
        ] {
            let (error, took) = refusal(bytes).await;
            assert_eq!(took, Duration::ZERO, "{bytes:x?}");
            match error {
                PeekError::Malformed(DecodeError::PacketTooLarge { .. }, found) => {
                    assert_eq!(found, expected);
                }
                other => panic!("{other}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_remaining_length_of_five_bytes_is_refused_at_its_fourth() {
        // v5 section 1.5.5: whatever follows, it says no version.
        for bytes in [&b"\x10\x80\x80\x80\x80\x01"[..], b"\x10\xFF\xFF\xFF\xFF"] {
            let (error, took) = refusal(bytes).await;
            let is_malformed =
                matches!(error, PeekError::Malformed(DecodeError::VariableByteIntegerTooLong, None));
            assert!(is_malformed, "{bytes:x?}: {error}");
            assert_eq!(took, Duration::ZERO, "{bytes:x?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_faulty_connect_that_does_not_say_its_version_is_not_waited_for() {
        for bytes in [&b"\x10\xFF\xFF\x03"[..], b"\x10\xFF\xFF\x03\0\x04MQ", b"\x10\xFF\xFF\x03\0\x06MQIsdp"]
        {
            let (error, took) = refusal(bytes).await;
            assert!(matches!(error, PeekError::Malformed(_, None)), "{bytes:x?}: {error}");
            assert_eq!(took.as_millis() / 100, LEVEL_WITHIN.as_millis() / 100, "{bytes:x?}");
        }
    }

    #[tokio::test]
    async fn incomplete_connects_have_a_bound_together() {
        let shared = shared(2_048);
        let head = [&b"\x10\x80\x1F\0\x04MQTT\x05"[..], &[0; 2_600]].concat();
        let (mut device, mut edge) = tokio::io::duplex(8_192);
        device.write_all(&head).await.expect("written");
        {
            let peeking = connect(&mut edge, &shared);
            tokio::pin!(peeking);
            assert!(timeout(Duration::from_millis(20), &mut peeking).await.is_err(), "there is room");
            assert!(shared.receive_buffered() > 1_500);
            device.write_all(&[0; 1_000]).await.expect("written");
            assert!(matches!(peeking.await, Err(PeekError::NoRoom)));
        }
        assert_eq!(shared.receive_buffered(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_the_largest_incomplete_connect_gives_its_room() {
        let shared = shared(2_048);
        let (mut large, mut large_edge) = tokio::io::duplex(8_192);
        let (mut small, mut small_edge) = tokio::io::duplex(8_192);
        large.write_all(&[&b"\x10\x80\x1F\0\x04MQTT\x05"[..], &[0; 2_900]].concat()).await.expect("written");
        // 1,300 bytes in two pieces, of which the first is larger than what every CONNECT has.
        small.write_all(&[&b"\x10\x91\x0A\0\x04MQTT\x05"[..], &[0; 1_200]].concat()).await.expect("written");
        let small_one = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let peeking = connect(&mut small_edge, &shared);
            let rest = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                small.write_all(&[0; 98]).await
            };
            tokio::join!(peeking, rest).0
        };
        let both = async { tokio::join!(connect(&mut large_edge, &shared), small_one) };
        let (large_one, small_one) = timeout(fake::PATIENCE, both).await.expect("neither waits");
        assert!(matches!(large_one, Err(PeekError::NoRoom)) && small_one.is_ok());
    }
}
