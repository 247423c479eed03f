//! The store's clock, as far as this worker knows: it is read with each renewal of the lease, and goes on by the worker's own
//! in between.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A reading that took longer says too little.
pub(super) const SPREAD_MAX: Duration = Duration::from_secs(1);

const UNKNOWN: i64 = i64::MIN;

/// Microseconds; 0 while it is not known.
pub(crate) struct StoreClock {
    started: Instant,
    /// What it showed at `started`: not less than the first, not more than the second.
    earliest: AtomicI64,
    latest: AtomicI64,
}

impl StoreClock {
    /// Not known yet.
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), earliest: AtomicI64::new(UNKNOWN), latest: AtomicI64::new(UNKNOWN) }
    }

    /// It showed `now_us` at some time between `asked` and now.
    pub(super) fn set(&self, asked: Instant, now_us: u64) {
        let answered = Instant::now();
        if answered.saturating_duration_since(asked) > SPREAD_MAX {
            return;
        }
        let now_us = i64::try_from(now_us).unwrap_or(i64::MAX);
        self.earliest.store(now_us.saturating_sub(self.us(answered)), Ordering::Relaxed);
        self.latest.store(now_us.saturating_sub(self.us(asked)).saturating_add(1), Ordering::Relaxed);
    }

    /// It shows no less.
    pub(crate) fn earliest(&self) -> u64 {
        self.read(&self.earliest)
    }

    /// It shows no more. That is [`SPREAD_MAX`] after [`StoreClock::earliest`] at the most.
    pub(crate) fn latest(&self) -> u64 {
        self.read(&self.latest)
    }

    fn read(&self, at_start: &AtomicI64) -> u64 {
        let at_start = at_start.load(Ordering::Relaxed);
        if at_start == UNKNOWN {
            return 0;
        }
        u64::try_from(at_start.saturating_add(self.us(Instant::now()))).unwrap_or(0)
    }

    fn us(&self, at: Instant) -> i64 {
        i64::try_from(at.saturating_duration_since(self.started).as_micros()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_clock_shows_lies_between_its_bounds() {
        let clock = StoreClock::new();
        assert_eq!((clock.earliest(), clock.latest()), (0, 0), "not known");
        tokio::time::advance(Duration::from_millis(5)).await;
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(2)).await;
        clock.set(asked, 1_000_000);
        assert_eq!((clock.earliest(), clock.latest()), (1_000_000, 1_002_001));
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!((clock.earliest(), clock.latest()), (1_010_000, 1_012_001));
        let asked = Instant::now();
        tokio::time::advance(SPREAD_MAX * 2).await;
        clock.set(asked, 5);
        assert_eq!(clock.earliest(), 3_010_000, "an answer that took so long is not believed");
    }
}
