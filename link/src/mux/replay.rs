//! What the edge keeps of a stream until it is durable, in order: it outlives the link.

use std::collections::VecDeque;

use mqtt::OwnedFrame;

use super::answer::{Asked, asked_by};
use crate::CloseCause;
use crate::wire::RETAINED_BYTES_MAX;

/// A Control Packet of a device, on its way to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePacket {
    /// As the device sent it.
    pub packet: OwnedFrame,
    /// What a replay sends in its place: a PUBLISH with a Topic Alias is kept with its full topic and without the alias.
    pub replay_as: Option<OwnedFrame>,
}

impl DevicePacket {
    /// Whether this is a PUBLISH at QoS 0, which nobody repeats.
    pub fn is_qos0_publish(&self) -> bool {
        self.packet.is_qos0_publish()
    }

    /// Makes this what a replay sends.
    pub fn unalias(&mut self) {
        if let Some(full) = self.replay_as.take() {
            self.packet = full;
        }
    }

    /// Bytes of memory that this packet counts for.
    #[expect(clippy::len_without_is_empty, reason = "a packet has two bytes at least")]
    pub fn len(&self) -> usize {
        self.packet.len() + self.replay_as.as_ref().map_or(0, OwnedFrame::len)
    }
}

impl From<OwnedFrame> for DevicePacket {
    fn from(packet: OwnedFrame) -> Self {
        Self { packet, replay_as: None }
    }
}

/// What goes to the worker with a number.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// A Control Packet, and what it asks an answer for.
    Packet(DevicePacket, Option<Asked>),
    /// The end of the device's connection.
    Close(CloseCause),
}

impl Item {
    pub(super) fn packet(packet: DevicePacket) -> Self {
        let asked = asked_by(packet.packet.as_frame());
        Self::Packet(packet, asked)
    }

    pub(super) fn is_kept(&self) -> bool {
        match self {
            Self::Packet(packet, _) => !packet.is_qos0_publish(),
            Self::Close(_) => true,
        }
    }

    /// Bytes of memory that it counts for.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Packet(packet, _) => packet.len(),
            Self::Close(_) => 0,
        }
    }

    fn asks(&self, asked: Asked) -> bool {
        matches!(self, Self::Packet(_, Some(own)) if *own == asked)
    }

    fn for_replay(mut self) -> Self {
        if let Self::Packet(packet, _) = &mut self {
            packet.unalias();
        }
        self
    }
}

/// What a resumed stream begins with: everything that was sent and not reported durable, then what was never sent. A new
/// connection has an empty one.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    pub(super) items: VecDeque<Item>,
    /// Retained messages that the device is still to get, as the worker told.
    pub(super) retained: Box<[u8]>,
}

impl Replay {
    /// Packets, the device's close among them.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the device's connection has ended, so that the session is resumed only to learn that.
    pub fn ends_with_close(&self) -> bool {
        matches!(self.items.back(), Some(Item::Close(_)))
    }

    /// Bytes of the largest packet.
    pub(super) fn packet_len_max(&self) -> usize {
        self.items.iter().map(Item::len).max().unwrap_or(0)
    }
}

/// The two queues of a stream: sent and not durable, and not sent.
#[derive(Debug, Default)]
pub(super) struct Kept {
    sent: VecDeque<(u64, Item)>,
    unsent: VecDeque<Item>,
    bytes: usize,
    retained: Box<[u8]>,
}

impl Kept {
    pub(super) fn resume(replay: Replay) -> Self {
        let bytes = replay.items.iter().map(Item::len).sum();
        Self { sent: VecDeque::new(), unsent: replay.items, bytes, retained: replay.retained }
    }

    /// Takes what the worker tells of retained messages that the device is still to get.
    pub(super) fn take_retained(&mut self, is_more: bool, due: &[u8]) {
        if !is_more {
            self.retained = due.into();
        } else if self.retained.len() + due.len() <= RETAINED_BYTES_MAX {
            self.retained = [&self.retained, due].concat().into();
        }
    }

    /// Whether the device is still to get retained messages.
    pub(super) fn has_retained_due(&self) -> bool {
        !self.retained.is_empty()
    }

    pub(super) fn push(&mut self, item: Item) {
        self.bytes += item.len();
        self.unsent.push_back(item);
    }

    pub(super) fn next(&self) -> Option<&Item> {
        self.unsent.front()
    }

    /// The first unsent item has been sent as `number`.
    pub(super) fn sent(&mut self, number: u64) {
        let Some(item) = self.unsent.pop_front() else { return };
        if item.is_kept() {
            self.sent.push_back((number, item));
        } else {
            self.bytes -= item.len();
        }
    }

    /// Everything through `through`, and the numbers of `beyond`, need no replay. A close stays as long as anything before
    /// it does: a replay without it would leave the next worker with a device that is gone.
    pub(super) fn durable(&mut self, through: u64, beyond: &[u64]) {
        while let Some((_, item)) = self.sent.pop_front_if(|(number, _)| *number <= through) {
            self.bytes -= item.len();
        }
        for number in beyond {
            if let Ok(at) = self.sent.binary_search_by_key(number, |(number, _)| *number)
                && !matches!(self.sent[at].1, Item::Close(_))
                && let Some((_, item)) = self.sent.remove(at)
            {
                self.bytes -= item.len();
            }
        }
    }

    /// The edge has the answer to the oldest of its kind: the device must not get another, and a worker that dies now has
    /// done what was asked.
    pub(super) fn answered(&mut self, asked: Asked) {
        let at = self.sent.iter().position(|(_, item)| item.asks(asked));
        if let Some((_, item)) = at.and_then(|at| self.sent.remove(at)) {
            self.bytes -= item.len();
        }
    }

    pub(super) fn is_full(&self, bytes_max: usize, count_max: usize) -> bool {
        self.bytes >= bytes_max || self.sent.len() + self.unsent.len() >= count_max
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.unsent.is_empty()
    }

    /// For another link.
    pub(super) fn into_replay(self) -> Replay {
        let sent = self.sent.into_iter().map(|(_, item)| item);
        let mut items: VecDeque<_> = sent.chain(self.unsent).map(Item::for_replay).collect();
        let mut answered = Vec::new();
        for at in (0..items.len()).rev() {
            let Item::Packet(_, Some(asked)) = items[at] else { continue };
            answered.extend(asked.shown_answered());
            // MQTT 3.1 lets a PUBLISH be repeated on the connection. Behind its PUBREL a repeat would be a new message.
            if answered.contains(&asked) {
                items.remove(at);
            }
        }
        Replay { items, retained: self.retained }
    }
}
