//! From a request to its answer: paths, methods, who may ask, and the bounds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::SemaphorePermit;

use super::ServiceCore;
use crate::action::{Action, ActionRuling, WrittenRuling};
use crate::revocation::Feed;
use crate::wire::{AUTHENTICATE_PATH, AUTHORIZE_PATH, KEYS_PATH, LIVE_PATH, Question, REVOCATIONS_PATH};

/// Whether it takes requests.
const READY_PATH: &str = "/readyz";

/// Stands for other paths in metrics.
const OTHER_PATH: &str = "other";

/// How long a question for revocations waits for one.
const NEWS_WAIT: Duration = Duration::from_secs(20);

/// Seconds that the keys may be remembered by whoever asks for them.
const KEYS_MAX_AGE: &str = "public, max-age=15";

type HttpAnswer = Response<Full<Bytes>>;

/// An answer to who asks wrongly.
type Refusal = Box<HttpAnswer>;

/// What is told to who asks wrongly.
#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
}

impl ServiceCore {
    /// Answers one request.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        has_certificate: bool,
    ) -> Result<HttpAnswer, Infallible> {
        let path = match request.uri().path() {
            AUTHENTICATE_PATH => AUTHENTICATE_PATH,
            AUTHORIZE_PATH => AUTHORIZE_PATH,
            REVOCATIONS_PATH => REVOCATIONS_PATH,
            KEYS_PATH => KEYS_PATH,
            LIVE_PATH => LIVE_PATH,
            READY_PATH => READY_PATH,
            _ => OTHER_PATH,
        };
        // Boxed: a connection that waits for its next request does not keep the room.
        let answer =
            Box::pin(self.route(path, request, has_certificate)).await.unwrap_or_else(|refusal| *refusal);
        self.metrics.answers.count((path, answer.status().as_u16()));
        Ok(answer)
    }

    async fn route(
        &self,
        path: &'static str,
        request: Request<Incoming>,
        has_certificate: bool,
    ) -> Result<HttpAnswer, Refusal> {
        match path {
            AUTHENTICATE_PATH => {
                allow_only(&[Method::POST], request.method())?;
                self.check_caller(request.headers(), has_certificate)?;
                self.authenticate(request).await
            }
            AUTHORIZE_PATH => {
                allow_only(&[Method::POST], request.method())?;
                self.check_caller(request.headers(), has_certificate)?;
                self.authorize(request).await
            }
            REVOCATIONS_PATH => {
                allow_only(&[Method::GET, Method::HEAD], request.method())?;
                self.check_caller(request.headers(), has_certificate)?;
                self.revocations(request.uri().query().unwrap_or_default()).await
            }
            OTHER_PATH => Err(problem(StatusCode::NOT_FOUND, "there is nothing here")),
            _ => {
                allow_only(&[Method::GET, Method::HEAD], request.method())?;
                Ok(match path {
                    KEYS_PATH => {
                        let keys = self.keys.current().announced.clone();
                        with(json(StatusCode::OK, keys), CACHE_CONTROL, KEYS_MAX_AGE)
                    }
                    READY_PATH if *self.stop.borrow() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
                    _ => text(StatusCode::OK, "ok\n"),
                })
            }
        }
    }

    /// Whoever has a certificate and knows the secret may ask, where these are set.
    fn check_caller(&self, headers: &HeaderMap, has_certificate: bool) -> Result<(), Refusal> {
        let needs_certificate = self.config.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        if needs_certificate && !has_certificate {
            return Err(problem(StatusCode::FORBIDDEN, "a client certificate is needed"));
        }
        if self.secret.as_ref().is_none_or(|secret| secret.current().is_shown(headers)) {
            return Ok(());
        }
        let refusal = problem(StatusCode::UNAUTHORIZED, "the secret is needed: Authorization: Bearer SECRET");
        Err(Box::new(with(*refusal, WWW_AUTHENTICATE, "Bearer")))
    }

    async fn authenticate(&self, request: Request<Incoming>) -> Result<HttpAnswer, Refusal> {
        let since = Instant::now();
        let _turn = self.turn()?;
        let question: Question = self.question(request).await?;
        let within = self.config.request_timeout().saturating_sub(since.elapsed());
        let answer = self.decide(&question, within, since).await;
        self.metrics.authenticate_seconds.observe(since.elapsed().as_secs_f64());
        written(&answer)
    }

    async fn authorize(&self, request: Request<Incoming>) -> Result<HttpAnswer, Refusal> {
        let since = Instant::now();
        let _turn = self.turn()?;
        let action: Action = self.question(request).await?;
        let within = self.config.request_timeout().saturating_sub(since.elapsed());
        let ruling = tokio::time::timeout(within, self.local.authorize(&action)).await;
        written(&WrittenRuling::from(ruling.unwrap_or(ActionRuling::UNAVAILABLE)))
    }

    fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.turns.try_acquire().map_err(|_| {
            let refusal = problem(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time");
            Box::new(with(*refusal, RETRY_AFTER, "1"))
        })
    }

    /// The JSON of a request, once it has come.
    async fn question<Q: DeserializeOwned>(&self, request: Request<Incoming>) -> Result<Q, Refusal> {
        check_type(request.headers())?;
        let body = tokio::time::timeout(self.config.request_timeout(), self.body(request)).await;
        let body =
            body.map_err(|_| problem(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))??;
        serde_json::from_slice(&body).map_err(|error| {
            // Its text shows no value that may be secret: wrong types are named, base64 is not shown.
            problem(StatusCode::BAD_REQUEST, &format!("not a question: {error}"))
        })
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Refusal> {
        let too_large = || problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
        let bytes_max = self.config.body_bytes_max;
        if request.body().size_hint().lower() > bytes_max as u64 {
            return Err(too_large());
        }
        match Limited::new(request.into_body(), bytes_max).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(_) => Err(problem(StatusCode::BAD_REQUEST, "the body breaks off")),
        }
    }

    /// What was revoked after the entry that the query names, when there is something.
    async fn revocations(&self, query: &str) -> Result<HttpAnswer, Refusal> {
        let list = self.local.revocations();
        let field = |name: &str| {
            query.split('&').filter_map(|field| field.split_once('=')).find(|(key, _)| *key == name)
        };
        let after = match field("after") {
            None => 0,
            Some((_, value)) => value
                .parse()
                .map_err(|_| problem(StatusCode::BAD_REQUEST, "after is the number of an entry"))?,
        };
        // Numbers of another list say nothing of this one.
        let is_ours = field("replica").is_some_and(|(_, replica)| replica == list.replica());
        let after = if is_ours { after } else { 0 };
        if is_ours {
            let mut stop = self.stop.clone();
            tokio::select! {
                () = list.changed(after) => {}
                () = tokio::time::sleep(NEWS_WAIT) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        written(&Feed::new(list, after))
    }
}

fn written(answer: &impl Serialize) -> Result<HttpAnswer, Refusal> {
    let body = serde_json::to_vec(answer)
        .map_err(|_| problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written"))?;
    Ok(with(json(StatusCode::OK, body.into()), CACHE_CONTROL, "no-store"))
}

fn allow_only(methods: &[Method], method: &Method) -> Result<(), Refusal> {
    if methods.contains(method) {
        return Ok(());
    }
    let allowed = if methods.contains(&Method::POST) { "POST" } else { "GET, HEAD" };
    let refusal = problem(StatusCode::METHOD_NOT_ALLOWED, "not by this method");
    Err(Box::new(with(*refusal, ALLOW, allowed)))
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type: application/json is needed"))
}

fn problem(status: StatusCode, error: &str) -> Refusal {
    Box::new(json(status, serde_json::to_vec(&Problem { error }).unwrap_or_default().into()))
}

fn json(status: StatusCode, body: Bytes) -> HttpAnswer {
    of_type(status, body, "application/json")
}

fn text(status: StatusCode, body: &'static str) -> HttpAnswer {
    of_type(status, Bytes::from_static(body.as_bytes()), "text/plain; charset=utf-8")
}

fn of_type(status: StatusCode, body: Bytes, kind: &'static str) -> HttpAnswer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, kind)
}

fn with(mut answer: HttpAnswer, name: HeaderName, value: &'static str) -> HttpAnswer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}
