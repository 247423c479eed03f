//! What a worker's store says of itself, read when metrics are asked for.

use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use state::RedisStore;

/// Reads the store, as long as there is one.
pub(crate) struct StoreMetrics(Weak<RedisStore>);

impl StoreMetrics {
    pub(crate) fn new(store: &Arc<RedisStore>) -> Self {
        Self(Arc::downgrade(store))
    }
}

impl std::fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreMetrics")
    }
}

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(store) = self.0.upgrade() else { return Ok(()) };
        let counter = ConstCounter::new(store.degraded_batches());
        let help = "Batches of writes that counted as done although too few replicas had them";
        let metric = encoder.encode_descriptor(
            "tidegate_store_degraded_batches",
            help,
            None,
            counter.metric_type(),
        )?;
        counter.encode(metric)
    }
}
