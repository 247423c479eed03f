//! Connections of which the store has said that their session is not theirs any more. That alone does not tell whether
//! another connection of the client has taken it over, or others have taken this worker for dead: in the one case the device is
//! to be told, in the other it goes on at another worker. A lease that was renewed after it tells.

use std::collections::HashMap;
use std::sync::Arc;

use link::ConnectionId;
use parking_lot::Mutex;

use crate::directory::SessionHandle;

use super::Cluster;

/// Those of which it is not known yet: no more than there were connections here while the lease could not be renewed.
#[derive(Default)]
pub(super) struct Fenced(Mutex<HashMap<ConnectionId, Lost>>);

/// A session, and the epoch with which the connection had it.
struct Lost {
    session: Arc<SessionHandle>,
    epoch: u64,
}

/// Those that a renewal is to tell about.
pub(super) struct Doubted(HashMap<ConnectionId, Lost>);

impl Fenced {
    /// Those that are there now: before the lease is asked for.
    pub(super) fn take(&self) -> Doubted {
        Doubted(std::mem::take(&mut self.0.lock()))
    }

    /// The renewal has told nothing.
    pub(super) fn put_back(&self, doubted: Doubted) {
        let mut fenced = self.0.lock();
        for (connection, lost) in doubted.0 {
            fenced.entry(connection).or_insert(lost);
        }
    }
}

impl Cluster {
    /// The store has refused a write of `connection`, which had its session with this epoch, as not the owner's.
    pub(crate) fn doubt(&self, session: &Arc<SessionHandle>, connection: ConnectionId, epoch: u64) {
        let lost = Lost { session: Arc::clone(session), epoch };
        self.fenced.0.lock().insert(connection, lost);
        self.renew_soon.notify_one();
    }

    /// This worker was not taken for dead: others have the sessions of these connections, which are told.
    pub(super) fn end_doubted(&self, doubted: Doubted) {
        for (connection, Lost { session, epoch }) in doubted.0 {
            self.end_taken_over(&session, connection, Some(epoch));
        }
    }

    /// Tells a connection that another has its session, unless it ended, or came back to this worker since it had the session
    /// with this epoch.
    pub(super) fn end_taken_over(
        &self,
        session: &Arc<SessionHandle>,
        connection: ConnectionId,
        epoch: Option<u64>,
    ) {
        if !self.directory.evict_connection(session, connection, epoch) {
            return;
        }
        self.host.taken_over.inc();
        if session.stored.is_none() {
            self.directory.drop_in_memory(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use state::{MemoryCluster, StoredSession};

    use super::*;
    use crate::directory::Arrival;

    const CONNECTION: ConnectionId = ConnectionId(1);

    fn cluster() -> Arc<Cluster> {
        Cluster::for_tests(MemoryCluster::new().worker("one"))
    }

    /// A connection that has a session with this epoch.
    fn session(cluster: &Cluster, epoch: u64) -> Arc<SessionHandle> {
        let stored = Arc::new(StoredSession { client_id: "c".into(), incarnation: 1 });
        let session = cluster.directory.stored_session(&stored);
        session.own_routes(epoch);
        cluster.directory.attach(&session, CONNECTION, &Arrival::default());
        session
    }

    #[test]
    fn nobody_is_told_before_a_renewal_says_why() {
        let cluster = cluster();
        let session = session(&cluster, 1);
        cluster.doubt(&session, CONNECTION, 1);
        let doubted = cluster.fenced.take();
        assert!(cluster.fenced.take().0.is_empty());
        cluster.fenced.put_back(doubted);
        assert!(session.is_owned_by(CONNECTION));
        cluster.end_doubted(cluster.fenced.take());
        assert!(!session.is_connected());
        assert_eq!(cluster.host.taken_over.get(), 1);
    }

    // The refusal is of the stream that the connection left.
    #[test]
    fn a_connection_that_came_back_meanwhile_stays() {
        let cluster = cluster();
        cluster.doubt(&session(&cluster, 1), CONNECTION, 1);
        let session = session(&cluster, 3);
        cluster.end_doubted(cluster.fenced.take());
        assert!(session.is_owned_by(CONNECTION));
        assert_eq!(cluster.host.taken_over.get(), 0);
    }
}
