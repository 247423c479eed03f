//! One packet under the three versions and in both directions: no panic, and what decodes encodes to something that decodes
//! to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt::{Connect, Frame, Packet, ProtocolVersion, PublishHead, Receiver, frame, topic};

/// Bytes of the largest packet that is tried.
const PACKET_SIZE_MAX: u32 = 1024 * 1024;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(frame)) = frame::split(data, PACKET_SIZE_MAX) else { return };
    if let Ok(connect) = Connect::decode(frame) {
        assert_eq!(Connect::version_of(frame), Ok(connect.version));
        let mut encoded = Vec::new();
        connect.encode(&mut encoded);
        assert_eq!(Connect::decode(whole(&encoded)), Ok(connect));
    }
    for version in ProtocolVersion::ALL {
        for receiver in [Receiver::Server, Receiver::Client] {
            match Packet::decode(version, receiver, frame) {
                Ok(packet) => check(version, receiver, frame, packet),
                Err(error) => assert!(error.reason_code().is_error()),
            }
        }
    }
});

fn whole(bytes: &[u8]) -> Frame<'_> {
    let frame = frame::split(bytes, u32::MAX).expect("framed").expect("whole");
    assert_eq!(frame.raw.len(), bytes.len());
    frame
}

fn check(version: ProtocolVersion, receiver: Receiver, frame: Frame<'_>, packet: Packet<'_>) {
    let mut encoded = Vec::new();
    packet.encode(version, &mut encoded);
    assert_eq!(encoded.len(), packet.encoded_len(version));
    assert!(encoded.len() <= frame.raw.len());
    assert_eq!(Packet::decode(version, receiver, whole(&encoded)), Ok(packet));
    match packet {
        Packet::Publish(publish) => forward(version, &publish),
        Packet::Subscribe(subscribe) => subscribe.iter().for_each(|(filter, _)| {
            topic::validate_filter(filter).expect("a decoded filter is valid");
        }),
        _ => {}
    }
}

/// What a server sends on must be a valid PUBLISH to a client, whatever came in.
fn forward(version: ProtocolVersion, publish: &mqtt::Publish<'_>) {
    let summary = publish.properties.publish_summary();
    let head = PublishHead {
        dup: false,
        qos: publish.qos,
        retain: publish.retain,
        topic: if publish.topic.is_empty() { "known/by/alias" } else { publish.topic },
        packet_id: publish.packet_id,
        alias: None,
        message_expiry_remaining_s: summary.message_expiry_s,
        subscription_ids: &[1, 268_435_455],
        properties: &summary.forwardable,
        payload_len: publish.payload.len(),
    };
    let mut out = Vec::new();
    assert!(head.encode_into(version, &mut out));
    out.extend_from_slice(publish.payload);
    assert_eq!(out.len(), head.encoded_len(version));
    let sent = mqtt::Publish::decode(version, Receiver::Client, whole(&out)).expect("valid for a client");
    assert_eq!(sent.payload, publish.payload);
    if version.is_v5() {
        assert_eq!(sent.properties.publish_summary().forwardable, summary.forwardable);
    }
}
