//! How many subscriptions a session has, and the SUBSCRIBE and UNSUBSCRIBE packets under way. The filters themselves are
//! in the index; a hash of each is enough to tell a new one from a replaced one.

use std::collections::{HashSet, VecDeque};
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
    /// Those that were not answered to the client, in the order in which they came.
    requests: VecDeque<Request>,
}

#[derive(Debug)]
struct Request {
    id: PacketId,
    kind: RequestKind,
    /// Of the filters, in the order of the packet.
    hashes: Box<[u64]>,
    /// Acknowledgements of messages that the client is owed from before it.
    acks_before: usize,
    /// What it is told, once that is known.
    answer: Option<Box<[ReasonCode]>>,
}

/// What a client is told about a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The packet that asked.
    pub id: PacketId,
    /// What it asked for.
    pub kind: RequestKind,
    /// For each filter, in the order of the packet.
    pub codes: Box<[ReasonCode]>,
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

    /// Whether a request is not answered to the client.
    pub(crate) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether an earlier request that is under way is about a filter of this one: carried out at once, the two could change
    /// places.
    pub(crate) fn is_behind(&self, id: PacketId) -> bool {
        let Some(at) = self.requests.iter().position(|request| request.id == id) else { return false };
        let mut own = self.requests[at].hashes.to_vec();
        own.sort_unstable();
        let before = self.requests.range(..at).filter(|request| request.answer.is_none());
        before.flat_map(|request| &request.hashes).any(|hash| own.binary_search(hash).is_ok())
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
        let is_asked =
            |request: &&Request| request.kind == RequestKind::Subscribe && request.answer.is_none();
        let asked = self.requests.iter().filter(is_asked);
        self.hashes.len() + asked.map(|request| request.hashes.len()).sum::<usize>() + added.len() < max
    }

    /// Subscriptions are gone without a request of the client.
    pub(crate) fn forget<'a>(&mut self, filters: impl Iterator<Item = &'a str>) {
        let gone: HashSet<u64> = filters.map(|filter| self.hasher.hash_one(filter)).collect();
        self.hashes.retain(|hash| !gone.contains(hash));
    }

    /// A request is under way, behind so many acknowledgements of messages that are owed.
    pub(crate) fn begin(&mut self, id: PacketId, kind: RequestKind, hashes: Vec<u64>, acks_before: usize) {
        self.requests.push_back(Request { id, kind, hashes: hashes.into(), acks_before, answer: None });
    }

    /// The answer to a request is known: notes what changed. `false` when there is no such request.
    pub(crate) fn finish(&mut self, id: PacketId, kind: RequestKind, codes: &[ReasonCode]) -> bool {
        let is_it =
            |request: &&mut Request| request.id == id && request.kind == kind && request.answer.is_none();
        let Some(request) = self.requests.iter_mut().find(is_it) else { return false };
        request.answer = Some(codes.into());
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

    /// An acknowledgement of a message was written.
    pub(crate) fn count_ack(&mut self) {
        for request in &mut self.requests {
            request.acks_before = request.acks_before.saturating_sub(1);
        }
    }

    /// Takes the next answer that can be written: behind those to all earlier requests, and the acknowledgements of all earlier
    /// messages.
    pub(crate) fn next_answer(&mut self) -> Option<Answer> {
        let is_next = |request: &mut Request| request.answer.is_some() && request.acks_before == 0;
        let Request { id, kind, answer, .. } = self.requests.pop_front_if(is_next)?;
        if self.requests.is_empty() {
            self.requests = VecDeque::new();
        }
        Some(Answer { id, kind, codes: answer? })
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
        filters.begin(id(1), RequestKind::Unsubscribe, vec![a], 0);
        assert!(filters.finish(id(1), RequestKind::Unsubscribe, &[ReasonCode::Success]));
        assert!(filters.has_room(c, &HashSet::new(), 2));
    }

    #[test]
    fn requests_under_way_count_until_they_are_refused() {
        let mut filters = Filters::default();
        let (a, b) = (filters.hash("a"), filters.hash("b"));
        filters.begin(id(1), RequestKind::Subscribe, vec![a], 0);
        assert!(filters.uses(id(1)));
        assert!(!filters.has_room(b, &HashSet::new(), 1));
        assert!(!filters.finish(id(1), RequestKind::Unsubscribe, &[]));
        assert!(filters.finish(id(1), RequestKind::Subscribe, &[ReasonCode::NotAuthorized]));
        assert!(filters.has_room(b, &HashSet::new(), 1));
        assert!(filters.next_answer().is_some());
        assert!(filters.is_empty());
    }

    #[test]
    fn answers_keep_their_place_among_each_other_and_among_acknowledgements() {
        let mut filters = Filters::default();
        let (a, b) = (filters.hash("a"), filters.hash("b"));
        filters.begin(id(1), RequestKind::Subscribe, vec![a], 2);
        filters.begin(id(2), RequestKind::Subscribe, vec![b], 2);
        filters.begin(id(3), RequestKind::Subscribe, vec![b, a], 3);
        assert!(!filters.is_behind(id(1)) && !filters.is_behind(id(2)) && filters.is_behind(id(3)));
        let granted = [ReasonCode::granted(mqtt::QoS::AtMostOnce); 2];
        assert!(filters.finish(id(2), RequestKind::Subscribe, &granted[..1]));
        assert!(filters.is_behind(id(3)), "the first is under way");
        filters.count_ack();
        filters.count_ack();
        assert_eq!(filters.next_answer(), None, "the first is under way");
        assert!(filters.finish(id(1), RequestKind::Subscribe, &granted[..1]));
        assert!(!filters.is_behind(id(3)));
        assert!(filters.finish(id(3), RequestKind::Subscribe, &granted));
        let mut next = || filters.next_answer().map(|answer| answer.id);
        assert_eq!([next(), next(), next()], [Some(id(1)), Some(id(2)), None]);
        filters.count_ack();
        assert_eq!(filters.next_answer().map(|answer| answer.id), Some(id(3)));
    }
}
