//! `tidegate standalone`: everything in one process, on the embedded store.

use std::path::PathBuf;

use broker::BrokerConfig;
use serde::{Deserialize, Serialize};
use state::{EmbeddedConfig, OpenError};

use super::front::Front;
use super::process::ProcessConfig;
use super::source::Source;
use super::{Problem, Tier, check_broker};

/// Its sections.
pub(super) const SECTIONS: &[&str] = &[
    "listeners",
    "edge",
    "tls",
    "auth",
    "authorization",
    "broker",
    "data",
    "state",
    "admin",
    "log",
    "runtime",
];

/// Everything that can be configured. `docs/configuration.md` lists every key.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StandaloneConfig {
    /// What faces devices; certificates are made for development when none are named.
    #[serde(flatten)]
    pub(crate) front: Front,
    /// Sessions, queues and what is offered to clients.
    pub(crate) broker: BrokerConfig,
    /// Where everything is kept.
    pub(crate) data: DataConfig,
    /// The embedded store; its `dir` is `state` below `data.dir`.
    pub(crate) state: EmbeddedConfig,
    /// Admin, logs, process.
    #[serde(flatten)]
    pub(crate) process: ProcessConfig,
}

/// `[data]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// Directory of the store and the development certificates. Default `data`.
    pub(crate) dir: PathBuf,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { dir: PathBuf::from("data") }
    }
}

impl StandaloneConfig {
    /// Takes what was given and checks everything that can be checked without binding.
    pub(super) fn read(mut source: Source) -> Result<Self, Problem> {
        source.refuse(&[
            ("broker.packet_bytes_max", "is set as edge.packet_bytes_max"),
            ("state.dir", "is set by data.dir, below which the store has its own directory"),
        ])?;
        let data: DataConfig = source.section("data")?;
        let front = Front::read(&mut source, Some(&certificates_dir(&data)))?;
        let mut broker: BrokerConfig = source.section("broker")?;
        broker.packet_bytes_max = front.edge.packet_bytes_max;
        check_broker(&broker, &source)?;
        let mut state: EmbeddedConfig = source.section("state")?;
        state.dir = data.dir.join("state");
        state.validate().map_err(|error| match error {
            OpenError::Config(error) => source.wrong(error),
            error => source.problem("state", error),
        })?;
        let process = ProcessConfig::read(&source, Tier::Standalone)?;
        Ok(Self { front, broker, data, state, process })
    }

    /// Where development certificates are.
    pub(crate) fn certificates_dir(&self) -> PathBuf {
        certificates_dir(&self.data)
    }

    /// Whether TLS is served with the certificate that is made for development.
    pub(crate) fn uses_development_certificate(&self) -> bool {
        self.front.names_no_certificate()
    }
}

fn certificates_dir(data: &DataConfig) -> PathBuf {
    data.dir.join("certs")
}
