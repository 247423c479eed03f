//! A change of queues: a message for sessions of one bucket, or the end of a record. Those of one call that concern the same
//! session are carried out together ([`super::call`]).

use std::sync::Arc;

use smallvec::SmallVec;

use super::received::Identity;
use crate::{Delivery, Fence, Number, StoredSession, WorkerId};

/// What is to become of queues.
#[derive(Debug)]
pub(super) enum QueueChange {
    /// A message goes into queues. With an identity, those that have it already take it for done.
    Enqueue { identity: Option<Identity>, targets: SmallVec<[Enqueue; 1]> },
    /// A record goes, or becomes the mark that its PUBREL is outstanding.
    Settle { fence: Fence, number: Number, to: Settled },
}

/// One session that gets a message.
#[derive(Debug)]
pub(super) struct Enqueue {
    pub(super) session: Arc<StoredSession>,
    /// How many of the same session come before it.
    pub(super) copy: u64,
    pub(super) delivery: Delivery,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Gone,
    Released,
}

/// What became of one session's part of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// In the queue, by now or before; and which other worker has the session.
    Queued(Number, Option<WorkerId>),
    /// The queue is full.
    Full,
    /// There is no such session.
    Gone,
    /// The record is what it was to become.
    Settled,
    /// Another owner's session.
    Fenced,
    /// No session at all.
    NoSession,
}

/// For each session of a change.
pub(super) type Outcomes = SmallVec<[Outcome; 1]>;

impl QueueChange {
    /// Sessions that it concerns, with repeats.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Enqueue { targets, .. } => targets.len(),
            Self::Settle { .. } => 1,
        }
    }

    /// Bytes that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        const PART_BYTES: usize = 160;
        let message = match self {
            Self::Enqueue { targets, .. } => targets.first().map_or(0, |first| first.delivery.message.size()),
            Self::Settle { .. } => 0,
        };
        PART_BYTES * self.weight() + message
    }
}
