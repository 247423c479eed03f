//! Prints nanoseconds per operation of the hot paths: framing and decoding a PUBLISH, and writing one per subscriber.
//! Run with `--release`; the best of several rounds is printed, because other load only ever adds.

use std::hint::black_box;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use mqtt::{
    FrameBuffer, Packet, PacketId, PropertiesBuf, Property, ProtocolVersion, Publish, PublishHead, QoS,
    Receiver, frame,
};

const ROUNDS: u32 = 20;
const OPERATIONS: u32 = 200_000;
const PACKET_SIZE_MAX: u32 = 1024 * 1024;
const TOPIC: &str = "plant/7/line/3/machine/42/temperature";

fn best_ns(mut operation: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        (0..OPERATIONS).for_each(|_| operation());
        start.elapsed().as_secs_f64() * 1e9 / f64::from(OPERATIONS)
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn publish(version: ProtocolVersion, qos: QoS, properties: &PropertiesBuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: TOPIC,
        packet_id: PacketId::new(7).filter(|_| qos != QoS::AtMostOnce),
        properties: properties.as_properties(),
        payload: &[b'x'; 256],
    };
    publish.encode(version, &mut bytes);
    bytes
}

fn decode_ns(version: ProtocolVersion, bytes: &[u8]) -> f64 {
    best_ns(|| {
        let framed = frame::split(black_box(bytes), PACKET_SIZE_MAX);
        if let Ok(Some(frame)) = framed {
            let _ = black_box(Packet::decode(version, Receiver::Server, frame));
        }
    })
}

fn buffer_ns(bytes: &[u8]) -> f64 {
    const PACKETS: usize = 200;
    let chunk = bytes.repeat(PACKETS);
    let mut buffer = FrameBuffer::new();
    let start = Instant::now();
    for _ in 0..OPERATIONS / 100 {
        let _ = buffer.push(black_box(&chunk), PACKET_SIZE_MAX, |frame| {
            let _ = black_box(Packet::decode(ProtocolVersion::V5, Receiver::Server, frame));
            ControlFlow::<()>::Continue(())
        });
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(OPERATIONS / 100) / PACKETS as f64
}

fn head_ns(version: ProtocolVersion, qos: QoS, payload_too: bool) -> f64 {
    let user = PropertiesBuf::new().with(Property::UserProperty("unit", "celsius"));
    let payload = [b'x'; 256];
    let mut out = Vec::with_capacity(1024);
    best_ns(|| {
        out.clear();
        let head = PublishHead {
            dup: false,
            qos,
            retain: false,
            topic: black_box(TOPIC),
            packet_id: PacketId::new(7),
            alias: None,
            message_expiry_remaining_s: None,
            subscription_ids: &[],
            properties: user.as_properties().as_bytes(),
            payload_len: payload.len(),
        };
        head.encode_into(version, &mut out);
        if payload_too {
            out.extend_from_slice(&payload);
        }
        black_box(&out);
    })
}

fn main() -> io::Result<()> {
    let none = PropertiesBuf::new();
    let some: PropertiesBuf =
        [Property::ContentType("application/json"), Property::UserProperty("unit", "celsius")]
            .into_iter()
            .collect();
    let rows = [
        (
            "decode 3.1.1 QoS 0",
            decode_ns(ProtocolVersion::V311, &publish(ProtocolVersion::V311, QoS::AtMostOnce, &none)),
        ),
        (
            "decode 3.1.1 QoS 1",
            decode_ns(ProtocolVersion::V311, &publish(ProtocolVersion::V311, QoS::AtLeastOnce, &none)),
        ),
        (
            "decode 5 QoS 1",
            decode_ns(ProtocolVersion::V5, &publish(ProtocolVersion::V5, QoS::AtLeastOnce, &none)),
        ),
        (
            "decode 5 QoS 1, 2 properties",
            decode_ns(ProtocolVersion::V5, &publish(ProtocolVersion::V5, QoS::AtLeastOnce, &some)),
        ),
        ("decode 5 QoS 1, 200 a chunk", buffer_ns(&publish(ProtocolVersion::V5, QoS::AtLeastOnce, &none))),
        ("fan-out head 3.1.1 QoS 0", head_ns(ProtocolVersion::V311, QoS::AtMostOnce, false)),
        ("fan-out head 5 QoS 1", head_ns(ProtocolVersion::V5, QoS::AtLeastOnce, false)),
        ("fan-out head and payload 5 QoS 1", head_ns(ProtocolVersion::V5, QoS::AtLeastOnce, true)),
    ];
    let mut out = io::stdout().lock();
    for (name, ns) in rows {
        writeln!(out, "{name:<36}{ns:>8.1} ns")?;
    }
    Ok(())
}
