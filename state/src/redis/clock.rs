//! What the clocks of the servers show, as far as this worker knows: by bucket, since each has its own server, and that may be
//! replaced by one with another clock. A wrong guess costs a claim one more call, whose answer puts it right.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use super::keys::{Bucket, SESSION_BUCKETS};
use crate::UnixMs;

const UNKNOWN: i64 = i64::MIN;

/// The largest number that a function counts with exactly.
const EXACT_MAX: u64 = 1 << 53;

/// By how much the clocks of servers differ from this process's.
pub(super) struct ServerClocks {
    started: Instant,
    by_bucket: Vec<AtomicI64>,
    /// The one that was seen last.
    last: AtomicI64,
}

/// When a claim was asked for, and until when it may take effect, by the clock of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) asked: UnixMs,
    pub(super) until: UnixMs,
}

impl ServerClocks {
    /// None is known.
    pub(super) fn new() -> Self {
        let by_bucket = (0..SESSION_BUCKETS).map(|_| AtomicI64::new(UNKNOWN)).collect();
        Self { started: Instant::now(), by_bucket, last: AtomicI64::new(UNKNOWN) }
    }

    fn of(&self, bucket: Bucket) -> Option<&AtomicI64> {
        let Bucket::Sessions(bucket) = bucket else { return None };
        self.by_bucket.get(usize::from(bucket))
    }

    fn own_ms(&self, at: Instant) -> i64 {
        let ms = |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        match at.checked_duration_since(self.started) {
            Some(since) => ms(since),
            None => -ms(self.started.saturating_duration_since(at)),
        }
    }

    /// The server of a bucket has just said what its clock shows. On its way the answer has grown older, never younger.
    pub(super) fn learn(&self, bucket: Bucket, shown: UnixMs) {
        let ahead = i64::try_from(shown).unwrap_or(i64::MAX).saturating_sub(self.own_ms(Instant::now()));
        for known in self.of(bucket).into_iter().chain([&self.last]) {
            known.store(ahead, Ordering::Relaxed);
        }
    }

    /// Takes them for others than they are.
    #[cfg(feature = "testing")]
    pub(super) fn mistake(&self, by_ms: i64) {
        for known in self.by_bucket.iter().chain([&self.last]) {
            let ahead = known.load(Ordering::Relaxed);
            if ahead != UNKNOWN {
                known.store(ahead.saturating_add(by_ms), Ordering::Relaxed);
            }
        }
    }

    /// The term of a claim that was asked for then and is valid for so long, milliseconds, or for ever. While no clock is known it is over,
    /// and the answer tells the time.
    pub(super) fn term(&self, bucket: Bucket, asked: Instant, valid_ms: Option<u64>) -> Term {
        let own = self.of(bucket).map_or(UNKNOWN, |known| known.load(Ordering::Relaxed));
        let ahead = if own == UNKNOWN { self.last.load(Ordering::Relaxed) } else { own };
        if ahead == UNKNOWN {
            return Term { asked: 0, until: 0 };
        }
        let asked = self.shown(ahead, asked);
        let until = valid_ms.map_or(EXACT_MAX, |valid_ms| asked.saturating_add(valid_ms).min(EXACT_MAX));
        Term { asked, until }
    }

    fn shown(&self, ahead: i64, at: Instant) -> UnixMs {
        u64::try_from(ahead.saturating_add(self.own_ms(at))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_claim_has_its_term_by_the_clock_of_its_own_server() {
        let clocks = ServerClocks::new();
        let (one, other) = (Bucket::Sessions(1), Bucket::Sessions(2));
        let asked = clocks.started + Duration::from_millis(500);
        assert_eq!(clocks.term(one, asked, Some(1000)), Term { asked: 0, until: 0 }, "no clock is known");
        clocks.by_bucket[1].store(10_000, Ordering::Relaxed);
        clocks.last.store(20_000, Ordering::Relaxed);
        assert_eq!(clocks.term(one, asked, Some(1000)), Term { asked: 10_500, until: 11_500 });
        assert_eq!(
            clocks.term(other, asked, Some(1000)),
            Term { asked: 20_500, until: 21_500 },
            "the last seen"
        );
        assert_eq!(clocks.term(one, asked, None).until, EXACT_MAX);
    }
}
