//! What a worker that shares its store is told about its fellows.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::CleanSessions;

/// How workers that share a store live together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// How long a worker may match messages without word from the store, milliseconds: a SUBSCRIBE waits no longer than
    /// this for a worker that has stopped. It is renewed every quarter of it. 100 to 60,000; default 1,000.
    pub lease_ms: u32,
    /// Silence after which a worker counts as dead, milliseconds: its sessions are let go. At least four times `lease_ms`;
    /// default 10,000.
    pub worker_timeout_ms: u32,
    /// How long a session whose worker or link has gone waits for its device to move, milliseconds: only then do its Will
    /// and its expiry begin to count. Default 60,000.
    pub handoff_grace_ms: u32,
    /// Bytes of messages that wait for one other worker. Beyond them QoS 0 is dropped and counted, and that worker reads
    /// stored messages from their queues. Default 64 MiB.
    pub notes_bytes_max: usize,
    /// Where the messages for clean sessions wait. Default `memory`.
    pub clean_sessions: CleanSessions,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            lease_ms: 1000,
            worker_timeout_ms: 10_000,
            handoff_grace_ms: 60_000,
            notes_bytes_max: 64 << 20,
            clean_sessions: CleanSessions::Memory,
        }
    }
}

/// A value that is out of its bounds.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("cluster.{key} = {value}: {expected}")]
pub struct ClusterSettingsError {
    /// The key under `cluster`.
    pub key: &'static str,
    /// What it was set to.
    pub value: u32,
    /// What it may be.
    pub expected: &'static str,
}

impl ClusterSettings {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), ClusterSettingsError> {
        if !(100..=60_000).contains(&self.lease_ms) {
            let (key, value) = ("lease_ms", self.lease_ms);
            return Err(ClusterSettingsError { key, value, expected: "must be 100 to 60,000" });
        }
        if self.worker_timeout_ms / 4 < self.lease_ms {
            let (key, value) = ("worker_timeout_ms", self.worker_timeout_ms);
            return Err(ClusterSettingsError {
                key,
                value,
                expected: "must be at least four times lease_ms",
            });
        }
        Ok(())
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }

    pub(crate) fn worker_timeout(&self) -> Duration {
        Duration::from_millis(self.worker_timeout_ms.into())
    }
}
