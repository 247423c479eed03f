//! Configuration of the store in Redis, and why it may not connect.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// A text that is never shown: a password, or a URL that may hold one.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[hidden]")
    }
}

/// What happens to writes while fewer replicas answer than should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenShort {
    /// They wait.
    #[default]
    Hold,
    /// They count as written, and are counted.
    Degrade,
}

/// Configuration of a [`crate::RedisStore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// Where to begin: `redis://host:port`, or `rediss://` for TLS; some nodes of a cluster, or one server. Whether it is a
    /// cluster is found out. All must have the same scheme. Default one, `redis://127.0.0.1:6379`.
    pub nodes: Vec<Secret>,
    /// ACL user, for all nodes. Default none: the one in the first URL, or Redis's default user.
    pub username: Option<String>,
    /// Its password. Default none: the one in the first URL.
    pub password: Option<Secret>,
    /// PEM file with the certificates that a node's may be signed by. Default none: those of the system.
    pub tls_ca_file: Option<PathBuf>,
    /// All keys begin with it; 1 to 32 letters, digits, `-`, `_`, `.` or `:`. Default `tg`.
    pub key_prefix: String,
    /// Name of this worker, the same after a restart and different from every other's: sessions that its earlier run owned
    /// are let go when it starts. Default `standalone`.
    pub worker: String,
    /// Milliseconds to connect to a node. Default 1,000.
    pub connect_timeout_ms: u64,
    /// Milliseconds to wait for a node's answer, then its connection is made anew. Default 1,500.
    pub response_timeout_ms: u64,
    /// Milliseconds for a call with all its repeats (moved slots, failovers, lost connections), then it is answered as
    /// unavailable. 0: as long as the store is open, so that the order of writes survives an outage of any length. Default 0.
    pub retry_budget_ms: u64,
    /// Milliseconds between looks at which node has which slots, 100 to 60,000. Default 1,000.
    pub topology_interval_ms: u64,
    /// Milliseconds between looks for due timers that other workers set, 100 to 600,000. Default 10,000.
    pub timer_sweep_ms: u64,
    /// Bytes of calls that wait or are under way; what comes beyond is refused as unavailable. Default 67,108,864 (64 MiB).
    pub call_bytes_max: u64,
    /// Entries that the log of changes of routes keeps, about; a worker that is further behind loads all routes anew. 1,000
    /// or more. Default 100,000.
    pub route_log_entries_max: u64,
    /// Bytes of what waits for one worker from others; what comes beyond is refused. At least 1 MiB. Default 67,108,864
    /// (64 MiB).
    pub inbox_bytes_max: u64,
    /// Stored sessions, as far as this worker knows of them. Default 10,000,000.
    pub sessions_max: u64,
    /// Subscriptions of one session. Default 10,000.
    pub subscriptions_per_session_max: usize,
    /// Retained messages, as far as this worker knows of them. Default 10,000,000.
    pub retained_messages_max: u64,
    /// Bytes of retained messages, likewise. Default 4,294,967,296 (4 GiB).
    pub retained_bytes_max: u64,
    /// Replicas that must have a write before it counts, 0 to 5. What a master's death takes with it is then only what nobody
    /// was told of. Configured apart, as `durability.replicas`. Default 0.
    #[serde(skip)]
    pub replicas: u32,
    /// What happens to writes while too few replicas answer. Configured apart, as `durability.when_short`. Default `hold`.
    #[serde(skip)]
    pub when_short: WhenShort,
    /// Other workers use the store too: what an earlier run owned is let go by [`crate::Cluster::bury`], and not at the
    /// start. No key of a configuration file: who starts the worker knows it.
    #[serde(skip)]
    pub is_shared: bool,
    /// Refuse to start when a setting of Redis is not as this store needs it, rather than warn. Default false.
    pub strict_settings: bool,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            nodes: vec![Secret::new("redis://127.0.0.1:6379")],
            username: None,
            password: None,
            tls_ca_file: None,
            key_prefix: "tg".to_owned(),
            worker: "standalone".to_owned(),
            connect_timeout_ms: 1000,
            response_timeout_ms: 1500,
            retry_budget_ms: 0,
            topology_interval_ms: 1000,
            timer_sweep_ms: 10_000,
            call_bytes_max: 64 * 1024 * 1024,
            route_log_entries_max: 100_000,
            inbox_bytes_max: 64 * 1024 * 1024,
            sessions_max: 10_000_000,
            subscriptions_per_session_max: 10_000,
            retained_messages_max: 10_000_000,
            retained_bytes_max: 4 * 1024 * 1024 * 1024,
            replicas: 0,
            when_short: WhenShort::Hold,
            is_shared: false,
            strict_settings: false,
        }
    }
}

impl RedisConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConnectError::Config`] names the field.
    pub fn validate(&self) -> Result<(), ConnectError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        let prefix = &self.key_prefix;
        let checks = [
            ("nodes", !self.nodes.is_empty(), "must not be empty"),
            ("nodes", self.nodes.iter().all(|url| is_url(url.expose())), NODES_RULE),
            (
                "key_prefix",
                (1..=32).contains(&prefix.len()) && prefix.chars().all(is_plain),
                "must be 1 to 32 letters, digits, '-', '_', '.' or ':'",
            ),
            ("worker", (1..=64).contains(&self.worker.len()), "must be 1 to 64 bytes"),
            ("connect_timeout_ms", (1..=60_000).contains(&self.connect_timeout_ms), "must be 1 to 60000"),
            ("response_timeout_ms", (1..=60_000).contains(&self.response_timeout_ms), "must be 1 to 60000"),
            ("retry_budget_ms", self.retry_budget_ms <= 600_000, "must be at most 600000"),
            (
                "topology_interval_ms",
                (100..=60_000).contains(&self.topology_interval_ms),
                "must be 100 to 60000",
            ),
            ("timer_sweep_ms", (100..=600_000).contains(&self.timer_sweep_ms), "must be 100 to 600000"),
            ("replicas", self.replicas <= 5, "must be at most 5"),
            ("call_bytes_max", self.call_bytes_max >= 1024 * 1024, "must be at least 1048576"),
            ("route_log_entries_max", self.route_log_entries_max >= 1000, "must be at least 1000"),
            ("inbox_bytes_max", self.inbox_bytes_max >= 1024 * 1024, "must be at least 1048576"),
        ];
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((field, _, rule)) => Err(ConnectError::Config { field, rule }),
            None => Ok(()),
        }
    }
}

/// What [`RedisConfig::nodes`] are.
pub(super) const NODES_RULE: &str = "must be URLs, redis:// or rediss://, such as redis://127.0.0.1:6379";

fn is_url(node: &str) -> bool {
    ["redis://", "rediss://"]
        .iter()
        .any(|scheme| node.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// Why a store in Redis does not open.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// A value that makes no sense.
    #[error("{field} {rule}")]
    Config {
        /// Which field of [`RedisConfig`].
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A file that is named cannot be read.
    #[error("cannot read {field} {}", path.display())]
    File {
        /// Which field of [`RedisConfig`].
        field: &'static str,
        /// Its value.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that is named was read and is of no use.
    #[error("{field}: {}: {problem}", path.display())]
    Unusable {
        /// Which field of [`RedisConfig`].
        field: &'static str,
        /// Its value.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No node could be reached.
    #[error("cannot reach Redis: {detail}")]
    Unreachable {
        /// What the last node tried said.
        detail: String,
    },
    /// Redis refuses user, password, or a command that the user may not use.
    #[error("Redis refuses: {detail}")]
    Refused {
        /// What it said.
        detail: String,
    },
    /// A setting of Redis would lose what is stored.
    #[error("Redis at {node} has {setting} = {found:?}, but needs {needed}")]
    Setting {
        /// Which node.
        node: String,
        /// Which setting.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        needed: &'static str,
    },
    /// It was written by another version.
    #[error("the keys in Redis have format {found:?}, which this version does not know")]
    UnknownFormat {
        /// What is written there.
        found: String,
    },
    /// What was there could not be taken over.
    #[error("cannot take over what is in Redis")]
    Recovery(#[source] crate::StoreError),
}

impl ConnectError {
    /// Whether the same may succeed later without anybody changing anything here: Redis is away, in part or as a whole, or
    /// full.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Recovery(error) => error.is_retryable(),
            Self::Config { .. }
            | Self::File { .. }
            | Self::Refused { .. }
            | Self::Setting { .. }
            | Self::Unusable { .. }
            | Self::UnknownFormat { .. } => false,
        }
    }
}
