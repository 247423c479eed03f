//! Why a call of Redis did not come to an answer.

use std::sync::Arc;

use thiserror::Error;

use crate::StoreError;

/// A call without an answer. What was sent may have been carried out, unless it says otherwise.
#[derive(Clone, Debug, Error)]
pub(super) enum Fault {
    /// The connection was lost before the answer came.
    #[error("no answer from Redis at {node}: {detail}")]
    Lost { node: String, detail: String },
    /// No connection to a node. Nothing was sent.
    #[error("no connection to Redis at {node}: {detail}")]
    Unreachable { node: String, detail: String },
    /// Redis answered with an error. Nothing was carried out.
    #[error("Redis at {node} refuses: {detail}")]
    Refused { node: String, detail: String },
    /// Carried out, but too few replicas have it.
    #[error("{have} replicas of Redis at {node} have what was written, {need} should")]
    Short { node: String, have: u32, need: u32 },
    /// No node has the slot.
    #[error("no Redis node serves slot {slot}")]
    NoNode { slot: u16 },
    /// Others let go of what this worker owned.
    #[error("this worker is being buried")]
    Buried,
    /// Too much waits already. Nothing was sent.
    #[error("too many calls wait for Redis")]
    Backlog,
    /// The answer is not what was asked for.
    #[error("Redis gave an answer of another form")]
    Form,
}

impl Fault {
    /// Whether what was sent may have been carried out.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Short { .. } | Self::Form)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable(Arc::new(fault))
    }
}
