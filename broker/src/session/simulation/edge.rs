//! The edge between client and worker: whole packets each way, and what it keeps so that the connection can go on at another
//! worker, as `link::mux` does it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use link::Resume;
use link::mux::{OpenFlows, answered_by, asked_by};
use mqtt::{Frame, frame};

/// One connection's.
#[derive(Default)]
pub(super) struct Edge {
    flows: OpenFlows,
    connack: Option<Bytes>,
    /// From the client: not a whole packet, not sent to a worker, and sent but neither durable nor answered.
    partial: BytesMut,
    unsent: VecDeque<Bytes>,
    kept: VecDeque<(u64, Bytes)>,
    /// The number of the last frame to the present worker.
    sent: u64,
    /// For the client.
    pub(super) to_client: VecDeque<u8>,
}

impl Edge {
    /// Bytes came from the client.
    pub(super) fn take_from_client(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(len) = first_packet(&self.partial) {
            let packet = self.partial.split_to(len).freeze();
            self.flows.pass_from_device(whole(&packet));
            self.unsent.push_back(packet);
        }
    }

    /// The next frame for the worker.
    pub(super) fn send(&mut self) -> Option<(u64, Bytes)> {
        let packet = self.unsent.pop_front()?;
        self.sent += 1;
        let at_most_once = packet[0] & 0xF6 == 0x30;
        if !at_most_once {
            self.kept.push_back((self.sent, packet.clone()));
        }
        Some((self.sent, packet))
    }

    /// Whether everything of the client is with the worker, and everything of the worker with the client.
    pub(super) fn is_idle(&self) -> bool {
        self.unsent.is_empty() && self.to_client.is_empty()
    }

    /// The worker reports a frame.
    pub(super) fn durable(&mut self, number: u64) {
        self.kept.retain(|(kept, _)| *kept != number);
    }

    /// A packet came from the worker.
    pub(super) fn take_from_worker(&mut self, packet: &Bytes) {
        if self.connack.is_none() {
            self.connack = Some(packet.clone());
        }
        self.flows.pass_to_device(whole(packet));
        if let Some(answered) = answered_by(whole(packet))
            && let Some(at) = self.kept.iter().position(|(_, kept)| asked_by(whole(kept)) == Some(answered))
        {
            self.kept.remove(at);
        }
        self.to_client.extend(packet);
    }

    /// Whether the connection can go on elsewhere: the client knows that it is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.connack.is_some()
    }

    /// The worker is gone: what the next one is told. What comes from the client first is what the first one had.
    pub(super) fn move_on(&mut self) -> Resume {
        self.forget_what_was_released();
        for (_, packet) in self.kept.drain(..).rev() {
            self.unsent.push_front(packet);
        }
        self.sent = 0;
        Resume {
            connack: self.connack.clone().expect("connected"),
            backlog: u32::try_from(self.unsent.len()).expect("few"),
            flows: self.flows.to_device(),
            inbound_qos2: self.flows.from_device(),
            topic_aliases: Vec::new(),
            retained_due: Bytes::new(),
        }
    }
}

impl Edge {
    /// A client that says PUBREL has the PUBREC: a PUBLISH before it, which MQTT 3.1 lets repeat, is not to be taken for a
    /// new one.
    fn forget_what_was_released(&mut self) {
        let id_of = |packet: &Bytes| {
            frame::split(packet, u32::MAX).ok().flatten().map(|frame| frame.body()[..2].to_vec())
        };
        let mut released = Vec::new();
        for packet in self.unsent.iter().rev() {
            if packet[0] == 0x62 {
                released.push(id_of(packet));
            }
        }
        for at in (0..self.kept.len()).rev() {
            let packet = &self.kept[at].1;
            if packet[0] == 0x62 {
                released.push(id_of(packet));
            } else if packet[0] & 0xF6 == 0x34 && released.contains(&publish_id(packet)) {
                self.kept.remove(at);
            }
        }
    }
}

/// The Packet Identifier of a PUBLISH.
fn publish_id(packet: &Bytes) -> Option<Vec<u8>> {
    let frame = frame::split(packet, u32::MAX).ok()??;
    let topic_len = usize::from(u16::from_be_bytes([frame.body()[0], frame.body()[1]]));
    Some(frame.body()[2 + topic_len..4 + topic_len].to_vec())
}

/// A packet that is whole.
pub(super) fn whole(packet: &[u8]) -> Frame<'_> {
    frame::split(packet, u32::MAX).expect("valid").expect("whole")
}

/// Bytes of the first packet, if it is whole.
fn first_packet(bytes: &[u8]) -> Option<usize> {
    frame::split(bytes, u32::MAX).expect("a valid packet").map(|frame| frame.raw.len())
}
