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

link::settings! {
    /// `cache`: answers that are remembered. Kept are keyed digests of questions, never passwords.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct CacheConfig {
        /// Seconds for which a client that was allowed is known without asking; 0 asks each time.
        pub allowed_ttl_s: u64 = 30, in ..=86_400;
        /// The same for one that was not.
        pub denied_ttl_s: u64 = 5, in ..=86_400;
        /// Answers remembered; about 300 bytes each, and what was granted.
        pub entries_max: u64 = 100_000, in ..=10_000_000;
    }
}

link::settings! {
    /// `queue`: questions that wait for their turn.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct QueueConfig {
        /// How many; beyond it the oldest of the address that has most is given up.
        pub requests_max: usize = 4096, in ..=1_000_000;
        /// Milliseconds that one waits.
        pub timeout_ms: u64 = 1000, in ..=300_000;
    }
}

link::settings! {
    /// `breaker`: when a service that fails is left alone.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct BreakerConfig {
        /// Failures in a row until then.
        pub failures_max: u32 = 5, in 1..=1_000;
        /// Milliseconds until it is probed.
        pub open_ms: u64 = 1000, in 10..=600_000;
    }
}

impl InquiryConfig<'_> {
    /// Checks the bounds; `section` is where they stand.
    ///
    /// # Errors
    /// The first setting that is out of bounds.
    pub(crate) fn check(self, section: &'static str) -> Result<(), AuthError> {
        let of = |table: &str| format!("{section}.{table}");
        self.cache.check_bounds(&of("cache"))?;
        self.queue.check_bounds(&of("queue"))?;
        Ok(self.breaker.check_bounds(&of("breaker"))?)
    }
}
