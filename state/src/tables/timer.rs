//! What is to happen when: Wills after their delay, sessions at their expiry, and Wills that outlived their session.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::SessionKey;
use super::Tables;
use super::journal::{Change, Dirty};
use crate::{Due, Message, StoredSession, UnixMs};

/// A Will that was handed out comes again after this long, unless it was finished.
pub(crate) const WILL_RETRY_MS: u64 = 30_000;

/// Which timer; a session's Will goes before its expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKind {
    Orphan,
    Will,
    Expiry,
}

/// Timers by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(UnixMs, SessionKey, TimerKind)>,
}

impl Timers {
    pub(super) fn arm(&mut self, at: UnixMs, key: SessionKey, kind: TimerKind) {
        self.by_time.insert((at, key, kind));
    }

    pub(super) fn disarm(&mut self, at: UnixMs, key: SessionKey, kind: TimerKind) {
        self.by_time.remove(&(at, key, kind));
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
    #[cfg(debug_assertions)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &(UnixMs, SessionKey, TimerKind)> {
        self.by_time.iter()
    }
}

/// A Will whose session is gone and that is not published yet.
#[derive(Debug)]
pub(super) struct OrphanWill {
    pub(super) session: Arc<StoredSession>,
    pub(super) message: Arc<Message>,
    pub(super) due_at: UnixMs,
}

impl Tables {
    /// Whether [`Tables::claim_due`] would find something.
    pub(crate) fn is_due(&self, now: UnixMs) -> bool {
        self.timers.by_time.first().is_some_and(|(at, _, _)| *at <= now)
    }

    /// Takes what is due.
    pub(crate) fn claim_due(&mut self, now: UnixMs, max: usize) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < max
            && let Some((key, kind)) = self.timers.pop_due(now)
        {
            match kind {
                TimerKind::Orphan => due.extend(self.hand_out_orphan(key, now)),
                TimerKind::Will => due.extend(self.hand_out_will(key, now)),
                TimerKind::Expiry => due.extend(self.expire(key, now)),
            }
        }
        due
    }

    fn hand_out_orphan(&mut self, key: SessionKey, now: UnixMs) -> Option<Due> {
        let orphan = self.orphans.get_mut(&key)?;
        orphan.due_at = now + WILL_RETRY_MS;
        self.timers.arm(orphan.due_at, key, TimerKind::Orphan);
        Some(Due::Will(Arc::clone(&orphan.session), Arc::clone(&orphan.message)))
    }

    fn hand_out_will(&mut self, key: SessionKey, now: UnixMs) -> Option<Due> {
        let session = self.sessions.get_mut(&key)?;
        let held = session.will.as_mut()?;
        held.comes_again_at = Some(now + WILL_RETRY_MS);
        self.timers.arm(now + WILL_RETRY_MS, key, TimerKind::Will);
        Some(Due::Will(Arc::clone(&session.identity), Arc::clone(&held.will.message)))
    }

    /// Deletes an expired session. Its Will was handed out before, since it is never due later.
    fn expire(&mut self, key: SessionKey, now: UnixMs) -> Option<Due> {
        let mut gone = self.remove(key)?;
        if let Some(held) = gone.will.take() {
            let due_at = held.timer_at().unwrap_or(now);
            self.timers.disarm(due_at, key, TimerKind::Will);
            self.adopt(&gone.identity, held.will.message, due_at);
        }
        Some(Due::Expired(Arc::clone(&gone.identity)))
    }

    /// Keeps a Will whose session is gone until it is finished.
    pub(super) fn adopt(&mut self, session: &Arc<StoredSession>, message: Arc<Message>, due_at: UnixMs) {
        let key = SessionKey(session.incarnation);
        self.journal.note(Change::OrphanWill { session: Arc::clone(session), message: Arc::clone(&message) });
        self.adopt_restored(key, OrphanWill { session: Arc::clone(session), message, due_at });
    }

    pub(super) fn adopt_restored(&mut self, key: SessionKey, orphan: OrphanWill) {
        let due_at = orphan.due_at;
        // One session leaves at most one: an earlier one was handed out, and publishing it is its claimant's to do.
        if let Some(old) = self.orphans.insert(key, orphan) {
            self.timers.disarm(old.due_at, key, TimerKind::Orphan);
        }
        self.timers.arm(due_at, key, TimerKind::Orphan);
    }

    /// A Will that was handed out has been published.
    pub(crate) fn finish_will(&mut self, session: &StoredSession) {
        let key = SessionKey(session.incarnation);
        if let Some(orphan) = self.orphans.remove(&key) {
            self.timers.disarm(orphan.due_at, key, TimerKind::Orphan);
            self.journal.note(Change::OrphanWillGone { session: key });
        } else if let Some(found) = self.sessions.get_mut(&key)
            && let Some(held) = found.will.take_if(|held| held.comes_again_at.is_some())
        {
            if let Some(at) = held.timer_at() {
                self.timers.disarm(at, key, TimerKind::Will);
            }
            self.mark_dirty(key, Dirty { will: true, ..Dirty::default() });
        }
    }
}
