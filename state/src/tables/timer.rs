//! What is to happen when: Wills after their delay, sessions at their expiry, and Wills that outlived their session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::journal::{Change, Dirty};
use super::session::OwnerMark;
use super::{SessionKey, Tables, Whose};
use crate::{Due, DueWill, Fence, Message, UnixMs};

/// A Will that was handed out comes again after this long, unless it was finished.
pub(crate) const WILL_RETRY_MS: u64 = 30_000;

/// Which timer; a session's Will goes before its expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKind {
    /// Of a Will that outlived its session: its own key.
    Orphan(u64),
    /// Of a message that a member of a share left: its number.
    Left(u64),
    Will,
    Expiry,
}

/// Timers by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(UnixMs, SessionKey, TimerKind)>,
    /// Sessions whose expiry has come, and which wait until others have what was left before.
    waiting: BTreeSet<SessionKey>,
    /// How many Wills have been numbered.
    numbered: u64,
}

impl Timers {
    pub(super) fn arm(&mut self, at: UnixMs, key: SessionKey, kind: TimerKind) {
        self.by_time.insert((at, key, kind));
    }

    pub(super) fn disarm(&mut self, at: UnixMs, key: SessionKey, kind: TimerKind) {
        self.by_time.remove(&(at, key, kind));
    }

    /// Takes a session's expiry away, whether it has come or not.
    pub(super) fn disarm_expiry(&mut self, at: UnixMs, key: SessionKey) {
        self.disarm(at, key, TimerKind::Expiry);
        self.waiting.remove(&key);
    }

    /// Nothing waits: all expiries are to be armed anew.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// How many expiries have come and wait, for the invariants.
    #[cfg(all(feature = "testing", debug_assertions))]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The number of a Will that is handed out: the one that it has, or a new one.
    pub(super) fn number(&mut self, number: u64) -> u64 {
        if number > 0 {
            return number;
        }
        self.numbered += 1;
        self.numbered
    }

    fn pop_due(&mut self, now: UnixMs) -> Option<(SessionKey, TimerKind)> {
        let (at, key, kind) = self.by_time.first().copied()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        Some((key, kind))
    }

    /// All timers, for the invariants.
    #[cfg(all(feature = "testing", debug_assertions))]
    pub(super) fn iter(&self) -> impl Iterator<Item = &(UnixMs, SessionKey, TimerKind)> {
        self.by_time.iter()
    }
}

/// A Will whose session is gone and that is not published yet.
#[derive(Debug)]
pub(super) struct OrphanWill {
    pub(super) whose: Whose,
    pub(super) message: Arc<Message>,
    /// When it is due, or comes again.
    pub(super) due_at: UnixMs,
    /// As in [`crate::DueWill::number`]; 0 until it is handed out.
    pub(super) number: u64,
    /// It waits for the last word of this owner of the session.
    pub(super) left_by: Option<OwnerMark>,
}

/// Wills whose sessions are gone: by session, and a key of their own, since a session may leave several behind.
pub(super) type Orphans = BTreeMap<(SessionKey, u64), OrphanWill>;

impl Tables {
    /// Whether [`Tables::claim_due`] would find something.
    pub(crate) fn is_due(&self, now: UnixMs) -> bool {
        self.timers.by_time.first().is_some_and(|(at, _, _)| *at <= now) || self.next_waiting().is_some()
    }

    /// A session that has waited to expire and need not any more.
    fn next_waiting(&self) -> Option<SessionKey> {
        self.timers.waiting.first().copied().filter(|key| !self.leaves_too_much(*key))
    }

    /// Takes what is due.
    pub(crate) fn claim_due(&mut self, now: UnixMs, max: usize) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < max
            && let Some(key) = self.next_waiting()
        {
            self.timers.waiting.remove(&key);
            due.extend(self.expire(key, now));
        }
        while due.len() < max
            && let Some((key, kind)) = self.timers.pop_due(now)
        {
            match kind {
                TimerKind::Left(number) => due.extend(self.hand_out_left(key, number, now)),
                TimerKind::Orphan(own) => due.extend(self.hand_out_orphan(key, own, now)),
                TimerKind::Will => due.extend(self.hand_out_will(key, now)),
                TimerKind::Expiry if self.has_to_wait(key) => {
                    self.timers.waiting.insert(key);
                }
                TimerKind::Expiry => due.extend(self.expire(key, now)),
            }
        }
        due
    }

    fn hand_out_orphan(&mut self, key: SessionKey, own: u64, now: UnixMs) -> Option<Due> {
        let orphan = self.orphans.get_mut(&(key, own))?;
        orphan.due_at = now + WILL_RETRY_MS;
        orphan.number = self.timers.number(orphan.number);
        orphan.left_by = None;
        self.timers.arm(orphan.due_at, key, TimerKind::Orphan(own));
        let Whose { session, principal } = orphan.whose.clone();
        let message = Arc::clone(&orphan.message);
        Some(Due::Will(DueWill { session, principal, message, number: orphan.number }))
    }

    fn hand_out_will(&mut self, key: SessionKey, now: UnixMs) -> Option<Due> {
        let session = self.sessions.get_mut(&key)?;
        let held = session.will.as_mut()?;
        held.comes_again_at = Some(now + WILL_RETRY_MS);
        held.number = self.timers.number(held.number);
        self.timers.arm(now + WILL_RETRY_MS, key, TimerKind::Will);
        let (message, number) = (Arc::clone(&held.will.message), held.number);
        let Whose { session, principal } = session.whose();
        Some(Due::Will(DueWill { session, principal, message, number }))
    }

    /// Deletes an expired session. Its Will was handed out before, since it is never due later.
    fn expire(&mut self, key: SessionKey, now: UnixMs) -> Option<Due> {
        let mut gone = self.remove(key)?;
        if let Some(held) = gone.will.take() {
            let due_at = held.timer_at().unwrap_or(now);
            self.timers.disarm(due_at, key, TimerKind::Will);
            self.adopt(gone.whose(), held.will.message, due_at, held.number);
        }
        Some(Due::Expired(Arc::clone(&gone.identity)))
    }

    /// Keeps a Will whose session is gone until it is finished.
    pub(super) fn adopt(&mut self, whose: Whose, message: Arc<Message>, due_at: UnixMs, number: u64) {
        self.adopt_of(whose, message, due_at, number, None);
    }

    /// Keeps the Will of an owner that lost the session, until its last word or this time.
    pub(super) fn keep_for_last_word(
        &mut self,
        whose: Whose,
        message: Arc<Message>,
        due_at: UnixMs,
        left_by: OwnerMark,
    ) {
        self.adopt_of(whose, message, due_at, 0, Some(left_by));
    }

    fn adopt_of(
        &mut self,
        whose: Whose,
        message: Arc<Message>,
        due_at: UnixMs,
        number: u64,
        left_by: Option<OwnerMark>,
    ) {
        let own = self.new_key();
        let note = Arc::clone(&message);
        self.journal.note(Change::OrphanWill { whose: whose.clone(), own, message: note });
        self.keep_orphan(own, OrphanWill { whose, message, due_at, number, left_by });
    }

    /// The last word of an owner that lost the session: if its Will waits for that, it is due at a time, or dropped.
    pub(super) fn take_last_word(&mut self, fence: &Fence, due_at: Option<UnixMs>) {
        let key = SessionKey(fence.session.incarnation);
        let left_by = Some(OwnerMark { epoch: fence.epoch, nonce: fence.nonce });
        let mut orphans = self.orphans.range_mut((key, 0)..=(key, u64::MAX));
        let Some(((_, own), orphan)) = orphans.find(|(_, orphan)| orphan.left_by == left_by) else { return };
        let own = *own;
        self.timers.disarm(orphan.due_at, key, TimerKind::Orphan(own));
        match due_at {
            Some(due_at) => {
                (orphan.due_at, orphan.left_by) = (due_at, None);
                self.timers.arm(due_at, key, TimerKind::Orphan(own));
            }
            None => {
                self.orphans.remove(&(key, own));
                self.journal.note(Change::OrphanWillGone { session: key, own });
            }
        }
    }

    pub(super) fn keep_orphan(&mut self, own: u64, orphan: OrphanWill) {
        let key = SessionKey(orphan.whose.session.incarnation);
        self.timers.arm(orphan.due_at, key, TimerKind::Orphan(own));
        self.orphans.insert((key, own), orphan);
    }

    /// See [`crate::Store::finish_will`].
    pub(crate) fn finish_will(&mut self, will: &DueWill) {
        let key = SessionKey(will.session.incarnation);
        let mut orphans = self.orphans.range((key, 0)..=(key, u64::MAX));
        let orphan = orphans.find(|(_, orphan)| orphan.number == will.number);
        if let Some((own, due_at)) = orphan.map(|((_, own), orphan)| (*own, orphan.due_at)) {
            self.orphans.remove(&(key, own));
            self.timers.disarm(due_at, key, TimerKind::Orphan(own));
            self.journal.note(Change::OrphanWillGone { session: key, own });
            return;
        }
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if let Some(held) = session.will.take_if(|held| held.number == will.number) {
            if let Some(at) = held.timer_at() {
                self.timers.disarm(at, key, TimerKind::Will);
            }
            self.mark_dirty(key, Dirty { will: true, ..Dirty::default() });
        }
    }
}
