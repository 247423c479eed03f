//! The service of authentication: answers edges over HTTP/1.1 and HTTP/2 from a [`Local`], signs passports, announces its keys and
//! tells who was revoked. Replicas share nothing but their key; what an exchange must remember, the edge carries.

mod answer;
mod caller;
mod config;
mod decide;
mod keys;
mod metrics;
mod seal;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub use config::{ServiceConfig, ServiceTlsConfig};
pub use keys::SigningConfig;

use self::caller::Secret;
use self::keys::Keys;
use self::metrics::ServiceMetrics;
use crate::watched::Watched;
use crate::{AuthError, Local};

/// Pause after accept failed, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often an HTTP/2 connection is asked whether it is alive, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests at a time on one HTTP/2 connection, if no more are decided at a time. An edge has one connection for all its questions,
/// and what there is no stream for waits there unseen.
const STREAMS_MIN: u32 = 256;

/// How often it is looked whether the last connection has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A setting, or a file that it names.
    #[error(transparent)]
    Setting(#[from] AuthError),
    /// An address cannot be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The running service. Dropping it ends it at once.
pub struct Service {
    shared: Arc<ServiceCore>,
    addresses: Vec<SocketAddr>,
    accepting: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// What all connections share.
struct ServiceCore {
    config: ServiceConfig,
    local: Local,
    keys: Watched<Keys>,
    secret: Option<Watched<Secret>>,
    tls: Option<Watched<Arc<ServerConfig>>>,
    metrics: ServiceMetrics,
    connections: AtomicUsize,
    /// One permit for each request that is decided.
    turns: Semaphore,
    /// Whether it is to end.
    stop: watch::Receiver<bool>,
}

impl Service {
    /// Checks everything that can be checked without binding.
    ///
    /// # Errors
    /// A setting is out of bounds, or a file cannot be used.
    pub fn check(config: &ServiceConfig, signing: &SigningConfig) -> Result<(), AuthError> {
        config.check()?;
        signing.open()?;
        config.secret_file.as_deref().map(Secret::open).transpose()?;
        config.tls.as_ref().map(caller::open_tls).transpose()?;
        Ok(())
    }

    /// Binds and begins to serve. Must be called in a runtime.
    ///
    /// # Errors
    /// As [`Service::check`], or the address cannot be had.
    pub fn start(
        config: ServiceConfig,
        signing: &SigningConfig,
        local: Local,
        registry: &mut Registry,
    ) -> Result<Self, ServiceError> {
        config.check()?;
        let bind = |address: SocketAddr| {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let bound = socket.local_addr()?;
            Ok((TcpListener::from_std(socket)?, bound))
        };
        let (stop, is_told) = watch::channel(false);
        let shared = Arc::new(ServiceCore {
            keys: signing.open()?,
            secret: config.secret_file.as_deref().map(Secret::open).transpose()?,
            tls: config.tls.as_ref().map(caller::open_tls).transpose()?,
            metrics: ServiceMetrics::register(registry),
            connections: AtomicUsize::new(0),
            turns: Semaphore::new(config.requests_max),
            stop: is_told,
            local,
            config,
        });
        let bound = shared.config.listen.bind_each(bind, |(_, bound)| Ok(*bound));
        let bound = bound.map_err(|(address, source)| ServiceError::Bind { address, source })?;
        let (listeners, addresses): (Vec<_>, Vec<_>) = bound.into_iter().unzip();
        let slots = Arc::new(Semaphore::new(shared.config.connections_max));
        let accept = |listener| tokio::spawn(accept(listener, shared.clone(), slots.clone()));
        let accepting = listeners.into_iter().map(accept).collect();
        Ok(Self { shared, addresses, accepting, stop })
    }

    /// Where it listens, at least one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its files, to have them read again.
    pub fn files(&self) -> ServiceFiles {
        ServiceFiles(self.shared.clone())
    }

    /// Takes no more connections, lets requests come to their end, and waits for that until `deadline`. Answers how many
    /// connections were cut.
    pub async fn drain(self, deadline: Duration) -> usize {
        self.accepting.iter().for_each(JoinHandle::abort);
        self.stop.send_replace(true);
        let emptied = async {
            while self.shared.connections.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        // The count says what became of it.
        let _ = tokio::time::timeout(deadline, emptied).await;
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
        self.stop.send_replace(true);
    }
}

/// The files of a service: keys, certificates and secret.
#[derive(Clone)]
pub struct ServiceFiles(Arc<ServiceCore>);

impl ServiceFiles {
    /// Has them read again though they look the same.
    pub fn ask(&self) {
        let shared = &self.0;
        shared.keys.ask();
        shared.secret.iter().for_each(Watched::ask);
        shared.tls.iter().for_each(Watched::ask);
    }

    /// Takes what has changed and settled. To be called every [`files::LOOK_INTERVAL`]; blocks on the disk.
    pub fn look(&self, now: Instant) {
        let shared = &self.0;
        shared.keys.look(now);
        shared.secret.iter().for_each(|secret| secret.look(now));
        shared.tls.iter().for_each(|tls| tls.look(now));
    }
}

/// A connection in the count of all.
struct Counted {
    shared: Arc<ServiceCore>,
    _slot: OwnedSemaphorePermit,
}

impl Counted {
    fn new(shared: &Arc<ServiceCore>, slot: OwnedSemaphorePermit) -> Self {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        shared.metrics.connections.inc();
        Self { shared: shared.clone(), _slot: slot }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.metrics.connections.dec();
        self.shared.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, shared: Arc<ServiceCore>, slots: Arc<Semaphore>) {
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let counted = Counted::new(&shared, slot);
                tokio::spawn(greet(stream, counted));
            }
            Err(error) => {
                tracing::warn!(%error, "authsvc: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Does TLS, where that is configured, and serves.
async fn greet(stream: TcpStream, counted: Counted) {
    let shared = &counted.shared;
    // Nothing depends on it but the time of an answer.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &shared.tls else { return serve(stream, false, shared).await };
    let acceptor = TlsAcceptor::from((*tls.current()).clone());
    match tokio::time::timeout(shared.config.header_timeout(), acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            // One that was verified; others end the handshake.
            let has_certificate = stream.get_ref().1.peer_certificates().is_some();
            serve(stream, has_certificate, shared).await;
        }
        Ok(Err(error)) => {
            shared.metrics.connections_failed.inc();
            tracing::debug!(%error, "authsvc: handshake failed");
        }
        Err(_) => {
            shared.metrics.connections_failed.inc();
        }
    }
}

/// Serves a connection until it ends, or the service does.
async fn serve<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: I,
    has_certificate: bool,
    shared: &Arc<ServiceCore>,
) {
    let has_asked = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        shared.clone().answer(request, has_certificate)
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.header_timeout())
        .max_buf_size(shared.config.header_bytes_max);
    http.http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(shared.config.header_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(shared.config.streams_max().max(STREAMS_MIN))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(io), service);
    let (mut connection, mut stop) = (std::pin::pin!(connection), shared.stop.clone());
    // Until it is known what the connection speaks, nobody else counts the time.
    let mut silence = std::pin::pin!(tokio::time::sleep(shared.config.header_timeout()));
    let (mut may_be_silent, mut is_ending) = (false, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    shared.metrics.connections_failed.inc();
                    tracing::debug!(%error, "authsvc: connection failed");
                }
                return;
            }
            () = silence.as_mut(), if !may_be_silent => {
                may_be_silent = has_asked.load(Ordering::Relaxed);
                if !may_be_silent {
                    shared.metrics.connections_failed.inc();
                    return;
                }
            }
            _ = stop.wait_for(|stop| *stop), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
