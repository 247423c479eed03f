//! The life of a process, whatever tier it runs: start in the order of need, say so, serve, reload, end in good order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ::authsvc::Revocations;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::admin::{Admin, Metrics, Phase, Readiness, Revoking, Stalled};
use crate::config::{AdminConfig, ProcessConfig};
use crate::exit::Failure;
use crate::process_metrics::ProcessMetrics;
use crate::shutdown::{Asked, Signals};
use crate::{addresses, cli, descriptors};

/// What is still running on the runtime after everything was closed gets so long.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// What a process runs.
pub(crate) trait Tier: Sized {
    /// Its configuration.
    type Config;

    /// Starts everything; what registers in `registry` is served as metrics.
    async fn start(config: &Self::Config, registry: &mut Registry) -> Result<Self, Failure>;

    /// Where it listens, by name.
    fn addresses(&self) -> BTreeMap<String, SocketAddr>;

    /// Answers why it cannot serve for now, for `/readyz`.
    fn stalled(&self) -> Stalled;

    /// Who has to go, if an operator may say so here.
    fn revocations(&self) -> Option<Revocations> {
        None
    }

    /// What is printed once it is up.
    fn welcome(&self, config: &Self::Config, admin: SocketAddr) -> String;

    /// Reads again what can be read again. What cannot be read leaves in force what was.
    fn reload(&self);

    /// Ends in good order, within about `deadline`.
    async fn stop(self, deadline: Duration) -> Result<(), Failure>;
}

/// Serves until told to end.
pub(crate) fn run<T: Tier>(config: &T::Config, process: &ProcessConfig) -> Result<(), Failure> {
    descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(process.runtime.worker_threads_in_force())
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|error| Failure::unavailable(format!("cannot start the worker threads: {error}")))?;
    let served = runtime.block_on(serve::<T>(config, process));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    served
}

async fn serve<T: Tier>(config: &T::Config, process: &ProcessConfig) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(Failure::unavailable)?;
    let readiness = Readiness::default();
    let metrics = Metrics::default();
    let revoking = Revoking::open(&process.admin).map_err(Failure::usage)?;
    let admin = bind_admin(&process.admin, &metrics, &readiness, &revoking)?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ProcessMetrics));
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("tidegate_build", "Version of the process", build);
    let tier = tokio::select! {
        tier = T::start(config, &mut registry) => tier?,
        // Nothing is served yet, so there is nothing to end in good order.
        () = asked_to_stop(&mut signals) => return Ok(()),
    };
    // Nobody else sets it.
    let _ = metrics.set(registry);
    readiness.watch(tier.stalled());
    if let Some(list) = tier.revocations() {
        revoking.begin(list);
    }
    readiness.enter(Phase::Ready);
    announce(&tier, config, process, &admin)?;
    while signals.next().await == Asked::Reload {
        tier.reload();
    }
    readiness.enter(Phase::Draining);
    tokio::spawn(signals.exit_on_next_stop());
    tokio::time::sleep(process.runtime.drain_delay()).await;
    tier.stop(process.runtime.drain_timeout()).await?;
    tracing::info!("stopped");
    Ok(())
}

async fn asked_to_stop(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

fn bind_admin(
    config: &AdminConfig,
    metrics: &Metrics,
    readiness: &Readiness,
    revoking: &Revoking,
) -> Result<Vec<SocketAddr>, Failure> {
    let admin = Admin::bind(&config.listen).map_err(|(address, error)| {
        Failure::unavailable(format!(
            "admin.listen = \"{address}\": cannot listen: {error}; choose another address"
        ))
    })?;
    let addresses = admin.addresses().to_vec();
    tokio::spawn(admin.serve(metrics.clone(), config.metrics, readiness.clone(), revoking.clone()));
    Ok(addresses)
}

/// Tells everybody who waits for it that it is up.
fn announce<T: Tier>(
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
    cli::print(&tier.welcome(config, admin[0]))?;
    tracing::info!(admin = %admin[0], "ready");
    Ok(())
}
