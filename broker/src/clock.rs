//! The wall clock, read once per turn and not once per message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use state::UnixMs;

/// What tells a worker the time.
pub type TimeSource = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// The time of the last turn that any connection took. MQTT counts in seconds; a turn is far shorter.
pub(crate) struct Clock {
    now: AtomicU64,
    source: TimeSource,
}

impl Clock {
    /// One that is told the time by `source`.
    pub(crate) fn new(source: TimeSource) -> Self {
        Self { now: AtomicU64::new(source()), source }
    }

    /// The time as of the last [`Clock::tick`].
    pub(crate) fn now(&self) -> UnixMs {
        self.now.load(Ordering::Relaxed)
    }

    /// Reads the wall clock again.
    pub(crate) fn tick(&self) {
        let now = (self.source)();
        // Writing an unchanged value would take the cache line from every other core.
        if now != self.now() {
            self.now.store(now, Ordering::Relaxed);
        }
    }
}

/// The wall clock of this machine.
pub(crate) fn wall_clock() -> TimeSource {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
