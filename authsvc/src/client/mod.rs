//! The edge's end: asks services of authentication over HTTP, several of them in balance, passes over those that do not answer,
//! remembers answers, and asks once for those who ask the same. Start at [`Remote`].

mod address;
mod cache;
mod config;
mod connector;
mod discovery;
mod exchange;
mod follow;
mod keys;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderValue;
use link::Passport;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rand::Rng as _;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use config::{ClientConfig, WhenServiceAway};
pub use exchange::RemoteExchange;
pub use keys::{KeyFetcher, KeysError};

use self::address::{Address, Ask, CallFault};
use self::cache::{Asked, DecisionCache};
use self::connector::Tls;
use self::metrics::ClientMetrics;
use crate::action::{Action, ActionRuling, WrittenRuling};
use crate::clock::now_s;
use crate::inquiry::hashed;
use crate::named::Named;
use crate::revocation::{Bearer, Revocations};
use crate::share::Shares;
use crate::slowdown::network;
use crate::watched::Watched;
use crate::wire::{AUTHENTICATE_PATH, AUTHORIZE_PATH, Allowed, Answer, Question};
use crate::{AuthError, Authenticator, Decision, DenyReason, Request};

/// Services that one question is put to, one after the other.
const ATTEMPTS_MAX: usize = 3;

/// A secret as requests show it.
struct ShownSecret(HeaderValue);

/// The [`Authenticator`] of an edge that asks a service. Clones share everything.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<RemoteCore>,
    /// Ends what runs for it.
    _looking: Arc<Looking>,
}

struct Looking(AbortHandle);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct RemoteCore {
    config: ClientConfig,
    tls: Option<Tls>,
    secret: Option<Watched<ShownSecret>>,
    metrics: ClientMetrics,
    /// Counted as everywhere.
    decisions: crate::metrics::Metrics,
    addresses: ArcSwap<Vec<Arc<Address>>>,
    cache: DecisionCache,
    /// Questions whose answer others wait for too.
    flights: Mutex<HashMap<Flight, watch::Receiver<Option<Decision>>>>,
    /// One place for each question.
    shares: Shares,
    revocations: Revocations,
    /// What names the rules that a service was last seen to go by; empty before.
    rules: Mutex<String>,
    /// It was told that none is up.
    is_away: AtomicBool,
}

/// A question that is under way, and of which rules its answer will be at the earliest.
type Flight = (Asked, u64);

/// No service has given an answer.
struct NoAnswer;

impl Remote {
    /// Checks everything that can be checked without asking.
    ///
    /// # Errors
    /// A setting is out of bounds, or a file cannot be used.
    pub fn check(config: &ClientConfig) -> Result<(), AuthError> {
        config.check()?;
        connector::open_tls(config)?;
        open_secret(config)?;
        Ok(())
    }

    /// Begins to look for services. Must be called in a runtime. One that cannot be reached is no error.
    ///
    /// # Errors
    /// As [`Remote::check`].
    pub fn start(config: ClientConfig, registry: &mut Registry) -> Result<Self, AuthError> {
        config.check()?;
        let endpoints = config.endpoints()?;
        let shared = Arc::new(RemoteCore {
            tls: connector::open_tls(&config)?,
            secret: open_secret(&config)?,
            metrics: ClientMetrics::register(registry),
            decisions: crate::metrics::Metrics::register(registry),
            addresses: ArcSwap::default(),
            cache: DecisionCache::new(config.answers_max),
            flights: Mutex::default(),
            shares: Shares::new(config.requests_max),
            revocations: Revocations::default(),
            rules: Mutex::default(),
            is_away: AtomicBool::new(false),
            config,
        });
        let looking = tokio::spawn(discovery::run(shared.clone(), endpoints));
        Ok(Self { shared, _looking: Arc::new(Looking(looking.abort_handle())) })
    }

    /// Has its files read again though they look the same.
    pub fn ask(&self) {
        self.shared.secret.iter().for_each(Watched::ask);
        self.shared.tls.iter().for_each(|tls| tls.ask());
    }

    /// Takes what has changed of its files and settled. To be called every [`files::LOOK_INTERVAL`]; blocks on the disk.
    pub fn look(&self, now: Instant) {
        self.shared.secret.iter().for_each(|secret| secret.look(now));
        self.shared.tls.iter().for_each(|tls| tls.look(now));
    }

    /// What a service says of an action that rules leave to it; once for each call. Ends within `timeout_ms`. Cancel safe.
    pub async fn authorize(&self, action: &Action) -> ActionRuling {
        let Some(_share) = self.shared.shares.take(hashed(&*action.client_id)) else {
            self.shared.metrics.requests.count(("too_many",));
            return ActionRuling::UNAVAILABLE;
        };
        // A question can always be written.
        let body = serde_json::to_vec(action).unwrap_or_default();
        match self.shared.ask_at::<WrittenRuling>(AUTHORIZE_PATH, body.into()).await {
            Ok(ruling) => ruling.into(),
            Err(NoAnswer) => ActionRuling::UNAVAILABLE,
        }
    }

    /// Who has to go, as the services say.
    pub fn revocations(&self) -> &Revocations {
        &self.shared.revocations
    }
}

impl Authenticator for Remote {
    type Exchange = RemoteExchange;

    async fn authenticate(&self, request: Request) -> Decision {
        let decision = self.shared.decide(Question::new(&request)).await;
        self.shared.decisions.count(&decision);
        decision
    }

    fn rules_may_change(&self) -> bool {
        true
    }

    /// Which methods there are, the service knows.
    fn begin(&self, method: &str, request: Request) -> Option<RemoteExchange> {
        Some(RemoteExchange::new(self.shared.clone(), method, &request))
    }
}

impl RemoteCore {
    async fn decide(self: &Arc<Self>, question: Question) -> Decision {
        let asked = self.cache.asked(&question);
        if let Some(decision) = self.cache.fresh(&asked, Instant::now()) {
            self.metrics.answers.count(("cache",));
            return decision;
        }
        let unavailable = Decision::Deny(DenyReason::Unavailable);
        let Some(mut flight) = self.take_off(asked, question) else { return unavailable };
        match flight.wait_for(Option::is_some).await {
            Ok(decision) => decision.clone().unwrap_or(unavailable),
            Err(_) => unavailable,
        }
    }

    /// The answer that is under way to an equal question, or else to this one: in a task of its own, so that nobody who gives up
    /// takes it from the others.
    fn take_off(
        self: &Arc<Self>,
        asked: Asked,
        question: Question,
    ) -> Option<watch::Receiver<Option<Decision>>> {
        let epoch = self.cache.epoch();
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&(asked, epoch)) {
            self.metrics.answers.count(("shared",));
            return Some(flight.clone());
        }
        let Some(share) = self.shares.take(source_of(&question)) else {
            self.metrics.answers.count(("none",));
            self.metrics.requests.count(("too_many",));
            return None;
        };
        let (landed, flight) = watch::channel(None);
        flights.insert((asked, epoch), flight.clone());
        drop(flights);
        let shared = self.clone();
        tokio::spawn(async move {
            let decision = shared.ask_about(asked, epoch, &question).await;
            shared.flights.lock().remove(&(asked, epoch));
            landed.send_replace(Some(decision));
            drop(share);
        });
        Some(flight)
    }

    async fn ask_about(&self, asked: Asked, epoch: u64, question: &Question) -> Decision {
        let since = Instant::now();
        let decision = match self.ask(question).await {
            Ok(answer) => {
                self.metrics.answers.count(("service",));
                self.decision(answer, question)
            }
            Err(NoAnswer) => {
                let known = match self.config.when_away {
                    WhenServiceAway::Refuse => None,
                    WhenServiceAway::Cached => self.cache.good(&asked, Instant::now()),
                };
                let from = if known.is_some() { "cache_while_away" } else { "none" };
                self.metrics.answers.count((from,));
                return known.map_or(Decision::Deny(DenyReason::Unavailable), Decision::Allow);
            }
        };
        self.remember((asked, epoch), &decision, question, since);
        decision
    }

    fn remember(&self, asked: Flight, decision: &Decision, question: &Question, since: Instant) {
        let certificate = question.tls.as_ref().map(|tls| tls.fingerprint.clone());
        let (life, ttl_ms) = match decision {
            Decision::Allow(passport) => {
                let until_s = passport.expires_at_s.unwrap_or(u64::MAX);
                let life_s = until_s.saturating_sub(now_s()).min(31_536_000);
                (Duration::from_secs(life_s), self.config.allowed_ttl_ms)
            }
            Decision::Deny(_) => (Duration::ZERO, self.config.denied_ttl_ms),
        };
        // Without a time for which it is fresh it may count still while nobody can be asked.
        if ttl_ms > 0 || self.config.when_away == WhenServiceAway::Cached {
            let print = certificate.clone();
            // It may have been revoked after it was made.
            let holds = || match decision {
                Decision::Allow(passport) => {
                    self.revocations.verdict(&Bearer::new(passport, print.as_deref()), since).is_none()
                }
                Decision::Deny(_) => true,
            };
            self.cache.remember(asked, decision, certificate, life, Duration::from_millis(ttl_ms), holds);
        }
        self.metrics.remembered.set(self.cache.len() as i64);
    }

    /// A service goes by these rules, and went by those `before` (empty: not known). Where they are others, no answer of
    /// before is given any more, and those who are connected are asked about anew.
    fn see_rules(&self, rules: &str, before: &str) {
        let others = |was: &str| !was.is_empty() && was != rules;
        let seen = std::mem::replace(&mut *self.rules.lock(), rules.to_owned());
        // One that was not seen before may bring other rules along.
        if others(if before.is_empty() { seen.as_str() } else { before }) {
            tracing::info!("a service of authentication has other rules: clients are asked about anew");
            // First, so that nobody is asked about anew and answered from before.
            self.cache.put_behind();
            self.revocations.tell_of_rules();
        }
    }

    /// The answer of whichever service gives one, in time.
    async fn ask(&self, question: &Question) -> Result<Answer, NoAnswer> {
        // A question can always be written.
        let body = serde_json::to_vec(question).unwrap_or_default();
        self.ask_at(AUTHENTICATE_PATH, body.into()).await
    }

    async fn ask_at<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, NoAnswer> {
        let since = Instant::now();
        let ask = Ask { method: Method::POST, path: path.to_owned(), body };
        self.metrics.waiting.inc();
        let asking = tokio::time::timeout(self.config.timeout(), self.put(&ask)).await;
        self.metrics.waiting.dec();
        self.metrics.seconds.observe(since.elapsed().as_secs_f64());
        let body = asking.unwrap_or_else(|_| {
            self.metrics.requests.count(("timeout",));
            Err(NoAnswer)
        })?;
        serde_json::from_slice(&body).map_err(|error| {
            // Its text shows nothing of the answer but where it goes wrong.
            tracing::error!(
                line = error.line(),
                column = error.column(),
                "the service of authentication gives an answer that is none"
            );
            NoAnswer
        })
    }

    /// Puts a request to one service after the other, until one answers whose clock is right; or else one whose clock is not.
    async fn put(&self, ask: &Ask) -> Result<Bytes, NoAnswer> {
        let (mut asked, mut untimely) = (Vec::new(), None);
        for _ in 0..ATTEMPTS_MAX {
            let Some(address) = self.choose(&asked) else { break };
            let fault = match address.ask(ask, self).await {
                Ok(body) => {
                    self.metrics.requests.count(("answered",));
                    if !address.is_untimely() {
                        return Ok(body);
                    }
                    untimely = Some(body);
                    asked.push(address.socket);
                    // Where all agree with each other it is this edge's clock that is not right.
                    if self.choose(&asked).is_some_and(|next| !next.is_untimely()) {
                        continue;
                    }
                    break;
                }
                Err(fault) => fault,
            };
            let outcome = match fault {
                CallFault::Connect => "connect_failed",
                CallFault::Broken => "broken",
                CallFault::Down => "down",
                CallFault::Overloaded => "overloaded",
                CallFault::Secret | CallFault::Status(_) => "refused",
            };
            self.metrics.requests.count((outcome,));
            tracing::debug!(address = %address.socket, %fault, "no answer of a service of authentication");
            asked.push(address.socket);
        }
        if asked.is_empty() {
            self.metrics.requests.count(("none_up",));
        }
        untimely.ok_or(NoAnswer)
    }

    /// Of two that answer, the one where fewer wait. One whose clock is not right only where no other answers.
    fn choose(&self, passed_over: &[SocketAddr]) -> Option<Arc<Address>> {
        let addresses = self.addresses.load();
        let mut good: Vec<_> = addresses
            .iter()
            .filter(|address| address.is_up() && !passed_over.contains(&address.socket))
            .collect();
        if good.iter().any(|address| !address.is_untimely()) {
            good.retain(|address| !address.is_untimely());
        }
        if good.is_empty() {
            return None;
        }
        let mut random = rand::rng();
        let (one, two) = (random.random_range(0..good.len()), random.random_range(0..good.len()));
        let best = if good[two].waiting() < good[one].waiting() { two } else { one };
        Some(good[best].clone())
    }

    /// What an answer says about a CONNECT.
    fn decision(&self, answer: Answer, question: &Question) -> Decision {
        match answer {
            Answer::Deny { reason } => Decision::Deny(reason.into()),
            Answer::Allow(allowed) => match passport(*allowed, question) {
                Ok(passport) => Decision::Allow(Arc::new(passport)),
                Err(problem) => {
                    tracing::error!(client_id = %question.client_id, problem, "the service of authentication gives an answer that is none");
                    Decision::Deny(DenyReason::Unavailable)
                }
            },
            Answer::Continue { .. } => Decision::Deny(DenyReason::Unavailable),
        }
    }

    /// An address begins to answer, or stops to.
    fn tell(&self, address: SocketAddr, is_up: bool) {
        self.metrics.up.of((address.to_string(),)).set(is_up.into());
        if is_up {
            tracing::info!(%address, "a service of authentication answers");
        } else {
            tracing::warn!(%address, "a service of authentication does not answer and is passed over");
        }
        let is_away = !self.addresses.load().iter().any(|address| address.is_up());
        if is_away != self.is_away.swap(is_away, Ordering::Relaxed) && is_away {
            tracing::error!(when_away = ?self.config.when_away, "no service of authentication answers");
        }
    }
}

/// The passport of an answer: as it was signed, or to be signed by the edge.
fn passport(allowed: Allowed, question: &Question) -> Result<Passport, &'static str> {
    if let Some(token) = allowed.passport {
        let passport = link::read_trusted(token.into()).map_err(|_| "its passport is no token of one")?;
        let is_theirs = passport.client_id == question.client_id;
        return if is_theirs { Ok(passport) } else { Err("its passport is another client's") };
    }
    let (Some(subject), Some(rules)) = (allowed.subject, allowed.rules) else {
        return Err("it allows with neither a passport nor a subject and rules");
    };
    let limits = allowed.limits.unwrap_or_default();
    limits.check_bounds("").map_err(|_| "its limits are out of bounds")?;
    let limits = (!limits.is_empty()).then(|| Arc::new(limits));
    Ok(Passport {
        subject,
        client_id: question.client_id.clone(),
        rules: rules.into(),
        expires_at_s: allowed.expires_in.map(|life_s| now_s().saturating_add(life_s)),
        token_id: allowed.token_id,
        attributes: allowed.attributes,
        limits,
        token: None,
    })
}

/// Who asks, among those whose questions are under way.
fn source_of(question: &Question) -> u64 {
    hashed(&network(question.peer.ip()))
}

fn open_secret(config: &ClientConfig) -> Result<Option<Watched<ShownSecret>>, AuthError> {
    let Some(path) = config.secret_file.clone() else { return Ok(None) };
    let paths = [path.clone()];
    let parse = move |found: &files::Snapshot, _: Option<&ShownSecret>| {
        let file = Named::new("authsvc", "secret_file", &path);
        let secret = str::from_utf8(file.bytes(found)?).map_err(|_| file.unusable(&"a secret is text"))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.trim()))
            .map_err(|_| file.unusable(&"a secret is one line of visible characters"))?;
        value.set_sensitive(true);
        Ok(ShownSecret(value))
    };
    Watched::open("the secret for the service of authentication", &paths, parse).map(Some)
}
