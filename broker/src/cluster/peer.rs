//! Other workers in the index: each is one subscriber of everything that it listens to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use mqtt::QoS;
use parking_lot::Mutex;
use state::{Listener, SubscriptionOptions, Wants, WorkerId};

use crate::directory::index::Entry;
use crate::directory::session_handle::SessionHandle;
use crate::hub::Hub;

use super::Cluster;
use super::note::Outbox;

/// Another worker.
pub(crate) struct Peer {
    pub(super) worker: WorkerId,
    /// What stands for it in the index.
    session: Arc<SessionHandle>,
    pub(super) outbox: Mutex<Outbox>,
}

#[derive(Default)]
pub(super) struct Peers {
    by_worker: BTreeMap<WorkerId, Arc<Peer>>,
    by_session: HashMap<u64, Arc<Peer>, RandomState>,
    next: u64,
}

/// What a worker wants of a filter, as the options of its entry in the index. A worker has no use for No Local: that it
/// is set says that the worker wants only what is published with QoS 0.
pub(super) fn options_for(wants: Wants) -> SubscriptionOptions {
    SubscriptionOptions {
        qos: wants.granted(QoS::ExactlyOnce).unwrap_or(QoS::AtMostOnce),
        no_local: wants == Wants::Qos0Only,
        retain_as_published: false,
        subscription_id: 0,
    }
}

/// What a worker wants of a filter, as its entry says: see [`options_for`].
pub(crate) fn wanted_by(options: &SubscriptionOptions) -> Wants {
    if options.no_local { Wants::Qos0Only } else { Wants::UpTo(options.qos) }
}

impl Cluster {
    /// The worker that this handle stands for.
    pub(crate) fn peer_of(&self, session: u64) -> Option<Arc<Peer>> {
        self.peers.read().by_session.get(&session).cloned()
    }

    /// A worker, known or not.
    pub(super) fn peer(&self, worker: WorkerId) -> Arc<Peer> {
        if let Some(peer) = self.peers.read().by_worker.get(&worker) {
            return Arc::clone(peer);
        }
        let mut peers = self.peers.write();
        peers.next += 1;
        let session = Arc::new(SessionHandle::for_peer(peers.next));
        let peer = peers.by_worker.entry(worker).or_insert_with(|| {
            Arc::new(Peer { worker, session: Arc::clone(&session), outbox: Mutex::default() })
        });
        let peer = Arc::clone(peer);
        if peer.session.id == session.id {
            peers.by_session.insert(session.id, Arc::clone(&peer));
        }
        peer
    }

    /// All workers that are known.
    pub(super) fn all_peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().by_worker.values().cloned().collect()
    }

    fn take_peer(&self, worker: WorkerId) -> Option<Arc<Peer>> {
        let mut peers = self.peers.write();
        let peer = peers.by_worker.remove(&worker)?;
        peers.by_session.remove(&peer.session.id);
        Some(peer)
    }
}

impl Hub {
    /// Another worker listens to a filter.
    pub(super) fn peer_listens(&self, cluster: &Cluster, listener: &Listener) {
        let Listener { worker, filter, wants } = listener;
        let peer = cluster.peer(*worker);
        let entry = Entry { session: Arc::clone(&peer.session), options: options_for(*wants) };
        if self.index.write().insert(filter, entry).is_none() {
            peer.session.add_filter(Arc::clone(filter));
        }
    }

    /// It listens to it no more.
    pub(super) fn peer_is_deaf(&self, cluster: &Cluster, worker: WorkerId, filter: &str) {
        let peer = cluster.peer(worker);
        if self.index.write().remove(filter, peer.session.id).is_some() {
            peer.session.remove_filter(filter);
        }
    }

    /// It is gone. What waits for it is answered as such when its inbox says so, or now.
    pub(super) fn peer_left(self: &Arc<Self>, cluster: &Arc<Cluster>, worker: WorkerId) {
        let Some(peer) = cluster.take_peer(worker) else { return };
        {
            let mut index = self.index.write();
            for filter in peer.session.take_filters() {
                index.remove(&filter, peer.session.id);
            }
        }
        cluster.give_up(&peer);
    }

    /// What other workers listen to is read anew: forgets it.
    pub(super) fn forget_peers(&self, cluster: &Cluster) {
        for peer in cluster.all_peers() {
            let mut index = self.index.write();
            for filter in peer.session.take_filters() {
                index.remove(&filter, peer.session.id);
            }
        }
    }
}
