//! How often the lease is renewed while somebody waits for that: at once for the few calls that one SUBSCRIBE takes, and no
//! more often than so in the long run.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Calls that may follow each other at once.
const BURST: u32 = 8;
/// In the long run one call in this time. A SUBSCRIBE takes two or three, and they serve all that wait meanwhile.
const EVERY: Duration = Duration::from_millis(1);

/// Counts calls.
pub(super) struct Pace {
    /// As if the last call had been no earlier than this: the next may come when it is past, less the burst.
    spent_until: Instant,
}

impl Pace {
    /// Nothing was called.
    pub(super) fn new() -> Self {
        Self { spent_until: Instant::now() }
    }

    /// Waits until another call may be made, and counts it.
    pub(super) async fn wait(&mut self) {
        let ahead = self.spent_until.saturating_duration_since(Instant::now());
        if let Some(early) = ahead.checked_sub(EVERY * (BURST - 1)).filter(|early| !early.is_zero()) {
            sleep(early).await;
        }
        self.spent_until = self.spent_until.max(Instant::now()) + EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_calls_follow_at_once_and_the_rest_at_their_pace() {
        let mut pace = Pace::new();
        let started = Instant::now();
        for _ in 0..BURST {
            pace.wait().await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            pace.wait().await;
        }
        assert_eq!(started.elapsed(), EVERY * 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        let started = Instant::now();
        for _ in 0..BURST {
            pace.wait().await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
