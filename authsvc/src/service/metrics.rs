//! What the service counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The counters; clones share them.
#[derive(Clone)]
pub(super) struct Metrics {
    answers: Family<StatusLabels, Counter>,
    /// Connections of callers.
    pub(super) connections: Gauge,
    /// Handshakes that failed, and connections that broke off.
    pub(super) connections_failed: Counter,
    /// From a request's headers to the answer.
    pub(super) seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    path: &'static str,
    status: u16,
}

impl Metrics {
    /// Registers under `tidegate_authsvc_`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            answers: Family::default(),
            connections: Gauge::default(),
            connections_failed: Counter::default(),
            // 0.25 ms to 8 s.
            seconds: Histogram::new(exponential_buckets(0.00025, 2.0, 16)),
        };
        let service = registry.sub_registry_with_prefix("tidegate_authsvc");
        service.register("answers", "Answers to requests, by path and status", metrics.answers.clone());
        service.register("connections", "Connections of callers", metrics.connections.clone());
        let help = "Connections whose handshake failed or that broke off";
        service.register("connections_failed", help, metrics.connections_failed.clone());
        let help = "From a request about a client to its answer";
        service.register("authenticate_seconds", help, metrics.seconds.clone());
        metrics
    }

    /// Counts an answer to a request for one of our paths.
    pub(super) fn answered(&self, path: &'static str, status: u16) {
        self.answers.get_or_create(&StatusLabels { path, status }).inc();
    }
}
