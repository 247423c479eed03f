//! An edge: authentication, the way to the workers, then the listeners; it ends in the reverse order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use authsvc::Revocations;
use lb::Edge;
use lb::upstream::{Workers, WorkersError};
use link::Bind;
use prometheus_client::registry::Registry;

use crate::admin::Stalled;
use crate::authentication::Authentication;
use crate::config::EdgeTierConfig;
use crate::descriptors::Beside;
use crate::exit::{Failure, chain};
use crate::front;
use crate::memory::Relief;
use crate::process::{Ending, Runnable};
use crate::upgrade::{Arrival, Sockets};
use crate::watch::Watch;

/// How long workers may take to hear of the last connections that have ended.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a process that is to take another one's place may take to reach a worker.
const REACH: Duration = Duration::from_secs(30);

/// Between two looks whether it does.
const REACH_LOOK: Duration = Duration::from_millis(10);

/// Everything that runs.
pub(crate) struct EdgeTier {
    edge: Edge,
    auth: Authentication,
    workers: Workers,
    watch: Watch,
}

impl Runnable for EdgeTier {
    type Config = EdgeTierConfig;

    const COMMAND: &'static str = "lb";

    fn listened(config: &EdgeTierConfig) -> Vec<(String, &Bind)> {
        front::listened(&config.front)
    }

    async fn start(
        config: &EdgeTierConfig,
        registry: &mut Registry,
        arrival: &mut Arrival,
    ) -> Result<Self, Failure> {
        let auth = match &config.authsvc {
            Some(service) => Authentication::Elsewhere(front::ask_elsewhere(service, registry)?),
            None => Authentication::Here(front::authentication(&config.front, registry)?),
        };
        let workers = Workers::start(config.workers.clone(), registry.sub_registry_with_prefix("tidegate"))
            .map_err(|error| match error {
            WorkersError::Config(error) => Failure::usage(error),
            error => Failure::io(chain(&error)),
        })?;
        if arrival.is_replacing() {
            reach(&workers, arrival).await?;
        }
        arrival.take_over().await?;
        let edge =
            front::edge(&config.front, workers.clone(), &auth, Beside::Links, registry, arrival.inherited())?;
        let watch = front::watch(&edge, &auth, vec![Box::new(workers.clone())]);
        Ok(Self { edge, auth, workers, watch })
    }

    fn take_sockets(&mut self) -> Sockets {
        self.edge.take_sockets()
    }

    fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.edge.addresses().clone()
    }

    fn stalled(&self) -> Stalled {
        let workers = self.workers.clone();
        Box::new(move || (!workers.is_ready()).then_some("no worker can be reached"))
    }

    fn reliefs(&self) -> Vec<Box<dyn Relief>> {
        vec![Box::new(self.edge.relief())]
    }

    /// What a service decides, it revokes too.
    fn revocations(&self) -> Option<Revocations> {
        match &self.auth {
            Authentication::Here(local) => Some(local.revocations().clone()),
            Authentication::Elsewhere(_) => None,
        }
    }

    fn welcome(&self, config: &EdgeTierConfig, admin: SocketAddr) -> String {
        let mut text = format!("tidegate {}, edge, is ready.\n\n", env!("CARGO_PKG_VERSION"));
        for (name, address) in self.edge.addresses() {
            text.push_str(&format!("  {name}, {address}\n"));
        }
        let security = if config.workers.tls.is_some() { "mutual TLS" } else { "without TLS" };
        text.push_str(&format!("  Workers ({security}), {}\n", config.workers.addresses.join(", ")));
        if let Some(service) = &config.authsvc {
            text.push_str(&format!("  Authentication, {}\n", service.urls.join(", ")));
        }
        text.push_str(&format!("  Health and metrics, http://{admin}/readyz and /metrics\n\n"));
        text
    }

    fn reload(&self) {
        self.watch.ask();
    }

    /// Devices first; then the workers hear of what has ended.
    async fn stop(self, ending: Ending) -> Result<(), Failure> {
        match ending {
            Ending::Alone(deadline) => front::drain(self.edge, deadline).await,
            Ending::Succeeded(deadline) => front::give_way(self.edge, deadline, true).await,
        }
        let unheard = self.workers.stop(FAREWELL).await;
        if unheard > 0 {
            tracing::warn!(connections = unheard, "no worker has heard that these connections have ended");
        }
        Ok(())
    }
}

/// Waits until a worker can be reached: the edge that serves meanwhile goes on until this one can. When that one has gone nobody else
/// has the sockets, and this one serves as one that comes first does.
async fn reach(workers: &Workers, arrival: &Arrival) -> Result<(), Failure> {
    let reached = async {
        while !workers.is_ready() && arrival.is_replacing() {
            tokio::time::sleep(REACH_LOOK).await;
        }
    };
    tokio::time::timeout(REACH, reached).await.map_err(|_| {
        Failure::unavailable(format!(
            "no worker can be reached for {} s; the edge that was to be replaced goes on",
            REACH.as_secs()
        ))
    })
}
