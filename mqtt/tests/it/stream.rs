//! Framing of streams: the same packets come out however the bytes arrive, and nothing is held that is not needed.

use std::ops::ControlFlow;

use bytes::BytesMut;
use mqtt::{DecodeError, FrameBuffer, PacketType, ProtocolVersion, frame};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::vector::{self, Expected};

const PACKET_SIZE_MAX: u32 = 1024 * 1024;

/// All valid packets of the case tables, one after the other; in their midst a longer one.
fn valid_stream() -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut packets: Vec<_> = vector::all()
        .iter()
        .filter(|row| matches!(row.expected, Expected::Valid))
        .map(|row| row.bytes.clone())
        .collect();
    packets.insert(packets.len() / 2, publish_of(700));
    (packets.concat(), packets)
}

fn publish_of(payload_len: usize) -> Vec<u8> {
    let mut packet = vec![0x30];
    mqtt::varint::put(u32::try_from(payload_len + 3).unwrap(), &mut packet);
    packet.extend(b"\0\x01t");
    packet.extend((0..payload_len).map(|at| at as u8));
    packet
}

fn push_all(buffer: &mut FrameBuffer, chunk: &[u8]) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut seen = Vec::new();
    let _ = buffer.push(chunk, PACKET_SIZE_MAX, |frame| {
        seen.push(frame.raw.to_vec());
        ControlFlow::<()>::Continue(())
    })?;
    Ok(seen)
}

#[test]
fn a_stream_cut_anywhere_gives_the_same_packets() {
    let (stream, packets) = valid_stream();
    for cut in 0..=stream.len() {
        let mut buffer = FrameBuffer::new();
        let mut seen = push_all(&mut buffer, &stream[..cut]).unwrap();
        seen.extend(push_all(&mut buffer, &stream[cut..]).unwrap());
        assert!(seen == packets, "cut at {cut}");
        assert_eq!((buffer.buffered(), buffer.allocated()), (0, 0), "cut at {cut}");
    }
}

#[test]
fn a_stream_that_comes_byte_by_byte_gives_the_same_packets() {
    let (stream, packets) = valid_stream();
    let mut buffer = FrameBuffer::new();
    let seen: Vec<_> = stream.chunks(1).flat_map(|byte| push_all(&mut buffer, byte).unwrap()).collect();
    assert!(seen == packets);
    assert_eq!(buffer.allocated(), 0);
}

proptest! {
    #[test]
    fn a_stream_in_any_pieces_gives_the_same_packets(cuts in vec(1..200usize, 1..60)) {
        let (stream, packets) = valid_stream();
        let mut buffer = FrameBuffer::new();
        let mut seen = Vec::new();
        let mut rest = stream.as_slice();
        for &cut in cuts.iter().cycle() {
            let (chunk, after) = rest.split_at(cut.min(rest.len()));
            seen.extend(push_all(&mut buffer, chunk)?);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(seen == packets);
    }

    #[test]
    fn a_pause_after_any_packet_loses_nothing(pauses in vec(any::<bool>(), 1..20), size in 1..400usize) {
        let (stream, packets) = valid_stream();
        let mut buffer = FrameBuffer::new();
        let mut seen = Vec::new();
        let mut pauses = pauses.iter().copied().chain([true]).cycle();
        for chunk in stream.chunks(size) {
            let mut input = chunk;
            while buffer.push(input, PACKET_SIZE_MAX, |frame| {
                seen.push(frame.raw.to_vec());
                if pauses.next().unwrap() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?.is_break() {
                input = &[];
            }
        }
        prop_assert!(seen == packets);
        prop_assert_eq!(buffer.allocated(), 0);
    }
}

#[test]
fn packets_longer_than_any_chunk_come_whole() {
    let packets = [publish_of(200_000), publish_of(3), publish_of(70_000), publish_of(0)];
    let stream = packets.concat();
    for size in [1_000, 16_384, 65_536, 150_000] {
        let mut buffer = FrameBuffer::new();
        let mut arrived = 0;
        let mut seen = Vec::new();
        for chunk in stream.chunks(size) {
            arrived += chunk.len();
            seen.extend(push_all(&mut buffer, chunk).unwrap());
            assert!(buffer.allocated() <= arrived + frame::RESERVE_BYTES_MAX);
        }
        assert!(seen == packets, "chunks of {size}");
        assert_eq!(buffer.allocated(), 0);
    }
}

#[test]
fn a_whole_packet_is_lent_from_the_chunk() {
    let chunk = vector::bytes("30 V( s'a' 'x' ) C0 00 30 V( s'b' )");
    let mut buffer = FrameBuffer::new();
    let mut frames = buffer.frames(&chunk, PACKET_SIZE_MAX);
    let mut at = chunk.as_ptr();
    while let Some(frame) = frames.next_frame().unwrap() {
        assert_eq!(frame.raw.as_ptr(), at);
        at = frame.raw.as_ptr_range().end;
    }
    assert_eq!(at, chunk.as_ptr_range().end);
}

#[test]
fn only_the_cut_off_tail_is_held_and_only_until_it_is_whole() {
    let chunk = vector::bytes("C0 00 30 V( s'topic' 'payload' ) C0 00");
    let mut buffer = FrameBuffer::new();
    assert_eq!(push_all(&mut buffer, &chunk[..8]).unwrap().len(), 1);
    assert_eq!(buffer.buffered(), 6);
    assert_eq!(push_all(&mut buffer, &chunk[8..]).unwrap().len(), 2);
    assert_eq!((buffer.buffered(), buffer.allocated()), (0, 0));
}

#[test]
fn a_claimed_length_reserves_no_memory_to_speak_of() {
    let mut buffer = FrameBuffer::new();
    // 100 MB are claimed, seven bytes arrive.
    let claim = vector::bytes("30 80C2D72F 0001 'a'");
    assert!(push_all_within(&mut buffer, &claim, frame::PACKET_SIZE_MAX));
    assert!(push_all_within(&mut buffer, b"b", frame::PACKET_SIZE_MAX));
    assert!(buffer.allocated() <= 1024, "{}", buffer.allocated());
    let mut arrived = claim.len() + 1;
    for _ in 0..40 {
        assert!(push_all_within(&mut buffer, &[b'x'; 10_000], frame::PACKET_SIZE_MAX));
        arrived += 10_000;
        assert_eq!(buffer.buffered(), arrived);
        assert!(buffer.allocated() <= arrived + frame::RESERVE_BYTES_MAX);
    }
}

fn push_all_within(buffer: &mut FrameBuffer, chunk: &[u8], packet_size_max: u32) -> bool {
    buffer.push(chunk, packet_size_max, |_| ControlFlow::<()>::Continue(())).is_ok()
}

#[test]
fn an_oversize_packet_is_refused_before_its_body_comes() {
    let mut buffer = FrameBuffer::new();
    let refused =
        |buffer: &mut FrameBuffer, chunk: &[u8]| buffer.push(chunk, 100, |_| ControlFlow::<()>::Continue(()));
    assert!(refused(&mut buffer, &[0x30]).is_ok());
    let error = DecodeError::PacketTooLarge { size: 101, max: 100 };
    assert_eq!(refused(&mut buffer, &[99]), Err(error));
    assert_eq!(buffer.allocated(), 0);
    assert!(refused(&mut buffer, &[0x30, 98]).is_ok());
}

#[test]
fn packets_before_a_fault_are_handed_out() {
    let mut buffer = FrameBuffer::new();
    let mut seen = 0;
    let outcome = buffer.push(&[0xC0, 0, 0xC0, 0, 0x00, 0, 0xC0, 0], 100, |_| {
        seen += 1;
        ControlFlow::<()>::Continue(())
    });
    assert_eq!((outcome, seen), (Err(DecodeError::ReservedPacketType), 2));
    assert_eq!(buffer.buffered(), 0);
}

#[test]
fn after_a_fault_the_frames_end() {
    let mut buffer = FrameBuffer::new();
    let mut frames = buffer.frames(&[0x00, 0, 0xC0, 0], 100);
    assert_eq!(frames.next_frame(), Err(DecodeError::ReservedPacketType));
    assert_eq!(frames.next_frame(), Ok(None));
}

#[test]
fn shared_bytes_are_split_without_a_copy() {
    let (stream, packets) = valid_stream();
    let mut buf = BytesMut::new();
    let mut seen = Vec::new();
    for chunk in stream.chunks(1000) {
        buf.extend_from_slice(chunk);
        loop {
            let front = buf.as_ptr();
            let Some(owned) = frame::split_bytes(&mut buf, PACKET_SIZE_MAX).unwrap() else { break };
            assert_eq!(owned.raw.as_ptr(), front);
            assert_eq!(Ok(Some(owned.as_frame())), frame::split(&owned.raw, PACKET_SIZE_MAX));
            assert_eq!(owned.body(), owned.as_frame().body());
            assert_eq!(owned.packet_type(), owned.as_frame().packet_type());
            seen.push(owned.raw.to_vec());
        }
    }
    assert!(seen == packets);
}

#[test]
fn shared_bytes_with_a_fault_are_left_alone() {
    let mut buf = BytesMut::from(&[0x80, 0][..]);
    let packet = PacketType::Subscribe;
    assert_eq!(frame::split_bytes(&mut buf, 100), Err(DecodeError::FixedHeaderFlags { packet }));
    assert_eq!(&buf[..], [0x80, 0]);
}

#[test]
fn flags_of_a_known_version_are_seen_before_the_length_has_come() {
    // v5 [MQTT-2.1.3-1]
    for (first, packet) in [(0xC4, PacketType::PingReq), (0x83, PacketType::Subscribe)] {
        for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
            let mut buffer = FrameBuffer::new();
            let mut frames = buffer.frames(std::slice::from_ref(&first), 100).of_version(version);
            assert_eq!(frames.next_frame(), Err(DecodeError::FixedHeaderFlags { packet }), "{version:?}");
        }
        let mut buffer = FrameBuffer::new();
        let mut frames = buffer.frames(std::slice::from_ref(&first), 100).of_version(ProtocolVersion::V31);
        assert_eq!(frames.next_frame(), Ok(None));
    }
}
