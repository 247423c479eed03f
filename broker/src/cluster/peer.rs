//! Other workers: what waits for each, and what each listens to.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use state::{Listener, WorkerId};

use super::Cluster;
use super::note::Outbox;

/// Another worker, as far as something is sent to it.
pub(super) struct Peer {
    pub(super) worker: WorkerId,
    pub(super) outbox: Mutex<Outbox>,
}

/// All workers that are known. In their order, so that a run can be repeated.
pub(super) type Peers = BTreeMap<WorkerId, Arc<Peer>>;

impl Cluster {
    /// A worker that has not left.
    pub(super) fn find_peer(&self, worker: WorkerId) -> Option<Arc<Peer>> {
        self.peers.read().get(&worker).cloned()
    }

    /// A worker, known or not.
    pub(super) fn peer(&self, worker: WorkerId) -> Arc<Peer> {
        if let Some(peer) = self.find_peer(worker) {
            return peer;
        }
        let mut peers = self.peers.write();
        let made = || Arc::new(Peer { worker, outbox: Mutex::default() });
        Arc::clone(peers.entry(worker).or_insert_with(made))
    }

    /// All workers that are known.
    pub(super) fn all_peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().values().cloned().collect()
    }

    /// Another worker listens to a filter.
    pub(super) fn peer_listens(&self, listener: &Listener) {
        self.peer(listener.worker);
        self.directory.worker_listens(listener);
    }

    /// Another worker is gone. What waits for it is answered as such when its inbox says so, or now.
    pub(super) fn peer_left(self: &Arc<Self>, worker: WorkerId) {
        let peer = self.peers.write().remove(&worker);
        self.directory.forget_worker(worker);
        if let Some(peer) = peer {
            self.give_up(&peer);
        }
    }
}
