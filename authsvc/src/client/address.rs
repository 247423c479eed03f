//! One address of the service: its connections, whether it is alive, and how many questions wait there.
//!
//! An answer that is slow says nothing about whether the process is alive, since hashing takes its time in a storm. So it is
//! looked after apart, by a small question of its own on a connection of its own, where it does not wait behind others; an address that does not answer that is passed over (the breaker is
//! open) until it does.
//!
//! What it issues bears the time of its clock, and workers do not believe what is from the future, or over. Where that clock is not
//! right, others are asked first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::RemoteCore;
use super::config::Endpoint;
use super::connector::ServiceConnector;
use crate::wire::LIVE_PATH;

/// A connection that nobody used for so long is closed, before the service does it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);

/// Connections that are kept for further questions.
const IDLE_MAX: usize = 32;

/// Bytes of an answer: a passport, or revocations.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Looks without an answer after which an address is passed over.
const FAILURES_MAX: u32 = 2;

/// By how many seconds its clock may differ: workers take one more.
const CLOCK_DIFFERENCE_S_MAX: u64 = 4;

/// So much behind a `Date` may be: it is of whole seconds, and not made anew for each answer.
// RFC 9110, section 6.6.1
const DATE_BEHIND_MAX: Duration = Duration::from_secs(2);

/// How often an HTTP/2 connection is asked whether it is alive, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallFault {
    /// No connection comes up.
    #[error("cannot connect")]
    Connect,
    /// The connection ended before the answer, or what came is no answer.
    #[error("the connection ended before the answer")]
    Broken,
    /// The process behind it stopped to answer meanwhile.
    #[error("it stopped to answer")]
    Down,
    /// It has more to do than it takes on.
    #[error("it is overloaded")]
    Overloaded,
    /// It does not take questions of this edge: the secret is wrong.
    #[error("it does not take the secret")]
    Secret,
    /// It does not understand the question, or the question is not for it.
    #[error("it answers with status {0}")]
    Status(u16),
}

type ServiceClient = Client<ServiceConnector, Full<Bytes>>;

/// One address. Dropped, nothing more is asked there.
pub(super) struct Address {
    pub(super) socket: SocketAddr,
    scheme: &'static str,
    host: HeaderValue,
    /// For questions about clients.
    client: ServiceClient,
    /// For looks and news: over HTTP/2 all of one client share a connection, on which those wait that are beyond its streams.
    aside: ServiceClient,
    waiting: AtomicUsize,
    is_up: watch::Sender<bool>,
    /// It was told that it refuses questions.
    is_refusing: AtomicBool,
    /// By how many seconds its clock is ahead of this one, as far as its answers say.
    clock_ahead_s: AtomicI64,
    tasks: parking_lot::Mutex<Vec<AbortHandle>>,
}

impl Drop for Address {
    fn drop(&mut self) {
        self.tasks.get_mut().iter().for_each(AbortHandle::abort);
    }
}

impl Address {
    /// `None` if no certificate can bear the host's name.
    pub(super) fn new(socket: SocketAddr, endpoint: &Endpoint, shared: &RemoteCore) -> Option<Self> {
        let tls = match (&shared.tls, endpoint.is_tls) {
            (Some(tls), true) => Some((tls.clone(), ServerName::try_from(endpoint.host.clone()).ok()?)),
            _ => None,
        };
        shared.metrics.clock_ahead_seconds.of((socket.to_string(),)).set(0);
        let connector = ServiceConnector { address: socket, tls, timeout: shared.config.connect_timeout() };
        Some(Self {
            socket,
            scheme: if endpoint.is_tls { "https" } else { "http" },
            host: HeaderValue::from_str(&endpoint.authority).ok()?,
            client: client(connector.clone()),
            aside: client(connector),
            waiting: AtomicUsize::new(0),
            // Until it is known better: a question finds out.
            is_up: watch::Sender::new(true),
            is_refusing: AtomicBool::new(false),
            clock_ahead_s: AtomicI64::new(0),
            tasks: parking_lot::Mutex::default(),
        })
    }

    /// Ends `task` with it.
    pub(super) fn own(&self, task: AbortHandle) {
        self.tasks.lock().push(task);
    }

    pub(super) fn is_up(&self) -> bool {
        *self.is_up.borrow()
    }

    /// Whether its clock and this one do not agree, as far as its answers say.
    pub(super) fn is_untimely(&self) -> bool {
        is_untimely(self.clock_ahead_s.load(Ordering::Relaxed))
    }

    /// Looks at the clock of an answer to what was asked so long ago.
    fn see_date(&self, date: Option<&HeaderValue>, asked: Duration, shared: &RemoteCore) {
        let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let Some(date) = date else { return };
        let now = SystemTime::now();
        let (ahead, behind) = match date.duration_since(now) {
            Ok(ahead) => (ahead, Duration::ZERO),
            Err(behind) => (Duration::ZERO, behind.duration().saturating_sub(asked + DATE_BEHIND_MAX)),
        };
        let ahead_s = ahead.as_secs() as i64 - behind.as_secs() as i64;
        let before_s = self.clock_ahead_s.swap(ahead_s, Ordering::Relaxed);
        if ahead_s == before_s {
            return;
        }
        let address = self.socket;
        shared.metrics.clock_ahead_seconds.of((address.to_string(),)).set(ahead_s);
        if is_untimely(ahead_s) != is_untimely(before_s) {
            if is_untimely(ahead_s) {
                tracing::error!(%address, ahead_s, "the clock of a service of authentication is not that of this edge: others are asked first");
            } else {
                tracing::info!(%address, "the clock of a service of authentication agrees with that of this edge");
            }
        }
    }

    /// Questions that wait here.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether it is up, from now on.
    pub(super) fn standing(&self) -> watch::Receiver<bool> {
        self.is_up.subscribe()
    }

    /// Returns when it is down. Cancel safe.
    async fn fallen(&self) {
        // The sender lives as long as this does.
        let _ = self.standing().wait_for(|is_up| !is_up).await;
    }

    /// Takes note of whether it is alive; answers whether that is new.
    fn set_up(&self, is_up: bool) -> bool {
        self.is_up.send_if_modified(|now| std::mem::replace(now, is_up) != is_up)
    }

    /// Sends one request and reads the answer; to drop the future ends it. An address that goes down meanwhile is not waited
    /// for.
    pub(super) async fn ask(&self, ask: &Ask, shared: &RemoteCore) -> Result<Bytes, CallFault> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        let answered = tokio::select! {
            answered = self.exchange(ask.method.clone(), &ask.path, ask.body.clone(), shared) => answered,
            () = self.fallen() => return Err(CallFault::Down),
        };
        if answered == Err(CallFault::Connect) && self.set_up(false) {
            shared.tell(self.socket, false);
        }
        let (status, body) = answered?;
        let fault = match status {
            StatusCode::OK => {
                self.is_refusing.store(false, Ordering::Relaxed);
                return Ok(body);
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                return Err(CallFault::Overloaded);
            }
            StatusCode::UNAUTHORIZED => CallFault::Secret,
            status => CallFault::Status(status.as_u16()),
        };
        // Every question is answered alike. Who has no list of revocations says so by this.
        if ask.method == Method::POST && !self.is_refusing.swap(true, Ordering::Relaxed) {
            tracing::error!(address = %self.socket, %fault, "a service of authentication refuses questions");
        }
        Err(fault)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        shared: &RemoteCore,
    ) -> Result<(StatusCode, Bytes), CallFault> {
        let is_about_client = method == Method::POST;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}://{}{path}", self.scheme, self.host.to_str().unwrap_or_default()))
            .header(HOST, self.host.clone())
            .header(CONTENT_TYPE, "application/json");
        if let Some(secret) = &shared.secret {
            request = request.header(AUTHORIZATION, secret.current().0.clone());
        }
        let request = request.body(Full::new(body)).map_err(|_| CallFault::Broken)?;
        let asked_at = Instant::now();
        let client = if is_about_client { &self.client } else { &self.aside };
        let answer: Response<_> = client.request(request).await.map_err(|error| {
            tracing::debug!(address = %self.socket, error = ?error, "no answer of the service of authentication");
            if error.is_connect() { CallFault::Connect } else { CallFault::Broken }
        })?;
        self.see_date(answer.headers().get(DATE), asked_at.elapsed(), shared);
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|_| CallFault::Broken)?.to_bytes()))
    }
}

fn client(connector: ServiceConnector) -> ServiceClient {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_MAX)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .set_host(false)
        .build(connector)
}

fn is_untimely(ahead_s: i64) -> bool {
    ahead_s.unsigned_abs() > CLOCK_DIFFERENCE_S_MAX
}

/// A request.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Bytes,
}

struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks again and again whether an address is alive: any answer says so.
pub(super) async fn watch_over(address: Arc<Address>, shared: Arc<RemoteCore>) {
    // The address owns this task, so it must not own the address.
    let (address, shared) = (Arc::downgrade(&address), Arc::downgrade(&shared));
    let mut failures = 0;
    loop {
        let (Some(address), Some(shared)) = (address.upgrade(), shared.upgrade()) else { return };
        let within = Duration::from_millis(shared.config.probe_timeout_ms);
        let looking = address.exchange(Method::GET, LIVE_PATH, Bytes::new(), &shared);
        let has_answered = match tokio::time::timeout(within, looking).await {
            Ok(Ok(_)) => true,
            // Nobody listens there: it need not be asked twice.
            Ok(Err(CallFault::Connect)) => {
                failures = FAILURES_MAX;
                false
            }
            Ok(Err(_)) | Err(_) => {
                failures += 1;
                false
            }
        };
        if has_answered {
            failures = 0;
        }
        if (has_answered || failures >= FAILURES_MAX) && address.set_up(has_answered) {
            shared.tell(address.socket, has_answered);
        }
        let pause = Duration::from_millis(shared.config.probe_interval_ms);
        drop((address, shared));
        if has_answered || failures >= FAILURES_MAX {
            tokio::time::sleep(pause).await;
        }
    }
}
