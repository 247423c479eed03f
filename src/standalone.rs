//! Edge, worker and authentication in one process: start in the order of need, end in the reverse order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use authsvc::{Local, Revocations};
use broker::Broker;
use files::private::Readers;
use lb::Edge;
use prometheus_client::registry::Registry;
use state::{EmbeddedConfig, EmbeddedStore, OpenError, Store};

use crate::admin::Stalled;
use crate::asking::ActionAuthorizer;
use crate::authentication::Authentication;
use crate::config::StandaloneConfig;
use crate::descriptors::{self, Beside};
use crate::exit::{Failure, chain};
use crate::front;
use crate::process::Tier;
use crate::watch::Watch;
use crate::{dev_certs, welcome};

/// How long the store may take to write what it was given.
const STORE_CLOSE: Duration = Duration::from_secs(30);

/// Everything that runs.
pub(crate) struct Standalone {
    edge: Edge,
    auth: Local,
    broker: Broker,
    store: Arc<EmbeddedStore>,
    watch: Watch,
}

impl Tier for Standalone {
    type Config = StandaloneConfig;

    async fn start(config: &StandaloneConfig, registry: &mut Registry) -> Result<Self, Failure> {
        make_certificates(config)?;
        let auth = front::authentication(&config.front, registry)?;
        let store = open_store(config).await?;
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
        let edge = front::edge(&config.front, broker.clone(), &here, Beside::Store, registry)?;
        let watch = front::watch(&edge, &here);
        Ok(Self { edge, auth, broker, store, watch })
    }

    fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.edge.addresses().clone()
    }

    fn stalled(&self) -> Stalled {
        let store = self.store.clone();
        Box::new(move || store.is_failing().then_some("the store cannot be written"))
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
    async fn stop(self, deadline: Duration) -> Result<(), Failure> {
        front::drain(self.edge, deadline).await;
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

async fn open_store(config: &StandaloneConfig) -> Result<Arc<EmbeddedStore>, Failure> {
    let settings = EmbeddedConfig { tables_open_max: descriptors::tables_max(), ..config.state.clone() };
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(settings)).await;
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
