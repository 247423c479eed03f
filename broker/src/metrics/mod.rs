//! What a worker counts. `$SYS` and the metrics endpoint read the same counters.

mod asks;
pub(crate) mod latency;
pub(crate) mod tally;
pub(crate) mod timed_store;

use std::sync::atomic::AtomicU64;

use mqtt::QoS;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use self::asks::AskMetrics;
use crate::authorize::bounds::Bound;
use crate::metrics::latency::Latency;
use crate::session::DropReason;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: DropLabel,
    qos: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum DropLabel {
    QueueFull,
    SlowClient,
    OutOfMemory,
    Expired,
    TooLarge,
    Refused,
    NotAuthorized,
    Undecided,
    ReceiverNotAuthorized,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QosLabels {
    qos: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

/// Counters and gauges of one worker.
pub(crate) struct Metrics {
    /// PUBLISH packets taken from clients, by QoS.
    pub received: [Counter; 3],
    /// PUBLISH packets handed to clients, by QoS.
    pub sent: [Counter; 3],
    /// From a QoS 1 or 2 PUBLISH to its PUBACK or PUBREC.
    pub acknowledge_seconds: Latency,
    /// Payload bytes received and sent.
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    /// Connections with a session now, and the most there have been.
    pub connected: Gauge,
    pub connected_max: AtomicU64,
    /// Sessions opened, resumed, taken over, expired; those that were asked for by another principal than theirs.
    pub opened: Counter,
    pub foreign: Counter,
    pub taken_over: Counter,
    pub expired: Counter,
    /// Will Messages published.
    pub wills: Counter,
    /// Actions that were asked about, and those of which the answer was known.
    pub asks: AskMetrics,
    pub answers_known: Counter,
    dropped: Family<DropLabels, Counter>,
    limited: Family<LimitLabels, Counter>,
}

impl Metrics {
    /// Makes and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tidegate_broker");
        let received = Family::<QosLabels, Counter>::default();
        let sent = Family::<QosLabels, Counter>::default();
        let dropped = Family::default();
        let metrics = Self {
            received: [0, 1, 2].map(|qos| received.get_or_create(&QosLabels { qos }).clone()),
            sent: [0, 1, 2].map(|qos| sent.get_or_create(&QosLabels { qos }).clone()),
            acknowledge_seconds: Latency::default(),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            connected: Gauge::default(),
            connected_max: AtomicU64::new(0),
            opened: Counter::default(),
            foreign: Counter::default(),
            taken_over: Counter::default(),
            expired: Counter::default(),
            wills: Counter::default(),
            asks: AskMetrics::default(),
            answers_known: Counter::default(),
            dropped,
            limited: Family::default(),
        };
        registry.register("messages_received", "PUBLISH packets from clients", received);
        registry.register("messages_sent", "PUBLISH packets to clients", sent);
        let help = "From a QoS 1 or 2 PUBLISH until it is acknowledged";
        registry.register("acknowledge_seconds", help, metrics.acknowledge_seconds.clone());
        registry.register(
            "payload_bytes_received",
            "Payload bytes from clients",
            metrics.bytes_received.clone(),
        );
        registry.register("payload_bytes_sent", "Payload bytes to clients", metrics.bytes_sent.clone());
        registry.register("sessions_connected", "Sessions with a connection", metrics.connected.clone());
        registry.register("sessions_opened", "Sessions opened or resumed", metrics.opened.clone());
        registry.register(
            "sessions_foreign",
            "Connections refused since the session is another principal's",
            metrics.foreign.clone(),
        );
        registry.register(
            "sessions_taken_over",
            "Connections ended by a newer one",
            metrics.taken_over.clone(),
        );
        registry.register("sessions_expired", "Stored sessions expired", metrics.expired.clone());
        registry.register("wills_published", "Will Messages published", metrics.wills.clone());
        registry.register(
            "messages_dropped",
            "Messages that did not reach a session",
            metrics.dropped.clone(),
        );
        registry.register(
            "asks_known",
            "Actions that are asked about, and whose answer was remembered",
            metrics.answers_known.clone(),
        );
        metrics.asks.register(registry);
        registry.register("limited", "What clients were refused beyond a bound", metrics.limited.clone());
        metrics
    }

    /// Counts a dropped message.
    pub(crate) fn drop_message(&self, reason: DropReason, qos: QoS) {
        let reason = match reason {
            DropReason::QueueFull => DropLabel::QueueFull,
            DropReason::SlowClient => DropLabel::SlowClient,
            DropReason::OutOfMemory => DropLabel::OutOfMemory,
            DropReason::Expired => DropLabel::Expired,
            DropReason::TooLarge => DropLabel::TooLarge,
            DropReason::Refused => DropLabel::Refused,
            DropReason::NotAuthorized => DropLabel::NotAuthorized,
            DropReason::Undecided => DropLabel::Undecided,
            DropReason::ReceiverNotAuthorized => DropLabel::ReceiverNotAuthorized,
        };
        self.dropped.get_or_create(&DropLabels { reason, qos: qos as u8 }).inc();
    }

    /// Counts what was refused since it is beyond a bound.
    pub(crate) fn limit(&self, bound: Bound) {
        self.limited.get_or_create(&LimitLabels { limit: bound.label() }).inc();
    }

    /// Messages dropped in all.
    pub(crate) fn dropped_total(&self) -> u64 {
        let mut total = 0;
        for reason in [
            DropLabel::QueueFull,
            DropLabel::SlowClient,
            DropLabel::OutOfMemory,
            DropLabel::Expired,
            DropLabel::TooLarge,
            DropLabel::Refused,
            DropLabel::NotAuthorized,
            DropLabel::Undecided,
            DropLabel::ReceiverNotAuthorized,
        ] {
            for qos in 0..3 {
                total += self.dropped.get(&DropLabels { reason, qos }).map_or(0, |counter| counter.get());
            }
        }
        total
    }
}
