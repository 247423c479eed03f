//! What makes several workers over one store one broker. Start reading at [`membership`] (how a worker joins and stays),
//! then [`announce`] (the way of a SUBSCRIBE to all workers) and [`note`] (the way of a message to another worker). Which
//! sessions a message concerns is decided in [`crate::routing`]. A worker knows its part in the cluster by [`Membership`], which
//! says what is so when it is alone with its store; nothing in here knows what all its sessions share.

mod announce;
mod ask;
mod barrier;
mod burial;
mod fenced;
mod inbox;
mod lease;
mod log_reader;
mod log_writer;
mod member;
mod membership;
mod metrics;
mod note;
mod pace;
mod peer;
mod seen;
mod settings;
mod store_clock;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use link::ConnectionId;
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use state::{Fence, Position, Store, WorkerId};
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::directory::{Directory, Listened, RouteSink};

pub use self::settings::ClusterSettings;

pub(crate) use self::inbox::Recipient;
pub(crate) use self::member::Membership;
pub(crate) use self::membership::{Tasks, join};
pub(crate) use self::note::NoteDone;
pub(crate) use self::seen::{LastTurn, Turn};

use self::barrier::Barrier;
use self::fenced::Fenced;
use self::lease::RouteLease;
use self::log_writer::LogWriter;
use self::metrics::{ClusterMetrics, LateReason};
use self::peer::Peers;
use self::seen::Seen;
use self::store_clock::{SPREAD_MAX, StoreClock};

/// Connections that are remembered as having lost their session: as many as may be taken over while one claim is answered.
const LOST_MAX: usize = 1024;

/// Called when others have let go of everything that this worker had.
pub(crate) type OnExpelled = Arc<dyn Fn() + Send + Sync>;

/// What a worker lends to its part in the cluster.
pub(crate) struct Host {
    pub store: Arc<dyn Store>,
    /// The time of the worker, which follows that of the store.
    pub clock: Arc<Clock>,
    /// Connections that another took the session of.
    pub taken_over: Counter,
    /// Bytes that may wait for a session.
    pub queue_bytes_max: usize,
}

/// One worker's part in the cluster.
pub(crate) struct Cluster {
    api: Arc<dyn state::Cluster>,
    pub(crate) settings: ClusterSettings,
    pub(crate) lease: Arc<RouteLease>,
    pub(crate) directory: Arc<Directory>,
    metrics: ClusterMetrics,
    host: Host,
    /// This run.
    id: WorkerId,
    peers: RwLock<Peers>,
    listened: Arc<Listened>,
    log: Arc<LogWriter>,
    barrier: Mutex<Barrier>,
    /// The lease is to be renewed before its time: others wait for what was applied, or somebody here waits for others.
    renew_soon: Notify,
    /// Messages that wait for the lease before they are matched: none may overtake them.
    unmatched: AtomicUsize,
    joins: AtomicUsize,
    clock: StoreClock,
    /// The newest message of each publisher.
    seen: Seen,
    /// The last place of the inbox whose note was taken.
    inbox_taken: watch::Sender<Position>,
    /// Number of the last note with a message.
    notes: AtomicU64,
    /// Connections that lost their session lately, newest last: a note may come before the answer to the claim of the
    /// connection that it is about.
    lost: Mutex<VecDeque<ConnectionId>>,
    fenced: Fenced,
    on_expelled: Mutex<Option<OnExpelled>>,
}

impl Cluster {
    /// Knows nobody yet.
    pub(crate) fn new(
        api: Arc<dyn state::Cluster>,
        settings: ClusterSettings,
        host: Host,
        registry: &mut Registry,
    ) -> Self {
        let id = api.id();
        let lease = Arc::new(RouteLease::new());
        let log = Arc::new(LogWriter::new(Arc::clone(&api), Arc::clone(&lease)));
        let sink: Arc<dyn RouteSink> = Arc::<LogWriter>::clone(&log);
        let listened = Arc::new(Listened::new(id, sink));
        Self {
            api,
            settings,
            lease,
            directory: Arc::new(Directory::new(Some(Arc::clone(&listened)))),
            metrics: ClusterMetrics::register(registry),
            host,
            id,
            peers: RwLock::default(),
            listened,
            log,
            barrier: Mutex::default(),
            renew_soon: Notify::new(),
            unmatched: AtomicUsize::new(0),
            joins: AtomicUsize::new(0),
            clock: StoreClock::new(),
            seen: Seen::new(),
            inbox_taken: watch::Sender::default(),
            notes: AtomicU64::new(0),
            lost: Mutex::default(),
            fenced: Fenced::default(),
            on_expelled: Mutex::new(None),
        }
    }

    /// The part of a worker that serves nobody, over this cluster.
    #[cfg(test)]
    pub(crate) fn for_tests(api: Arc<state::MemoryWorker>) -> Arc<Self> {
        Self::for_tests_with(api, ClusterSettings::default())
    }

    /// The same, with these settings.
    #[cfg(test)]
    pub(crate) fn for_tests_with(api: Arc<state::MemoryWorker>, settings: ClusterSettings) -> Arc<Self> {
        let host = Host {
            store: Arc::new(api.store()),
            clock: Arc::new(Clock::new(state::clock::running_from(state::clock::wall()))),
            taken_over: Counter::default(),
            queue_bytes_max: usize::MAX,
        };
        Arc::new(Self::new(api, settings, host, &mut Registry::default()))
    }

    /// Whether a QoS 1 or 2 message may be matched now. To be asked while the index is locked.
    pub(crate) fn may_match(&self) -> bool {
        self.unmatched.load(Ordering::Acquire) == 0 && self.lease.holds()
    }

    /// Whether this worker is to say that it is without its store, when it has said so (`was_away`) or not. A hiccup is not
    /// worth a word, nor a lease that is renewed late again and again because there is much to do; and what comes back has to stay.
    pub(crate) fn is_store_away(&self, was_away: bool) -> bool {
        let lease = self.settings.lease();
        let lapsed = self.lease.lapsed_for();
        if was_away { !lapsed.is_zero() || self.lease.steady_for() < lease * 2 } else { lapsed >= lease }
    }

    /// A message waits for being matched.
    pub(crate) fn begin_wait(&self) {
        self.unmatched.fetch_add(1, Ordering::AcqRel);
    }

    /// One that waited was matched.
    pub(crate) fn end_wait(&self) {
        self.unmatched.fetch_sub(1, Ordering::AcqRel);
    }

    /// A connection here has a session, or goes on here with it (`moves`). Answers which messages of QoS 0 it takes from other
    /// workers: those that were published after this, by the store's clock. What was published before a connection went on here
    /// may have reached the device by way of the worker that it comes from. One that begins may miss nothing, and takes what
    /// may be newer.
    pub(crate) fn begin_to_listen(&self, moves: bool) -> u64 {
        if moves {
            self.clock.latest()
        } else {
            self.clock.earliest().saturating_sub(SPREAD_MAX.as_micros() as u64)
        }
    }

    /// A session is this worker's: what others still have of its publications is older than what comes here from now on.
    pub(crate) fn own_publisher(&self, fence: &Fence) {
        self.seen.own(fence, self.id, self.clock.latest());
    }

    /// Whether the owner with this fence may still publish with QoS 0, and what is to be held meanwhile.
    pub(crate) fn turn_of(&self, fence: &Fence) -> Turn<'_> {
        let turn = self.seen.turn(fence, self.id);
        if matches!(turn, Turn::Over) {
            self.metrics.messages_late.count((LateReason::Overtaken,));
        }
        turn
    }

    /// A newer connection elsewhere has the session of this one, for good.
    pub(super) fn note_lost(&self, connection: ConnectionId) {
        let mut lost = self.lost.lock();
        if lost.len() >= LOST_MAX {
            lost.pop_front();
        }
        lost.push_back(connection);
    }

    /// Whether a note said so of this connection. To be asked once it has its session, so that either this or the note that
    /// comes finds the other.
    pub(crate) fn has_lost(&self, connection: ConnectionId) -> bool {
        self.lost.lock().contains(&connection)
    }

    /// Runs when others have let go of everything that this worker had.
    pub(crate) fn set_on_expelled(&self, hook: OnExpelled) {
        *self.on_expelled.lock() = Some(hook);
    }

    /// How often this worker has entered the registry.
    fn joined(&self) -> usize {
        self.joins.load(Ordering::Acquire)
    }
}
