//! Configuration of the embedded store, and why it may not open.

use std::path::PathBuf;

use files::SettingError;
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

files::settings! {
    /// Configuration of an [`crate::EmbeddedStore`].
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct EmbeddedConfig {
        /// Directory of the store; made if it is not there.
        pub dir: PathBuf = PathBuf::from("data/state");
        /// `"always"` or `"interval"`.
        pub fsync: Fsync = Fsync::Always;
        /// With `fsync = "interval"`: milliseconds.
        pub fsync_interval_ms: u64 = 100, in 1..=60_000;
        /// `"refuse"` or `"set_aside"`: what becomes of a store in which something is damaged.
        pub on_damage: OnDamage = OnDamage::Refuse;
        /// Stored sessions.
        pub sessions_max: u64 = 1_000_000;
        /// Subscriptions of one session.
        pub subscriptions_per_session_max: usize = 10_000;
        /// Messages in all queues together; each takes 32 bytes of memory wherever its body is.
        pub queued_messages_max: u64 = 10_000_000;
        /// Bytes in all queues together, on disk.
        pub queued_bytes_max: u64 = 16 * 1024 * MIB;
        /// Bytes of queued messages that are kept in memory beside the disk.
        pub queue_memory_bytes_max: u64 = 64 * MIB;
        /// Retained messages; all are kept in memory.
        pub retained_messages_max: u64 = 1_000_000;
        /// Bytes of retained messages.
        pub retained_bytes_max: u64 = 256 * MIB;
        /// Bytes of calls that wait for a commit; what comes beyond is refused as unavailable. The batch that is being
        /// committed may hold as much again.
        pub commit_queue_bytes_max: u64 = 64 * MIB, in MIB..;
        /// Bytes of the cache of disk blocks.
        pub block_cache_bytes: u64 = 32 * MIB, in MIB..;
        /// Bytes of queue records that gather in memory before a table is written; up to five times as many are held when the
        /// disk is slow. Fixed when the store is made.
        pub write_buffer_bytes: u64 = 16 * MIB, in MIB..;
        /// Tables that are kept open, at least 10; as many again may be open while they are compacted.
        #[serde(skip, default = "tables_open_max")]
        pub tables_open_max: usize = tables_open_max();
    }
}

fn tables_open_max() -> usize {
    900
}

impl EmbeddedConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`OpenError::Config`] names the key.
    pub fn validate(&self) -> Result<(), OpenError> {
        if self.dir.as_os_str().is_empty() {
            return Err(SettingError::new("state", "dir", "must not be empty").into());
        }
        Ok(self.check_bounds("state")?)
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
    /// A setting of [`EmbeddedConfig`], as of the section `state`, that makes no sense.
    #[error(transparent)]
    Config(#[from] SettingError),
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
