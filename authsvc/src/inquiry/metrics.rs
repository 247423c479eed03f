//! What is counted of the questions of one source.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::breaker::Change;
use super::{Decided, Fault, Reply};
use crate::metrics::{Metrics, Outcome};

/// Of one source.
pub(super) struct OfService {
    source: &'static str,
    metrics: Metrics,
    seconds: Histogram,
    breaker_open: Gauge,
}

impl OfService {
    pub(super) fn new(source: &'static str, metrics: &Metrics) -> Self {
        Self {
            source,
            metrics: metrics.clone(),
            seconds: metrics.inquiry_seconds.of((source,)).clone(),
            breaker_open: metrics.breaker_open.of((source,)).clone(),
        }
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.metrics.inquiries.count((self.source, outcome));
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
        self.breaker_open.set(i64::from(change != Change::Closed));
    }
}
