//! What an edge counts of its questions.

use std::net::SocketAddr;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The counters; clones share them.
#[derive(Clone)]
pub(super) struct Metrics {
    questions: Family<OutcomeLabels, Counter>,
    answers: Family<FromLabels, Counter>,
    up: Family<AddressLabels, Gauge>,
    /// Questions that wait for their answer.
    pub(super) waiting: Gauge,
    /// Answers that are remembered.
    pub(super) remembered: Gauge,
    /// From a question to its answer, whichever services were asked.
    pub(super) seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromLabels {
    from: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AddressLabels {
    address: String,
}

impl Metrics {
    /// Registers under `tidegate_authsvc_client_`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            questions: Family::default(),
            answers: Family::default(),
            up: Family::default(),
            waiting: Gauge::default(),
            remembered: Gauge::default(),
            // 0.25 ms to 8 s.
            seconds: Histogram::new(exponential_buckets(0.00025, 2.0, 16)),
        };
        let client = registry.sub_registry_with_prefix("tidegate_authsvc_client");
        let help = "Requests to the service of authentication, by outcome";
        client.register("requests", help, metrics.questions.clone());
        let help = "Answers by where they came from: service, cache, shared, cache_while_away, none";
        client.register("answers", help, metrics.answers.clone());
        client.register("up", "Whether an address of the service answers", metrics.up.clone());
        client.register("waiting", "Questions that wait for their answer", metrics.waiting.clone());
        client.register("remembered", "Answers that are remembered", metrics.remembered.clone());
        client.register("seconds", "From a question to its answer", metrics.seconds.clone());
        metrics
    }

    /// Counts what became of a request.
    pub(super) fn asked(&self, outcome: &'static str) {
        self.questions.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Counts where an answer came from.
    pub(super) fn answered(&self, from: &'static str) {
        self.answers.get_or_create(&FromLabels { from }).inc();
    }

    /// Whether an address answers.
    pub(super) fn set_up(&self, address: SocketAddr, is_up: bool) {
        self.up.get_or_create(&AddressLabels { address: address.to_string() }).set(is_up.into());
    }

    /// An address is no longer among them.
    pub(super) fn forget(&self, address: SocketAddr) {
        self.up.remove(&AddressLabels { address: address.to_string() });
    }
}
