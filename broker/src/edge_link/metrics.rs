//! What the worker's end of links counts.

use link::LinkTerms;
use link::wire::RefuseReason;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefuseLabels {
    reason: RefuseLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum RefuseLabel {
    Draining,
    Overloaded,
    StoreAway,
    SessionGone,
    TakenOver,
    Passport,
    Connect,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TermLabel {
    what: &'static str,
}

/// Counters and gauges of all links of a worker.
pub(super) struct LinkMetrics {
    /// Links that are up, and the devices on them.
    pub links: Gauge,
    pub streams: Gauge,
    /// Links that ended other than by the edge's closing them.
    pub links_failed: Counter,
    /// Connections beyond the bound, or that did not become a link.
    pub links_refused: Counter,
    /// Devices whose link went away under them.
    pub streams_lost: Counter,
    refused: Family<RefuseLabels, Counter>,
    tls_expiry: Family<TermLabel, Gauge>,
}

impl LinkMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tidegate_link");
        let metrics = Self {
            links: Gauge::default(),
            streams: Gauge::default(),
            links_failed: Counter::default(),
            links_refused: Counter::default(),
            streams_lost: Counter::default(),
            refused: Family::default(),
            tls_expiry: Family::default(),
        };
        registry.register(
            "tls_expiry_timestamp_seconds",
            "When the certificate of links ends, and the last authority of the other end's",
            metrics.tls_expiry.clone(),
        );
        registry.register("links", "Links from edges", metrics.links.clone());
        registry.register("streams", "Devices served over links", metrics.streams.clone());
        let help = "Links that ended by a fault, a silence or a lost connection";
        registry.register("links_failed", help, metrics.links_failed.clone());
        let help = "Connections that were not taken as links";
        registry.register("links_refused", help, metrics.links_refused.clone());
        let help = "Devices whose link was lost";
        registry.register("streams_lost", help, metrics.streams_lost.clone());
        registry.register("opens_refused", "Devices that were not taken", metrics.refused.clone());
        metrics
    }

    /// When the certificates of links end.
    pub(super) fn tls_ends(&self, terms: LinkTerms) {
        for (what, validity) in [("certificate", terms.certificate), ("authority", terms.authority)] {
            self.tls_expiry.get_or_create(&TermLabel { what }).set(validity.until_s);
        }
    }

    /// Counts a device that was not taken.
    pub(super) fn refuse(&self, reason: RefuseReason) {
        let reason = match reason {
            RefuseReason::Draining => RefuseLabel::Draining,
            RefuseReason::Overloaded => RefuseLabel::Overloaded,
            RefuseReason::StoreAway => RefuseLabel::StoreAway,
            RefuseReason::SessionGone => RefuseLabel::SessionGone,
            RefuseReason::TakenOver => RefuseLabel::TakenOver,
            RefuseReason::Passport => RefuseLabel::Passport,
            RefuseReason::Connect => RefuseLabel::Connect,
        };
        self.refused.get_or_create(&RefuseLabels { reason }).inc();
    }
}
