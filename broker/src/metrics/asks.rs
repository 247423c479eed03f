//! What is counted of questions about single actions.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::authorize::authorizer::{AskedAction, Verdict};

/// Upper bounds of the histogram, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AskLabels {
    action: ActionLabel,
    outcome: OutcomeLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are the label values")]
enum ActionLabel {
    publish,
    subscribe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are the label values")]
enum OutcomeLabel {
    allowed,
    denied,
    ignored,
    unavailable,
}

/// Of all clients; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct AskMetrics {
    outcomes: Family<AskLabels, Counter>,
    seconds: Histogram,
}

impl Default for AskMetrics {
    fn default() -> Self {
        Self { outcomes: Family::default(), seconds: Histogram::new(BUCKETS) }
    }
}

impl AskMetrics {
    /// Registers them in the registry of the worker.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("asks", "Actions that were asked about, by outcome", self.outcomes.clone());
        registry.register("ask_seconds", "Seconds until an action was decided", self.seconds.clone());
    }

    /// Counts an answer that came after `took`.
    pub(crate) fn count(&self, action: AskedAction, verdict: Verdict, took: Duration) {
        let action = match action {
            AskedAction::Publish => ActionLabel::publish,
            AskedAction::Subscribe => ActionLabel::subscribe,
        };
        let outcome = match verdict {
            Verdict::Allow(_) => OutcomeLabel::allowed,
            Verdict::Deny => OutcomeLabel::denied,
            Verdict::Ignore => OutcomeLabel::ignored,
            Verdict::Unavailable => OutcomeLabel::unavailable,
        };
        self.outcomes.get_or_create(&AskLabels { action, outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
