//! How long a call is repeated: for its budget, if there is one, else as long as the store is open; not much longer while
//! it starts or closes. And whether calls get answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A call that has no answer for so long shows that something is wrong.
pub(super) const OVERDUE: Duration = Duration::from_millis(1500);
/// For a call while the store starts, so that who starts it learns why it cannot.
const START_BUDGET: Duration = Duration::from_secs(15);
/// For what is under way when the store is closed.
const CLOSE_BUDGET: Duration = Duration::from_secs(5);

/// From the start to the close.
#[derive(Default)]
pub(super) struct Life {
    /// `None`: as long as the store is open.
    budget: Option<Duration>,
    is_started: AtomicBool,
    closed_at: Mutex<Option<Instant>>,
    overdue: AtomicU64,
    /// The last call that ended got no answer.
    is_unanswered: AtomicBool,
}

impl Life {
    /// 0: without a budget.
    pub(super) fn new(budget_ms: u64) -> Self {
        Self { budget: (budget_ms > 0).then(|| Duration::from_millis(budget_ms)), ..Self::default() }
    }

    /// It is open.
    pub(super) fn start(&self) {
        self.is_started.store(true, Ordering::Relaxed);
    }

    /// It closes.
    pub(super) fn close(&self) {
        self.closed_at.lock().get_or_insert_with(Instant::now);
    }

    /// Whether a call that began then may be sent once more at `at`; with `must_be_known` as long as the store is open.
    pub(super) fn allows(&self, began: Instant, at: Instant, must_be_known: bool) -> bool {
        let is_closing_past = self.closed_at.lock().is_some_and(|closed| at > closed + CLOSE_BUDGET);
        let budget = match self.budget {
            None if !self.is_started.load(Ordering::Relaxed) => Some(START_BUDGET),
            _ if must_be_known => None,
            budget => budget,
        };
        !is_closing_past && budget.is_none_or(|budget| at <= began + budget)
    }

    /// A call has no answer yet and should have one. It is counted until this is dropped.
    pub(super) fn overdue(&self) -> impl Drop {
        self.overdue.fetch_add(1, Ordering::SeqCst);
        Overdue(self)
    }

    /// A call has ended.
    pub(super) fn ended(&self, has_answer: bool) {
        self.is_unanswered.store(!has_answer, Ordering::Relaxed);
    }

    /// Whether calls get no answer.
    pub(super) fn is_failing(&self) -> bool {
        self.is_unanswered.load(Ordering::Relaxed) || self.overdue.load(Ordering::SeqCst) > 0
    }
}

struct Overdue<'a>(&'a Life);

impl Drop for Overdue<'_> {
    fn drop(&mut self) {
        self.0.overdue.fetch_sub(1, Ordering::SeqCst);
    }
}
