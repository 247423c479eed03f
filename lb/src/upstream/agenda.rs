//! Who is to be looked after, and when: now, later, or to see whether a worker has answered. The mover works it off.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// The devices to look after, bounded by the connections there are.
pub(super) struct Agenda<D> {
    lists: Mutex<Lists<D>>,
    news: Notify,
}

struct Lists<D> {
    now: VecDeque<Arc<D>>,
    later: BinaryHeap<Reverse<Later<D>>>,
    /// Devices whose worker has to have answered by then; all have the same time for that, so that these are in order.
    checks: VecDeque<(Instant, Weak<D>)>,
    serial: u64,
}

struct Later<D> {
    at: Instant,
    serial: u64,
    device: Looked<D>,
}

/// Who is looked after later.
enum Looked<D> {
    /// Nobody else may keep it alive.
    Searching(Arc<D>),
    /// Its link does, as long as its worker has not heard that it is gone.
    Leaving(Weak<D>),
}

/// What is on the agenda for now.
pub(super) struct Due {
    /// Somebody is to be looked after at once.
    pub(super) has_devices: bool,
    /// When something is to be done at the earliest.
    pub(super) wake_at: Option<Instant>,
    /// When an answer is due at the earliest.
    pub(super) check_at: Option<Instant>,
}

impl<D> Looked<D> {
    fn device(self) -> Option<Arc<D>> {
        match self {
            Self::Searching(device) => Some(device),
            Self::Leaving(device) => device.upgrade(),
        }
    }
}

impl<D> PartialEq for Later<D> {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl<D> Eq for Later<D> {}

impl<D> PartialOrd for Later<D> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<D> Ord for Later<D> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl<D> Default for Lists<D> {
    fn default() -> Self {
        Self { now: VecDeque::new(), later: BinaryHeap::new(), checks: VecDeque::new(), serial: 0 }
    }
}

impl<D> Lists<D> {
    /// Who has to be looked after by now is.
    fn promote(&mut self, now: Instant) {
        while let Some(Reverse(first)) = self.later.peek()
            && first.at <= now
            && let Some(Reverse(first)) = self.later.pop()
        {
            self.now.extend(first.device.device());
        }
    }
}

impl<D> Default for Agenda<D> {
    fn default() -> Self {
        Self { lists: Mutex::default(), news: Notify::new() }
    }
}

impl<D> Agenda<D> {
    /// Has these devices looked after, in this order.
    pub(super) fn push(&self, devices: impl IntoIterator<Item = Arc<D>>) {
        self.lists.lock().now.extend(devices);
        self.news.notify_one();
    }

    /// Has a device looked after in `delay`.
    pub(super) fn push_later(&self, device: Arc<D>, delay: Duration) {
        if delay.is_zero() {
            return self.push([device]);
        }
        self.look_later(Looked::Searching(device), delay);
    }

    /// Has a device looked after in `delay` that is gone, if its worker has not heard of that by then.
    pub(super) fn push_leaving(&self, device: &Arc<D>, delay: Duration) {
        self.look_later(Looked::Leaving(Arc::downgrade(device)), delay);
    }

    fn look_later(&self, device: Looked<D>, delay: Duration) {
        let at = Instant::now() + delay;
        let mut lists = self.lists.lock();
        lists.serial += 1;
        let serial = lists.serial;
        lists.later.push(Reverse(Later { at, serial, device }));
        drop(lists);
        self.news.notify_one();
    }

    /// Has it seen by then whether the worker of a device has answered. Later than those of all others before.
    pub(super) fn push_check(&self, device: &Arc<D>, at: Instant) {
        self.lists.lock().checks.push_back((at, Arc::downgrade(device)));
    }

    /// There is a worker that was not there before: who waits need not wait any longer.
    pub(super) fn hurry(&self) {
        let mut lists = self.lists.lock();
        let later = std::mem::take(&mut lists.later).into_vec();
        lists.now.extend(later.into_iter().filter_map(|Reverse(later)| later.device.device()));
        drop(lists);
        self.news.notify_one();
    }

    /// Whether nobody waits to be looked after now.
    pub(super) fn is_idle(&self) -> bool {
        self.lists.lock().now.is_empty()
    }

    /// Forgets everybody.
    pub(super) fn clear(&self) {
        // Dropped after the lock is: a device may be gone with it.
        let forgotten = std::mem::take(&mut *self.lists.lock());
        drop(forgotten);
    }

    /// Whoever was to be looked after later and by now is due, and what else there is.
    pub(super) fn due(&self, now: Instant) -> Due {
        let mut lists = self.lists.lock();
        lists.promote(now);
        let retry = lists.later.peek().map(|Reverse(first)| first.at);
        let check_at = lists.checks.front().map(|(at, _)| *at);
        Due { has_devices: !lists.now.is_empty(), wake_at: check_at.into_iter().chain(retry).min(), check_at }
    }

    /// The next that is to be looked after.
    pub(super) fn pop(&self) -> Option<Arc<D>> {
        self.lists.lock().now.pop_front()
    }

    /// The next of which an answer was due by now; `None` inside for one that is gone.
    pub(super) fn pop_check(&self, now: Instant) -> Option<Option<Arc<D>>> {
        let due = self.lists.lock().checks.pop_front_if(|(at, _)| *at <= now);
        due.map(|(_, device)| device.upgrade())
    }

    /// Returns when something was put on the agenda since it did so last.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }
}
