//! Where a worker looks next for what is due, and for retained messages that have expired: what it knows of timers, which of the
//! buckets are its own to look at, and how far it has come. [`super::due`] and [`super::expired`] look.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::keys::{Bucket, SESSION_BUCKETS};
use crate::{UnixMs, WorkerId};

/// Nothing is known to be set.
const NEVER: u64 = u64::MAX;

/// Every so manyth look, the first among them, is at all buckets: should a worker live and not look, others do.
const FULL_SWEEP_EVERY: u64 = 12;
/// What a worker was told of its fellows longer ago than this says nothing.
const SHARE_VALID: Duration = Duration::from_secs(5);

/// By bucket, the time before which nothing that this worker knows of is due, by the clock of the caller.
pub(super) struct Hints {
    earliest: Vec<AtomicU64>,
    swept_at: Mutex<Option<Instant>>,
    sweeps: AtomicU64,
    sweep_interval: Duration,
    share: Mutex<Option<Share>>,
}

/// The buckets that a worker looks at: those of its place among the live ones.
#[derive(Clone, Copy, Debug)]
struct Share {
    place: usize,
    workers: usize,
    told_at: Instant,
}

impl Hints {
    pub(super) fn new(sweep_interval: Duration) -> Self {
        let earliest = (0..SESSION_BUCKETS).map(|_| AtomicU64::new(NEVER)).collect();
        let (swept_at, share) = (Mutex::new(None), Mutex::new(None));
        Self { earliest, swept_at, sweeps: AtomicU64::new(0), sweep_interval, share }
    }

    /// These workers live, this one beside them or among them. When one of them dies the others hear it with the next renewal of
    /// their leases, and have its buckets from the next look on.
    pub(super) fn live(&self, this: WorkerId, others: impl Iterator<Item = WorkerId>) {
        let mut share = Share { place: 0, workers: 1, told_at: Instant::now() };
        for other in others.filter(|other| *other != this) {
            share.workers += 1;
            share.place += usize::from(other < this);
        }
        *self.share.lock() = Some(share);
    }

    /// Whether a bucket is this worker's to look at.
    pub(super) fn is_ours(&self, bucket: u16) -> bool {
        let share = *self.share.lock();
        share
            .filter(|share| share.told_at.elapsed() < SHARE_VALID)
            .is_none_or(|share| usize::from(bucket) % share.workers == share.place)
    }

    /// All of a worker's share was looked at.
    pub(super) fn swept(&self) {
        self.sweeps.fetch_add(1, Ordering::SeqCst);
        *self.swept_at.lock() = Some(Instant::now());
    }

    /// Something is due in a bucket at a time.
    pub(super) fn armed(&self, bucket: Bucket, at: UnixMs) {
        if let Bucket::Sessions(bucket) = bucket
            && let Some(earliest) = self.earliest.get(usize::from(bucket))
        {
            earliest.fetch_min(at, Ordering::SeqCst);
        }
    }

    /// Forgets what it knows about a bucket, just before that is looked at.
    pub(super) fn forget(&self, bucket: u16) {
        if let Some(earliest) = self.earliest.get(usize::from(bucket)) {
            earliest.store(NEVER, Ordering::SeqCst);
        }
    }

    /// The buckets to look at, and whether all of this worker's share is among them.
    pub(super) fn candidates(&self, now: UnixMs) -> (Vec<u16>, bool) {
        let is_sweep = self.swept_at.lock().is_none_or(|at| at.elapsed() >= self.sweep_interval);
        let is_full = self.sweeps.load(Ordering::SeqCst).is_multiple_of(FULL_SWEEP_EVERY);
        let is_due = |bucket: &u16| {
            if is_sweep && (is_full || self.is_ours(*bucket)) {
                return true;
            }
            self.earliest
                .get(usize::from(*bucket))
                .is_some_and(|earliest| earliest.load(Ordering::SeqCst) <= now)
        };
        ((0..SESSION_BUCKETS).filter(is_due).collect(), is_sweep)
    }
}

/// Where the next look at all of a kind begins: a bucket, and how far it has come there. Nowhere while one is under way.
pub(super) struct Sweep(pub(super) Mutex<Option<(u16, Vec<u8>)>>);

impl Default for Sweep {
    fn default() -> Self {
        Self(Mutex::new(Some((0, Vec::new()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(hints: &Hints) -> Vec<u16> {
        let (buckets, is_sweep) = hints.candidates(0);
        assert!(is_sweep);
        hints.swept();
        buckets
    }

    #[test]
    fn every_bucket_is_looked_at_by_one_live_worker_whoever_dies() {
        let workers = [7, 3, 5].map(WorkerId);
        let hints = workers.map(|_| Hints::new(Duration::ZERO));
        for hints in &hints {
            assert_eq!(swept(hints).len(), usize::from(SESSION_BUCKETS), "the first look is at all");
        }
        for live in [&workers[..], &workers[..2], &workers[1..2]] {
            let mut looked_at = Vec::new();
            for (worker, hints) in workers.iter().zip(&hints).filter(|(worker, _)| live.contains(worker)) {
                hints.live(*worker, live.iter().copied());
                looked_at.extend(swept(hints));
            }
            looked_at.sort_unstable();
            assert_eq!(looked_at, (0..SESSION_BUCKETS).collect::<Vec<_>>(), "{live:?}");
        }
    }

    #[test]
    fn now_and_then_a_worker_looks_at_what_is_others_to_look_at() {
        let hints = Hints::new(Duration::ZERO);
        hints.live(WorkerId(1), [WorkerId(1), WorkerId(2)].into_iter());
        let sizes: Vec<usize> = (0..=FULL_SWEEP_EVERY).map(|_| swept(&hints).len()).collect();
        let is_full = |size: &&usize| **size == usize::from(SESSION_BUCKETS);
        assert_eq!(sizes.iter().filter(is_full).count(), 2, "{sizes:?}");
    }
}
