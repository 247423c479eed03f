//! The semantics of the store, once: sessions, queues, subscriptions, timers and Wills in memory, as plain data without
//! locks, clocks or disks. What must be kept is noted in the [`journal::Journal`]; [`crate::MemoryStore`] throws it away,
//! [`crate::EmbeddedStore`] writes it down.

mod bodies;
mod claim;
mod flow;
mod invariant;
pub(crate) mod journal;
mod left;
mod queue;
mod residency;
pub(crate) mod restore;
pub(crate) mod retained;
mod session;
mod subscription;
mod timer;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::{Fence, Number, Principal, StoreError, StoreStats, StoredSession, WorkerId};
use bodies::Bodies;
pub(crate) use flow::SHARED_BODY_BYTES_MIN;
use journal::{Change, Journal};
use left::AllLeft;
pub(crate) use left::Bequest;
pub(crate) use queue::{Extra, Page, PageRecord};
use session::Session;
use timer::{Orphans, Timers};

/// A session's incarnation: unique in a store for ever, so it names the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionKey(pub(crate) u64);

/// A session, and who it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Whose {
    pub(crate) session: Arc<StoredSession>,
    /// `None`: an earlier version stored it.
    pub(crate) principal: Option<Principal>,
}

/// Names a message body that several queue records share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BodyKey(pub(crate) u64);

/// The worker that has a store for itself.
pub(crate) const SOLE_WORKER: WorkerId = WorkerId(0);

/// Keys are reserved on disk in blocks of this many, so that none is ever given out twice.
const KEY_BLOCK: u64 = 4096;

/// Of what all share, a tenth is kept for those who have less than that.
const SHARE_PART: u64 = 10;

/// How much of `max` is kept for those who have less than that themselves, so that nobody uses up all of it; `None` where there is
/// too little of it, or no bound.
fn share_of(max: u64) -> Option<u64> {
    Some(max / SHARE_PART).filter(|share| *share > 0 && max < u64::MAX)
}

/// Bounds over all sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableLimits {
    pub(crate) sessions_max: u64,
    pub(crate) subscriptions_per_session_max: usize,
    pub(crate) queued_messages_max: u64,
    pub(crate) queued_bytes_max: u64,
    /// Bytes of queued messages that are kept in memory, when they can be read from elsewhere.
    pub(crate) resident_bytes_max: u64,
}

impl TableLimits {
    /// No bounds.
    #[cfg(feature = "testing")]
    pub(crate) const NONE: Self = Self {
        sessions_max: u64::MAX,
        subscriptions_per_session_max: usize::MAX,
        queued_messages_max: u64::MAX,
        queued_bytes_max: u64::MAX,
        resident_bytes_max: u64::MAX,
    };
}

/// Counts over all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    queued_messages: u64,
    queued_bytes: u64,
    subscriptions: u64,
}

/// All sessions.
pub(crate) struct Tables {
    limits: TableLimits,
    sessions: HashMap<SessionKey, Session, foldhash::fast::RandomState>,
    /// Keyed by what clients choose: the hasher withstands chosen keys.
    by_client: HashMap<Arc<str>, SessionKey>,
    /// Sessions of each principal; counted from when somebody first asks.
    by_principal: Option<HashMap<Principal, u64>>,
    /// Clients whose session is gone, and the batch that says so on disk.
    departed: HashMap<Arc<str>, u64>,
    /// For paging; new sessions come last.
    order: BTreeSet<SessionKey>,
    timers: Timers,
    orphans: Orphans,
    left: AllLeft,
    /// Bytes of that and of bequests.
    left_bytes: u64,
    /// Some of it is to be read from disk.
    bequests: Vec<Bequest>,
    bodies: Bodies,
    /// Sessions with bodies in memory, the ones to evict first in front.
    resident: VecDeque<SessionKey>,
    /// Bytes of bodies in memory, shared ones apart.
    resident_bytes: u64,
    totals: Totals,
    next_key: u64,
    reserved_below: u64,
    /// Where changes go now.
    batch: u64,
    journal: Journal,
}

impl Tables {
    /// Empty tables. Without a journal nothing is noted and all bodies stay in memory.
    pub(crate) fn new(limits: TableLimits, journal: Journal) -> Self {
        Self {
            limits,
            sessions: HashMap::default(),
            by_client: HashMap::new(),
            by_principal: None,
            departed: HashMap::new(),
            order: BTreeSet::new(),
            timers: Timers::default(),
            orphans: Orphans::new(),
            left: AllLeft::new(),
            left_bytes: 0,
            bequests: Vec::new(),
            bodies: Bodies::default(),
            resident: VecDeque::new(),
            resident_bytes: 0,
            totals: Totals::default(),
            next_key: 1,
            reserved_below: 1,
            batch: 1,
            journal,
        }
    }

    /// What is to be written down.
    pub(crate) fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Counts, without the retained ones.
    pub(crate) fn stats(&self) -> StoreStats {
        StoreStats {
            sessions: self.sessions.len() as u64,
            queued_messages: self.totals.queued_messages,
            queued_bytes: self.totals.queued_bytes,
            subscriptions: self.totals.subscriptions,
            ..StoreStats::default()
        }
    }

    /// See [`crate::Store::tails`].
    pub(crate) fn tails(&self, sessions: &[Arc<StoredSession>]) -> Vec<Option<Number>> {
        let tail = |session: &Arc<StoredSession>| {
            self.sessions.get(&SessionKey(session.incarnation)).map(|found| Number(found.queue.tail()))
        };
        sessions.iter().map(tail).collect()
    }

    /// Whether the client has a session, or had one that may still be on disk.
    pub(crate) fn may_have_had(&self, client_id: &str) -> bool {
        self.by_client.contains_key(client_id) || self.departed.contains_key(client_id)
    }

    /// What departed in this batch or before is gone from disk.
    pub(crate) fn forget_departed(&mut self, batch: u64) {
        if !self.departed.is_empty() {
            self.departed.retain(|_, departed_in| *departed_in > batch);
        }
    }

    /// A key for the caller, never given out before.
    pub(crate) fn unique_key(&mut self) -> u64 {
        self.new_key()
    }

    /// From here on changes go into this batch.
    pub(crate) fn begin_batch(&mut self, batch: u64) {
        self.batch = batch;
    }

    /// The batch that the session's last change or answer goes with; 0 if there is no such session.
    pub(crate) fn last_batch(&self, fence: &Fence) -> u64 {
        self.sessions.get(&SessionKey(fence.session.incarnation)).map_or(0, |session| session.last_batch)
    }

    /// Notes that an answer about the session goes out with the current batch.
    pub(crate) fn touch(&mut self, fence: &Fence) {
        if let Some(session) = self.sessions.get_mut(&SessionKey(fence.session.incarnation)) {
            session.last_batch = self.batch;
        }
    }

    /// No key from here on was given out in an earlier batch.
    pub(crate) fn next_key(&self) -> u64 {
        self.next_key
    }

    /// A key that was never given out.
    fn new_key(&mut self) -> u64 {
        self.new_keys(1)
    }

    /// The first of so many keys that were never given out.
    fn new_keys(&mut self, count: u64) -> u64 {
        let key = self.next_key;
        self.next_key += count;
        if self.next_key > self.reserved_below {
            self.reserved_below = self.next_key + KEY_BLOCK;
            self.journal.note(Change::Reserved { below: self.reserved_below });
        }
        key
    }

    /// The session that a fence is valid for, to change it.
    fn owned(&mut self, fence: &Fence) -> Result<&mut Session, StoreError> {
        self.look_up(fence)?;
        let session =
            self.sessions.get_mut(&SessionKey(fence.session.incarnation)).ok_or(StoreError::NoSession)?;
        session.last_batch = self.batch;
        Ok(session)
    }

    /// The session that a fence is valid for, to read it.
    fn look_up(&self, fence: &Fence) -> Result<&Session, StoreError> {
        match self.sessions.get(&SessionKey(fence.session.incarnation)) {
            Some(session) if session.is_owned_by(fence) => Ok(session),
            Some(_) => Err(StoreError::Fenced),
            // A newer session of the same client means a newer owner.
            None if self.by_client.contains_key(&fence.session.client_id) => Err(StoreError::Fenced),
            None => Err(StoreError::NoSession),
        }
    }
}
