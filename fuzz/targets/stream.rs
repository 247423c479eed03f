//! A stream in chunks of any sizes, with pauses, through `FrameBuffer`: the same packets and the same fault as in one piece,
//! and memory within the bound. The first four bytes of the input are the chunk sizes, the top bit of each a pause.
#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use mqtt::{DecodeError, FrameBuffer, frame};

/// Bytes of the largest packet that is tried.
const PACKET_SIZE_MAX: u32 = 2048;

fuzz_target!(|data: &[u8]| {
    let Some((sizes, stream)) = data.split_first_chunk::<4>() else { return };
    assert_eq!(in_chunks(sizes, stream), at_once(stream));
});

type Outcome = (Vec<Vec<u8>>, Option<DecodeError>);

fn at_once(stream: &[u8]) -> Outcome {
    let mut packets = Vec::new();
    let mut rest = stream;
    loop {
        match frame::split(rest, PACKET_SIZE_MAX) {
            Ok(Some(frame)) => {
                packets.push(frame.raw.to_vec());
                rest = &rest[frame.raw.len()..];
            }
            Ok(None) => return (packets, None),
            Err(error) => return (packets, Some(error)),
        }
    }
}

fn in_chunks(sizes: &[u8; 4], stream: &[u8]) -> Outcome {
    let mut packets = Vec::new();
    let mut buffer = FrameBuffer::new();
    let mut rest = stream;
    let mut arrived = 0;
    for size in sizes.iter().cycle() {
        let (chunk, after) = rest.split_at(rest.len().min(usize::from(size & 0x7F) + 1));
        rest = after;
        arrived += chunk.len();
        let mut input = chunk;
        loop {
            let outcome = buffer.push(input, PACKET_SIZE_MAX, |frame| {
                packets.push(frame.raw.to_vec());
                if size & 0x80 == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            match outcome {
                Err(error) => {
                    assert_eq!(buffer.allocated(), 0);
                    return (packets, Some(error));
                }
                Ok(ControlFlow::Continue(())) => break,
                Ok(ControlFlow::Break(())) => input = &[],
            }
        }
        assert!(buffer.buffered() < PACKET_SIZE_MAX as usize);
        assert!(buffer.allocated() <= arrived + frame::RESERVE_BYTES_MAX);
        if rest.is_empty() {
            break;
        }
    }
    (packets, None)
}
