//! The time, read once per turn and not once per message: that of the store, which nobody sets with the wall clock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub use state::clock::TimeSource;

use state::UnixMs;

/// The time of the last turn that any connection took. MQTT counts in seconds; a turn is far shorter.
pub(crate) struct Clock {
    now: AtomicU64,
    source: TimeSource,
    /// By how much the clock that workers share is ahead of `source`, milliseconds.
    ahead: AtomicI64,
}

impl Clock {
    /// One that is told the time by `source`.
    pub(crate) fn new(source: TimeSource) -> Self {
        Self { now: AtomicU64::new(source()), source, ahead: AtomicI64::new(0) }
    }

    /// The time as of the last [`Clock::tick`].
    pub(crate) fn now(&self) -> UnixMs {
        self.now.load(Ordering::Relaxed)
    }

    /// Reads the clock again.
    pub(crate) fn tick(&self) {
        let now = (self.source)().saturating_add_signed(self.ahead.load(Ordering::Relaxed));
        // Writing an unchanged value would take the cache line from every other core.
        if now != self.now() {
            self.now.store(now, Ordering::Relaxed);
        }
    }

    /// The clock that all workers share has shown `shown_us` at some time in the last `took`: from here on this one shows what
    /// that may show, whatever it showed before, and runs on by itself.
    pub(crate) fn follow(&self, shown_us: u64, took: Duration) {
        let earliest = shown_us / 1_000;
        let latest =
            earliest.saturating_add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)).saturating_add(1);
        let own = (self.source)();
        let shows = own.saturating_add_signed(self.ahead.load(Ordering::Relaxed));
        // What lies within the uncertainty of the answer is let be, so that the time does not tremble.
        let wanted = shows.clamp(earliest, latest);
        if wanted != shows {
            let ahead = i128::from(wanted) - i128::from(own);
            self.ahead.store(i64::try_from(ahead).unwrap_or_default(), Ordering::Relaxed);
        }
        self.tick();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_worker_goes_by_the_clock_that_all_share() {
        let own = Arc::new(AtomicU64::new(1_000_000));
        let source = Arc::clone(&own);
        let clock = Clock::new(Arc::new(move || source.load(Ordering::Relaxed)));
        clock.follow(400_000_000, Duration::from_millis(20));
        assert_eq!(clock.now(), 400_021, "ten minutes ahead of the others");
        own.fetch_add(500, Ordering::Relaxed);
        clock.tick();
        assert_eq!(clock.now(), 400_521);
        clock.follow(400_510_000, Duration::from_millis(20));
        assert_eq!(clock.now(), 400_521, "as far as anybody can tell it is right");
        clock.follow(2_000_000_000, Duration::ZERO);
        assert_eq!(clock.now(), 2_000_000, "far behind");
    }
}
