//! The whole configuration of each command: each part is defined by the crate that obeys it, this module composes, reads and
//! checks. What is wrong is one line that names the key; see [`Problem`].

mod authsvc;
mod edge;
mod environment;
mod front;
mod listeners;
mod problem;
mod process;
mod shown;
mod source;
mod standalone;
mod worker;

use std::path::Path;

use broker::BrokerConfig;
use link::Bind;

pub(crate) use self::authsvc::AuthsvcConfig;
pub(crate) use edge::EdgeTierConfig;
pub(crate) use environment::environment;
pub(crate) use front::Front;
pub(crate) use problem::{Fault, Problem};
pub(crate) use process::{AdminConfig, LOG_LEVELS, LogConfig, LogFormat, MetricsAccess, ProcessConfig};
use source::Source;
pub(crate) use standalone::StandaloneConfig;
pub(crate) use worker::WorkerConfig;

/// What a process can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Everything in one process.
    Standalone,
    /// An edge.
    Edge,
    /// A worker.
    Worker,
    /// The service of authentication.
    Authsvc,
}

impl Tier {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Standalone, Self::Edge, Self::Worker, Self::Authsvc];

    /// The command that runs it.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Edge => "lb",
            Self::Worker => "broker",
            Self::Authsvc => "authsvc",
        }
    }

    /// Where its admin endpoint listens by default, so that an edge and a worker fit on one machine.
    fn admin_port(self) -> u16 {
        match self {
            Self::Standalone | Self::Edge => 9101,
            Self::Worker => 9102,
            Self::Authsvc => 9103,
        }
    }

    fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Standalone => standalone::SECTIONS,
            Self::Edge => edge::SECTIONS,
            Self::Worker => worker::SECTIONS,
            Self::Authsvc => authsvc::SECTIONS,
        }
    }
}

/// The configuration of a process.
#[derive(Clone, Debug)]
pub(crate) enum Config {
    /// Of [`Tier::Standalone`].
    Standalone(Box<StandaloneConfig>),
    /// Of [`Tier::Edge`].
    Edge(Box<EdgeTierConfig>),
    /// Of [`Tier::Worker`].
    Worker(Box<WorkerConfig>),
    /// Of [`Tier::Authsvc`].
    Authsvc(Box<AuthsvcConfig>),
}

impl Config {
    /// Reads `file`, then the environment over it, and checks everything that can be checked without binding.
    ///
    /// # Errors
    /// The first thing that is wrong, as one line.
    pub(crate) fn load(
        tier: Tier,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problem> {
        let source = Source::read(file, environment)?;
        check_sections(tier, &source)?;
        Ok(match tier {
            Tier::Standalone => Self::Standalone(Box::new(StandaloneConfig::read(source)?)),
            Tier::Edge => Self::Edge(Box::new(EdgeTierConfig::read(source)?)),
            Tier::Worker => Self::Worker(Box::new(WorkerConfig::read(&source)?)),
            Tier::Authsvc => Self::Authsvc(Box::new(AuthsvcConfig::read(&source)?)),
        })
    }

    /// Where the admin endpoint of such a process listens; nothing else is looked at.
    ///
    /// # Errors
    /// As of [`Config::load`].
    pub(crate) fn admin_address(
        tier: Tier,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Bind, Problem> {
        process::admin_address(&Source::read(file, environment)?, tier)
    }

    /// What is in force, as TOML.
    ///
    /// # Errors
    /// It cannot be written as TOML (a path that is not UTF-8).
    pub(crate) fn shown(&self) -> Result<String, toml::ser::Error> {
        match self {
            Self::Standalone(config) => shown::shown(config, &shown::OF_STANDALONE),
            // Who may connect is not decided there.
            Self::Edge(config) if config.authsvc.is_some() => shown::shown(config, &shown::OF_EDGE_THAT_ASKS),
            Self::Edge(config) => shown::shown(config, &shown::OF_EDGE),
            Self::Worker(config) => shown::shown(config, &shown::OF_WORKER),
            Self::Authsvc(config) => shown::shown(config, &shown::OF_AUTHSVC),
        }
    }

    /// How it logs.
    pub(crate) fn log(&self) -> &LogConfig {
        match self {
            Self::Standalone(config) => &config.process.log,
            Self::Edge(config) => &config.process.log,
            Self::Worker(config) => &config.process.log,
            Self::Authsvc(config) => &config.process.log,
        }
    }
}

/// Refuses sections that a process of this kind would not look at.
fn check_sections(tier: Tier, source: &Source) -> Result<(), Problem> {
    for section in source.sections() {
        if tier.sections().contains(&section) {
            continue;
        }
        let others: Vec<_> =
            Tier::ALL.into_iter().filter(|other| other.sections().contains(&section)).collect();
        if others.is_empty() {
            return Err(source.unknown(section, source::unknown_advice(section, "", tier.sections())));
        }
        let others: Vec<_> =
            others.into_iter().map(|other| format!("tidegate {}", other.command())).collect();
        let advice =
            format!("tidegate {} has no such section, only {}", tier.command(), others.join(" and "));
        return Err(source.unknown(section, advice));
    }
    Ok(())
}

fn check_broker(broker: &BrokerConfig, source: &Source) -> Result<(), Problem> {
    broker.validate().map_err(|error| source.wrong(error))
}

#[cfg(test)]
mod tests;
