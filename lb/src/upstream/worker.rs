//! One worker as this edge sees it: where it is, the links that are up, how many streams it has, and whether it may have more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant};

use super::device::Device;
use super::link::Link;
use super::metrics::{Metrics, WorkerMetrics};

/// The first time that a worker whose link failed gets nothing new, unless there is no other; doubled by each failure.
const EJECTION: Duration = Duration::from_millis(500);

/// A link that was up for so long shows that the worker is well.
const WELL: Duration = Duration::from_secs(10);

/// So much before a worker lets a session go, or one part in so many of its grace where that is less, a device gives up: the
/// worker may have noticed the loss of the link sooner than the edge, by the silence after which a link is dead.
const GRACE_MARGIN: Duration = Duration::from_secs(3);
const GRACE_PART: u32 = 4;

/// Doublings of that at most.
const EJECTION_DOUBLINGS_MAX: u32 = 5;

/// How good a choice a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It has a link and nothing speaks against it.
    Good,
    /// It has a link, but it, its admin endpoint or a link of late says that something is wrong: only if there is no other.
    Doubtful,
    /// It has no link, or is about to leave.
    Out,
}

/// A worker.
pub(super) struct Worker {
    pub(super) address: SocketAddr,
    /// As configured: the name in its certificate.
    pub(super) host: String,
    pub(super) metrics: WorkerMetrics,
    streams: AtomicUsize,
    is_unhealthy: AtomicBool,
    /// For how long it keeps the sessions of a lost link, milliseconds; 0 if it does not say.
    grace_ms: AtomicU32,
    /// No address stands for it any more.
    is_retired: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that are up.
    links: Vec<Arc<Link>>,
    /// Failures in a row.
    failures: u32,
    ejected_until: Option<Instant>,
    /// Tasks that keep one link up each.
    keepers: usize,
    tasks: Vec<AbortHandle>,
}

impl State {
    fn eject(&mut self) {
        let doublings = self.failures.min(EJECTION_DOUBLINGS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.ejected_until = Some(Instant::now() + EJECTION * 2_u32.pow(doublings));
    }
}

impl Worker {
    pub(super) fn new(address: SocketAddr, host: String, metrics: &Metrics) -> Self {
        Self {
            address,
            host,
            metrics: metrics.worker(address),
            streams: AtomicUsize::new(0),
            is_unhealthy: AtomicBool::new(false),
            grace_ms: AtomicU32::new(0),
            is_retired: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Its streams, asked for or open.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Notes for how long it keeps the sessions of a lost link, milliseconds. Whether that is news.
    pub(super) fn learn_grace(&self, grace_ms: u32) -> bool {
        self.grace_ms.swap(grace_ms, Ordering::Relaxed) != grace_ms
    }

    /// How long a device that has lost it may look for another worker: `own`, but not after its session may have ended.
    pub(super) fn handoff_within(&self, own: Duration) -> Duration {
        match self.grace_ms.load(Ordering::Relaxed) {
            0 => own,
            grace_ms => {
                let grace = Duration::from_millis(grace_ms.into());
                own.min(grace - GRACE_MARGIN.min(grace / GRACE_PART))
            }
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let state = self.state.lock();
        let is_leaving = self.is_retired.load(Ordering::Relaxed);
        if is_leaving || !state.links.iter().any(|link| link.takes_streams()) {
            return Standing::Out;
        }
        let is_ejected = state.ejected_until.is_some_and(|until| until > Instant::now());
        let is_store_away = state.links.iter().any(|link| link.is_store_away());
        if is_ejected || is_store_away || self.is_unhealthy.load(Ordering::Relaxed) {
            return Standing::Doubtful;
        }
        Standing::Good
    }

    /// Whether it says that it is without its store.
    pub(super) fn is_store_away(&self) -> bool {
        self.state.lock().links.iter().any(|link| link.is_store_away())
    }

    /// The link with the fewest streams, one that is not worn if there is any.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        let state = self.state.lock();
        let usable = state.links.iter().filter(|link| link.takes_streams());
        usable.min_by_key(|link| (link.is_worn(), link.streams())).cloned()
    }

    /// Those that have something on its links.
    pub(super) fn devices(&self) -> Vec<Arc<Device>> {
        let links = self.state.lock().links.clone();
        links.iter().flat_map(|link| link.devices()).collect()
    }

    /// Whether new streams have a link that will last.
    pub(super) fn has_fresh_link(&self) -> bool {
        self.state.lock().links.iter().any(|link| link.takes_streams() && !link.is_worn())
    }

    pub(super) fn links(&self) -> usize {
        self.state.lock().links.len()
    }

    /// A link is up. Whether it is the only one.
    pub(super) fn add_link(&self, link: Arc<Link>) -> bool {
        let mut state = self.state.lock();
        state.links.push(link);
        // What was wrong is over, or will show soon.
        let soon = Instant::now() + EJECTION;
        state.ejected_until = state.ejected_until.map(|until| until.min(soon));
        self.metrics.links.set(state.links.len() as i64);
        state.links.len() == 1
    }

    /// A link is over. Whether it was the last. The end of a link of a worker that said that it leaves is no
    /// failure, nor that of one that was replaced.
    pub(super) fn lose_link(&self, link: &Arc<Link>) -> bool {
        let mut state = self.state.lock();
        let before = state.links.len();
        state.links.retain(|other| !Arc::ptr_eq(other, link));
        self.metrics.links.set(state.links.len() as i64);
        if link.age() >= WELL {
            state.failures = 0;
        }
        if !link.is_draining() && !link.is_worn() {
            state.eject();
        }
        before > 0 && state.links.is_empty()
    }

    /// A link did not come up.
    pub(super) fn fail(&self) {
        self.state.lock().eject();
    }

    /// It does not answer. Whether that is news.
    pub(super) fn eject_once(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        let is_news = state.ejected_until.is_none_or(|until| until <= now);
        if is_news {
            // What failed before a link that has been up for long is over, unless it goes on failing.
            let was_well = state.ejected_until.is_none_or(|until| until + WELL <= now);
            if was_well && state.links.iter().any(|link| link.age() >= WELL) {
                state.failures = 0;
            }
            state.eject();
        }
        is_news
    }

    /// When an ejection ends; the ring is to be looked at again then.
    pub(super) fn ejected_until(&self) -> Option<Instant> {
        self.state.lock().ejected_until.filter(|until| *until > Instant::now())
    }

    /// What its admin endpoint says. Whether that is news.
    pub(super) fn set_healthy(&self, is_healthy: bool) -> bool {
        self.is_unhealthy.swap(!is_healthy, Ordering::Relaxed) == is_healthy
    }

    /// It is not listed any more.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// It is listed, and is to have so many links. How many are to be kept up besides those that are.
    pub(super) fn list(&self, links: usize) -> usize {
        let mut state = self.state.lock();
        self.is_retired.store(false, Ordering::Relaxed);
        let missing = links.saturating_sub(state.keepers);
        state.keepers += missing;
        missing
    }

    /// Whether one who keeps a link up ends: it is not listed. Under the lock, so that whoever lists it again counts right.
    pub(super) fn lets_go(&self) -> bool {
        let mut state = self.state.lock();
        let is_over = self.is_retired();
        state.keepers -= usize::from(is_over);
        is_over
    }

    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Has `task` ended with the worker.
    pub(super) fn own(&self, task: AbortHandle) {
        let mut state = self.state.lock();
        state.tasks.retain(|task| !task.is_finished());
        state.tasks.push(task);
    }

    /// Ends everything that runs for it.
    pub(super) fn stop(&self) {
        for task in self.state.lock().tasks.drain(..) {
            task.abort();
        }
    }
}

/// A stream's place in the count of its worker.
pub(super) struct Placed(Arc<Worker>);

impl Placed {
    pub(super) fn new(worker: &Arc<Worker>) -> Self {
        worker.streams.fetch_add(1, Ordering::Relaxed);
        worker.metrics.streams.inc();
        Self(worker.clone())
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.streams.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gives_up_before_its_session_is_let_go() {
        let worker = Worker::new(([127, 0, 0, 1], 1).into(), "worker".to_owned(), &Metrics::default());
        let within = |own| worker.handoff_within(Duration::from_millis(own)).as_millis();
        assert_eq!(within(30_000), 30_000, "a worker that does not say");
        for (grace, own, expected) in [
            (60_000, 30_000, 30_000),
            (60_000, 60_000, 57_000),
            (10_000, 30_000, 7_500),
            (1_000, 30_000, 750),
        ] {
            assert!(worker.learn_grace(grace) || grace == 60_000);
            assert_eq!(within(own), expected);
        }
        assert!(!worker.learn_grace(1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_before_a_link_that_has_been_up_for_long_is_forgotten() {
        let worker = Worker::new(([127, 0, 0, 1], 1).into(), "worker".to_owned(), &Metrics::default());
        let worker = Arc::new(worker);
        for _ in 0..5 {
            worker.fail();
        }
        let settings = link::mux::Settings::new("edge");
        worker.add_link(Arc::new(Link::new(Arc::clone(&worker), settings, Duration::ZERO)));
        let ejected_for = || worker.ejected_until().map(|until| until - Instant::now());
        tokio::time::advance(WELL * 2).await;
        assert!(worker.eject_once());
        assert_eq!(ejected_for(), Some(EJECTION));
        // It goes on failing.
        tokio::time::advance(EJECTION).await;
        assert!(worker.eject_once());
        assert_eq!(ejected_for(), Some(EJECTION * 2));
    }
}
