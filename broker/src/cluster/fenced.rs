//! Connections of which the store has said that their session is not theirs any more. That alone does not tell whether
//! another connection of the client has taken it over, or others have taken this worker for dead: in the one case the device is
//! to be told, in the other it goes on at another worker. A lease that was renewed after it tells.

use std::collections::HashMap;
use std::sync::Arc;

use link::ConnectionId;
use parking_lot::Mutex;

use crate::directory::{Attachment, SessionHandle};

use super::Cluster;

/// Those of which it is not known yet: no more than there were connections here while the lease could not be renewed.
#[derive(Default)]
pub(super) struct Fenced(Mutex<Attachments>);

/// With the session of each.
type Attachments = HashMap<Attachment, Arc<SessionHandle>>;

/// Those that a renewal is to tell about.
pub(super) struct Doubted(Attachments);

impl Fenced {
    /// Those that are there now: before the lease is asked for.
    pub(super) fn take(&self) -> Doubted {
        Doubted(std::mem::take(&mut self.0.lock()))
    }

    /// The renewal has told nothing.
    pub(super) fn put_back(&self, doubted: Doubted) {
        let mut fenced = self.0.lock();
        fenced.extend(doubted.0);
    }
}

impl Cluster {
    /// The store has refused a write of who had the session by this attachment, as not the owner's.
    pub(crate) fn doubt(&self, session: &Arc<SessionHandle>, attachment: Attachment) {
        self.fenced.0.lock().insert(attachment, Arc::clone(session));
        self.renew_soon.notify_one();
    }

    /// This worker was not taken for dead: others have the sessions of these connections, which are told.
    pub(super) fn end_doubted(&self, doubted: Doubted) {
        for (attachment, session) in doubted.0 {
            // The refusal may be of a stream that the connection has left.
            if self.directory.evict_attached(&session, attachment) {
                self.count_taken_over(&session);
            }
        }
    }

    /// Tells a connection that another has its session, unless it ended.
    pub(super) fn end_taken_over(&self, session: &Arc<SessionHandle>, connection: ConnectionId) {
        if self.directory.evict_connection(session, connection) {
            self.count_taken_over(session);
        }
    }

    fn count_taken_over(&self, session: &Arc<SessionHandle>) {
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

    /// A connection gets the session.
    fn attach(cluster: &Cluster) -> (Arc<SessionHandle>, Attachment) {
        let stored = Arc::new(StoredSession { client_id: "c".into(), incarnation: 1 });
        let session = cluster.directory.stored_session(&stored);
        let attachment = cluster.directory.attach(&session, CONNECTION, &Arrival::default());
        (session, attachment)
    }

    #[test]
    fn nobody_is_told_before_a_renewal_says_why() {
        let cluster = cluster();
        let (session, attachment) = attach(&cluster);
        cluster.doubt(&session, attachment);
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
        let (session, before) = attach(&cluster);
        cluster.doubt(&session, before);
        attach(&cluster);
        cluster.end_doubted(cluster.fenced.take());
        assert!(session.is_owned_by(CONNECTION));
        assert_eq!(cluster.host.taken_over.get(), 0);
    }
}
