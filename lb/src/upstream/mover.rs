//! Finds workers for devices that have none, paced by the answers: so many resumes are under way at once and no more, and who
//! is refused comes back later.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
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
    serial: u64,
}

struct Later {
    at: Instant,
    serial: u64,
    device: Waiting,
}

enum Waiting {
    /// To ask again; nobody else may keep it alive.
    Retry(Arc<Device>),
    /// To see that there was an answer.
    Check(Weak<Device>),
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
    fn push_later(&mut self, at: Instant, device: Waiting) {
        self.serial += 1;
        self.later.push(Reverse(Later { at, serial: self.serial, device }));
    }

    /// The next device, or when there may be one.
    fn next(&mut self, now: Instant) -> Result<Arc<Device>, Option<Instant>> {
        while let Some(Reverse(first)) = self.later.peek()
            && first.at <= now
            && let Some(Reverse(first)) = self.later.pop()
        {
            let device = match first.device {
                Waiting::Retry(device) => Some(device),
                Waiting::Check(device) => device.upgrade(),
            };
            self.now.extend(device);
        }
        self.now.pop_front().ok_or_else(|| self.later.peek().map(|Reverse(first)| first.at))
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
        self.queue.lock().push_later(Instant::now() + delay, Waiting::Retry(device));
        self.news.notify_one();
    }

    /// There is a worker that was not there before: who waits need not wait any longer.
    pub(super) fn hurry(&self) {
        let mut queue = self.queue.lock();
        let Queue { now, later, .. } = &mut *queue;
        later.retain(|Reverse(later)| match &later.device {
            Waiting::Retry(device) => {
                now.push_back(device.clone());
                false
            }
            Waiting::Check(_) => true,
        });
        drop(queue);
        self.news.notify_one();
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
            let next = mover.queue.lock().next(Instant::now());
            match next {
                Ok(device) => {
                    // The semaphore is never closed.
                    let Ok(permit) = shared.moves.clone().acquire_owned().await else { return };
                    let next = device.route.lock().ask(&device, permit);
                    match next {
                        Next::Nothing => {}
                        Next::Later(delay) => mover.push_later(device, delay),
                        Next::Check(at) => {
                            let device = Waiting::Check(Arc::downgrade(&device));
                            mover.queue.lock().push_later(at, device);
                        }
                    }
                }
                Err(None) => mover.news.notified().await,
                Err(Some(at)) => tokio::select! {
                    () = mover.news.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
            if turn.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
    }
}
