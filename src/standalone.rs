//! Edge, worker and authentication in one process: start in the order of need, end in the reverse order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use authsvc::{Local, Revocations};
use broker::Broker;
use files::private::Readers;
use lb::Edge;
use link::Bind;
use prometheus_client::registry::Registry;
use state::{EmbeddedConfig, EmbeddedStore, OpenError, Store};

use crate::admin::Stalled;
use crate::asking::ActionAuthorizer;
use crate::authentication::Authentication;
use crate::config::StandaloneConfig;
use crate::descriptors::{self, Beside};
use crate::exit::{Failure, chain};
use crate::front;
use crate::memory::Relief;
use crate::process::{Ending, Runnable};
use crate::upgrade::{Arrival, Sockets, Way};
use crate::watch::Watch;
use crate::{dev_certs, welcome};

/// How long the store may take to write what it was given.
const STORE_CLOSE: Duration = Duration::from_secs(30);

/// How long devices may take to go where another process waits for their sessions; then they are cut off.
const PAUSE: Duration = Duration::from_secs(3);

/// How long the store may stay in use by a process that is about to end.
const STORE_FREE: Duration = Duration::from_secs(10);

/// Between two looks whether it is free.
const STORE_LOOK: Duration = Duration::from_millis(20);

/// Everything that runs.
pub(crate) struct Standalone {
    edge: Edge,
    auth: Local,
    broker: Broker,
    store: Arc<EmbeddedStore>,
    watch: Watch,
}

impl Runnable for Standalone {
    type Config = StandaloneConfig;

    const COMMAND: &'static str = "standalone";

    /// There is one store.
    fn way(deadline: Duration) -> Way {
        Way::Instead { within: deadline.min(PAUSE) + STORE_CLOSE }
    }

    fn listened(config: &StandaloneConfig) -> Vec<(String, &Bind)> {
        front::listened(&config.front)
    }

    async fn start(
        config: &StandaloneConfig,
        registry: &mut Registry,
        arrival: &mut Arrival,
    ) -> Result<Self, Failure> {
        make_certificates(config)?;
        let auth = front::authentication(&config.front, registry)?;
        arrival.take_over().await?;
        let patience = if arrival.follows() { STORE_FREE } else { Duration::ZERO };
        let store = open_store(config, patience).await?;
        // What a source brought along is not known of who is away: then Wills keep to the last passport.
        let rules = config.front.auth.rules_follow_from_names().then(|| {
            let asked = auth.clone();
            let rules: broker::Rules =
                Arc::new(move |subject, client_id| asked.passport_of(subject, client_id));
            rules
        });
        let shared = store.clone() as Arc<dyn Store>;
        let broker = Broker::start_with(rules, config.broker.clone(), shared, registry)
            .await
            .map_err(|error| Failure::io(chain(&error)))?;
        let here = Authentication::Here(auth.clone());
        broker.ask_by(ActionAuthorizer::new(here.clone()));
        let edge =
            front::edge(&config.front, broker.clone(), &here, Beside::Store, registry, arrival.inherited())?;
        let watch = front::watch(&edge, &here, Vec::new());
        Ok(Self { edge, auth, broker, store, watch })
    }

    fn take_sockets(&mut self) -> Sockets {
        self.edge.take_sockets()
    }

    fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.edge.addresses().clone()
    }

    fn stalled(&self) -> Stalled {
        let store = self.store.clone();
        Box::new(move || store.is_failing().then_some("the store cannot be written"))
    }

    fn reliefs(&self) -> Vec<Box<dyn Relief>> {
        vec![Box::new(self.broker.clone()), Box::new(self.edge.relief())]
    }

    fn revocations(&self) -> Option<Revocations> {
        Some(self.auth.revocations().clone())
    }

    fn welcome(&self, config: &StandaloneConfig, admin: SocketAddr) -> String {
        welcome::welcome(config, self.edge.addresses(), admin)
    }

    fn reload(&self) {
        self.watch.ask();
    }

    /// Edge first, so that nothing new comes; the store last, when nobody writes any more.
    async fn stop(self, ending: Ending) -> Result<(), Failure> {
        match ending {
            Ending::Alone(deadline) => front::drain(self.edge, deadline).await,
            // All at once: none of them is served before the last has gone.
            Ending::Succeeded(deadline) => front::give_way(self.edge, deadline.min(PAUSE), false).await,
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

fn make_certificates(config: &StandaloneConfig) -> Result<(), Failure> {
    if !config.uses_development_certificate() {
        return Ok(());
    }
    let dir = config.certificates_dir();
    let made = dev_certs::ensure(&dir, Readers::Owner).map_err(Failure::io)?;
    if !made.is_empty() {
        tracing::info!(dir = %dir.display(), "made a development CA and certificates");
    }
    Ok(())
}

/// Opens the store, which may stay in use for so long.
async fn open_store(config: &StandaloneConfig, patience: Duration) -> Result<Arc<EmbeddedStore>, Failure> {
    let settings = EmbeddedConfig { tables_open_max: descriptors::tables_max(), ..config.state.clone() };
    let deadline = Instant::now() + patience;
    let opened = tokio::task::spawn_blocking(move || {
        loop {
            match EmbeddedStore::open(settings.clone()) {
                Err(OpenError::InUse { .. }) if Instant::now() < deadline => std::thread::sleep(STORE_LOOK),
                opened => return opened,
            }
        }
    })
    .await;
    match opened.map_err(Failure::software)? {
        Ok(store) => Ok(Arc::new(store)),
        Err(error @ OpenError::InUse { .. }) => Err(Failure::unavailable(format!(
            "{error}; set data.dir to another directory or end that process"
        ))),
        Err(error @ OpenError::Damaged { .. }) => Err(Failure::io(format!(
            "{}; nothing was changed: put a copy of the directory back, or set state.on_damage = \"set_aside\" to keep the \
             damaged part in {} and go on with the rest",
            chain(&error),
            config.state.dir.join("damaged").display()
        ))),
        Err(error) => Err(Failure::io(chain(&error))),
    }
}
