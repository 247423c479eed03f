//! Keeps answers that are given on callers' threads in order with those of the writer: before it gives the answers of a
//! batch, it waits for those that were decided on before the batch was closed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Yields before the writer sleeps between looks.
const YIELDS: u32 = 64;

/// Counts answers under way, in two generations. A generation begins when a batch is closed, under the lock that decides
/// on answers; the writer waits for the one before.
#[derive(Debug, Default)]
pub(super) struct AnswerGate {
    under_way: [AtomicUsize; 2],
}

/// An answer under way.
pub(super) struct Passage<'a>(&'a AtomicUsize);

impl AnswerGate {
    /// Begins an answer in a generation. To be called with the lock held.
    pub(super) fn enter(&self, generation: u64) -> Passage<'_> {
        let count = &self.under_way[usize::from(generation % 2 == 1)];
        count.fetch_add(1, Ordering::AcqRel);
        Passage(count)
    }

    /// Waits until no answer of a generation is under way. No new ones may begin in it.
    pub(super) fn wait(&self, generation: u64) {
        let count = &self.under_way[usize::from(generation % 2 == 1)];
        let mut looks = 0_u32;
        while count.load(Ordering::Acquire) != 0 {
            looks = looks.saturating_add(1);
            if looks < YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
