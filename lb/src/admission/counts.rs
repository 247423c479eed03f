//! Connections and handshakes of an edge, counted within their bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::handshakes::Handshakes;
use super::openings::{Gauges, Openings};
use super::rates::SourceRates;
use super::source_connections::SourceConnections;
use super::turns::Turns;
use crate::config::EdgeConfig;

/// Of so many connections one is left for those that come while handshakes are given up for them, and so many at most.
const SPARE_PART: usize = 16;
const SPARE_MAX: usize = 256;

/// Whom an edge lets in.
pub(crate) struct Admission {
    pub(crate) rates: Option<SourceRates>,
    pub(super) sources: Option<Arc<SourceConnections>>,
    pub(super) handshakes: Handshakes,
    /// At the work of a handshake that keeps a core busy.
    pub(crate) turns: Arc<Turns>,
    /// Sessions that are asked for.
    pub(crate) openings: Arc<Openings>,
    pub(super) metrics: AdmissionMetrics,
    pub(super) connections_max: usize,
    connections: AtomicUsize,
    /// Told when a connection ends of which there were `connections_max`.
    room: Notify,
    empty: Notify,
}

/// What an [`Admission`] counts.
pub(crate) struct AdmissionMetrics {
    pub(crate) openings: Gauges,
    /// Handshakes under way.
    pub(crate) handshakes: Gauge,
    /// From accept until the session is opened, seconds.
    pub(crate) handshake_seconds: Histogram,
}

impl Admission {
    pub(crate) fn new(config: &EdgeConfig, metrics: AdmissionMetrics) -> Self {
        Self {
            rates: SourceRates::new(config),
            sources: SourceConnections::new(config.source_connections_max),
            handshakes: Handshakes::new(config.handshakes_max, config.source_handshakes_max),
            turns: Turns::new(config.handshake_threads()),
            openings: Openings::new(metrics.openings.clone()),
            metrics,
            connections_max: config.connections_max,
            connections: AtomicUsize::new(0),
            room: Notify::new(),
            empty: Notify::new(),
        }
    }

    /// Connected devices and handshakes.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Counts a connection in. Whether it is within `connections_max`.
    pub(super) fn enter(&self) -> bool {
        self.connections.fetch_add(1, Ordering::SeqCst) < self.connections_max
    }

    /// Counts a connection out.
    pub(super) fn leave(&self) {
        let before = self.connections.fetch_sub(1, Ordering::SeqCst);
        if before == 1 {
            self.empty.notify_waiters();
        }
        // Above it were those that are turned away.
        if before == self.connections_max {
            self.room.notify_waiters();
        }
    }

    /// Whether so few connections are left of `connections_max` that handshakes are given up for those that come: who has
    /// connections only to be silent is to keep nobody out.
    pub(super) fn is_scarce(&self) -> bool {
        let max = self.connections_max;
        let spare = (max / SPARE_PART).min(SPARE_MAX);
        self.connections() > max - spare
    }

    /// Where `connections_max` is reached: waits until handshakes that are given up have made room. `false` if there are none, or
    /// not until `deadline`.
    pub(crate) async fn makes_room(&self, deadline: Instant) -> bool {
        let room = self.room.notified();
        if self.connections() < self.connections_max {
            return true;
        }
        self.handshakes.are_leaving() && tokio::time::timeout_at(deadline, room).await.is_ok()
    }

    /// Returns when no connection is left.
    pub(crate) async fn emptied(&self) {
        loop {
            let notified = self.empty.notified();
            if self.connections() == 0 {
                return;
            }
            notified.await;
        }
    }
}
