//! Whether a worker has other workers beside it, and what is so if it has none: its route lease holds for ever, nobody is told
//! anything, and no session can be another worker's.

use std::sync::Arc;

use link::ConnectionId;
use state::{
    Delivery, Fence, Message, Number, Owned, Previous, PublishingSession, StoreError, StoredSession,
    Subscription, WorkerId,
};

use crate::config::CleanSessions;
use crate::directory::{Directory, SessionHandle};

use super::membership::leave;
use super::{Cluster, NoteDone, OnExpelled, Turn};

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

    fn shared(&self) -> Option<&Arc<Cluster>> {
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

    /// As [`Cluster::turn_of`].
    pub(crate) fn turn_of(&self, fence: &Fence) -> Turn<'_> {
        self.shared().map_or(Turn::Its, |cluster| cluster.turn_of(fence))
    }

    /// As [`Cluster::own_publisher`].
    pub(crate) fn own_publisher(&self, fence: &Fence) {
        if let Some(cluster) = self.shared() {
            cluster.own_publisher(fence);
        }
    }

    /// As [`Cluster::has_lost`].
    pub(crate) fn has_lost(&self, connection: ConnectionId) -> bool {
        self.shared().is_some_and(|cluster| cluster.has_lost(connection))
    }

    /// As [`Cluster::doubt`].
    pub(crate) fn doubt(&self, session: &Arc<SessionHandle>, connection: ConnectionId, epoch: u64) {
        if let Some(cluster) = self.shared() {
            cluster.doubt(session, connection, epoch);
        }
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

    /// As [`Cluster::tell_revoked`].
    pub(crate) fn tell_revoked(&self, stored: Arc<StoredSession>, epoch: u64, filters: Vec<Arc<str>>) {
        if let Some(cluster) = self.shared() {
            cluster.tell_revoked(stored, epoch, filters);
        }
    }

    /// As [`Cluster::own_routes`].
    pub(crate) fn own_routes(&self, session: &SessionHandle, owned: &Owned) {
        if let Some(cluster) = self.shared() {
            cluster.own_routes(session, owned);
        }
    }

    /// As [`Cluster::tell_taken_over`].
    pub(crate) fn tell_taken_over(&self, client_id: &Arc<str>, previous: Previous) {
        if let Some(cluster) = self.shared() {
            cluster.tell_taken_over(client_id, previous);
        }
    }

    /// As [`Cluster::note_message`].
    pub(crate) fn note_message(
        &self,
        worker: WorkerId,
        message: &Arc<Message>,
        publisher: Option<PublishingSession>,
        receivers: (bool, Vec<Arc<str>>),
        told: Option<NoteDone>,
    ) {
        if let Some(cluster) = self.shared() {
            cluster.note_message(worker, message, publisher, receivers, told);
        }
    }

    /// As [`Cluster::note_queued`].
    pub(crate) fn note_queued(
        &self,
        worker: WorkerId,
        session: Arc<StoredSession>,
        number: Number,
        delivery: Delivery,
    ) {
        if let Some(cluster) = self.shared() {
            cluster.note_queued(worker, session, number, delivery);
        }
    }

    /// As [`Cluster::set_on_expelled`].
    pub(crate) fn set_on_expelled(&self, hook: OnExpelled) {
        if let Some(cluster) = self.shared() {
            cluster.set_on_expelled(hook);
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
