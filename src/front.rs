//! What faces devices, in front of a worker of this process or of others: authentication and the edge.

use std::sync::Arc;
use std::time::Duration;

use authsvc::Local;
use lb::{Edge, EdgeError};
use link::Upstream;
use prometheus_client::registry::Registry;

use crate::config::Front;
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
    registry: &mut Registry,
) -> Result<Edge, Failure> {
    let registry = registry.sub_registry_with_prefix("tidegate");
    Edge::start(config.edge.clone(), upstream, Arc::new(auth.clone()), registry)
        .map_err(|error| edge_failure(&error))
}

/// What cannot be read leaves in force what was.
pub(crate) fn reload(edge: &Edge, auth: &Local) {
    match edge.reload_tls() {
        Ok(()) => tracing::info!("certificates read"),
        Err(error) => tracing::error!(error = %chain(&error), "certificates not taken"),
    }
    if let Err(error) = auth.reload() {
        tracing::error!(%error, "password file not taken, the users of before stay");
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
