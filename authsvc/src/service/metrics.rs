//! What the service counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

link::metrics! {
    /// The counters; clones share them.
    #[derive(Clone)]
    pub(super) struct ServiceMetrics in "tidegate_authsvc" {
        /// Answers to requests, by path and status.
        pub(super) answers: Counter[path: &'static str, status: u16];
        /// Connections of callers.
        pub(super) connections: Gauge;
        /// Connections whose handshake failed or that broke off.
        pub(super) connections_failed: Counter;
        /// From a request about a client to its answer.
        // 0.25 ms to 8 s.
        pub(super) authenticate_seconds: Histogram = Histogram::new(exponential_buckets(0.00025, 2.0, 16));
    }
}
