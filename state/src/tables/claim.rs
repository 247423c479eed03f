//! Who owns a session: claim, discard, release.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::journal::{Change, Dirty};
use super::session::{HeldWill, OwnerMark, Phase, Session};
use super::timer::{TimerKind, WILL_RETRY_MS};
use super::{SessionKey, Tables, Whose, share_of};
use crate::{
    CLAIM_SLACK_MS, Claim, Claimed, DueWill, Fence, Message, Previous, Principal, Release, ResumeRefusal,
    StoreError, StoredSession, UnixMs, WorkerId,
};

/// What is left of a session that was discarded.
struct Discarded {
    whose: Whose,
    /// Its Will Message, to be published now.
    will: Option<Arc<Message>>,
}

impl Tables {
    /// See [`crate::Store::claim`]. It is `worker` that asks, at `clock`, by the store's clock.
    pub(crate) fn claim(
        &mut self,
        claim: Claim,
        worker: WorkerId,
        clock: UnixMs,
    ) -> Result<Claimed, StoreError> {
        if claim.valid_ms.is_some_and(|valid_ms| claim.age_ms > valid_ms) {
            return Err(StoreError::TooLate);
        }
        let found = self.by_client.get(&claim.client_id).copied();
        let asked_at = clock.saturating_sub(claim.age_ms);
        let is_late = |session: &Session| {
            if session.connection_id == claim.connection_id {
                return claim.attempt < session.attempt;
            }
            // Who was told a time that is not yet had another clock.
            !claim.resume && asked_at + CLAIM_SLACK_MS < session.asked_at && session.asked_at <= clock
        };
        if found.and_then(|key| self.sessions.get(&key)).is_some_and(is_late) {
            return Ok(Claimed { refusal: Some(ResumeRefusal::TakenOver), ..Claimed::default() });
        }
        let kept = found.filter(|key| self.sessions.get(key).is_some_and(|found| found.survives(&claim)));
        if !claim.resume || kept.is_some() {
            let is_foreign = |session: &Session| session.is_foreign_to(&claim);
            if found.and_then(|key| self.sessions.get(&key)).is_some_and(is_foreign) {
                return Ok(Claimed { refusal: Some(ResumeRefusal::Foreign), ..Claimed::default() });
            }
        }
        let mut had_will = false;
        let previous = found.and_then(|key| self.previous(key, worker));
        // A Will goes with its connection: that one may ask for its session more than once.
        let is_same = |key| self.sessions.get(&key).is_some_and(|s| s.connection_id == claim.connection_id);
        let goes_on = found.is_some_and(is_same);
        let left_by = found.and_then(|key| self.sessions.get(&key)).and_then(Session::owner_mark);
        let mut answer = Claimed { previous, ..Claimed::default() };
        let is_own =
            |key| self.sessions.get(&key).is_some_and(|s| s.principal.as_ref() == Some(&claim.principal));
        let is_one_more = kept.is_none() && !found.is_some_and(is_own);
        if is_one_more && !claim.resume && claim.create && self.is_beyond_principal(&claim) {
            return Err(StoreError::PrincipalQuota);
        }
        match (kept, found) {
            (None, found) if claim.resume => {
                let refusal = found.map_or(ResumeRefusal::Gone, |_| ResumeRefusal::TakenOver);
                return Ok(Claimed { refusal: Some(refusal), ..Claimed::default() });
            }
            (Some(key), _) if claim.resume => had_will = self.keep_will(key),
            (Some(key), _) => {
                had_will = self.sessions.get(&key).is_some_and(|session| session.will.is_some());
                answer.will_due = self.settle_old_will(key, &claim);
            }
            (None, Some(key)) => {
                if let Some(Discarded { whose, will }) = self.discard(key) {
                    answer.discarded = Some(Arc::clone(&whose.session));
                    let will = will.filter(|_| !goes_on);
                    answer.will_due = will.and_then(|will| self.hand_out(whose, will, left_by, &claim));
                }
            }
            (None, None) if claim.create && self.sessions.len() as u64 >= self.limits.sessions_max => {
                return Err(StoreError::SessionQuota);
            }
            (None, None) => {}
        }
        let key = match kept {
            Some(key) => key,
            None if claim.create => self.make_session(&claim),
            None => return Ok(answer),
        };
        let dirty = Dirty { record: true, will: had_will || claim.will.is_some(), ..Dirty::default() };
        answer.session =
            self.take_over(key, claim, worker, dirty).map(|session| session.owned(kept.is_some()));
        if let Some(session) = self.sessions.get_mut(&key) {
            session.asked_at = asked_at;
        }
        Ok(answer)
    }

    fn make_session(&mut self, claim: &Claim) -> SessionKey {
        let key = SessionKey(self.new_key());
        let identity =
            Arc::new(StoredSession { client_id: Arc::clone(&claim.client_id), incarnation: key.0 });
        self.by_client.insert(Arc::clone(&claim.client_id), key);
        self.order.insert(key);
        self.sessions.insert(key, Session::new(identity, claim));
        self.count_principal(Some(&claim.principal), true);
        key
    }

    /// Whether the principal has as many sessions as it may have.
    fn is_beyond_principal(&mut self, claim: &Claim) -> bool {
        let own = claim.principal_sessions_max.filter(|_| !claim.principal.0.is_empty());
        let all = self.sessions.len() as u64;
        let share = share_of(self.limits.sessions_max);
        // The last of them are for those who have few.
        let share = share.filter(|share| all >= self.limits.sessions_max - share);
        let Some(max) = own.into_iter().chain(share).min() else { return false };
        let sessions = &self.sessions;
        let by_principal = self.by_principal.get_or_insert_with(|| {
            let mut counts: HashMap<Principal, u64> = HashMap::new();
            for principal in sessions.values().filter_map(|session| session.principal.as_ref()) {
                *counts.entry(principal.clone()).or_default() += 1;
            }
            counts
        });
        by_principal.get(&claim.principal).is_some_and(|count| *count >= max)
    }

    /// A principal has a session more, or less.
    fn count_principal(&mut self, principal: Option<&Principal>, is_more: bool) {
        let (Some(by_principal), Some(principal)) = (&mut self.by_principal, principal) else { return };
        let count = by_principal.entry(principal.clone()).or_default();
        *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            by_principal.remove(principal);
        }
    }

    /// Whose connection has a session, if it is another worker's.
    fn previous(&self, key: SessionKey, worker: WorkerId) -> Option<Previous> {
        let session = self.sessions.get(&key)?;
        let is_elsewhere = session.is_connected() && session.owner != worker;
        is_elsewhere.then_some(Previous { worker: session.owner, connection_id: session.connection_id })
    }

    fn take_over(
        &mut self,
        key: SessionKey,
        claim: Claim,
        worker: WorkerId,
        dirty: Dirty,
    ) -> Option<&Session> {
        let before = self.sessions.get(&key)?.principal.clone();
        if before.as_ref() != Some(&claim.principal) {
            self.count_principal(before.as_ref(), false);
            self.count_principal(Some(&claim.principal), true);
        }
        let session = self.sessions.get_mut(&key)?;
        if let Phase::Away { expires_at: Some(at) } = session.phase {
            self.timers.disarm_expiry(at, key);
        }
        if claim.resume {
            session.sent_elsewhere = session.connection_bound();
        } else {
            session.repeats = session.repeats_bound();
            session.sent_elsewhere = 1;
        }
        session.sent = session.sent_bound();
        session.epoch += 1;
        session.nonce = random();
        session.principal = Some(claim.principal);
        session.connection_id = claim.connection_id;
        session.attempt = claim.attempt;
        session.owner = worker;
        session.phase = Phase::Connected;
        session.last_batch = self.batch;
        session.protocol = claim.protocol;
        session.receive_maximum = claim.receive_maximum;
        session.is_memory_queue = claim.memory_queue;
        if !claim.resume {
            session.expiry_s = claim.expiry_s;
            session.limits = claim.limits;
            session.will =
                claim.will.map(|will| HeldWill { will, due_at: None, comes_again_at: None, number: 0 });
        }
        self.mark_dirty(key, dirty);
        self.sessions.get(&key)
    }

    /// The connection goes on, so its Will does, unless somebody is publishing it already. False if there is none.
    fn keep_will(&mut self, key: SessionKey) -> bool {
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        let Some(held) = session.will.take() else { return false };
        let whose = session.whose();
        if let Some(at) = held.timer_at() {
            self.timers.disarm(at, key, TimerKind::Will);
        }
        match held.comes_again_at {
            Some(at) => self.adopt(whose, held.will.message, at, held.number),
            None => session.will = Some(HeldWill { due_at: None, ..held }),
        }
        true
    }

    /// Decides about the Will that an earlier connection left when a new one continues the session.
    fn settle_old_will(&mut self, key: SessionKey, claim: &Claim) -> Option<DueWill> {
        let session = self.sessions.get_mut(&key)?;
        let left_by = session.owner_mark();
        let held = session.will.take()?;
        let whose = session.whose();
        let goes_on = session.connection_id == claim.connection_id;
        let due = match session.phase {
            // v5 3.1.4: the old connection is closed, and its Will is sent unless a delay lets the new one cancel it.
            Phase::Connected => (held.will.delay_s == 0).then_some(held.will.message),
            Phase::Away { .. } => self.disarm_will(&whose, held, Some(claim.now)),
        };
        // The device's connection goes on elsewhere: its Will goes with it.
        let due = due.filter(|_| !goes_on)?;
        self.hand_out(whose, due, left_by, claim)
    }

    /// A Will that is due by a claim. That of a connection which may still have a last word waits for it; else it is answered to
    /// be published now, and comes again if that is not finished, since the answer may be lost.
    fn hand_out(
        &mut self,
        whose: Whose,
        message: Arc<Message>,
        left_by: Option<OwnerMark>,
        claim: &Claim,
    ) -> Option<DueWill> {
        if let Some(left_by) = left_by.filter(|_| claim.will_wait_ms > 0) {
            self.keep_for_last_word(whose, message, claim.now + claim.will_wait_ms, left_by);
            return None;
        }
        let number = self.timers.number(0);
        self.adopt(whose.clone(), Arc::clone(&message), claim.now + WILL_RETRY_MS, number);
        Some(DueWill { session: whose.session, principal: whose.principal, message, number })
    }

    /// Takes an armed Will out of the timers. Answers it if it is to be published now; a Will that somebody is publishing
    /// already stays with them. Before its time, v5 [MQTT-3.1.3-9] forbids it when a connection continues the session
    /// at `resumed_at`.
    fn disarm_will(
        &mut self,
        whose: &Whose,
        held: HeldWill,
        resumed_at: Option<UnixMs>,
    ) -> Option<Arc<Message>> {
        self.timers.disarm(held.timer_at()?, SessionKey(whose.session.incarnation), TimerKind::Will);
        if let Some(comes_again_at) = held.comes_again_at {
            self.adopt(whose.clone(), held.will.message, comes_again_at, held.number);
            return None;
        }
        let due_at = held.due_at?;
        // One without a delay waits only because the connection might have gone on elsewhere, and it has not.
        resumed_at.is_none_or(|now| due_at <= now || held.will.delay_s == 0).then_some(held.will.message)
    }

    fn discard(&mut self, key: SessionKey) -> Option<Discarded> {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.sent = session.sent_bound();
        }
        let mut gone = self.remove(key)?;
        let (held, whose) = (gone.will.take(), gone.whose());
        let will = match gone.phase {
            Phase::Connected => held.map(|held| held.will.message),
            Phase::Away { .. } => held.and_then(|held| self.disarm_will(&whose, held, None)),
        };
        Some(Discarded { whose, will })
    }

    /// Removes a session with everything that it has, except that its Will is the caller's to settle when it was armed
    /// (its timer is still in place).
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.sessions.remove(&key)?;
        self.count_principal(session.principal.as_ref(), false);
        self.bequeath(&session);
        self.by_client.remove(&session.identity.client_id);
        if self.journal.is_on() {
            self.departed.insert(Arc::clone(&session.identity.client_id), self.batch);
        }
        self.order.remove(&key);
        if let Phase::Away { expires_at: Some(at) } = session.phase {
            self.timers.disarm_expiry(at, key);
        }
        for body in session.queue.shared_bodies() {
            self.release_body(body);
        }
        self.totals.queued_messages -= session.queue.live();
        self.totals.queued_bytes -= session.queue.bytes();
        self.totals.subscriptions -= session.subscriptions.len() as u64;
        self.resident_bytes -= session.queue.resident_bytes();
        for subscription in &session.subscriptions {
            let filter = Arc::clone(&subscription.filter);
            self.journal.note(Change::Unsubscribed { session: key, filter });
        }
        self.journal.note(Change::SessionGone { session: key });
        Some(session)
    }

    /// See [`crate::Store::release`].
    pub(crate) fn release(&mut self, fence: &Fence, release: &Release) -> Result<(), StoreError> {
        self.take_back(fence);
        if let Err(refused) = self.owned(fence) {
            self.take_last_word(fence, release.keep_will.then_some(release.now));
            return Err(refused);
        }
        let session = self.owned(fence)?;
        let key = session.key();
        session.expiry_s = release.expiry_s;
        session.sent = release.sent.0.clamp(session.queue.head(), session.queue.tail());
        session.sent_at_most = session.sent;
        if !release.keep_will {
            session.will = None;
        }
        self.let_go(key, release.now, release.grace_ms);
        Ok(())
    }

    /// A session that others let go of, since they took its owner for dead, and that nobody has had since, is its owner's
    /// again; a Will that somebody is publishing stays with them.
    fn take_back(&mut self, fence: &Fence) {
        let key = SessionKey(fence.session.incarnation);
        let Some(session) = self.sessions.get_mut(&key).filter(|it| it.was_last_owned_by(fence)) else {
            return;
        };
        if let Phase::Away { expires_at: Some(at) } = std::mem::replace(&mut session.phase, Phase::Connected)
        {
            self.timers.disarm_expiry(at, key);
        }
        if self.keep_will(key) {
            self.mark_dirty(key, Dirty { will: true, ..Dirty::default() });
        }
    }

    /// See [`crate::Store::drop_will`].
    pub(crate) fn drop_will(&mut self, fence: &Fence) -> Result<(), StoreError> {
        let session = self.owned(fence)?;
        let key = session.key();
        if session.will.take().is_some() {
            self.mark_dirty(key, Dirty { will: true, ..Dirty::default() });
        }
        Ok(())
    }

    /// Lets go of all sessions that a worker owns. See [`crate::Cluster::bury`].
    #[cfg(feature = "testing")]
    pub(crate) fn bury(&mut self, worker: WorkerId, grace_ms: u64, now: UnixMs) {
        let owned: Vec<SessionKey> = self
            .order
            .iter()
            .filter(|key| {
                self.sessions
                    .get(key)
                    .is_some_and(|session| session.is_connected() && session.owner == worker)
            })
            .copied()
            .collect();
        for key in owned {
            if let Some(session) = self.sessions.get_mut(&key) {
                (session.sent, session.sent_at_most) = (session.sent_bound(), session.queue.tail());
            }
            self.let_go(key, now, grace_ms);
        }
    }

    /// A session has no owner any more: it ends now if it has no time left, and leaves its Will; else its timers start.
    pub(super) fn let_go(&mut self, key: SessionKey, now: UnixMs, grace_ms: u64) {
        let outlives = |session: &Session| session.expiry_s > 0 || grace_ms > 0;
        // What it leaves may have to wait, and it with that.
        if self.sessions.get(&key).is_some_and(outlives) || self.has_to_wait(key) {
            self.leave(key, now.saturating_add(grace_ms));
        } else if let Some(mut gone) = self.remove(key)
            && let Some(held) = gone.will.take()
        {
            self.adopt(gone.whose(), held.will.message, now, 0);
        }
    }

    /// Starts the timers of a session whose owner is gone since `now`.
    fn leave(&mut self, key: SessionKey, now: UnixMs) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let expires_at = session.expires_at(now);
        session.phase = Phase::Away { expires_at };
        if let Some(at) = expires_at {
            self.timers.arm(at, key, TimerKind::Expiry);
        }
        let due_at = session.will.as_ref().map(|held| session.will_due_at(held.will.delay_s, now));
        if let (Some(at), Some(held)) = (due_at, &mut session.will) {
            held.due_at = Some(at);
            self.timers.arm(at, key, TimerKind::Will);
        }
        self.mark_dirty(key, Dirty { record: true, will: true, ..Dirty::default() });
    }
}

/// Differs from claim to claim and from process to process.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}
