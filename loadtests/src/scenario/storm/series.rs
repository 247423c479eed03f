//! When devices were let in and when they fell out again, over all threads: how long it took, and how evenly it went.

const SECOND_NS: u64 = 1_000_000_000;

/// A device is connected, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    /// Nanoseconds since the storm began.
    pub(super) at_ns: u64,
    /// Whether it is connected now.
    pub(super) up: bool,
}

/// The changes of all devices in their order.
#[derive(Debug)]
pub(super) struct Series {
    changes: Vec<Change>,
    devices: u64,
}

impl Series {
    /// What happened to `devices` devices; the changes of one device in their order.
    #[must_use]
    pub(super) fn new(mut changes: Vec<Change>, devices: u32) -> Self {
        // Stable: a device may come and go at the same moment, as far as it was noted.
        changes.sort_by_key(|change| change.at_ns);
        Self { changes, devices: u64::from(devices) }
    }

    /// Seconds until `percent` of the devices were connected at the same time; `None` if they never were.
    #[must_use]
    pub(super) fn back_s(&self, percent: u64) -> Option<f64> {
        let enough = (self.devices * percent).div_ceil(100);
        let mut up = 0;
        for change in &self.changes {
            up = if change.up { up + 1 } else { up - 1 };
            if up == enough {
                return Some(change.at_ns as f64 / 1e9);
            }
        }
        None
    }

    /// Devices connected in the end.
    #[must_use]
    pub(super) fn up(&self) -> u64 {
        let ups = self.changes.iter().filter(|change| change.up).count() as u64;
        2 * ups - self.changes.len() as u64
    }

    /// Devices let in, again if they fell out, in each second of the storm.
    #[must_use]
    pub(super) fn admitted_per_s(&self) -> Vec<u64> {
        let mut per_s = Vec::new();
        for change in self.changes.iter().filter(|change| change.up) {
            let second = usize::try_from(change.at_ns / SECOND_NS).unwrap_or(usize::MAX);
            if per_s.len() <= second {
                per_s.resize(second + 1, 0);
            }
            per_s[second] += 1;
        }
        per_s
    }

    /// The fewest let in within one of the whole seconds before 90 % were back (before `end_s` if they never were), and the mean of
    /// that time per second; `None` when that were fewer than two seconds.
    #[must_use]
    pub(super) fn least_and_mean(&self, end_s: f64) -> Option<(u64, f64)> {
        let until_s = self.back_s(90).unwrap_or(end_s);
        let seconds = until_s.floor() as usize;
        if seconds < 2 {
            return None;
        }
        let mut per_s = self.admitted_per_s();
        per_s.resize(seconds.max(per_s.len()), 0);
        let least = per_s[..seconds].iter().copied().min()?;
        let admitted = self.changes.iter().filter(|change| change.up && change.at_ns as f64 / 1e9 <= until_s);
        Some((least, admitted.count() as f64 / until_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(changes: &[(u64, bool)], devices: u32) -> Series {
        let changes = changes.iter().map(|&(at_ms, up)| Change { at_ns: at_ms * 1_000_000, up });
        Series::new(changes.collect(), devices)
    }

    #[test]
    fn a_device_that_fell_out_is_not_back() {
        let storm = series(&[(100, true), (200, true), (300, false), (400, true), (2_500, true)], 3);
        assert_eq!(storm.back_s(50), Some(0.2));
        assert_eq!(storm.back_s(100), Some(2.5));
        assert_eq!(storm.up(), 3);
        assert_eq!(storm.admitted_per_s(), [3, 0, 1]);
        assert_eq!(series(&[(100, true)], 2).back_s(100), None);
    }

    #[test]
    fn a_device_may_come_and_go_at_the_same_moment() {
        let storm = series(&[(100, true), (100, false), (300, true)], 1);
        assert_eq!((storm.back_s(100), storm.up()), (Some(0.1), 1));
    }

    #[test]
    fn a_second_without_anybody_counts() {
        let mut changes: Vec<_> = (0..90).map(|n| (n * 10, true)).collect();
        changes.extend((0..10).map(|n| (3_000 + n, true)));
        // 90 of 101 are less than 90 %: the second, third and fourth second count.
        let (least, mean) = series(&changes, 101).least_and_mean(9.0).unwrap();
        assert_eq!(least, 0);
        assert!((mean - 91.0 / 3.0).abs() < 0.1, "{mean}");
        assert_eq!(series(&changes, 100).least_and_mean(9.0), None);
        assert_eq!(series(&changes, 200).least_and_mean(5.0).map(|(least, _)| least), Some(0));
    }
}
