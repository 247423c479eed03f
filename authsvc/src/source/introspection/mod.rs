//! Token introspection (RFC 7662) as a source: an authorization server says whether the password of CONNECT is a token of its
//! own that is good, and whose. Its answers are kept for a while, identical questions are asked once, and who guesses tokens
//! is slowed down as with passwords.

mod cache;
mod config;
mod endpoint;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::watch;

use cache::{TokenCache, TokenHash};
pub use config::{ClientAuthentication, IntrospectionConfig, WhenInactive};
use endpoint::IntrospectionEndpoint;

use super::claims;
use super::context::SourceContext;
use crate::clock::now_s;
use crate::config::CertificateIdentity;
use crate::metrics::Metrics;
use crate::share::Shares;
use crate::slowdown::{SlowDown, Suspect};
use crate::token_problem::TokenProblem;
use crate::verdict::{Grant, Verdict, WhenAway};
use crate::{AuthError, DenyReason, Request};

/// Tokens that are asked about at a time; beyond it clients are told to come back.
const ASKING_MAX: usize = 4096;

/// Tokens as `[auth.introspection]` says.
pub(crate) struct IntrospectionSource {
    inner: Arc<Introspection>,
}

struct Introspection {
    config: IntrospectionConfig,
    endpoint: IntrospectionEndpoint,
    cache: TokenCache<TokenAnswer>,
    /// One place for each question.
    shares: Shares,
    /// Those who wait for an answer find it here.
    asking: Mutex<HashMap<TokenHash, watch::Receiver<Heard>>>,
    slow_down: Arc<SlowDown>,
    metrics: Metrics,
}

/// What the server says of a token.
type TokenAnswer = Result<GoodToken, TokenProblem>;

/// A token that is good.
#[derive(Clone)]
struct GoodToken {
    grant: Grant,
    /// The client certificate that it is bound to.
    bound: Option<Value>,
}

/// How far a question is.
#[derive(Clone)]
enum Heard {
    Nothing,
    Answer(TokenAnswer),
    /// There will be none.
    Away,
}

impl IntrospectionSource {
    /// Reads the secret that `config` names.
    pub(super) fn start(config: &IntrospectionConfig, context: &SourceContext) -> Result<Self, AuthError> {
        config.check()?;
        let inner = Introspection {
            endpoint: IntrospectionEndpoint::new(config)?,
            cache: TokenCache::new(config.cache_max),
            shares: Shares::new(ASKING_MAX),
            asking: Mutex::default(),
            slow_down: context.slow_down.clone(),
            metrics: context.metrics.clone(),
            config: config.clone(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Checks `config` as [`IntrospectionSource::start`] would, and starts nothing.
    pub(super) fn check(config: &IntrospectionConfig) -> Result<(), AuthError> {
        config.check()?;
        IntrospectionEndpoint::new(config).map(drop)
    }

    /// Decides about clients whose password may be a token.
    pub(super) async fn decide(&self, request: &Request) -> Verdict {
        let inner = &self.inner;
        let Some(token) = inner.token_of(request) else { return Verdict::Ignore };
        let hash = inner.cache.hash(token.as_bytes());
        let answer = match inner.cache.find(hash, Instant::now()) {
            Some(answer) => answer,
            None => match inner.ask(hash, token, request).await {
                Ok(answer) => answer,
                Err(DenyReason::Unavailable) if inner.config.when_away == WhenAway::Ignore => {
                    return Verdict::Ignore;
                }
                Err(reason) => return Verdict::Deny(reason),
            },
        };
        match answer.and_then(|known| inner.grant(known, request)) {
            Ok(grant) => Verdict::Allow(grant),
            Err(TokenProblem::Inactive) if inner.config.when_inactive == WhenInactive::Ignore => {
                Verdict::Ignore
            }
            Err(problem) => {
                inner.metrics.count_refused_token(&problem);
                tracing::debug!(client_id = %request.client_id, peer = %request.peer, %problem, "token refused");
                Verdict::Deny(DenyReason::BadCredentials)
            }
        }
    }
}

impl Introspection {
    /// The password, if it may be a token (RFC 6749 appendix A.12).
    fn token_of<'a>(&self, request: &'a Request) -> Option<&'a str> {
        if self.config.username.is_some() && self.config.username != request.username {
            return None;
        }
        let token = str::from_utf8(request.password.as_ref()?).ok()?;
        let is_token = !token.is_empty() && token.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
        (is_token && token.len() <= self.config.token_bytes_max).then_some(token)
    }

    /// Whom a good token lets in now.
    fn grant(&self, known: GoodToken, request: &Request) -> Result<Grant, TokenProblem> {
        self.config.claims.check_username(&known.grant.subject, request)?;
        if let Some(bound) = &known.bound {
            claims::check_certificate(bound, CertificateIdentity::Fingerprint, request)?;
        }
        if known.grant.expires_at_s.is_some_and(|ends_at_s| ends_at_s <= now_s()) {
            return Err(TokenProblem::Expired);
        }
        Ok(known.grant)
    }

    /// Has the server asked, by a task that goes on when those who wait have left, or waits with those who do.
    async fn ask(
        self: &Arc<Self>,
        hash: TokenHash,
        token: &str,
        request: &Request,
    ) -> Result<TokenAnswer, DenyReason> {
        let mut heard = self.listen(hash, token, request)?;
        let heard = heard.wait_for(|heard| !matches!(heard, Heard::Nothing)).await;
        match heard.as_deref() {
            Ok(Heard::Answer(answer)) => Ok(answer.clone()),
            _ => Err(DenyReason::Unavailable),
        }
    }

    fn listen(
        self: &Arc<Self>,
        hash: TokenHash,
        token: &str,
        request: &Request,
    ) -> Result<watch::Receiver<Heard>, DenyReason> {
        let mut asking = self.asking.lock();
        // One whose task has ended without a word hears nothing any more.
        if let Some(heard) = asking.get(&hash).filter(|heard| heard.has_changed().is_ok()) {
            return Ok(heard.clone());
        }
        // A fleet may share its user name, as where it says no more than that a token follows.
        let suspect = self.slow_down.suspect(&request.client_id, request.peer.ip());
        let Some(share) = self.shares.take(suspect.source()) else { return Err(DenyReason::Unavailable) };
        if !self.slow_down.admit(suspect, Instant::now()) {
            return Err(DenyReason::SlowedDown);
        }
        let (sender, receiver) = watch::channel(Heard::Nothing);
        asking.insert(hash, receiver.clone());
        drop(asking);
        let asked = self.clone().run(hash, token.to_owned(), suspect, sender);
        tokio::spawn(async move {
            asked.await;
            drop(share);
        });
        Ok(receiver)
    }

    async fn run(
        self: Arc<Self>,
        hash: TokenHash,
        token: String,
        suspect: Suspect,
        heard: watch::Sender<Heard>,
    ) {
        let answer = self.endpoint.ask(&token).await.map(|answer| self.read(&answer));
        let now = Instant::now();
        match &answer {
            Some(Err(TokenProblem::Inactive)) => self.slow_down.confirm(suspect, now),
            _ => self.slow_down.refund(suspect, now),
        }
        if let Some(answer) = &answer {
            let lifetime = Duration::from_secs(match answer {
                Ok(_) => self.config.cache_ttl_s,
                Err(_) => self.config.negative_ttl_s,
            });
            // It is looked at again when the token ends, whatever is kept.
            self.cache.keep(hash, answer.clone(), now + lifetime);
        }
        self.asking.lock().remove(&hash);
        heard.send_replace(answer.map_or(Heard::Away, Heard::Answer));
    }

    /// RFC 7662 section 2.2.
    fn read(&self, answer: &Map<String, Value>) -> TokenAnswer {
        if answer.get("active") != Some(&Value::Bool(true)) {
            return Err(TokenProblem::Inactive);
        }
        let time =
            |name| answer.get(name).and_then(|at| at.as_u64().or_else(|| at.as_f64().map(|at| at as u64)));
        if time("nbf").is_some_and(|begins_at_s| begins_at_s > now_s()) {
            return Err(TokenProblem::NotYetValid);
        }
        let is_for_us = |audience: &Value| match audience {
            Value::String(one) => self.config.audience.contains(one),
            Value::Array(all) => all
                .iter()
                .filter_map(Value::as_str)
                .any(|one| self.config.audience.iter().any(|us| us == one)),
            _ => false,
        };
        if !self.config.audience.is_empty() && !answer.get("aud").is_some_and(is_for_us) {
            return Err(TokenProblem::Audience);
        }
        let grant = self.config.claims.grant(answer, time("exp"))?;
        Ok(GoodToken { grant, bound: claims::binding(answer).cloned() })
    }
}

#[cfg(test)]
mod tests;
