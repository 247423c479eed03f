//! What the edge counts about its workers and about devices that move between them.

use std::net::SocketAddr;

use link::LinkTerms;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WorkerLabel {
    worker: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MoveLabels {
    reason: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TermLabel {
    what: &'static str,
}

/// Why a device is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveReason {
    /// The link to its worker is over, or no worker had it yet.
    Lost,
    /// Its worker is about to leave.
    Drain,
    /// Its worker has more than its share.
    Rebalance,
    /// Its worker is without its store, and another is not.
    StoreAway,
}

impl MoveReason {
    fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Drain => "drain",
            Self::Rebalance => "rebalance",
            Self::StoreAway => "store_away",
        }
    }
}

/// How the move of a device ended, or one attempt of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveOutcome {
    /// It is at another worker.
    Moved,
    /// Its session is gone.
    SessionGone,
    /// Its session belongs to another connection.
    TakenOver,
    /// Its passport is not accepted any more.
    Passport,
    /// No worker took it in time.
    Timeout,
    /// A worker refused for another reason for good.
    Refused,
}

impl MoveOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::SessionGone => "session_gone",
            Self::TakenOver => "taken_over",
            Self::Passport => "passport",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
        }
    }
}

/// The metrics, registered once.
#[derive(Clone)]
pub(super) struct Metrics {
    tls_expiry: Family<TermLabel, Gauge>,
    links: Family<WorkerLabel, Gauge>,
    streams: Family<WorkerLabel, Gauge>,
    healthy: Family<WorkerLabel, Gauge>,
    moves: Family<MoveLabels, Counter>,
    /// From the loss of a worker until another has the session, seconds.
    pub(super) move_seconds: Histogram,
    /// Devices that wait to be moved, or whose move is under way.
    pub(super) moving: Gauge,
    /// QoS 0 messages of devices dropped because there was no room while they moved.
    pub(super) qos0_dropped: Counter,
    /// Links that failed, attempts to connect among them.
    pub(super) link_failures: Counter,
    /// Connections whose end a worker does not know yet.
    pub(super) closing: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            tls_expiry: Family::default(),
            links: Family::default(),
            streams: Family::default(),
            healthy: Family::default(),
            moves: Family::default(),
            move_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            moving: Gauge::default(),
            qos0_dropped: Counter::default(),
            link_failures: Counter::default(),
            closing: Gauge::default(),
        }
    }
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let workers = registry.sub_registry_with_prefix("workers");
        workers.register(
            "tls_expiry_timestamp_seconds",
            "When the certificate of links ends, and the last authority of the other end's",
            metrics.tls_expiry.clone(),
        );
        workers.register("links", "Links that are up", metrics.links.clone());
        workers.register("streams", "Sessions at a worker, asked for or open", metrics.streams.clone());
        workers.register(
            "healthy",
            "Whether sessions are opened at a worker: 1, or 0 while it is down, unhealthy or leaving",
            metrics.healthy.clone(),
        );
        workers.register(
            "moves",
            "Moves of devices to another worker, by reason and outcome",
            metrics.moves.clone(),
        );
        workers.register(
            "move_seconds",
            "From the loss of a worker until another has the session",
            metrics.move_seconds.clone(),
        );
        workers.register("moving", "Devices between two workers", metrics.moving.clone());
        workers.register(
            "qos0_dropped",
            "QoS 0 messages from devices dropped while they moved",
            metrics.qos0_dropped.clone(),
        );
        workers.register(
            "link_failures",
            "Links lost, and attempts to connect that came to nothing",
            metrics.link_failures.clone(),
        );
        workers.register(
            "closing",
            "Connections that have ended and whose end is not durable yet",
            metrics.closing.clone(),
        );
        metrics
    }

    /// When the certificates of links end.
    pub(super) fn tls_ends(&self, terms: LinkTerms) {
        for (what, validity) in [("certificate", terms.certificate), ("authority", terms.authority)] {
            self.tls_expiry.get_or_create(&TermLabel { what }).set(validity.until_s);
        }
    }

    pub(super) fn worker(&self, address: SocketAddr) -> WorkerMetrics {
        let label = WorkerLabel { worker: address.to_string() };
        WorkerMetrics {
            links: self.links.get_or_create_owned(&label),
            streams: self.streams.get_or_create_owned(&label),
            healthy: self.healthy.get_or_create_owned(&label),
        }
    }

    /// No such worker any more.
    pub(super) fn forget(&self, address: SocketAddr) {
        let label = WorkerLabel { worker: address.to_string() };
        self.links.remove(&label);
        self.streams.remove(&label);
        self.healthy.remove(&label);
    }

    pub(super) fn moved(&self, reason: MoveReason, outcome: MoveOutcome) {
        self.moves.get_or_create(&MoveLabels { reason: reason.label(), outcome: outcome.label() }).inc();
    }
}

/// Those of one worker.
#[derive(Clone)]
pub(super) struct WorkerMetrics {
    pub(super) links: Gauge,
    pub(super) streams: Gauge,
    pub(super) healthy: Gauge,
}
