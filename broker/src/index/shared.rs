//! Shared Subscriptions: one group per Share Name and filter; each message goes to one member.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Entry;
use super::subscribers::Subscribers;

/// The members of one share.
#[derive(Debug)]
pub(crate) struct Group {
    id: u64,
    name: Box<str>,
    members: Subscribers,
    next: AtomicUsize,
}

impl Group {
    /// An empty share.
    pub(crate) fn new(name: &str) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { id, name: name.into(), members: Subscribers::default(), next: AtomicUsize::new(0) }
    }

    /// Unique in this process, also among those that are gone.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The Share Name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Adds or replaces a member; answers whether it was in.
    pub(crate) fn insert(&mut self, entry: Entry) -> bool {
        self.members.insert(entry)
    }

    /// Removes a member; answers whether it was in.
    pub(crate) fn remove(&mut self, session: u64) -> bool {
        self.members.remove(session)
    }

    /// A member.
    pub(crate) fn find(&self, session: u64) -> Option<&Entry> {
        self.members.find(session)
    }

    /// Whether nobody is in.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.as_slice().is_empty()
    }

    /// Offers a message to members in turn until one takes it: round robin over those that are connected, then over
    /// those that are not (their stored sessions can take QoS 1 and 2). Answers whether one did.
    pub(crate) fn offer(&self, mut take: impl FnMut(&Entry) -> bool) -> bool {
        let members = self.members.as_slice();
        let start = self.next.load(Ordering::Relaxed);
        for connected in [true, false] {
            for turn in 0..members.len() {
                let position = (start + turn) % members.len();
                let member = &members[position];
                if member.session.is_connected() == connected && take(member) {
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
