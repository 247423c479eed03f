//! Workers behind links: finds them, keeps links to them, opens the sessions of devices there, and carries devices over when
//! a worker dies or leaves, without their noticing. Start at [`Workers::start`]; the rules are in `docs/link.md`.

mod alias;
mod config;
mod device;
mod dial;
mod discovery;
mod driver;
mod health;
mod link;
mod mail;
mod metrics;
mod mover;
mod reach;
mod rebalance;
mod ring;
mod route;
mod storeless;
mod stream;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::link::{KeyError, LinkTls, LinkTlsError, Open, Passport, PassportSigner, TokenError, Upstream};
use arc_swap::ArcSwap;
use bytes::Bytes;
use mqtt::{Connect, ProtocolVersion};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant, timeout};

pub use config::{HealthConfig, PassportConfig, WorkersConfig};
pub use reach::{LinkIo, Reach, Reaching};
pub use stream::WorkerStream;

use self::device::Device;
use self::link::Link;
use self::metrics::Metrics;
use self::mover::Mover;
use self::reach::Tcp;
use self::rebalance::Setbacks;
use self::ring::Ring;
use self::worker::{Standing, Worker};

/// The first wait before something is tried again; doubled each time.
const BACKOFF_MS: u64 = 125;

/// Why the edge cannot use workers.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ::link::SettingError),
    /// The key for passports cannot be used.
    #[error("workers.passport.signing_key_file cannot be used")]
    Key(#[source] KeyError),
    /// A file for TLS cannot be used.
    #[error("workers.tls cannot be used")]
    Tls(#[source] LinkTlsError),
}

/// The workers of an edge. Clones are the same.
#[derive(Clone)]
pub struct Workers(Arc<Shared>);

/// What everything here shares.
struct Shared {
    config: WorkersConfig,
    /// For passports that were made here.
    signer: Option<PassportSigner>,
    reach: Arc<dyn Reach>,
    /// So that a run can be repeated from its seed.
    chance: Mutex<StdRng>,
    tls: Option<LinkTls<ClientConfig>>,
    metrics: Metrics,
    runtime: Handle,
    started: Instant,
    workers: Mutex<BTreeMap<SocketAddr, Arc<Worker>>>,
    ring: ArcSwap<Ring>,
    mover: Mover,
    moves: Arc<Semaphore>,
    setbacks: Setbacks,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Connections of which a worker has to know something yet.
    devices: AtomicUsize,
    empty: Notify,
}

impl Workers {
    /// Begins to look for workers and to connect. Must be called within the tokio runtime that carries the connected devices.
    ///
    /// # Errors
    /// The configuration, or a file that it names, cannot be used. A worker that cannot be found or reached is no error.
    pub fn start(config: WorkersConfig, registry: &mut Registry) -> Result<Self, WorkersError> {
        Self::start_by(config, Arc::new(Tcp), StdRng::from_os_rng(), registry)
    }

    /// As [`Workers::start`], with other connections and another chance: for simulations.
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub fn start_by(
        config: WorkersConfig,
        reach: Arc<dyn Reach>,
        chance: StdRng,
        registry: &mut Registry,
    ) -> Result<Self, WorkersError> {
        config.validate()?;
        let key_file = config.passport.signing_key_file.as_deref();
        let signer = key_file.map(PassportSigner::from_file).transpose().map_err(WorkersError::Key)?;
        let tls = config.tls.as_ref().map(|tls| LinkTls::client("workers.tls", tls));
        let tls = tls.transpose().map_err(WorkersError::Tls)?;
        let shared = Arc::new(Shared {
            signer,
            reach,
            chance: Mutex::new(chance),
            tls,
            metrics: Metrics::register(registry),
            runtime: Handle::current(),
            started: Instant::now(),
            workers: Mutex::default(),
            ring: ArcSwap::from_pointee(Ring::new([])),
            mover: Mover::default(),
            moves: Arc::new(Semaphore::new(config.moves_inflight_max)),
            setbacks: Setbacks::default(),
            tasks: Mutex::default(),
            devices: AtomicUsize::new(0),
            empty: Notify::new(),
            config,
        });
        let tasks = [
            tokio::spawn(discovery::run(shared.clone())).abort_handle(),
            tokio::spawn(Mover::run(shared.clone())).abort_handle(),
            tokio::spawn(rebalance::run(shared.clone())).abort_handle(),
            tokio::spawn(storeless::run(shared.clone())).abort_handle(),
        ];
        shared.tasks.lock().extend(tasks);
        Ok(Self(shared))
    }

    /// Has the certificates of links read again though they look the same.
    pub fn ask(&self) {
        self.0.tls.iter().for_each(LinkTls::ask);
    }

    /// Takes the certificates of links if they have changed and settled; links that are up stay. To be called every
    /// [`files::LOOK_INTERVAL`]; blocks on the disk.
    pub fn look(&self, now: std::time::Instant) {
        if let Some(tls) = &self.0.tls {
            tls.look(now);
            self.0.metrics.tls_ends(tls.terms());
        }
    }

    /// Whether a session can be opened: at least one worker has a link.
    pub fn is_ready(&self) -> bool {
        self.0.ring.load().len() > 0
    }

    /// Waits until workers know of every connection that has ended, for so long at most, then ends all links. Answers how
    /// many connections no worker has heard the end of; a worker takes them for lost. To be called when the edge is drained.
    pub async fn stop(&self, deadline: Duration) -> usize {
        let shared = &self.0;
        let emptied = async {
            loop {
                let notified = shared.empty.notified();
                if shared.devices.load(Ordering::SeqCst) == 0 {
                    return;
                }
                notified.await;
            }
        };
        // The count says what became of it.
        let _ = timeout(deadline, emptied).await;
        let left = shared.devices.load(Ordering::SeqCst);
        for task in shared.tasks.lock().drain(..) {
            task.abort();
        }
        for worker in shared.workers.lock().values() {
            worker.stop();
        }
        shared.mover.clear();
        left
    }
}

impl Upstream for Workers {
    type Stream = WorkerStream;

    fn open(&self, open: Open) -> WorkerStream {
        let shared = &self.0;
        let client_id = open.passport.client_id.clone();
        let version = version_of(&open.connect);
        let passport = open.passport.clone();
        // Each worker gets the passport in its own form.
        let template = Box::new(open.with_passport(Bytes::new()));
        shared.devices.fetch_add(1, Ordering::SeqCst);
        let device = Arc::new(Device::new(shared.clone(), client_id, version, template, passport));
        if !device.route.lock().begin(&device) {
            shared.mover.push([device.clone()]);
        }
        WorkerStream::new(device)
    }
}

fn version_of(connect: &[u8]) -> ProtocolVersion {
    let frame = mqtt::frame::split(connect, u32::MAX).ok().flatten();
    // The edge has validated it.
    frame.and_then(|frame| Connect::decode(frame).ok()).map_or(ProtocolVersion::V5, |connect| connect.version)
}

impl Shared {
    /// The time as links count it.
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// When that is.
    fn instant(&self, elapsed: Duration) -> Instant {
        self.started + elapsed
    }

    /// The passport as the worker of `link` takes it: as it was signed where it was made, or else under what was signed for the
    /// link, or signed by itself.
    fn token_of(&self, passport: &Passport, link: &Link) -> Result<Bytes, TokenError> {
        match (&passport.token, link.voucher.get(), &self.signer) {
            (Some(token), ..) => Ok(token.0.clone()),
            (None, Some(voucher), _) => voucher.token(passport),
            (None, None, Some(signer)) => signer.sign(passport),
            (None, None, None) => Err(TokenError::NoKey),
        }
    }

    /// A link of the best worker for `client_id` that is not among `passed_over`.
    fn choose(&self, client_id: &str, passed_over: &[Arc<Worker>]) -> Option<Arc<Link>> {
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

    /// The workers that there are.
    fn found(self: &Arc<Self>, found: &BTreeMap<SocketAddr, String>) {
        let mut workers = self.workers.lock();
        for (address, host) in found {
            match workers.get(address) {
                Some(worker) if worker.is_retired() && worker.links() > 0 => self.keep_links(worker),
                Some(worker) if !worker.is_retired() => {}
                _ => {
                    let worker = Arc::new(Worker::new(*address, host.clone(), &self.metrics));
                    self.begin(&worker);
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
                self.metrics.forget(*address);
            }
            !is_gone
        });
        drop(workers);
        self.changed();
    }

    fn begin(self: &Arc<Self>, worker: &Arc<Worker>) {
        self.keep_links(worker);
        if let Some(port) = self.config.health.admin_port {
            let task = self.runtime.spawn(health::watch(self.clone(), worker.clone(), port));
            worker.own(task.abort_handle());
        }
    }

    /// Has as many links kept up as there should be.
    fn keep_links(self: &Arc<Self>, worker: &Arc<Worker>) {
        for _ in 0..worker.list(self.config.links_per_worker) {
            let task = self.runtime.spawn(dial::keep(self.clone(), worker.clone()));
            worker.own(task.abort_handle());
        }
    }

    /// A worker says for how long it keeps sessions. Devices do not look for another for longer.
    fn learn_grace(&self, worker: &Worker, grace_ms: u32) {
        let own = self.config.handoff_timeout();
        if worker.learn_grace(grace_ms) && worker.handoff_within(own) < own {
            let within_ms = worker.handoff_within(own).as_millis();
            tracing::warn!(
                worker = %worker.address, grace_ms, within_ms,
                "worker keeps sessions for less than workers.handoff_timeout_ms, its devices look for another no longer"
            );
        }
    }

    /// Has another link take the place of one that can open few more streams. That one ends when it has none.
    fn replace(self: &Arc<Self>, worn: &Link) {
        let worker = &worn.worker;
        tracing::info!(worker = %worker.address, "link has used up its stream identifiers and is replaced");
        let task = self.runtime.spawn(dial::keep(self.clone(), worker.clone()));
        worker.own(task.abort_handle());
    }

    fn link_up(self: &Arc<Self>, link: &Arc<Link>) {
        let worker = &link.worker;
        if worker.add_link(link.clone()) {
            tracing::info!(worker = %worker.address, "worker up");
        }
        self.changed();
        self.look_again(worker);
        self.mover.hurry();
    }

    fn link_down(self: &Arc<Self>, link: &Arc<Link>, devices: usize) {
        let worker = &link.worker;
        if worker.lose_link(link) {
            tracing::info!(worker = %worker.address, devices, "worker down");
        }
        self.changed();
        self.look_again(worker);
    }

    /// A worker has a link and has not answered a resume in time.
    fn found_silent(self: &Arc<Self>, worker: &Worker) {
        if worker.eject_once() {
            tracing::info!(worker = %worker.address, "worker does not answer");
            self.changed();
            self.look_again(worker);
        }
    }

    /// Has the ring looked at when a worker is no longer held to be doubtful.
    fn look_again(self: &Arc<Self>, worker: &Worker) {
        let Some(until) = worker.ejected_until() else { return };
        let shared = self.clone();
        let again = async move {
            tokio::time::sleep_until(until).await;
            shared.changed();
        };
        drop(self.runtime.spawn(again));
    }

    /// Looks again who is on the ring: the good workers, or when there is none the doubtful ones.
    fn changed(&self) {
        let workers = self.workers.lock();
        let mut standings: Vec<_> = workers.values().map(|worker| (worker.standing(), worker)).collect();
        let best = standings.iter().map(|(standing, _)| *standing).min().unwrap_or(Standing::Out);
        for (standing, worker) in &standings {
            worker.metrics.healthy.set(i64::from(*standing == Standing::Good));
        }
        standings.retain(|(standing, _)| *standing == best && best != Standing::Out);
        self.ring.store(Arc::new(Ring::new(standings.into_iter().map(|(_, worker)| worker.clone()))));
    }

    /// So that those that meet the same fate do not all go the same way at the same time.
    fn shuffled<T>(&self, mut items: Vec<T>) -> Vec<T> {
        items.shuffle(&mut *self.chance.lock());
        items
    }

    /// How long to wait before the next attempt: doubled each time, up to `backoff_max_ms`, of which the second half is up to
    /// chance.
    fn backoff(&self, attempts: u32) -> Duration {
        let whole = BACKOFF_MS.saturating_mul(1 << attempts.min(16)).min(self.config.backoff_max_ms).max(2);
        Duration::from_millis(self.chance.lock().random_range(whole / 2..=whole))
    }

    /// A connection is done with.
    fn leave(&self) {
        if self.devices.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.empty.notify_waiters();
        }
    }
}
