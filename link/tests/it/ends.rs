//! Two ends without a network between them: what one of them does to the other, case by case.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use link::mux::{
    DEAD_AFTER, DevicePacket, EdgeEnd, EdgeEvent, LinkError, NotSent, OUTGOING_BYTES_MAX, Replay, SendError,
    Settings, WorkerEnd, WorkerEvent,
};
use link::wire::{
    Decoded, Ending, FEATURE_RETAINED, FEATURES, Frame, FrameLimits, Hello, Kind, OPTIONAL, OpenBody,
    RETAINED_BYTES_MAX, RefuseReason, StreamId, Versions, decode,
};
use link::{CloseCause, Resume};
use mqtt::{OwnedFrame, ReasonCode};
use testkit::connection::open_body;

use crate::frame::packet;

pub(crate) const NOW: Duration = Duration::from_secs(1);

fn settings(window_bytes: u32) -> Settings {
    Settings { window_bytes, ..Settings::new("end") }
}

fn open() -> Box<OpenBody> {
    Box::new(open_body(7, Bytes::from_static(b"token"), packet(0x10, b"connect").raw))
}

pub(crate) fn resume() -> Box<OpenBody> {
    let connack = packet(0x20, &[0, 0]).raw;
    let resume = Resume {
        connack,
        backlog: 0,
        flows: vec![],
        inbound_qos2: vec![],
        topic_aliases: vec![],
        retained_due: Bytes::new(),
    };
    Box::new(OpenBody { resume: Some(Box::new(resume)), ..*open() })
}

/// A QoS 1 PUBLISH as far as the link can tell.
pub(crate) fn publish(body: &[u8]) -> OwnedFrame {
    packet(0x32, body)
}

fn bytes_of(frames: &[(u32, Frame)]) -> BytesMut {
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|(stream, frame)| frame.encode(StreamId(*stream), &mut bytes));
    bytes
}

fn hello(versions: Versions) -> Frame {
    let id = "peer".into();
    let features = u64::MAX;
    let (window_bytes, packet_bytes_max, handoff_grace_ms) = (100, 1000, 0);
    let passport_key = [0; 32];
    Frame::Hello(Hello {
        versions,
        features,
        id,
        window_bytes,
        packet_bytes_max,
        handoff_grace_ms,
        passport_key,
    })
}

pub(crate) struct Pair {
    pub(crate) edge: EdgeEnd,
    pub(crate) worker: WorkerEnd,
    to_edge: BytesMut,
    to_worker: BytesMut,
}

impl Pair {
    pub(crate) fn new(window_bytes: u32) -> Self {
        let mut pair = Self {
            edge: EdgeEnd::new(settings(window_bytes), NOW),
            worker: WorkerEnd::new(settings(window_bytes), NOW),
            to_edge: BytesMut::new(),
            to_worker: BytesMut::new(),
        };
        let (edge, worker) = pair.exchange();
        assert!(matches!(&edge[..], [EdgeEvent::Ready(_)]));
        assert!(matches!(&worker[..], [WorkerEvent::Ready(_)]));
        pair
    }

    /// Moves everything in both directions until nothing is left to move.
    pub(crate) fn exchange(&mut self) -> (Vec<EdgeEvent>, Vec<WorkerEvent>) {
        let (mut edge, mut worker) = (Vec::new(), Vec::new());
        loop {
            let (up, down) = (self.edge.outgoing(), self.worker.outgoing());
            if up.is_empty() && down.is_empty() {
                worker.extend(std::iter::from_fn(|| self.worker.poll_event()));
                return (edge, worker);
            }
            for (out, bytes) in [(up, &mut self.to_worker), (down, &mut self.to_edge)] {
                while !out.is_empty() {
                    let len = out.chunk().len();
                    bytes.extend_from_slice(out.chunk());
                    out.advance(len);
                }
            }
            self.worker.receive(NOW, &mut self.to_worker).unwrap();
            self.edge.receive(NOW, &mut self.to_edge).unwrap();
            edge.extend(std::iter::from_fn(|| self.edge.poll_event()));
            worker.extend(std::iter::from_fn(|| self.worker.poll_event()));
        }
    }

    pub(crate) fn open(&mut self) -> StreamId {
        let stream = self.edge.open(open(), Replay::default()).unwrap();
        self.exchange();
        self.worker.accept(stream, Some(packet(0x20, &[0, 0]))).unwrap();
        let (edge, _) = self.exchange();
        assert!(matches!(&edge[..], [EdgeEvent::Opened { connack, .. }] if connack.len() == 4));
        stream
    }
}

pub(crate) fn packets(events: &[WorkerEvent]) -> Vec<OwnedFrame> {
    let packet = |event: &WorkerEvent| match event {
        WorkerEvent::Packet { packet, .. } => Some(packet.clone()),
        _ => None,
    };
    events.iter().filter_map(packet).collect()
}

#[test]
fn a_slow_device_delays_nobody_else() {
    let mut pair = Pair::new(1000);
    let (slow, quick) = (pair.open(), pair.open());
    let body = publish(&[1; 100]);
    let sent = std::iter::from_fn(|| pair.worker.send(slow, &body).ok()).count();
    assert!(sent < 12, "{sent} packets in a window of 1000 bytes");
    for _ in 0..100 {
        pair.worker.send(quick, &body).unwrap();
        let (edge, _) = pair.exchange();
        let cost = edge.iter().find_map(|event| match event {
            EdgeEvent::Packet { stream, cost, .. } if *stream == quick => Some(*cost),
            _ => None,
        });
        pair.edge.give_back(quick, cost.expect("it came at once"));
    }
    assert_eq!(pair.worker.send(slow, &body), Err(SendError::Full));
    pair.edge.give_back(slow, 1000);
    let (_, worker) = pair.exchange();
    assert!(matches!(&worker[..], [.., WorkerEvent::Sendable { stream }] if *stream == slow));
    pair.worker.send(slow, &body).unwrap();
}

#[test]
fn a_worker_that_is_slow_with_one_stream_takes_the_others() {
    let mut pair = Pair::new(1000);
    let (slow, quick) = (pair.open(), pair.open());
    let body = publish(&[1; 100]);
    for _ in 0..30 {
        pair.edge.send(slow, body.clone().into()).unwrap();
    }
    pair.edge.send(quick, body.clone().into()).unwrap();
    let (_, worker) = pair.exchange();
    let of = |id| {
        worker.iter().filter(|e| matches!(e, WorkerEvent::Packet { stream, .. } if *stream == id)).count()
    };
    assert_eq!((of(slow), of(quick)), (9, 1));
    pair.worker.give_back(slow, 10_000);
    let (_, worker) = pair.exchange();
    assert_eq!(packets(&worker).len(), 9);
}

#[test]
fn a_packet_larger_than_the_window_passes_alone() {
    let mut pair = Pair::new(100);
    let stream = pair.open();
    pair.worker.send(stream, &publish(&[1; 5000])).unwrap();
    assert_eq!(pair.worker.send(stream, &publish(b"next")), Err(SendError::Full));
}

#[test]
fn a_full_link_takes_no_more_packets_until_it_is_written() {
    let mut pair = Pair::new(u32::MAX);
    let stream = pair.open();
    let body = publish(&[1; 60_000]);
    let sent = std::iter::from_fn(|| pair.worker.send(stream, &body).ok()).count();
    assert!(sent * 60_000 < OUTGOING_BYTES_MAX + 60_000, "{sent}");
    let (_, worker) = pair.exchange();
    assert!(matches!(&worker[..], [WorkerEvent::LinkSendable]));
    pair.worker.send(stream, &body).unwrap();
}

#[test]
fn who_asks_for_signs_of_life_and_reads_none_fills_no_memory() {
    let mut pair = Pair::new(1000);
    pair.open();
    let pings = bytes_of(&vec![(0, Frame::Ping { token: 1 }); 10_000]);
    for _ in 0..20 {
        pair.worker.receive(NOW, &mut pings.clone()).unwrap();
    }
    let waiting = pair.worker.outgoing().len();
    assert!((OUTGOING_BYTES_MAX..OUTGOING_BYTES_MAX + 17).contains(&waiting), "{waiting}");
}

#[test]
fn what_is_durable_is_told_before_the_next_packet() {
    let mut pair = Pair::new(1000);
    let stream = pair.open();
    pair.edge.send(stream, packet(0x40, &[0, 9]).into()).unwrap();
    pair.exchange();
    pair.worker.durable(stream, 1);
    pair.worker.send(stream, &publish(b"one")).unwrap();
    let mut sent = BytesMut::from(pair.worker.outgoing().chunk());
    let mut kinds = Vec::new();
    while let Ok(Some(Decoded::Frame(_, frame))) = decode(&mut sent, &Default::default()) {
        kinds.push(frame.kind());
    }
    assert_eq!(kinds, [Kind::Durable, Kind::Packet]);
}

#[test]
fn the_next_worker_gets_what_was_not_durable_and_knows_it() {
    let mut pair = Pair::new(10_000);
    let stream = pair.open();
    for body in [b"a", b"b", b"c"] {
        pair.edge.send(stream, publish(body).into()).unwrap();
    }
    pair.edge.send(stream, packet(0x30, b"qos 0").into()).unwrap();
    let by_alias = DevicePacket { packet: publish(b"by alias"), replay_as: Some(publish(b"in full")) };
    pair.edge.send(stream, by_alias).unwrap();
    pair.exchange();
    pair.worker.durable(stream, 2);
    pair.exchange();
    pair.edge.send(stream, packet(0x40, &[0, 9]).into()).unwrap();
    let unfinished = pair.edge.abandon().pop().unwrap();
    assert!(unfinished.is_open);
    assert!(matches!(
        pair.edge.send(stream, publish(b"d").into()),
        Err(NotSent { error: SendError::NoStream, .. })
    ));

    let mut next = Pair::new(10_000);
    let stream = next.edge.open(resume(), unfinished.replay).unwrap();
    next.edge.send(stream, publish(b"new").into()).unwrap();
    let (_, worker) = next.exchange();
    let [WorkerEvent::Open { open, .. }] = &worker[..] else { panic!("{worker:?}") };
    let resume = open.resume.as_ref().unwrap();
    assert_eq!(resume.backlog, 4);
    next.worker.accept(stream, None).unwrap();
    let (_, worker) = next.exchange();
    let replay = [publish(b"a"), publish(b"c"), publish(b"in full")];
    assert_eq!(packets(&worker), [&replay[..], &[packet(0x40, &[0, 9]), publish(b"new")]].concat());
}

#[test]
fn a_refused_stream_gives_everything_back() {
    let mut pair = Pair::new(1000);
    let stream = pair.edge.open(open(), Replay::default()).unwrap();
    pair.edge.send(stream, publish(b"early").into()).unwrap();
    pair.exchange();
    pair.worker.refuse(stream, RefuseReason::Overloaded, None);
    let (edge, _) = pair.exchange();
    let [EdgeEvent::Refused { replay, reason, .. }] = &edge[..] else { panic!("{edge:?}") };
    assert!(reason.is_retryable() && replay.len() == 1);
    assert_eq!(pair.edge.streams() + pair.worker.streams(), 0);
}

#[test]
fn frames_of_a_stream_that_was_given_up_are_dropped() {
    let mut pair = Pair::new(1000);
    let stream = pair.open();
    pair.worker.send(stream, &publish(b"late")).unwrap();
    assert!(pair.edge.give_up(stream).is_some());
    let (edge, worker) = pair.exchange();
    assert!(edge.is_empty());
    assert_eq!(pair.edge.dropped_frames(), 1);
    assert!(matches!(&worker[..], [WorkerEvent::Close { ending: Ending::Moved, .. }]));
    assert_eq!(pair.worker.send(stream, &publish(b"later")), Err(SendError::NoStream));
    assert!(pair.open() > stream);
}

#[test]
fn a_link_whose_identifiers_run_out_says_so_in_time_and_goes_on_with_what_it_has() {
    let settings = Settings { streams_max: 16, ..Settings::new("edge") };
    let mut edge = EdgeEnd::new(settings, Duration::ZERO);
    edge.receive(Duration::ZERO, &mut bytes_of(&[(0, hello(Versions::OURS))])).unwrap();
    let mut opened = Vec::new();
    while !edge.is_worn() {
        opened.push(edge.open(open(), Replay::default()).unwrap());
    }
    assert_eq!(opened.len(), 14);
    opened.extend([(); 2].map(|()| edge.open(open(), Replay::default()).unwrap()));
    assert!(edge.open(open(), Replay::default()).is_err() && edge.is_worn());
    assert_eq!(opened.last(), Some(&StreamId(16)));
    edge.send(opened[0], publish(b"still").into()).unwrap();
    assert!(!EdgeEnd::new(Settings::new(""), Duration::ZERO).is_worn());
}

#[test]
fn a_draining_worker_refuses_and_the_edge_opens_nothing() {
    let mut pair = Pair::new(1000);
    let stream = pair.open();
    pair.worker.drain(Duration::from_secs(5));
    let crossing = pair.edge.open(open(), Replay::default()).unwrap();
    let (edge, _) = pair.exchange();
    let within = Duration::from_secs(5);
    assert!(edge.iter().any(|event| matches!(event, EdgeEvent::Draining { within: w } if *w == within)));
    assert!(edge.iter().any(
        |event| matches!(event, EdgeEvent::Refused { stream, reason: RefuseReason::Draining, .. } if *stream == crossing)
    ));
    assert!(pair.edge.open(open(), Replay::default()).is_err());
    pair.edge.send(stream, publish(b"until it moves").into()).unwrap();
    assert_eq!(packets(&pair.exchange().1).len(), 1);
}

#[test]
fn a_worker_says_whether_it_has_its_store() {
    let mut pair = Pair::new(1000);
    for is_away in [true, false] {
        pair.worker.tell_store(is_away);
        let (edge, _) = pair.exchange();
        assert!(matches!(&edge[..], [EdgeEvent::Store { is_away: told }] if *told == is_away), "{edge:?}");
    }
    // An edge of an earlier release skips it.
    assert_ne!(Kind::Store as u8 & OPTIONAL, 0);
}

#[test]
fn retained_messages_that_a_device_is_still_to_get_are_told_to_the_next_worker() {
    let mut pair = Pair::new(1000);
    let stream = pair.open();
    assert!(pair.edge.is_idle(stream));
    let tell = |pair: &mut Pair, is_more, due: &'static [u8]| {
        pair.worker.tell_retained(stream, is_more, Bytes::from_static(due));
        assert!(pair.exchange().0.is_empty());
    };
    tell(&mut pair, true, b"gone");
    tell(&mut pair, false, b"");
    assert!(pair.edge.is_idle(stream));
    tell(&mut pair, true, b"one, ");
    tell(&mut pair, true, b"another");
    assert!(!pair.edge.is_idle(stream));
    // What is too much is not kept, and what was told before is.
    pair.worker.tell_retained(stream, true, vec![b'x'; RETAINED_BYTES_MAX].into());
    pair.exchange();

    let mut replay = pair.edge.give_up(stream).unwrap().replay;
    for is_told in [false, true] {
        let mut next = Pair::new(1000);
        let stream = next.edge.open(resume(), replay).unwrap();
        let (_, worker) = next.exchange();
        let [WorkerEvent::Open { open, .. }] = &worker[..] else { panic!("{worker:?}") };
        assert_eq!(open.resume.as_ref().unwrap().retained_due, b"one, another"[..]);
        next.worker.accept(stream, None).unwrap();
        if is_told {
            next.worker.tell_retained(stream, false, Bytes::new());
        }
        next.exchange();
        assert_eq!(next.edge.is_idle(stream), is_told);
        replay = next.edge.give_up(stream).unwrap().replay;
    }
    assert_ne!(Kind::Retained as u8 & OPTIONAL, 0);
}

// It would refuse a field that it does not know, and never say that the device has them.
#[test]
fn a_worker_of_an_earlier_release_is_not_told_of_retained_messages() {
    let mut pair = Pair::new(1000);
    let stream = pair.open();
    pair.worker.tell_retained(stream, true, Bytes::from_static(b"due"));
    pair.exchange();
    let mut replay = pair.edge.give_up(stream).unwrap().replay;
    for (features, due) in [(FEATURES, &b"due"[..]), (FEATURES & !FEATURE_RETAINED, b""), (FEATURES, b"")] {
        let Frame::Hello(hello) = hello(Versions::OURS) else { panic!("no HELLO") };
        let mut edge = EdgeEnd::new(settings(1000), NOW);
        edge.receive(NOW, &mut bytes_of(&[(0, Frame::Hello(Hello { features, ..hello }))])).unwrap();
        let stream = edge.open(resume(), replay).unwrap();
        let mut sent = BytesMut::new();
        while !edge.outgoing().is_empty() {
            let chunk = edge.outgoing().chunk().to_vec();
            sent.extend_from_slice(&chunk);
            edge.outgoing().advance(chunk.len());
        }
        let mut frames = std::iter::from_fn(|| decode(&mut sent, &FrameLimits::default()).unwrap());
        let open = frames.find_map(|frame| match frame {
            Decoded::Frame(_, Frame::Open(open)) => open.resume,
            _ => None,
        });
        assert_eq!(open.unwrap().retained_due, due);
        replay = edge.give_up(stream).unwrap().replay;
    }
}

#[test]
fn the_close_of_a_device_is_kept_until_it_is_durable() {
    let mut pair = Pair::new(1000);
    let stream = pair.open();
    pair.edge.close(stream, CloseCause::Abnormal);
    let (_, worker) = pair.exchange();
    assert!(matches!(&worker[..], [WorkerEvent::Close { number: 1, .. }]));
    assert_eq!(pair.edge.streams(), 1);
    pair.worker.durable(stream, 1);
    let (edge, _) = pair.exchange();
    assert!(matches!(&edge[..], [EdgeEvent::Finished { .. }]));
    assert_eq!(pair.edge.streams() + pair.worker.streams(), 0);
}

#[test]
fn the_last_packet_of_a_worker_needs_no_credit() {
    let mut pair = Pair::new(100);
    let stream = pair.open();
    while pair.worker.send(stream, &publish(&[0; 50])).is_ok() {}
    pair.worker.close(stream, ReasonCode::SessionTakenOver, Some(packet(0xE0, &[0x8E, 0])));
    let (edge, _) = pair.exchange();
    let Some(EdgeEvent::Closed { reason, packet, .. }) = edge.last() else { panic!("{edge:?}") };
    assert_eq!((*reason, packet.len()), (ReasonCode::SessionTakenOver, 4));
}

#[test]
fn what_the_other_end_would_not_take_is_not_sent() {
    let mut pair = Pair::new(1000);
    let stream = pair.open();
    let large = publish(&vec![0; 2 << 20]);
    assert!(matches!(pair.worker.send(stream, &large), Err(SendError::TooLarge { .. })));
    let packet = DevicePacket { packet: publish(b""), replay_as: Some(large) };
    let unsent = pair.edge.send(stream, packet.clone()).unwrap_err();
    assert!(matches!(unsent.error, SendError::TooLarge { .. }));
    assert_eq!(unsent.packet, packet);
    assert!(matches!(pair.edge.renew(stream, vec![0; 1 << 20].into()), Err(SendError::TooLarge { .. })));
    pair.exchange();
}

#[test]
fn the_kept_packets_are_bounded() {
    let mut pair = Pair::new(1_000_000);
    let stream = pair.open();
    let sent = std::iter::from_fn(|| pair.edge.send(stream, publish(b"x").into()).ok()).count();
    assert_eq!(sent, link::mux::KEPT_COUNT_MAX);
    pair.exchange();
    pair.worker.durable(stream, 1);
    let (edge, _) = pair.exchange();
    assert!(matches!(&edge[..], [EdgeEvent::Sendable { .. }]));
    pair.edge.send(stream, publish(b"x").into()).unwrap();
}

#[test]
fn every_breach_ends_the_link_by_name() {
    let first = (0, hello(Versions::OURS));
    let opened = (1, Frame::Open(open()));
    let packet_of = |number| (1, Frame::Packet { number, packet: publish(&[0; 90]) });
    let worker = |frames: &[(u32, Frame)]| {
        let mut worker = WorkerEnd::new(settings(100), NOW);
        let mut bytes = bytes_of(&[&[first.clone(), opened.clone()], frames].concat());
        let head = bytes_of(&[first.clone(), opened.clone()]).len();
        worker.receive(NOW, &mut bytes.split_to(head)).unwrap();
        worker.accept(StreamId(1), Some(packet(0x20, &[0, 0]))).unwrap();
        let outcome = worker.receive(NOW, &mut bytes).unwrap_err();
        assert_eq!(worker.receive(NOW, &mut bytes), Err(LinkError::Over));
        outcome
    };
    let one = StreamId(1);
    assert_eq!(worker(std::slice::from_ref(&opened)), LinkError::StreamReused(one));
    let again = LinkError::Unexpected { kind: Kind::Hello, stream: StreamId::LINK };
    assert_eq!(worker(std::slice::from_ref(&first)), again);
    assert_eq!(worker(&[packet_of(2)]), LinkError::NumberGap { stream: one, expected: 1, found: 2 });
    assert_eq!(worker(&[packet_of(1), packet_of(2)]), LinkError::WindowExceeded(one));
    assert_eq!(worker(&[(1, Frame::Window { credit_bytes: 1 })]), LinkError::CreditExceeded(one));
    let unknown = (9, Frame::Window { credit_bytes: 1 });
    assert_eq!(worker(std::slice::from_ref(&unknown)), LinkError::UnknownStream(StreamId(9)));
    let kind = Kind::Opened;
    assert_eq!(
        worker(&[(1, Frame::Opened { connack: Bytes::new() })]),
        LinkError::Unexpected { kind, stream: one }
    );
    let edge = |frames: &[(u32, Frame)]| {
        let mut edge = EdgeEnd::new(settings(100), NOW);
        edge.receive(NOW, &mut bytes_of(std::slice::from_ref(&first))).unwrap();
        edge.open(open(), Replay::default()).unwrap();
        edge.receive(NOW, &mut bytes_of(frames)).unwrap_err()
    };
    assert_eq!(
        edge(&[(1, Frame::Durable { through: 1, beyond: vec![] })]),
        LinkError::ImpossibleDurable(one)
    );
    assert_eq!(edge(std::slice::from_ref(&unknown)), LinkError::UnknownStream(StreamId(9)));
    let early = LinkError::Unexpected { kind: Kind::Packet, stream: one };
    assert_eq!(edge(&[packet_of(1)]), early);
}

#[test]
fn neighbouring_versions_talk_and_others_do_not() {
    let greet = |versions| {
        let mut settings = settings(100);
        settings.versions = Versions { oldest: 2, newest: 3 };
        let mut edge = EdgeEnd::new(settings, NOW);
        edge.receive(NOW, &mut bytes_of(&[(0, hello(versions))])).map(|()| match edge.poll_event() {
            Some(EdgeEvent::Ready(peer)) => (peer.version, peer.features),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(greet(Versions { oldest: 1, newest: 2 }), Ok((2, FEATURES)));
    assert_eq!(greet(Versions { oldest: 3, newest: 4 }), Ok((3, FEATURES)));
    assert!(matches!(greet(Versions { oldest: 4, newest: 5 }), Err(LinkError::NoCommonVersion { .. })));
    let mut edge = EdgeEnd::new(settings(100), NOW);
    let unexpected = LinkError::Unexpected { kind: Kind::Ping, stream: StreamId::LINK };
    assert_eq!(edge.receive(NOW, &mut bytes_of(&[(0, Frame::Ping { token: 1 })])), Err(unexpected));
}

// It cannot answer a PING that waits behind a long packet.
#[test]
fn an_end_that_hears_a_long_packet_gives_signs_of_life() {
    let mut pair = Pair::new(1000);
    pair.open();
    let (mut said, mut bytes) = (Vec::new(), BytesMut::new());
    let pongs: Vec<u8> = (0..3).flat_map(|token| bytes_of(&[(0, Frame::Pong { token })]).to_vec()).collect();
    for (at, byte) in (1..).map(|n| Duration::from_millis(n * 100)).zip(pongs) {
        bytes.extend_from_slice(&[byte]);
        pair.worker.receive(NOW + at, &mut bytes).unwrap();
        pair.worker.tick(NOW + at).unwrap();
        let out = pair.worker.outgoing();
        if !out.is_empty() {
            said.push(at);
            out.advance(out.len());
        }
    }
    let pauses: Vec<Duration> = said.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() >= 4 && pauses.iter().all(|pause| *pause <= DEAD_AFTER / 2), "{said:?}");
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    let mut pair = Pair::new(1000);
    pair.open();
    for ms in (0..2000).step_by(50) {
        pair.edge.tick(NOW + Duration::from_millis(ms)).unwrap();
    }
    assert_eq!(pair.edge.outgoing().len(), 3 * 17);
    // Bytes that were not there before are a sign of life; a call without them is none.
    let at = NOW + DEAD_AFTER;
    pair.edge.receive(at, &mut BytesMut::new()).unwrap();
    assert_eq!(pair.edge.tick(at), Err(LinkError::Silent));
    assert_eq!(pair.edge.abandon().len(), 1);
    let pong = bytes_of(&[(0, Frame::Pong { token: 1 })]);
    let mut part = BytesMut::from(&pong.chunk()[..3]);
    pair.worker.receive(at - Duration::from_millis(1), &mut part).unwrap();
    pair.worker.tick(at).unwrap();
}
