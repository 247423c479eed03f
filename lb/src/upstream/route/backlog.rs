//! Packets from a device that no link has taken, in order.

use std::collections::VecDeque;

use link::mux::{DevicePacket, KEPT_BYTES_MAX, KEPT_COUNT_MAX};

/// QoS 0 may fill one part in so many of what may wait during a move.
const QOS0_PART: usize = 2;

/// What waits; whoever adds to it sees that it is not full.
#[derive(Default)]
pub(super) struct Backlog {
    unsent: VecDeque<DevicePacket>,
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

    pub(super) fn push(&mut self, packet: DevicePacket) {
        self.bytes += packet.len();
        self.unsent.push_back(packet);
    }

    pub(super) fn pop(&mut self) -> Option<DevicePacket> {
        let packet = self.unsent.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// Puts back what was popped last.
    pub(super) fn put_back(&mut self, packet: DevicePacket) {
        self.bytes += packet.len();
        self.unsent.push_front(packet);
    }

    /// Has everything as the next worker can read it.
    pub(super) fn unalias(&mut self) {
        self.unsent.iter_mut().for_each(DevicePacket::unalias);
        self.bytes = self.unsent.iter().map(DevicePacket::len).sum();
    }
}
