//! What an edge counts of its questions.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

link::metrics! {
    /// The counters; clones share them.
    #[derive(Clone)]
    pub(super) struct ClientMetrics in "tidegate_authsvc_client" {
        /// Requests to the service of authentication, by outcome.
        pub(super) requests: Counter[outcome: &'static str];
        /// Answers by where they came from: service, cache, shared, cache_while_away, none.
        pub(super) answers: Counter[from: &'static str];
        /// Whether an address of the service answers.
        pub(super) up: Gauge[address: String];
        /// By how many seconds the clock of an address of the service is ahead of this one, as near as its answers say it.
        pub(super) clock_ahead_seconds: Gauge[address: String];
        /// Questions that wait for their answer.
        pub(super) waiting: Gauge;
        /// Answers that are remembered.
        pub(super) remembered: Gauge;
        /// From a question to its answer.
        // 0.25 ms to 8 s.
        pub(super) seconds: Histogram = Histogram::new(exponential_buckets(0.00025, 2.0, 16));
    }
}
