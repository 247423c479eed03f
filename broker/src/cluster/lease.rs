//! The route lease: whether this worker may match messages at QoS 1 and 2. It may while every other worker that
//! waits for a subscription to be known everywhere waits for this one too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use state::Position;
use tokio::time::Instant;

/// Counted by the monotonic clock, from before the call that renewed it.
pub(crate) struct RouteLease {
    started: Instant,
    /// Microseconds from `started` at which it ends.
    until_us: AtomicU64,
    /// The log is applied through this.
    applied: AtomicU64,
    /// As far as it has to be applied before anything is matched.
    wanted: AtomicU64,
    /// All routes are being loaded.
    is_loading: AtomicBool,
    /// Microseconds from `started` from which on it was renewed without a break.
    steady_since_us: AtomicU64,
}

impl RouteLease {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            until_us: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            is_loading: AtomicBool::new(true),
            steady_since_us: AtomicU64::new(u64::MAX),
        }
    }

    /// Whether messages may be matched. To be asked while the index is locked: then it speaks of what the index has.
    pub(crate) fn holds(&self) -> bool {
        self.now_us() < self.until_us.load(Ordering::Acquire)
            && self.applied.load(Ordering::Acquire) >= self.wanted.load(Ordering::Acquire)
            && !self.is_loading.load(Ordering::Acquire)
    }

    /// The store has renewed it by a call that began at `asked`. Answers whether it had lapsed.
    pub(crate) fn renew(&self, asked: Instant, lease: Duration, log_end: Position) -> bool {
        let has_lapsed = self.now_us() >= self.until_us.load(Ordering::Acquire);
        if has_lapsed {
            // Subscribers may have stopped waiting for this worker: what they wrote to the log comes first.
            self.wanted.store(log_end.0, Ordering::Release);
            self.steady_since_us.store(self.us(asked), Ordering::Release);
        }
        self.until_us.store(self.us(asked + lease), Ordering::Release);
        has_lapsed
    }

    /// For how long it has lapsed; zero while it has not.
    pub(crate) fn lapsed_for(&self) -> Duration {
        Duration::from_micros(self.now_us().saturating_sub(self.until_us.load(Ordering::Acquire)))
    }

    /// Ends it: what the worker knows of others is not to be trusted.
    pub(crate) fn drop_now(&self) {
        self.until_us.store(0, Ordering::Release);
    }

    /// How long it has been renewed without a break.
    pub(crate) fn steady_for(&self) -> Duration {
        let since = self.steady_since_us.load(Ordering::Acquire);
        Duration::from_micros(self.now_us().saturating_sub(since))
    }

    /// As far as the log is applied.
    pub(crate) fn applied(&self) -> Position {
        Position(self.applied.load(Ordering::Acquire))
    }

    /// The log is applied through this.
    pub(crate) fn set_applied(&self, position: Position) {
        self.applied.store(position.0, Ordering::Release);
    }

    /// All routes are being loaded, or have been.
    pub(crate) fn set_loading(&self, is_loading: bool) {
        self.is_loading.store(is_loading, Ordering::Release);
    }

    fn now_us(&self) -> u64 {
        self.us(Instant::now())
    }

    fn us(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    // CORRECTNESS 1, 21: P3.
    #[tokio::test(start_paused = true)]
    async fn a_lapsed_lease_wants_the_log_first() {
        let lease = RouteLease::new();
        lease.set_loading(false);
        assert!(!lease.holds());
        assert!(lease.renew(Instant::now(), LEASE, Position(0)));
        assert!(lease.holds());
        tokio::time::advance(Duration::from_millis(250)).await;
        assert!(!lease.renew(Instant::now(), LEASE, Position(7)), "it did not lapse");
        assert!(lease.holds(), "others wait for it all the time");
        tokio::time::advance(LEASE).await;
        assert!(!lease.holds());
        assert_eq!(lease.lapsed_for(), Duration::ZERO);
        tokio::time::advance(LEASE).await;
        assert_eq!(lease.lapsed_for(), LEASE);
        assert!(lease.renew(Instant::now(), LEASE, Position(9)));
        assert!(!lease.holds(), "others did not wait for it");
        lease.set_applied(Position(8));
        assert!(!lease.holds());
        lease.set_applied(Position(9));
        assert!(lease.holds());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_late_renews_nothing() {
        let lease = RouteLease::new();
        lease.set_loading(false);
        let asked = Instant::now();
        tokio::time::advance(LEASE).await;
        assert!(lease.renew(asked, LEASE, Position(0)));
        assert!(!lease.holds());
    }
}
