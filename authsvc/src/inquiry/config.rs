//! The settings of everything that asks a service elsewhere: tables within its section.

use serde::{Deserialize, Serialize};

use crate::{AuthError, WhenAway};

/// How questions are asked: keys that a section has among its own.
#[derive(Clone, Copy)]
pub(crate) struct InquiryConfig<'a> {
    /// What becomes of a client whose question has no answer.
    pub(crate) when_away: WhenAway,
    /// What is remembered.
    pub(crate) cache: &'a CacheConfig,
    /// Who waits.
    pub(crate) queue: &'a QueueConfig,
    /// When the service is left alone.
    pub(crate) breaker: &'a BreakerConfig,
}

/// `cache`: answers that are remembered. Kept are keyed digests of questions, never passwords.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Seconds for which a client that was allowed is known without asking; 0 asks each time. Default 30.
    pub allowed_ttl_s: u64,
    /// The same for one that was not. Default 5.
    pub denied_ttl_s: u64,
    /// Answers remembered; about 300 bytes each, and what was granted. Default 100000.
    pub entries_max: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { allowed_ttl_s: 30, denied_ttl_s: 5, entries_max: 100_000 }
    }
}

/// `queue`: questions that wait for their turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// How many; beyond it the oldest of the address that has most is given up. Default 4096.
    pub requests_max: usize,
    /// Milliseconds that one waits. Default 1000.
    pub timeout_ms: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { requests_max: 4096, timeout_ms: 1000 }
    }
}

/// `breaker`: when a service that fails is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Failures in a row until then. Default 5.
    pub failures_max: u32,
    /// Milliseconds until it is probed. Default 1000.
    pub open_ms: u64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures_max: 5, open_ms: 1000 }
    }
}

impl InquiryConfig<'_> {
    /// Checks the bounds; `section` is where they stand.
    ///
    /// # Errors
    /// The first setting that is out of bounds.
    pub(crate) fn check(self, section: &'static str) -> Result<(), AuthError> {
        let Self { cache, queue, breaker, .. } = self;
        let checks = [
            (cache.allowed_ttl_s <= 86_400, "cache.allowed_ttl_s", "must be at most 86400"),
            (cache.denied_ttl_s <= 86_400, "cache.denied_ttl_s", "must be at most 86400"),
            (cache.entries_max <= 10_000_000, "cache.entries_max", "must be at most 10000000"),
            (queue.requests_max <= 1_000_000, "queue.requests_max", "must be at most 1000000"),
            (queue.timeout_ms <= 300_000, "queue.timeout_ms", "must be at most 300000"),
            ((1..=1000).contains(&breaker.failures_max), "breaker.failures_max", "must be 1 to 1000"),
            ((10..=600_000).contains(&breaker.open_ms), "breaker.open_ms", "must be 10 to 600000"),
        ];
        match checks.into_iter().find(|(is_within, ..)| !is_within) {
            Some((_, key, problem)) => Err(AuthError::Section { section, key, problem: problem.to_owned() }),
            None => Ok(()),
        }
    }
}
