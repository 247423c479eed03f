//! A link that breaks between an answer and the report that what it answers is durable: the device gets one answer, neither
//! none nor two.

use bytes::BytesMut;
use link::mux::{EdgeEvent, WorkerEvent};
use link::wire::{Decoded, Frame, StreamId, decode};
use mqtt::OwnedFrame;

use crate::ends::{Pair, packets, resume};
use crate::frame::packet;

/// Every packet that is answered, with its answer, with Packet Identifier `id`.
fn questions(id: u8) -> [(OwnedFrame, OwnedFrame); 5] {
    [
        (packet(0x32, &[0, 1, b't', 0, id]), packet(0x40, &[0, id])),
        (packet(0x34, &[0, 1, b't', 0, id]), packet(0x50, &[0, id])),
        (packet(0x62, &[0, id]), packet(0x70, &[0, id])),
        (packet(0x82, &[0, id, 0, 0, 1, b't', 0]), packet(0x90, &[0, id, 0])),
        (packet(0xA2, &[0, id, 0, 1, b't']), packet(0xB0, &[0, id])),
    ]
}

/// Carries what waits at the worker to the edge, up to and with the first PACKET and nothing behind it.
fn cut_behind_packet(pair: &mut Pair) {
    let out = pair.worker.outgoing();
    let mut read = BytesMut::from(out.chunk());
    let mut until = BytesMut::new();
    while let Some(Decoded::Frame(stream, frame)) = decode(&mut read, &Default::default()).unwrap() {
        frame.encode(stream, &mut until);
        if matches!(frame, Frame::Packet { .. }) {
            break;
        }
    }
    assert!(!read.is_empty(), "the report follows the answer");
    pair.edge.receive(crate::ends::NOW, &mut until).unwrap();
}

/// What the next worker gets of a stream that the edge has to open anew.
fn replayed(pair: &mut Pair) -> Vec<OwnedFrame> {
    let unfinished = pair.edge.abandon().pop().unwrap();
    let mut next = Pair::new(10_000);
    let stream = next.edge.open(resume(), unfinished.replay).unwrap();
    next.exchange();
    next.worker.accept(stream, None).unwrap();
    packets(&next.exchange().1)
}

/// A worker has answered `question` and behind that reported it.
fn answer(pair: &mut Pair, stream: StreamId, question: &OwnedFrame, answer: &OwnedFrame) {
    pair.edge.send(stream, question.clone().into()).unwrap();
    let (_, events) = pair.exchange();
    let Some(WorkerEvent::Packet { number, .. }) = events.last() else { panic!("{events:?}") };
    pair.worker.send(stream, answer).unwrap();
    pair.worker.durable(stream, *number);
}

#[test]
fn what_was_answered_is_not_replayed_though_the_report_never_came() {
    for (question, reply) in questions(7) {
        let mut pair = Pair::new(10_000);
        let stream = pair.open();
        answer(&mut pair, stream, &question, &reply);
        cut_behind_packet(&mut pair);
        let event = pair.edge.poll_event();
        assert!(matches!(event, Some(EdgeEvent::Packet { packet, .. }) if packet == reply));
        assert!(replayed(&mut pair).is_empty(), "{question:?}");
    }
}

#[test]
fn what_was_not_answered_is_replayed() {
    for (question, reply) in questions(7) {
        let mut pair = Pair::new(10_000);
        let stream = pair.open();
        answer(&mut pair, stream, &question, &reply);
        assert_eq!(replayed(&mut pair), [question]);
    }
}

#[test]
fn an_answer_that_no_event_told_of_goes_to_the_device_all_the_same() {
    let mut pair = Pair::new(10_000);
    let stream = pair.open();
    let [(question, reply), ..] = questions(7);
    answer(&mut pair, stream, &question, &reply);
    cut_behind_packet(&mut pair);
    let unfinished = pair.edge.give_up(stream).unwrap();
    assert_eq!(unfinished.packets, [reply]);
    assert!(unfinished.is_open && unfinished.replay.is_empty());
    assert!(pair.edge.poll_event().is_none());
}

#[test]
fn an_answer_is_to_the_oldest_of_its_kind_and_identifier() {
    let mut pair = Pair::new(10_000);
    let stream = pair.open();
    let again = packet(0x3A, &[0, 1, b't', 0, 7]);
    let [(question, reply), .., unsubscribe] = questions(7);
    for packet in [&unsubscribe.0, &question, &again] {
        pair.edge.send(stream, packet.clone().into()).unwrap();
    }
    pair.exchange();
    pair.worker.send(stream, &reply).unwrap();
    pair.worker.durable(stream, 2);
    cut_behind_packet(&mut pair);
    assert_eq!(replayed(&mut pair), [unsubscribe.0, again]);
}

#[test]
fn an_answer_makes_room() {
    let mut pair = Pair::new(1 << 20);
    let stream = pair.open();
    let [(question, reply), ..] = questions(7);
    while pair.edge.send(stream, question.clone().into()).is_ok() {}
    pair.exchange();
    pair.worker.send(stream, &reply).unwrap();
    let (events, _) = pair.exchange();
    assert!(events.iter().any(|event| matches!(event, EdgeEvent::Sendable { .. })), "{events:?}");
    pair.edge.send(stream, question.into()).unwrap();
}

#[test]
fn a_publish_is_not_replayed_behind_its_pubrel() {
    let mut pair = Pair::new(10_000);
    let stream = pair.open();
    let [_, (publish, _), (pubrel, _), ..] = questions(7);
    let [_, (other, _), ..] = questions(8);
    for packet in [&publish, &other, &publish] {
        pair.edge.send(stream, packet.clone().into()).unwrap();
    }
    pair.exchange();
    // The device has the PUBREC, whatever became of the answer to its repeat.
    pair.edge.send(stream, pubrel.clone().into()).unwrap();
    assert_eq!(replayed(&mut pair), [other, pubrel]);
}

// ARCHITECTURE, rule 6.
#[test]
fn what_is_replayed_is_in_the_order_in_which_it_came() {
    let mut pair = Pair::new(10_000);
    let stream = pair.open();
    let publish = |id| packet(0x32, &[0, 1, b't', 0, id]);
    for id in 1..=4 {
        pair.edge.send(stream, publish(id).into()).unwrap();
    }
    pair.exchange();
    pair.worker.durable(stream, 2);
    pair.exchange();
    // These the worker has not got.
    for id in 5..=6 {
        pair.edge.send(stream, publish(id).into()).unwrap();
    }
    assert_eq!(replayed(&mut pair), [1, 3, 4, 5, 6].map(publish));
}
