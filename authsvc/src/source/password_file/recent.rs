//! Passwords that were right lately, so that a reconnect storm pays for no hashing. Kept are keyed digests under a key
//! that dies with the process, never passwords; a changed record in the password file changes the digest.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::scram::hmac;

/// Identifies one password tried for one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PasswordFingerprint([u8; 32]);

/// A bounded set of fingerprints that were right.
pub(crate) struct Recent {
    key: [u8; 32],
    ttl: Duration,
    entries_max: usize,
    known: Mutex<RightPasswords>,
}

#[derive(Default)]
struct RightPasswords {
    until: HashMap<PasswordFingerprint, Instant>,
    /// In the order in which to look at them again; one per entry of `until`.
    order: VecDeque<PasswordFingerprint>,
}

impl Recent {
    /// Remembers up to `entries_max` for `ttl` after their last use; nothing if either is zero.
    pub(crate) fn new(ttl: Duration, entries_max: usize) -> Self {
        let entries_max = if ttl.is_zero() { 0 } else { entries_max };
        Self { key: rand::random(), ttl, entries_max, known: Mutex::default() }
    }

    /// What `password` tried for `user` against `record` is known as.
    pub(crate) fn fingerprint(&self, user: &str, record: &str, password: &[u8]) -> PasswordFingerprint {
        // The length keeps "ab" + "c" and "a" + "bc" apart; a record holds no NUL.
        let length = user.len().to_be_bytes();
        let parts = [&length[..], user.as_bytes(), record.as_bytes(), &[0], password];
        PasswordFingerprint(hmac(&self.key, &parts))
    }

    /// Whether it was right lately.
    pub(crate) fn knows(&self, fingerprint: PasswordFingerprint, now: Instant) -> bool {
        let mut known = self.known.lock();
        let Some(until) = known.until.get_mut(&fingerprint) else { return false };
        if *until <= now {
            return false;
        }
        *until = now + self.ttl;
        true
    }

    /// Remembers that it was right.
    pub(crate) fn remember(&self, fingerprint: PasswordFingerprint, now: Instant) {
        if self.entries_max == 0 {
            return;
        }
        let mut known = self.known.lock();
        if known.until.insert(fingerprint, now + self.ttl).is_some() {
            return;
        }
        known.order.push_back(fingerprint);
        known.forget(now, self.entries_max);
    }
}

impl RightPasswords {
    /// Drops what has expired at the front, and more if there are too many.
    fn forget(&mut self, now: Instant, entries_max: usize) {
        // Used entries go round once more; a bound on the walk keeps it from being long under the lock.
        for _ in 0..8 {
            let Some(front) = self.order.front() else { return };
            let live = self.until.get(front).is_some_and(|until| *until > now);
            if live && self.order.len() <= entries_max {
                // Expired ones behind it are found when they come to the front.
                self.order.rotate_left(1);
            } else if let Some(front) = self.order.pop_front() {
                self.until.remove(&front);
            }
        }
        while self.order.len() > entries_max {
            if let Some(front) = self.order.pop_front() {
                self.until.remove(&front);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_password_is_known_until_its_time_has_passed() {
        let recent = Recent::new(Duration::from_secs(10), 10);
        let now = Instant::now();
        let it = recent.fingerprint("alice", "$argon2id$x", b"secret");
        assert!(!recent.knows(it, now));
        recent.remember(it, now);
        assert!(recent.knows(it, now + Duration::from_secs(9)));
        assert!(recent.knows(it, now + Duration::from_secs(18)), "a use keeps it");
        assert!(!recent.knows(it, now + Duration::from_secs(28)));
    }

    #[test]
    fn another_user_record_or_password_is_another_fingerprint() {
        let recent = Recent::new(Duration::from_secs(10), 10);
        let it = recent.fingerprint("alice", "r", b"secret");
        assert_ne!(it, recent.fingerprint("alic", "er", b"secret"));
        assert_ne!(it, recent.fingerprint("alice", "s", b"secret"));
        assert_ne!(it, recent.fingerprint("alice", "r", b"secreT"));
        let other_process = Recent::new(Duration::from_secs(10), 10);
        assert_ne!(it, other_process.fingerprint("alice", "r", b"secret"));
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let recent = Recent::new(Duration::from_secs(10), 100);
        let now = Instant::now();
        for n in 0..1000 {
            recent.remember(recent.fingerprint("alice", "r", format!("{n}").as_bytes()), now);
        }
        let known = recent.known.lock();
        assert_eq!((known.until.len(), known.order.len()), (100, 100));
    }

    #[test]
    fn expired_entries_make_room_for_new_ones() {
        let recent = Recent::new(Duration::from_secs(10), 100);
        let now = Instant::now();
        let print = |n: u32| recent.fingerprint("alice", "r", &n.to_be_bytes());
        (0..50).for_each(|n| recent.remember(print(n), now));
        (50..80).for_each(|n| recent.remember(print(n), now + Duration::from_secs(60)));
        assert!(recent.known.lock().until.len() <= 40, "the expired half is gone");
    }

    #[test]
    fn zero_turns_it_off() {
        let recent = Recent::new(Duration::ZERO, 10);
        let it = recent.fingerprint("alice", "r", b"secret");
        recent.remember(it, Instant::now());
        assert!(!recent.knows(it, Instant::now()));
    }
}
