//! Configuration of the embedded store, and why it may not open.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::damage::{Damage, OnDamage};
use crate::tables::TableLimits;
use crate::tables::retained::RetainedLimits;

const MIB: u64 = 1024 * 1024;

/// When what was answered is safe from power loss. It is always safe from the end of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Before the answer: one `fdatasync` for all calls that came in while the one before it was under way.
    #[default]
    Always,
    /// Every `fsync_interval_ms`: a power loss may lose that much of what was answered; the end of the process loses
    /// nothing.
    Interval,
}

/// Configuration of an [`crate::EmbeddedStore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedConfig {
    /// Directory of the store; made if it is not there. Default `data/state`.
    pub dir: PathBuf,
    /// `"always"` or `"interval"`. Default `"always"`.
    pub fsync: Fsync,
    /// With `fsync = "interval"`: milliseconds, 1 to 60,000. Default 100.
    pub fsync_interval_ms: u64,
    /// `"refuse"` or `"set_aside"`: what becomes of a store in which something is damaged. Default `"refuse"`.
    pub on_damage: OnDamage,
    /// Stored sessions. Default 1,000,000.
    pub sessions_max: u64,
    /// Subscriptions of one session. Default 10,000.
    pub subscriptions_per_session_max: usize,
    /// Messages in all queues together; each takes 32 bytes of memory wherever its body is. Default 10,000,000.
    pub queued_messages_max: u64,
    /// Bytes in all queues together, on disk. Default 17,179,869,184 (16 GiB).
    pub queued_bytes_max: u64,
    /// Bytes of queued messages that are kept in memory beside the disk. Default 67,108,864 (64 MiB).
    pub queue_memory_bytes_max: u64,
    /// Retained messages; all are kept in memory. Default 1,000,000.
    pub retained_messages_max: u64,
    /// Bytes of retained messages. Default 268,435,456 (256 MiB).
    pub retained_bytes_max: u64,
    /// Bytes of calls that wait for a commit; what comes beyond is refused as unavailable. The batch that is being
    /// committed may hold as much again. Default 67,108,864 (64 MiB).
    pub commit_queue_bytes_max: u64,
    /// Bytes of the cache of disk blocks, at least 1 MiB. Default 33,554,432 (32 MiB).
    pub block_cache_bytes: u64,
    /// Bytes of queue records that gather in memory before a table is written, at least 1 MiB; up to five times as many
    /// are held when the disk is slow. Fixed when the store is made. Default 16,777,216 (16 MiB).
    pub write_buffer_bytes: u64,
    /// Tables that are kept open, at least 10; as many again may be open while they are compacted.
    #[serde(skip, default = "tables_open_max")]
    pub tables_open_max: usize,
}

fn tables_open_max() -> usize {
    900
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data/state"),
            fsync: Fsync::Always,
            fsync_interval_ms: 100,
            on_damage: OnDamage::Refuse,
            sessions_max: 1_000_000,
            subscriptions_per_session_max: 10_000,
            queued_messages_max: 10_000_000,
            queued_bytes_max: 16 * 1024 * MIB,
            queue_memory_bytes_max: 64 * MIB,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 256 * MIB,
            commit_queue_bytes_max: 64 * MIB,
            block_cache_bytes: 32 * MIB,
            write_buffer_bytes: 16 * MIB,
            tables_open_max: tables_open_max(),
        }
    }
}

impl EmbeddedConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`OpenError::Config`] names the field.
    pub fn validate(&self) -> Result<(), OpenError> {
        let checks = [
            ("dir", !self.dir.as_os_str().is_empty(), "must not be empty"),
            ("fsync_interval_ms", (1..=60_000).contains(&self.fsync_interval_ms), "must be 1 to 60000"),
            ("block_cache_bytes", self.block_cache_bytes >= MIB, "must be at least 1048576"),
            ("write_buffer_bytes", self.write_buffer_bytes >= MIB, "must be at least 1048576"),
            ("commit_queue_bytes_max", self.commit_queue_bytes_max >= MIB, "must be at least 1048576"),
        ];
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((field, _, rule)) => Err(OpenError::Config { field, rule }),
            None => Ok(()),
        }
    }

    pub(super) fn table_limits(&self) -> TableLimits {
        TableLimits {
            sessions_max: self.sessions_max,
            subscriptions_per_session_max: self.subscriptions_per_session_max,
            queued_messages_max: self.queued_messages_max,
            queued_bytes_max: self.queued_bytes_max,
            resident_bytes_max: self.queue_memory_bytes_max,
        }
    }

    pub(super) fn retained_limits(&self) -> RetainedLimits {
        RetainedLimits { messages_max: self.retained_messages_max, bytes_max: self.retained_bytes_max }
    }
}

/// Why a store does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A value that makes no sense.
    #[error("{field} {rule}")]
    Config {
        /// Which field of [`EmbeddedConfig`].
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// Another process has it open.
    #[error("the store in {} is in use by another process", dir.display())]
    InUse {
        /// Its directory.
        dir: PathBuf,
    },
    /// It was written by another version.
    #[error("the store in {} has format {found:?}, which this version does not know", dir.display())]
    UnknownFormat {
        /// Its directory.
        dir: PathBuf,
        /// What its format record says.
        found: String,
    },
    /// The directory cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The database in it cannot be opened or read.
    #[error("cannot open the database in {}", dir.display())]
    Database {
        /// The store's directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: fjall::Error,
    },
    /// Part of what was stored is not there, or cannot be read.
    #[error("the store in {} is damaged", dir.display())]
    Damaged {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong with it.
        #[source]
        damage: Damage,
    },
}
