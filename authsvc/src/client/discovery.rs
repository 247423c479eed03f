//! Which addresses there are: those of the settings, and what their names stand for, looked up again and again. A name that
//! cannot be looked up keeps what it stood for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::address::{self, Address};
use super::config::Endpoint;
use super::{RemoteCore, follow};

/// How long one name may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses that one name may stand for.
const ADDRESSES_MAX: usize = 64;

/// Looks for services, for ever.
pub(super) async fn run(shared: Arc<RemoteCore>, endpoints: Vec<Endpoint>) {
    let interval = Duration::from_millis(shared.config.resolve_interval_ms);
    // What runs for the client must not keep it.
    let shared = Arc::downgrade(&shared);
    let mut known: Vec<Vec<SocketAddr>> = vec![Vec::new(); endpoints.len()];
    loop {
        for (endpoint, known) in endpoints.iter().zip(&mut known) {
            match resolve(endpoint).await {
                Ok(found) => *known = found,
                Err(error) => {
                    tracing::warn!(host = %endpoint.host, error, "a name is not found, its addresses stay as they were");
                }
            }
        }
        {
            let Some(shared) = shared.upgrade() else { return };
            shared.found(endpoints.iter().zip(&known));
        }
        if endpoints.iter().all(|endpoint| endpoint.host.parse::<IpAddr>().is_ok()) {
            return;
        }
        tokio::time::sleep(interval).await;
    }
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = endpoint.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, endpoint.port)]);
    }
    let looking = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    match tokio::time::timeout(RESOLVE_TIMEOUT, looking).await {
        Ok(Ok(found)) => {
            let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
            if found.is_empty() { Err("no address".to_owned()) } else { Ok(found) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

impl RemoteCore {
    /// Takes the addresses that there are now; those that were there before stay as they are.
    fn found<'a>(self: &Arc<Self>, found: impl Iterator<Item = (&'a Endpoint, &'a Vec<SocketAddr>)>) {
        let before = self.addresses.load_full();
        let mut addresses: BTreeMap<SocketAddr, Arc<Address>> = BTreeMap::new();
        for (endpoint, sockets) in found {
            for socket in sockets {
                if addresses.contains_key(socket) {
                    continue;
                }
                let known = before.iter().find(|address| address.socket == *socket).cloned();
                match known.or_else(|| self.begin(*socket, endpoint)) {
                    Some(address) => {
                        addresses.insert(*socket, address);
                    }
                    None => tracing::error!(host = %endpoint.host, "no certificate can bear this name"),
                }
            }
        }
        for gone in before.iter().filter(|address| !addresses.contains_key(&address.socket)) {
            tracing::info!(address = %gone.socket, "a service of authentication is no longer listed");
            self.metrics.up.forget((gone.socket.to_string(),));
        }
        self.addresses.store(Arc::new(addresses.into_values().collect()));
    }

    fn begin(self: &Arc<Self>, socket: SocketAddr, endpoint: &Endpoint) -> Option<Arc<Address>> {
        let address = Arc::new(Address::new(socket, endpoint, self)?);
        self.metrics.up.of((socket.to_string(),)).set(1);
        let watching = tokio::spawn(address::watch_over(address.clone(), self.clone()));
        address.own(watching.abort_handle());
        let following = tokio::spawn(follow::run(address.clone(), self.clone()));
        address.own(following.abort_handle());
        Some(address)
    }
}
