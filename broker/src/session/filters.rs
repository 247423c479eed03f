//! How many subscriptions a session has, and the SUBSCRIBE and UNSUBSCRIBE packets under way. The filters themselves are
//! in the index; a hash of each is enough to tell a new one from a replaced one.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use mqtt::topic::SharedFilter;
use mqtt::{PacketId, ReasonCode};

use crate::authorize::bounds::{Bound, Bounds};
use crate::session::io::RequestKind;

/// SUBSCRIBE and UNSUBSCRIBE packets that one client may have under way.
pub(crate) const REQUESTS_MAX: usize = 256;

/// Exists while the session has subscriptions or requests.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    hasher: RandomState,
    /// Sorted.
    hashes: Vec<u64>,
    /// How many of them are of Shared Subscriptions.
    shared: usize,
    /// Bytes of the filters.
    bytes: usize,
    /// Those that were not answered to the client, in the order in which they came.
    requests: VecDeque<NotedRequest>,
}

#[derive(Debug)]
struct NotedRequest {
    id: PacketId,
    kind: RequestKind,
    /// In the order of the packet.
    filters: Box<[Noted]>,
    /// How many of them are of Shared Subscriptions.
    shared: usize,
    /// Acknowledgements of messages that the client is owed from before it.
    acks_before: usize,
    /// What it is told, once that is known.
    answer: Option<Box<[ReasonCode]>>,
}

/// What stands for a Topic Filter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    hash: u64,
    bytes: u32,
}

/// Subscriptions of one packet that are not refused.
#[derive(Debug, Default)]
pub(crate) struct Added {
    hashes: HashSet<u64>,
    /// Those that replace none.
    new: usize,
    /// The bytes of those.
    bytes: usize,
    /// Those of them that are shared.
    shared: usize,
}

impl Added {
    pub(crate) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Adds one, which may replace one of `filters`.
    pub(crate) fn insert(&mut self, filter: Noted, filters: Option<&Filters>) {
        let replaces = filters.is_some_and(|filters| filters.has(filter));
        if self.hashes.insert(filter.hash) && !replaces {
            self.new += 1;
            self.bytes += filter.bytes as usize;
            self.shared += usize::from(is_shared(filter.hash));
        }
    }
}

/// The lowest bit of a hash says whether it is of a Shared Subscription. Then its upper half is that of the filter alone, so that
/// those which differ in their Share Name only are next to each other.
fn is_shared(hash: u64) -> bool {
    hash & 1 == 1
}

const FILTER_HALF: u64 = 0xFFFF_FFFF << 32;

fn hash_of(hasher: &RandomState, filter: &str) -> u64 {
    match SharedFilter::parse(filter) {
        Ok(Some(shared)) => {
            (hasher.hash_one(shared.filter) & FILTER_HALF) | (hasher.hash_one(shared.share_name) >> 32) | 1
        }
        _ => hasher.hash_one(filter) & !1,
    }
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

impl Filters {
    /// Notes the subscriptions that a stored session has already.
    pub(crate) fn restore<'a>(&mut self, filters: impl Iterator<Item = &'a str>) {
        for filter in filters {
            self.bytes += filter.len();
            self.hashes.push(hash_of(&self.hasher, filter));
        }
        self.hashes.sort_unstable();
        self.hashes.dedup();
        self.count_shared();
    }

    /// What stands for `filter` here.
    pub(crate) fn note(&self, filter: &str) -> Noted {
        // The protocol allows no longer one.
        Noted { hash: hash_of(&self.hasher, filter), bytes: u32::try_from(filter.len()).unwrap_or(u32::MAX) }
    }

    fn has(&self, filter: Noted) -> bool {
        self.hashes.binary_search(&filter.hash).is_ok()
    }

    /// Bytes of the filters that are subscribed to.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn count_shared(&mut self) {
        self.shared = self.hashes.iter().filter(|hash| is_shared(**hash)).count();
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
        let mut own: Vec<u64> = self.requests[at].filters.iter().map(|filter| filter.hash).collect();
        own.sort_unstable();
        let before = self.requests.range(..at).filter(|request| request.answer.is_none());
        before.flat_map(|request| &request.filters).any(|filter| own.binary_search(&filter.hash).is_ok())
    }

    /// Whether another request may be under way: not while those that are have `filters_max` or more, or so many bytes.
    pub(crate) fn has_room_for_request(&self, filters_max: usize, bytes_max: usize) -> bool {
        let filters = || self.requests.iter().flat_map(|request| &request.filters);
        self.requests.len() < REQUESTS_MAX
            && self.requests.iter().map(|request| request.filters.len()).sum::<usize>() < filters_max
            && filters().map(|filter| filter.bytes as usize).sum::<usize>() < bytes_max
    }

    /// The bound that a subscription would be beyond, added to `added` new ones of the same packet; requests under way count as
    /// granted. Replacing one is always allowed. `bytes_beside`: what the session holds besides filters.
    // v5 [MQTT-3.8.4-3]
    pub(crate) fn bound_of(
        &self,
        filter: Noted,
        added: &Added,
        bounds: Bounds<'_>,
        bytes_beside: usize,
    ) -> Option<Bound> {
        let hash = filter.hash;
        if self.has(filter) || added.hashes.contains(&hash) {
            return None;
        }
        let is_asked =
            |request: &&NotedRequest| request.kind == RequestKind::Subscribe && request.answer.is_none();
        let asked = || self.requests.iter().filter(is_asked);
        let all = self.hashes.len() + asked().map(|request| request.filters.len()).sum::<usize>();
        if all + added.new >= bounds.subscriptions_max() {
            return Some(Bound::Subscriptions);
        }
        let under_way = asked().flat_map(|request| &request.filters).map(|filter| filter.bytes as usize);
        let bytes = bytes_beside + self.bytes + under_way.sum::<usize>() + added.bytes;
        if bytes + filter.bytes as usize > bounds.session_bytes_max() {
            return Some(Bound::SessionBytes);
        }
        if !is_shared(hash) {
            return None;
        }
        let shared = self.shared + asked().map(|request| request.shared).sum::<usize>();
        if shared + added.shared >= bounds.shared_groups_max() {
            return Some(Bound::SharedGroups);
        }
        let is_alike = |other: &&u64| is_shared(**other) && **other & FILTER_HALF == hash & FILTER_HALF;
        let from = self.hashes.partition_point(|other| *other < hash & FILTER_HALF);
        let alike =
            self.hashes[from..].iter().take_while(|other| **other & FILTER_HALF == hash & FILTER_HALF);
        let under_way = asked().filter(|request| request.shared > 0).flat_map(|request| &request.filters);
        let under_way = under_way.map(|filter| &filter.hash).chain(&added.hashes).filter(is_alike).count();
        let is_beyond = alike.filter(is_alike).count() + under_way >= bounds.shared_groups_per_filter_max();
        is_beyond.then_some(Bound::SharedGroupsPerFilter)
    }

    /// Subscriptions are gone without a request of the client.
    pub(crate) fn forget<'a>(&mut self, filters: impl Iterator<Item = &'a str>) {
        let mut gone = HashSet::new();
        for filter in filters {
            let filter = self.note(filter);
            if self.has(filter) && gone.insert(filter.hash) {
                self.bytes = self.bytes.saturating_sub(filter.bytes as usize);
            }
        }
        self.hashes.retain(|hash| !gone.contains(hash));
        self.count_shared();
    }

    /// A request is under way, behind so many acknowledgements of messages that are owed.
    pub(crate) fn begin(&mut self, id: PacketId, kind: RequestKind, filters: Vec<Noted>, acks_before: usize) {
        let shared = filters.iter().filter(|filter| is_shared(filter.hash)).count();
        self.requests.push_back(NotedRequest {
            id,
            kind,
            filters: filters.into(),
            shared,
            acks_before,
            answer: None,
        });
    }

    /// The answer to a request is known: notes what changed. `false` when there is no such request.
    pub(crate) fn finish(&mut self, id: PacketId, kind: RequestKind, codes: &[ReasonCode]) -> bool {
        let is_it = |request: &&mut NotedRequest| {
            request.id == id && request.kind == kind && request.answer.is_none()
        };
        let Some(request) = self.requests.iter_mut().find(is_it) else { return false };
        request.answer = Some(codes.into());
        for (Noted { hash, bytes }, code) in request.filters.iter().zip(codes) {
            match (kind, self.hashes.binary_search(hash)) {
                (RequestKind::Subscribe, Err(place)) if !code.is_error() => {
                    if self.hashes.capacity() == 0 {
                        self.hashes.reserve_exact(1);
                    }
                    self.hashes.insert(place, *hash);
                    self.bytes += *bytes as usize;
                    self.shared += usize::from(is_shared(*hash));
                }
                (RequestKind::Unsubscribe, Ok(place)) if !code.is_error() => {
                    self.hashes.remove(place);
                    self.bytes = self.bytes.saturating_sub(*bytes as usize);
                    self.shared -= usize::from(is_shared(*hash));
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
        let is_next = |request: &mut NotedRequest| request.answer.is_some() && request.acks_before == 0;
        let NotedRequest { id, kind, answer, .. } = self.requests.pop_front_if(is_next)?;
        if self.requests.is_empty() {
            self.requests = VecDeque::new();
        }
        Some(Answer { id, kind, codes: answer? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BrokerConfig;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    /// Whether one more may be added without having more than `max`.
    fn has_room(filters: &Filters, filter: Noted, max: usize) -> bool {
        let config = BrokerConfig { subscriptions_max: max, ..BrokerConfig::default() };
        filters.bound_of(filter, &Added::default(), Bounds::new(&config, None), 0).is_none()
    }

    #[test]
    fn bytes_are_those_of_what_is_subscribed_to_or_asked_for() {
        let config = BrokerConfig { session_bytes_max: 10, ..BrokerConfig::default() };
        let bound_of = |filters: &Filters, filter: &str, beside| {
            let bounds = Bounds::new(&config, None);
            filters.bound_of(filters.note(filter), &Added::default(), bounds, beside)
        };
        let mut filters = Filters::default();
        filters.restore(["aaaa"].into_iter());
        assert_eq!(bound_of(&filters, "bbbbbb", 0), None);
        assert_eq!(bound_of(&filters, "bbbbbb", 1), Some(Bound::SessionBytes));
        assert_eq!(bound_of(&filters, "aaaa", 100), None, "replaced");
        let six = filters.note("bbbbbb");
        filters.begin(id(1), RequestKind::Subscribe, vec![six], 0);
        assert_eq!(bound_of(&filters, "c", 0), Some(Bound::SessionBytes), "under way");
        filters.finish(id(1), RequestKind::Subscribe, &[ReasonCode::granted(mqtt::QoS::AtMostOnce)]);
        assert_eq!((filters.bytes(), bound_of(&filters, "c", 0)), (10, Some(Bound::SessionBytes)));
        filters.begin(id(2), RequestKind::Unsubscribe, vec![six, six], 0);
        filters.finish(id(2), RequestKind::Unsubscribe, &[ReasonCode::Success; 2]);
        assert_eq!((filters.bytes(), bound_of(&filters, "c", 0)), (4, None));
        filters.forget(["aaaa", "aaaa", "never"].into_iter());
        assert_eq!(filters.bytes(), 0);
    }

    #[test]
    fn shared_subscriptions_are_bounded_for_each_filter_and_in_all() {
        let config = BrokerConfig {
            shared_groups_max: 4,
            shared_groups_per_filter_max: 2,
            subscriptions_max: 7,
            ..BrokerConfig::default()
        };
        let bounds = Bounds::new(&config, None);
        let mut filters = Filters::default();
        filters.restore(["$share/a/x/#", "x/#", "$share/a/y"].into_iter());
        let mut added = Added::default();
        let mut bound_of = |filters: &Filters, filter: &str| {
            let filter = filters.note(filter);
            let bound = filters.bound_of(filter, &added, bounds, 0);
            if bound.is_none() {
                added.insert(filter, Some(filters));
            }
            bound
        };
        assert_eq!(bound_of(&filters, "$share/b/x/#"), None);
        assert_eq!(bound_of(&filters, "$share/c/x/#"), Some(Bound::SharedGroupsPerFilter));
        assert_eq!(bound_of(&filters, "$share/a/x/#"), None, "replaced");
        assert_eq!(bound_of(&filters, "$share/c/z"), None);
        assert_eq!(bound_of(&filters, "$share/d/q"), Some(Bound::SharedGroups));
        assert_eq!(bound_of(&filters, "q"), None);
        assert_eq!(bound_of(&filters, "r"), None);
        assert_eq!(bound_of(&filters, "s"), Some(Bound::Subscriptions));
        // What is under way counts, and what is gone does not.
        let more = Added::default();
        let [b, c, d] = ["$share/b/x/#", "$share/c/x/#", "$share/d/q"].map(|filter| filters.note(filter));
        filters.begin(id(1), RequestKind::Subscribe, vec![b], 0);
        assert_eq!(filters.bound_of(c, &more, bounds, 0), Some(Bound::SharedGroupsPerFilter));
        filters.finish(id(1), RequestKind::Subscribe, &[ReasonCode::granted(mqtt::QoS::AtMostOnce)]);
        assert_eq!(filters.bound_of(c, &more, bounds, 0), Some(Bound::SharedGroupsPerFilter));
        filters.begin(id(2), RequestKind::Unsubscribe, vec![b], 0);
        filters.finish(id(2), RequestKind::Unsubscribe, &[ReasonCode::Success]);
        assert_eq!(filters.bound_of(c, &more, bounds, 0), None);
        filters.forget(["$share/a/x/#", "$share/a/y"].into_iter());
        assert_eq!((filters.shared, filters.bound_of(d, &more, bounds, 0)), (0, None));
    }

    #[test]
    fn a_replaced_subscription_takes_no_room() {
        let mut filters = Filters::default();
        filters.restore(["a", "b"].into_iter());
        let (a, c) = (filters.note("a"), filters.note("c"));
        assert!(has_room(&filters, a, 2));
        assert!(!has_room(&filters, c, 2));
        filters.begin(id(1), RequestKind::Unsubscribe, vec![a], 0);
        assert!(filters.finish(id(1), RequestKind::Unsubscribe, &[ReasonCode::Success]));
        assert!(has_room(&filters, c, 2));
    }

    #[test]
    fn requests_under_way_count_until_they_are_refused() {
        let mut filters = Filters::default();
        let (a, b) = (filters.note("a"), filters.note("b"));
        filters.begin(id(1), RequestKind::Subscribe, vec![a], 0);
        assert!(filters.uses(id(1)));
        assert!(!has_room(&filters, b, 1));
        assert!(!filters.finish(id(1), RequestKind::Unsubscribe, &[]));
        assert!(filters.finish(id(1), RequestKind::Subscribe, &[ReasonCode::NotAuthorized]));
        assert!(has_room(&filters, b, 1));
        assert!(filters.next_answer().is_some());
        assert!(filters.is_empty());
    }

    #[test]
    fn answers_keep_their_place_among_each_other_and_among_acknowledgements() {
        let mut filters = Filters::default();
        let (a, b) = (filters.note("a"), filters.note("b"));
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
