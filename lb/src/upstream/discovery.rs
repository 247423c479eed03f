//! Which workers there are: the addresses of the configuration, and those that its names stand for, resolved again and again.
//! A name that cannot be resolved keeps what it stood for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Duration, sleep, timeout};

use super::config::Endpoint;
use super::pool::Pool;
use super::{dial, health};

/// How long one name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What one entry of the configuration stands for.
struct Entry {
    endpoint: Endpoint,
    addresses: Vec<SocketAddr>,
    has_failed: bool,
}

impl Entry {
    async fn resolve(&mut self) {
        if let Some(address) = self.endpoint.address {
            self.addresses = vec![address];
            return;
        }
        let Endpoint { host, port, .. } = &self.endpoint;
        let failed = match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host.as_str(), *port))).await {
            Ok(Ok(found)) => {
                let found: Vec<_> = found.collect();
                if !found.is_empty() {
                    self.addresses = found;
                    self.has_failed = false;
                    return;
                }
                "no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(%host, error = %failed, "workers not resolved, those known stay");
        }
    }
}

/// Finds workers, for ever.
pub(super) async fn run(pool: Arc<Pool>) {
    let endpoints = pool.config.addresses.iter().filter_map(|text| Endpoint::parse(text).ok());
    let mut entries: Vec<Entry> =
        endpoints.map(|endpoint| Entry { endpoint, addresses: Vec::new(), has_failed: false }).collect();
    loop {
        let mut found = BTreeMap::new();
        for entry in &mut entries {
            entry.resolve().await;
            for address in &entry.addresses {
                found.entry(*address).or_insert_with(|| entry.endpoint.host.clone());
            }
        }
        list(&pool, &found);
        if entries.iter().all(|entry| entry.endpoint.address.is_some()) {
            return;
        }
        sleep(Duration::from_millis(pool.config.resolve_interval_ms)).await;
    }
}

/// These workers there are: links to those that are new are kept up from now on, and their health is watched.
pub(super) fn list(pool: &Arc<Pool>, found: &BTreeMap<SocketAddr, String>) {
    for listed in pool.found(found) {
        for _ in 0..listed.links {
            dial::begin(pool, &listed.worker);
        }
        if let Some(port) = pool.config.health.admin_port.filter(|_| listed.is_new) {
            let watch = health::watch(pool.clone(), listed.worker.clone(), port);
            listed.worker.own(pool.runtime.spawn(watch).abort_handle());
        }
    }
}
