//! The service of authentication: the sources, then the address that edges connect to; it ends in the reverse order.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use authsvc::service::{Service, ServiceError};
use authsvc::{Local, Revocations};
use prometheus_client::registry::Registry;

use crate::admin::Stalled;
use crate::config::AuthsvcConfig;
use crate::exit::Failure;
use crate::front;
use crate::process::{Ending, Runnable};
use crate::upgrade::Arrival;
use crate::watch::Watch;

/// Everything that runs.
pub(crate) struct Authsvc {
    service: Service,
    local: Local,
    watch: Watch,
}

impl Runnable for Authsvc {
    type Config = AuthsvcConfig;

    const COMMAND: &'static str = "authsvc";

    async fn start(
        config: &AuthsvcConfig,
        registry: &mut Registry,
        _arrival: &mut Arrival,
    ) -> Result<Self, Failure> {
        let local = Local::start(&config.auth, &config.authorization, registry)
            .map_err(|error| front::auth_failure(&error))?;
        let service = Service::start(config.service.clone(), &config.passport, local.clone(), registry)
            .map_err(|error| failure(&error))?;
        let watch = Watch::start(vec![Box::new(local.clone()), Box::new(service.files())]);
        Ok(Self { service, local, watch })
    }

    fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        let addresses = self.service.addresses().iter().enumerate();
        addresses.map(|(n, address)| (link::name_of_nth("service", n), *address)).collect()
    }

    fn stalled(&self) -> Stalled {
        Box::new(|| None)
    }

    fn revocations(&self) -> Option<Revocations> {
        Some(self.local.revocations().clone())
    }

    fn welcome(&self, config: &AuthsvcConfig, admin: SocketAddr) -> String {
        let security = match &config.service.tls {
            None => "without TLS",
            Some(tls) if tls.client_ca_file.is_some() => "mutual TLS",
            Some(_) => "TLS",
        };
        let addresses =
            self.service.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "tidegate {}, authentication, is ready.\n\n  Edges ({security}), {addresses}\n  Health and metrics, \
             http://{admin}/readyz and /metrics\n\n",
            env!("CARGO_PKG_VERSION")
        )
    }

    fn reload(&self) {
        self.watch.ask();
    }

    async fn stop(self, ending: Ending) -> Result<(), Failure> {
        let deadline = ending.deadline();
        tracing::info!(?deadline, "draining");
        let cut = self.service.drain(deadline).await;
        if cut > 0 {
            tracing::warn!(connections = cut, "connections were cut at the deadline");
        }
        Ok(())
    }
}

fn failure(error: &ServiceError) -> Failure {
    match error {
        ServiceError::Bind { address, source } => Failure::unavailable(format!(
            "service.listen = \"{address}\": cannot listen: {source}; choose another address"
        )),
        ServiceError::Setting(error) => front::auth_failure(error),
    }
}
