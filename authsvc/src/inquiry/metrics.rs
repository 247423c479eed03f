//! What is counted of questions, by source.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::breaker::Change;
use super::{Decided, Fault, Reply};

/// Upper bounds of the histogram, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Of all sources that ask; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct InquiryMetrics {
    outcomes: Family<Labels, Counter>,
    seconds: Family<SourceLabel, Histogram, fn() -> Histogram>,
    breaker_open: Family<SourceLabel, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    source: &'static str,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are the label values")]
pub(crate) enum Outcome {
    /// Asked: yes.
    allowed,
    /// Asked: no.
    denied,
    /// Asked: not mine.
    ignored,
    /// Asked: see [`Fault`].
    unreachable,
    timeout,
    failing,
    malformed,
    /// Not asked: it was known.
    cached,
    /// Not asked: somebody else just did.
    shared,
    /// Not asked: too many waited.
    shed,
    /// Not asked: the breaker is open.
    broken,
}

impl Default for InquiryMetrics {
    fn default() -> Self {
        Self {
            outcomes: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            breaker_open: Family::default(),
        }
    }
}

impl InquiryMetrics {
    /// Registers them in the registry of authentication.
    pub(crate) fn register(&self, auth: &mut Registry) {
        auth.register("inquiries", "Questions of sources, by outcome", self.outcomes.clone());
        auth.register(
            "inquiry_seconds",
            "Seconds until a service answered, or an attempt failed",
            self.seconds.clone(),
        );
        auth.register(
            "breaker_open",
            "1 while a service fails and is only probed, else 0",
            self.breaker_open.clone(),
        );
    }

    pub(super) fn of(&self, source: &'static str) -> OfService {
        let label = SourceLabel { source };
        OfService {
            source,
            outcomes: self.outcomes.clone(),
            seconds: self.seconds.get_or_create_owned(&label),
            breaker_open: self.breaker_open.get_or_create_owned(&label),
        }
    }
}

/// Of one source.
pub(super) struct OfService {
    source: &'static str,
    outcomes: Family<Labels, Counter>,
    seconds: Histogram,
    breaker_open: Gauge,
}

impl OfService {
    pub(super) fn count(&self, outcome: Outcome) {
        self.outcomes.get_or_create(&Labels { source: self.source, outcome }).inc();
    }

    pub(super) fn observe<V: Decided>(&self, answered: &Result<Reply<V>, Fault>, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        self.count(match answered {
            Ok(answer) => answer.verdict.outcome(),
            Err(Fault::Unreachable) => Outcome::unreachable,
            Err(Fault::Timeout) => Outcome::timeout,
            Err(Fault::Failing) => Outcome::failing,
            Err(Fault::Malformed) => Outcome::malformed,
        });
    }

    pub(super) fn show(&self, change: Change) {
        self.breaker_open.set(i64::from(change == Change::Opened));
    }
}
