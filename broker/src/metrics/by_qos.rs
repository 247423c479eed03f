//! A counter for each QoS, as metrics show it.

use std::ops::Deref;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Clones count together. All three are there from the start, so that nothing is looked up to count.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByQos([Counter; 3]);

impl Deref for ByQos {
    type Target = [Counter; 3];

    fn deref(&self) -> &[Counter; 3] {
        &self.0
    }
}

impl TypedMetric for ByQos {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for ByQos {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (qos, counter) in ["0", "1", "2"].into_iter().zip(&self.0) {
            counter.encode(encoder.encode_family(&[("qos", qos)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
