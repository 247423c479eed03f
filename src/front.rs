//! What faces devices, in front of a worker of this process or of others: authentication and the edge.

use std::sync::Arc;
use std::time::{Duration, Instant};

use authsvc::Local;
use lb::{Certificates, Edge, EdgeConfig, EdgeError};
use link::Upstream;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::config::Front;
use crate::descriptors::{self, Beside};
use crate::exit::{Failure, chain};

/// Who may connect.
pub(crate) fn authentication(config: &Front, registry: &mut Registry) -> Result<Local, Failure> {
    Local::start(&config.auth, &config.authorization, registry).map_err(Failure::usage)
}

/// Binds the listeners and begins to serve.
pub(crate) fn edge<U: Upstream>(
    config: &Front,
    upstream: U,
    auth: &Local,
    beside: Beside,
    registry: &mut Registry,
) -> Result<Edge, Failure> {
    let registry = registry.sub_registry_with_prefix("tidegate");
    let connections_max = descriptors::connections_max(config.edge.connections_max, beside);
    let edge = EdgeConfig { connections_max, ..config.edge.clone() };
    Edge::start(edge, upstream, Arc::new(auth.clone()), registry).map_err(|error| edge_failure(&error))
}

/// The files that may change while it runs: looked at now and then, and taken when they have settled. What cannot be used
/// leaves in force what was.
pub(crate) struct Watch {
    certificates: Certificates,
    auth: Local,
    looking: JoinHandle<()>,
}

impl Watch {
    /// Begins to look. Must be called in a runtime.
    pub(crate) fn start(edge: &Edge, auth: &Local) -> Self {
        let (certificates, auth) = (edge.certificates(), auth.clone());
        let looking = tokio::spawn(look(certificates.clone(), auth.clone()));
        Self { certificates, auth, looking }
    }

    /// Has everything read again though it looks the same.
    pub(crate) fn ask(&self) {
        tracing::info!("certificates and password file are read again when they have settled");
        self.certificates.ask();
        self.auth.ask();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look(certificates: Certificates, auth: Local) {
    let mut ticks = tokio::time::interval(files::LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (certificates, auth) = (certificates.clone(), auth.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let now = Instant::now();
            auth.look(now);
            certificates.look(now);
        });
        if looked.await.is_err() {
            // The runtime is shutting down.
            return;
        }
    }
}

/// Tells devices to go, and waits for them.
pub(crate) async fn drain(edge: Edge, deadline: Duration) {
    tracing::info!(connections = edge.connections(), ?deadline, "draining");
    let cut_off = edge.drain(deadline).await;
    if cut_off > 0 {
        tracing::warn!(connections = cut_off, "connections were cut at the deadline");
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
