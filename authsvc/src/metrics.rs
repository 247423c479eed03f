//! What authentication counts.

use prometheus_client::encoding::EncodeLabelValue;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::token_problem::TokenProblem;
use crate::{Decision, DenyReason};

/// Upper bounds of how long questions of sources take, in seconds.
const INQUIRY_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// How a question of a source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are the label values")]
pub(crate) enum Outcome {
    /// Asked: yes.
    allowed,
    /// Asked: no.
    denied,
    /// Asked: not mine.
    ignored,
    /// Asked: see [`crate::inquiry::Fault`].
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

link::metrics! {
    /// The counters; clones share them.
    #[derive(Clone, Debug)]
    pub(crate) struct Metrics in "tidegate_auth" {
        /// Clients allowed and denied, by result.
        decisions: Counter[result: &'static str];
        /// Tokens that let nobody in, by reason.
        tokens_refused: Counter[reason: &'static str];
        /// From a question about a client to its answer, AUTH exchanges apart.
        // 0.1 ms to 13 s.
        pub(crate) decision_seconds: Histogram = Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        /// Passwords hashed to decide about a client.
        pub(crate) passwords_hashed: Counter;
        /// Passwords known without hashing.
        pub(crate) passwords_recent: Counter;
        /// Questions of sources, by outcome.
        pub(crate) inquiries: Counter[source: &'static str, outcome: Outcome];
        /// Seconds until a service answered, or an attempt failed.
        pub(crate) inquiry_seconds: Histogram[source: &'static str] = Histogram::new(INQUIRY_SECONDS);
        /// 1 while a service fails and is only probed, else 0.
        pub(crate) breaker_open: Gauge[source: &'static str];
    }
}

impl Metrics {
    /// Counts a decision.
    pub(crate) fn count(&self, decision: &Decision) {
        match decision {
            Decision::Allow(_) => self.count_allow(),
            Decision::Deny(reason) => self.count_deny(*reason),
        }
    }

    /// Counts an Authentication Method that ended well.
    pub(crate) fn count_allow(&self) {
        self.decisions.count(("allow",));
    }

    /// Counts a refusal.
    pub(crate) fn count_deny(&self, reason: DenyReason) {
        self.decisions.count((reason.label(),));
    }

    /// Counts a token that was refused.
    pub(crate) fn count_refused_token(&self, problem: &TokenProblem) {
        if let Some(reason) = problem.label() {
            self.tokens_refused.count((reason,));
        }
    }
}
