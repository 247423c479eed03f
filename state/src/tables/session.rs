//! One session: whose it is, when it ends, what is under way.

use std::sync::Arc;

use mqtt::{PacketId, ProtocolVersion};

use super::journal::{Dirty, SessionImage, SessionRecord, WillRecord};
use super::queue::Queue;
use super::{SOLE_WORKER, SessionKey, Tables, Whose};
use crate::{
    Claim, ConnectionId, EXPIRY_NEVER, Fence, Number, Owned, Principal, QueueLimits, StoredSession,
    Subscription, UnixMs, Will, WorkerId,
};

/// Whether somebody owns the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has an owner.
    Connected,
    /// It has none, and ends at a time, or never.
    Away { expires_at: Option<UnixMs> },
}

/// One owner of a session among all that it has had, as its fence has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerMark {
    pub(super) epoch: u64,
    pub(super) nonce: u64,
}

/// A Will that may have to be published.
#[derive(Clone, Debug)]
pub(super) struct HeldWill {
    pub(super) will: Will,
    /// `None`: not armed.
    pub(super) due_at: Option<UnixMs>,
    /// Somebody was told to publish it, and has not said that it is done; when it comes again.
    pub(super) comes_again_at: Option<UnixMs>,
    /// As in [`crate::DueWill::number`]; 0 until it is handed out.
    pub(super) number: u64,
}

impl HeldWill {
    /// When its timer goes off, if it has one.
    pub(super) fn timer_at(&self) -> Option<UnixMs> {
        self.comes_again_at.or(self.due_at)
    }
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) identity: Arc<StoredSession>,
    /// Whose it is; `None` if an earlier version stored it and nobody has come since.
    pub(super) principal: Option<Principal>,
    pub(super) epoch: u64,
    pub(super) nonce: u64,
    pub(super) connection_id: ConnectionId,
    /// Of the last claim; 0 after a restart, whose connections are gone.
    pub(super) attempt: u32,
    /// When that was asked for, by the store's clock; 0 after a restart.
    pub(super) asked_at: UnixMs,
    /// Whose connection has it, or had it last.
    pub(super) owner: WorkerId,
    pub(super) phase: Phase,
    pub(super) expiry_s: u32,
    pub(super) limits: QueueLimits,
    /// Its queue is in its worker's memory.
    pub(super) is_memory_queue: bool,
    pub(super) protocol: ProtocolVersion,
    pub(super) receive_maximum: u16,
    pub(super) will: Option<HeldWill>,
    pub(super) sent: u64,
    /// Messages below this may have been sent on a connection before the last one.
    pub(super) repeats: u64,
    /// Of a session that is away: messages below this may have been sent on its last connection. More than `sent` if
    /// acknowledgements were lost with its worker.
    pub(super) sent_at_most: u64,
    /// Messages below this may have been sent on the last connection by workers that had it before the last one.
    pub(super) sent_elsewhere: u64,
    /// Sorted by filter.
    pub(super) subscriptions: Vec<Subscription>,
    /// Sorted.
    pub(super) received: Vec<PacketId>,
    pub(super) queue: Queue,
    pub(super) dirty: Dirty,
    pub(super) last_batch: u64,
    /// It is in the list of sessions with bodies in memory.
    pub(super) is_listed_resident: bool,
}

impl Session {
    /// A session that nobody owns yet.
    pub(super) fn new(identity: Arc<StoredSession>, claim: &Claim) -> Self {
        Self {
            identity,
            principal: Some(claim.principal.clone()),
            epoch: 0,
            nonce: 0,
            connection_id: claim.connection_id,
            attempt: claim.attempt,
            asked_at: 0,
            owner: SOLE_WORKER,
            phase: Phase::Away { expires_at: None },
            expiry_s: claim.expiry_s,
            limits: claim.limits,
            is_memory_queue: claim.memory_queue,
            protocol: claim.protocol,
            receive_maximum: claim.receive_maximum,
            will: None,
            sent: 1,
            repeats: 1,
            sent_at_most: 1,
            sent_elsewhere: 1,
            subscriptions: Vec::new(),
            received: Vec::new(),
            queue: Queue::new(1),
            dirty: Dirty::default(),
            last_batch: 0,
            is_listed_resident: false,
        }
    }

    pub(super) fn key(&self) -> SessionKey {
        SessionKey(self.identity.incarnation)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    /// Who owns it now, if somebody does.
    pub(super) fn owner_mark(&self) -> Option<OwnerMark> {
        self.is_connected().then_some(OwnerMark { epoch: self.epoch, nonce: self.nonce })
    }

    pub(super) fn is_owned_by(&self, fence: &Fence) -> bool {
        self.is_connected() && self.was_last_owned_by(fence)
    }

    /// Whether nobody has had it since this owner.
    pub(super) fn was_last_owned_by(&self, fence: &Fence) -> bool {
        self.epoch == fence.epoch
            && self.nonce == fence.nonce
            && self.identity.incarnation == fence.session.incarnation
    }

    /// The session, and who it belongs to.
    pub(super) fn whose(&self) -> Whose {
        Whose { session: Arc::clone(&self.identity), principal: self.principal.clone() }
    }

    /// Whether it is not over.
    fn is_there(&self, now: UnixMs) -> bool {
        match self.phase {
            Phase::Connected => true,
            Phase::Away { expires_at } => expires_at.is_none_or(|at| at > now),
        }
    }

    /// Whether the claim is of somebody whom it does not belong to. What is over belongs to nobody.
    pub(super) fn is_foreign_to(&self, claim: &Claim) -> bool {
        let is_other = self.principal.as_ref().is_some_and(|principal| *principal != claim.principal);
        is_other && self.is_there(claim.now)
    }

    /// Whether the claim finds this session, rather than none.
    pub(super) fn survives(&self, claim: &Claim) -> bool {
        if claim.resume {
            return self.connection_id == claim.connection_id;
        }
        // The takeover closes the old connection first (v5 3.1.4), and a session without expiry ends with it.
        let outlives = self.expiry_s > 0 || self.connection_id == claim.connection_id;
        // v5 [MQTT-3.1.2-4]
        !claim.clean_start && outlives && self.is_there(claim.now)
    }

    /// An upper bound of what may have been sent, from what is known now.
    pub(super) fn sent_bound(&self) -> u64 {
        let bound = if self.is_connected() {
            self.sent.max(self.queue.sent_bound(u64::from(self.receive_maximum)))
        } else {
            self.sent
        };
        bound.clamp(self.queue.head(), self.queue.tail())
    }

    /// A bound of what may have been sent on the last connection that holds too when its workers knew of acknowledgements that
    /// have not come here: what they sent for them is behind what looks unacknowledged.
    pub(super) fn connection_bound(&self) -> u64 {
        let last = if self.is_connected() { self.queue.tail() } else { self.sent.max(self.sent_at_most) };
        last.max(self.sent_elsewhere).clamp(self.queue.head(), self.queue.tail())
    }

    /// As [`Session::connection_bound`], of all connections so far.
    pub(super) fn repeats_bound(&self) -> u64 {
        self.connection_bound().max(self.repeats)
    }

    /// When it ends if its owner leaves at `now`.
    pub(super) fn expires_at(&self, now: UnixMs) -> Option<UnixMs> {
        (self.expiry_s != EXPIRY_NEVER).then(|| now + u64::from(self.expiry_s) * 1000)
    }

    /// When the Will is due if the owner leaves at `now`: after its delay or with the session. v5 3.1.3.2.2
    pub(super) fn will_due_at(&self, delay_s: u32, now: UnixMs) -> UnixMs {
        now + u64::from(delay_s.min(self.expiry_s)) * 1000
    }

    /// The answer for a new owner.
    pub(super) fn owned(&self, present: bool) -> Owned {
        let fence = Fence { session: Arc::clone(&self.identity), epoch: self.epoch, nonce: self.nonce };
        Owned {
            fence,
            present,
            subscriptions: self.subscriptions.clone(),
            head: Number(self.queue.head()),
            tail: Number(self.queue.tail()),
            sent: Number(self.sent),
            repeats: Number(self.repeats.max(self.queue.head())),
            received: self.received.clone(),
            expiry_s: self.expiry_s,
        }
    }

    fn record(&self) -> SessionRecord {
        SessionRecord {
            client_id: Arc::clone(&self.identity.client_id),
            principal: self.principal.clone(),
            epoch: self.epoch,
            connection_id: self.connection_id,
            connected: self.is_connected(),
            expires_at: match self.phase {
                Phase::Connected => None,
                Phase::Away { expires_at } => expires_at,
            },
            expiry_s: self.expiry_s,
            limits: self.limits,
            is_memory_queue: self.is_memory_queue,
            protocol: self.protocol,
            receive_maximum: self.receive_maximum,
            sent: self.sent,
        }
    }

    fn will_record(&self) -> Option<WillRecord> {
        self.will.as_ref().map(|held| WillRecord {
            message: Arc::clone(&held.will.message),
            delay_s: held.will.delay_s,
            due_at: held.due_at,
        })
    }

    fn take_image(&mut self) -> SessionImage {
        let dirty = std::mem::take(&mut self.dirty);
        SessionImage {
            key: self.key(),
            record: dirty.record.then(|| self.record()),
            will: dirty.will.then(|| self.will_record()),
            head: self.queue.head(),
            is_head_moved: dirty.head,
            received: dirty.received.then(|| self.received.clone()),
        }
    }
}

impl Tables {
    /// Notes that parts of a session are to be written with the next batch.
    pub(super) fn mark_dirty(&mut self, key: SessionKey, dirty: Dirty) {
        if !self.journal.is_on() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&key) {
            if session.dirty.is_clean() {
                self.journal.note_dirty(key);
            }
            session.dirty.add(dirty);
        }
    }

    /// The changed parts of all sessions that changed.
    pub(crate) fn take_images(&mut self) -> Vec<SessionImage> {
        let dirty = self.journal.take_dirty();
        dirty.iter().filter_map(|key| self.sessions.get_mut(key).map(Session::take_image)).collect()
    }
}
