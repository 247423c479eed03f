//! The HTTP client of everything here that calls out: pooled connections, HTTP/1.1 and /2, TLS, and a bound on the time, the
//! number and the size of everything. It follows no redirect, keeps no cookie, and tries nothing twice that the other end may
//! have seen; whether to ask again is up to the caller ([`HttpError::is_retryable`]).

mod config;
mod connector;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;

pub use config::HttpClientConfig;
pub(crate) use config::is_loopback;
use connector::Connector;
pub(crate) use tls::TlsFiles;

use crate::AuthError;

/// A connection that nobody used for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often an HTTP/2 connection with requests on it is asked whether it is alive, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of an answer's status line and headers.
const HEAD_BYTES_MAX: usize = 32_768;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends requests, as its [`HttpClientConfig`] says.
pub(crate) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    config: HttpClientConfig,
    /// One permit for each request that is under way.
    turns: Semaphore,
}

/// Why a request has no answer. The texts hold nothing of the request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No connection came up; the other end has seen nothing.
    #[error("cannot connect")]
    Connect(#[source] BoxError),
    /// The answer was not there in time.
    #[error("no answer in time")]
    Timeout,
    /// The connection ended before the answer did.
    #[error("the connection ended before the answer")]
    Closed(#[source] BoxError),
    /// The answer is longer than `answer_bytes_max`.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// The answer is not HTTP.
    #[error("the answer is not HTTP")]
    Protocol(#[source] BoxError),
    /// `http://` to another machine, which was not allowed.
    #[error("the address is not encrypted")]
    Plain,
}

impl HttpError {
    /// Whether the same request may well succeed in the next moment.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Closed(_))
    }
}

impl HttpClient {
    /// A client for `section`, which `config` was flattened into. Reads the files that it names.
    ///
    /// # Errors
    /// A setting is out of bounds, or a file cannot be used.
    pub(crate) fn new(section: &'static str, config: &HttpClientConfig) -> Result<Self, AuthError> {
        config.check_bounds(section)?;
        let connector = Connector::new(config.tls().client_config(section)?, config.connect_timeout());
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(config.connections_max)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(connector);
        Ok(Self { client, turns: Semaphore::new(config.connections_max), config: config.clone() })
    }

    /// Sends one request and reads the whole answer, whatever its status. To drop the future ends the request.
    ///
    /// # Errors
    /// There is no answer within the bounds.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        if !self.config.may_ask(request.uri()) {
            return Err(HttpError::Plain);
        }
        let answer = tokio::time::timeout(self.config.timeout(), self.exchange(request));
        answer.await.unwrap_or(Err(HttpError::Timeout))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // It is never closed, so this only waits.
        let _turn = self.turns.acquire().await;
        let answer = self.client.request(request.map(Full::new)).await.map_err(of_request)?;
        let (head, body) = answer.into_parts();
        let bytes_max = self.config.answer_bytes_max;
        let body = Limited::new(body, bytes_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                HttpError::TooLarge(bytes_max)
            } else {
                HttpError::Closed(error)
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

fn of_request(error: hyper_util::client::legacy::Error) -> HttpError {
    let is_parse = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<hyper::Error>())
        .is_some_and(|source| source.is_parse() || source.is_parse_too_large());
    if error.is_connect() {
        HttpError::Connect(error.into())
    } else if is_parse {
        HttpError::Protocol(error.into())
    } else {
        HttpError::Closed(error.into())
    }
}

#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod tests;
