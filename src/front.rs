//! What faces devices, in front of a worker of this process or of others: authentication and the edge.

use std::sync::Arc;
use std::time::Duration;

use authsvc::client::{ClientConfig, Remote};
use authsvc::{AuthError, Local};
use lb::{Edge, EdgeConfig, EdgeError};
use link::{Bind, Inherited, Upstream};
use prometheus_client::registry::Registry;

use crate::authentication::Authentication;
use crate::config::Front;
use crate::descriptors::{self, Beside};
use crate::exit::{Failure, chain};
use crate::watch::{Files, Watch};

/// Who may connect, decided here.
pub(crate) fn authentication(config: &Front, registry: &mut Registry) -> Result<Local, Failure> {
    Local::start(&config.auth, &config.authorization, registry).map_err(|error| auth_failure(&error))
}

/// Who may connect, decided by a service.
pub(crate) fn ask_elsewhere(config: &ClientConfig, registry: &mut Registry) -> Result<Remote, Failure> {
    Remote::start(config.clone(), registry).map_err(|error| auth_failure(&error))
}

/// Binds the listeners and begins to serve.
pub(crate) fn edge<U: Upstream>(
    config: &Front,
    upstream: U,
    auth: &Authentication,
    beside: Beside,
    registry: &mut Registry,
    inherited: &mut Inherited,
) -> Result<Edge, Failure> {
    let registry = registry.sub_registry_with_prefix("tidegate");
    let connections_max = descriptors::connections_max(config.edge.connections_max, beside);
    let edge = EdgeConfig { connections_max, ..config.edge.clone() };
    let edge = Edge::start_with(inherited, edge, upstream, Arc::new(auth.clone()), registry)
        .map_err(|error| edge_failure(&error))?;
    edge.follow(auth.revocations());
    Ok(edge)
}

/// Looks after the files of both, and of others.
pub(crate) fn watch(edge: &Edge, auth: &Authentication, others: Vec<Box<dyn Files>>) -> Watch {
    let own: [Box<dyn Files>; 2] = [Box::new(edge.certificates()), auth.files()];
    Watch::start(own.into_iter().chain(others).collect())
}

/// Tells devices to go, and waits for them.
pub(crate) async fn drain(edge: Edge, deadline: Duration) {
    tracing::info!(connections = edge.connections(), ?deadline, "draining");
    let cut_off = edge.drain(deadline).await;
    if cut_off > 0 {
        tracing::warn!(connections = cut_off, "connections were cut at the deadline");
    }
}

/// The same where another process has the sockets; `is_paced` if it serves already.
pub(crate) async fn give_way(edge: Edge, deadline: Duration, is_paced: bool) {
    tracing::info!(connections = edge.connections(), ?deadline, "giving way");
    let cut_off = edge.give_way(deadline, is_paced).await;
    if cut_off > 0 {
        tracing::warn!(connections = cut_off, "connections were cut at the deadline");
    }
}

/// Where devices are listened for.
pub(crate) fn listened(config: &Front) -> Vec<(String, &Bind)> {
    config.listeners.iter().map(|(name, listener)| (name.clone(), &listener.bind)).collect()
}

/// How the process ends without it.
pub(crate) fn auth_failure(error: &AuthError) -> Failure {
    if error.is_of_a_file() { Failure::io(error) } else { Failure::usage(error) }
}

fn edge_failure(error: &EdgeError) -> Failure {
    match error {
        EdgeError::Config(error) => Failure::usage(error),
        EdgeError::Tls { .. } => Failure::io(chain(error)),
        EdgeError::Bind { listener, address, source } => Failure::unavailable(format!(
            "listeners.{listener}.bind = \"{address}\": cannot listen: {source}; choose another address, or set \
             listeners.{listener} = \"off\""
        )),
        error => Failure::unavailable(chain(error)),
    }
}
