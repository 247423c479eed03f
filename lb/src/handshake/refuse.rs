//! Refusals: the right CONNACK for a CONNECT that cannot be served, and a close that lets the client read it.

use bytes::Bytes;
use mqtt::{DecodeError, ProtocolVersion, ReasonCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, timeout};

use super::peek;
use crate::reply;

/// Bytes of a refused client that are read and dropped, so that closing does not reset the connection.
const DISCARD_BYTES: usize = 512;

/// How a faulty CONNECT is answered; `None` by a plain close. `level` is the one that the packet names.
pub(crate) fn answer_to_fault(
    error: DecodeError,
    level: Option<u8>,
) -> Option<(ProtocolVersion, ReasonCode)> {
    let reason = error.reason_code();
    if matches!(error, DecodeError::UnsupportedProtocolLevel { .. }) {
        // v5 [MQTT-3.1.2-2], v3.1.1 [MQTT-3.1.2-2]. Later versions are expected to read what MQTT 5 reads; the upper bit is
        // Mosquitto's mark for bridges, which try again without it when they are refused.
        let version = match level? & 0x7F {
            0..=4 => ProtocolVersion::V311,
            5.. => ProtocolVersion::V5,
        };
        return Some((version, reason));
    }
    match level.and_then(ProtocolVersion::from_level) {
        Some(ProtocolVersion::V5) => Some((ProtocolVersion::V5, reason)),
        // v3.1.1 [MQTT-3.1.4-1]: closed without CONNACK.
        _ => None,
    }
}

/// The level that a faulty CONNECT names.
pub(crate) fn level_of(connect: &[u8]) -> Option<u8> {
    peek::level(connect)
}

/// Sends CONNACK and closes, or just closes, all within `linger`.
pub(crate) async fn refuse<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
    answer: Option<(ProtocolVersion, ReasonCode)>,
    linger: Duration,
) {
    tell(io, answer.map(|(version, reason)| reply::refusal(version, reason)), linger).await;
}

/// The same with the packet as it is sent.
pub(crate) async fn tell<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
    answer: Option<Bytes>,
    linger: Duration,
) {
    let farewell = async {
        if let Some(packet) = &answer {
            io.write_all(packet).await?;
            io.flush().await?;
        }
        io.shutdown().await?;
        let mut discarded = [0; DISCARD_BYTES];
        while answer.is_some() && io.read(&mut discarded).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    // The connection ends either way.
    let _ = timeout(linger, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolVersion::{V5, V311};
    use ReasonCode::{MalformedPacket, PacketTooLarge, UnsupportedProtocolVersion};

    #[test]
    fn a_fault_is_answered_in_the_version_that_it_names() {
        let unsupported = |level| DecodeError::UnsupportedProtocolLevel { level };
        for (error, level, answer) in [
            (unsupported(6), Some(6), Some((V5, UnsupportedProtocolVersion))),
            (unsupported(2), Some(2), Some((V311, UnsupportedProtocolVersion))),
            (unsupported(0x84), Some(0x84), Some((V311, UnsupportedProtocolVersion))),
            (DecodeError::UnsupportedProtocolName, None, None),
            (DecodeError::TrailingBytes, Some(5), Some((V5, MalformedPacket))),
            (DecodeError::TrailingBytes, Some(4), None),
            (DecodeError::TrailingBytes, Some(3), None),
            (DecodeError::TrailingBytes, None, None),
            (DecodeError::PacketTooLarge { size: 2, max: 1 }, Some(5), Some((V5, PacketTooLarge))),
        ] {
            assert_eq!(answer_to_fault(error, level), answer, "{error} {level:?}");
        }
    }
}
