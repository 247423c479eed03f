//! What an endpoint answered, whatever the contract.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use mqtt::QoS;

use crate::action::ActionVerdict;
use crate::http_client::{HttpClient, HttpError};
use crate::inquiry::Fault;

/// Between two lines of the log about answers that cannot be understood, in seconds.
const WARN_INTERVAL_S: u64 = 10;

/// What is said of an action, and for how long it holds if that is said too.
pub(in crate::source::http) type Ruled = (ActionVerdict, Option<Duration>);

/// Allowed, with whatever QoS.
pub(super) const ALLOWED: ActionVerdict = ActionVerdict::Allow(QoS::ExactlyOnce);

/// Sends a request; an answer that says "not now" is none.
pub(super) async fn send(
    client: &HttpClient,
    request: hyper::Request<Bytes>,
) -> Result<Response<Bytes>, Fault> {
    let answered = client.send(request).await.map_err(|error| {
        tracing::debug!(%error, cause = ?std::error::Error::source(&error), "an HTTP endpoint gives no answer");
        match error {
            error if error.is_retryable() => Fault::Unreachable,
            HttpError::Timeout => Fault::Timeout,
            _ => malformed("is too long, or no HTTP"),
        }
    })?;
    let status = answered.status();
    if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
        tracing::debug!(%status, "an HTTP endpoint fails");
        return Err(Fault::Failing);
    }
    Ok(answered)
}

/// Says, not too often, what an answer is like that cannot be understood.
pub(super) fn malformed(problem: &'static str) -> Fault {
    warn_seldom("the answer of the HTTP endpoint cannot be understood", problem);
    Fault::Malformed
}

pub(super) fn warn_seldom(what: &'static str, problem: &str) {
    static NEXT_S: AtomicU64 = AtomicU64::new(0);
    let now_s = crate::clock::now_s();
    let next_s = NEXT_S.load(Ordering::Relaxed);
    let is_first =
        NEXT_S.compare_exchange(next_s, now_s + WARN_INTERVAL_S, Ordering::Relaxed, Ordering::Relaxed);
    if now_s >= next_s && is_first.is_ok() {
        tracing::warn!(problem, "{what}");
    } else {
        tracing::debug!(problem, "{what}");
    }
}
