//! `[admin]`, `[log]` and `[runtime]`: what every process has.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use link::Bind;
use serde::{Deserialize, Serialize};

use super::source::Source;
use super::{Problem, Tier};

/// The system takes 107 bytes; while a socket is made it has the number of its process behind its name.
const UPGRADE_SOCKET_BYTES_MAX: usize = 90;

/// Shortest token of an operator, bytes.
const TOKEN_BYTES_MIN: usize = 16;

/// The least memory that a process may be given.
const MEMORY_MIN_BYTES: u64 = 64 << 20;

/// What levels are, for who wrote something else.
pub(crate) const LOG_LEVELS: &str = "error, warn, info, debug, trace or directives such as info,lb=debug";

/// What every process has, whatever it runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessConfig {
    /// Health and metrics over HTTP.
    pub(crate) admin: AdminConfig,
    /// Logs.
    pub(crate) log: LogConfig,
    /// The process.
    pub(crate) runtime: RuntimeConfig,
}

impl ProcessConfig {
    /// Takes its sections.
    pub(super) fn read(source: &Source, tier: Tier) -> Result<Self, Problem> {
        let is_tier = tier != Tier::Standalone;
        let AdminSection { token_file, metrics, .. } = source.section("admin")?;
        let process = Self {
            admin: AdminConfig { listen: admin_address(source, tier)?, token_file, metrics },
            log: source.section("log")?,
            runtime: RuntimeConfig { is_tier, ..source.section("runtime")? },
        };
        process.check(source)?;
        process.runtime.check_upgrade_socket(source, tier)?;
        Ok(process)
    }

    fn check(&self, source: &Source) -> Result<(), Problem> {
        self.runtime.check_bounds("runtime").map_err(|error| source.wrong(error))?;
        if self.runtime.memory_max_bytes.is_some_and(|bytes| (1..MEMORY_MIN_BYTES).contains(&bytes)) {
            let expected = "must be at least 67108864 (64 MiB), or 0 for no bound";
            return Err(source.problem("runtime.memory_max_bytes", expected));
        }
        if self.admin.metrics == MetricsAccess::Token && self.admin.token_file.is_none() {
            return Err(source.problem("admin.metrics", "needs admin.token_file, which has the token"));
        }
        self.admin.token().map_err(|problem| source.problem("admin.token_file", problem).of_file_if(true))?;
        if self.log.level.parse::<tracing_subscriber::EnvFilter>().is_err() {
            return Err(source.problem("log.level", format!("expected {LOG_LEVELS}")));
        }
        Ok(())
    }
}

/// Where the admin endpoint of `tier` listens: on loopback, if nothing is said.
pub(super) fn admin_address(source: &Source, tier: Tier) -> Result<Bind, Problem> {
    let admin: AdminSection = source.section("admin")?;
    let default = || SocketAddr::from(([127, 0, 0, 1], tier.admin_port())).into();
    Ok(admin.listen.unwrap_or_else(default))
}

/// Refuses a token where nothing asks for it. `why` it revokes nothing here.
pub(super) fn refuse_idle_token(source: &Source, why: &str) -> Result<(), Problem> {
    let AdminSection { metrics, .. } = source.section("admin")?;
    if metrics == MetricsAccess::Token {
        return Ok(());
    }
    source.refuse(&[("admin.token_file", why)])
}

/// `[admin]` as it is given.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AdminSection {
    listen: Option<Bind>,
    token_file: Option<PathBuf>,
    metrics: MetricsAccess,
}

/// `[admin]`
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AdminConfig {
    /// Address of `/livez`, `/readyz` and `/metrics`. Default `127.0.0.1:9101`, and port 9102 for a
    /// worker, 9103 for the service of authentication.
    pub(crate) listen: Bind,
    /// File of the token, 16 bytes at least, by which an operator may revoke (`POST /v1/revocations`); none by default: nobody
    /// may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Who may see `/metrics`. Default `open`.
    pub(crate) metrics: MetricsAccess,
}

impl AdminConfig {
    /// Reads the token, if there is one.
    ///
    /// # Errors
    /// The file cannot be read, or holds fewer bytes than a token has.
    pub(crate) fn token(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let token = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let token = token.trim_ascii();
        if token.len() < TOKEN_BYTES_MIN {
            return Err(format!("{}: a token has {TOKEN_BYTES_MIN} bytes or more", path.display()));
        }
        Ok(Some(token.to_vec()))
    }
}

/// Who may see metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MetricsAccess {
    /// Whoever reaches the admin endpoint.
    #[default]
    Open,
    /// Who is on this machine, or shows the operator's token.
    Token,
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

link::settings! {
    /// `[runtime]`
    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct RuntimeConfig {
        /// Threads that serve connected devices. Default: see [`crate::threads`].
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(crate) worker_threads: Option<usize> = None, in 1..=1_024;
        /// Bytes of memory that the process may have; beyond it what waits for devices that read least is let go of, and nobody
        /// new is let in. 0: no bound; else at least 64 MiB. Default: 80 % of what the machine or the control group has.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(crate) memory_max_bytes: Option<u64> = None;
        /// Milliseconds that everything goes on while `/readyz` says 503 already, so that load balancers see it first.
        pub(crate) drain_delay_ms: u64 = 0, in ..=600_000;
        /// Milliseconds that a shutdown may take until connections are cut.
        pub(crate) drain_timeout_ms: u64 = 10_000, in ..=3_600_000;
        /// File to write the bound addresses to, as JSON, once everything is up. Default: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(crate) addresses_file: Option<PathBuf> = None;
        /// A Unix socket by which another process of the same user takes this one's place: it is given the listening sockets,
        /// and this one ends when it serves. Default: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(crate) upgrade_socket: Option<PathBuf> = None;
        /// It is one process of several.
        #[serde(skip)]
        is_tier: bool = false;
    }
}

impl RuntimeConfig {
    fn check_upgrade_socket(&self, source: &Source, tier: Tier) -> Result<(), Problem> {
        let key = "runtime.upgrade_socket";
        let Some(path) = &self.upgrade_socket else { return Ok(()) };
        if !matches!(tier, Tier::Standalone | Tier::Edge) {
            let advice = "only tidegate standalone and tidegate lb hand their sockets over; of others start one more, then end \
                          the old one";
            return Err(source.problem(key, advice));
        }
        if path.as_os_str().is_empty() || path.as_os_str().len() > UPGRADE_SOCKET_BYTES_MAX {
            return Err(source.problem(key, "the path of a socket has 1 to 90 bytes"));
        }
        Ok(())
    }

    /// Threads in force.
    pub(crate) fn worker_threads_in_force(&self) -> usize {
        self.worker_threads.unwrap_or_else(|| crate::threads::worker_threads(self.is_tier))
    }

    /// Memory that the process may have; 0 for no bound.
    pub(crate) fn memory_max_in_force(&self) -> u64 {
        self.memory_max_bytes.unwrap_or_else(crate::memory::default_max_bytes)
    }

    /// How long it goes on before that.
    pub(crate) fn drain_delay(&self) -> Duration {
        Duration::from_millis(self.drain_delay_ms)
    }

    /// How long a shutdown may take.
    pub(crate) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}
