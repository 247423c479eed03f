//! What a worker has now, counted when metrics are asked for: sessions, subscriptions, and how much waits.

use std::fmt;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::hub::Hub;

/// Looks at a worker, as long as there is one.
pub(crate) struct Gauges(Weak<Hub>);

impl Gauges {
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        Self(Arc::downgrade(hub))
    }
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(hub) = self.0.upgrade() else { return Ok(()) };
        let stats = hub.store.stats();
        let sessions = hub.directory.sessions().len();
        let subscriptions = hub.directory.index().len();
        let held = hub.held();
        for (name, help, value) in [
            ("sessions", "Sessions that the worker knows, connected or not", sessions as u64),
            ("subscriptions", "Subscriptions that the worker matches by", subscriptions as u64),
            (
                "held",
                "Messages and requests that wait for a store that is away, or for the route lease",
                held as u64,
            ),
            (
                "unread_bytes",
                "Bytes of messages that wait for devices, of those of which more than 256 KiB do",
                hub.directory.unread_bytes() as u64,
            ),
            ("stored_sessions", "Sessions in the store", stats.sessions),
            ("queued_messages", "Messages in the queues of stored sessions", stats.queued_messages),
            ("queued_bytes", "Bytes in the queues of stored sessions", stats.queued_bytes),
            ("retained_messages", "Retained messages", stats.retained_messages),
            ("retained_bytes", "Bytes of retained messages", stats.retained_bytes),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let name = format!("tidegate_broker_{name}");
            gauge.encode(encoder.encode_descriptor(&name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
