//! What a worker that shares its store is told about its fellows.

use std::time::Duration;

use link::SettingError;
use serde::{Deserialize, Serialize};

use crate::config::CleanSessions;

/// Where its keys are.
const SECTION: &str = "cluster";

link::settings! {
    /// How workers that share a store live together.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct ClusterSettings {
        /// How long a worker may match messages without word from the store, milliseconds: a SUBSCRIBE waits no longer than
        /// this for a worker that has stopped. It is renewed every quarter of it.
        pub lease_ms: u32 = 1000, in 100..=60_000;
        /// Silence after which a worker counts as dead, milliseconds: its sessions are let go. At least four times `lease_ms`.
        pub worker_timeout_ms: u32 = 10_000;
        /// How long a session whose worker or link has gone waits for its device to move, milliseconds: only then do its Will
        /// and its expiry begin to count.
        pub handoff_grace_ms: u32 = 60_000;
        /// Bytes of messages that wait for one other worker. Beyond them QoS 0 is dropped and counted, and that worker reads
        /// stored messages from their queues.
        pub notes_bytes_max: usize = 67_108_864;
        /// Where the messages for clean sessions wait. Default `memory`.
        pub clean_sessions: CleanSessions = CleanSessions::Memory;
    }
}

impl ClusterSettings {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.check_bounds(SECTION)?;
        if self.worker_timeout_ms / 4 < self.lease_ms {
            let problem = "must be at least four times lease_ms";
            return Err(SettingError::new(SECTION, "worker_timeout_ms", problem));
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
