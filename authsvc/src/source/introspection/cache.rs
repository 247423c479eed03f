//! Answers that are kept until their time is over: known by a keyed digest of what was asked, never by the token itself, under a
//! key that dies with the process. When there are too many the oldest go.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use parking_lot::Mutex;

use crate::scram::hmac;

/// What a token is known as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenHash([u8; 32]);

/// At most a number of answers.
pub(super) struct TokenCache<T> {
    key: [u8; 32],
    entries_max: usize,
    entries: Mutex<Entries<T>>,
}

struct Entries<T> {
    by_hash: HashMap<TokenHash, (T, Instant)>,
    /// One for each of `by_hash`, the oldest in front.
    order: VecDeque<TokenHash>,
}

impl<T: Clone> TokenCache<T> {
    /// Keeps up to `entries_max`.
    pub(super) fn new(entries_max: usize) -> Self {
        let entries = Entries { by_hash: HashMap::new(), order: VecDeque::new() };
        Self { key: rand::random(), entries_max, entries: Mutex::new(entries) }
    }

    /// What `token` is known as.
    pub(super) fn hash(&self, token: &[u8]) -> TokenHash {
        TokenHash(hmac(&self.key, &[token]))
    }

    /// What is kept under `hash`.
    pub(super) fn find(&self, hash: TokenHash, now: Instant) -> Option<T> {
        let entries = self.entries.lock();
        let (kept, until) = entries.by_hash.get(&hash)?;
        (*until > now).then(|| kept.clone())
    }

    /// Keeps `value` until then.
    pub(super) fn keep(&self, hash: TokenHash, value: T, until: Instant) {
        let mut entries = self.entries.lock();
        if entries.by_hash.insert(hash, (value, until)).is_none() {
            entries.order.push_back(hash);
        }
        while entries.order.len() > self.entries_max {
            if let Some(oldest) = entries.order.pop_front() {
                entries.by_hash.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn answers_are_kept_for_their_time_and_in_bounded_number() {
        let cache = TokenCache::new(3);
        let now = Instant::now();
        let hash = |n: u8| cache.hash(&[n]);
        (0..5).for_each(|n| cache.keep(hash(n), n, now + Duration::from_secs(n.into())));
        let found: Vec<_> = (0..5).filter_map(|n| cache.find(hash(n), now)).collect();
        assert_eq!(found, [2, 3, 4]);
        assert_eq!(cache.find(hash(2), now + Duration::from_secs(2)), None);
        (0..100).for_each(|_| cache.keep(hash(3), 7, now + Duration::from_secs(9)));
        assert_eq!(cache.find(hash(3), now + Duration::from_secs(8)), Some(7));
        assert_eq!(cache.entries.lock().order.len(), 3);
        assert_eq!(TokenCache::<u8>::new(0).find(hash(1), now), None);
        assert_ne!(TokenCache::<u8>::new(1).hash(b"a"), TokenCache::<u8>::new(1).hash(b"a"), "another key");
    }
}
