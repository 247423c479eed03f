//! A histogram of how long things took, as metrics show it.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use state::Durations;

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency(Arc<Durations>);

impl Latency {
    /// Counts one.
    pub(crate) fn observe(&self, took: Duration) {
        self.0.observe(took);
    }

    /// Counts so many that took no time worth measuring.
    pub(crate) fn observe_at_once(&self, count: u64) {
        self.0.observe_at_once(count);
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.read();
        encoder.encode_histogram::<NoLabelSet>(counts.sum_s, counts.count, &counts.classes, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
