//! What changed and must be kept: changes that are written one by one, and sessions whose small mutable parts are
//! written once per batch however often they changed.

use std::sync::Arc;

use mqtt::{PacketId, ProtocolVersion};

use super::{BodyKey, SessionKey, Whose};
use crate::{ConnectionId, Delivery, DueLeft, Message, Principal, QueueLimits, Subscription, UnixMs};

/// One change to write down.
#[derive(Debug)]
pub(crate) enum Change {
    /// No key at or above `below` has been given out.
    Reserved { below: u64 },
    /// A message got the next number of a session's queue; its body is apart when `body` is set.
    Enqueued { session: SessionKey, number: u64, delivery: Delivery, body: Option<BodyKey> },
    /// A body that several records share.
    BodyAdded { key: BodyKey, message: Arc<Message> },
    /// No record refers to the body any more.
    BodyGone { key: BodyKey },
    /// A record above the head changed its state.
    Marked { session: SessionKey, number: u64, mark: RecordMark },
    /// A subscription was added or replaced.
    Subscribed { session: SessionKey, subscription: Subscription },
    /// A subscription was removed.
    Unsubscribed { session: SessionKey, filter: Arc<str> },
    /// A session is gone, its subscriptions apart.
    SessionGone { session: SessionKey },
    /// A Will of a session that is gone, to be published.
    OrphanWill { whose: Whose, own: u64, message: Arc<Message> },
    /// It has been published.
    OrphanWillGone { session: SessionKey, own: u64 },
    /// A message that a member of a share left.
    Left { left: DueLeft },
    /// Other members have it.
    LeftGone { session: SessionKey, own: u64 },
    /// A retained message was set.
    Retained { message: Arc<Message> },
    /// A retained message was removed.
    RetainedGone { topic: Box<str> },
}

/// The state of a queue record that is no longer a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RecordMark {
    /// PUBREC came.
    Released,
    /// Acknowledged before an older one was.
    Acknowledged,
}

/// Which parts of a session changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    pub(crate) record: bool,
    pub(crate) will: bool,
    pub(crate) head: bool,
    pub(crate) received: bool,
}

impl Dirty {
    pub(super) fn is_clean(self) -> bool {
        self == Self::default()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.record |= other.record;
        self.will |= other.will;
        self.head |= other.head;
        self.received |= other.received;
    }
}

/// The changed parts of a session as they are now.
#[derive(Debug)]
pub(crate) struct SessionImage {
    pub(crate) key: SessionKey,
    pub(crate) record: Option<SessionRecord>,
    /// Inner `None`: it has no Will (any more).
    pub(crate) will: Option<Option<WillRecord>>,
    pub(crate) head: u64,
    pub(crate) is_head_moved: bool,
    pub(crate) received: Option<Vec<PacketId>>,
}

/// What is kept of a session beside its queue and subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    pub(crate) client_id: Arc<str>,
    /// `None`: an earlier version wrote it.
    pub(crate) principal: Option<Principal>,
    pub(crate) epoch: u64,
    pub(crate) connection_id: ConnectionId,
    pub(crate) connected: bool,
    /// `None`: never, or connected.
    pub(crate) expires_at: Option<UnixMs>,
    pub(crate) expiry_s: u32,
    pub(crate) limits: QueueLimits,
    pub(crate) is_memory_queue: bool,
    pub(crate) protocol: ProtocolVersion,
    pub(crate) receive_maximum: u16,
    pub(crate) sent: u64,
}

/// What is kept of a Will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WillRecord {
    pub(crate) message: Arc<Message>,
    pub(crate) delay_s: u32,
    /// `None`: not armed, its owner is connected.
    pub(crate) due_at: Option<UnixMs>,
}

/// Collects changes until they are taken.
pub(crate) struct Journal {
    enabled: bool,
    changes: Vec<Change>,
    dirty: Vec<SessionKey>,
}

impl Journal {
    /// Notes nothing.
    pub(crate) fn off() -> Self {
        Self { enabled: false, changes: Vec::new(), dirty: Vec::new() }
    }

    /// Notes everything.
    pub(crate) fn on() -> Self {
        Self { enabled: true, ..Self::off() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.enabled
    }

    pub(crate) fn note(&mut self, change: Change) {
        if self.enabled {
            self.changes.push(change);
        }
    }

    pub(super) fn note_dirty(&mut self, key: SessionKey) {
        if self.enabled {
            self.dirty.push(key);
        }
    }

    pub(super) fn take_dirty(&mut self) -> Vec<SessionKey> {
        std::mem::take(&mut self.dirty)
    }

    /// Hands the changes over and goes on with an empty list that has `spare`'s memory.
    pub(crate) fn take_changes(&mut self, spare: Vec<Change>) -> Vec<Change> {
        std::mem::replace(&mut self.changes, spare)
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.dirty.is_empty()
    }
}
