//! Who may be subscribed at a filter: a session of this worker, or another worker for the sessions that are connected there.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use state::{SubscriptionOptions, Wants, WorkerId};

use crate::directory::session_handle::SessionHandle;

/// One subscriber of one filter.
#[derive(Clone, Debug)]
pub(crate) enum Subscriber {
    /// A session, connected or not, with its options.
    Session(Arc<SessionHandle>, SubscriptionOptions),
    /// Another worker.
    Worker(Arc<OtherWorker>),
}

// There may be millions of them.
const _: () =
    assert!(size_of::<Subscriber>() == 16, "a pointer and the options, with nothing to tell them apart");

impl Subscriber {
    /// The number of the subscriber, which no other session or worker has in this process.
    pub(crate) fn id(&self) -> u64 {
        match self {
            Self::Session(session, _) => session.id,
            Self::Worker(other) => other.id,
        }
    }

    /// The session and its options, unless the subscriber is another worker.
    pub(crate) fn session(&self) -> Option<(&Arc<SessionHandle>, &SubscriptionOptions)> {
        match self {
            Self::Session(session, options) => Some((session, options)),
            Self::Worker(..) => None,
        }
    }

    /// The options of a session; `None` for another worker.
    pub(crate) fn options(&self) -> Option<SubscriptionOptions> {
        self.session().map(|(_, options)| *options)
    }

    /// Whether the subscriber is another worker.
    pub(crate) fn is_worker(&self) -> bool {
        matches!(self, Self::Worker(..))
    }
}

/// Another worker, with what it gets of a filter: one for all filters of which it gets the same.
#[derive(Debug)]
pub(crate) struct OtherWorker {
    /// The number of the worker, unique in this process also among sessions.
    pub id: u64,
    /// Which run of which worker.
    pub worker: WorkerId,
    /// What it gets.
    pub wants: Wants,
    /// Its lease has ended: it stands still, or is dead and not buried yet.
    pub is_silent: AtomicBool,
}
