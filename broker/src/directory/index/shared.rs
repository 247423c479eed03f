//! Shared Subscriptions: one group per Share Name and filter; each message goes to one member.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Subscriber;
use super::subscribers::Subscribers;

/// The members of one share.
#[derive(Debug)]
pub(crate) struct Group {
    id: u64,
    name: Box<str>,
    /// The whole `$share/...` string.
    filter: Arc<str>,
    members: Subscribers,
    /// Members that are other workers.
    workers: usize,
    next: AtomicUsize,
}

impl Group {
    /// An empty share. `filter` is the whole `$share/...` string.
    pub(crate) fn new(name: &str, filter: &Arc<str>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            name: name.into(),
            filter: Arc::clone(filter),
            members: Subscribers::default(),
            workers: 0,
            next: AtomicUsize::new(0),
        }
    }

    /// Unique in this process, also among those that are gone.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The Share Name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The whole `$share/...` string.
    pub(crate) fn filter(&self) -> &Arc<str> {
        &self.filter
    }

    /// Whether members are connected to other workers.
    pub(crate) fn has_workers(&self) -> bool {
        self.workers > 0
    }

    /// Adds or replaces a member; answers what it was before.
    pub(crate) fn insert(&mut self, member: Subscriber) -> Option<Subscriber> {
        let is_worker = member.is_worker();
        let old = self.members.insert(member);
        self.workers += usize::from(is_worker && old.is_none());
        old
    }

    /// Removes a member; answers it.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Subscriber> {
        let removed = self.members.remove(id);
        self.workers -= usize::from(removed.as_ref().is_some_and(Subscriber::is_worker));
        removed
    }

    /// The member with this number.
    pub(crate) fn find(&self, id: u64) -> Option<&Subscriber> {
        self.members.find(id)
    }

    /// Whether nobody is in.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.as_slice().is_empty()
    }

    /// Offers a message to members in turn until one takes it: round robin over those of rank 0, then over those of rank 1,
    /// and so on; those without a rank are left out. Answers whether one did.
    pub(crate) fn offer(
        &self,
        rank: impl Fn(&Subscriber) -> Option<u8>,
        mut take: impl FnMut(&Subscriber) -> bool,
    ) -> bool {
        let members = self.members.as_slice();
        let start = self.next.load(Ordering::Relaxed);
        for wanted in 0..RANKS {
            for turn in 0..members.len() {
                let position = (start + turn) % members.len();
                let member = &members[position];
                if rank(member) == Some(wanted) && take(member) {
                    // The turn goes on behind whoever took it, so that a member which cannot does not double the share
                    // of the one that follows it.
                    self.next.store(position + 1, Ordering::Relaxed);
                    return true;
                }
            }
        }
        false
    }
}

/// How many ranks there are among the members of a share.
const RANKS: u8 = 4;
