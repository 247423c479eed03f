//! How long things took, counted by powers of two: cheap enough for every message, since threads count apart and nobody locks.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The upper bound of the first class, microseconds.
const FIRST_US: u64 = 100;

/// Classes: up to 0.1 ms, 0.2 ms and so on to 13 s, and beyond.
const CLASSES: usize = 19;

/// Parts that threads count in.
const PARTS: usize = 8;

/// Counts of one part, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    counts: [AtomicU64; CLASSES],
    sum_us: AtomicU64,
}

/// Durations, by class.
#[derive(Debug, Default)]
pub struct Durations {
    parts: [Stripe; PARTS],
}

/// What was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct DurationCounts {
    /// All of it added up, seconds.
    pub sum_s: f64,
    /// How many.
    pub count: u64,
    /// The upper bound of each class in seconds, the last [`f64::MAX`], and how many are in it and in no class before.
    pub classes: Vec<(f64, u64)>,
}

thread_local! {
    /// Where this thread counts.
    static PART: Cell<Option<usize>> = const { Cell::new(None) };
}

fn part() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    PART.get().unwrap_or_else(|| {
        let part = NEXT.fetch_add(1, Ordering::Relaxed) % PARTS;
        PART.set(Some(part));
        part
    })
}

fn class_of(us: u64) -> usize {
    let times = us.saturating_sub(1) / FIRST_US;
    ((u64::BITS - times.leading_zeros()) as usize).min(CLASSES - 1)
}

impl Durations {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let part = &self.parts[part()];
        part.counts[class_of(us)].fetch_add(1, Ordering::Relaxed);
        part.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Counts so many that took no time worth measuring.
    pub fn observe_at_once(&self, count: u64) {
        self.parts[part()].counts[0].fetch_add(count, Ordering::Relaxed);
    }

    /// What was counted so far. What is counted meanwhile may be in part of it.
    pub fn read(&self) -> DurationCounts {
        let mut counts = [0_u64; CLASSES];
        let mut sum_us = 0_u64;
        for part in &self.parts {
            sum_us = sum_us.wrapping_add(part.sum_us.load(Ordering::Relaxed));
            for (sum, count) in counts.iter_mut().zip(&part.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        let bound = |class: usize| match class {
            class if class == CLASSES - 1 => f64::MAX,
            class => (FIRST_US << class) as f64 / 1e6,
        };
        DurationCounts {
            sum_s: sum_us as f64 / 1e6,
            count: counts.iter().sum(),
            classes: counts.iter().enumerate().map(|(class, count)| (bound(class), *count)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_class_that_bounds_it() {
        for us in [0, 1, 99, 100, 101, 200, 201, 400, 401, 1_000, 6_553_600, 13_107_200, 13_107_201, u64::MAX]
        {
            let durations = Durations::default();
            durations.observe(Duration::from_micros(us));
            let DurationCounts { classes, count, .. } = durations.read();
            assert_eq!(count, 1);
            let at = classes.iter().position(|(_, count)| *count == 1).unwrap();
            let seconds = us as f64 / 1e6;
            assert!(seconds <= classes[at].0, "{us} in {classes:?}");
            assert!(at == 0 || seconds > classes[at - 1].0, "{us} in {classes:?}");
        }
    }

    #[test]
    fn threads_count_together() {
        let durations = Durations::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * PARTS {
                scope.spawn(|| {
                    durations.observe(Duration::from_millis(3));
                    durations.observe_at_once(2);
                });
            }
        });
        let DurationCounts { sum_s, count, .. } = durations.read();
        assert_eq!(count, 6 * PARTS as u64);
        assert!((sum_s - 0.003 * 2.0 * PARTS as f64).abs() < 1e-9, "{sum_s}");
    }
}
