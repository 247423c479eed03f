//! What is to happen when: Wills after their delay, sessions at their expiry, and Wills that outlived their session.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Of a Will that outlived its session: its own key.
    Orphan(u64),
    Will,
    Expiry,
}

/// Timers by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(UnixMs, SessionKey, TimerKind)>,
    /// How many Wills have been handed out.
    hand_outs: u64,
}

impl Timers {
    pub(super) fn arm(&mut self, at: UnixMs, key: SessionKey, kind: TimerKind) {
        self.by_time.insert((at, key, kind));
    }

    pub(super) fn disarm(&mut self, at: UnixMs, key: SessionKey, kind: TimerKind) {
        self.by_time.remove(&(at, key, kind));
    }

    pub(super) fn next_hand_out(&mut self) -> u64 {
        self.hand_outs += 1;
        self.hand_outs
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
    /// When it is due, or comes again.
    pub(super) due_at: UnixMs,
    /// The latest hand-out, 0 for none.
    pub(super) hand_out: u64,
}

/// Wills whose sessions are gone: by session, and a key of their own, since a session may leave several behind.
pub(super) type Orphans = BTreeMap<(SessionKey, u64), OrphanWill>;

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
                TimerKind::Orphan(own) => due.extend(self.hand_out_orphan(key, own, now)),
                TimerKind::Will => due.extend(self.hand_out_will(key, now)),
                TimerKind::Expiry => due.extend(self.expire(key, now)),
            }
        }
        due
    }

    fn hand_out_orphan(&mut self, key: SessionKey, own: u64, now: UnixMs) -> Option<Due> {
        let orphan = self.orphans.get_mut(&(key, own))?;
        orphan.due_at = now + WILL_RETRY_MS;
        orphan.hand_out = self.timers.next_hand_out();
        self.timers.arm(orphan.due_at, key, TimerKind::Orphan(own));
        Some(Due::Will(Arc::clone(&orphan.session), Arc::clone(&orphan.message)))
    }

    fn hand_out_will(&mut self, key: SessionKey, now: UnixMs) -> Option<Due> {
        let session = self.sessions.get_mut(&key)?;
        let held = session.will.as_mut()?;
        held.comes_again_at = Some(now + WILL_RETRY_MS);
        held.hand_out = self.timers.next_hand_out();
        self.timers.arm(now + WILL_RETRY_MS, key, TimerKind::Will);
        Some(Due::Will(Arc::clone(&session.identity), Arc::clone(&held.will.message)))
    }

    /// Deletes an expired session. Its Will was handed out before, since it is never due later.
    fn expire(&mut self, key: SessionKey, now: UnixMs) -> Option<Due> {
        let mut gone = self.remove(key)?;
        if let Some(held) = gone.will.take() {
            let due_at = held.timer_at().unwrap_or(now);
            self.timers.disarm(due_at, key, TimerKind::Will);
            self.adopt(&gone.identity, held.will.message, due_at, held.hand_out);
        }
        Some(Due::Expired(Arc::clone(&gone.identity)))
    }

    /// Keeps a Will whose session is gone until it is finished.
    pub(super) fn adopt(
        &mut self,
        session: &Arc<StoredSession>,
        message: Arc<Message>,
        due_at: UnixMs,
        hand_out: u64,
    ) {
        let own = self.new_key();
        let (session, note) = (Arc::clone(session), Arc::clone(&message));
        self.journal.note(Change::OrphanWill { session: Arc::clone(&session), own, message: note });
        self.keep_orphan(own, OrphanWill { session, message, due_at, hand_out });
    }

    pub(super) fn keep_orphan(&mut self, own: u64, orphan: OrphanWill) {
        let key = SessionKey(orphan.session.incarnation);
        self.timers.arm(orphan.due_at, key, TimerKind::Orphan(own));
        self.orphans.insert((key, own), orphan);
    }

    /// A Will that was handed out has been published: of several of one session, the one that was handed out last.
    pub(crate) fn finish_will(&mut self, session: &StoredSession) {
        let key = SessionKey(session.incarnation);
        let orphan = self
            .orphans
            .range((key, 0)..=(key, u64::MAX))
            .filter(|(_, orphan)| orphan.hand_out > 0)
            .max_by_key(|(_, orphan)| orphan.hand_out)
            .map(|((_, own), orphan)| (orphan.hand_out, *own, orphan.due_at));
        let held = self.sessions.get(&key).and_then(|found| {
            let held = found.will.as_ref()?;
            Some((held.hand_out, held.comes_again_at?))
        });
        match (orphan, held) {
            (Some((hand_out, own, due_at)), held) if held.is_none_or(|(other, _)| other < hand_out) => {
                self.orphans.remove(&(key, own));
                self.timers.disarm(due_at, key, TimerKind::Orphan(own));
                self.journal.note(Change::OrphanWillGone { session: key, own });
            }
            (_, Some((_, at))) => {
                if let Some(found) = self.sessions.get_mut(&key) {
                    found.will = None;
                }
                self.timers.disarm(at, key, TimerKind::Will);
                self.mark_dirty(key, Dirty { will: true, ..Dirty::default() });
            }
            _ => {}
        }
    }
}
