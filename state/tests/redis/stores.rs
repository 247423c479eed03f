//! Stores in the Redis processes of this test binary, each with a key prefix of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use state::{RedisConfig, RedisStore, Secret, Store, UnixMs};

use crate::harness::{Backend, Bounds, START};
use crate::servers::{Cluster, Server, gate};
use crate::suite::behaviours;

/// Where stores answer.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    })
}

/// A configuration with keys that nobody else uses.
pub(crate) fn config_for(urls: Vec<String>) -> RedisConfig {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    RedisConfig {
        nodes: urls.into_iter().map(Secret::new).collect(),
        key_prefix: format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        ..RedisConfig::default()
    }
}

pub(crate) fn connect_at(config: RedisConfig, now: UnixMs) -> RedisStore {
    runtime().block_on(RedisStore::connect_at(config, now)).expect("a store")
}

/// A store in Redis.
pub(crate) struct InRedis {
    pub(crate) config: RedisConfig,
    store: Option<RedisStore>,
}

impl InRedis {
    pub(crate) fn open(config: RedisConfig) -> Self {
        let store = Some(connect_at(config.clone(), START));
        Self { config, store }
    }

    fn bounded(urls: Vec<String>, bounds: Bounds) -> Self {
        Self::open(RedisConfig {
            sessions_max: bounds.sessions_max,
            subscriptions_per_session_max: bounds.subscriptions_per_session_max,
            retained_messages_max: bounds.retained_messages_max,
            retained_bytes_max: bounds.retained_bytes_max,
            ..config_for(urls)
        })
    }

    pub(crate) fn store(&self) -> &RedisStore {
        self.store.as_ref().expect("an open store")
    }

    pub(crate) fn reopen(&mut self, now: UnixMs) {
        drop(self.store.take());
        self.store = Some(connect_at(self.config.clone(), now));
    }

    /// What a walk over Redis counts is what the store has counted by itself.
    fn check(&self) {
        let other = RedisConfig { worker: "another".to_owned(), ..self.config.clone() };
        let fresh = connect_at(other, START);
        assert_eq!(fresh.stats(), self.store().stats());
    }
}

/// One cluster for all tests that leave it whole.
pub(crate) fn shared_cluster() -> Vec<String> {
    static CLUSTER: OnceLock<Arc<Cluster>> = OnceLock::new();
    gate();
    let cluster = CLUSTER.get_or_init(|| Arc::new(Cluster::start()));
    cluster.servers.iter().take(2).map(Server::url).collect()
}

pub(crate) fn shared_server() -> Vec<String> {
    static SERVER: OnceLock<Server> = OnceLock::new();
    gate();
    vec![SERVER.get_or_init(|| Server::start(&[])).url()]
}

pub(crate) struct InCluster(InRedis);

pub(crate) struct OnServer(InRedis);

impl Backend for InCluster {
    const CHECK_IS_CHEAP: bool = false;

    fn start(bounds: Bounds) -> Self {
        Self(InRedis::bounded(shared_cluster(), bounds))
    }

    fn store(&self) -> &dyn Store {
        self.0.store()
    }

    fn restart(&mut self, now: UnixMs) {
        self.0.reopen(now);
    }

    fn check(&self) {
        self.0.check();
    }
}

impl Backend for OnServer {
    const CHECK_IS_CHEAP: bool = false;

    fn start(bounds: Bounds) -> Self {
        Self(InRedis::bounded(shared_server(), bounds))
    }

    fn store(&self) -> &dyn Store {
        self.0.store()
    }

    fn restart(&mut self, now: UnixMs) {
        self.0.reopen(now);
    }

    fn check(&self) {
        self.0.check();
    }
}

mod cluster {
    use super::{InCluster, behaviours};
    use crate::model::compare_with_model;

    behaviours!(super::super::InCluster);

    #[test]
    fn it_does_as_the_model_does() {
        compare_with_model::<InCluster>(8);
    }
}

mod server {
    use super::{OnServer, behaviours};
    use crate::model::compare_with_model;

    behaviours!(super::super::OnServer);

    #[test]
    fn it_does_as_the_model_does() {
        compare_with_model::<OnServer>(12);
    }
}
