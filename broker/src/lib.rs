//! The worker: sessions, the subscription index and the path of a message. In one process with the edge it is called
//! directly, through [`link::Upstream`]; as a process of its own it serves edges over links (`edge_link/`) and shares its store
//! with others (`cluster/`). Start reading at [`Broker`], then `serving/stream` (what drives a session), `routing/` (the path of
//! a PUBLISH) and `session/` (the pure core).

mod authorize;
mod clock;
mod cluster;
mod config;
mod directory;
mod edge_link;
mod hub;
mod metrics;
mod retained;
mod routing;
mod serving;
mod session;

use std::sync::Arc;
use std::time::Duration;

use link::Open;
use mqtt::ReasonCode;
use prometheus_client::registry::Registry;
use state::{Cursor, RoutePage, Store, StoreError};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use authorize::authorizer::{AskedAction, Authorizer, Question, Reply, Ruling, Verdict};
pub use authorize::principal::Rules;
pub use authorize::{Attempt, Decider, Explanation};
pub use clock::TimeSource;
pub use cluster::ClusterSettings;
pub use config::{BrokerConfig, CleanSessions, ForeignSession};
pub use edge_link::{Accept, LinkCertificates, LinkConfig, LinkServer, LinkStartError};
pub use serving::stream::WorkerStream;

use clock::Clock;
use cluster::{Cluster, Host, Membership};
use hub::Hub;
use hub::gauges::Gauges;
use hub::work::claim;
use metrics::Metrics;
use metrics::timed_store::TimedStore;

/// Sessions read from the store at once when starting.
const ROUTE_PAGE_SESSIONS: usize = 1000;
/// How long a worker that is about to end waits for the end of what is due.
const FINISH_DUE: Duration = Duration::from_secs(2);

/// Why a worker could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A value is out of its bounds.
    #[error(transparent)]
    Config(#[from] link::SettingError),
    /// The registry of workers could not be entered.
    #[error("the other workers could not be joined")]
    Join(#[source] StoreError),
    /// The subscriptions of stored sessions could not be read.
    #[error("the routes of stored sessions could not be loaded")]
    Routes(#[source] StoreError),
}

/// One worker. Cheap to clone; all clones are the same worker.
#[derive(Clone)]
pub struct Broker {
    hub: Arc<Hub>,
    housekeeping: Arc<Housekeeping>,
    /// Set when other workers share the store.
    tasks: Option<Arc<cluster::Tasks>>,
}

struct Housekeeping(JoinHandle<()>);

impl Drop for Housekeeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Broker {
    /// Loads the routes of all stored sessions and starts the timers, on the current tokio runtime.
    ///
    /// # Errors
    /// Configuration out of bounds, or a store that cannot be read.
    pub async fn start(
        config: BrokerConfig,
        store: Arc<dyn Store>,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        Self::start_with(None, config, store, registry).await
    }

    /// As [`Broker::start`], in a process that knows what clients may do without their passports: by these rules Wills of
    /// clients that are away are judged when they are due.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub async fn start_with(
        rules: Option<Rules>,
        config: BrokerConfig,
        store: Arc<dyn Store>,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let (metrics, clock) = (Metrics::register(registry), Arc::new(Clock::new(store.time())));
        let store = Arc::new(TimedStore::new(store, registry));
        let mut hub = Hub::new(config, store, metrics, Membership::alone(), clock);
        hub.rules = rules;
        let hub = Arc::new(hub);
        registry.register_collector(Box::new(Gauges::new(&hub)));
        load_routes(&hub).await.map_err(StartError::Routes)?;
        let housekeeping = Arc::new(Housekeeping(tokio::spawn(hub::housekeeping::run(Arc::clone(&hub)))));
        Ok(Self { hub, housekeeping, tasks: None })
    }

    /// Joins the other workers of a store, loads all routes and starts the timers, on the current tokio runtime. Comes back
    /// when the worker may serve.
    ///
    /// # Errors
    /// Configuration out of bounds, or a store that cannot be read for half a minute.
    pub async fn start_shared(
        config: BrokerConfig,
        store: Arc<dyn Store>,
        cluster: Arc<dyn state::Cluster>,
        settings: ClusterSettings,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        Self::start_shared_by(store.time(), config, store, cluster, settings, registry).await
    }

    /// As [`Broker::start_shared`], by another clock than that of this machine: for simulations.
    ///
    /// # Errors
    /// As [`Broker::start_shared`].
    pub async fn start_shared_by(
        time: TimeSource,
        config: BrokerConfig,
        store: Arc<dyn Store>,
        cluster: Arc<dyn state::Cluster>,
        settings: ClusterSettings,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        config.validate()?;
        settings.validate()?;
        let (metrics, clock) = (Metrics::register(registry), Arc::new(Clock::new(time)));
        let store: Arc<dyn Store> = Arc::new(TimedStore::new(store, registry));
        let host = Host {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            taken_over: metrics.sessions_taken_over.clone(),
            queue_bytes_max: config.queue_bytes_max,
        };
        let cluster = Arc::new(Cluster::new(cluster, settings, host, registry));
        let membership = Membership::Shared(Arc::clone(&cluster));
        let hub = Arc::new(Hub::new(config, store, metrics, membership, clock));
        registry.register_collector(Box::new(Gauges::new(&hub)));
        let tasks = cluster::join(&cluster, Arc::clone(&hub)).await.map_err(StartError::Join)?;
        let housekeeping = Arc::new(Housekeeping(tokio::spawn(hub::housekeeping::run(Arc::clone(&hub)))));
        Ok(Self { hub, housekeeping, tasks: Some(Arc::new(tasks)) })
    }

    /// Has `authorizer` asked about the actions that rules leave undecided; to be said before there are clients. Without one these
    /// actions are refused. Only the first one counts.
    pub fn ask_by(&self, authorizer: Arc<dyn Authorizer>) {
        let is_first = self.hub.authorizer.set(authorizer).is_ok();
        debug_assert!(is_first, "who is asked does not change");
    }

    /// Has `hook` called when other workers took this one for dead and have let go of its sessions: its links are to be
    /// cut, so that edges move the connections. Without a hook the connections end as taken over.
    pub fn on_expelled(&self, hook: impl Fn() + Send + Sync + 'static) {
        if let Some(cluster) = self.hub.cluster.shared() {
            cluster.set_on_expelled(Arc::new(hook));
        }
    }

    /// Whether messages at QoS 1 and 2 may be matched now: always, for a worker that has its store for itself.
    pub fn is_ready(&self) -> bool {
        self.hub.cluster.holds()
    }

    /// Ends all connections with this reason; the edge closes them when their last packet is written.
    pub fn end_connections(&self, reason: ReasonCode) {
        self.hub.directory.end_all(reason);
    }

    /// Connections that have a session now.
    pub fn connected(&self) -> usize {
        usize::try_from(self.hub.metrics.sessions_connected.get()).unwrap_or(0)
    }

    /// Takes no more of what is due, that is Wills and what members of shares left, and waits for the end of what this worker has
    /// taken, two seconds at most. To be called before it ends: the store hands out again what had no end, but only after half a
    /// minute. Answers whether all had an end.
    pub async fn finish_due(&self) -> bool {
        self.hub.due.close();
        let is_over = tokio::time::timeout(FINISH_DUE, self.hub.due.wait()).await.is_ok();
        if !is_over {
            tracing::info!("what is due has no end yet; another worker sees to it in half a minute");
        }
        is_over
    }

    /// Stops, and leaves the other workers, so that they need not find out that this one is gone. Only when all its sessions were
    /// let go: otherwise the others let go of them when it has been silent for a while, which this would prevent. Answers `false` if what
    /// others have sent it takes too long: they see to that, too, when they find out.
    ///
    /// # Errors
    /// What the store answers; the others find out then.
    pub async fn leave(&self) -> Result<bool, StoreError> {
        if !self.hub.cluster.take_last_notes().await? || !self.finish_due().await {
            return Ok(false);
        }
        self.hub.cluster.send_rest().await;
        self.stop();
        self.hub.cluster.leave().await.map(|()| true)
    }

    /// Stops the timers. Streams that are open go on working.
    pub fn stop(&self) {
        self.housekeeping.0.abort();
        if let Some(tasks) = &self.tasks {
            tasks.abort();
        }
    }
}

impl link::Upstream for Broker {
    type Stream = WorkerStream;

    fn open(&self, open: Open) -> WorkerStream {
        let (hub, packet) = (Arc::clone(&self.hub), open.connect.clone());
        match claim::decode(&packet) {
            Ok(Some(connect)) => WorkerStream::open(hub, open, &connect, false),
            _ => WorkerStream::malformed(hub),
        }
    }
}

async fn load_routes(hub: &Arc<Hub>) -> Result<(), StoreError> {
    let mut cursor: Option<Cursor> = None;
    loop {
        let (tx, rx) = oneshot::channel::<Result<RoutePage, StoreError>>();
        hub.store.routes(
            cursor.take(),
            ROUTE_PAGE_SESSIONS,
            Box::new(move |page| {
                let _nobody_waits = tx.send(page);
            }),
        );
        let page = rx.await.unwrap_or(Err(StoreError::Closed))?;
        for routes in page.sessions {
            let session = hub.directory.stored_session(&routes.session);
            for subscription in &routes.subscriptions {
                hub.directory.subscribe(&session, subscription);
            }
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
}
