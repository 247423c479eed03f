//! The tables as they come back from disk, and what a restart means: whoever was connected is not any more.

use std::sync::Arc;

use mqtt::{PacketId, QoS};

use super::journal::{RecordMark, SessionRecord, WillRecord};
use super::queue::{Extra, Queue, Slot, thin};
use super::session::{HeldWill, Phase, Session};
use super::timer::{OrphanWill, TimerKind};
use super::{BodyKey, SOLE_WORKER, SessionKey, Tables, Whose};
use crate::{DueLeft, Message, StoredSession, Subscription, UnixMs, Will};

/// A session as it was found, without its queue.
pub(crate) struct RestoredSession {
    pub(crate) key: SessionKey,
    pub(crate) record: SessionRecord,
    pub(crate) will: Option<WillRecord>,
    pub(crate) head: u64,
    pub(crate) received: Vec<PacketId>,
    /// Sorted by filter.
    pub(crate) subscriptions: Vec<Subscription>,
}

/// A queue record as it was found.
pub(crate) enum RestoredSlot {
    /// It is whole where it was found.
    Stored { size: u32, is_shared: bool },
    /// Its body is elsewhere.
    Shared { body: BodyKey, size: u32, extra: Extra, qos: QoS, retain: bool },
}

impl Tables {
    /// No key at or above `below` was given out before.
    pub(crate) fn restore_keys(&mut self, below: u64) {
        self.next_key = self.next_key.max(below);
        self.reserved_below = self.next_key;
    }

    /// Puts a session back, with an empty queue.
    pub(crate) fn restore_session(&mut self, restored: RestoredSession) {
        let RestoredSession { key, record, will, head, received, subscriptions } = restored;
        let identity =
            Arc::new(StoredSession { client_id: Arc::clone(&record.client_id), incarnation: key.0 });
        self.by_client.insert(Arc::clone(&record.client_id), key);
        self.order.insert(key);
        self.totals.subscriptions += subscriptions.len() as u64;
        let phase =
            if record.connected { Phase::Connected } else { Phase::Away { expires_at: record.expires_at } };
        let session = Session {
            identity,
            principal: record.principal,
            epoch: record.epoch,
            nonce: 0,
            connection_id: record.connection_id,
            attempt: 0,
            asked_at: 0,
            owner: SOLE_WORKER,
            phase,
            expiry_s: record.expiry_s,
            limits: record.limits,
            is_memory_queue: record.is_memory_queue,
            protocol: record.protocol,
            receive_maximum: record.receive_maximum,
            will: will.map(|WillRecord { message, delay_s, due_at }| HeldWill {
                will: Will { message, delay_s },
                due_at,
                comes_again_at: None,
                number: 0,
            }),
            sent: record.sent,
            // No connection goes on after a restart.
            repeats: 1,
            sent_at_most: record.sent,
            sent_elsewhere: 1,
            subscriptions,
            received,
            queue: Queue::new(head),
            dirty: Default::default(),
            last_batch: 0,
            is_listed_resident: false,
        };
        self.sessions.insert(key, session);
    }

    /// Puts a record back, in the order of numbers; one below the head is left out. Numbers that are missing were
    /// acknowledged.
    pub(crate) fn restore_slot(&mut self, key: SessionKey, number: u64, slot: RestoredSlot) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if number < session.queue.tail() {
            return;
        }
        while session.queue.tail() < number {
            session.queue.push(Slot::Acknowledged);
        }
        let slot = match slot {
            RestoredSlot::Stored { size, is_shared } => Slot::Stored { size, is_shared },
            RestoredSlot::Shared { body, size, extra, qos, retain } => {
                self.bodies.restore(body);
                Slot::Shared { body, size, extra: thin(extra), qos, retain }
            }
        };
        self.totals.queued_messages += 1;
        self.totals.queued_bytes += slot.size();
        session.queue.push(slot);
    }

    /// Puts a record's later state back.
    pub(crate) fn restore_mark(&mut self, key: SessionKey, number: u64, mark: RecordMark) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let freed = match mark {
            RecordMark::Released => session.queue.release(number),
            RecordMark::Acknowledged => session.queue.acknowledge(number),
        };
        let Some(freed) = freed else { return };
        self.totals.queued_messages -= freed.messages;
        self.totals.queued_bytes -= freed.bytes;
        if let Some(body) = freed.body {
            self.bodies.release(body);
        }
    }

    /// Puts a Will back whose session is gone; it is due at once.
    pub(crate) fn restore_orphan(&mut self, own: u64, whose: Whose, message: Arc<Message>, now: UnixMs) {
        self.keep_orphan(own, OrphanWill { whose, message, due_at: now, number: 0, left_by: None });
    }

    /// Puts a message back that a member of a share left; it is due at once.
    pub(crate) fn restore_left(&mut self, left: DueLeft) {
        self.keep_left(left, 0);
    }

    /// The keys of all sessions in order, with the heads of their queues.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (SessionKey, u64)> + '_ {
        self.order.iter().filter_map(|key| Some((*key, self.sessions.get(key)?.queue.head())))
    }

    /// The process that held the sessions is gone, and another one starts at `now`: owners are gone, sessions without
    /// expiry end, timers start.
    pub(crate) fn restart(&mut self, now: UnixMs) {
        let keys: Vec<SessionKey> = self.order.iter().copied().collect();
        self.timers.forget_waiting();
        for key in keys {
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            session.queue.settle();
            match session.phase {
                Phase::Connected => self.end_connection(key, now),
                Phase::Away { expires_at } => {
                    if let Some(at) = expires_at {
                        self.timers.arm(at, key, TimerKind::Expiry);
                    }
                    if let Some(held) = &mut session.will {
                        if let Some(at) = held.timer_at() {
                            self.timers.disarm(at, key, TimerKind::Will);
                        }
                        held.comes_again_at = None;
                        held.number = 0;
                        let at = *held.due_at.get_or_insert(now);
                        self.timers.arm(at, key, TimerKind::Will);
                    }
                }
            }
        }
        for ((key, own), orphan) in &mut self.orphans {
            self.timers.disarm(orphan.due_at, *key, TimerKind::Orphan(*own));
            orphan.due_at = now;
            orphan.number = 0;
            orphan.left_by = None;
            self.timers.arm(now, *key, TimerKind::Orphan(*own));
        }
        self.rearm_left();
    }

    fn end_connection(&mut self, key: SessionKey, now: UnixMs) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        (session.sent, session.sent_at_most) = (session.sent_bound(), session.queue.tail());
        self.let_go(key, now, 0);
    }
}
