//! What authentication counts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::inquiry::InquiryMetrics;
use crate::token_problem::{ProblemLabel, TokenProblem};
use crate::{Decision, DenyReason};

/// The counters; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    refused_tokens: Family<RefusedTokenLabels, Counter>,
    /// From a question about a client to its answer, AUTH exchanges apart.
    pub(crate) seconds: Histogram,
    /// Passwords that were hashed to decide.
    pub(crate) hashed: Counter,
    /// Passwords known from lately.
    pub(crate) recent_hits: Counter,
    /// What sources ask elsewhere.
    pub(crate) inquiries: InquiryMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    result: DecisionLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedTokenLabels {
    reason: ProblemLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are the label values")]
enum DecisionLabel {
    allow,
    bad_credentials,
    not_authorized,
    banned,
    unavailable,
    bad_method,
    slowed_down,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            decisions: Family::default(),
            refused_tokens: Family::default(),
            // 0.1 ms to 13 s.
            seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            hashed: Counter::default(),
            recent_hits: Counter::default(),
            inquiries: InquiryMetrics::default(),
        }
    }
}

impl Metrics {
    /// Registers under `tidegate_auth_`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let auth = registry.sub_registry_with_prefix("tidegate_auth");
        auth.register("decisions", "Clients allowed and denied, by result", metrics.decisions.clone());
        let help = "From a question about a client to its answer, AUTH exchanges apart";
        auth.register("decision_seconds", help, metrics.seconds.clone());
        auth.register(
            "passwords_hashed",
            "Passwords hashed to decide about a client",
            metrics.hashed.clone(),
        );
        auth.register(
            "tokens_refused",
            "Tokens that let nobody in, by reason",
            metrics.refused_tokens.clone(),
        );
        auth.register("passwords_recent", "Passwords known without hashing", metrics.recent_hits.clone());
        metrics.inquiries.register(auth);
        metrics
    }

    /// Counts a decision.
    pub(crate) fn count(&self, decision: &Decision) {
        match decision {
            Decision::Allow(_) => self.count_as(DecisionLabel::allow),
            Decision::Deny(reason) => self.count_deny(*reason),
        }
    }

    /// Counts an Authentication Method that ended well.
    pub(crate) fn count_allow(&self) {
        self.count_as(DecisionLabel::allow);
    }

    /// Counts a refusal.
    pub(crate) fn count_deny(&self, reason: DenyReason) {
        self.count_as(match reason {
            DenyReason::BadCredentials => DecisionLabel::bad_credentials,
            DenyReason::NotAuthorized => DecisionLabel::not_authorized,
            DenyReason::Banned => DecisionLabel::banned,
            DenyReason::Unavailable => DecisionLabel::unavailable,
            DenyReason::BadMethod => DecisionLabel::bad_method,
            DenyReason::SlowedDown => DecisionLabel::slowed_down,
        });
    }

    /// Counts a token that was refused.
    pub(crate) fn count_refused_token(&self, problem: &TokenProblem) {
        if let Some(reason) = problem.label() {
            self.refused_tokens.get_or_create(&RefusedTokenLabels { reason }).inc();
        }
    }

    fn count_as(&self, result: DecisionLabel) {
        self.decisions.get_or_create(&DecisionLabels { result }).inc();
    }
}
