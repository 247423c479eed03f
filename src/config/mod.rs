//! The whole configuration: each part is defined by the crate that obeys it, this module composes, reads and checks.
//! What is wrong is one line that names the key; see [`Problem`].

mod listeners;
mod problem;
mod shown;
mod source;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use authsvc::{Anonymous, AuthConfig, AuthError, AuthorizationConfig, CertificateIdentity};
use broker::BrokerConfig;
use lb::tls::{Application, CertificateFiles, ClientCertificateMode, TlsConfig, TlsServer};
use lb::{EdgeConfig, ListenerConfig};
use serde::{Deserialize, Serialize};
use state::{EmbeddedConfig, OpenError};

pub(crate) use problem::Problem;
use source::Source;

use crate::dev_certs;
use crate::exit::chain;

/// Everything that can be configured. `docs/configuration.md` lists every key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Listeners by name.
    pub(crate) listeners: BTreeMap<String, ListenerConfig>,
    /// Bounds and timeouts of the edge; its `listeners` are the ones above.
    pub(crate) edge: EdgeConfig,
    /// Certificates; made for development when none are named.
    pub(crate) tls: TlsConfig,
    /// Who may connect.
    pub(crate) auth: AuthConfig,
    /// What clients may do.
    pub(crate) authorization: AuthorizationConfig,
    /// Sessions, queues and what is offered to clients.
    pub(crate) broker: BrokerConfig,
    /// Where everything is kept.
    pub(crate) data: DataConfig,
    /// The embedded store; its `dir` is `state` below `data.dir`.
    pub(crate) state: EmbeddedConfig,
    /// Health and metrics over HTTP.
    pub(crate) admin: AdminConfig,
    /// Logs.
    pub(crate) log: LogConfig,
    /// The process.
    pub(crate) runtime: RuntimeConfig,
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

/// `[admin]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdminConfig {
    /// Address of `/livez`, `/readyz` and `/metrics`; they are not authenticated. Default `127.0.0.1:9101`.
    pub(crate) listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9101)) }
    }
}

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,lb=debug`. `RUST_LOG` takes precedence.
    /// Default `info`.
    pub(crate) level: String,
    /// How lines look. Default `auto`.
    pub(crate) format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// How log lines look. They go to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// `human` on a terminal, `json` elsewhere.
    Auto,
    /// For reading.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[runtime]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RuntimeConfig {
    /// Threads that serve connected devices. Default: the cores that this process may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worker_threads: Option<usize>,
    /// Milliseconds that a shutdown may take until connections are cut. Default 10000.
    pub(crate) drain_timeout_ms: u64,
    /// File to write the bound addresses to, as JSON, once everything is up. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) addresses_file: Option<PathBuf>,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self { worker_threads: None, drain_timeout_ms: 10_000, addresses_file: None }
    }
}

impl RuntimeConfig {
    /// Threads in force.
    pub(crate) fn worker_threads_in_force(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.worker_threads.unwrap_or_else(cores)
    }

    /// How long a shutdown may take.
    pub(crate) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

impl Config {
    /// Reads `file`, then the environment over it, and checks everything that can be checked without binding.
    ///
    /// # Errors
    /// The first thing that is wrong, as one line.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problem> {
        let mut source = Source::read(file, environment)?;
        listeners::complete(&mut source)?;
        refuse_twins(&source)?;
        let mut config: Self = source.deserialize()?;
        config.complete_edge();
        config.broker.packet_bytes_max = config.edge.packet_bytes_max;
        config.state.dir = config.data.dir.join("state");
        config.check(&source)?;
        Ok(config)
    }

    /// Where development certificates are.
    pub(crate) fn certificates_dir(&self) -> PathBuf {
        self.data.dir.join("certs")
    }

    /// `tls` with the development certificates if it names none.
    fn with_certificates(&self, tls: &TlsConfig) -> TlsConfig {
        let mut tls = tls.clone();
        if tls.certificates.is_empty() {
            let dir = self.certificates_dir();
            tls.certificates = vec![CertificateFiles {
                certificate_file: dir.join(dev_certs::SERVER),
                key_file: dir.join(dev_certs::SERVER_KEY),
                server_names: Vec::new(),
            }];
            if tls.client_certificates.mode != ClientCertificateMode::Off {
                tls.client_certificates.ca_file.get_or_insert(dir.join(dev_certs::CA));
            }
        }
        tls
    }

    /// The edge's configuration with what is set elsewhere.
    fn complete_edge(&mut self) {
        let mut listeners = self.listeners.clone();
        // A page from anywhere is run by a browser on this machine: being here is no proof of who it is.
        let trusts_this_machine = self.auth.anonymous_in_force() == Anonymous::Loopback;
        for listener in listeners.values_mut() {
            if trusts_this_machine && listener.origins.is_empty() {
                listener.origins.push("loopback".to_owned());
            }
            listener.tls = listener.tls.as_ref().map(|tls| self.with_certificates(tls));
        }
        self.edge.listeners = listeners;
        self.edge.tls = Some(self.with_certificates(&self.tls));
    }

    /// `[tls]`, or the one of its own, for each listener that does TLS.
    pub(crate) fn tls_of<'a>(&'a self, listener: &'a ListenerConfig) -> Option<&'a TlsConfig> {
        listener.kind.is_tls().then(|| listener.tls.as_ref().unwrap_or(&self.tls))
    }

    /// What is in force, as TOML.
    ///
    /// # Errors
    /// It cannot be written as TOML (a path that is not UTF-8).
    pub(crate) fn shown(&self) -> Result<String, toml::ser::Error> {
        shown::shown(self)
    }

    /// Whether TLS is served with the certificate that is made for development.
    pub(crate) fn uses_development_certificate(&self) -> bool {
        self.listeners.values().any(|l| self.tls_of(l).is_some_and(|tls| tls.certificates.is_empty()))
    }

    fn check(&self, source: &Source) -> Result<(), Problem> {
        self.edge.validate().map_err(|error| {
            let of_listener = error.key.starts_with("listeners.");
            let key = if of_listener { error.key } else { format!("edge.{}", error.key) };
            source.problem(&key, error.problem)
        })?;
        self.broker
            .validate()
            .map_err(|error| source.problem(&format!("broker.{}", error.key), error.expected))?;
        self.state.validate().map_err(|error| match error {
            OpenError::Config { field, rule } => source.problem(&format!("state.{field}"), rule),
            error => source.problem("state", error),
        })?;
        self.check_runtime(source)?;
        self.check_tls(source)?;
        self.check_identity(source)?;
        self.check_exposure(source)?;
        authsvc::Local::check(&self.auth, &self.authorization).map_err(|error| match error {
            AuthError::Setting { key, problem } => source.problem(&format!("auth.{key}"), problem),
            AuthError::Rule { index, key, problem } => {
                source.problem(&format!("authorization.rule[{index}].{key}"), problem)
            }
            error => source.problem("auth.password_file", error),
        })
    }

    fn check_runtime(&self, source: &Source) -> Result<(), Problem> {
        if self.runtime.worker_threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
            return Err(source.problem("runtime.worker_threads", "must be 1 to 1024"));
        }
        if self.log.level.parse::<tracing_subscriber::EnvFilter>().is_err() {
            let levels = "expected error, warn, info, debug, trace or directives such as info,lb=debug";
            return Err(source.problem("log.level", levels));
        }
        Ok(())
    }

    /// Reads the files that are named; those made for development may not be there yet.
    fn check_tls(&self, source: &Source) -> Result<(), Problem> {
        let own = self.listeners.iter().filter_map(|(name, listener)| {
            listener.tls.as_ref().map(|tls| (format!("listeners.{name}.tls"), tls))
        });
        for (key, tls) in own.chain([("tls".to_owned(), &self.tls)]) {
            if !tls.certificates.is_empty() {
                TlsServer::load(tls.clone(), Application::Mqtt).map_err(|error| {
                    // Its text is the key below `tls`, a colon, and the rest.
                    let text = chain(&error);
                    let (below, advice) = text.split_once(": ").unwrap_or(("", &text));
                    source.problem(&format!("{key}.{below}"), advice)
                })?;
            }
        }
        Ok(())
    }

    fn check_identity(&self, source: &Source) -> Result<(), Problem> {
        let of_listeners = self.listeners.values().filter_map(|listener| self.tls_of(listener));
        let asked =
            of_listeners.into_iter().any(|tls| tls.client_certificates.mode != ClientCertificateMode::Off);
        if self.auth.certificate == CertificateIdentity::Subject && !asked {
            let advice = "needs tls.client_certificates.mode = \"optional\" or \"required\"";
            return Err(source.problem("auth.certificate", advice));
        }
        Ok(())
    }

    /// Nothing listens beyond loopback until somebody has said who may connect.
    fn check_exposure(&self, source: &Source) -> Result<(), Problem> {
        if self.auth.has_source() || self.auth.anonymous == Some(Anonymous::Always) {
            return Ok(());
        }
        let exposed =
            self.listeners.iter().find(|(_, listener)| !listener.bind.ip().to_canonical().is_loopback());
        exposed.map_or(Ok(()), |(name, _)| {
            let advice = "without authentication only loopback addresses are allowed; set auth.password_file (see \
                          tidegate passwd), auth.certificate = \"subject\", or auth.anonymous = \"always\"";
            Err(source.problem(&format!("listeners.{name}.bind"), advice))
        })
    }
}

/// Refuses keys that have one place although two crates know them.
fn refuse_twins(source: &Source) -> Result<(), Problem> {
    let twins = [
        ("edge.listeners", "listeners are set in [listeners.NAME]"),
        ("edge.tls", "is set in [tls]"),
        ("broker.packet_bytes_max", "is set as edge.packet_bytes_max"),
        ("state.dir", "is set by data.dir, below which the store has its own directory"),
    ];
    twins
        .into_iter()
        .find(|(key, _)| source.value(key).is_some())
        .map_or(Ok(()), |(key, advice)| Err(source.problem(key, advice)))
}

#[cfg(test)]
mod tests;
