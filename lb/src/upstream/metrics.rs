//! What the edge counts about its workers and about devices that move between them.

use std::net::SocketAddr;

use link::metrics::By;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

link::labels! {
    /// Why a device is moved.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(super) enum MoveReason {
        /// The link to its worker is over, or no worker had it yet.
        Lost = "lost",
        /// Its worker is about to leave.
        Drain = "drain",
        /// Its worker has more than its share.
        Rebalance = "rebalance",
        /// Its worker is without its store, and another is not.
        StoreAway = "store_away",
    }
}

link::labels! {
    /// How the move of a device ended, or one attempt of it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(super) enum MoveOutcome {
        /// It is at another worker.
        Moved = "moved",
        /// Its session is gone.
        SessionGone = "session_gone",
        /// Its session belongs to another connection.
        TakenOver = "taken_over",
        /// Its passport is not accepted any more.
        Passport = "passport",
        /// No worker took it in time.
        Timeout = "timeout",
        /// A worker refused for another reason for good.
        Refused = "refused",
    }
}

link::metrics! {
    /// The metrics, registered once.
    #[derive(Clone)]
    pub(super) struct Metrics in "workers" {
        /// When the certificate of links ends, and the last authority of the other end's.
        pub(super) tls_expiry_timestamp_seconds: Gauge[what: &'static str];
        /// Links that are up.
        links: Gauge[worker: String];
        /// Sessions at a worker, asked for or open.
        streams: Gauge[worker: String];
        /// Whether sessions are opened at a worker: 1, or 0 while it is down, unhealthy or leaving.
        healthy: Gauge[worker: String];
        /// Moves of devices to another worker, by reason and outcome.
        pub(super) moves: Counter[reason: MoveReason, outcome: MoveOutcome];
        /// From the loss of a worker until another has the session.
        pub(super) move_seconds: Histogram = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        /// Devices between two workers.
        pub(super) moving: Gauge;
        /// QoS 0 messages from devices dropped while they moved.
        pub(super) qos0_dropped: Counter;
        /// Links lost, and attempts to connect that came to nothing.
        pub(super) link_failures: Counter;
        /// Connections that have ended and whose end is not durable yet.
        pub(super) closing: Gauge;
    }
}

impl Metrics {
    pub(super) fn worker(&self, address: SocketAddr) -> WorkerMetrics {
        let of_worker = |gauge: &By<(String,), Gauge>| gauge.of((address.to_string(),)).clone();
        WorkerMetrics {
            links: of_worker(&self.links),
            streams: of_worker(&self.streams),
            healthy: of_worker(&self.healthy),
        }
    }

    /// No such worker any more.
    pub(super) fn forget(&self, address: SocketAddr) {
        for gauge in [&self.links, &self.streams, &self.healthy] {
            gauge.forget((address.to_string(),));
        }
    }
}

/// Those of one worker.
#[derive(Clone)]
pub(super) struct WorkerMetrics {
    pub(super) links: Gauge,
    pub(super) streams: Gauge,
    pub(super) healthy: Gauge,
}
