//! A worker: the real one, in a process that can be killed, can stand still, and can be told to leave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::{Broker, BrokerConfig, ClusterSettings, LinkConfig, LinkServer, TimeSource};
use link::PassportVerifier;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use state::MemoryCluster;
use testkit::front::Front;

use super::network::Network;
use super::process::Process;
use super::store::Road;
use super::{Dice, KEYS};

/// What a worker is started with.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) cluster: MemoryCluster,
    pub(super) network: Network,
    pub(super) time: TimeSource,
    pub(super) settings: ClusterSettings,
    pub(super) window_bytes: u32,
    /// Answers of the store are lost, and workers die: what had its effect may be done again.
    pub(super) is_rough: bool,
}

/// One run of a worker, from its start to its end.
pub(super) struct Worker {
    pub(super) process: Process,
    pub(super) road: Road,
    served: Arc<Mutex<Option<Served>>>,
    has_left: Arc<AtomicBool>,
    /// Stands still, as by SIGSTOP, before that round.
    pub(super) stands_until: u64,
    pub(super) is_leaving: bool,
}

/// What there is once it has joined the others.
struct Served {
    broker: Broker,
    links: Option<LinkServer>,
}

impl Worker {
    /// Starts one, which then joins the others in its own time.
    pub(super) fn start(setup: &Setup, name: &str, address: SocketAddr, dice: Dice) -> Self {
        let memory = setup.cluster.worker(name);
        let road = Road::new(memory, dice, if setup.is_rough { 60 } else { 0 });
        let process = Process::new();
        let served: Arc<Mutex<Option<Served>>> = Arc::default();
        let has_left: Arc<AtomicBool> = Arc::default();
        let (own, shared, ended, setup) =
            (road.clone(), Arc::clone(&served), Arc::clone(&has_left), setup.clone());
        process.spawn(async move {
            let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
            let mut registry = Registry::default();
            let Setup { time, settings, .. } = setup;
            let (store, cluster) = (Arc::new(Front(own.clone())), Arc::new(own));
            let started = Broker::start_shared_by(time, config, store, cluster, settings, &mut registry);
            let Ok(broker) = started.await else {
                // The process ends, and another one tries.
                return ended.store(true, Ordering::Relaxed);
            };
            let config = LinkConfig {
                listen: address.into(),
                window_bytes: setup.window_bytes,
                handoff_grace_ms: super::world::GRACE_MS,
                ..LinkConfig::default()
            };
            let verifier = PassportVerifier::from_pems(&[&KEYS.public_pem], Duration::ZERO).unwrap();
            let listener = setup.network.listen(address);
            let links =
                LinkServer::start_on(listener, config, broker.clone(), verifier, &mut registry).unwrap();
            *shared.lock() = Some(Served { broker, links: Some(links) });
        });
        Self { process, road, served, has_left, stands_until: 0, is_leaving: false }
    }

    /// Whether it has joined the others.
    pub(super) fn is_serving(&self) -> bool {
        self.served.lock().is_some()
    }

    /// Asks its edges to move its devices, and leaves: as the process does at SIGTERM.
    pub(super) fn leave(&mut self, within: Duration) {
        let Some(Served { broker, links: Some(links) }) = self.served.lock().take() else { return };
        self.is_leaving = true;
        let has_left = Arc::clone(&self.has_left);
        self.process.spawn(async move {
            let left = links.drain(within).await;
            drop(links);
            if left == 0 {
                // The others find out otherwise.
                let _left = broker.leave().await;
            }
            broker.stop();
            has_left.store(true, Ordering::Relaxed);
        });
    }

    /// It has left, and its process has ended.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }

    /// Its devices, and those among them that have a session.
    pub(super) fn devices(&self) -> (usize, usize) {
        let served = self.served.lock();
        let Some(served) = &*served else { return (0, 0) };
        (served.links.as_ref().map_or(0, LinkServer::streams), served.broker.connected())
    }

    /// As by SIGKILL. Its connections have to be cut before.
    pub(super) fn kill(self) {
        self.road.sever();
        drop(self.process);
    }
}
