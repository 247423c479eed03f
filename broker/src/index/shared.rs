//! Shared Subscriptions: one group per Share Name and filter; each message goes to one member.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Entry;
use super::subscribers::Subscribers;

/// The members of one share.
#[derive(Debug)]
pub(crate) struct Group {
    name: Box<str>,
    members: Subscribers,
    next: AtomicUsize,
}

impl Group {
    /// An empty share.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), members: Subscribers::default(), next: AtomicUsize::new(0) }
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

    /// Whether nobody is in.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.as_slice().is_empty()
    }

    /// The members in the order in which they should be tried for the next message: round robin over those that are
    /// connected, then those that are not (their stored sessions can take QoS 1 and 2).
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &Entry> {
        let members = self.members.as_slice();
        let start = self.next.fetch_add(1, Ordering::Relaxed) % members.len().max(1);
        let (after, before) = (members.get(start..).unwrap_or_default(), members.get(..start).unwrap_or_default());
        let turn = move || after.iter().chain(before);
        let connected = turn().filter(|e| e.session.is_connected());
        connected.chain(turn().filter(|e| !e.session.is_connected()))
    }
}
