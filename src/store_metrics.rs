//! What a worker's store says of itself, read when metrics are asked for.

use std::fmt;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use state::{RedisStore, ReplicaLag};

/// Reads the store, as long as there is one.
pub(crate) struct StoreMetrics(Weak<RedisStore>);

impl StoreMetrics {
    pub(crate) fn new(store: &Arc<RedisStore>) -> Self {
        Self(Arc::downgrade(store))
    }
}

impl fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreMetrics")
    }
}

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(store) = self.0.upgrade() else { return Ok(()) };
        let counter = ConstCounter::new(store.degraded_batches());
        let help = "Batches of writes that counted as done although too few replicas had them";
        let name = "tidegate_store_degraded_batches";
        counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        if let Some(batches) = store.batches() {
            let help =
                "From sending a batch of writes to a master until as many replicas as are wanted have it";
            let name = "tidegate_store_batch_seconds";
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            metric.encode_histogram::<NoLabelSet>(batches.sum_s, batches.count, &batches.classes, None)?;
        }
        let lags = store.replica_lags();
        let help = "Replicas that follow a master";
        let replicas = |lag: &ReplicaLag| lag.replicas;
        encode_by_node(&mut encoder, "tidegate_store_replicas", help, &lags, replicas)?;
        let help = "Bytes of a master's writes that the last of its replicas does not have yet";
        let bytes = |lag: &ReplicaLag| lag.lag_bytes;
        encode_by_node(&mut encoder, "tidegate_store_replica_lag_bytes", help, &lags, bytes)
    }
}

fn encode_by_node(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    lags: &[ReplicaLag],
    value: impl Fn(&ReplicaLag) -> u64,
) -> Result<(), fmt::Error> {
    if lags.is_empty() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for lag in lags {
        let value = i64::try_from(value(lag)).unwrap_or(i64::MAX);
        metric.encode_family(&[("node", lag.node.as_str())])?.encode_gauge(&value)?;
    }
    Ok(())
}
