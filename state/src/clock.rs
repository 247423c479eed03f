//! The time of stores and of who calls them: a clock that is set once, when a process starts, and by nobody after that. The wall
//! clock is looked at only from one start to the next; see `docs/state.md`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::UnixMs;

/// What tells the time, milliseconds.
pub type TimeSource = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// Time that passes while a machine is suspended has passed for who waits, too.
#[cfg(target_os = "linux")]
const STEADY: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const STEADY: ClockId = ClockId::Monotonic;

/// No machine that runs this shows an earlier time unless its clock was not set (a board without a battery begins in 1970):
/// 2024-01-01.
const SET_SINCE_MS: UnixMs = 1_704_067_200_000;

/// Time since some moment in the past, by a clock that cannot be set.
pub fn steady() -> Duration {
    let now = clock_gettime(STEADY);
    let (secs, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(secs.unwrap_or_default(), nanos.unwrap_or_default())
}

/// What the wall clock shows, milliseconds since the Unix epoch.
pub fn wall() -> UnixMs {
    ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A clock that shows `now` now and cannot be set.
pub fn running_from(now: UnixMs) -> TimeSource {
    let started = steady();
    Arc::new(move || now.saturating_add(ms(steady().saturating_sub(started))))
}

/// What a store's own clock showed once, and the wall clock at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) own: UnixMs,
    pub(crate) wall: UnixMs,
}

impl Reading {
    /// What the store's clock goes on from, in a process that starts when the wall clock shows `wall`. It never goes back, and
    /// counts what has passed on the wall clock in between, if that was set at both times. What it was set by while nobody
    /// ran cannot be told from that; what it was set by before this reading, or will be after the start, does not matter.
    pub(crate) fn resume(self, wall: UnixMs) -> UnixMs {
        let is_set = self.wall >= SET_SINCE_MS && wall >= SET_SINCE_MS;
        let passed = if is_set { wall.saturating_sub(self.wall) } else { 0 };
        self.own.saturating_add(passed)
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const TODAY: UnixMs = 1_796_000_000_000;

    #[test]
    fn a_clock_runs_from_where_it_was_set() {
        let clock = running_from(TODAY);
        let shown = clock();
        assert!((TODAY..TODAY + DAY_MS).contains(&shown));
        assert!(clock() >= shown);
    }

    #[test]
    fn what_passes_between_two_runs_counts() {
        assert_eq!(Reading { own: 5_000, wall: TODAY }.resume(TODAY + DAY_MS), 5_000 + DAY_MS);
        // However far the clock was set while a process ran: only the difference to the last reading counts.
        assert_eq!(Reading { own: TODAY, wall: TODAY + 9 * DAY_MS }.resume(TODAY + 9 * DAY_MS), TODAY);
    }

    #[test]
    fn a_clock_that_was_put_back_or_not_set_takes_nothing_away_and_adds_nothing() {
        let last = Reading { own: TODAY, wall: TODAY };
        assert_eq!(last.resume(TODAY - DAY_MS), TODAY);
        // A board boots in 1970.
        assert_eq!(last.resume(0), TODAY);
        // It ran from 1970 on and was never set; now it is.
        assert_eq!(Reading { own: DAY_MS, wall: DAY_MS }.resume(TODAY), DAY_MS);
        assert_eq!(Reading { own: DAY_MS, wall: DAY_MS }.resume(0), DAY_MS);
    }
}
