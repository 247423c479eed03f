//! What all connections of an edge share: configuration, metrics, counts with their bounds, the clock and the order to
//! drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use mqtt::ReasonCode;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};

use crate::admission::Admission;
use crate::config::EdgeConfig;
use crate::connections::{Arriving, Relays, Seats, Successions};
use crate::reply::Direction;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::report::Reports;

/// Of the room for incomplete packets, what handshakes have at most; a whole CONNECT in any case.
const ARRIVING_PART: usize = 8;

/// Between two looks whether all devices have left.
const LEFT_INTERVAL: Duration = Duration::from_millis(20);

/// Shared by everything of one edge.
pub(crate) struct Shared {
    pub(crate) config: EdgeConfig,
    pub(crate) metrics: Metrics,
    /// Lines about connections that were not served, or no longer.
    pub(crate) reports: Reports,
    pub(crate) admission: Arc<Admission>,
    /// Passports that may be renewed at once.
    pub(crate) renewals: Arc<Semaphore>,
    started: Instant,
    phase: AtomicU8,
    /// Another process has the listening sockets: devices that come back are served.
    is_succeeded: AtomicBool,
    pub(crate) relays: Arc<Relays>,
    /// Who came last of each client.
    pub(crate) successions: Arc<Successions>,
    /// Of principals that may have so many connections.
    pub(crate) seats: Arc<Seats>,
    /// Handshakes that hold incomplete packets.
    pub(crate) arriving: Arriving,
}

/// How far an edge's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Nobody new comes. Devices are told to go, as [`Relays::dismiss`] says, and what waits for them is written.
    Draining,
    /// Connections are dropped as they are.
    Aborting,
}

impl Shared {
    pub(crate) fn new(config: EdgeConfig, metrics: Metrics) -> Self {
        let relays = Arc::<Relays>::default();
        Self {
            admission: Arc::new(Admission::new(&config, metrics.admission())),
            reports: Reports::new(config.log_lines_per_s),
            renewals: Arc::new(Semaphore::new(config.renewals_max)),
            metrics,
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Serving as u8),
            is_succeeded: AtomicBool::new(false),
            successions: Arc::new(Successions::new(&config, relays.clone())),
            relays,
            seats: Arc::default(),
            arriving: Arriving::default(),
            config,
        }
    }

    /// Milliseconds since the edge started, in 32 bits: wraps after 49 days, so that only differences below 24 days mean
    /// something.
    pub(crate) fn now_ms(&self) -> u32 {
        self.started.elapsed().as_millis() as u32
    }

    /// The moment that lies `ms` after `now_ms`, for timers.
    pub(crate) fn instant_in(ms: u32) -> Instant {
        Instant::now() + Duration::from_millis(ms.into())
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Aborting,
        }
    }

    /// Goes on to `phase` (never back). Every relay sees that it is to be dropped; who has to go is told by
    /// [`Relays::dismiss`].
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        if phase == Phase::Aborting {
            self.relays.wake_all();
        }
    }

    /// Another process has the listening sockets. To be called before draining.
    pub(crate) fn succeed(&self) {
        self.is_succeeded.store(true, Ordering::SeqCst);
    }

    /// Whether another process has them.
    pub(crate) fn is_succeeded(&self) -> bool {
        self.is_succeeded.load(Ordering::Relaxed)
    }

    /// Where devices go that have to go, if they are told.
    pub(crate) fn direction(&self) -> Option<Direction<'_>> {
        let reference = self.config.drain_server_reference.as_deref().filter(|_| !self.is_succeeded())?;
        let reason = match self.config.drain_server_moved {
            true => ReasonCode::ServerMoved,
            false => ReasonCode::UseAnotherServer,
        };
        Some(Direction { reason, reference })
    }

    /// Where those are sent that connect now, if they are.
    pub(crate) fn refers(&self) -> Option<Direction<'_>> {
        let refers = self.config.drain_answers_connects && self.phase() == Phase::Draining;
        self.direction().filter(|_| refers)
    }

    /// How many devices are told to go in a second, if that is bounded.
    pub(crate) fn pace(&self) -> Option<usize> {
        Some(self.config.drain_per_s()).filter(|rate| *rate > 0)
    }

    /// Returns when no device is left; handshakes may be under way.
    pub(crate) async fn left(&self) {
        while self.relays.count() > 0 {
            tokio::time::sleep(LEFT_INTERVAL).await;
        }
    }

    /// The relay in this slot keeps so many bytes of incomplete packets. Where all keep more than they may, those end that keep most.
    pub(crate) fn hold(&self, slot: u32, bytes: usize) {
        if self.relays.incomplete.hold(slot, bytes) {
            self.bound_incomplete();
        }
    }

    /// The same for a handshake, of a share of its own.
    pub(crate) fn hold_arriving(&self, slot: u32, bytes: usize) {
        let bytes_max = self.config.receive_buffer_bytes_max;
        let share = (bytes_max / ARRIVING_PART).max(self.config.connect_bytes_max as usize);
        self.arriving.hold(slot, bytes, share.min(bytes_max));
        self.bound_incomplete();
    }

    fn bound_incomplete(&self) {
        let of_relays = self.config.receive_buffer_bytes_max.saturating_sub(self.arriving.bytes());
        self.relays.bound_incomplete(of_relays);
    }

    /// Bytes of incomplete packets kept.
    pub(crate) fn receive_buffered(&self) -> usize {
        self.relays.incomplete.bytes() + self.arriving.bytes()
    }
}
