//! Finds workers for devices that have none, paced by the answers: so many resumes are under way at once and no more, and who
//! is refused comes back later.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Duration, Instant, sleep_until};

use super::Shared;
use super::device::Device;
use super::route::Next;

/// Devices in one go; then other tasks of the thread have their turn.
const TURN: usize = 32;

/// The devices to look after, bounded by the connections there are.
#[derive(Default)]
pub(super) struct Mover {
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Default)]
struct Queue {
    now: VecDeque<Arc<Device>>,
    later: BinaryHeap<Reverse<Later>>,
    /// Devices whose worker has to have answered by then; all have the same time for that, so that these are in order.
    checks: VecDeque<(Instant, Weak<Device>)>,
    serial: u64,
}

struct Later {
    at: Instant,
    serial: u64,
    device: Looked,
}

/// Who is looked after later.
enum Looked {
    /// Nobody else may keep it alive.
    Searching(Arc<Device>),
    /// Its link does, as long as its worker has not heard that it is gone.
    Leaving(Weak<Device>),
}

impl Looked {
    fn device(self) -> Option<Arc<Device>> {
        match self {
            Self::Searching(device) => Some(device),
            Self::Leaving(device) => device.upgrade(),
        }
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl Queue {
    /// Who has to be asked for by now is.
    fn promote(&mut self, now: Instant) {
        while let Some(Reverse(first)) = self.later.peek()
            && first.at <= now
            && let Some(Reverse(first)) = self.later.pop()
        {
            self.now.extend(first.device.device());
        }
    }

    fn next_check(&self) -> Option<Instant> {
        self.checks.front().map(|(at, _)| *at)
    }

    /// When something is to be done at the earliest.
    fn wake_at(&self) -> Option<Instant> {
        let retry = self.later.peek().map(|Reverse(first)| first.at);
        self.next_check().into_iter().chain(retry).min()
    }
}

/// Waits until then, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Mover {
    /// Has these devices looked after, in this order.
    pub(super) fn push(&self, devices: impl IntoIterator<Item = Arc<Device>>) {
        self.queue.lock().now.extend(devices);
        self.news.notify_one();
    }

    /// Has a device looked after in `delay`.
    pub(super) fn push_later(&self, device: Arc<Device>, delay: Duration) {
        if delay.is_zero() {
            return self.push([device]);
        }
        self.look_later(Looked::Searching(device), delay);
    }

    /// Has a device looked after in `delay` that is gone, if its worker has not heard of that by then.
    pub(super) fn push_leaving(&self, device: &Arc<Device>, delay: Duration) {
        self.look_later(Looked::Leaving(Arc::downgrade(device)), delay);
    }

    fn look_later(&self, device: Looked, delay: Duration) {
        let at = Instant::now() + delay;
        let mut queue = self.queue.lock();
        queue.serial += 1;
        let serial = queue.serial;
        queue.later.push(Reverse(Later { at, serial, device }));
        drop(queue);
        self.news.notify_one();
    }

    /// There is a worker that was not there before: who waits need not wait any longer.
    pub(super) fn hurry(&self) {
        let mut queue = self.queue.lock();
        let later = std::mem::take(&mut queue.later).into_vec();
        queue.now.extend(later.into_iter().filter_map(|Reverse(later)| later.device.device()));
        drop(queue);
        self.news.notify_one();
    }

    /// Whether nobody waits to be looked after now.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.lock().now.is_empty()
    }

    /// Forgets everybody.
    pub(super) fn clear(&self) {
        let forgotten = std::mem::take(&mut *self.queue.lock());
        drop(forgotten);
    }

    /// Looks after devices, for ever.
    pub(super) async fn run(shared: Arc<Shared>) {
        let mover = &shared.mover;
        for turn in 1_usize.. {
            mover.expire(&shared);
            let (is_idle, wake_at, check_at) = {
                let mut queue = mover.queue.lock();
                queue.promote(Instant::now());
                (queue.now.is_empty(), queue.wake_at(), queue.next_check())
            };
            if is_idle {
                // The order makes no difference, but a run can be repeated.
                tokio::select! {
                    biased;
                    () = mover.news.notified() => {}
                    () = until(wake_at) => {}
                }
                continue;
            }
            // Workers that do not answer hold the permits until they are given up.
            let permit = tokio::select! {
                biased;
                permit = shared.moves.clone().acquire_owned() => permit,
                () = until(check_at) => continue,
            };
            let device = mover.queue.lock().now.pop_front();
            if let (Ok(permit), Some(device)) = (permit, device) {
                mover.ask(device, permit);
            }
            if turn.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn ask(&self, device: Arc<Device>, permit: OwnedSemaphorePermit) {
        let next = device.route.lock().ask(&device, permit);
        match next {
            Next::Nothing => {}
            Next::Later(delay) => self.push_later(device, delay),
            Next::Check(at) => self.queue.lock().checks.push_back((at, Arc::downgrade(&device))),
        }
    }

    /// Takes devices away from workers that have not answered in time.
    fn expire(&self, shared: &Arc<Shared>) {
        let now = Instant::now();
        loop {
            let due = self.queue.lock().checks.pop_front_if(|(at, _)| *at <= now);
            let Some((_, device)) = due else { return };
            let Some(device) = device.upgrade() else { continue };
            let silent = device.route.lock().expire(&device);
            if let Some(worker) = silent {
                shared.found_silent(&worker);
                self.push([device]);
            }
        }
    }
}
