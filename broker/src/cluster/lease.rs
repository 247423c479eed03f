//! The route lease: whether this worker may match messages at QoS 1 and 2. It may while every other worker that
//! waits for a subscription to be known everywhere waits for this one too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use state::Position;
use tokio::time::Instant;

/// A renewal that is under way.
pub(crate) struct Asked {
    at: Instant,
    loads: u64,
    /// As far as the log is applied, for others to know.
    pub(crate) applied: Option<Position>,
}

impl Asked {
    /// When.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }
}

/// Counted by the monotonic clock, from before the call that renewed it.
pub(crate) struct RouteLease {
    started: Instant,
    /// Microseconds from `started` at which it ends.
    until_us: AtomicU64,
    /// The log is applied through this.
    applied: AtomicU64,
    /// As far as it has to be applied before anything is matched.
    wanted: AtomicU64,
    is_loading: AtomicBool,
    /// How often loading has begun.
    loads: AtomicU64,
    /// After how many loads the store was told that the routes are loaded. When there are more by now, all routes are being
    /// loaded, or have been, and the store has not been told yet: others do not wait for this worker.
    told_loads: AtomicU64,
    /// Microseconds from `started` from which on it was renewed without a break.
    steady_since_us: AtomicU64,
    /// How often it had lapsed when it was renewed.
    lapses: AtomicU64,
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
            loads: AtomicU64::new(1),
            told_loads: AtomicU64::new(0),
            steady_since_us: AtomicU64::new(u64::MAX),
            lapses: AtomicU64::new(0),
        }
    }

    /// Whether messages may be matched. To be asked while the index is locked: then it speaks of what the index has.
    pub(crate) fn holds(&self) -> bool {
        // What `renew` writes last is read first: whoever sees it sees what is wanted, too.
        self.now_us() < self.until_us.load(Ordering::Acquire)
            && !self.is_blind()
            && self.applied.load(Ordering::Acquire) >= self.wanted.load(Ordering::Acquire)
    }

    fn is_blind(&self) -> bool {
        self.told_loads.load(Ordering::Acquire) != self.loads.load(Ordering::Acquire)
    }

    /// What the store is to be told with the next renewal.
    pub(crate) fn ask(&self) -> Asked {
        let loads = self.loads.load(Ordering::Acquire);
        let is_loading = self.is_loading.load(Ordering::Acquire);
        let applied = (!is_loading).then(|| self.applied());
        Asked { at: Instant::now(), loads, applied }
    }

    /// The store has renewed it. Answers whether it had lapsed.
    pub(crate) fn renew(&self, asked: &Asked, lease: Duration, log_end: Position) -> bool {
        let has_lapsed = self.now_us() >= self.until_us.load(Ordering::Acquire);
        let sees = asked.applied.is_some() && asked.loads == self.loads.load(Ordering::Acquire);
        let was_blind = sees && self.is_blind();
        if has_lapsed || was_blind {
            // Subscribers have not waited for this worker: what they wrote to the log comes first.
            self.wanted.store(log_end.0, Ordering::Release);
        }
        if has_lapsed {
            self.steady_since_us.store(self.us(asked.at), Ordering::Release);
            // Before it holds: whoever finds it held knows of the lapse.
            self.lapses.fetch_add(1, Ordering::AcqRel);
        }
        if was_blind {
            // Should loading begin just now, then there is one more.
            self.told_loads.store(asked.loads, Ordering::Release);
        }
        self.until_us.store(self.us(asked.at + lease), Ordering::Release);
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

    /// How long it has been renewed without a break; zero while it has lapsed.
    pub(crate) fn steady_for(&self) -> Duration {
        let (now_us, since) = (self.now_us(), self.steady_since_us.load(Ordering::Acquire));
        if now_us >= self.until_us.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        Duration::from_micros(now_us.saturating_sub(since))
    }

    /// How often it has lapsed. After each time a session may be another worker's without this one's knowing.
    pub(crate) fn lapses(&self) -> u64 {
        self.lapses.load(Ordering::Acquire)
    }

    /// As far as the log is applied.
    pub(crate) fn applied(&self) -> Position {
        Position(self.applied.load(Ordering::Acquire))
    }

    /// The log is applied through this.
    pub(crate) fn set_applied(&self, position: Position) {
        self.applied.store(position.0, Ordering::Release);
    }

    /// All routes are being loaded from now on: nothing is matched, and nobody need wait.
    pub(crate) fn begin_loading(&self) {
        // In this order: a renewal that is being asked for must not end what begins here.
        self.is_loading.store(true, Ordering::Release);
        self.loads.fetch_add(1, Ordering::AcqRel);
    }

    /// They are loaded. Matching begins when the store knows, and the log is applied as far as it went then.
    pub(crate) fn end_loading(&self) {
        self.is_loading.store(false, Ordering::Release);
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

    fn loaded() -> RouteLease {
        let lease = RouteLease::new();
        lease.end_loading();
        lease
    }

    // ARCHITECTURE, rules 1, 21: P3.
    #[tokio::test(start_paused = true)]
    async fn a_lapsed_lease_wants_the_log_first() {
        let lease = loaded();
        assert!(!lease.holds());
        assert!(lease.renew(&lease.ask(), LEASE, Position(0)));
        assert!(lease.holds());
        tokio::time::advance(Duration::from_millis(250)).await;
        assert!(!lease.renew(&lease.ask(), LEASE, Position(7)), "it did not lapse");
        assert!(lease.holds(), "others wait for it all the time");
        tokio::time::advance(LEASE).await;
        assert!(!lease.holds());
        assert_eq!(lease.lapsed_for(), Duration::ZERO);
        tokio::time::advance(LEASE).await;
        assert_eq!(lease.lapsed_for(), LEASE);
        assert_eq!(lease.lapses(), 1);
        assert!(lease.renew(&lease.ask(), LEASE, Position(9)));
        assert_eq!(lease.lapses(), 2);
        assert!(!lease.holds(), "others did not wait for it");
        lease.set_applied(Position(8));
        assert!(!lease.holds());
        lease.set_applied(Position(9));
        assert!(lease.holds());
    }

    // ARCHITECTURE, rule 21: snapshots stand at a position that was noted before them.
    #[tokio::test(start_paused = true)]
    async fn what_was_loaded_wants_the_log_as_far_as_it_went_when_others_knew() {
        let lease = loaded();
        lease.renew(&lease.ask(), LEASE, Position(0));
        lease.begin_loading();
        assert_eq!(lease.ask().applied, None, "nobody waits meanwhile");
        let early = lease.ask();
        lease.end_loading();
        assert!(!lease.renew(&early, LEASE, Position(3)));
        assert!(!lease.holds(), "others did not wait for it yet");
        assert!(!lease.renew(&lease.ask(), LEASE, Position(4)));
        assert!(!lease.holds());
        lease.set_applied(Position(4));
        assert!(lease.holds());
    }

    // The store may answer and not renew it: its log may be another one.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_has_lapsed_is_not_steady() {
        let lease = loaded();
        for _ in 0..8 {
            lease.renew(&lease.ask(), LEASE, Position(0));
            tokio::time::advance(LEASE / 2).await;
        }
        assert_eq!(lease.steady_for(), LEASE * 4);
        tokio::time::advance(LEASE / 2).await;
        assert_eq!(lease.steady_for(), Duration::ZERO);
        lease.renew(&lease.ask(), LEASE, Position(0));
        tokio::time::advance(LEASE / 2).await;
        assert_eq!(lease.steady_for(), LEASE / 2);
        lease.drop_now();
        assert_eq!(lease.steady_for(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_late_renews_nothing() {
        let lease = loaded();
        let asked = lease.ask();
        tokio::time::advance(LEASE).await;
        assert!(lease.renew(&asked, LEASE, Position(0)));
        assert!(!lease.holds());
    }
}
