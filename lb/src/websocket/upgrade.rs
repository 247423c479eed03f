//! The opening handshake (RFC 6455 section 4), over hyper. hyper's connection lives until the answer has left; then the
//! transport is taken back out of it, with whatever the client sent behind its request.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::{Body, Incoming};
use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::error::{Refusal, WsError};
use super::stream::WsStream;

/// RFC 6455 section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What hyper reads at most before it has a request, bytes. It takes no less.
const REQUEST_BYTES_MAX: usize = 8192;
/// Stands for the origins of pages that this machine serves.
const LOOPBACK: &str = "loopback";
/// Subprotocols served, in our order. v5 [MQTT-6.0.0-4]; the second is what MQTT 3.1 clients call theirs.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// How a listener does WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocketConfig {
    /// The path that is served; the query is not looked at. Default `"/mqtt"`.
    pub path: String,
    /// Origins (`"https://example.com"`) that browsers may connect from, `"loopback"` for pages served by this machine.
    /// Empty (default): any. Clients that send no Origin are no browsers and always may.
    pub origins: Vec<String>,
    /// Header fields in a request at most. Default 64.
    pub headers_max: usize,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self { path: "/mqtt".to_owned(), origins: Vec::new(), headers_max: 64 }
    }
}

/// Answers the client's upgrade request. The deadline is the caller's: dropping the future gives up.
///
/// # Errors
/// [`WsError::Refused`] after the client got an HTTP error, [`WsError::Http`] if there was no request to answer.
pub async fn accept<IO>(io: IO, config: &WebSocketConfig) -> Result<WsStream<IO>, WsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let service = Upgrade { config, outcome: Cell::new(None) };
    let parts = http1::Builder::new()
        .max_buf_size(REQUEST_BYTES_MAX)
        .max_headers(config.headers_max)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
        .without_shutdown()
        .await
        .map_err(WsError::Http)?;
    let mut io = parts.io.into_inner();
    match parts.service.outcome.into_inner() {
        Some(Ok(())) => Ok(WsStream::new(io, parts.read_buf)),
        refused => {
            // The answer is out; whether the client still sees the end of the stream makes no difference.
            let _ = io.shutdown().await;
            let refusal = refused.and_then(Result::err).unwrap_or(Refusal::Request);
            Err(WsError::Refused(refusal))
        }
    }
}

/// Answers the first request.
struct Upgrade<'a> {
    config: &'a WebSocketConfig,
    outcome: Cell<Option<Result<(), Refusal>>>,
}

impl Service<Request<Incoming>> for Upgrade<'_> {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let verdict = judge(&request, self.config);
        self.outcome.set(Some(verdict.as_ref().map(|_| ()).map_err(|refusal| *refusal)));
        ready(Ok(match verdict {
            Ok(agreed) => switch(agreed),
            Err(refusal) => refuse(refusal),
        }))
    }
}

struct Agreed {
    accept: HeaderValue,
    subprotocol: &'static str,
}

fn judge<B: Body>(request: &Request<B>, config: &WebSocketConfig) -> Result<Agreed, Refusal> {
    let headers = request.headers();
    if request.uri().path() != config.path {
        return Err(Refusal::Path);
    }
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    // RFC 9112 section 3.2: exactly one Host.
    let hosts = headers.get_all(HOST).iter().count();
    if request.version() != Version::HTTP_11 || hosts != 1 || !request.body().is_end_stream() {
        return Err(Refusal::Request);
    }
    if !tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
        || !tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
    {
        return Err(Refusal::NotUpgrade);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::Version);
    }
    let accept = accept_key(headers).ok_or(Refusal::Key)?;
    let is_foreign = |origin: &HeaderValue| !config.origins.iter().any(|allowed| is_from(origin, allowed));
    if !config.origins.is_empty() && headers.get_all(ORIGIN).iter().any(is_foreign) {
        return Err(Refusal::Origin);
    }
    let subprotocol = SUBPROTOCOLS
        .into_iter()
        .find(|served| tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == *served))
        .ok_or(Refusal::Subprotocol)?;
    Ok(Agreed { accept, subprotocol })
}

/// Whether a page of `origin` is one of those that `allowed` stands for.
fn is_from(origin: &HeaderValue, allowed: &str) -> bool {
    if allowed == LOOPBACK { origin.to_str().is_ok_and(is_loopback) } else { origin == allowed }
}

/// Whether an origin, as browsers write it, is of a server on this machine. A name that only resolves to a loopback
/// address is not: whoever owns it could make it do so.
fn is_loopback(origin: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    // The last two are written by client libraries that are no browsers.
    if !matches!(scheme, "http" | "https" | "ws" | "wss") {
        return false;
    }
    match authority.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => {
            let bare = authority.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(authority);
            let name = authority.split_once(':').map_or(authority, |(name, _)| name);
            name == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
    }
}

/// The comma-separated tokens of a header that may come more than once.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// `Sec-WebSocket-Accept` for the client's key: 16 bytes in base64, once.
fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).into_iter();
    let key = keys.next().filter(|_| keys.next().is_none())?.as_bytes();
    if STANDARD.decode(key).is_ok_and(|bytes| bytes.len() != 16) || STANDARD.decode(key).is_err() {
        return None;
    }
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
    HeaderValue::try_from(STANDARD.encode(digest)).ok()
}

fn switch(agreed: Agreed) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, agreed.accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(agreed.subprotocol));
    response
}

fn refuse(refusal: Refusal) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if refusal.status() == 426 {
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}
