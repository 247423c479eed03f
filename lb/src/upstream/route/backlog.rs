//! Packets from a device that no link has taken, in order.

use std::collections::VecDeque;

use bytes::Bytes;
use link::mux::{KEPT_BYTES_MAX, KEPT_COUNT_MAX};
use mqtt::frame::is_qos0_publish;

/// QoS 0 may fill one part in so many of what may wait during a move.
const QOS0_PART: usize = 2;

/// A packet that waits for a link.
#[derive(Debug)]
pub(in crate::upstream) struct Unsent {
    pub(in crate::upstream) packet: Bytes,
    /// What a replay sends in its place: the same without its Topic Alias.
    pub(in crate::upstream) replay_as: Option<Bytes>,
}

impl Unsent {
    pub(super) fn is_qos0(&self) -> bool {
        is_qos0_publish(&self.packet)
    }

    /// As the next worker can read it, which knows the aliases as they stand behind everything that waits.
    pub(super) fn unalias(&mut self) {
        if let Some(full) = self.replay_as.take() {
            self.packet = full;
        }
    }

    fn len(&self) -> usize {
        self.packet.len() + self.replay_as.as_ref().map_or(0, Bytes::len)
    }
}

/// What waits; whoever adds to it sees that it is not full.
#[derive(Default)]
pub(super) struct Backlog {
    unsent: VecDeque<Unsent>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Whether as much waits as may.
    pub(super) fn is_full(&self) -> bool {
        self.has(KEPT_BYTES_MAX, KEPT_COUNT_MAX)
    }

    /// Whether as much waits as may of QoS 0.
    pub(super) fn is_half_full(&self) -> bool {
        self.has(KEPT_BYTES_MAX / QOS0_PART, KEPT_COUNT_MAX / QOS0_PART)
    }

    fn has(&self, bytes: usize, count: usize) -> bool {
        self.bytes >= bytes || self.unsent.len() >= count
    }

    pub(super) fn push(&mut self, unsent: Unsent) {
        self.bytes += unsent.len();
        self.unsent.push_back(unsent);
    }

    pub(super) fn pop(&mut self) -> Option<Unsent> {
        let unsent = self.unsent.pop_front()?;
        self.bytes -= unsent.len();
        Some(unsent)
    }

    /// Puts back what was popped last.
    pub(super) fn put_back(&mut self, unsent: Unsent) {
        self.bytes += unsent.len();
        self.unsent.push_front(unsent);
    }

    /// Has everything as the next worker can read it.
    pub(super) fn unalias(&mut self) {
        self.unsent.iter_mut().for_each(Unsent::unalias);
        self.bytes = self.unsent.iter().map(Unsent::len).sum();
    }
}
