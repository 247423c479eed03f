//! The circuit breaker: after so many failures in a row a service is left alone; after a while one probe at a time is let
//! through, and the first that succeeds closes it. Time is given from outside.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// See the module.
pub(super) struct Breaker {
    failures_max: u32,
    open_for: Duration,
    state: Mutex<State>,
}

enum State {
    Closed {
        /// In a row.
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// A probe is under way; when it does not come back until then, another may.
    Probing {
        until: Instant,
    },
}

/// Leave to ask.
pub(super) struct Pass {
    is_probe: bool,
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed,
}

impl Breaker {
    /// Opens after `failures_max` failures in a row, for `open_for` until the next probe.
    pub(super) fn new(failures_max: u32, open_for: Duration) -> Self {
        Self { failures_max, open_for, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Whether nobody would be admitted.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        match *self.state.lock() {
            State::Closed { .. } => false,
            State::Open { until } | State::Probing { until } => now < until,
        }
    }

    /// Leave to ask, unless it is open.
    pub(super) fn admit(&self, now: Instant) -> Option<Pass> {
        let mut state = self.state.lock();
        match *state {
            State::Closed { .. } => Some(Pass { is_probe: false }),
            State::Open { until } | State::Probing { until } if now < until => None,
            State::Open { .. } | State::Probing { .. } => {
                *state = State::Probing { until: now + self.open_for };
                Some(Pass { is_probe: true })
            }
        }
    }

    /// How it went.
    #[allow(clippy::needless_pass_by_value, reason = "a pass is good for one question")]
    pub(super) fn settle(&self, pass: Pass, is_well: bool, now: Instant) -> Option<Change> {
        let mut state = self.state.lock();
        match (&mut *state, is_well) {
            (State::Closed { failures }, true) => {
                *failures = 0;
                None
            }
            (State::Closed { failures }, false) => {
                *failures += 1;
                if *failures < self.failures_max {
                    return None;
                }
                *state = State::Open { until: now + self.open_for };
                Some(Change::Opened)
            }
            // What began before it opened says nothing about now.
            (State::Open { .. } | State::Probing { .. }, _) if !pass.is_probe => None,
            (State::Open { .. } | State::Probing { .. }, true) => {
                *state = State::Closed { failures: 0 };
                Some(Change::Closed)
            }
            (State::Open { .. } | State::Probing { .. }, false) => {
                *state = State::Open { until: now + self.open_for };
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(1);

    fn fail(breaker: &Breaker, times: u32, now: Instant) -> Option<Change> {
        (0..times).fold(None, |_, _| breaker.settle(breaker.admit(now).unwrap(), false, now))
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let (breaker, now) = (Breaker::new(3, OPEN_FOR), Instant::now());
        assert_eq!(fail(&breaker, 2, now), None);
        assert_eq!(breaker.settle(breaker.admit(now).unwrap(), true, now), None);
        assert_eq!(fail(&breaker, 2, now), None, "a success starts the row anew");
        assert_eq!(fail(&breaker, 1, now), Some(Change::Opened));
        assert!(breaker.is_open(now) && breaker.admit(now).is_none());
    }

    #[test]
    fn one_probe_at_a_time_closes_it_or_keeps_it_open() {
        let (breaker, now) = (Breaker::new(1, OPEN_FOR), Instant::now());
        fail(&breaker, 1, now);
        let later = now + OPEN_FOR;
        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_none(), "one is under way");
        assert_eq!(breaker.settle(probe, false, later), None);
        assert!(breaker.admit(later).is_none());
        let probe = breaker.admit(later + OPEN_FOR).unwrap();
        assert_eq!(breaker.settle(probe, true, later + OPEN_FOR), Some(Change::Closed));
        assert!(breaker.admit(later + OPEN_FOR).is_some() && breaker.admit(later + OPEN_FOR).is_some());
    }

    #[test]
    fn a_probe_that_was_given_up_makes_room_for_another() {
        let (breaker, now) = (Breaker::new(1, OPEN_FOR), Instant::now());
        fail(&breaker, 1, now);
        assert!(breaker.admit(now + OPEN_FOR).is_some(), "and nothing is heard of it");
        assert!(breaker.admit(now + OPEN_FOR).is_none());
        assert!(breaker.admit(now + OPEN_FOR * 2).is_some());
    }

    #[test]
    fn what_began_before_it_opened_changes_nothing() {
        let (breaker, now) = (Breaker::new(2, OPEN_FOR), Instant::now());
        let (early, late) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
        fail(&breaker, 2, now);
        assert_eq!(breaker.settle(early, true, now), None);
        assert_eq!(breaker.settle(late, false, now), None);
        assert!(breaker.is_open(now));
    }
}
