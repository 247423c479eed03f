//! A worker: the store, the sessions, then the address that edges connect to; it ends in the reverse order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::{Broker, LinkServer, LinkStartError};
use prometheus_client::registry::Registry;
use state::{ConnectError, RedisConfig, RedisStore, Store};

use crate::admin::Stalled;
use crate::asking::ActionAuthorizer;
use crate::authentication::Authentication;
use crate::config::WorkerConfig;
use crate::exit::{Failure, chain};
use crate::front;
use crate::memory::Relief;
use crate::passport_keys::PassportKeys;
use crate::process::{Ending, Runnable};
use crate::store_metrics::StoreMetrics;
use crate::upgrade::Arrival;
use crate::watch::{Files, Watch};

/// How long the store may take to let a worker tell the others what they wait for, and leave them.
const LEAVE: Duration = Duration::from_secs(10);
/// How long the store may take to answer what it was given.
const STORE_CLOSE: Duration = Duration::from_secs(30);
/// Before Redis is tried again that could not be reached; doubled each time up to the second.
const CONNECT_DELAY_MIN: Duration = Duration::from_millis(100);
const CONNECT_DELAY_MAX: Duration = Duration::from_secs(1);

/// Everything that runs.
pub(crate) struct Worker {
    links: LinkServer,
    broker: Broker,
    store: Arc<RedisStore>,
    keys: Option<PassportKeys>,
    watch: Watch,
}

impl Runnable for Worker {
    type Config = WorkerConfig;

    const COMMAND: &'static str = "broker";

    async fn start(
        config: &WorkerConfig,
        registry: &mut Registry,
        _arrival: &mut Arrival,
    ) -> Result<Self, Failure> {
        let verifier = Arc::new(config.verifier().map_err(Failure::io)?);
        let keys = PassportKeys::start(config, &verifier, registry)?;
        let store = Arc::new(connect(&config.redis).await?);
        registry.register_collector(Box::new(StoreMetrics::new(&store)));
        let broker = Broker::start_shared(
            config.broker.clone(),
            store.clone() as Arc<dyn Store>,
            store.cluster(),
            config.cluster.clone(),
            registry,
        )
        .await
        .map_err(|error| Failure::unavailable(chain(&error)))?;
        let asked =
            config.authsvc.as_ref().map(|service| front::ask_elsewhere(service, registry)).transpose()?;
        if let Some(remote) = asked.clone() {
            broker.ask_by(ActionAuthorizer::new(Authentication::Elsewhere(remote)));
        }
        let links = LinkServer::start(config.link.clone(), broker.clone(), verifier.clone(), registry)
            .await
            .map_err(|error| link_failure(&error))?;
        let of_asked = asked.map(|remote| Box::new(remote) as Box<dyn Files>);
        let of_links: Box<dyn Files> = Box::new(links.certificates());
        let watch = Watch::start([of_links].into_iter().chain(of_asked).collect());
        tracing::info!(name = %config.link.name, address = %config.link.listen, "listening for edges");
        Ok(Self { links, broker, store, keys, watch })
    }

    fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        let addresses = self.links.addresses().iter().enumerate();
        addresses.map(|(n, address)| (link::name_of_nth("link", n), *address)).collect()
    }

    fn stalled(&self) -> Stalled {
        let store = self.store.clone();
        let has_keys = self.keys.as_ref().map(PassportKeys::has_some);
        Box::new(move || {
            if store.is_failing() {
                return Some("the store cannot be written");
            }
            let has_none = has_keys.as_ref().is_some_and(|has_some| !has_some.load(Ordering::Relaxed));
            has_none.then_some("no key of passports has been announced yet")
        })
    }

    fn reliefs(&self) -> Vec<Box<dyn Relief>> {
        vec![Box::new(self.broker.clone())]
    }

    fn welcome(&self, config: &WorkerConfig, admin: SocketAddr) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let security = if config.link.tls.is_some() { "mutual TLS" } else { "without TLS" };
        let links = self.links.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "tidegate {version}, worker {}, is ready.\n\n  Links of edges ({security}), {links}\n  Health and metrics, \
             http://{admin}/readyz and /metrics\n\n",
            config.link.name
        )
    }

    fn reload(&self) {
        self.watch.ask();
    }

    /// Devices first, which go on elsewhere; the store last, when nobody writes any more.
    async fn stop(self, ending: Ending) -> Result<(), Failure> {
        let deadline = ending.deadline();
        tracing::info!(devices = self.links.streams(), ?deadline, "draining");
        let left = self.links.drain(deadline).await;
        if left > 0 {
            tracing::warn!(
                devices = left,
                "devices were not moved in time; their edges resume them elsewhere"
            );
        }
        drop(self.links);
        self.broker.finish_due().await;
        if left == 0 && !leave(&self.broker).await {
            tracing::info!("the other workers will find out that this one is gone");
        }
        self.broker.stop();
        let (closed, wait) = tokio::sync::oneshot::channel();
        self.store.close(Box::new(move |result| {
            // Nobody waits any more if it took too long.
            let _ = closed.send(result);
        }));
        match tokio::time::timeout(STORE_CLOSE, wait).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(Failure::io(format!("the store did not close: {}", chain(&error)))),
            Ok(Err(_)) | Err(_) => Err(Failure::io("the store did not close in time")),
        }
    }
}

/// Leaves the other workers, and answers whether it has.
async fn leave(broker: &Broker) -> bool {
    match tokio::time::timeout(LEAVE, broker.leave()).await {
        Ok(Ok(has_left)) => has_left,
        Ok(Err(error)) => {
            tracing::info!(%error, "the store does not let this worker leave");
            false
        }
        Err(_) => false,
    }
}

/// Connects to Redis, and waits for it as long as it takes: a worker that starts during a failover must not depend on who
/// starts it again. Edges do not know of it yet.
async fn connect(config: &RedisConfig) -> Result<RedisStore, Failure> {
    let mut delay = CONNECT_DELAY_MIN;
    let mut told = String::new();
    loop {
        let error = match RedisStore::connect(config.clone()).await {
            Ok(store) => return Ok(store),
            Err(error) if error.is_retryable() => error,
            Err(error) => return Err(store_failure(&error)),
        };
        let why = chain(&error);
        // Every attempt says the same.
        if why != told {
            tracing::warn!(error = %why, "waiting for redis");
            told = why;
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(CONNECT_DELAY_MAX);
    }
}

fn store_failure(error: &ConnectError) -> Failure {
    let line = format!("redis: {}", chain(error));
    match error {
        ConnectError::Config(_) | ConnectError::Unusable { .. } => Failure::usage(line),
        ConnectError::File { .. } => Failure::io(line),
        _ => Failure::unavailable(line),
    }
}

fn link_failure(error: &LinkStartError) -> Failure {
    match error {
        LinkStartError::Listen { address, source } => Failure::unavailable(format!(
            "link.listen = \"{address}\": cannot listen: {source}; choose another address"
        )),
        LinkStartError::Tls(_) => Failure::io(chain(error)),
        LinkStartError::Config(error) => Failure::usage(error),
    }
}
