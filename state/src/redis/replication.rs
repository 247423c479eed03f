//! Whether enough replicas have what was written. A connection says so with WAIT, which counts what was written on that same
//! connection; so it follows the writes of a batch, and nothing else uses the connection meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::config::{RedisConfig, WhenShort};
use super::node::BATCHES_UNDER_WAY_MAX;
use crate::Durations;

/// How long replicas have to confirm a batch, at most.
const CONFIRM_MAX: Duration = Duration::from_millis(500);
/// While too few confirm and that is accepted: how long they have,
const SHORT_CONFIRM: Duration = Duration::from_millis(1);
/// and how often they have the whole time.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// What is wanted, and what was seen.
#[derive(Debug)]
pub(super) struct Replication {
    pub(super) replicas: u32,
    when_short: WhenShort,
    confirm: Duration,
    /// Batches that were accepted with too few copies.
    degraded: AtomicU64,
    /// From sending a batch of writes until its answers, those of replicas included.
    pub(super) batches: Durations,
}

/// What was seen at one node.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    is_short: AtomicBool,
    probed_at: Mutex<Option<Instant>>,
}

impl Replication {
    pub(super) fn new(config: &RedisConfig) -> Self {
        // The batches under way wait for each other on their connection, and the last must not wait for too long.
        let turns = BATCHES_UNDER_WAY_MAX as u64 + 1;
        let turn = Duration::from_millis(config.response_timeout_ms / turns).max(SHORT_CONFIRM);
        Self {
            replicas: config.replicas,
            when_short: config.when_short,
            confirm: CONFIRM_MAX.min(turn),
            degraded: AtomicU64::new(0),
            batches: Durations::default(),
        }
    }

    /// Whether copies are counted at all.
    pub(super) fn is_on(&self) -> bool {
        self.replicas > 0
    }

    /// Batches that were accepted although too few replicas had them.
    pub(super) fn degraded(&self) -> u64 {
        self.degraded.load(Ordering::Relaxed)
    }

    /// How long the replicas of a node have for the next batch.
    pub(super) fn patience(&self, node: &Confirmed) -> Duration {
        if self.when_short == WhenShort::Hold || !node.is_short.load(Ordering::Relaxed) {
            return self.confirm;
        }
        let mut probed_at = node.probed_at.lock();
        if probed_at.is_some_and(|at| at.elapsed() < PROBE_INTERVAL) {
            return SHORT_CONFIRM;
        }
        *probed_at = Some(Instant::now());
        self.confirm
    }

    /// So many replicas have a batch. Answers whether it counts as written.
    pub(super) fn confirmed(&self, node: &Confirmed, name: &str, have: u32) -> bool {
        let is_short = have < self.replicas;
        if node.is_short.swap(is_short, Ordering::Relaxed) != is_short {
            let need = self.replicas;
            match (is_short, self.when_short) {
                (false, _) => tracing::info!(node = name, "enough replicas have what is written again"),
                (true, WhenShort::Hold) => {
                    tracing::warn!(node = name, have, need, "too few replicas: writes are held");
                }
                (true, WhenShort::Degrade) => {
                    tracing::warn!(
                        node = name,
                        have,
                        need,
                        "too few replicas: writes may be lost with this node"
                    );
                }
            }
        }
        if is_short && self.when_short == WhenShort::Degrade {
            self.degraded.fetch_add(1, Ordering::Relaxed);
        }
        !is_short || self.when_short == WhenShort::Degrade
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_no_replica_confirms_do_not_break_their_connection() {
        for response_timeout_ms in [100, 1_500, 60_000] {
            let config = RedisConfig { replicas: 1, response_timeout_ms, ..RedisConfig::default() };
            let patience = Replication::new(&config).patience(&Confirmed::default());
            let all = patience * BATCHES_UNDER_WAY_MAX as u32;
            assert!(all < Duration::from_millis(response_timeout_ms), "{all:?} of {response_timeout_ms} ms");
        }
    }
}
