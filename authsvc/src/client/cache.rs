//! Answers that are remembered for the same credentials of the same client, by a keyed hash of everything that was asked: a
//! password is nowhere in it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use link::Passport;
use parking_lot::Mutex;

use crate::revocation::{Bearer, Target};
use crate::wire::Question;
use crate::{Decision, DenyReason};

/// What was asked, as far as answers depend on it.
pub(super) type Asked = [u8; 16];

/// What is remembered.
pub(super) struct DecisionCache {
    key: Key,
    answers_max: usize,
    allowed: Mutex<Answers>,
    /// Apart: whoever guesses would push out what others need while nobody can be asked.
    denied: Mutex<Answers>,
    /// Counts how often rules became others.
    epoch: AtomicU64,
}

#[derive(Default)]
struct Answers {
    by_question: HashMap<Asked, Remembered>,
    /// The oldest first; those that were replaced are in it still.
    order: VecDeque<(Asked, u64)>,
    number: u64,
}

struct Remembered {
    number: u64,
    decision: Decision,
    certificate: Option<Arc<str>>,
    /// Until then nobody is asked.
    fresh_until: Instant,
    /// Until then it may count while nobody can be asked.
    good_until: Instant,
}

impl DecisionCache {
    pub(super) fn new(answers_max: usize) -> Self {
        let key = Key::new(HMAC_SHA256, &rand::random::<[u8; 32]>());
        Self {
            key,
            answers_max,
            allowed: Mutex::default(),
            denied: Mutex::default(),
            epoch: AtomicU64::new(0),
        }
    }

    /// Stands for `question`. The port of the device is another one each time, and says nothing.
    pub(super) fn asked(&self, question: &Question) -> Asked {
        let mut question = question.clone();
        question.peer.set_port(0);
        // A question can always be written.
        let json = serde_json::to_vec(&question).unwrap_or_default();
        let mut asked = Asked::default();
        asked.copy_from_slice(&sign(&self.key, &json).as_ref()[..size_of::<Asked>()]);
        asked
    }

    /// Of the rules by which answers are given now.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Rules became others: what was answered, and what was asked by now, is fresh no more. It may count still while nobody can be
    /// asked.
    pub(super) fn put_behind(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let now = Instant::now();
        for answers in [&self.allowed, &self.denied] {
            for remembered in answers.lock().by_question.values_mut() {
                remembered.fresh_until = remembered.fresh_until.min(now);
            }
        }
    }

    /// The answer, if it is fresh.
    pub(super) fn fresh(&self, asked: &Asked, now: Instant) -> Option<Decision> {
        let fresh_in = |answers: &Mutex<Answers>| {
            let answers = answers.lock();
            let found = answers.by_question.get(asked).filter(|found| now < found.fresh_until)?;
            Some(found.decision.clone())
        };
        fresh_in(&self.allowed).or_else(|| fresh_in(&self.denied))
    }

    /// The passport, if it was one and has not ended.
    pub(super) fn good(&self, asked: &Asked, now: Instant) -> Option<Arc<Passport>> {
        let answers = self.allowed.lock();
        let found = answers.by_question.get(asked).filter(|found| now < found.good_until)?;
        match &found.decision {
            Decision::Allow(passport) => Some(passport.clone()),
            Decision::Deny(_) => None,
        }
    }

    /// Remembers an answer to what was asked in that epoch, if it `holds`; `life` is what is left of its passport, `ttl` how long it
    /// is fresh at most.
    pub(super) fn remember(
        &self,
        (asked, epoch): (Asked, u64),
        decision: &Decision,
        certificate: Option<Arc<str>>,
        life: Duration,
        ttl: Duration,
        holds: impl FnOnce() -> bool,
    ) {
        if self.answers_max == 0 {
            return;
        }
        let now = Instant::now();
        let (fresh_until, good_until) = match decision {
            // A passport that is asked for once more is to be renewed; one in its second half is none for that.
            Decision::Allow(_) => (now + ttl.min(life / 2), now + life),
            Decision::Deny(DenyReason::BadCredentials | DenyReason::NotAuthorized | DenyReason::Banned) => {
                (now + ttl, now)
            }
            Decision::Deny(DenyReason::Unavailable | DenyReason::BadMethod | DenyReason::SlowedDown) => {
                return;
            }
        };
        let (answers, others) = match decision {
            Decision::Allow(_) => (&self.allowed, &self.denied),
            Decision::Deny(_) => (&self.denied, &self.allowed),
        };
        // What was answered before holds no longer.
        others.lock().by_question.remove(&asked);
        let mut answers = answers.lock();
        // Under the lock, which `forget` takes after it is known who has to go: what does not hold any more is either seen here or
        // forgotten there.
        if !holds() {
            return;
        }
        // Looked at under the lock, which `put_behind` takes after it has counted.
        let fresh_until = if epoch == self.epoch() { fresh_until } else { now };
        answers.number += 1;
        let number = answers.number;
        let decision = decision.clone();
        answers
            .by_question
            .insert(asked, Remembered { number, decision, certificate, fresh_until, good_until });
        answers.order.push_back((asked, number));
        answers.make_room(self.answers_max);
    }

    /// Forgets everything about `target`.
    pub(super) fn forget(&self, target: &Target) {
        self.allowed.lock().by_question.retain(|_, remembered| match &remembered.decision {
            Decision::Allow(passport) => !Bearer::new(passport, remembered.certificate.as_deref()).is(target),
            Decision::Deny(_) => true,
        });
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.allowed.lock().by_question.len() + self.denied.lock().by_question.len()
    }
}

impl Answers {
    fn make_room(&mut self, answers_max: usize) {
        while self.by_question.len() > answers_max || self.order.len() > answers_max.saturating_mul(2) {
            let Some((asked, number)) = self.order.pop_front() else { return };
            if self.by_question.get(&asked).is_some_and(|found| found.number == number) {
                self.by_question.remove(&asked);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(100);
    const TTL: Duration = Duration::from_secs(10);

    fn question(json: &str) -> Question {
        let rest = r#""client_id":"a","protocol":"5","#;
        serde_json::from_str(&format!("{{{rest}{json}}}")).unwrap()
    }

    fn allow(subject: &str) -> Decision {
        Decision::Allow(Arc::new(Passport::unrestricted(subject.into(), "a".into())))
    }

    #[test]
    fn whatever_an_answer_may_depend_on_makes_another_question_but_the_port() {
        let cache = DecisionCache::new(10);
        let asked = |json: &str| cache.asked(&question(json));
        let one = asked(r#""peer":"192.0.2.1:1","username":"u","password":"AA==""#);
        assert_eq!(one, asked(r#""peer":"192.0.2.1:2","username":"u","password":"AA==""#));
        for other in [
            r#""peer":"192.0.2.2:1","username":"u","password":"AA==""#,
            r#""peer":"192.0.2.1:1","username":"v","password":"AA==""#,
            r#""peer":"192.0.2.1:1","username":"u","password":"AQ==""#,
            r#""peer":"192.0.2.1:1","username":"u""#,
            r#""peer":"192.0.2.1:1","username":"u","password":"AA==","listener":"x""#,
        ] {
            assert_ne!(one, asked(other), "{other}");
        }
        assert_ne!(
            one,
            DecisionCache::new(10)
                .asked(&question(r#""peer":"192.0.2.1:1","username":"u","password":"AA==""#))
        );
    }

    #[test]
    fn an_answer_is_fresh_for_a_while_and_good_for_as_long_as_its_passport() {
        let cache = DecisionCache::new(10);
        cache.remember(([1; 16], 0), &allow("u"), None, LIFE, TTL, || true);
        let now = Instant::now();
        assert_eq!(cache.fresh(&[1; 16], now), Some(allow("u")));
        assert_eq!(cache.fresh(&[1; 16], now + TTL), None);
        assert!(cache.good(&[1; 16], now + TTL).is_some() && cache.good(&[1; 16], now + LIFE).is_none());
        cache.remember(([2; 16], 0), &allow("u"), None, TTL, LIFE, || true);
        assert!(
            cache.fresh(&[2; 16], now + TTL / 2 + Duration::from_secs(1)).is_none(),
            "not in its second half"
        );
        cache.remember(([3; 16], 0), &Decision::Deny(DenyReason::BadCredentials), None, LIFE, TTL, || true);
        assert!(cache.fresh(&[3; 16], now).is_some() && cache.good(&[3; 16], now).is_none());
        cache.remember(([4; 16], 0), &Decision::Deny(DenyReason::Unavailable), None, LIFE, TTL, || true);
        assert!(cache.fresh(&[4; 16], now).is_none());
    }

    #[test]
    fn it_has_a_bound_and_the_oldest_go_first() {
        let cache = DecisionCache::new(3);
        for n in 0..10u8 {
            cache.remember(([n; 16], 0), &allow("u"), None, LIFE, TTL, || true);
            cache.remember(([9; 16], 0), &allow("u"), None, LIFE, TTL, || true);
        }
        assert_eq!(cache.len(), 3);
        assert!(cache.allowed.lock().order.len() <= 6);
        let now = Instant::now();
        assert!(cache.fresh(&[9; 16], now).is_some() && cache.fresh(&[0; 16], now).is_none());
        let none = DecisionCache::new(0);
        none.remember(([1; 16], 0), &allow("u"), None, LIFE, TTL, || true);
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn who_guesses_pushes_nobody_out() {
        let cache = DecisionCache::new(3);
        cache.remember(([0; 16], 0), &allow("u"), None, LIFE, TTL, || true);
        let wrong = Decision::Deny(DenyReason::BadCredentials);
        (1..=100).for_each(|n| cache.remember(([n; 16], 0), &wrong, None, LIFE, TTL, || true));
        let now = Instant::now();
        assert!(cache.good(&[0; 16], now).is_some() && cache.fresh(&[100; 16], now).is_some());
        assert_eq!(cache.len(), 4);
        cache.remember(([0; 16], 0), &wrong, None, LIFE, TTL, || true);
        assert!(cache.good(&[0; 16], now).is_none(), "the last answer holds");
    }

    #[test]
    fn what_was_asked_before_rules_became_others_is_not_fresh_after() {
        let cache = DecisionCache::new(10);
        let wrong = Decision::Deny(DenyReason::NotAuthorized);
        cache.remember(([1; 16], 0), &allow("u"), None, LIFE, TTL, || true);
        cache.remember(([2; 16], 0), &wrong, None, LIFE, TTL, || true);
        cache.put_behind();
        cache.remember(([3; 16], 0), &allow("u"), None, LIFE, TTL, || true);
        cache.remember(([4; 16], cache.epoch()), &allow("u"), None, LIFE, TTL, || true);
        let now = Instant::now();
        let fresh = [1, 2, 3, 4].map(|n| cache.fresh(&[n; 16], now).is_some());
        assert_eq!(fresh, [false, false, false, true]);
        assert!(cache.good(&[1; 16], now).is_some() && cache.good(&[3; 16], now).is_some());
    }

    #[test]
    fn what_was_revoked_is_forgotten() {
        let cache = DecisionCache::new(10);
        cache.remember(([1; 16], 0), &allow("alice"), Some("00".into()), LIFE, TTL, || true);
        cache.remember(([2; 16], 0), &allow("bob"), Some("01".into()), LIFE, TTL, || true);
        cache.forget(&Target::User("alice".into()));
        assert_eq!(cache.len(), 1);
        cache.forget(&Target::Certificate("01".into()));
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn what_is_revoked_while_it_is_remembered_is_forgotten() {
        let cache = DecisionCache::new(10);
        std::thread::scope(|scope| {
            let holds = || {
                // Whoever forgets waits for this lock, and so comes after the answer is there.
                assert!(cache.allowed.is_locked());
                scope.spawn(|| cache.forget(&Target::User("alice".into())));
                true
            };
            cache.remember(([1; 16], 0), &allow("alice"), None, LIFE, TTL, holds);
        });
        assert_eq!(cache.len(), 0);
        cache.remember(([1; 16], 0), &allow("alice"), None, LIFE, TTL, || false);
        assert_eq!(cache.len(), 0);
    }
}
