//! What was answered about actions of one client, for a while: by action, topic, QoS and RETAIN. An answer that a packet waits
//! for is there until that packet has been handled, whatever its lifetime; of all others no more than so many are kept, the
//! newest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use mqtt::QoS;
use state::UnixMs;

use crate::authorize::authorizer::{AskedAction, Ruling, Verdict};

/// What was asked about, without its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Manner {
    pub action: AskedAction,
    pub qos: QoS,
    pub retain: bool,
}

/// An answer on its way to the session.
#[derive(Debug)]
pub(crate) struct Answered {
    pub topic: Arc<str>,
    pub manner: Manner,
    pub ruling: Ruling,
    /// After how many changes of the passport it was asked.
    pub passports: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    manner: Manner,
    verdict: Verdict,
    until: UnixMs,
    /// A packet waits for it.
    is_awaited: bool,
    /// Which is newer.
    number: u64,
}

/// Answers about one client.
#[derive(Debug)]
pub(crate) struct Answers {
    by_topic: HashMap<Box<str>, Vec<Known>, RandomState>,
    count: usize,
    has_awaited: bool,
    /// When it was looked last whether all is known that a packet needs: what was known then is known to its end.
    looked_at: UnixMs,
    next: u64,
    max: usize,
}

impl Answers {
    /// None yet, and never more than `max` that no packet waits for.
    pub(crate) fn new(max: usize) -> Self {
        Self { by_topic: HashMap::default(), count: 0, has_awaited: false, looked_at: 0, next: 0, max }
    }

    /// What was answered, if that still holds. Allocates nothing.
    pub(crate) fn find(&self, topic: &str, manner: Manner, now: UnixMs) -> Option<Verdict> {
        let known = self.by_topic.get(topic)?.iter().find(|known| known.manner == manner)?;
        (known.is_awaited || now < known.until).then_some(known.verdict)
    }

    /// What was answered, for the packet that was let through last.
    pub(crate) fn known(&self, topic: &str, manner: Manner) -> Option<Verdict> {
        self.find(topic, manner, self.looked_at)
    }

    /// Takes an answer that a packet waits for.
    pub(crate) fn learn(&mut self, topic: &str, manner: Manner, ruling: Ruling, now: UnixMs) {
        let lifetime = if self.max == 0 { Duration::ZERO } else { ruling.lifetime };
        let until = now.saturating_add(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
        let known = Known { manner, verdict: ruling.verdict, until, is_awaited: true, number: self.next };
        self.next += 1;
        self.has_awaited = true;
        let of_topic = self.by_topic.entry(topic.into()).or_default();
        match of_topic.iter_mut().find(|known| known.manner == manner) {
            Some(old) => *old = known,
            None => {
                of_topic.push(known);
                self.count += 1;
            }
        }
    }

    /// Another packet comes, and the one that waited has been handled: only what still holds is kept, as far as there is room.
    pub(crate) fn settle(&mut self, now: UnixMs) {
        self.looked_at = now;
        if !std::mem::take(&mut self.has_awaited) {
            return;
        }
        self.keep(|known| known.until > now);
        if self.count > self.max {
            let mut numbers: Vec<u64> = self.by_topic.values().flatten().map(|known| known.number).collect();
            let oldest_kept = self.count - self.max;
            let (_, least, _) = numbers.select_nth_unstable(oldest_kept);
            let least = *least;
            self.keep(|known| known.number >= least);
        }
        for known in self.by_topic.values_mut().flatten() {
            known.is_awaited = false;
        }
    }

    fn keep(&mut self, keeps: impl Fn(&Known) -> bool) {
        let mut count = 0;
        self.by_topic.retain(|_, of_topic| {
            of_topic.retain(&keeps);
            count += of_topic.len();
            !of_topic.is_empty()
        });
        self.count = count;
    }

    /// How many are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH: Manner = Manner { action: AskedAction::Publish, qos: QoS::AtLeastOnce, retain: false };
    const NOW: UnixMs = 1_000_000;

    fn allowed(lifetime_ms: u64) -> Ruling {
        Ruling { verdict: Verdict::Allow(QoS::ExactlyOnce), lifetime: Duration::from_millis(lifetime_ms) }
    }

    #[test]
    fn an_answer_holds_for_its_lifetime_and_for_the_packet_that_waits() {
        let mut answers = Answers::new(10);
        answers.learn("a", PUBLISH, allowed(100), NOW);
        answers.learn("b", PUBLISH, Ruling { verdict: Verdict::Deny, ..allowed(0) }, NOW);
        assert_eq!(answers.find("b", PUBLISH, NOW + 1_000), Some(Verdict::Deny), "it waits");
        answers.settle(NOW);
        assert_eq!(answers.find("b", PUBLISH, NOW), None);
        answers.settle(NOW + 99);
        assert_eq!(
            answers.known("a", PUBLISH),
            Some(Verdict::Allow(QoS::ExactlyOnce)),
            "and while it is handled"
        );
        assert_eq!(answers.find("a", PUBLISH, NOW + 99), Some(Verdict::Allow(QoS::ExactlyOnce)));
        assert_eq!(answers.find("a", PUBLISH, NOW + 100), None);
        for other in [
            Manner { action: AskedAction::Subscribe, ..PUBLISH },
            Manner { qos: QoS::AtMostOnce, ..PUBLISH },
            Manner { retain: true, ..PUBLISH },
        ] {
            assert_eq!(answers.find("a", other, NOW), None, "{other:?}");
        }
    }

    #[test]
    fn the_newest_are_kept_up_to_the_bound() {
        let mut answers = Answers::new(3);
        for n in 0..10_000 {
            answers.learn(&n.to_string(), PUBLISH, allowed(60_000), NOW);
            answers.settle(NOW);
            assert!(answers.len() <= 3 && answers.by_topic.len() <= 3);
        }
        let kept = |topic: &str| answers.find(topic, PUBLISH, NOW).is_some();
        assert!(kept("9999") && kept("9997") && !kept("9996"));
    }

    #[test]
    fn a_packet_may_wait_for_more_than_are_kept() {
        let mut answers = Answers::new(2);
        (0..100).for_each(|n| answers.learn(&n.to_string(), PUBLISH, allowed(60_000), NOW));
        assert!((0..100).all(|n| answers.find(&n.to_string(), PUBLISH, NOW).is_some()));
        answers.settle(NOW);
        assert_eq!(answers.len(), 2);
        let mut none = Answers::new(0);
        none.learn("a", PUBLISH, allowed(60_000), NOW);
        assert!(none.find("a", PUBLISH, NOW).is_some());
        none.settle(NOW);
        assert_eq!(none.len(), 0);
    }
}
