//! Any bytes from the other end of a link: no panic, what decodes encodes to the same again, and both ends stay within
//! their bounds. The first byte of the input is the size of the chunks in which the ends get it.
#![no_main]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use link::mux::{EdgeEnd, EdgeEvent, Replay, Settings, WorkerEnd, WorkerEvent};
use link::wire::{Decoded, Frame, FrameLimits, Hello, OpenBody, RefuseReason, StreamId, Versions, decode};
use link::{ConnectionId, Peer};
use mqtt::OwnedFrame;

/// The smallest Control Packet: DISCONNECT.
const PACKET: Bytes = Bytes::from_static(&[0xE0, 0]);

const NOW: Duration = Duration::ZERO;

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    frames(stream);
    let size = usize::from(size).max(1);
    at_edge(size, stream);
    at_worker(size, stream);
});

fn frames(stream: &[u8]) {
    let mut bytes = BytesMut::from(stream);
    while let Ok(Some(decoded)) = decode(&mut bytes, &FrameLimits::default()) {
        let Decoded::Frame(id, frame) = decoded else { continue };
        let mut encoded = BytesMut::new();
        frame.encode(id, &mut encoded);
        assert_eq!(decode(&mut encoded, &FrameLimits::default()), Ok(Some(Decoded::Frame(id, frame))));
        assert!(encoded.is_empty());
    }
}

fn settings() -> Settings {
    Settings { window_bytes: 64, kept_count_max: 4, ..Settings::new("end") }
}

/// HELLO of the other end, and what is sent behind it.
fn greeting() -> BytesMut {
    let hello = Hello {
        versions: Versions::OURS,
        features: 0,
        id: "peer".into(),
        window_bytes: 64,
        packet_bytes_max: 1024,
        handoff_grace_ms: 0,
        passport_key: [0; 32],
    };
    let mut bytes = BytesMut::new();
    Frame::Hello(hello).encode(StreamId::LINK, &mut bytes);
    bytes
}

fn open() -> Box<OpenBody> {
    Box::new(OpenBody {
        connection_id: ConnectionId(1),
        attempt: 1,
        peer: Peer { address: ([127, 0, 0, 1], 1).into(), listener: "".into(), certificate_subject: None },
        passport: Bytes::new(),
        connect: PACKET,
        assigned_client_id: None,
        server_keep_alive_s: None,
        authentication: None,
        resume: None,
    })
}

fn packet() -> OwnedFrame {
    OwnedFrame::from_bytes(PACKET, u32::MAX).unwrap().unwrap()
}

fn at_edge(size: usize, stream: &[u8]) {
    let mut end = EdgeEnd::new(settings(), NOW);
    let mut bytes = greeting();
    end.receive(NOW, &mut bytes).unwrap();
    let ids = [(); 2].map(|()| end.open(open(), Replay::default()).unwrap());
    for chunk in stream.chunks(size) {
        for id in ids {
            let _ = end.send(id, packet().into());
        }
        bytes.extend_from_slice(chunk);
        if end.receive(NOW, &mut bytes).is_err() {
            break;
        }
        while let Some(event) = end.poll_event() {
            if let EdgeEvent::Packet { stream, cost, .. } = event {
                end.give_back(stream, cost);
            }
        }
        let out = end.outgoing();
        out.advance(out.len());
    }
    assert!(end.abandon().iter().all(|stream| stream.replay.len() <= 4));
}

fn at_worker(size: usize, stream: &[u8]) {
    let mut end = WorkerEnd::new(settings(), NOW);
    let mut bytes = greeting();
    Frame::Open(open()).encode(StreamId(1), &mut bytes);
    end.receive(NOW, &mut bytes).unwrap();
    end.accept(StreamId(1), Some(packet())).unwrap();
    for chunk in stream.chunks(size) {
        bytes.extend_from_slice(chunk);
        if end.receive(NOW, &mut bytes).is_err() {
            break;
        }
        while let Some(event) = end.poll_event() {
            match event {
                WorkerEvent::Open { stream, .. } if stream.0 % 3 == 0 => {
                    end.refuse(stream, RefuseReason::Overloaded, None);
                }
                WorkerEvent::Open { stream, .. } => drop(end.accept(stream, None)),
                WorkerEvent::Packet { stream, number, cost, .. } => {
                    end.durable(stream, number);
                    end.give_back(stream, cost);
                    let _ = end.send(stream, &packet());
                }
                WorkerEvent::Close { stream, number, .. } => end.durable(stream, number),
                _ => {}
            }
        }
        let out = end.outgoing();
        out.advance(out.len());
    }
    end.abandon();
}
