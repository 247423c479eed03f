//! How many subscriptions a session has, and the SUBSCRIBE and UNSUBSCRIBE packets under way. The filters themselves are
//! in the index; a hash of each is enough to tell a new one from a replaced one.

use std::collections::HashSet;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use mqtt::{PacketId, ReasonCode};

/// SUBSCRIBE and UNSUBSCRIBE packets that one client may have under way.
pub(crate) const REQUESTS_MAX: usize = 256;

/// Exists while the session has subscriptions or requests.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    hasher: RandomState,
    /// Sorted.
    hashes: Vec<u64>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    id: PacketId,
    kind: RequestKind,
    /// Of the filters, in the order of the packet.
    hashes: Box<[u64]>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// SUBSCRIBE.
    Subscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
}

impl Filters {
    /// Notes the subscriptions that a stored session has already.
    pub(crate) fn restore<'a>(&mut self, filters: impl Iterator<Item = &'a str>) {
        self.hashes.extend(filters.map(|filter| self.hasher.hash_one(filter)));
        self.hashes.sort_unstable();
        self.hashes.dedup();
    }

    /// A number that stands for `filter` here.
    pub(crate) fn hash(&self, filter: &str) -> u64 {
        self.hasher.hash_one(filter)
    }

    /// Whether nothing is noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.hashes.is_empty() && self.requests.is_empty()
    }

    /// Whether a request with this Packet Identifier is under way.
    pub(crate) fn uses(&self, id: PacketId) -> bool {
        self.requests.iter().any(|request| request.id == id)
    }

    /// Whether another request may be under way: not while those that are have `filters_max` or more.
    pub(crate) fn has_room_for_request(&self, filters_max: usize) -> bool {
        self.requests.len() < REQUESTS_MAX
            && self.requests.iter().map(|request| request.hashes.len()).sum::<usize>() < filters_max
    }

    /// Whether a subscription may be added to `added` new ones of the same packet without having more than `max`;
    /// requests under way count as granted. Replacing one is always allowed.
    // v5 [MQTT-3.8.4-3]
    pub(crate) fn has_room(&self, hash: u64, added: &HashSet<u64>, max: usize) -> bool {
        if self.hashes.binary_search(&hash).is_ok() || added.contains(&hash) {
            return true;
        }
        let asked = self.requests.iter().filter(|request| request.kind == RequestKind::Subscribe);
        self.hashes.len() + asked.map(|request| request.hashes.len()).sum::<usize>() + added.len() < max
    }

    /// Subscriptions are gone without a request of the client.
    pub(crate) fn forget<'a>(&mut self, filters: impl Iterator<Item = &'a str>) {
        let gone: HashSet<u64> = filters.map(|filter| self.hasher.hash_one(filter)).collect();
        self.hashes.retain(|hash| !gone.contains(hash));
    }

    /// A request is under way.
    pub(crate) fn begin(&mut self, id: PacketId, kind: RequestKind, hashes: Vec<u64>) {
        self.requests.push(Request { id, kind, hashes: hashes.into() });
    }

    /// A request is answered: notes what changed. `false` when there is no such request.
    pub(crate) fn finish(&mut self, id: PacketId, kind: RequestKind, codes: &[ReasonCode]) -> bool {
        let found = self.requests.iter().position(|request| request.id == id && request.kind == kind);
        let Some(index) = found else { return false };
        let request = self.requests.remove(index);
        if self.requests.is_empty() {
            self.requests = Vec::new();
        }
        for (hash, code) in request.hashes.iter().zip(codes) {
            match (kind, self.hashes.binary_search(hash)) {
                (RequestKind::Subscribe, Err(place)) if !code.is_error() => {
                    if self.hashes.capacity() == 0 {
                        self.hashes.reserve_exact(1);
                    }
                    self.hashes.insert(place, *hash);
                }
                (RequestKind::Unsubscribe, Ok(place)) if !code.is_error() => {
                    self.hashes.remove(place);
                }
                _ => {}
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    #[test]
    fn a_replaced_subscription_takes_no_room() {
        let mut filters = Filters::default();
        filters.restore(["a", "b"].into_iter());
        let (a, c) = (filters.hash("a"), filters.hash("c"));
        assert!(filters.has_room(a, &HashSet::new(), 2));
        assert!(!filters.has_room(c, &HashSet::new(), 2));
        filters.begin(id(1), RequestKind::Unsubscribe, vec![a]);
        assert!(filters.finish(id(1), RequestKind::Unsubscribe, &[ReasonCode::Success]));
        assert!(filters.has_room(c, &HashSet::new(), 2));
    }

    #[test]
    fn requests_under_way_count_until_they_are_refused() {
        let mut filters = Filters::default();
        let (a, b) = (filters.hash("a"), filters.hash("b"));
        filters.begin(id(1), RequestKind::Subscribe, vec![a]);
        assert!(filters.uses(id(1)));
        assert!(!filters.has_room(b, &HashSet::new(), 1));
        assert!(!filters.finish(id(1), RequestKind::Unsubscribe, &[]));
        assert!(filters.finish(id(1), RequestKind::Subscribe, &[ReasonCode::NotAuthorized]));
        assert!(filters.has_room(b, &HashSet::new(), 1));
        assert!(filters.is_empty());
    }
}
