//! `tidegate lb`: an edge, which holds the devices' connections and hands their sessions to workers.

use authsvc::client::{ClientConfig, Remote};
use lb::upstream::WorkersConfig;
use link::PassportSigner;
use serde::Serialize;

use super::front::{Front, auth_problem};
use super::process::{ProcessConfig, refuse_idle_token};
use super::source::Source;
use super::{Problem, Tier};
use crate::exit::chain;

/// Its sections.
pub(super) const SECTIONS: &[&str] =
    &["listeners", "edge", "tls", "auth", "authorization", "authsvc", "workers", "admin", "log", "runtime"];

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EdgeTierConfig {
    /// What faces devices.
    #[serde(flatten)]
    pub(crate) front: Front,
    /// The service that decides who may connect; without it, this edge does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) authsvc: Option<ClientConfig>,
    /// Where workers are, and how passports are signed for them.
    pub(crate) workers: WorkersConfig,
    /// Admin, logs, process.
    #[serde(flatten)]
    pub(crate) process: ProcessConfig,
}

impl EdgeTierConfig {
    /// Takes what was given and checks everything that can be checked without binding.
    pub(super) fn read(mut source: Source) -> Result<Self, Problem> {
        let mut workers: WorkersConfig = source.section("workers")?;
        let process = ProcessConfig::read(&source, Tier::Edge)?;
        let authsvc = read_authsvc(&source)?;
        let front = Front::read(&mut source, None)?;
        workers.packet_bytes_max = front.edge.packet_bytes_max;
        workers.passport.comes_signed = authsvc.is_some();
        check_workers(&workers, &source)?;
        Ok(Self { front, authsvc, workers, process })
    }
}

/// The service, if there is one. Then nothing is decided here.
fn read_authsvc(source: &Source) -> Result<Option<ClientConfig>, Problem> {
    if source.value("authsvc").is_none() {
        return Ok(None);
    }
    let advice = "is not decided at an edge with [authsvc]; set it at the service (tidegate authsvc)";
    source.refuse(&[("auth", advice), ("authorization", advice)])?;
    refuse_idle_token(source, "an edge with [authsvc] revokes nothing; set it at the service")?;
    let config: ClientConfig = source.section("authsvc")?;
    Remote::check(&config).map_err(|error| auth_problem(error, source))?;
    Ok(Some(config))
}

fn check_workers(workers: &WorkersConfig, source: &Source) -> Result<(), Problem> {
    if workers.addresses.is_empty() {
        let advice = "needed: where workers listen for links, such as [\"127.0.0.1:7883\"]";
        return Err(source.problem("workers.addresses", advice));
    }
    let key_file = &workers.passport.signing_key_file;
    if key_file.is_none() && !workers.passport.comes_signed {
        let advice = "needed: the private key that passports are signed with (tidegate certs DIR makes a pair), or \
                      [authsvc], a service that signs them";
        return Err(source.problem("workers.passport.signing_key_file", advice));
    }
    workers.validate().map_err(|error| source.wrong(error))?;
    if let Some(key_file) = key_file {
        PassportSigner::from_file(key_file).map_err(|error| {
            source.problem("workers.passport.signing_key_file", chain(&error)).of_file_if(true)
        })?;
    }
    if let Some(tls) = &workers.tls {
        tls.client().map_err(|error| {
            let text = chain(&error);
            let (below, advice) = text.split_once(": ").unwrap_or(("", &text));
            source.problem(&format!("workers.tls.{below}"), advice).of_file_if(error.is_of_a_file())
        })?;
    } else if !workers.addresses.iter().all(|address| is_on_this_machine(address)) {
        let advice = "beyond loopback links need mutual TLS; set workers.tls.certificate_file, key_file and ca_file \
                      (tidegate certs DIR makes some for development)";
        return Err(source.problem("workers.addresses", advice));
    }
    Ok(())
}

/// Whether `host:port` cannot lead elsewhere.
fn is_on_this_machine(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}
