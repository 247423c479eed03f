//! Edge, worker and authentication in one process: start in the order of need, serve, end in the reverse order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use authsvc::Local;
use broker::Broker;
use lb::{Edge, EdgeError};
use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use state::{EmbeddedStore, OpenError, Store};
use tokio::runtime::Runtime;

use crate::admin::{Admin, Metrics, Phase, Readiness};
use crate::config::Config;
use crate::exit::{Failure, chain};
use crate::process_metrics::ProcessMetrics;
use crate::shutdown::{Asked, Signals};
use crate::{addresses, cli, dev_certs, welcome};

/// What is still running on the runtime after everything was closed gets so long.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// How long the store may take to write what it was given.
const STORE_CLOSE: Duration = Duration::from_secs(30);

/// Serves until told to end.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.runtime.worker_threads_in_force())
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|error| Failure::unavailable(format!("cannot start the worker threads: {error}")))?;
    let served = serve(&runtime, config);
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    served
}

fn serve(runtime: &Runtime, config: &Config) -> Result<(), Failure> {
    runtime.block_on(async {
        let mut signals = Signals::listen().map_err(Failure::unavailable)?;
        let readiness = Readiness::default();
        let metrics = Metrics::default();
        let admin = bind_admin(config, &metrics, &readiness).await?;
        let running = tokio::select! {
            running = Running::start(config, &metrics, admin) => running?,
            // Nothing is served yet, so there is nothing to end in good order.
            () = asked_to_stop(&mut signals) => return Ok(()),
        };
        let store = running.store.clone();
        readiness.watch(move || store.is_failing());
        readiness.enter(Phase::Ready);
        running.announce(config)?;
        running.until_stopped(&mut signals).await;
        readiness.enter(Phase::Draining);
        tokio::spawn(signals.exit_on_next_stop());
        running.stop(config.runtime.drain_timeout()).await
    })
}

async fn asked_to_stop(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

async fn bind_admin(
    config: &Config,
    metrics: &Metrics,
    readiness: &Readiness,
) -> Result<SocketAddr, Failure> {
    let wanted = config.admin.listen;
    let admin = Admin::bind(wanted).await.map_err(|error| {
        Failure::unavailable(format!(
            "admin.listen = \"{wanted}\": cannot listen: {error}; choose another address"
        ))
    })?;
    let address = admin.address();
    tokio::spawn(admin.serve(metrics.clone(), readiness.clone()));
    Ok(address)
}

/// Everything that runs.
struct Running {
    edge: Edge,
    broker: Broker,
    store: Arc<EmbeddedStore>,
    auth: Local,
    admin: SocketAddr,
}

impl Running {
    async fn start(config: &Config, metrics: &Metrics, admin: SocketAddr) -> Result<Self, Failure> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics));
        make_certificates(config)?;
        let auth =
            Local::start(&config.auth, &config.authorization, &mut registry).map_err(Failure::usage)?;
        let store = open_store(config).await?;
        let broker = Broker::start(config.broker.clone(), store.clone() as Arc<dyn Store>, &mut registry)
            .await
            .map_err(|error| Failure::io(chain(&error)))?;
        let edge_registry = registry.sub_registry_with_prefix("tidegate");
        let edge = Edge::start(config.edge.clone(), broker.clone(), Arc::new(auth.clone()), edge_registry)
            .map_err(|error| edge_failure(&error))?;
        // Nobody else sets it.
        let _ = metrics.set(registry);
        tokio::spawn(auth.clone().watch());
        Ok(Self { edge, broker, store, auth, admin })
    }

    /// Tells everybody who waits for it that it is up.
    fn announce(&self, config: &Config) -> Result<(), Failure> {
        if let Some(path) = &config.runtime.addresses_file {
            let mut all: BTreeMap<String, SocketAddr> = self.edge.addresses().clone();
            all.insert("admin".to_owned(), self.admin);
            addresses::write(path, &all).map_err(|error| {
                let path = path.display();
                Failure::io(format!("runtime.addresses_file = \"{path}\": cannot write: {error}"))
            })?;
        }
        cli::print(&welcome::welcome(config, self.edge.addresses(), self.admin))?;
        tracing::info!(admin = %self.admin, "ready");
        Ok(())
    }

    async fn until_stopped(&self, signals: &mut Signals) {
        while signals.next().await == Asked::Reload {
            self.reload();
        }
    }

    /// What cannot be read leaves in force what was.
    fn reload(&self) {
        match self.edge.reload_tls() {
            Ok(()) => tracing::info!("certificates read"),
            Err(error) => tracing::error!(error = %chain(&error), "certificates not taken"),
        }
        if let Err(error) = self.auth.reload() {
            tracing::error!(%error, "password file not taken, the users of before stay");
        }
    }

    /// Edge first, so that nothing new comes; the store last, when nobody writes any more.
    async fn stop(self, deadline: Duration) -> Result<(), Failure> {
        tracing::info!(connections = self.edge.connections(), ?deadline, "draining");
        let cut_off = self.edge.drain(deadline).await;
        if cut_off > 0 {
            tracing::warn!(connections = cut_off, "connections were cut at the deadline");
        }
        self.broker.stop();
        let (closed, wait) = tokio::sync::oneshot::channel();
        self.store.close(Box::new(move |result| {
            // Nobody waits any more if it took too long.
            let _ = closed.send(result);
        }));
        match tokio::time::timeout(STORE_CLOSE, wait).await {
            Ok(Ok(Ok(()))) => {
                tracing::info!("stopped");
                Ok(())
            }
            Ok(Ok(Err(error))) => Err(Failure::io(format!("the store did not close: {}", chain(&error)))),
            Ok(Err(_)) | Err(_) => Err(Failure::io("the store did not close in time")),
        }
    }
}

/// A connection is an open file; the soft limit that a shell hands down is for programs that cannot take more.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
    let open_files_max = getrlimit(Resource::Nofile).current;
    tracing::debug!(?open_files_max, "limit of open files");
}

fn make_certificates(config: &Config) -> Result<(), Failure> {
    if !config.uses_development_certificate() {
        return Ok(());
    }
    let dir = config.certificates_dir();
    let made = dev_certs::ensure(&dir).map_err(Failure::io)?;
    if !made.is_empty() {
        tracing::info!(dir = %dir.display(), "made a development CA and certificates");
    }
    Ok(())
}

async fn open_store(config: &Config) -> Result<Arc<EmbeddedStore>, Failure> {
    let settings = config.state.clone();
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(settings)).await;
    match opened.map_err(Failure::software)? {
        Ok(store) => Ok(Arc::new(store)),
        Err(error @ OpenError::InUse { .. }) => Err(Failure::unavailable(format!(
            "{error}; set data.dir to another directory or end that process"
        ))),
        Err(error) => Err(Failure::io(chain(&error))),
    }
}

fn edge_failure(error: &EdgeError) -> Failure {
    match error {
        EdgeError::Config(error) => Failure::usage(error),
        EdgeError::Bind { listener, address, source } => Failure::unavailable(format!(
            "listeners.{listener}.bind = \"{address}\": cannot listen: {source}; choose another address, or set \
             listeners.{listener} = \"off\""
        )),
        error => Failure::unavailable(chain(error)),
    }
}
