//! Threads that verify password hashes: a bounded number, fed newest first and fairly by where logins come from, each password
//! once however many wait.
//!
//! A login costs tens of milliseconds of CPU, so under a storm the queue decides who is served: the newest can still be
//! in time, the oldest has probably given up (nats-streaming#1134, FlashMQ's overload mode).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::recent::PasswordFingerprint;
use super::record::verify;
use crate::AuthError;
use crate::fair::FairQueue;

/// How much the scheduler favours connected devices over logins.
const NICENESS: i32 = 5;

/// How a verification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hashed {
    /// The password is right.
    Right,
    /// It is not.
    Wrong,
    /// It was not looked at: too many wait, or nobody waits any more.
    Dropped,
}

/// One password to verify.
pub(crate) struct Job {
    /// Of a password.
    pub(crate) record: Arc<str>,
    /// The candidate.
    pub(crate) password: Bytes,
    /// Where it comes from, as a digest: wrong passwords of one address hold up none of another.
    pub(crate) source: u64,
    /// Runs once with the outcome, before those who wait hear it.
    pub(crate) settle: Box<dyn FnOnce(Hashed) + Send>,
}

/// The threads and their queue. They end when it is dropped.
pub(crate) struct Hashing {
    shared: Arc<HashingPool>,
}

struct HashingPool {
    state: Mutex<State>,
    wake: Condvar,
    queue_max: usize,
    verify: fn(&str, &[u8]) -> bool,
}

#[derive(Default)]
struct State {
    /// Waiting and running ones.
    waiters: HashMap<PasswordFingerprint, Vec<oneshot::Sender<Hashed>>>,
    /// Waiting ones.
    queue: FairQueue<(PasswordFingerprint, Job)>,
    closed: bool,
}

impl Hashing {
    /// Starts `threads` threads.
    pub(crate) fn start(threads: usize, queue_max: usize) -> Result<Self, AuthError> {
        Self::start_with(threads, queue_max, verify)
    }

    fn start_with(
        threads: usize,
        queue_max: usize,
        verify: fn(&str, &[u8]) -> bool,
    ) -> Result<Self, AuthError> {
        let shared = Arc::new(HashingPool {
            state: Mutex::default(),
            wake: Condvar::new(),
            queue_max: queue_max.max(1),
            verify,
        });
        // Made first, so that an early return ends the threads that did start.
        let hashing = Self { shared };
        for n in 0..threads {
            let shared = hashing.shared.clone();
            std::thread::Builder::new()
                .name(format!("hash-{n}"))
                .spawn(move || {
                    // Linux counts niceness per thread. Without it logins compete as equals, nothing worse.
                    let _ = rustix::process::nice(NICENESS);
                    shared.work();
                })
                .map_err(AuthError::Thread)?;
        }
        Ok(hashing)
    }

    /// Waits for the outcome on a password that is being verified already, if it is.
    pub(crate) fn join(&self, fingerprint: PasswordFingerprint) -> Option<oneshot::Receiver<Hashed>> {
        let mut state = self.shared.state.lock();
        let waiters = state.waiters.get_mut(&fingerprint)?;
        let (sender, receiver) = oneshot::channel();
        // Those who gave up make room, now and then so that joining stays cheap: the list is at most twice as long as
        // the clients that wait.
        if waiters.len().is_power_of_two() {
            waiters.retain(|waiter| !waiter.is_closed());
        }
        waiters.push(sender);
        Some(receiver)
    }

    /// Queues `job`. The receiver fails if it is dropped unseen.
    pub(crate) fn submit(&self, fingerprint: PasswordFingerprint, job: Job) -> oneshot::Receiver<Hashed> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.shared.state.lock();
        let dropped = if let Some(waiters) = state.waiters.get_mut(&fingerprint) {
            waiters.push(sender);
            Some(job)
        } else {
            state.waiters.insert(fingerprint, vec![sender]);
            state.queue.push(job.source, (fingerprint, job));
            state.shed(self.shared.queue_max)
        };
        drop(state);
        self.shared.wake.notify_one();
        if let Some(job) = dropped {
            (job.settle)(Hashed::Dropped);
        }
        receiver
    }

    /// Passwords that wait for a thread.
    pub(crate) fn queued(&self) -> usize {
        self.shared.state.lock().queue.len()
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl State {
    /// Drops one if too many wait.
    fn shed(&mut self, queue_max: usize) -> Option<Job> {
        if self.queue.len() <= queue_max {
            return None;
        }
        let (fingerprint, job) = self.queue.shed()?;
        self.waiters.remove(&fingerprint);
        Some(job)
    }

    /// The next one that somebody still waits for; the others passed on the way.
    fn next(&mut self, abandoned: &mut Vec<Job>) -> Option<(PasswordFingerprint, Job)> {
        while let Some((fingerprint, job)) = self.queue.pop() {
            let wanted = self.waiters.get(&fingerprint).is_some_and(|all| all.iter().any(|w| !w.is_closed()));
            if wanted {
                return Some((fingerprint, job));
            }
            self.waiters.remove(&fingerprint);
            abandoned.push(job);
        }
        None
    }
}

impl HashingPool {
    fn work(&self) {
        let mut abandoned = Vec::new();
        while let Some((fingerprint, job)) = self.wait(&mut abandoned) {
            settle_dropped(&mut abandoned);
            let right = (self.verify)(&job.record, &job.password);
            let outcome = if right { Hashed::Right } else { Hashed::Wrong };
            (job.settle)(outcome);
            let waiters = self.state.lock().waiters.remove(&fingerprint).unwrap_or_default();
            for waiter in waiters {
                // One that gave up meanwhile hears nothing.
                let _ = waiter.send(outcome);
            }
        }
    }

    /// Blocks until there is work; `None` when the owner is gone.
    fn wait(&self, abandoned: &mut Vec<Job>) -> Option<(PasswordFingerprint, Job)> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(next) = state.next(abandoned) {
                return Some(next);
            }
            if !abandoned.is_empty() {
                // Now, not with the next job: what they hold of somebody's budget is given back.
                MutexGuard::unlocked(&mut state, || settle_dropped(abandoned));
                continue;
            }
            self.wake.wait(&mut state);
        }
    }
}

fn settle_dropped(abandoned: &mut Vec<Job>) {
    for job in abandoned.drain(..) {
        (job.settle)(Hashed::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::source::password_file::recent::Recent;

    /// Counts verifications of the one test that uses it.
    static VERIFIED: AtomicUsize = AtomicUsize::new(0);

    fn slow_and_counted(record: &str, password: &[u8]) -> bool {
        VERIFIED.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(30));
        record.as_bytes() == password
    }

    fn job(record: &str, password: &str) -> Job {
        Job {
            record: record.into(),
            password: Bytes::copy_from_slice(password.as_bytes()),
            source: 0,
            settle: Box::new(|_| ()),
        }
    }

    fn recent() -> Recent {
        Recent::new(Duration::from_secs(1), 10)
    }

    #[tokio::test]
    async fn one_password_is_hashed_once_however_many_wait() {
        let hashing = Hashing::start_with(2, 10, slow_and_counted).unwrap();
        let print = recent().fingerprint("alice", "r", b"r");
        let first = hashing.submit(print, job("r", "r"));
        let others: Vec<_> = (0..50).map(|_| hashing.submit(print, job("r", "r"))).collect();
        assert_eq!(first.await, Ok(Hashed::Right));
        for other in others {
            assert_eq!(other.await, Ok(Hashed::Right));
        }
        assert_eq!(VERIFIED.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_newest_is_served_first_and_the_oldest_dropped() {
        // No thread runs: the queue is looked at as a thread would.
        let hashing = Hashing::start_with(0, 3, |_, _| true).unwrap();
        let recent = recent();
        let prints: Vec<_> = (0..5u8).map(|n| recent.fingerprint("alice", "r", &[n])).collect();
        let mut receivers: Vec<_> = prints.iter().map(|p| hashing.submit(*p, job("r", "r"))).collect();
        assert_eq!(hashing.queued(), 3);
        assert!(receivers[0].try_recv().is_err() && receivers[1].try_recv().is_err());
        // The newest gave up.
        receivers.pop();
        let mut abandoned = Vec::new();
        let (next, _) = hashing.shared.state.lock().next(&mut abandoned).unwrap();
        assert_eq!((next, abandoned.len()), (prints[3], 1));
    }

    #[tokio::test]
    async fn who_fills_the_queue_holds_up_nobody_else() {
        let hashing = Hashing::start_with(0, 10, |_, _| true).unwrap();
        let recent = recent();
        let login =
            hashing.submit(recent.fingerprint("bob", "r", b"right"), Job { source: 1, ..job("r", "r") });
        let flood: Vec<_> = (0..1000_u32)
            .map(|n| hashing.submit(recent.fingerprint("alice", "r", &n.to_be_bytes()), job("r", "x")))
            .collect();
        let mut served = (0..3).map(|_| hashing.shared.state.lock().next(&mut Vec::new()).unwrap().1.source);
        assert!(served.any(|source| source == 1), "its turn comes at once");
        drop((login, flood));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_settled_without_waiting_for_the_next() {
        let hashing = Hashing::start_with(1, 10, |_, password| {
            std::thread::sleep(Duration::from_millis(password.len() as u64));
            true
        })
        .unwrap();
        let recent = recent();
        let (settled, outcome) = oneshot::channel();
        let settle = Box::new(move |outcome| {
            let _ = settled.send(outcome);
        });
        let abandoned = Job { settle, ..job("r", "") };
        let slow = hashing.submit(recent.fingerprint("alice", "r", b"1"), job("r", &"x".repeat(100)));
        while hashing.queued() > 0 {
            tokio::task::yield_now().await;
        }
        drop(hashing.submit(recent.fingerprint("alice", "r", b"2"), abandoned));
        assert_eq!(slow.await, Ok(Hashed::Right));
        let outcome = tokio::time::timeout(Duration::from_secs(10), outcome).await;
        assert_eq!(outcome, Ok(Ok(Hashed::Dropped)));
    }

    #[test]
    fn what_is_dropped_is_settled_so() {
        let hashing = Hashing::start_with(0, 1, |_, _| true).unwrap();
        let recent = recent();
        let settled = Arc::new(Mutex::new(Vec::new()));
        let mut receivers = Vec::new();
        for n in 0..3u8 {
            let settled = settled.clone();
            let settle = Box::new(move |outcome| settled.lock().push((n, outcome)));
            let job = Job { settle, ..job("r", "r") };
            receivers.push(hashing.submit(recent.fingerprint("alice", "r", &[n]), job));
        }
        assert_eq!(*settled.lock(), [(0, Hashed::Dropped), (1, Hashed::Dropped)]);
    }
}
