//! The workers of an edge: which there are, which of them are on the ring, and which is the best for a device. Tasks that keep
//! links up and look at workers are started elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use link::LinkTls;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant};

use super::config::WorkersConfig;
use super::device::Devices;
use super::link::Link;
use super::reach::Reach;
use super::ring::Ring;
use super::worker::{Standing, Worker};

/// All workers of one edge.
pub(super) struct Pool {
    pub(super) config: WorkersConfig,
    /// Those that have something at the workers.
    pub(super) devices: Arc<Devices>,
    pub(super) reach: Arc<dyn Reach>,
    pub(super) tls: Option<LinkTls<ClientConfig>>,
    pub(super) runtime: Handle,
    started: Instant,
    pub(super) workers: Mutex<BTreeMap<SocketAddr, Arc<Worker>>>,
    pub(super) ring: ArcSwap<Ring>,
    /// Devices for which a worker may be asked at once.
    pub(super) moves: Arc<Semaphore>,
    pub(super) tasks: Mutex<Vec<AbortHandle>>,
}

/// A worker that is listed, anew or again.
pub(super) struct Listed {
    pub(super) worker: Arc<Worker>,
    /// So many links are to be kept up besides those that are.
    pub(super) links: usize,
    pub(super) is_new: bool,
}

impl Pool {
    pub(super) fn new(
        config: WorkersConfig,
        devices: Arc<Devices>,
        reach: Arc<dyn Reach>,
        tls: Option<LinkTls<ClientConfig>>,
    ) -> Self {
        Self {
            devices,
            reach,
            tls,
            runtime: Handle::current(),
            started: Instant::now(),
            workers: Mutex::default(),
            ring: ArcSwap::from_pointee(Ring::new([])),
            moves: Arc::new(Semaphore::new(config.moves_inflight_max)),
            tasks: Mutex::default(),
            config,
        }
    }

    /// The time as links count it.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The moment that links count so.
    pub(super) fn instant(&self, elapsed: Duration) -> Instant {
        self.started + elapsed
    }

    /// A link of the best worker for `client_id` that is not among `passed_over`.
    pub(super) fn choose(&self, client_id: &str, passed_over: &[Arc<Worker>]) -> Option<Arc<Link>> {
        let ring = self.ring.load();
        let bound = ring.bound(1, self.config.load_factor);
        let mut fullest = None;
        for worker in ring.candidates(client_id) {
            if passed_over.iter().any(|other| Arc::ptr_eq(other, worker)) {
                continue;
            }
            let Some(link) = worker.link() else { continue };
            if worker.streams() < bound {
                return Some(link);
            }
            fullest = fullest.or(Some(link));
        }
        fullest
    }

    /// The workers that there are. Of which of them links are to be kept up besides those that are, and how many.
    pub(super) fn found(&self, found: &BTreeMap<SocketAddr, String>) -> Vec<Listed> {
        let mut listed = Vec::new();
        let mut workers = self.workers.lock();
        for (address, host) in found {
            match workers.get(address) {
                Some(worker) if worker.is_retired() && worker.links() > 0 => {
                    let links = worker.list(self.config.links_per_worker);
                    listed.push(Listed { worker: worker.clone(), links, is_new: false });
                }
                Some(worker) if !worker.is_retired() => {}
                _ => {
                    let worker = Arc::new(Worker::new(*address, host.clone(), &self.devices.metrics));
                    let links = worker.list(self.config.links_per_worker);
                    listed.push(Listed { worker: worker.clone(), links, is_new: true });
                    if let Some(former) = workers.insert(*address, worker) {
                        former.stop();
                    }
                }
            }
        }
        for (address, worker) in workers.iter().filter(|(address, _)| !found.contains_key(address)) {
            if !worker.is_retired() {
                tracing::info!(worker = %address, "worker no longer listed");
                worker.retire();
            }
        }
        workers.retain(|address, worker| {
            let is_gone = worker.is_retired() && worker.links() == 0;
            if is_gone {
                worker.stop();
                self.devices.metrics.forget(*address);
            }
            !is_gone
        });
        drop(workers);
        self.changed();
        listed
    }

    /// A worker says for how long it keeps sessions. Devices do not look for another for longer.
    pub(super) fn learn_grace(&self, worker: &Worker, grace_ms: u32) {
        let own = self.config.handoff_timeout();
        if worker.learn_grace(grace_ms) && worker.handoff_within(own) < own {
            let within_ms = worker.handoff_within(own).as_millis();
            tracing::warn!(
                worker = %worker.address, grace_ms, within_ms,
                "worker keeps sessions for less than workers.handoff_timeout_ms, its devices look for another no longer"
            );
        }
    }

    pub(super) fn link_up(self: &Arc<Self>, link: &Arc<Link>) {
        let worker = &link.worker;
        if worker.add_link(link.clone()) {
            tracing::info!(worker = %worker.address, "worker up");
        }
        self.changed();
        self.look_again(worker);
        self.devices.agenda.hurry();
    }

    pub(super) fn link_down(self: &Arc<Self>, link: &Arc<Link>, devices: usize) {
        let worker = &link.worker;
        if worker.lose_link(link) {
            tracing::info!(worker = %worker.address, devices, "worker down");
        }
        self.changed();
        self.look_again(worker);
    }

    /// A worker has a link and has not answered a resume in time.
    pub(super) fn found_silent(self: &Arc<Self>, worker: &Worker) {
        if worker.eject_once() {
            tracing::info!(worker = %worker.address, "worker does not answer");
            self.changed();
            self.look_again(worker);
        }
    }

    /// Has the ring looked at when a worker is no longer held to be doubtful.
    pub(super) fn look_again(self: &Arc<Self>, worker: &Worker) {
        let Some(until) = worker.ejected_until() else { return };
        let pool = self.clone();
        let again = async move {
            tokio::time::sleep_until(until).await;
            pool.changed();
        };
        drop(self.runtime.spawn(again));
    }

    /// Looks again who is on the ring: the good workers, or when there is none the doubtful ones.
    pub(super) fn changed(&self) {
        let workers = self.workers.lock();
        let mut standings: Vec<_> = workers.values().map(|worker| (worker.standing(), worker)).collect();
        let best = standings.iter().map(|(standing, _)| *standing).min().unwrap_or(Standing::Out);
        for (standing, worker) in &standings {
            worker.metrics.healthy.set(i64::from(*standing == Standing::Good));
        }
        standings.retain(|(standing, _)| *standing == best && best != Standing::Out);
        self.ring.store(Arc::new(Ring::new(standings.into_iter().map(|(_, worker)| worker.clone()))));
    }

    /// Whether `worker` has more than it may, so that there is another that has less.
    pub(super) fn is_crowded(&self, worker: &Arc<Worker>) -> bool {
        let ring = self.ring.load();
        ring.has(worker) && worker.streams() > ring.bound(0, self.config.load_factor)
    }

    /// Whether `worker` is without its store although another on the ring has it.
    pub(super) fn is_forsaken(&self, worker: &Arc<Worker>) -> bool {
        worker.is_store_away() && !self.ring.load().has(worker)
    }

    /// Whether no device waits for a worker or is being moved.
    pub(super) fn is_quiet(&self) -> bool {
        self.devices.agenda.is_idle()
            && self.moves.available_permits() == self.config.moves_inflight_max
            && self.devices.metrics.moving.get() == 0
    }
}
