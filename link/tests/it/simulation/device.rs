//! What the edge, the workers and the store of the simulation know of one device, and what has to come next.

use std::collections::{BTreeSet, VecDeque};

use link::mux::Replay;
use link::wire::StreamId;
use mqtt::OwnedFrame;

use crate::frame::packet;

/// The link's place and generation, and the stream.
pub(super) type Place = (usize, StreamId);

/// The message that stands for the device's close.
pub(super) const CLOSE: u32 = u32::MAX;

/// A packet from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) number: u32,
    pub(super) is_qos0: bool,
    /// Whether a replay sends another form.
    pub(super) has_alias: bool,
}

impl Message {
    /// The packet and, if there is one, what answers it, both without what identifies them.
    fn first_bytes(self) -> (u8, Option<u8>) {
        if self.is_qos0 {
            return (0x30, None);
        }
        const KINDS: [(u8, Option<u8>); 6] = [
            (0x32, Some(0x40)),
            (0x34, Some(0x50)),
            (0x62, Some(0x70)),
            (0x82, Some(0x90)),
            (0xA2, Some(0xB0)),
            (0x40, None),
        ];
        KINDS[self.number as usize % KINDS.len()]
    }

    /// Whether the device waits for an answer.
    pub(super) fn is_answered(self) -> bool {
        self.number != CLOSE && self.first_bytes().1.is_some()
    }

    fn packet_id(self) -> [u8; 2] {
        u16::try_from(1 + self.number % 65_535).unwrap().to_be_bytes()
    }

    pub(super) fn bytes(self, padding: usize, is_replay: bool) -> OwnedFrame {
        let (first_byte, _) = self.first_bytes();
        let mut body = if first_byte & 0xF0 == 0x30 { vec![0, 1, b't'] } else { Vec::new() };
        body.extend(self.packet_id());
        body.extend(self.number.to_be_bytes());
        body.push(u8::from(is_replay));
        body.resize(body.len() + padding, 0);
        packet(first_byte, &body)
    }

    /// Number and form of a packet made by [`Message::bytes`].
    pub(super) fn read(bytes: &[u8]) -> (u32, bool) {
        let frame = mqtt::frame::split(bytes, 100_000).unwrap().unwrap();
        let at = if frame.first_byte() & 0xF0 == 0x30 { 5 } else { 2 };
        let body = &frame.body()[at..];
        (u32::from_be_bytes(body[..4].try_into().unwrap()), body[4] == 1)
    }

    /// The worker's answer, number `order` of what it sends to the device.
    pub(super) fn answer(self, order: u32) -> Option<OwnedFrame> {
        let first_byte = self.first_bytes().1?;
        let body = [&self.packet_id()[..], &order.to_be_bytes(), &self.number.to_be_bytes()].concat();
        Some(packet(first_byte, &body))
    }
}

/// Anything else from the worker, number `order` of what it sends to the device.
pub(super) fn news(order: u32, padding: usize) -> OwnedFrame {
    let mut body = vec![0, 0];
    body.extend(order.to_be_bytes());
    body.resize(body.len() + padding, 0);
    packet(0x30, &body)
}

/// Which number a packet from the worker has, and which message it answers.
pub(super) fn read_from_worker(bytes: &[u8]) -> (u32, Option<u32>) {
    let frame = mqtt::frame::split(bytes, 100_000).unwrap().unwrap();
    let number = |at: usize| u32::from_be_bytes(frame.body()[at..at + 4].try_into().unwrap());
    (number(2), (frame.first_byte() != 0x30).then(|| number(6)))
}

#[derive(Default)]
pub(super) struct Device {
    pub(super) place: Option<Place>,
    /// When it is nowhere: what the next stream begins with.
    pub(super) replay: Option<Replay>,
    pub(super) has_connack: bool,
    pub(super) is_blocked: bool,
    pub(super) is_closing: bool,
    pub(super) is_over: bool,
    /// What the edge took and has to bring, oldest first: of QoS 0 what no worker got, otherwise what is not durable.
    accepted: Vec<Message>,
    qos0: BTreeSet<u32>,
    /// What a DURABLE that reached the edge covered.
    pub(super) durable: BTreeSet<u32>,
    /// What the store has.
    pub(super) stored: BTreeSet<u32>,
    /// What went into a pipe.
    written: BTreeSet<u32>,
    /// What the present stream has to bring, with whether in the form of a replay.
    expected: VecDeque<(Message, bool)>,
    /// Of the present stream by their numbers.
    numbered: Vec<u32>,
    /// Messages whose answer has not come to the device.
    pub(super) unanswered: BTreeSet<u32>,
    /// Packets from the worker that it has not read.
    pub(super) unread: VecDeque<u32>,
    pub(super) last_from_worker: u32,
}

impl Device {
    pub(super) fn accept(&mut self, message: Message) {
        self.accepted.push(message);
        if message.is_qos0 {
            self.qos0.insert(message.number);
        } else if message.is_answered() {
            self.unanswered.insert(message.number);
        }
        self.expected.push_back((message, false));
    }

    /// What the edge has to keep.
    pub(super) fn undurable(&self) -> impl Iterator<Item = &Message> {
        self.accepted.iter().filter(|message| !message.is_qos0)
    }

    /// A new stream begins. Of QoS 0 only what no worker got may come, and need not.
    pub(super) fn begin_stream(&mut self, place: Place) {
        self.place = Some(place);
        self.is_blocked = false;
        self.last_from_worker = 0;
        self.unread.clear();
        self.numbered.clear();
        self.expected = self.accepted.iter().map(|m| (*m, m.has_alias)).collect();
    }

    /// Of how many packets from before a worker may be told: at least what was in a pipe.
    pub(super) fn check_backlog(&self, backlog: u32) {
        let written = self.undurable().filter(|message| self.written.contains(&message.number)).count();
        assert!(backlog as usize >= written, "{backlog} packets announced, {written} were sent before");
        assert!(backlog as usize <= self.accepted.len());
    }

    /// A packet went into a pipe; answers whether for the first time.
    pub(super) fn write(&mut self, number: u32) -> bool {
        self.numbered.push(number);
        let is_first = self.written.insert(number);
        let is_qos0 = self.qos0.contains(&number);
        assert!(is_first || !is_qos0, "QoS 0 message {number} is sent again");
        is_first
    }

    /// The edge learns that frames of its present stream are durable. The close counts only with all before it.
    pub(super) fn learn_durable(&mut self, through: u64, beyond: &[u64]) {
        let at = |number: u64| usize::try_from(number).unwrap();
        let told = self.numbered[..at(through)]
            .iter()
            .chain(beyond.iter().map(|n| &self.numbered[at(*n) - 1]).filter(|n| **n != CLOSE));
        self.durable.extend(told);
        let (durable, rest): (Vec<Message>, Vec<Message>) =
            self.accepted.iter().partition(|message| self.durable.contains(&message.number));
        let is_stored = |message: &Message| message.is_qos0 || self.stored.contains(&message.number);
        assert!(durable.iter().all(is_stored), "durable before it is stored");
        self.accepted = rest;
    }

    /// An answer has reached the edge: what it answers is not to come again.
    pub(super) fn learn_answered(&mut self, number: u32) {
        assert!(self.stored.contains(&number), "answered before it is stored");
        self.accepted.retain(|message| message.number != number);
    }

    /// A packet from the worker for the device, `None` when it comes from a stream that is over.
    pub(super) fn take_from_worker(&mut self, packet: &[u8], cost: Option<u32>) {
        assert!(!self.is_closing || cost.is_none());
        let (order, answered) = read_from_worker(packet);
        assert_eq!(order, self.last_from_worker + 1, "order towards the device");
        self.last_from_worker = order;
        self.unread.extend(cost);
        if let Some(number) = answered {
            assert!(self.unanswered.remove(&number), "message {number} is answered twice");
        }
    }

    /// The edge is done with it.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.is_blocked = false;
        self.place = None;
    }

    /// A worker got a packet: the one that had to come.
    pub(super) fn receive(&mut self, number: u32, is_replay: bool) {
        loop {
            let (next, expects_replay) = self.expected.pop_front().expect("something was to come");
            if next.number == number {
                assert_eq!(is_replay, expects_replay, "message {number} comes in the wrong form");
                break;
            }
            assert!(next.is_qos0, "message {number} came in place of {}", next.number);
        }
        self.accepted.retain(|message| !message.is_qos0 || message.number != number);
    }
}
