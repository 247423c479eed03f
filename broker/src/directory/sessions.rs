//! The registry of sessions by Client Identifier: who is connected, and which stored sessions exist.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::{FixedState, RandomState};
use parking_lot::{Mutex, MutexGuard};

use crate::directory::session_handle::SessionHandle;

/// Parts of the registry.
pub(super) const SHARDS: usize = 64;

type ByClient = HashMap<Arc<str>, Arc<SessionHandle>, RandomState>;

type Shard = Mutex<ByClient>;

/// A map in shards, so that connects on different cores seldom meet.
pub(crate) struct Sessions {
    shards: Box<[Shard]>,
    /// Which shard is the same in every run, so that a run can be repeated.
    hasher: FixedState,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), hasher: FixedState::default() }
    }

    /// Puts a session in and answers the one that had the Client Identifier before.
    pub(crate) fn insert(&self, session: &Arc<SessionHandle>) -> Option<Arc<SessionHandle>> {
        let old =
            self.shard(&session.client_id).lock().insert(Arc::clone(&session.client_id), Arc::clone(session));
        old.filter(|old| old.id != session.id)
    }

    /// Puts a session in, unless its Client Identifier is another one's. Answers whether it is in.
    pub(crate) fn insert_if_vacant(&self, session: &Arc<SessionHandle>) -> bool {
        match self.shard(&session.client_id).lock().entry(Arc::clone(&session.client_id)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::clone(session));
                true
            }
        }
    }

    /// The session of a client.
    pub(crate) fn find(&self, client_id: &str) -> Option<Arc<SessionHandle>> {
        self.shard(client_id).lock().get(client_id).cloned()
    }

    /// Takes out exactly this session, not a newer one of the same client. Answers whether it was in.
    pub(crate) fn remove(&self, session: &SessionHandle) -> bool {
        match self.shard(&session.client_id).lock().entry(Arc::clone(&session.client_id)) {
            Entry::Occupied(found) if found.get().id == session.id => {
                found.remove();
                true
            }
            _ => false,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// How many there are, and how many of them are connected.
    pub(crate) fn count(&self) -> (usize, usize) {
        let mut counts = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock();
            counts.0 += shard.len();
            counts.1 += shard.values().filter(|session| session.is_connected()).count();
        }
        counts
    }

    /// Calls `visit` for every session, a shard at a time, in an order that does not depend on chance.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Arc<SessionHandle>)) {
        for shard in &self.shards {
            let mut sessions: Vec<_> = shard.lock().values().cloned().collect();
            sessions.sort_unstable_by_key(|session| session.id);
            sessions.iter().for_each(&mut visit);
        }
    }

    /// A shard by its number.
    pub(super) fn lock_shard(&self, number: usize) -> MutexGuard<'_, ByClient> {
        self.shards[number].lock()
    }

    fn shard(&self, client_id: &str) -> &Shard {
        let hash = self.hasher.hash_one(client_id);
        &self.shards[(hash >> 32) as usize % SHARDS]
    }
}
