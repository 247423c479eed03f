//! The circuit breaker: after so many failures in a row a service is left alone; after a while one probe at a time is let
//! through, and the first that succeeds closes it. Failures of one source alone may be the fault of what it asks, so it is left alone for
//! that source only. Time is given from outside.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Sources that failures in a row come from before they tell of the service.
const SOURCES_MIN: usize = 3;

/// Sources whose failures are counted apart; there are no more by far before they tell of the service.
const SOURCES_MAX: usize = 1024;

/// See the module.
pub(super) struct Breaker {
    failures_max: u32,
    open_for: Duration,
    circuits: Mutex<Circuits>,
}

struct Circuits {
    all: Circuit,
    /// Who has failed since somebody was answered last, as many as it takes.
    failing: BTreeSet<u64>,
    /// Of those, and of those for whom it is left alone.
    own: HashMap<u64, Circuit>,
    /// One has opened, and nobody was answered since.
    is_failing: bool,
}

#[derive(Clone, Copy)]
enum Circuit {
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
    source: u64,
    is_probe: bool,
    is_own_probe: bool,
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// For everybody.
    Opened,
    /// For one source.
    OpenedForOne,
    /// Somebody is answered.
    Closed,
}

impl Breaker {
    /// Opens after `failures_max` failures in a row, for `open_for` until the next probe.
    pub(super) fn new(failures_max: u32, open_for: Duration) -> Self {
        let all = Circuit::Closed { failures: 0 };
        let circuits = Circuits { all, failing: BTreeSet::new(), own: HashMap::new(), is_failing: false };
        Self { failures_max, open_for, circuits: Mutex::new(circuits) }
    }

    /// Whether nobody of `source` would be admitted.
    pub(super) fn is_open(&self, source: u64, now: Instant) -> bool {
        let circuits = self.circuits.lock();
        circuits.all.is_open(now) || circuits.own.get(&source).is_some_and(|own| own.is_open(now))
    }

    /// Leave to ask, unless it is open.
    pub(super) fn admit(&self, source: u64, now: Instant) -> Option<Pass> {
        let mut circuits = self.circuits.lock();
        if circuits.all.is_open(now) {
            return None;
        }
        let until = now + self.open_for;
        let is_own_probe = match circuits.own.get_mut(&source) {
            Some(own) => own.admit(now, until)?,
            None => false,
        };
        let is_probe = circuits.all.admit(now, until)?;
        Some(Pass { source, is_probe, is_own_probe })
    }

    /// How it went.
    #[allow(clippy::needless_pass_by_value, reason = "a pass is good for one question")]
    pub(super) fn settle(&self, pass: Pass, is_well: bool, now: Instant) -> Option<Change> {
        let mut circuits = self.circuits.lock();
        let change = if is_well {
            circuits.succeed(&pass, now)
        } else {
            circuits.fail(&pass, self.failures_max, now + self.open_for)
        };
        circuits.is_failing = change.map_or(circuits.is_failing, |change| change != Change::Closed);
        change
    }
}

impl Circuits {
    fn succeed(&mut self, pass: &Pass, now: Instant) -> Option<Change> {
        // What began before it opened says nothing about now.
        let is_early = |circuit: &Circuit, is_probe: bool| !circuit.is_closed() && !is_probe;
        let own = self.own.get(&pass.source);
        if is_early(&self.all, pass.is_probe) || own.is_some_and(|own| is_early(own, pass.is_own_probe)) {
            return None;
        }
        self.all = Circuit::Closed { failures: 0 };
        self.failing.clear();
        self.own.remove(&pass.source);
        // It answers: who comes again after its time begins anew.
        self.own.retain(|_, own| own.is_open(now));
        self.is_failing.then_some(Change::Closed)
    }

    fn fail(&mut self, pass: &Pass, failures_max: u32, until: Instant) -> Option<Change> {
        if self.failing.len() < SOURCES_MIN {
            self.failing.insert(pass.source);
        }
        let tells_of_all = self.failing.len() >= SOURCES_MIN.min(failures_max as usize);
        if self.all.fail(pass.is_probe, if tells_of_all { failures_max } else { u32::MAX }, until) {
            return Some(Change::Opened);
        }
        // While it is left alone for everybody there is nothing to count.
        if !self.all.is_closed() && !pass.is_own_probe {
            return None;
        }
        if !self.own.contains_key(&pass.source) && self.own.len() >= SOURCES_MAX {
            return None;
        }
        let own = self.own.entry(pass.source).or_insert(Circuit::Closed { failures: 0 });
        own.fail(pass.is_own_probe, failures_max, until).then_some(Change::OpenedForOne)
    }
}

impl Circuit {
    fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    fn is_open(self, now: Instant) -> bool {
        match self {
            Self::Closed { .. } => false,
            Self::Open { until } | Self::Probing { until } => now < until,
        }
    }

    /// Whether who is admitted is a probe, for which there is time until then.
    fn admit(&mut self, now: Instant, probes_until: Instant) -> Option<bool> {
        if self.is_open(now) {
            return None;
        }
        let is_probe = !self.is_closed();
        if is_probe {
            *self = Self::Probing { until: probes_until };
        }
        Some(is_probe)
    }

    /// Whether it has opened.
    fn fail(&mut self, is_probe: bool, failures_max: u32, until: Instant) -> bool {
        match self {
            Self::Closed { failures } => {
                *failures = failures.saturating_add(1);
                if *failures < failures_max {
                    return false;
                }
                *self = Self::Open { until };
                true
            }
            Self::Open { .. } | Self::Probing { .. } => {
                if is_probe {
                    *self = Self::Open { until };
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(1);
    const SOURCE: u64 = 100;

    /// Failures of as many sources.
    fn fail(breaker: &Breaker, times: u32, now: Instant) -> Option<Change> {
        (0..times).fold(None, |_, n| breaker.settle(breaker.admit(n.into(), now).unwrap(), false, now))
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let (breaker, now) = (Breaker::new(3, OPEN_FOR), Instant::now());
        assert_eq!(fail(&breaker, 2, now), None);
        assert_eq!(breaker.settle(breaker.admit(SOURCE, now).unwrap(), true, now), None);
        assert_eq!(fail(&breaker, 2, now), None, "a success starts the row anew");
        let third = breaker.admit(2, now).unwrap();
        assert_eq!(breaker.settle(third, false, now), Some(Change::Opened));
        assert!(breaker.is_open(SOURCE, now) && breaker.admit(SOURCE, now).is_none());
    }

    #[test]
    fn one_probe_at_a_time_closes_it_or_keeps_it_open() {
        let (breaker, now) = (Breaker::new(1, OPEN_FOR), Instant::now());
        fail(&breaker, 1, now);
        let later = now + OPEN_FOR;
        let probe = breaker.admit(SOURCE, later).unwrap();
        assert!(breaker.admit(SOURCE, later).is_none(), "one is under way");
        assert_eq!(breaker.settle(probe, false, later), None);
        assert!(breaker.admit(SOURCE, later).is_none());
        let probe = breaker.admit(SOURCE, later + OPEN_FOR).unwrap();
        assert_eq!(breaker.settle(probe, true, later + OPEN_FOR), Some(Change::Closed));
        assert!(
            breaker.admit(SOURCE, later + OPEN_FOR).is_some()
                && breaker.admit(SOURCE, later + OPEN_FOR).is_some()
        );
    }

    #[test]
    fn a_probe_that_was_given_up_makes_room_for_another() {
        let (breaker, now) = (Breaker::new(1, OPEN_FOR), Instant::now());
        fail(&breaker, 1, now);
        assert!(breaker.admit(SOURCE, now + OPEN_FOR).is_some(), "and nothing is heard of it");
        assert!(breaker.admit(SOURCE, now + OPEN_FOR).is_none());
        assert!(breaker.admit(SOURCE, now + OPEN_FOR * 2).is_some());
    }

    // One user name may be all that makes a service fail.
    #[test]
    fn failures_of_one_source_are_its_own() {
        let (breaker, now) = (Breaker::new(3, OPEN_FOR), Instant::now());
        let fail_at = |source, now| breaker.settle(breaker.admit(source, now).unwrap(), false, now);
        assert_eq!([1, 1, 1].map(|source| fail_at(source, now)), [None, None, Some(Change::OpenedForOne)]);
        assert!(breaker.is_open(1, now) && breaker.admit(1, now).is_none());
        assert_eq!([2, 2].map(|source| fail_at(source, now)), [None, None], "nor of two");
        assert!(!breaker.is_open(SOURCE, now));
        let later = now + OPEN_FOR;
        assert_eq!(fail_at(1, later), None, "its probe");
        assert!(breaker.is_open(1, later) && !breaker.is_open(SOURCE, later));
        let well = breaker.admit(SOURCE, later).unwrap();
        assert_eq!(breaker.settle(well, true, later), Some(Change::Closed), "it answers");
        assert!(breaker.is_open(1, later), "and is left alone by that one still");
        let well = breaker.admit(SOURCE, later + OPEN_FOR).unwrap();
        assert_eq!(breaker.settle(well, true, later + OPEN_FOR), None);
        assert!(breaker.circuits.lock().own.is_empty());
    }

    #[test]
    fn what_began_before_it_opened_changes_nothing() {
        let (breaker, now) = (Breaker::new(2, OPEN_FOR), Instant::now());
        let (early, late) = (breaker.admit(SOURCE, now).unwrap(), breaker.admit(SOURCE, now).unwrap());
        fail(&breaker, 2, now);
        assert_eq!(breaker.settle(early, true, now), None);
        assert_eq!(breaker.settle(late, false, now), None);
        assert!(breaker.is_open(SOURCE, now));
    }
}
