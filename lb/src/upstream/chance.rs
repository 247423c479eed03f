//! Chance, from one seed, so that a run can be repeated.

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::Duration;

/// The first wait before something is tried again; doubled each time.
const BACKOFF_MS: u64 = 125;

/// Whatever is up to chance at an edge.
pub(super) struct Chance {
    dice: Mutex<StdRng>,
    backoff_max_ms: u64,
}

impl Chance {
    pub(super) fn new(dice: StdRng, backoff_max_ms: u64) -> Self {
        Self { dice: Mutex::new(dice), backoff_max_ms }
    }

    /// The items in another order, so that those that meet the same fate do not all go the same way at the same time.
    pub(super) fn shuffled<T>(&self, mut items: Vec<T>) -> Vec<T> {
        items.shuffle(&mut *self.dice.lock());
        items
    }

    /// How long to wait before the next attempt: doubled each time, up to `backoff_max_ms`, of which the second half is up to
    /// chance.
    pub(super) fn backoff(&self, attempts: u32) -> Duration {
        let whole = BACKOFF_MS.saturating_mul(1 << attempts.min(16)).min(self.backoff_max_ms).max(2);
        Duration::from_millis(self.dice.lock().random_range(whole / 2..=whole))
    }
}
