//! An edge from start to drain: its listeners, its handshake threads, and the way out.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use authsvc::Authenticator;
use link::Upstream;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::config::{ConfigError, EdgeConfig};
use crate::handshake::{self, Gate};
use crate::listener;
use crate::metrics::Metrics;
use crate::shared::{Listener, Phase, Shared};

/// How often idle sources are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// How long relays that were told to end at once may take to notice.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    /// The handshake threads could not be started.
    #[error("cannot start the handshake threads")]
    Threads(#[source] io::Error),
}

/// A running edge. Dropping it closes everything at once; [`Edge::drain`] asks devices to go first.
pub struct Edge {
    shared: Arc<Shared>,
    addresses: BTreeMap<String, SocketAddr>,
    /// `None` once drained.
    handshakes: Option<Runtime>,
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
        config.validate()?;
        let mut addresses = BTreeMap::new();
        let mut sockets = Vec::new();
        for (name, listener) in &config.listeners {
            let failed =
                |source| EdgeError::Bind { listener: name.clone(), address: listener.bind, source };
            let socket = listener::bind(listener).map_err(failed)?;
            addresses.insert(name.clone(), socket.local_addr().map_err(failed)?);
            sockets.push((name.clone(), socket));
        }
        let handshakes = handshake_threads(&config).map_err(EdgeError::Threads)?;
        let shared = Arc::new(Shared::new(config, Metrics::register(registry)));
        let gate = Arc::new(Gate { upstream, authenticator, devices: Handle::current() });
        let edge = Self { shared, addresses, handshakes: Some(handshakes) };
        edge.serve(sockets, &gate)?;
        Ok(edge)
    }

    fn serve<U: Upstream, A: Authenticator>(
        &self,
        sockets: Vec<(String, std::net::TcpListener)>,
        gate: &Arc<Gate<U, A>>,
    ) -> Result<(), EdgeError> {
        let Some(handshakes) = &self.handshakes else { return Ok(()) };
        let _entered = handshakes.enter();
        for (name, socket) in sockets {
            let config = self.shared.config.listeners[&name].clone();
            let failed =
                |source| EdgeError::Bind { listener: name.clone(), address: config.bind, source };
            let socket = TcpListener::from_std(socket).map_err(failed)?;
            tracing::info!(listener = %name, address = %self.addresses[&name], kind = ?config.kind, "listening");
            let listener = Arc::new(Listener::new(&name, config, self.shared.clone()));
            let gate = gate.clone();
            handshakes.spawn(listener::accept_loop(socket, listener, move |io, peer, admitted, underway| {
                tokio::spawn(handshake::run(gate.clone(), io, peer, admitted, underway));
            }));
        }
        handshakes.spawn(keep_house(self.shared.clone()));
        Ok(())
    }

    /// Where each listener listens, by name, with the ports that were picked for port 0.
    pub fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// Connected devices and handshakes.
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// Stops accepting, drops handshakes under way, tells MQTT 5 devices that the server is shutting down (0x8B), closes
    /// all connections and waits for that; after `deadline` it waits for nobody. Answers how many connections had to be
    /// cut off.
    pub async fn drain(mut self, deadline: Duration) -> usize {
        if let Some(handshakes) = self.handshakes.take() {
            handshakes.shutdown_background();
        }
        self.shared.enter(Phase::Draining);
        if tokio::time::timeout(deadline, self.shared.emptied()).await.is_ok() {
            return 0;
        }
        let cut_off = self.shared.connections();
        self.shared.enter(Phase::Aborting);
        // Relays that do not get to run any more are dropped with their runtime.
        let _ = tokio::time::timeout(ABORT_WAIT, self.shared.emptied()).await;
        cut_off
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.shared.enter(Phase::Aborting);
        if let Some(handshakes) = self.handshakes.take() {
            handshakes.shutdown_background();
        }
    }
}

fn handshake_threads(config: &EdgeConfig) -> io::Result<Runtime> {
    let threads = match config.handshake_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let number = AtomicUsize::new(0);
    let niceness = i32::from(config.handshake_niceness);
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name_fn(move || format!("handshake-{}", number.fetch_add(1, Ordering::Relaxed)))
        .on_thread_start(move || {
            // Linux counts niceness per thread. Without it handshakes compete with devices as equals, nothing worse.
            let _ = rustix::process::nice(niceness);
        })
        .enable_all()
        .build()
}

/// What has to be done now and then.
async fn keep_house(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(FORGET_INTERVAL);
    loop {
        ticks.tick().await;
        if let Some(rates) = &shared.rates {
            rates.forget_idle();
        }
        shared.metrics.receive_buffer_bytes.set(shared.receive_buffered() as i64);
    }
}
