//! Whether a worker has other workers beside it, and what is so if it has none: its route lease holds for ever, nobody is told
//! anything, and no session can be another worker's.

use std::sync::Arc;

use state::{Fence, StoreError, Subscription};

use crate::config::CleanSessions;
use crate::directory::{Directory, SessionHandle};

use super::membership::leave;
use super::{Cluster, Turn};

/// A worker's place among those that share its store.
pub(crate) enum Membership {
    /// Nobody shares the store.
    Alone(Arc<Directory>),
    /// Others do.
    Shared(Arc<Cluster>),
}

impl Membership {
    /// A worker that has its store for itself.
    pub(crate) fn alone() -> Self {
        Self::Alone(Arc::new(Directory::new(None)))
    }

    /// What the worker knows of sessions.
    pub(crate) fn directory(&self) -> &Arc<Directory> {
        match self {
            Self::Alone(directory) => directory,
            Self::Shared(cluster) => &cluster.directory,
        }
    }

    /// The part of this worker in what others know, if there are others.
    pub(crate) fn shared(&self) -> Option<&Arc<Cluster>> {
        match self {
            Self::Alone(_) => None,
            Self::Shared(cluster) => Some(cluster),
        }
    }

    /// Whether other workers share the store.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// Whether messages for clean sessions wait in memory alone, though their subscriptions are in the store.
    pub(crate) fn keeps_clean_sessions_in_memory(&self) -> bool {
        self.shared().is_some_and(|cluster| cluster.settings.clean_sessions == CleanSessions::Memory)
    }

    /// Whether the route lease holds: this worker knows all routes.
    pub(crate) fn holds(&self) -> bool {
        self.shared().is_none_or(|cluster| cluster.lease.holds())
    }

    /// How often the route lease has lapsed: after each time a session may be another worker's.
    pub(crate) fn lapses(&self) -> u64 {
        self.shared().map_or(0, |cluster| cluster.lease.lapses())
    }

    /// Whether the store has said since the last lapse that a session is this worker's.
    pub(crate) fn is_certainly_ours(&self, session: &SessionHandle) -> bool {
        session.owned_since() == self.lapses()
    }

    /// As [`Cluster::may_match`].
    pub(crate) fn may_match(&self) -> bool {
        self.shared().is_none_or(|cluster| cluster.may_match())
    }

    /// As [`Cluster::begin_wait`].
    pub(crate) fn begin_wait(&self) {
        if let Some(cluster) = self.shared() {
            cluster.begin_wait();
        }
    }

    /// As [`Cluster::end_wait`].
    pub(crate) fn end_wait(&self) {
        if let Some(cluster) = self.shared() {
            cluster.end_wait();
        }
    }

    /// As [`Cluster::is_store_away`].
    pub(crate) fn is_store_away(&self, was_away: bool) -> bool {
        self.shared().is_some_and(|cluster| cluster.is_store_away(was_away))
    }

    /// As [`Cluster::begin_to_listen`].
    pub(crate) fn begin_to_listen(&self, moves: bool) -> u64 {
        self.shared().map_or(0, |cluster| cluster.begin_to_listen(moves))
    }

    /// As [`Cluster::take_last_notes`].
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) async fn take_last_notes(&self) -> Result<bool, StoreError> {
        match self {
            Self::Alone(_) => Ok(true),
            Self::Shared(cluster) => cluster.take_last_notes().await,
        }
    }

    /// As [`Cluster::send_rest`].
    pub(crate) async fn send_rest(&self) {
        if let Some(cluster) = self.shared() {
            cluster.send_rest().await;
        }
    }

    /// As [`Cluster::turn_of`].
    pub(crate) fn turn_of(&self, fence: &Fence) -> Turn<'_> {
        self.shared().map_or(Turn::Its, |cluster| cluster.turn_of(fence))
    }

    /// As [`Cluster::announce`].
    pub(crate) fn announce(
        &self,
        session: &Arc<SessionHandle>,
        epoch: u64,
        subscriptions: &[Subscription],
        then: Box<dyn FnOnce() + Send>,
    ) {
        match self {
            Self::Shared(cluster) => cluster.announce(session, epoch, subscriptions, then),
            Self::Alone(directory) => {
                for subscription in subscriptions {
                    directory.subscribe(session, subscription);
                }
                then();
            }
        }
    }

    /// As [`Cluster::withdraw`].
    pub(crate) fn withdraw(
        &self,
        session: &Arc<SessionHandle>,
        epoch: u64,
        filters: Vec<Arc<str>>,
        then: Box<dyn FnOnce() + Send>,
    ) {
        match self {
            Self::Shared(cluster) => cluster.withdraw(session, epoch, filters, then),
            Self::Alone(directory) => {
                for filter in &filters {
                    directory.unsubscribe(session, filter);
                }
                then();
            }
        }
    }

    /// Leaves the registry; the tasks have ended.
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) async fn leave(&self) -> Result<(), StoreError> {
        match self {
            Self::Alone(_) => Ok(()),
            Self::Shared(cluster) => leave(cluster).await,
        }
    }
}
