//! Configuration of the store in Redis, and why it may not connect.

use std::fmt;
use std::path::PathBuf;

use files::SettingError;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// Where the keys are.
const SECTION: &str = "redis";

const MIB: u64 = 1024 * 1024;

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

files::settings! {
    /// Configuration of a [`crate::RedisStore`].
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct RedisConfig {
        /// Where to begin: `redis://host:port`, or `rediss://` for TLS; some nodes of a cluster, or one server. Whether it is a
        /// cluster is found out. All must have the same scheme. Default one, `redis://127.0.0.1:6379`.
        pub nodes: Vec<Secret> = vec![Secret::new("redis://127.0.0.1:6379")];
        /// ACL user, for all nodes. Default none: the one in the first URL, or Redis's default user.
        pub username: Option<String> = None;
        /// Its password. Default none: the one in the first URL.
        pub password: Option<Secret> = None;
        /// PEM file with the certificates that a node's may be signed by. Default none: those of the system.
        pub tls_ca_file: Option<PathBuf> = None;
        /// All keys begin with it; 1 to 32 letters, digits, `-`, `_`, `.` or `:`.
        pub key_prefix: String = "tg".to_owned();
        /// Name of this worker, the same after a restart and different from every other's: sessions that its earlier run owned
        /// are let go when it starts.
        pub worker: String = "standalone".to_owned(), in 1..=64;
        /// Milliseconds to connect to a node.
        pub connect_timeout_ms: u64 = 1_000, in 1..=60_000;
        /// Milliseconds to wait for a node's answer, then its connection is made anew.
        pub response_timeout_ms: u64 = 1_500, in 1..=60_000;
        /// Milliseconds for a call with all its repeats (moved slots, failovers, lost connections), then it is answered as
        /// unavailable. 0: as long as the store is open, so that the order of writes survives an outage of any length.
        pub retry_budget_ms: u64 = 0, in ..=600_000;
        /// Milliseconds between looks at which node has which slots.
        pub topology_interval_ms: u64 = 1_000, in 100..=60_000;
        /// Milliseconds between looks for due timers that other workers set.
        pub timer_sweep_ms: u64 = 10_000, in 100..=600_000;
        /// Bytes of calls that wait or are under way; what comes beyond is refused as unavailable.
        pub call_bytes_max: u64 = 64 * MIB, in MIB..;
        /// Entries that the log of changes of routes keeps, about; a worker that is further behind loads all routes anew.
        pub route_log_entries_max: u64 = 100_000, in 1_000..;
        /// Bytes of what waits for one worker from others; what comes beyond is refused.
        pub inbox_bytes_max: u64 = 64 * MIB, in MIB..;
        /// Stored sessions, as far as this worker knows of them.
        pub sessions_max: u64 = 10_000_000;
        /// Subscriptions of one session.
        pub subscriptions_per_session_max: usize = 10_000;
        /// Retained messages, as far as this worker knows of them.
        pub retained_messages_max: u64 = 10_000_000;
        /// Bytes of retained messages, likewise.
        pub retained_bytes_max: u64 = 4 * 1024 * MIB;
        /// Replicas that must have a write before it counts. What a master's death takes with it is then only what nobody
        /// was told of. Configured apart, as `durability.replicas`.
        #[serde(skip)]
        pub replicas: u32 = 0;
        /// What happens to writes while too few replicas answer. Configured apart, as `durability.when_short`.
        #[serde(skip)]
        pub when_short: WhenShort = WhenShort::Hold;
        /// Other workers use the store too: what an earlier run owned is let go by [`crate::Cluster::bury`], and not at the
        /// start. No key of a configuration file: who starts the worker knows it.
        #[serde(skip)]
        pub is_shared: bool = false;
        /// Refuse to start when a setting of Redis is not as this store needs it, rather than warn.
        pub strict_settings: bool = false;
    }
}

impl RedisConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConnectError::Config`] names the key.
    pub fn validate(&self) -> Result<(), ConnectError> {
        self.check_bounds(SECTION)?;
        let wrong = |key, problem| Err(SettingError::new(SECTION, key, problem).into());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if !(1..=32).contains(&self.key_prefix.len()) || !self.key_prefix.chars().all(is_plain) {
            return wrong("key_prefix", "must be 1 to 32 letters, digits, '-', '_', '.' or ':'");
        }
        match self.nodes.iter().all(|url| is_url(url.expose())) {
            _ if self.nodes.is_empty() => wrong("nodes", "must not be empty"),
            true => Ok(()),
            false => Err(no_node()),
        }
    }
}

const NODES_RULE: &str = "must be URLs, redis:// or rediss://, such as redis://127.0.0.1:6379";

/// What is said of a node that is none.
pub(super) fn no_node() -> ConnectError {
    SettingError::new(SECTION, "nodes", NODES_RULE).into()
}

fn is_url(node: &str) -> bool {
    ["redis://", "rediss://"]
        .iter()
        .any(|scheme| node.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// Why a store in Redis does not open.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// A setting of [`RedisConfig`], as of the section `redis`, that makes no sense.
    #[error(transparent)]
    Config(#[from] SettingError),
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
            Self::Config(_)
            | Self::File { .. }
            | Self::Refused { .. }
            | Self::Setting { .. }
            | Self::Unusable { .. }
            | Self::UnknownFormat { .. } => false,
        }
    }
}
