//! What the edge counts. Message-path counters are gathered by each relay and added here every so often, so that
//! connections do not contend.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::admission::{AdmissionMetrics, Gauges, Line};
use crate::reason::{CloseReason, HandshakeFailure, HandshakeStage, ShedReason};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    stage: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LineLabel {
    line: &'static str,
}

/// The edge's metrics, registered once.
pub(crate) struct Metrics {
    connections: Family<ListenerLabel, Gauge>,
    accepted: Family<ListenerLabel, Counter>,
    shed: Family<ReasonLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
    handshake_failures: Family<FailureLabels, Counter>,
    closes: Family<ReasonLabel, Counter>,
    renewals: Family<ResultLabel, Counter>,
    limited: Family<LimitLabel, Counter>,
    /// From accept until the session is opened, seconds.
    handshake_seconds: Histogram,
    /// Handshakes under way.
    pub(crate) handshakes: Gauge,
    openings_at_once: Gauge,
    openings_waiting: Family<LineLabel, Gauge>,
    /// MQTT bytes from devices, CONNECT apart.
    pub(crate) received_bytes: Counter,
    /// Control Packets from devices, CONNECT apart.
    pub(crate) received_packets: Counter,
    /// MQTT bytes to devices.
    pub(crate) sent_bytes: Counter,
    /// Bytes of incomplete packets kept.
    pub(crate) receive_buffer_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Family::default(),
            accepted: Family::default(),
            shed: Family::default(),
            refused: Family::default(),
            handshake_failures: Family::default(),
            closes: Family::default(),
            renewals: Family::default(),
            limited: Family::default(),
            handshake_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            handshakes: Gauge::default(),
            openings_at_once: Gauge::default(),
            openings_waiting: Family::default(),
            received_bytes: Counter::default(),
            received_packets: Counter::default(),
            sent_bytes: Counter::default(),
            receive_buffer_bytes: Gauge::default(),
        };
        let edge = registry.sub_registry_with_prefix("edge");
        edge.register("connections", "Connected devices", metrics.connections.clone());
        edge.register("accepted", "Connections accepted", metrics.accepted.clone());
        edge.register("shed", "Connections turned away when accepted", metrics.shed.clone());
        edge.register("refused", "CONNECT packets refused", metrics.refused.clone());
        edge.register(
            "handshake_failures",
            "Handshakes that came to nothing",
            metrics.handshake_failures.clone(),
        );
        edge.register("closes", "Ends of device connections", metrics.closes.clone());
        edge.register(
            "passport_renewals",
            "Answers to renewals of passports: renewed, denied, unavailable",
            metrics.renewals.clone(),
        );
        edge.register("limited", "Devices held back or refused beyond a limit", metrics.limited.clone());
        edge.register(
            "handshake_seconds",
            "From accept until the session is opened",
            metrics.handshake_seconds.clone(),
        );
        edge.register("handshakes", "Handshakes under way", metrics.handshakes.clone());
        edge.register(
            "openings_at_once",
            "Sessions that may be asked for at once, from how long answers take",
            metrics.openings_at_once.clone(),
        );
        edge.register(
            "openings_waiting",
            "Connections that wait until their session may be asked for",
            metrics.openings_waiting.clone(),
        );
        edge.register("received_bytes", "MQTT bytes from devices", metrics.received_bytes.clone());
        edge.register("received_packets", "Control Packets from devices", metrics.received_packets.clone());
        edge.register("sent_bytes", "MQTT bytes to devices", metrics.sent_bytes.clone());
        edge.register(
            "receive_buffer_bytes",
            "Bytes of incomplete packets kept",
            metrics.receive_buffer_bytes.clone(),
        );
        metrics
    }

    pub(crate) fn connections(&self, listener: &str) -> Gauge {
        self.connections.get_or_create_owned(&ListenerLabel { listener: listener.into() })
    }

    pub(crate) fn accepted(&self, listener: &str) -> Counter {
        self.accepted.get_or_create_owned(&ListenerLabel { listener: listener.into() })
    }

    /// Of admission.
    pub(crate) fn admission(&self) -> AdmissionMetrics {
        let waiting =
            |line: Line| self.openings_waiting.get_or_create_owned(&LineLabel { line: line.label() });
        let at_once = self.openings_at_once.clone();
        let openings = Gauges { at_once, returning: waiting(Line::Returning), new: waiting(Line::New) };
        AdmissionMetrics {
            openings,
            handshakes: self.handshakes.clone(),
            handshake_seconds: self.handshake_seconds.clone(),
        }
    }

    pub(crate) fn shed(&self, reason: ShedReason) {
        self.shed.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn handshake_failed(&self, stage: HandshakeStage, failure: HandshakeFailure) {
        let labels = FailureLabels { stage: stage.label(), reason: failure.label() };
        self.handshake_failures.get_or_create(&labels).inc();
    }

    pub(crate) fn renewed(&self, result: &'static str) {
        self.renewals.get_or_create(&ResultLabel { result }).inc();
    }

    #[cfg(test)]
    pub(crate) fn renewals_of(&self, result: &'static str) -> u64 {
        self.renewals.get_or_create(&ResultLabel { result }).get()
    }

    pub(crate) fn limit(&self, limit: &'static str) {
        self.limited.get_or_create(&LimitLabel { limit }).inc();
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        self.closes.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
    }
}
