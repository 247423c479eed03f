//! What all connections of an edge share: configuration, metrics, counts with their bounds, the clock and the order to
//! drain.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use authsvc::{Revocations, RevokeReason};
use governor::DefaultDirectRateLimiter;
use mqtt::ReasonCode;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Duration, Instant};

use crate::admission::{
    GivenUp, Handshakes, Openings, Source, SourceConnection, SourceConnections, SourceRates, Ticket, Turns,
};
use crate::config::{EdgeConfig, ListenerConfig};
use crate::metrics::Metrics;
use crate::reason::ShedReason;
use crate::reply::Direction;
use crate::report::Reports;
use crate::round::Round;
use crate::seats::Seats;
use crate::succession::{Holder, Successions};
use crate::tls::TlsServer;
use crate::unsent::Unsent;
use crate::websocket::WebSocketConfig;

/// Of so many connections one is left for those that come while handshakes are given up for them, and so many at most.
const SPARE_PART: usize = 16;
const SPARE_MAX: usize = 256;

/// Between two looks whether all devices have left.
const LEFT_INTERVAL: Duration = Duration::from_millis(20);

/// Shared by everything of one edge.
pub(crate) struct Shared {
    pub(crate) config: EdgeConfig,
    pub(crate) metrics: Metrics,
    /// Lines about connections that were not served, or no longer.
    pub(crate) reports: Reports,
    pub(crate) rates: Option<SourceRates>,
    source_connections: Option<Arc<SourceConnections>>,
    handshakes: Handshakes,
    /// At the work of a handshake that keeps a core busy.
    pub(crate) turns: Arc<Turns>,
    /// Sessions that are asked for.
    pub(crate) openings: Arc<Openings>,
    /// Passports that may be renewed at once.
    pub(crate) renewals: Arc<Semaphore>,
    started: Instant,
    phase: AtomicU8,
    /// Another process has the listening sockets: devices that come back are served.
    is_succeeded: AtomicBool,
    /// While draining, relays with a slot below this have to go.
    dismissed: AtomicU32,
    relays: Mutex<Wakers>,
    /// Whom other rules reach, and when.
    pub(crate) round: Round,
    /// Who came last of each client.
    pub(crate) successions: Successions,
    /// Of principals that may have so many connections.
    pub(crate) seats: Seats,
    /// Who has to go, if somebody says so.
    pub(crate) revocations: OnceLock<Revocations>,
    connections: AtomicUsize,
    /// Told when a connection ends of which there were `connections_max`.
    room: Notify,
    receive_buffered: AtomicUsize,
    /// Whose devices leave much unread.
    pub(crate) unsent: Unsent,
    empty: Notify,
}

/// How far an edge's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Nobody new comes. Devices are told to go, as [`Shared::dismiss`] says, and what waits for them is written.
    Draining,
    /// Connections are dropped as they are.
    Aborting,
}

impl Shared {
    pub(crate) fn new(config: EdgeConfig, metrics: Metrics) -> Self {
        Self {
            rates: SourceRates::new(&config),
            source_connections: SourceConnections::new(config.source_connections_max),
            handshakes: Handshakes::new(config.handshakes_max, config.source_handshakes_max),
            turns: Turns::new(config.handshake_threads()),
            openings: Openings::new(metrics.openings()),
            reports: Reports::new(config.log_lines_per_s),
            renewals: Arc::new(Semaphore::new(config.renewals_max)),
            config,
            metrics,
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Serving as u8),
            is_succeeded: AtomicBool::new(false),
            dismissed: AtomicU32::new(0),
            relays: Mutex::default(),
            round: Round::default(),
            successions: Successions::default(),
            seats: Seats::default(),
            revocations: OnceLock::new(),
            connections: AtomicUsize::new(0),
            room: Notify::new(),
            receive_buffered: AtomicUsize::new(0),
            unsent: Unsent::default(),
            empty: Notify::new(),
        }
    }

    /// Whether so few connections are left of `connections_max` that handshakes are given up for those that come: who has
    /// connections only to be silent is to keep nobody out.
    fn is_scarce(&self) -> bool {
        let max = self.config.connections_max;
        let spare = (max / SPARE_PART).min(SPARE_MAX);
        self.connections.load(Ordering::SeqCst) > max - spare
    }

    /// Where `connections_max` is reached: waits until handshakes that are given up have made room. `false` if there are none, or
    /// not until `deadline`.
    pub(crate) async fn makes_room(&self, deadline: Instant) -> bool {
        let room = self.room.notified();
        if self.connections.load(Ordering::SeqCst) < self.config.connections_max {
            return true;
        }
        self.handshakes.are_leaving() && tokio::time::timeout_at(deadline, room).await.is_ok()
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
    /// [`Shared::dismiss`].
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        if phase == Phase::Aborting {
            self.relays.lock().wake(0, usize::MAX);
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
        while self.relays() > 0 {
            tokio::time::sleep(LEFT_INTERVAL).await;
        }
    }

    /// Has `count` more relays go while draining. `false` when there are no more; those that are still on their way here go as
    /// soon as they have come.
    pub(crate) fn dismiss(&self, count: usize) -> bool {
        let relays = self.relays.lock();
        let from = self.dismissed.load(Ordering::SeqCst);
        let through = relays.skip(from as usize, count);
        // Told before they are woken, so that they see it.
        self.dismissed.store(through.unwrap_or(u32::MAX), Ordering::SeqCst);
        relays.wake(from as usize, through.map_or(usize::MAX, |through| through as usize));
        through.is_some()
    }

    /// Has `count` more relays called by the round. `false` when there are no more.
    pub(crate) fn call(&self, count: usize) -> bool {
        let relays = self.relays.lock();
        let from = self.round.reached();
        let through = relays.skip(from as usize, count);
        // Told before they are woken, so that they see it.
        self.round.reach(through.unwrap_or(u32::MAX));
        relays.wake(from as usize, through.map_or(usize::MAX, |through| through as usize));
        through.is_some()
    }

    /// Whether the relay in this slot has to go.
    pub(crate) fn is_dismissed(&self, slot: u32) -> bool {
        slot < self.dismissed.load(Ordering::SeqCst)
    }

    /// Relays that there are.
    pub(crate) fn relays(&self) -> usize {
        let relays = self.relays.lock();
        relays.slots.len() - relays.free.len()
    }

    /// Has `waker` woken by [`Shared::enter`] and [`Shared::dismiss`]; the answer is for [`Shared::forget`].
    pub(crate) fn remember(&self, waker: Waker) -> u32 {
        self.relays.lock().insert(waker)
    }

    /// Has the relay in this slot woken, if there is one.
    pub(crate) fn wake_relay(&self, slot: u32) {
        self.relays.lock().wake(slot as usize, (slot as usize).saturating_add(1));
    }

    pub(crate) fn forget(&self, slot: u32) {
        // Dropped after the lock is: it may be the last reference to the task.
        let waker = self.relays.lock().remove(slot);
        drop(waker);
    }

    /// Why this connection may not be here, if so.
    pub(crate) fn revoked(&self, holder: &Holder) -> Option<RevokeReason> {
        if holder.is_distrusted() {
            return Some(RevokeReason::CredentialsChanged);
        }
        self.revocations.get()?.verdict(&holder.bearer(), holder.since)
    }

    /// Connected devices and handshakes.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
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

    /// Accounts for a change of incomplete packets kept by one connection; `false` if all of them together are now past
    /// their bound.
    pub(crate) fn rebuffer(&self, before: usize, after: usize) -> bool {
        if after <= before {
            self.receive_buffered.fetch_sub(before - after, Ordering::Relaxed);
            return true;
        }
        let grown = after - before;
        let all = self.receive_buffered.fetch_add(grown, Ordering::Relaxed) + grown;
        all <= self.config.receive_buffer_bytes_max
    }

    /// Bytes of incomplete packets kept.
    pub(crate) fn receive_buffered(&self) -> usize {
        self.receive_buffered.load(Ordering::Relaxed)
    }
}

/// A listener as its connections see it.
pub(crate) struct Listener {
    pub(crate) name: Arc<str>,
    pub(crate) config: ListenerConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) rate: Option<DefaultDirectRateLimiter>,
    pub(crate) connected: Gauge,
    pub(crate) accepted: Counter,
    /// For listeners with TLS.
    pub(crate) tls: Option<Arc<TlsServer>>,
    /// For listeners with WebSocket.
    pub(crate) websocket: WebSocketConfig,
}

impl Listener {
    pub(crate) fn new(
        name: &str,
        config: ListenerConfig,
        tls: Option<Arc<TlsServer>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            name: name.into(),
            rate: config.rate(),
            tls,
            websocket: WebSocketConfig {
                path: config.path.clone(),
                origins: config.origins.clone(),
                ..WebSocketConfig::default()
            },
            config,
            connected: shared.metrics.connections(name),
            accepted: shared.metrics.accepted(name),
            shared,
        }
    }
}

/// A connection within `connections_max` and `source_connections_max`, from accept to close.
pub(crate) struct Admitted(pub(crate) Arc<Listener>, Option<Box<SourceConnection>>);

impl Admitted {
    /// Counts a connection in, or says why not.
    pub(crate) fn admit(listener: &Arc<Listener>) -> Result<Self, ShedReason> {
        let shared = &listener.shared;
        let admitted = Self(listener.clone(), None);
        if shared.connections.fetch_add(1, Ordering::SeqCst) >= shared.config.connections_max {
            return Err(ShedReason::ConnectionsMax);
        }
        Ok(admitted)
    }

    /// Counts it in where it comes from, or says why not.
    pub(crate) fn comes_from(&mut self, peer: SocketAddr) -> Result<(), ShedReason> {
        let shared = &self.0.shared;
        if shared.rates.as_ref().is_some_and(|rates| !rates.admits(peer)) {
            return Err(ShedReason::SourceRate);
        }
        if let Some(connections) = &shared.source_connections {
            self.1 = connections.take(peer).map_err(|_| ShedReason::SourceConnectionsMax)?;
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        let before = shared.connections.fetch_sub(1, Ordering::SeqCst);
        if before == 1 {
            shared.empty.notify_waiters();
        }
        // Above it were those that are turned away.
        if before == shared.config.connections_max {
            shared.room.notify_waiters();
        }
    }
}

/// A handshake under way, from accept until the session is opened.
pub(crate) struct Underway {
    shared: Arc<Shared>,
    ticket: Ticket,
    since: Instant,
}

impl Underway {
    /// Begins one from this source. Where there are too many, another one is given up for it.
    pub(crate) fn begin(shared: &Arc<Shared>, source: Source) -> Self {
        let is_scarce = shared.is_scarce();
        let (ticket, is_instead) = shared.handshakes.begin(source, is_scarce);
        if is_instead {
            let reason = if is_scarce { ShedReason::ConnectionsMax } else { ShedReason::HandshakesMax };
            shared.metrics.shed(reason);
        }
        shared.metrics.handshakes.inc();
        Self { shared: shared.clone(), ticket, since: Instant::now() }
    }

    /// When it was accepted.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Where it comes from.
    pub(crate) fn source(&self) -> Source {
        self.ticket.source()
    }

    /// To be waited for beside it.
    pub(crate) fn given_up(&self) -> Arc<GivenUp> {
        self.ticket.given_up()
    }

    /// It has come further.
    pub(crate) fn progress(&mut self) {
        self.shared.handshakes.progress(&mut self.ticket);
    }

    /// It is from there, as a load balancer in front says.
    pub(crate) fn belongs_to(&mut self, source: Source) {
        self.shared.handshakes.belongs_to(&mut self.ticket, source);
    }

    /// The session is opened.
    pub(crate) fn succeed(self) {
        self.shared.metrics.handshake_seconds.observe(self.since.elapsed().as_secs_f64());
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.shared.handshakes.end(&self.ticket);
        self.shared.metrics.handshakes.dec();
    }
}

/// Wakers of all relays, by slot.
#[derive(Default)]
struct Wakers {
    slots: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Wakers {
    fn insert(&mut self, waker: Waker) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(waker);
            return slot;
        }
        self.slots.push(Some(waker));
        // Bounded by the descriptors of one process, far below 32 bits.
        (self.slots.len() - 1) as u32
    }

    fn remove(&mut self, slot: u32) -> Option<Waker> {
        let waker = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(waker)
    }

    /// The slot behind the next `count` relays from slot `from` on; `None` if there are no more than these.
    fn skip(&self, from: usize, count: usize) -> Option<u32> {
        let mut left = count;
        for (slot, waker) in self.slots.iter().enumerate().skip(from) {
            if waker.is_some() {
                if left == 0 {
                    return Some(slot as u32);
                }
                left -= 1;
            }
        }
        None
    }

    /// Those from slot `from` up to `to`.
    fn wake(&self, from: usize, to: usize) {
        let to = to.min(self.slots.len());
        for waker in self.slots.get(from.min(to)..to).into_iter().flatten().flatten() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_slot_is_used_again_after_its_relay_is_gone() {
        let mut wakers = Wakers::default();
        let first = wakers.insert(Waker::noop().clone());
        let second = wakers.insert(Waker::noop().clone());
        assert!(wakers.remove(first).is_some());
        assert!(wakers.remove(first).is_none());
        assert_eq!(wakers.insert(Waker::noop().clone()), first);
        assert_ne!(first, second);
        assert_eq!(wakers.slots.len(), 2);
    }

    #[test]
    fn so_many_relays_are_dismissed_at_a_time_whatever_slots_are_empty() {
        let shared = Shared::new(EdgeConfig::default(), Metrics::register(&mut Registry::default()));
        let slots: Vec<_> = (0..10).map(|_| shared.remember(Waker::noop().clone())).collect();
        for empty in [1, 2, 5] {
            shared.forget(slots[empty]);
        }
        let gone = |shared: &Shared| {
            slots.iter().filter(|slot| ![1, 2, 5].contains(*slot) && shared.is_dismissed(**slot)).count()
        };
        assert_eq!((shared.relays(), gone(&shared)), (7, 0));
        assert!(shared.dismiss(3) && gone(&shared) == 3);
        assert!(shared.dismiss(3) && gone(&shared) == 6);
        assert!(!shared.dismiss(3) && gone(&shared) == 7);
        assert!(shared.is_dismissed(shared.remember(Waker::noop().clone())), "who comes late goes at once");
    }
}
