//! What all sessions of a worker share: the store, what is known of sessions and of other workers, the counters. Nothing else knows
//! both the directory and the store.

mod ask;
mod call;
pub(crate) mod gauges;
pub(crate) mod housekeeping;
mod line;
mod relief;
pub(crate) mod sys;
pub(crate) mod work;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use state::{Message, Store, StoredSession, UnixMs};
use tokio_util::task::TaskTracker;

use crate::authorize::authorizer::Authorizer;
use crate::authorize::principal::Rules;
use crate::clock::Clock;
use crate::cluster::Membership;
use crate::config::BrokerConfig;
use crate::directory::Directory;
use crate::metrics::Metrics;

use self::line::Line;
use self::work::Work;

/// One worker's shared state.
pub(crate) struct Hub {
    pub config: Arc<BrokerConfig>,
    pub store: Arc<dyn Store>,
    /// Sessions and subscriptions: that of `cluster`.
    pub directory: Arc<Directory>,
    pub metrics: Metrics,
    /// Connections with a session, at most so far.
    pub connected_max: AtomicU64,
    /// `$SYS` messages by topic: retained, but only in memory.
    pub sys: RwLock<HashMap<Arc<str>, Arc<Message>>>,
    /// Publishes that the store could not take, in order, to be tried again.
    line: Mutex<Line<Work>>,
    /// Wills that are being published, by their session and number.
    pub wills: Mutex<HashSet<(Arc<StoredSession>, u64)>>,
    /// Due items that the store has handed out to this worker and whose end it does not know yet: it hands them out again, but only
    /// after half a minute. Closed when this worker is about to leave.
    pub due: TaskTracker,
    pub clock: Arc<Clock>,
    /// Who else shares the store.
    pub cluster: Membership,
    /// The rules in force, where this process knows them without a passport.
    pub rules: Option<Rules>,
    /// Who is asked about single actions.
    pub authorizer: OnceLock<Arc<dyn Authorizer>>,
    /// The process has more memory than it may have.
    pub is_short_of_memory: AtomicBool,
    /// When it was said last that a message is not retained, by the clock of the hub.
    pub told_not_retained: AtomicU64,
    /// When it was told last that memory was let go of.
    pub told_relief: AtomicU64,
}

impl Hub {
    pub(crate) fn new(
        config: BrokerConfig,
        store: Arc<dyn Store>,
        metrics: Metrics,
        cluster: Membership,
        clock: Arc<Clock>,
    ) -> Self {
        Self {
            config: Arc::new(config),
            store,
            directory: Arc::clone(cluster.directory()),
            metrics,
            connected_max: AtomicU64::new(0),
            sys: RwLock::default(),
            line: Mutex::default(),
            wills: Mutex::default(),
            due: TaskTracker::new(),
            clock,
            cluster,
            rules: None,
            authorizer: OnceLock::new(),
            is_short_of_memory: AtomicBool::new(false),
            told_not_retained: AtomicU64::new(0),
            told_relief: AtomicU64::new(0),
        }
    }

    /// Over a store in memory that nobody shares.
    #[cfg(test)]
    pub(crate) fn of_a_test() -> Arc<Self> {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let clock = Arc::new(Clock::new(state::clock::running_from(state::clock::wall())));
        let store = Arc::new(state::MemoryStore::new());
        Arc::new(Self::new(BrokerConfig::default(), store, metrics, Membership::alone(), clock))
    }

    /// The time of this turn.
    pub(crate) fn now(&self) -> UnixMs {
        self.clock.now()
    }
}
