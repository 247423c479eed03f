//! Health and metrics over HTTP: `/livez`, `/readyz`, `/metrics`. Not authenticated, so on loopback by default; metrics may ask
//! for the operator's token beyond it. And for an operator who shows a token, `POST /v1/revocations`.

mod exposition;
mod slots;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::authsvc::{Revocations, RevokeError, RevokeOrder};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use link::{Bind, Inherited};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) use self::exposition::Metrics;
use self::exposition::{Exposition, Format};
use self::slots::{Slot, Slots};
use crate::config::{AdminConfig, MetricsAccess};
use crate::upgrade::Sockets;

/// Connections served at a time; who comes then gets the place of one that stands still.
pub(crate) const CONNECTIONS_MAX: usize = 64;

/// A client must have sent its request by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after accept failed, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Not everything is up.
    Starting,
    /// Listeners are up and the store is open.
    Ready,
    /// Connections are being ended.
    Draining,
}

/// Answers why a process that is up cannot serve for now, if so.
pub(crate) type Stalled = Box<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// What `/readyz` answers from.
#[derive(Clone, Default)]
pub(crate) struct Readiness(Arc<State>);

#[derive(Default)]
struct State {
    phase: AtomicU8,
    /// Why it cannot serve now.
    stalled: OnceLock<Stalled>,
}

impl Readiness {
    /// Goes on to `phase`.
    pub(crate) fn enter(&self, phase: Phase) {
        self.0.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Has `stalled` asked while it is [`Phase::Ready`]; the first one counts.
    pub(crate) fn watch(&self, stalled: Stalled) {
        // A second one can only come from a second start.
        let _ = self.0.stalled.set(stalled);
    }

    /// Why it is not ready, if so.
    fn obstacle(&self) -> Option<&'static str> {
        const STARTING: u8 = Phase::Starting as u8;
        const READY: u8 = Phase::Ready as u8;
        match self.0.phase.load(Ordering::Relaxed) {
            STARTING => Some("starting"),
            READY => self.0.stalled.get().and_then(|stalled| stalled()),
            _ => Some("draining"),
        }
    }
}

/// Where an operator says who has to go.
const REVOCATIONS_PATH: &str = "/v1/revocations";

/// Bytes of what an operator says: names are as long as MQTT has them.
const ORDER_BYTES_MAX: usize = 512 * 1024;

/// Who may revoke, and where it is written down. Empty until everything is up.
#[derive(Clone, Default)]
pub(crate) struct Revoking(Arc<Revoke>);

#[derive(Default)]
struct Revoke {
    /// SHA-256 of the token; nobody may without it.
    token: Option<[u8; 32]>,
    list: OnceLock<Revocations>,
}

impl Revoking {
    /// Reads the token.
    pub(crate) fn open(config: &AdminConfig) -> Result<Self, String> {
        let token = config.token()?.map(|token| Sha256::digest(token).into());
        Ok(Self(Arc::new(Revoke { token, list: OnceLock::new() })))
    }

    /// From now on it is written down in `list`; the first one counts.
    pub(crate) fn begin(&self, list: Revocations) {
        // A second one can only come from a second start.
        let _ = self.0.list.set(list);
    }

    /// Answers whether this was the operator.
    fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
        let Some((scheme, token)) = shown else { return false };
        let digest: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        // Digests of what is not known tell nothing by the time that they take to compare.
        scheme.eq_ignore_ascii_case(b"bearer ") && self.0.token.is_some_and(|token| token == digest)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if !self.is_shown(request.headers()) {
            let why = "the operator's token is needed: admin.token_file, Authorization: Bearer TOKEN\n";
            return text(StatusCode::UNAUTHORIZED, why);
        }
        let Some(list) = self.0.list.get() else {
            return text(StatusCode::NOT_FOUND, "nothing is revoked here\n");
        };
        let reading = Limited::new(request.into_body(), ORDER_BYTES_MAX).collect();
        let Ok(Ok(body)) = tokio::time::timeout(HEADER_TIMEOUT, reading).await else {
            return text(StatusCode::BAD_REQUEST, "the body is too long, or does not come\n");
        };
        let (list, order) = (list.clone(), body.to_bytes());
        let carried_out = tokio::task::spawn_blocking(move || RevokeOrder::carry_out(&order, &list));
        match carried_out.await {
            Ok(Ok(target)) => {
                tracing::info!(?target, "revoked by the operator");
                text(StatusCode::OK, "revoked\n")
            }
            Ok(Err(problem @ RevokeError::Order(_))) => text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
            Ok(Err(problem @ RevokeError::NotKept(_))) => {
                tracing::error!(%problem, "what the operator revoked is not written down");
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("{problem}\n"))
            }
            // The runtime ends.
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "this process ends\n"),
        }
    }
}

/// The bound but not yet serving admin server.
pub(crate) struct Admin {
    listeners: Vec<StdListener>,
    addresses: Vec<SocketAddr>,
}

impl Admin {
    /// Binds all addresses of `listen` for which there is no socket yet. Must be called in a runtime.
    pub(crate) fn bind(
        listen: &Bind,
        inherited: &mut Inherited,
    ) -> Result<Self, (SocketAddr, std::io::Error)> {
        let mut count = 0;
        let mut bind = |address: SocketAddr| {
            let socket = match inherited.take(&link::name_of_nth("admin", count), address) {
                Some(socket) => socket,
                None => std::net::TcpListener::bind(address)?,
            };
            count += 1;
            socket.set_nonblocking(true)?;
            let bound = socket.local_addr()?;
            Ok((socket, bound))
        };
        let (listeners, addresses) =
            listen.bind_each(&mut bind, |(_, bound)| Ok(*bound))?.into_iter().unzip();
        Ok(Self { listeners, addresses })
    }

    /// The sockets once more, by name.
    pub(crate) fn sockets(&self) -> std::io::Result<Sockets> {
        let named =
            |(n, socket): (usize, &StdListener)| Ok((link::name_of_nth("admin", n), socket.try_clone()?));
        self.listeners.iter().enumerate().map(named).collect()
    }

    /// Where it is bound, at least one.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until dropped; metrics to whom `access` lets see them.
    pub(crate) async fn serve(
        self,
        metrics: Metrics,
        access: MetricsAccess,
        readiness: Readiness,
        revoking: Revoking,
    ) {
        let answers = Answers { metrics: Exposition::new(metrics), access, readiness, revoking };
        let slots = Arc::new(Slots::default());
        let mut serving = JoinSet::new();
        for listener in self.listeners {
            // Fails only where a listener cannot be registered at all; the process has others that cannot be then.
            let Ok(listener) = TcpListener::from_std(listener) else { continue };
            serving.spawn(accept(listener, slots.clone(), answers.clone()));
        }
        while serving.join_next().await.is_some() {}
    }
}

async fn accept(listener: TcpListener, slots: Arc<Slots>, answers: Answers) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(serve_connection(stream, peer, slots.take(CONNECTIONS_MAX), answers.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "admin: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, slot: Slot, answers: Answers) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = answers.clone();
        async move {
            if request.method() == Method::POST && request.uri().path() == REVOCATIONS_PATH {
                return Ok::<_, Infallible>(answers.revoking.answer(request).await);
            }
            Ok(answers.answer(request.method(), request.uri().path(), request.headers(), peer))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(slot.watch(stream)), service);
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, %peer, "admin: connection failed");
            }
        }
        why = slot.leave() => tracing::debug!(?why, %peer, "admin: connection closed"),
    }
}

/// What everything is answered from.
#[derive(Clone)]
struct Answers {
    metrics: Exposition,
    access: MetricsAccess,
    readiness: Readiness,
    revoking: Revoking,
}

impl Answers {
    fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match (path, self.readiness.obstacle()) {
            ("/livez", _) | ("/readyz", None) => text(StatusCode::OK, "ok\n"),
            ("/readyz", Some(obstacle)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{obstacle}\n")),
            ("/metrics", _) if !self.may_see_metrics(headers, peer) => {
                let why = "from here metrics need the operator's token: Authorization: Bearer TOKEN\n";
                text(StatusCode::UNAUTHORIZED, why)
            }
            ("/metrics", _) => self.metrics(Format::wanted(headers)),
            _ => text(StatusCode::NOT_FOUND, "not found: /livez, /readyz, /metrics\n"),
        }
    }

    fn may_see_metrics(&self, headers: &HeaderMap, peer: SocketAddr) -> bool {
        self.access == MetricsAccess::Open
            || peer.ip().to_canonical().is_loopback()
            || self.revoking.is_shown(headers)
    }

    fn metrics(&self, format: Format) -> Response<Full<Bytes>> {
        match self.metrics.write(format) {
            None => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Some(Ok(body)) => with_type(StatusCode::OK, body, format.media_type()),
            Some(Err(_)) => text(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_type(status, body, "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
