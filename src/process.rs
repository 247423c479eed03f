//! The life of a process, whatever tier it runs: start in the order of need, say so, serve, reload, end in good order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::authsvc::Revocations;
use link::{Bind, Inherited};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::{Admin, Metrics, Phase, Readiness, Revoking, Stalled};
use crate::config::{AdminConfig, ProcessConfig};
use crate::exit::Failure;
use crate::memory::{MemoryWatch, Relief};
use crate::process_metrics::ProcessMetrics;
use crate::shutdown::{Asked, Signals};
use crate::upgrade::{Arrival, Door, Sockets, Successor, Successors, Upgrades, Way, duplicate};
use crate::{addresses, descriptors, output, stderr};

/// So many turns of devices a thread may take before it looks which others have something to read: where some always have, that is
/// how long others wait.
const EVENT_INTERVAL: u32 = 16;

/// What is still running on the runtime after everything was closed gets so long.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// How a tier ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Within about this time.
    Alone(Duration),
    /// The same, while another process has its sockets, and serves or waits to serve.
    Succeeded(Duration),
}

impl Ending {
    /// How long it may take.
    pub(crate) fn deadline(self) -> Duration {
        match self {
            Self::Alone(deadline) | Self::Succeeded(deadline) => deadline,
        }
    }
}

/// What a process runs.
pub(crate) trait Runnable: Sized {
    /// Its configuration.
    type Config;

    /// The command that runs it.
    const COMMAND: &'static str;

    /// Whether there can be two of it for a moment, where one takes the other's place.
    fn way(deadline: Duration) -> Way {
        let _ = deadline;
        Way::Beside
    }

    /// Where it listens for others than operators, by name.
    fn listened(config: &Self::Config) -> Vec<(String, &Bind)> {
        let _ = config;
        Vec::new()
    }

    /// Starts everything; what registers in `registry` is served as metrics. Where another process is to be replaced, takes over
    /// from it when all that can be ready is.
    async fn start(
        config: &Self::Config,
        registry: &mut Registry,
        arrival: &mut Arrival,
    ) -> Result<Self, Failure>;

    /// The sockets that it listens with, once more.
    fn take_sockets(&mut self) -> Sockets {
        Vec::new()
    }

    /// Where it listens, by name.
    fn addresses(&self) -> BTreeMap<String, SocketAddr>;

    /// Answers why it cannot serve for now, for `/readyz`.
    fn stalled(&self) -> Stalled;

    /// Who can let go of memory, in the order in which they are asked to.
    fn reliefs(&self) -> Vec<Box<dyn Relief>> {
        Vec::new()
    }

    /// Who has to go, if an operator may say so here.
    fn revocations(&self) -> Option<Revocations> {
        None
    }

    /// What is printed once it is up.
    fn welcome(&self, config: &Self::Config, admin: SocketAddr) -> String;

    /// Reads again what can be read again. What cannot be read leaves in force what was.
    fn reload(&self);

    /// Ends in good order.
    async fn stop(self, ending: Ending) -> Result<(), Failure>;
}

/// Serves until told to end.
pub(crate) fn run<T: Runnable>(config: &T::Config, process: &ProcessConfig) -> Result<(), Failure> {
    descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(process.runtime.worker_threads_in_force())
        .thread_name("worker")
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build()
        .map_err(|error| Failure::unavailable(format!("cannot start the worker threads: {error}")))?;
    let served = runtime.block_on(serve::<T>(config, process));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    served
}

async fn serve<T: Runnable>(config: &T::Config, process: &ProcessConfig) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(Failure::unavailable)?;
    let upgrade_socket = process.runtime.upgrade_socket.as_deref();
    let mut listened = T::listened(config);
    listened.push(("admin".to_owned(), &process.admin.listen));
    let mut arrival = Arrival::come(upgrade_socket, T::COMMAND, &listened).await?;
    // Where it was found before it begins again: somebody who finds nobody would take what it has for another's.
    let mut door = None;
    loop {
        let Some(life) = Life::<T>::begin(config, process, &mut signals, arrival).await? else {
            return Ok(());
        };
        drop(door.take());
        match life.go_on(process, &mut signals).await {
            End::Asked(life) => return life.end(process, signals).await,
            End::Followed(life, successor) => return life.end_beside(process, signals, successor).await,
            End::Replaced(life, successor) => {
                let Some((sockets, held)) = life.give_place(process, &mut signals, successor).await? else {
                    return Ok(());
                };
                arrival = Arrival::again(sockets, upgrade_socket)?;
                door = held;
            }
        }
    }
}

/// A tier that serves, and what belongs to it.
struct Life<T: Runnable> {
    tier: T,
    readiness: Readiness,
    admin: JoinHandle<()>,
    /// What whoever follows needs, if somebody may.
    sockets: Arc<Sockets>,
    successors: Successors,
    _memory: Option<MemoryWatch>,
}

/// Why a tier is to end.
enum End<T: Runnable> {
    /// An operator asks for it.
    Asked(Life<T>),
    /// Another process serves.
    Followed(Life<T>, Successor),
    /// Another process is to serve, and cannot before this one has ended.
    Replaced(Life<T>, Successor),
}

impl<T: Runnable> Life<T> {
    /// Starts everything and says so; `None` if it was told to end before.
    async fn begin(
        config: &T::Config,
        process: &ProcessConfig,
        signals: &mut Signals,
        mut arrival: Arrival,
    ) -> Result<Option<Self>, Failure> {
        let (readiness, metrics) = (Readiness::default(), Metrics::default());
        let revoking = Revoking::open(&process.admin).map_err(Failure::io)?;
        let admin = bind_admin(&process.admin, arrival.inherited())?;
        let addresses = admin.addresses().to_vec();
        let mut sockets = admin.sockets().map_err(Failure::unavailable)?;
        let serving =
            admin.serve(metrics.clone(), process.admin.metrics, readiness.clone(), revoking.clone());
        // Another process answers there while it serves.
        let (begin, begun) = oneshot::channel::<()>();
        let mut begin = Some(begin).filter(|_| arrival.is_replacing());
        let admin = tokio::spawn(async move {
            // Ready when the other end is dropped.
            let _ = begun.await;
            serving.await;
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("tidegate_build", "Version of the process", build);
        registry.register(
            "tidegate_log_lines_lost",
            "Log lines that standard error did not take",
            stderr::lost(),
        );
        let upgrades = Upgrades::register(&mut registry);
        let mut tier = tokio::select! {
            tier = T::start(config, &mut registry, &mut arrival) => tier?,
            // Nothing is served yet, so there is nothing to end in good order.
            () = asked_to_stop(signals) => return Ok(None),
        };
        let memory_max_bytes = process.runtime.memory_max_in_force();
        let memory = MemoryWatch::start(tier.reliefs(), memory_max_bytes, &mut registry)?;
        // Nobody else sets it.
        let _ = metrics.set(registry);
        readiness.watch(tier.stalled());
        if let Some(list) = tier.revocations() {
            revoking.begin(list);
        }
        readiness.enter(Phase::Ready);
        sockets.extend(tier.take_sockets());
        // Nothing can fail any more when the other process has gone.
        announce(&tier, config, process, &addresses)?;
        let door = arrival.serving(&upgrades).await;
        drop(begin.take());
        // Without a door nobody else has the sockets: they close with their listeners.
        let sockets = Arc::new(if door.is_some() { sockets } else { Vec::new() });
        let successors = door.map_or_else(Successors::none, |door| {
            let way = T::way(process.runtime.drain_timeout());
            Successors::wait(door, T::COMMAND, way, sockets.clone(), upgrades)
        });
        Ok(Some(Self { tier, readiness, admin, sockets, successors, _memory: memory }))
    }

    /// Serves until there is a reason to end.
    async fn go_on(mut self, process: &ProcessConfig, signals: &mut Signals) -> End<T> {
        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Reload => self.tier.reload(),
                    Asked::Stop => return End::Asked(self),
                },
                successor = self.successors.next() => {
                    return match T::way(process.runtime.drain_timeout()) {
                        Way::Beside => End::Followed(self, successor),
                        Way::Instead { .. } => End::Replaced(self, successor),
                    };
                }
            }
        }
    }

    /// Ends in good order, as an operator has asked.
    async fn end(self, process: &ProcessConfig, signals: Signals) -> Result<(), Failure> {
        self.readiness.enter(Phase::Draining);
        tokio::spawn(signals.exit_on_next_stop());
        tokio::time::sleep(process.runtime.drain_delay()).await;
        self.successors.close().await;
        drop(self.sockets);
        self.tier.stop(Ending::Alone(process.runtime.drain_timeout())).await?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Ends since another process serves.
    async fn end_beside(
        self,
        process: &ProcessConfig,
        mut signals: Signals,
        successor: Successor,
    ) -> Result<(), Failure> {
        tracing::info!(pid = successor.pid(), "another process has taken over");
        self.admin.abort();
        self.successors.close().await;
        drop(self.sockets);
        successor.done().await;
        tokio::spawn(async move {
            // What the first one asks for is done already.
            asked_to_stop(&mut signals).await;
            signals.exit_on_next_stop().await;
        });
        self.tier.stop(Ending::Succeeded(process.runtime.drain_timeout())).await?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Ends so that another process can serve, and waits until it does. `None` when it does, or this one was told to end; the
    /// sockets and the door if the other has gone, and this one has to go on.
    async fn give_place(
        self,
        process: &ProcessConfig,
        signals: &mut Signals,
        mut successor: Successor,
    ) -> Result<Option<(Sockets, Option<Arc<Door>>)>, Failure> {
        let pid = successor.pid();
        tracing::info!(pid, "makes room for another process");
        self.readiness.enter(Phase::Draining);
        self.tier.stop(Ending::Succeeded(process.runtime.drain_timeout())).await?;
        let is_given = tokio::select! {
            is_given = successor.give() => is_given,
            () = asked_to_stop(signals) => true,
        };
        self.admin.abort();
        if is_given {
            self.successors.close().await;
            drop(self.sockets);
            successor.done().await;
            tracing::info!(pid, "another process has taken over");
            return Ok(None);
        }
        drop(successor);
        let door = self.successors.close().await;
        tracing::warn!(pid, "the other process has gone; this one begins again");
        let sockets = duplicate(&self.sockets).map_err(Failure::unavailable)?;
        Ok(Some((sockets, door)))
    }
}

async fn asked_to_stop(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

fn bind_admin(config: &AdminConfig, inherited: &mut Inherited) -> Result<Admin, Failure> {
    Admin::bind(&config.listen, inherited).map_err(|(address, error)| {
        Failure::unavailable(format!(
            "admin.listen = \"{address}\": cannot listen: {error}; choose another address"
        ))
    })
}

/// Tells everybody who waits for it that it is up.
fn announce<T: Runnable>(
    tier: &T,
    config: &T::Config,
    process: &ProcessConfig,
    admin: &[SocketAddr],
) -> Result<(), Failure> {
    if let Some(path) = &process.runtime.addresses_file {
        let mut all = tier.addresses();
        all.extend(admin.iter().enumerate().map(|(n, address)| (link::name_of_nth("admin", n), *address)));
        addresses::write(path, &all).map_err(|error| {
            let path = path.display();
            Failure::io(format!("runtime.addresses_file = \"{path}\": cannot write: {error}"))
        })?;
    }
    let welcome = tier.welcome(config, admin[0]);
    // It may stand still where nobody reads it, which is no reason not to serve.
    tokio::task::spawn_blocking(move || {
        if let Err(error) = output::write(&welcome) {
            tracing::warn!(%error, "the welcome cannot be written to standard output");
        }
    });
    tracing::info!(admin = %admin[0], "ready");
    Ok(())
}
