//! What a worker counts of its part in the cluster.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use state::Noted;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoteLabels {
    kind: NoteLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum NoteLabel {
    Message,
    Queued,
    TakenOver,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LateLabels {
    reason: LateReason,
}

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum LateReason {
    /// It had come before.
    Again,
    /// With QoS 0, and a newer one of its publisher may have been delivered.
    Overtaken,
    /// With QoS 0, and its subscriber may have it from the worker where it was then.
    BeforeMove,
}

/// Counters and gauges.
pub(crate) struct ClusterMetrics {
    /// 1 while messages at QoS 1 and 2 may be matched.
    pub(super) lease: Gauge,
    /// Workers in the registry, this one included.
    pub(super) members: Gauge,
    /// Changes of routes that others have written and this worker has not applied.
    pub(super) route_lag: Gauge,
    pub(super) notes_sent: Counter,
    pub(super) notes_received: Counter,
    pub(super) buried: Counter,
    pub(super) expelled: Counter,
    /// Times that all routes were read anew.
    pub(super) reloads: Counter,
    /// Seconds from the log's answer until all workers had applied it.
    pub(super) barrier_wait: Histogram,
    notes_dropped: Family<NoteLabels, Counter>,
    messages_late: Family<LateLabels, Counter>,
}

impl ClusterMetrics {
    /// Makes and registers them.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tidegate_cluster");
        let metrics = Self {
            lease: Gauge::default(),
            members: Gauge::default(),
            route_lag: Gauge::default(),
            notes_sent: Counter::default(),
            notes_received: Counter::default(),
            buried: Counter::default(),
            expelled: Counter::default(),
            reloads: Counter::default(),
            barrier_wait: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            notes_dropped: Family::default(),
            messages_late: Family::default(),
        };
        registry.register(
            "route_lease",
            "1 while messages at QoS 1 and 2 may be matched",
            metrics.lease.clone(),
        );
        registry.register("members", "Workers in the registry", metrics.members.clone());
        let help = "Entries of the log of routes that this worker has not applied yet";
        registry.register("route_lag_entries", help, metrics.route_lag.clone());
        registry.register("notes_sent", "Notes put into inboxes of others", metrics.notes_sent.clone());
        registry.register("notes_received", "Notes from this worker's inbox", metrics.notes_received.clone());
        registry.register(
            "notes_dropped",
            "Notes for others that could not be sent and were not waited for",
            metrics.notes_dropped.clone(),
        );
        registry.register(
            "messages_late",
            "Messages from other workers that came again, or with QoS 0 too late to be delivered in order",
            metrics.messages_late.clone(),
        );
        registry.register(
            "workers_buried",
            "Dead workers whose sessions were let go",
            metrics.buried.clone(),
        );
        registry.register("expelled", "Times that others buried this worker", metrics.expelled.clone());
        registry.register("route_reloads", "Times that all routes were read anew", metrics.reloads.clone());
        registry.register(
            "subscribe_wait_seconds",
            "How long changes of subscriptions waited for other workers",
            metrics.barrier_wait.clone(),
        );
        metrics
    }

    /// Counts a message that was not delivered, since it came again or late.
    pub(super) fn drop_late(&self, reason: LateReason) {
        self.messages_late.get_or_create(&LateLabels { reason }).inc();
    }

    /// Counts a note that was left out.
    pub(super) fn drop_note(&self, noted: &Noted) {
        let kind = match noted {
            Noted::Message { .. } => NoteLabel::Message,
            Noted::Queued { .. } => NoteLabel::Queued,
            Noted::TakenOver { .. } => NoteLabel::TakenOver,
        };
        self.notes_dropped.get_or_create(&NoteLabels { kind }).inc();
    }
}
