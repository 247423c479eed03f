//! `tidegate lb`: an edge, which holds the devices' connections and hands their sessions to workers.

use lb::upstream::WorkersConfig;
use link::PassportSigner;
use serde::Serialize;

use super::front::Front;
use super::process::ProcessConfig;
use super::source::Source;
use super::{Problem, Tier};
use crate::exit::chain;

/// Its sections.
pub(super) const SECTIONS: &[&str] =
    &["listeners", "edge", "tls", "auth", "authorization", "workers", "admin", "log", "runtime"];

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EdgeTierConfig {
    /// What faces devices.
    #[serde(flatten)]
    pub(crate) front: Front,
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
        let front = Front::read(&mut source, None)?;
        workers.packet_bytes_max = front.edge.packet_bytes_max;
        check_workers(&workers, &source)?;
        Ok(Self { front, workers, process })
    }
}

fn check_workers(workers: &WorkersConfig, source: &Source) -> Result<(), Problem> {
    if workers.addresses.is_empty() {
        let advice = "needed: where workers listen for links, such as [\"127.0.0.1:7883\"]";
        return Err(source.problem("workers.addresses", advice));
    }
    let Some(key_file) = &workers.passport.signing_key_file else {
        let advice =
            "needed: the private key that passports are signed with (tidegate certs DIR makes a pair)";
        return Err(source.problem("workers.passport.signing_key_file", advice));
    };
    workers.validate().map_err(|error| source.problem(&format!("workers.{}", error.key), error.problem))?;
    PassportSigner::from_file(key_file)
        .map_err(|error| source.problem("workers.passport.signing_key_file", chain(&error)))?;
    if let Some(tls) = &workers.tls {
        tls.client().map_err(|error| {
            let text = chain(&error);
            let (below, advice) = text.split_once(": ").unwrap_or(("", &text));
            source.problem(&format!("workers.tls.{below}"), advice)
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
