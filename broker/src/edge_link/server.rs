//! Accepts links, and what all links of a worker share: who may open a stream, and how many there are.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use link::mux::Settings;
use link::wire::{self, FrameLimits, RefuseReason, StreamId};
use link::{LinkTls, LinkTlsError, Passport, PassportVerifier, SettingError, TokenError};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::accept::{Accept, Sockets};
use super::config::LinkConfig;
use super::metrics::LinkMetrics;
use super::ready::{Ready, StreamWaker};
use super::slot::Slot;
use super::task::{HELLO_TIMEOUT, LinkEnd, Task};
use crate::Broker;
use crate::hub::work::claim;
use crate::serving::stream::WorkerStream;

/// How long nothing is accepted after accepting has failed, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long links may take to end that were cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why edges cannot be served.
#[derive(Debug, Error)]
pub enum LinkStartError {
    /// A value is out of its bounds.
    #[error(transparent)]
    Config(#[from] SettingError),
    /// A file for TLS cannot be used.
    #[error("link.tls.{0}")]
    Tls(#[source] LinkTlsError),
    /// The address cannot be had.
    #[error("link.listen = {address}: cannot listen there")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What all links of a worker share.
pub(super) struct Shared {
    pub(super) config: LinkConfig,
    pub(super) settings: Settings,
    pub(super) metrics: LinkMetrics,
    broker: Broker,
    verifier: Arc<PassportVerifier>,
    tls: Option<LinkTls<ServerConfig>>,
    streams: AtomicUsize,
    links: Mutex<Vec<Weak<Ready>>>,
    is_draining: AtomicBool,
    /// A stream has ended.
    ended: Notify,
}

/// One stream in the count of all.
pub(super) struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.streams.dec();
        if self.0.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

impl Shared {
    /// Begins to open the session of a device, if it may have one. `yields` is as in [`WorkerStream::open`].
    pub(super) fn open(
        self: &Arc<Self>,
        id: StreamId,
        open: Box<wire::OpenBody>,
        waker: Arc<StreamWaker>,
        yields: bool,
    ) -> Result<Slot, RefuseReason> {
        let is_resume = open.resume.is_some();
        let passport = self.verify(&open.passport, is_resume).map_err(|error| {
            tracing::warn!(%error, peer = %open.peer.address, "a passport is not accepted");
            RefuseReason::Passport
        })?;
        let packet = open.connect.clone();
        let Ok(Some(connect)) = claim::decode(&packet) else { return Err(RefuseReason::Connect) };
        let assigned = open.assigned_client_id.as_deref();
        if *passport.client_id != *assigned.unwrap_or(connect.client_id) {
            tracing::warn!(peer = %open.peer.address, "the passport is another client's");
            return Err(RefuseReason::Passport);
        }
        if !is_resume && self.broker.hub.is_short_of_memory() {
            return Err(RefuseReason::Overloaded);
        }
        let counted = self.count().ok_or(RefuseReason::Overloaded)?;
        let passport = Arc::new(passport);
        let asked = open.with_passport(Arc::clone(&passport));
        let stream = WorkerStream::open(Arc::clone(&self.broker.hub), asked, &connect, yields);
        Ok(Slot::new(id, stream, waker, &passport, is_resume, counted))
    }

    /// The passport in a token. One that has expired is honoured for a while where `is_connected`.
    pub(super) fn verify(&self, token: &[u8], is_connected: bool) -> Result<Passport, TokenError> {
        let grace_ms = if is_connected { self.config.passport_grace_ms } else { 0 };
        self.verifier.verify_with_grace(token, Duration::from_millis(grace_ms))
    }

    /// Passports of connected devices that ended after this are honoured, seconds since the Unix epoch.
    pub(super) fn honoured_s(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs().saturating_sub(self.config.passport_grace_ms / 1000)
    }

    /// Whether this worker is to say that it is without its store.
    pub(super) fn is_store_away(&self, was_away: bool) -> bool {
        self.broker.hub.cluster.is_store_away(was_away)
    }

    fn count(self: &Arc<Self>) -> Option<Counted> {
        let counted = self.streams.fetch_add(1, Ordering::AcqRel);
        self.metrics.streams.inc();
        let guard = Counted(Arc::clone(self));
        (counted < self.config.streams_max).then_some(guard)
    }

    /// Ends all links: their devices may go on at other workers.
    fn cut(&self) {
        for link in self.links.lock().iter().filter_map(Weak::upgrade) {
            link.cut();
        }
    }

    async fn serve(self: Arc<Self>, socket: impl AsyncRead + AsyncWrite + Unpin) {
        let Some(tls) = &self.tls else { return self.run(socket).await };
        let accept = TlsAcceptor::from(tls.current()).accept(socket);
        match timeout(HELLO_TIMEOUT, accept).await {
            Ok(Ok(socket)) => self.run(socket).await,
            Ok(Err(error)) => {
                self.metrics.links_refused.inc();
                tracing::warn!(%error, "a link's TLS handshake failed");
            }
            Err(_) => {
                self.metrics.links_refused.inc();
                tracing::warn!("a link's TLS handshake took too long");
            }
        }
    }

    async fn run(self: Arc<Self>, socket: impl AsyncRead + AsyncWrite + Unpin) {
        let ready = Arc::new(Ready::default());
        {
            let mut links = self.links.lock();
            links.retain(|link| link.strong_count() > 0);
            links.push(Arc::downgrade(&ready));
        }
        if self.is_draining.load(Ordering::Acquire) {
            ready.drain(Duration::ZERO);
        }
        self.metrics.links.inc();
        let end = Box::pin(Task::new(Arc::clone(&self), socket, ready).run()).await;
        self.metrics.links.dec();
        match end {
            LinkEnd::Closed => tracing::info!("link was closed"),
            error => {
                self.metrics.links_failed.inc();
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "link failed");
            }
        }
    }
}

/// Where edges reach a worker. Dropping it ends all links: their devices may go on at other workers.
pub struct LinkServer {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    acceptor: JoinHandle<()>,
    /// Told to accept nothing more.
    stop: Arc<Notify>,
}

impl LinkServer {
    /// Listens, on the current tokio runtime.
    ///
    /// # Errors
    /// Configuration out of bounds, files for TLS that cannot be used, or an address that cannot be had.
    pub async fn start(
        config: LinkConfig,
        broker: Broker,
        verifier: impl Into<Arc<PassportVerifier>>,
        registry: &mut Registry,
    ) -> Result<Self, LinkStartError> {
        // Before anything is bound.
        let tls = checked(&config)?;
        let refused = |(address, source)| LinkStartError::Listen { address, source };
        let sockets = Sockets::bind(&config.listen).map_err(refused)?;
        let addresses = sockets.addresses().map_err(refused)?;
        Ok(Self::serve(sockets, addresses, tls, config, broker, verifier.into(), registry))
    }

    /// As [`LinkServer::start`], with connections from elsewhere: for simulations.
    ///
    /// # Errors
    /// Configuration out of bounds, or files for TLS that cannot be used.
    pub fn start_on(
        listener: impl Accept,
        config: LinkConfig,
        broker: Broker,
        verifier: impl Into<Arc<PassportVerifier>>,
        registry: &mut Registry,
    ) -> Result<Self, LinkStartError> {
        let tls = checked(&config)?;
        let addresses = config.listen.addresses().to_vec();
        Ok(Self::serve(listener, addresses, tls, config, broker, verifier.into(), registry))
    }

    fn serve(
        listener: impl Accept,
        addresses: Vec<SocketAddr>,
        tls: Option<LinkTls<ServerConfig>>,
        config: LinkConfig,
        broker: Broker,
        verifier: Arc<PassportVerifier>,
        registry: &mut Registry,
    ) -> Self {
        let shared = Arc::new(Shared {
            settings: settings(&config, &broker, &verifier),
            metrics: LinkMetrics::register(registry),
            config,
            broker,
            verifier,
            tls,
            streams: AtomicUsize::new(0),
            links: Mutex::default(),
            is_draining: AtomicBool::new(false),
            ended: Notify::new(),
        });
        // Others take this worker for dead: what it served is theirs.
        let cut = Arc::downgrade(&shared);
        shared.broker.on_expelled(move || {
            if let Some(shared) = cut.upgrade() {
                shared.cut();
            }
        });
        let stop = Arc::new(Notify::new());
        let acceptor = tokio::spawn(accept(Arc::clone(&shared), listener, Arc::clone(&stop)));
        Self { shared, addresses, acceptor, stop }
    }

    /// Where it listens, at least one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The certificates of links, to be looked after.
    pub fn certificates(&self) -> LinkCertificates {
        LinkCertificates(Arc::downgrade(&self.shared))
    }

    /// Devices that are served over links.
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Acquire)
    }

    /// Asks all edges to move their devices to other workers within this time, and takes no more links and devices. Answers
    /// when all are gone, or the time is over, how many were left; their links are cut, so that they are let go before
    /// the store is closed. May be dropped meanwhile without harm.
    pub async fn drain(&self, within: Duration) -> usize {
        self.shared.is_draining.store(true, Ordering::Release);
        self.stop.notify_one();
        for link in self.shared.links.lock().iter().filter_map(Weak::upgrade) {
            link.drain(within);
        }
        self.wait_until_gone(within).await;
        let left = self.streams();
        if left > 0 {
            self.shared.cut();
            self.wait_until_gone(CUT_TIMEOUT).await;
        }
        left
    }

    /// Waits until there is no device, at most for so long.
    async fn wait_until_gone(&self, within: Duration) {
        let gone = async {
            loop {
                let ended = self.shared.ended.notified();
                if self.streams() == 0 {
                    return;
                }
                ended.await;
            }
        };
        let _elapsed = timeout(within, gone).await;
    }
}

/// The certificates of a worker's links.
pub struct LinkCertificates(Weak<Shared>);

impl LinkCertificates {
    /// Has them read again though they look the same.
    pub fn ask(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.tls.iter().for_each(LinkTls::ask);
        }
    }

    /// Takes them if they have changed and settled; links that are up stay. To be called every second; blocks on the disk.
    pub fn look(&self, now: std::time::Instant) {
        let Some(shared) = self.0.upgrade() else { return };
        if let Some(tls) = &shared.tls {
            tls.look(now);
            tls.terms().show(&shared.metrics.tls_expiry_timestamp_seconds);
        }
    }
}

impl Drop for LinkServer {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// The configuration is within its bounds; its TLS.
fn checked(config: &LinkConfig) -> Result<Option<LinkTls<ServerConfig>>, LinkStartError> {
    config.validate()?;
    let tls = config.tls.as_ref().map(|tls| LinkTls::server("link.tls", tls));
    tls.transpose().map_err(LinkStartError::Tls)
}

fn settings(config: &LinkConfig, broker: &Broker, verifier: &PassportVerifier) -> Settings {
    let mut settings = Settings::new(config.name.as_str());
    settings.window_bytes = config.window_bytes;
    settings.limits = FrameLimits::for_packets(broker.hub.config.packet_bytes_max);
    settings.handoff_grace_ms = u32::try_from(config.handoff_grace_ms).unwrap_or(u32::MAX);
    settings.passport_key = verifier.exchange_key();
    settings
}

/// Takes links until it is stopped, then serves those that there are. Dropping it ends them.
async fn accept(shared: Arc<Shared>, mut listener: impl Accept, stop: Arc<Notify>) {
    let mut links = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // So that a run can be repeated; what comes first comes least.
            biased;
            () = stop.notified() => break,
            Some(_) = links.join_next(), if !links.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(_) if links.len() >= shared.config.links_max => {
                shared.metrics.links_refused.inc();
                tracing::warn!(links_max = shared.config.links_max, "more links than allowed");
            }
            Ok(socket) => {
                links.spawn(Arc::clone(&shared).serve(socket));
            }
            Err(error) => {
                tracing::warn!(%error, "no link can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while links.join_next().await.is_some() {}
}
