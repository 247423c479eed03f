//! The wall clock, read once per turn and not once per message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use state::UnixMs;

/// The time of the last turn that any connection took. MQTT counts in seconds; a turn is far shorter.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    /// Reads the wall clock.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(wall_clock()))
    }

    /// The time as of the last [`Clock::tick`].
    pub(crate) fn now(&self) -> UnixMs {
        self.0.load(Ordering::Relaxed)
    }

    /// Reads the wall clock again.
    pub(crate) fn tick(&self) {
        let now = wall_clock();
        // Writing an unchanged value would take the cache line from every other core.
        if now != self.now() {
            self.0.store(now, Ordering::Relaxed);
        }
    }
}

fn wall_clock() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
