//! Questions to a service elsewhere, so that neither side hurts the other: what was answered lately is known, equal questions
//! are asked once, few at a time are asked and few wait, a failure is tried again within a budget, and a service that fails is
//! left alone until a probe succeeds. Every question ends within [`Inquiry::wait_max`].

mod breaker;
mod config;
mod metrics;
mod turns;

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use tower::retry::budget::{Budget, TpsBudget};

use breaker::{Breaker, Change};
pub(crate) use config::InquiryConfig;
pub use config::{BreakerConfig, CacheConfig, QueueConfig};
use metrics::OfService;
use turns::Turns;

use crate::metrics::{Metrics, Outcome};
use crate::scram::hmac;
use crate::slowdown::SlowDown;
use crate::verdict::Verdict;
use crate::{DenyReason, Request, WhenAway};

/// A failure is tried again at most once, after a pause of 10 to 50 ms.
const RETRY_PAUSE_MS: std::ops::RangeInclusive<u64> = 10..=50;

/// Of the questions of the last seconds, so many may be tried again; a few always, so that a quiet service is not refused them.
const RETRY_PERCENT: f32 = 0.1;
const RETRIES_PER_S: u32 = 2;
const RETRY_WINDOW: Duration = Duration::from_secs(10);

/// What a question is known as: a digest under a key that dies with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

/// What is found out by a question.
pub(crate) trait Decided: Clone + Send + Sync + 'static {
    /// As what it is counted.
    fn outcome(&self) -> Outcome;

    /// For how long it can hold at all.
    fn left(&self) -> Duration {
        Duration::MAX
    }
}

/// What a service said.
#[derive(Clone, Debug)]
pub(crate) struct Reply<V = Verdict> {
    pub(crate) verdict: V,
    /// For how long it holds, if the service said so.
    pub(crate) lifetime: Option<Duration>,
    /// The password was right, whatever else was not.
    pub(crate) is_right: bool,
}

impl<V> Reply<V> {
    /// Of a client whose password is right, if it showed one.
    pub(crate) fn right(verdict: V) -> Self {
        Self { verdict, lifetime: None, is_right: true }
    }
}

impl<V> From<V> for Reply<V> {
    fn from(verdict: V) -> Self {
        Self { verdict, lifetime: None, is_right: false }
    }
}

/// Why an attempt has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No connection, or one that ended early.
    Unreachable,
    /// Not in time.
    Timeout,
    /// The service says that it cannot answer now.
    Failing,
    /// It cannot be understood. The service is there.
    Malformed,
}

impl Fault {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Unreachable | Self::Failing)
    }

    /// Whether it tells of the service; what cannot be understood may be the question's fault.
    fn is_of_service(self) -> bool {
        self != Self::Malformed
    }
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    /// Too many wrong passwords lately.
    SlowedDown,
    /// Too many ask.
    Shed,
    /// The service is left alone.
    Broken,
    /// It was asked.
    Faulty(Fault),
    /// Others asked the same, and were gone before there was an answer.
    Overdue,
}

/// Asks one service.
pub(crate) struct Inquiry<V: Decided = Verdict> {
    name: &'static str,
    key: [u8; 32],
    cache: Cache<Fingerprint, Known<V>>,
    lifetimes: Lifetimes,
    turns: Turns,
    breaker: Breaker,
    budget: TpsBudget,
    queue_timeout: Duration,
    wait_max: Duration,
    when_away: WhenAway,
    slow_down: Arc<SlowDown>,
    metrics: OfService,
}

/// An answer for a time.
#[derive(Clone, Debug)]
struct Known<V> {
    verdict: V,
    lifetime: Duration,
    is_right: bool,
}

/// For how long answers hold of which the service does not say it.
struct Lifetimes {
    allowed: Duration,
    denied: Duration,
}

struct ByLifetime;

impl<V> Expiry<Fingerprint, Known<V>> for ByLifetime {
    fn expire_after_create(&self, _: &Fingerprint, known: &Known<V>, _: Instant) -> Option<Duration> {
        Some(known.lifetime)
    }

    fn expire_after_update(
        &self,
        _: &Fingerprint,
        known: &Known<V>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(known.lifetime)
    }
}

impl<V: Decided> Inquiry<V> {
    /// Questions to the service of source `name`: `concurrent_max` at a time, each attempt of which ends within
    /// `attempt_timeout` by itself.
    pub(crate) fn new(
        name: &'static str,
        config: InquiryConfig<'_>,
        concurrent_max: usize,
        attempt_timeout: Duration,
        metrics: &Metrics,
        slow_down: &Arc<SlowDown>,
    ) -> Self {
        let queue_timeout = Duration::from_millis(config.queue.timeout_ms);
        let pause = Duration::from_millis(*RETRY_PAUSE_MS.end());
        Self {
            name,
            key: rand::random(),
            cache: Cache::builder().max_capacity(config.cache.entries_max).expire_after(ByLifetime).build(),
            lifetimes: Lifetimes {
                allowed: Duration::from_secs(config.cache.allowed_ttl_s),
                denied: Duration::from_secs(config.cache.denied_ttl_s),
            },
            turns: Turns::new(concurrent_max, config.queue.requests_max),
            breaker: Breaker::new(config.breaker.failures_max, Duration::from_millis(config.breaker.open_ms)),
            budget: TpsBudget::new(RETRY_WINDOW, RETRIES_PER_S, RETRY_PERCENT),
            queue_timeout,
            wait_max: queue_timeout + attempt_timeout * 2 + pause,
            when_away: config.when_away,
            slow_down: slow_down.clone(),
            metrics: OfService::new(name, metrics),
        }
    }

    /// The fingerprint of a question that these values make.
    pub(crate) fn fingerprint(&self, values: &[&[u8]]) -> Fingerprint {
        let lengths: Vec<[u8; 8]> = values.iter().map(|value| (value.len() as u64).to_be_bytes()).collect();
        // The length keeps "ab" + "c" and "a" + "bc" apart.
        let parts: Vec<&[u8]> =
            lengths.iter().zip(values).flat_map(|(length, value)| [&length[..], value]).collect();
        Fingerprint(hmac(&self.key, &parts))
    }

    /// What is known from lately.
    async fn known(&self, fingerprint: Fingerprint) -> Option<V> {
        let known = self.cache.get(&fingerprint).await?;
        self.metrics.count(Outcome::cached);
        Some(known.verdict)
    }

    /// What is found out by `find_out`, which others may wait for; and whether it was found out for this question. To drop the future is safe: who waits for the same answer asks in
    /// its place.
    async fn find_by(
        &self,
        fingerprint: Fingerprint,
        find_out: impl Future<Output = Result<Known<V>, Away>>,
    ) -> Result<(V, bool), Away> {
        let answer = self.cache.entry(fingerprint).or_try_insert_with(find_out);
        let away = match tokio::time::timeout(self.wait_max, answer).await {
            Ok(Ok(entry)) => {
                let is_own = entry.is_fresh();
                if !is_own {
                    self.metrics.count(Outcome::shared);
                }
                return Ok((entry.into_value().verdict, is_own));
            }
            Ok(Err(away)) => *away,
            Err(_) => Away::Overdue,
        };
        tracing::debug!(source = self.name, ?away, "a source cannot decide");
        Err(away)
    }

    /// What the service says: known from lately, or asked by `attempt`, twice if need be. Those of one `from` wait for each other.
    /// Cancel safe as [`Inquiry::ask`].
    pub(crate) async fn find<A, F>(&self, fingerprint: Fingerprint, from: u64, attempt: A) -> Result<V, Away>
    where
        A: Fn() -> F,
        F: Future<Output = Result<Reply<V>, Fault>>,
    {
        if let Some(known) = self.known(fingerprint).await {
            return Ok(known);
        }
        let found = self.find_by(fingerprint, Box::pin(self.find_out_in_turn(from, attempt))).await;
        found.map(|(verdict, _)| verdict)
    }

    async fn find_out_in_turn<A, F>(&self, from: u64, attempt: A) -> Result<Known<V>, Away>
    where
        A: Fn() -> F,
        F: Future<Output = Result<Reply<V>, Fault>>,
    {
        if self.breaker.is_open(from, Instant::now()) {
            self.metrics.count(Outcome::broken);
            return Err(Away::Broken);
        }
        let Some(_turn) = self.turns.take(from, self.queue_timeout).await else {
            self.metrics.count(Outcome::shed);
            return Err(Away::Shed);
        };
        self.budget.deposit();
        let fault = match self.attempt(from, &attempt).await {
            Err(Away::Faulty(fault)) if fault.is_retryable() && self.budget.withdraw() => fault,
            ended => return ended,
        };
        tracing::debug!(source = self.name, ?fault, "asked again");
        tokio::time::sleep(Duration::from_millis(rand::random_range(RETRY_PAUSE_MS))).await;
        self.attempt(from, &attempt).await
    }

    async fn attempt<A, F>(&self, from: u64, attempt: &A) -> Result<Known<V>, Away>
    where
        A: Fn() -> F,
        F: Future<Output = Result<Reply<V>, Fault>>,
    {
        let begun = Instant::now();
        let Some(pass) = self.breaker.admit(from, begun) else {
            self.metrics.count(Outcome::broken);
            return Err(Away::Broken);
        };
        let answered = attempt().await;
        let now = Instant::now();
        self.metrics.observe(&answered, now - begun);
        let is_well = answered.as_ref().err().is_none_or(|fault| !fault.is_of_service());
        self.tell(self.breaker.settle(pass, is_well, now));
        answered.map(|answer| self.lifetimes.of(answer)).map_err(Away::Faulty)
    }

    fn tell(&self, change: Option<Change>) {
        let Some(change) = change else { return };
        self.metrics.show(change);
        match change {
            Change::Opened => {
                tracing::warn!(source = self.name, "the service fails and is not asked for now");
            }
            Change::OpenedForOne => {
                tracing::warn!(
                    source = self.name,
                    "the service fails for one client or address, and is not asked for it for now"
                );
            }
            Change::Closed => tracing::info!(source = self.name, "the service answers again"),
        }
    }
}

impl Inquiry {
    /// What the service says of `request`, which comes as `subject`: known from lately, or asked by `attempt`, twice if need be.
    /// To drop the future is safe: who waits for the same answer asks in its place.
    pub(crate) async fn ask<A, F>(
        &self,
        fingerprint: Fingerprint,
        subject: &str,
        request: &Request,
        attempt: A,
    ) -> Verdict
    where
        A: Fn() -> F,
        F: Future<Output = Result<Reply, Fault>>,
    {
        if let Some(known) = self.known(fingerprint).await {
            return known;
        }
        match self.find_by(fingerprint, Box::pin(self.find_out(subject, request, attempt))).await {
            // Only who asks pays, here as in what is denied.
            Ok((Verdict::Ignore, true)) if shows_password(request) => Verdict::Unknown,
            Ok((verdict, _)) => verdict,
            Err(Away::SlowedDown) => Verdict::Deny(DenyReason::SlowedDown),
            Err(Away::Shed | Away::Broken | Away::Faulty(_) | Away::Overdue) => self.when_away.verdict(),
        }
    }

    async fn find_out<A, F>(
        &self,
        subject: &str,
        request: &Request,
        attempt: A,
    ) -> Result<Known<Verdict>, Away>
    where
        A: Fn() -> F,
        F: Future<Output = Result<Reply, Fault>>,
    {
        let suspect = self.slow_down.suspect(subject, request.peer.ip());
        // Only who asks pays: equal questions are one guess, and so are other clients' with the same password.
        let secret = request.password.as_deref().unwrap_or_default();
        let Some(guess) = self.slow_down.guess(suspect, secret) else {
            return Err(Away::SlowedDown);
        };
        let known = self.find_out_in_turn(suspect.source(), attempt).await?;
        // Not every service says why: what is denied is a wrong password, unless it is known to be right.
        let is_wrong = match known.verdict {
            Verdict::Deny(DenyReason::BadCredentials) => true,
            Verdict::Deny(DenyReason::NotAuthorized) => shows_password(request) && !known.is_right,
            _ => false,
        };
        if is_wrong {
            guess.was_wrong();
        }
        Ok(known)
    }
}

impl Lifetimes {
    fn of<V: Decided>(&self, answer: Reply<V>) -> Known<V> {
        let is_allowed = answer.verdict.outcome() == Outcome::allowed;
        let lifetime = answer.lifetime.unwrap_or(if is_allowed { self.allowed } else { self.denied });
        Known {
            lifetime: lifetime.min(answer.verdict.left()),
            is_right: answer.is_right,
            verdict: answer.verdict,
        }
    }
}

impl Decided for Verdict {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Allow(_) => Outcome::allowed,
            Self::Deny(_) => Outcome::denied,
            Self::Ignore | Self::Unknown => Outcome::ignored,
        }
    }

    /// No answer outlives what it grants.
    fn left(&self) -> Duration {
        match self {
            Self::Allow(grant) => grant.expires_at_s.map_or(Duration::MAX, |expires_at_s| {
                Duration::from_secs(expires_at_s.saturating_sub(crate::clock::now_s()))
            }),
            Self::Deny(_) | Self::Ignore | Self::Unknown => Duration::MAX,
        }
    }
}

fn shows_password(request: &Request) -> bool {
    request.password.as_ref().is_some_and(|password| !password.is_empty())
}

/// A number that stands for `value` among those who wait.
pub(crate) fn hashed(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
