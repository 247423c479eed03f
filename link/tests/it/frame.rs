//! Any valid frame, for property tests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use link::wire::{Ending, Frame, Hello, OpenBody, RefuseReason, StreamId, Versions};
use link::{AuthenticationOutcome, CloseCause, ConnectionId, Flow, FlowState, Peer, Resume, TopicAlias};
use mqtt::{OwnedFrame, PacketId, ReasonCode, varint};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// A Control Packet: a first byte that is allowed, and a body that nothing looks at.
pub(crate) fn packet(first_byte: u8, body: &[u8]) -> OwnedFrame {
    let mut packet = vec![first_byte];
    let (length, used) = varint::encode(u32::try_from(body.len()).unwrap());
    packet.extend_from_slice(&length[..used]);
    packet.extend_from_slice(body);
    OwnedFrame::from_bytes(packet.into(), u32::MAX).unwrap().unwrap()
}

fn any_packet() -> impl Strategy<Value = OwnedFrame> {
    let first_byte = select(vec![0x10_u8, 0x20, 0x30, 0x32, 0x34, 0x40, 0x62, 0x82, 0xE0]);
    (first_byte, vec(any::<u8>(), 0..300)).prop_map(|(first_byte, body)| packet(first_byte, &body))
}

fn packet_or_none() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(Bytes::new()), any_packet().prop_map(|packet| packet.raw)]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    ".{0,20}".prop_map(Arc::from)
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1_u16..).prop_map(|id| PacketId::new(id).unwrap())
}

fn hello() -> impl Strategy<Value = Frame> {
    (any::<(u16, u16, u64, u32, u32, [u8; 32])>(), text(), 1_u32..).prop_map(
        |((a, b, features, size, grace, passport_key), id, window_bytes)| {
            Frame::Hello(Hello {
                versions: Versions { oldest: a.min(b), newest: a.max(b) },
                features,
                id,
                window_bytes,
                packet_bytes_max: size,
                handoff_grace_ms: grace,
                passport_key,
            })
        },
    )
}

fn peer() -> impl Strategy<Value = Peer> {
    (any::<(IpAddr, u16)>(), text(), option::of(text())).prop_map(
        |((ip, port), listener, certificate_subject)| Peer {
            address: SocketAddr::new(ip, port),
            listener,
            certificate_subject,
        },
    )
}

fn resume() -> impl Strategy<Value = Resume> {
    let flow = (packet_id(), select(FlowState::ALL.to_vec()))
        .prop_map(|(packet_id, state)| Flow { packet_id, state });
    let alias = (1_u16.., text()).prop_map(|(alias, topic)| TopicAlias { alias, topic });
    (
        any_packet().prop_map(|packet| packet.raw),
        any::<u32>(),
        vec(flow, 0..20),
        vec(packet_id(), 0..20),
        vec(alias, 0..5),
        bytes(),
    )
        .prop_map(|(connack, backlog, flows, inbound_qos2, topic_aliases, retained_due)| Resume {
            connack,
            backlog,
            flows,
            inbound_qos2,
            topic_aliases,
            retained_due,
        })
}

pub(crate) fn open() -> impl Strategy<Value = OpenBody> {
    let authentication =
        (text(), option::of(bytes())).prop_map(|(method, data)| AuthenticationOutcome { method, data });
    (
        (any::<u128>(), any::<u32>(), peer(), bytes()),
        (
            any_packet().prop_map(|packet| packet.raw),
            option::of(text()),
            any::<Option<u16>>(),
            option::of(authentication),
            option::of(resume()),
        ),
    )
        .prop_map(|((id, attempt, peer, passport), rest)| {
            let (connect, assigned_client_id, server_keep_alive_s, authentication, resume) = rest;
            OpenBody {
                connection_id: ConnectionId(id),
                attempt,
                peer,
                passport,
                connect,
                assigned_client_id,
                server_keep_alive_s,
                authentication,
                resume: resume.map(Box::new),
            }
        })
}

fn ending() -> impl Strategy<Value = (u64, Ending)> {
    let reason =
        select(vec![ReasonCode::Success, ReasonCode::SessionTakenOver, ReasonCode::ServerShuttingDown]);
    let worker = (reason, packet_or_none()).prop_map(|(reason, packet)| Ending::Worker { reason, packet });
    let device = select(vec![CloseCause::Abnormal, CloseCause::Shutdown]).prop_map(Ending::Device);
    prop_oneof![Just((0, Ending::Moved)), (1_u64.., prop_oneof![worker, device])]
}

fn durable() -> impl Strategy<Value = Frame> {
    (0_u64..1 << 40, vec(1_u64..1 << 20, 0..20)).prop_map(|(through, steps)| {
        let beyond = steps.iter().scan(through, |last, step| {
            *last += step;
            Some(*last)
        });
        Frame::Durable { through, beyond: beyond.collect() }
    })
}

/// A frame and the stream it is on.
pub(crate) fn any_frame() -> impl Strategy<Value = (StreamId, Frame)> {
    let frame = prop_oneof![
        hello(),
        open().prop_map(|open| Frame::Open(Box::new(open))),
        packet_or_none().prop_map(|connack| Frame::Opened { connack }),
        (select(RefuseReason::ALL.to_vec()), packet_or_none())
            .prop_map(|(reason, packet)| Frame::Refused { reason, packet }),
        (1_u64.., any_packet()).prop_map(|(number, packet)| Frame::Packet { number, packet }),
        durable(),
        ending().prop_map(|(number, ending)| Frame::Close { number, ending }),
        bytes().prop_map(|token| Frame::Passport { token }),
        (1_u32..).prop_map(|credit_bytes| Frame::Window { credit_bytes }),
        any::<u32>().prop_map(|within_ms| Frame::Drain { within_ms }),
        any::<u64>().prop_map(|token| Frame::Ping { token }),
        any::<u64>().prop_map(|token| Frame::Pong { token }),
        Just(Frame::Yield),
        any::<bool>().prop_map(|is_away| Frame::Store { is_away }),
        (any::<bool>(), bytes()).prop_map(|(is_more, due)| Frame::Retained { is_more, due }),
    ];
    (1_u32.., frame).prop_map(|(stream, frame)| {
        let stream = if frame.kind().is_for_link() { StreamId::LINK } else { StreamId(stream) };
        (stream, frame)
    })
}
