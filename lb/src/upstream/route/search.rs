//! A search for a worker, from the moment that the device has none until one has the session.

use tokio::time::Instant;

use super::output::Next;
use super::place::Place;
use crate::upstream::metrics::MoveReason;

/// One search.
pub(super) struct Search<P: Place> {
    pub(super) since: Instant,
    pub(super) reason: MoveReason,
    /// When the search has failed; later when a store was away.
    pub(super) deadline: Instant,
    /// When the worker that is being asked has to have answered.
    pub(super) answer_by: Instant,
    asked_at: Instant,
    attempts: u32,
    /// The last worker was without its store: since it was asked the deadline stands still.
    stands_still: bool,
    /// The last worker was without its store, and no other was asked since.
    pub(super) is_store_away: bool,
    /// The device has its CONNACK.
    pub(super) is_resume: bool,
    pub(super) passed_over: Vec<P::Worker>,
    /// For the next worker.
    pub(super) carried: P::Carried,
}

impl<P: Place> Search<P> {
    pub(super) fn new(now: Instant, deadline: Instant) -> Self {
        Self {
            since: now,
            reason: MoveReason::Lost,
            deadline,
            answer_by: now,
            asked_at: now,
            attempts: 0,
            stands_still: false,
            is_store_away: false,
            is_resume: false,
            passed_over: Vec::new(),
            carried: P::Carried::default(),
        }
    }

    /// A worker is asked, which has to answer by then.
    pub(super) fn ask(&mut self, now: Instant, answer_by: Instant) {
        self.asked_at = now;
        self.answer_by = answer_by;
        self.is_store_away = false;
    }

    /// The worker that was asked is without its store. Another would hardly say otherwise at once.
    pub(super) fn stand_still(&mut self) -> Next {
        self.stands_still = true;
        self.is_store_away = true;
        self.back_off()
    }

    /// The search goes on: the time in which it stood still does not count.
    pub(super) fn go_on(&mut self, now: Instant) {
        if std::mem::take(&mut self.stands_still) {
            self.deadline += now.saturating_duration_since(self.asked_at);
        }
    }

    /// How long to wait now: doubled each time.
    pub(super) fn back_off(&mut self) -> Next {
        let attempts = self.attempts;
        self.attempts = attempts.saturating_add(1);
        Next::BackOff(attempts)
    }
}
