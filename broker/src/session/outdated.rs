//! What newer messages make of retained ones that are still to be sent: a retained message neither follows a newer message
//! of its topic nor comes twice, wherever it waits: in the store, in a page on its way, in the session's queue.
//!
//! It is there while retained messages are read, and as long as some of them wait.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use mqtt::QoS;
use state::{Delivery, Message, UnixMs, Via};

/// Topics that are surely remembered, the last ones; and retained messages of which a live copy may follow. A page that was
/// on its way while something was forgotten is read again.
pub(crate) const TOPICS_MAX: usize = 8192;

/// So much later than its retained copy a message may come, or earlier than by the clock of its publisher's worker.
const COPY_MS: u64 = 5000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outdated {
    hasher: RandomState,
    began_at: UnixMs,
    /// Topics that were noted.
    noted: u64,
    /// Hashes of topics, delivered or published by the client itself.
    young: HashMap<u64, Newest, RandomState>,
    old: HashMap<u64, Newest, RandomState>,
    /// How often some were forgotten.
    forgotten: u64,
    /// Retained messages that were handed in and wait to be sent, as [`Outdated::hash_of_copy`], and when they were asked for.
    /// Two may be equal in all of that, since their subscriptions are.
    handed_in: HashMap<u64, VecDeque<u64>, RandomState>,
    /// Retained messages that were sent and are so new that they may come live, too.
    copies: HashMap<u64, QoS, RandomState>,
    copied_at: UnixMs,
}

/// What has come of a topic.
#[derive(Clone, Copy, Debug)]
struct Newest {
    /// The place of the last message among all that were noted. It may have waited behind others for long.
    place: u64,
    /// When the newest of them was published.
    at: UnixMs,
}

/// Why a topic's retained message is outdated.
#[derive(Clone, Copy, Hash)]
enum By {
    Delivery,
    Own,
}

impl Outdated {
    /// Nothing has come yet, from `now` on.
    pub(crate) fn new(now: UnixMs) -> Self {
        Self {
            hasher: RandomState::default(),
            began_at: now,
            noted: 0,
            young: HashMap::default(),
            old: HashMap::default(),
            forgotten: 0,
            handed_in: HashMap::default(),
            copies: HashMap::default(),
            copied_at: 0,
        }
    }

    /// The client has got this message, or will get it before what comes now.
    pub(crate) fn note_sent(&mut self, delivery: &Delivery, now: UnixMs) {
        if delivery.via == Via::Retained {
            self.await_copy(delivery, now);
        } else if delivery.message.retain() {
            self.note(By::Delivery, &delivery.message);
        }
    }

    /// The client itself has published this retained message.
    pub(crate) fn note_own(&mut self, message: &Message) {
        self.note(By::Own, message);
    }

    /// The place, among all that is noted, of a request for retained messages that comes now. What was noted before outdates none
    /// of them, since whoever subscribes is given them whatever it knows.
    // v5 [MQTT-3.3.1-9]
    pub(crate) fn place(&self) -> u64 {
        self.noted
    }

    /// A retained message that was asked for at this place is handed in, to be sent when its turn comes.
    pub(crate) fn hand_in(&mut self, delivery: &Delivery, asked_at: u64) {
        if self.handed_in.len() >= TOPICS_MAX {
            // They went another way: into a queue that was full, or to nobody.
            self.handed_in.clear();
        }
        self.handed_in.entry(self.hash_of_copy(delivery)).or_default().push_back(asked_at);
    }

    /// Whether a retained message that comes to its turn would follow a newer one; it is asked once. One that nobody handed in was left
    /// in the queue by the connection before. When that asked for it is not known, and what stood before it in the queue may be older,
    /// so that it goes unsent only behind what was surely published later.
    pub(crate) fn is_overtaken(&mut self, delivery: &Delivery) -> bool {
        let handed_in = if self.handed_in.is_empty() { None } else { self.take_handed_in(delivery) };
        match handed_in {
            Some(asked_at) => self.has_newer(&delivery.message, asked_at, false),
            None => {
                let newest = self.newest_of(By::Delivery, delivery.message.topic());
                newest.is_some_and(|newest| newest.at > delivery.message.published_at())
            }
        }
    }

    fn take_handed_in(&mut self, delivery: &Delivery) -> Option<u64> {
        let Entry::Occupied(mut equal) = self.handed_in.entry(self.hash_of_copy(delivery)) else {
            return None;
        };
        let first = equal.get_mut().pop_front();
        if equal.get().is_empty() {
            equal.remove();
        }
        first
    }

    /// Whether a retained message that was asked for at this place would come after a newer one; without what the client published
    /// itself, or (`no_local`) with.
    pub(crate) fn has_newer(&self, message: &Message, asked_at: u64, no_local: bool) -> bool {
        let is_later = |newest: Newest| newest.place > asked_at && newest.at >= message.published_at();
        let knows = |by| self.newest_of(by, message.topic()).is_some_and(is_later);
        knows(By::Delivery) || (no_local && knows(By::Own))
    }

    /// Whether a live message was sent as a retained one already; it is asked once.
    pub(crate) fn takes_for_copy(&mut self, delivery: &Delivery) -> bool {
        if self.copies.is_empty() || !delivery.message.retain() {
            return false;
        }
        let hash = self.hash_of_copy(delivery);
        let is_copy = self.copies.get(&hash).is_some_and(|sent| *sent >= delivery.qos);
        if is_copy {
            self.copies.remove(&hash);
        }
        is_copy
    }

    /// Changes when topics were forgotten.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Whether no live copy can follow any more.
    pub(crate) fn is_over(&self, now: UnixMs) -> bool {
        self.copies.is_empty() || now > self.copied_at.saturating_add(COPY_MS)
    }

    fn note(&mut self, by: By, message: &Message) {
        let hash = self.hasher.hash_one((by, message.topic()));
        if self.young.len() >= TOPICS_MAX && !self.young.contains_key(&hash) {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.forgotten += u64::from(!forgotten.is_empty());
        }
        self.noted += 1;
        let before = self.young.get(&hash).or_else(|| self.old.get(&hash)).map_or(0, |newest| newest.at);
        self.young.insert(hash, Newest { place: self.noted, at: message.published_at().max(before) });
    }

    fn newest_of(&self, by: By, topic: &str) -> Option<Newest> {
        if self.young.is_empty() && self.old.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one((by, topic));
        self.young.get(&hash).or_else(|| self.old.get(&hash)).copied()
    }

    fn await_copy(&mut self, delivery: &Delivery, now: UnixMs) {
        let is_new = delivery.message.published_at().saturating_add(COPY_MS) >= self.began_at;
        if is_new && self.copies.len() < TOPICS_MAX {
            self.copies.insert(self.hash_of_copy(delivery), delivery.qos);
            self.copied_at = now;
        }
    }

    /// Of all that makes it the same message. What is published twice with all of that in one millisecond comes live as often
    /// as that, less the once that it was retained.
    fn hash_of_copy(&self, delivery: &Delivery) -> u64 {
        let (message, ids) = (&*delivery.message, delivery.subscription_ids.as_slice());
        let (bytes, topic_len, properties_len) = message.parts();
        let qos = message.qos().as_u8();
        self.hasher.hash_one((bytes, topic_len, properties_len, qos, message.published_at(), ids))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use state::SubscriptionIds;

    use super::*;

    fn delivery(topic: &str, payload: &[u8], at: UnixMs, via: Via) -> Delivery {
        let message = Message::new(topic, &[], payload, QoS::ExactlyOnce, true, at);
        let subscription_ids = SubscriptionIds::NONE;
        Delivery {
            message: Arc::new(message),
            qos: QoS::AtLeastOnce,
            retain: via == Via::Retained,
            subscription_ids,
            via,
        }
    }

    #[test]
    fn what_was_published_by_the_client_is_newer_for_no_local_alone() {
        let mut outdated = Outdated::new(0);
        let old = delivery("t", b"old", 0, Via::Retained);
        outdated.note_own(&delivery("t", b"new", 1, Via::Subscription).message);
        assert!(outdated.has_newer(&old.message, 0, true) && !outdated.has_newer(&old.message, 0, false));
        outdated.note_sent(&delivery("t", b"new", 1, Via::Subscription), 2);
        assert!(outdated.has_newer(&old.message, 0, false));
    }

    #[test]
    fn what_came_before_retained_messages_were_asked_for_outdates_none_of_them() {
        let mut outdated = Outdated::new(0);
        let old = delivery("t", b"old", 0, Via::Retained);
        let first = outdated.place();
        outdated.note_sent(&delivery("t", b"new", 1, Via::Subscription), 2);
        outdated.note_own(&old.message);
        let second = outdated.place();
        assert!(outdated.has_newer(&old.message, first, false));
        assert!(!outdated.has_newer(&old.message, second, true));
        outdated.note_sent(&delivery("t", b"newer", 3, Via::Subscription), 4);
        assert!(outdated.has_newer(&old.message, second, false));
    }

    #[test]
    fn a_live_copy_is_known_once_and_not_when_it_says_more() {
        let mut outdated = Outdated::new(10_000);
        outdated.note_sent(&delivery("t", b"v", 10_001, Via::Retained), 10_002);
        let live = delivery("t", b"v", 10_001, Via::Subscription);
        let higher = Delivery { qos: QoS::ExactlyOnce, ..live.clone() };
        let another = Delivery { subscription_ids: SubscriptionIds::from_slice(&[1]), ..live.clone() };
        assert!(!outdated.takes_for_copy(&higher) && !outdated.takes_for_copy(&another));
        assert!(!outdated.takes_for_copy(&delivery("t", b"v", 10_002, Via::Subscription)));
        assert!(!outdated.is_over(10_002));
        assert!(outdated.takes_for_copy(&live) && !outdated.takes_for_copy(&live));
        assert!(outdated.is_over(10_002));
        outdated.note_sent(&delivery("t", b"w", 4_999, Via::Retained), 10_003);
        assert!(outdated.is_over(10_003), "it was published long before");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut outdated = Outdated::new(0);
        for n in 0..5 * TOPICS_MAX {
            outdated.note_sent(&delivery(&format!("t/{n}"), b"v", 0, Via::Subscription), 0);
            outdated.note_sent(&delivery(&format!("r/{n}"), b"v", 0, Via::Retained), 0);
            assert!(outdated.young.len() <= TOPICS_MAX && outdated.old.len() <= TOPICS_MAX);
            assert!(outdated.copies.len() <= TOPICS_MAX);
        }
        let knows = |n: usize| outdated.newest_of(By::Delivery, &format!("t/{n}")).is_some();
        assert!(knows(5 * TOPICS_MAX - 1) && knows(4 * TOPICS_MAX) && !knows(0));
        assert_eq!(outdated.forgotten(), 3);
    }
}
