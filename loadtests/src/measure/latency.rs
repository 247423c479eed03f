//! Latency histogram: three significant digits from 1 µs to 5 minutes; longer waits are counted at the upper end.

use hdrhistogram::Histogram;
use serde::Serialize;

const HIGHEST_US: u64 = 300_000_000;

/// Latencies of one worker thread, merged at the end.
#[derive(Debug, Clone)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
}

/// The percentiles of a report, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct LatencySummary {
    /// Number of values.
    pub(crate) count: u64,
    /// Mean.
    pub(crate) mean_us: f64,
    /// Median.
    pub(crate) p50_us: u64,
    /// 90th percentile.
    pub(crate) p90_us: u64,
    /// 99th percentile.
    pub(crate) p99_us: u64,
    /// 99.9th percentile.
    pub(crate) p999_us: u64,
    /// Highest value.
    pub(crate) max_us: u64,
}

impl Latency {
    /// An empty histogram.
    ///
    /// # Errors
    /// Never for these fixed bounds; the library's error is passed on.
    pub(crate) fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self { histogram: Histogram::new_with_bounds(1, HIGHEST_US, 3)? })
    }

    /// Adds one value in nanoseconds.
    #[inline]
    pub(crate) fn record_ns(&mut self, latency_ns: u64) {
        self.histogram.saturating_record((latency_ns / 1_000).max(1));
    }

    /// Forgets everything; used when the warm-up ends.
    pub(crate) fn clear(&mut self) {
        self.histogram.reset();
    }

    /// Adds the values of another worker.
    pub(crate) fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so this cannot fail.
        let _ = self.histogram.add(&other.histogram);
    }

    /// The percentiles, or `None` when nothing was recorded.
    #[must_use]
    pub(crate) fn summary(&self) -> Option<LatencySummary> {
        let histogram = &self.histogram;
        (!histogram.is_empty()).then(|| LatencySummary {
            count: histogram.len(),
            mean_us: histogram.mean(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_all_workers() {
        let (mut one, mut two) = (Latency::new().unwrap(), Latency::new().unwrap());
        for value in 1..=500 {
            one.record_ns(value * 1_000);
            two.record_ns((value + 500) * 1_000);
        }
        one.merge(&two);
        let summary = one.summary().unwrap();
        assert_eq!(summary.count, 1_000);
        assert!((499..=501).contains(&summary.p50_us), "{summary:?}");
        assert!((989..=991).contains(&summary.p99_us), "{summary:?}");
        assert!((999..=1_000).contains(&summary.max_us), "{summary:?}");
    }

    #[test]
    fn nothing_recorded_is_no_summary() {
        let mut latency = Latency::new().unwrap();
        latency.record_ns(5);
        latency.clear();
        assert!(latency.summary().is_none());
    }

    #[test]
    fn values_beyond_the_range_count_at_its_end() {
        let mut latency = Latency::new().unwrap();
        latency.record_ns(u64::MAX);
        assert!(latency.summary().unwrap().max_us >= HIGHEST_US);
    }
}
