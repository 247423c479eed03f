//! An edge from start to drain: its listeners, its handshake threads, and the way out.

mod certificates;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use authsvc::{Authenticator, Revocations};
use files::Snapshot;
use link::{Inherited, Upstream};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::certificates::Certificates;
use crate::admission::stretch;
use crate::config::{EdgeConfig, ListenerConfig};
use crate::connections::Relief;
use crate::handshake::{self, Gate};
use crate::listener::Listener;
use crate::listener::{self, Listening};
use crate::shared::{Phase, Shared};
use crate::telemetry::metrics::Metrics;
use crate::tls::{Application, Reload, Served, TlsConfig, TlsConfigError, TlsMetrics, TlsServer};

/// How often idle sources are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// Between two groups of devices that are told to go.
const DISMISS_INTERVAL: Duration = Duration::from_millis(20);

/// The part of the deadline in which all have been told; the rest is for them to go.
const DISMISS_WITHIN_PERCENT: usize = 60;

/// How long tasks that were told to end at once may take to notice.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// How long a connection that was accepted may wait for its place when no more are; longer than for room.
const ACCEPTED_WAIT: Duration = Duration::from_secs(2);

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] link::SettingError),
    /// A listener could not be bound.
    #[error("edge.listeners.{listener}.bind: cannot listen on {address}")]
    Bind {
        /// Its name.
        listener: String,
        /// The address wanted.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The TLS section of a listener, or the files that it names, cannot be used.
    #[error("edge.{key} cannot be used")]
    Tls {
        /// `tls`, or `listeners.NAME.tls`.
        key: String,
        /// What is wrong.
        #[source]
        source: TlsConfigError,
    },
    /// The threads that accept and do handshakes could not be started.
    #[error("cannot start the threads that accept and do handshakes")]
    Threads(#[source] io::Error),
}

/// A running edge. Dropping it closes everything at once; [`Edge::drain`] asks devices to go first.
pub struct Edge {
    shared: Arc<Shared>,
    addresses: BTreeMap<String, SocketAddr>,
    listeners: Vec<Arc<Listener>>,
    certificates: Certificates,
    accepting: Vec<JoinHandle<()>>,
    /// Tells them to stop.
    stop: watch::Sender<bool>,
    /// The listening sockets once more, by name, for [`Edge::take_sockets`].
    sockets: Vec<(String, StdListener)>,
    /// `None` once drained.
    threads: Option<Threads>,
}

/// What an edge runs beside the threads of connected devices.
struct Threads {
    /// Accepts, and waits for nothing else.
    accept: Runtime,
    handshakes: Runtime,
}

impl Threads {
    fn start(config: &EdgeConfig, devices: &Handle) -> io::Result<Self> {
        let number = AtomicUsize::new(0);
        let niceness = i32::from(config.handshake_niceness);
        let (for_handshakes, for_accepting) = (devices.clone(), devices.clone());
        let handshakes = Builder::new_multi_thread()
            .worker_threads(config.handshake_threads())
            .thread_name_fn(move || format!("handshake-{}", number.fetch_add(1, Ordering::Relaxed)))
            .on_thread_start(move || {
                // Linux counts niceness per thread. Without it handshakes compete with devices as equals, nothing worse.
                let _ = rustix::process::nice(niceness);
                stretch::begin(for_handshakes.clone());
            })
            .on_thread_park(stretch::pause)
            .enable_all()
            .build()?;
        let accept = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("accept")
            .on_thread_start(move || stretch::begin(for_accepting.clone()))
            .enable_all()
            .build()?;
        Ok(Self { accept, handshakes })
    }

    fn stop(self) {
        self.accept.shutdown_background();
        self.handshakes.shutdown_background();
    }
}

impl Edge {
    /// Binds all listeners and begins to serve. Must be called within the tokio runtime that is to carry the connected
    /// devices; handshakes get their own.
    ///
    /// # Errors
    /// Nothing is served if any listener cannot be bound.
    pub fn start<U: Upstream, A: Authenticator>(
        config: EdgeConfig,
        upstream: U,
        authenticator: Arc<A>,
        registry: &mut Registry,
    ) -> Result<Self, EdgeError> {
        Self::start_with(&mut Inherited::default(), config, upstream, authenticator, registry)
    }

    /// As [`Edge::start`]; a listener for whose address there is a socket listens with that.
    ///
    /// # Errors
    /// The same.
    pub fn start_with<U: Upstream, A: Authenticator>(
        inherited: &mut Inherited,
        config: EdgeConfig,
        upstream: U,
        authenticator: Arc<A>,
        registry: &mut Registry,
    ) -> Result<Self, EdgeError> {
        config.validate()?;
        let shared = Arc::new(Shared::new(config, Metrics::register(registry)));
        let mut addresses = BTreeMap::new();
        let mut listeners = Vec::new();
        let mut sockets = Vec::new();
        let (served, found) = load_tls(&shared.config)?;
        for (name, config) in &shared.config.listeners {
            let tls = served.iter().find(|served| *served.listener == **name);
            let tls = tls.map(|served| Arc::clone(&served.server));
            let failed = |(address, source)| bind_error(name, address, source);
            let bound =
                listener::bind(name, config, shared.config.tcp_keep_alive_s, inherited).map_err(failed)?;
            for (n, socket) in bound.iter().enumerate() {
                let address =
                    socket.local_addr().map_err(|source| failed((config.bind.addresses()[0], source)))?;
                addresses.insert(link::name_of_nth(name, n), address);
            }
            sockets.push(bound);
            listeners.push(Arc::new(Listener::new(name, config.clone(), tls, shared.clone())));
        }
        let with_tls = served.iter().map(|served| (Arc::clone(&served.listener), &*served.server));
        let edge_registry = registry.sub_registry_with_prefix("edge");
        edge_registry.register_collector(Box::new(TlsMetrics::of(with_tls)));
        let certificates = Certificates::new(Reload::new(served, &found), &shared);
        let devices = Handle::current();
        let threads = Threads::start(&shared.config, &devices).map_err(EdgeError::Threads)?;
        let gate = Arc::new(Gate { upstream, authenticator, devices });
        let (accepting, kept, stop) = (Vec::new(), Vec::new(), watch::Sender::new(false));
        let threads = Some(threads);
        let mut edge =
            Self { shared, addresses, listeners, certificates, accepting, stop, sockets: kept, threads };
        edge.serve(sockets, &gate)?;
        Ok(edge)
    }

    fn serve<U: Upstream, A: Authenticator>(
        &mut self,
        sockets: Vec<Vec<StdListener>>,
        gate: &Arc<Gate<U, A>>,
    ) -> Result<(), EdgeError> {
        let Some(threads) = &self.threads else { return Ok(()) };
        let _entered = threads.accept.enter();
        for (bound, listener) in sockets.into_iter().zip(&self.listeners) {
            for (n, socket) in bound.into_iter().enumerate() {
                let (name, kind) = (link::name_of_nth(&listener.name, n), listener.config.kind);
                let address = self.addresses[&name];
                let failed = |source| bind_error(&listener.name, address, source);
                self.sockets.push((name.clone(), socket.try_clone().map_err(failed)?));
                let socket = TcpListener::from_std(socket).map_err(failed)?;
                tracing::info!(listener = %name, %address, ?kind, "listening");
                let (listener, gate) = (listener.clone(), gate.clone());
                let handshakes = threads.handshakes.handle().clone();
                let listening = Listening { socket, handshakes: handshakes.clone() };
                let serve = move |io, peer, admitted, underway| {
                    handshakes.spawn(handshake::run(gate.clone(), io, peer, admitted, underway));
                };
                let accepting = listener::accept_loop(listening, listener, self.stop.subscribe(), serve);
                self.accepting.push(threads.accept.spawn(accepting));
            }
        }
        threads.accept.spawn(keep_house(self.shared.clone()));
        Ok(())
    }

    /// Ends the connections of whoever is revoked in `list` from now on, and refuses those who come while an entry lasts; has
    /// devices asked about anew when the list says that rules became others. The first list counts. Must be called in a
    /// runtime; it follows the list for as long as the edge is there.
    pub fn follow(&self, list: &Revocations) {
        if self.shared.successions.revocations.set(list.clone()).is_ok() {
            tokio::spawn(follow(Arc::downgrade(&self.shared), list.clone()));
        }
    }

    /// The files of all listeners, to be looked after.
    pub fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }

    /// Where each listener listens, by name, with the ports that were picked for port 0. The second address of a listener
    /// `NAME`, if its name stands for several, is `NAME.2`.
    pub fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// For whoever sees to the memory of the process.
    pub fn relief(&self) -> Relief {
        Relief(self.shared.relays.clone())
    }

    /// Connected devices and handshakes.
    pub fn connections(&self) -> usize {
        self.shared.admission.connections()
    }

    /// The listening sockets once more, by name, to be handed to another process; once. As long as somebody has them, who
    /// connects waits for one that accepts.
    pub fn take_sockets(&mut self) -> Vec<(String, StdListener)> {
        std::mem::take(&mut self.sockets)
    }

    /// Accepts nobody any more. Who was accepted is served.
    async fn stop_accepting(&mut self) {
        self.sockets.clear();
        self.stop.send_replace(true);
        for mut accepting in self.accepting.drain(..) {
            // The thread that runs it may be busy, but not for long.
            if tokio::time::timeout(ACCEPTED_WAIT, &mut accepting).await.is_err() {
                accepting.abort();
            }
        }
    }

    fn stop_threads(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.stop();
        }
    }

    /// Ends an edge that nobody follows at its addresses. Tells MQTT 5 devices to go, to `drain_server_reference` (0x9C or
    /// 0x9D) or since the server is shutting down (0x8B), closes all connections, `drain_per_s` of them in a second or as many
    /// more as `deadline` asks for, and waits for that; after `deadline` it waits for nobody. Whoever connects meanwhile is
    /// told where to go too, or refused by the system where nothing is said; handshakes under way are then dropped. Answers
    /// how many connections had to be cut off.
    pub async fn drain(mut self, deadline: Duration) -> usize {
        let is_referring = self.shared.direction().is_some() && self.shared.config.drain_answers_connects;
        if !is_referring {
            self.stop_accepting().await;
            self.stop_threads();
        }
        self.shared.enter(Phase::Draining);
        let shared = self.shared.clone();
        let within = Instant::now() + deadline;
        let gone = async {
            dismiss_all(&shared, shared.pace(), deadline).await;
            shared.left().await;
        };
        let _ = tokio::time::timeout_at(within, gone).await;
        if is_referring {
            self.stop_accepting().await;
            self.stop_threads();
        }
        self.wait_until(within).await
    }

    /// Ends an edge whose listening sockets another process has: who was accepted here gets CONNACK, as soon as there is one,
    /// before it has to go (0x8B) and comes back to that process. Paced as [`Edge::drain`], or all at once.
    pub async fn give_way(mut self, deadline: Duration, is_paced: bool) -> usize {
        self.shared.succeed();
        self.stop_accepting().await;
        self.shared.enter(Phase::Draining);
        let within = Instant::now() + deadline;
        let pace = if is_paced { self.shared.pace() } else { None };
        let shared = self.shared.clone();
        let _ = tokio::time::timeout_at(within, dismiss_all(&shared, pace, deadline)).await;
        self.wait_until(within).await
    }

    /// Waits for all connections to end, and cuts off those that have not.
    async fn wait_until(&mut self, within: Instant) -> usize {
        if tokio::time::timeout_at(within, self.shared.admission.emptied()).await.is_ok() {
            return 0;
        }
        let cut_off = self.shared.admission.connections();
        self.stop_threads();
        self.shared.enter(Phase::Aborting);
        // Relays that do not get to run any more are dropped with their runtime.
        let _ = tokio::time::timeout(ABORT_WAIT, self.shared.admission.emptied()).await;
        cut_off
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.shared.enter(Phase::Aborting);
        self.stop_threads();
    }
}

async fn follow(shared: Weak<Shared>, list: Revocations) {
    let (mut newest, mut rules_changed) = (0, 0);
    loop {
        // Looks now and then whether the edge is still there.
        let _ = tokio::time::timeout(FORGET_INTERVAL, list.changed(newest)).await;
        let Some(shared) = shared.upgrade() else { return };
        let told = list.since(newest);
        newest = told.newest;
        shared.successions.revoke(&told.entries);
        if told.rules_changed != rules_changed {
            rules_changed = told.rules_changed;
            shared.relays.begin_round();
        }
    }
}

fn bind_error(listener: &str, address: SocketAddr, source: io::Error) -> EdgeError {
    EdgeError::Bind { listener: listener.into(), address, source }
}

/// The settings of a listener's TLS, and their key.
fn tls_of<'a>(
    edge: &'a EdgeConfig,
    name: &str,
    config: &'a ListenerConfig,
) -> Option<(String, &'a TlsConfig)> {
    let (key, tls) = match &config.tls {
        Some(tls) => (format!("listeners.{name}.tls"), tls),
        None => ("tls".to_owned(), edge.tls.as_ref()?),
    };
    config.kind.is_tls().then_some((key, tls))
}

/// Reads the files of all listeners, as they are at one time.
fn load_tls(edge: &EdgeConfig) -> Result<(Vec<Served>, Snapshot), EdgeError> {
    let with_tls = || {
        edge.listeners.iter().filter_map(|(name, config)| {
            let (key, tls) = tls_of(edge, name, config)?;
            Some((name, config, key, tls))
        })
    };
    let files: BTreeSet<_> = with_tls().flat_map(|(.., tls)| tls.files()).collect();
    let found = Snapshot::take(files);
    let load = |(name, config, key, tls): (&String, &ListenerConfig, String, &TlsConfig)| {
        let application = if config.kind.is_websocket() { Application::WebSocket } else { Application::Mqtt };
        match TlsServer::load_from(tls.clone(), application, &found) {
            Ok(server) => Ok(Served { listener: name.as_str().into(), key, server: Arc::new(server) }),
            Err(source) => Err(EdgeError::Tls { key, source }),
        }
    };
    Ok((with_tls().map(load).collect::<Result<_, _>>()?, found))
}

/// Has all devices go, so many in a second, that those who take them do not get them all at once.
async fn dismiss_all(shared: &Shared, pace: Option<usize>, deadline: Duration) {
    let rate = pace.map_or(usize::MAX, |rate| {
        let within_ms = (deadline.as_millis() as usize * DISMISS_WITHIN_PERCENT / 100).max(1);
        rate.max((shared.relays.count() * 1_000).div_ceil(within_ms))
    });
    let mut ticks = tokio::time::interval(DISMISS_INTERVAL);
    let mut due = 0;
    loop {
        ticks.tick().await;
        // Thousandths of a device, so that slow rates are kept too.
        due = rate.saturating_mul(DISMISS_INTERVAL.as_millis() as usize).saturating_add(due % 1_000);
        if due >= 1_000 && !shared.relays.dismiss(due / 1_000) {
            return;
        }
    }
}

/// What has to be done now and then.
async fn keep_house(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(FORGET_INTERVAL);
    loop {
        ticks.tick().await;
        if let Some(rates) = &shared.admission.rates {
            rates.forget_idle();
        }
        shared.reports.sum_up();
        shared.metrics.receive_buffer_bytes.set(shared.receive_buffered() as i64);
    }
}
