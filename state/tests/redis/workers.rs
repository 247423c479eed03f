//! The suite for clusters over workers that share a Redis Cluster, or a single Redis.

use std::sync::Arc;
use std::time::Duration;

use state::RedisConfig;

use crate::harness::START;
use crate::stores::{config_for, connect_at, shared_cluster, shared_server};
use crate::suite::cluster::{Worker, Workers, cluster_behaviours};

/// Workers with a key prefix of their own.
pub(crate) struct Shared {
    pub(crate) config: RedisConfig,
}

impl Shared {
    pub(crate) fn on(urls: Vec<String>) -> Self {
        let config = RedisConfig {
            is_shared: true,
            inbox_bytes_max: 1 << 20,
            route_log_entries_max: 1000,
            ..config_for(urls)
        };
        Self { config }
    }

    pub(crate) fn new_worker(&self, name: &str) -> Worker {
        let store = connect_at(RedisConfig { worker: name.to_owned(), ..self.config.clone() }, START);
        Worker { cluster: store.cluster(), store: Arc::new(store) }
    }
}

struct OnCluster(Shared);

impl Workers for OnCluster {
    fn start() -> Self {
        Self(Shared::on(shared_cluster()))
    }

    fn worker(&mut self, name: &str) -> Worker {
        self.0.new_worker(name)
    }

    fn pass(&mut self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }
}

struct OnServer(Shared);

impl Workers for OnServer {
    fn start() -> Self {
        Self(Shared::on(shared_server()))
    }

    fn worker(&mut self, name: &str) -> Worker {
        self.0.new_worker(name)
    }

    fn pass(&mut self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }
}

mod cluster {
    use super::cluster_behaviours;

    cluster_behaviours!(super::OnCluster);
}

mod server {
    use super::cluster_behaviours;

    cluster_behaviours!(super::OnServer);
}
