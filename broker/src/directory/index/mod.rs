//! The subscription index: which sessions a Topic Name concerns. Filters without wildcards are found by one hash look-up,
//! the others by a walk over a tree of levels. It never waits for anything.

mod shared;
mod subscriber;
mod subscribers;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use mqtt::topic::has_wildcard;
use smallvec::SmallVec;
use state::SubscriptionOptions;

pub(crate) use self::shared::Group;
pub(crate) use self::subscriber::{OtherWorker, Subscriber};

use self::subscribers::Subscribers;
use self::tree::Tree;

/// All that is subscribed at one filter.
#[derive(Debug, Default)]
pub(crate) struct Leaf {
    /// Each session, and each other worker, at most once.
    plain: Subscribers,
    shared: Vec<Group>,
}

/// The subscriptions of all sessions of this worker, and what other workers listen to.
#[derive(Debug, Default)]
pub(crate) struct Index {
    exact: HashMap<Arc<str>, Leaf, RandomState>,
    wildcard: Tree,
    subscriptions: usize,
}

/// The leaves that concern one Topic Name; few, whatever the number of subscribers.
pub(crate) type Matches<'a> = SmallVec<[&'a Leaf; 8]>;

impl Index {
    /// Adds or replaces a subscription; `filter` is as the client wrote it, with `$share`. Answers what was there.
    pub(crate) fn insert(&mut self, filter: &Arc<str>, subscriber: Subscriber) -> Option<Subscriber> {
        let old = match mqtt::topic::SharedFilter::parse(filter) {
            Ok(Some(shared)) => {
                let leaf = self.leaf_mut(shared.filter);
                leaf.group_mut(shared.share_name, filter).insert(subscriber)
            }
            _ if has_wildcard(filter) => self.wildcard.leaf_mut(filter).plain.insert(subscriber),
            _ => self.exact.entry(Arc::clone(filter)).or_default().plain.insert(subscriber),
        };
        self.subscriptions += usize::from(old.is_none());
        old
    }

    /// Removes the subscription of the subscriber with this number. Answers what was there.
    pub(crate) fn remove(&mut self, filter: &str, id: u64) -> Option<Subscriber> {
        let (share_name, filter) = match mqtt::topic::SharedFilter::parse(filter) {
            Ok(Some(shared)) => (Some(shared.share_name), shared.filter),
            _ => (None, filter),
        };
        let remove = |leaf: &mut Leaf| leaf.remove(share_name, id);
        let removed = if has_wildcard(filter) {
            self.wildcard.update(filter, remove)
        } else {
            let leaf = self.exact.get_mut(filter)?;
            let removed = remove(leaf);
            if leaf.is_empty() {
                self.exact.remove(filter);
            }
            removed
        };
        self.subscriptions -= usize::from(removed.is_some());
        removed
    }

    /// The options of a session's subscription, if it is there.
    pub(crate) fn options(&self, filter: &str, session: u64) -> Option<SubscriptionOptions> {
        let (share_name, filter) = match mqtt::topic::SharedFilter::parse(filter) {
            Ok(Some(shared)) => (Some(shared.share_name), shared.filter),
            _ => (None, filter),
        };
        let leaf = if has_wildcard(filter) { self.wildcard.leaf(filter)? } else { self.exact.get(filter)? };
        let found = match share_name {
            Some(name) => leaf.shared.iter().find(|group| group.name() == name)?.find(session),
            None => leaf.plain.find(session),
        };
        found.and_then(Subscriber::options)
    }

    /// The leaves that match a Topic Name.
    pub(crate) fn matches(&self, topic: &str) -> Matches<'_> {
        let mut found = Matches::new();
        if let Some(leaf) = self.exact.get(topic) {
            found.push(leaf);
        }
        self.wildcard.matches(topic, &mut found);
        found
    }

    /// The members of a share, by its whole `$share/...` string.
    pub(crate) fn group(&self, filter: &str) -> Option<&Group> {
        let shared = mqtt::topic::SharedFilter::parse(filter).ok().flatten()?;
        let filter = shared.filter;
        let leaf = if has_wildcard(filter) { self.wildcard.leaf(filter)? } else { self.exact.get(filter)? };
        leaf.shared.iter().find(|group| group.name() == shared.share_name)
    }

    /// Subscriptions in all.
    pub(crate) fn len(&self) -> usize {
        self.subscriptions
    }

    fn leaf_mut(&mut self, filter: &str) -> &mut Leaf {
        if has_wildcard(filter) {
            return self.wildcard.leaf_mut(filter);
        }
        if !self.exact.contains_key(filter) {
            self.exact.insert(filter.into(), Leaf::default());
        }
        self.exact.entry(filter.into()).or_default()
    }
}

impl Leaf {
    /// The subscribers that are not in a share.
    pub(crate) fn plain(&self) -> &[Subscriber] {
        self.plain.as_slice()
    }

    /// The shares, each of which gets a message once.
    pub(crate) fn shared(&self) -> &[Group] {
        &self.shared
    }

    fn is_empty(&self) -> bool {
        self.plain.as_slice().is_empty() && self.shared.is_empty()
    }

    fn group_mut(&mut self, share_name: &str, filter: &Arc<str>) -> &mut Group {
        let position = self.shared.iter().position(|group| group.name() == share_name).unwrap_or_else(|| {
            self.shared.push(Group::new(share_name, filter));
            self.shared.len() - 1
        });
        &mut self.shared[position]
    }

    fn remove(&mut self, share_name: Option<&str>, id: u64) -> Option<Subscriber> {
        let Some(name) = share_name else { return self.plain.remove(id) };
        let position = self.shared.iter().position(|group| group.name() == name)?;
        let removed = self.shared[position].remove(id);
        if self.shared[position].is_empty() {
            self.shared.swap_remove(position);
        }
        removed
    }
}
