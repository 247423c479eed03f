//! Slows down the guessing of passwords, per user at an address and, ten times wider, per address.
//!
//! A budget that refills with time: a wrong password takes from it, an attempt refused for want of budget does not, so
//! that a penalty never grows by being hit and a device that goes on trying is let through again.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How much wider the budget of an address is than that of one user at it.
const ADDRESS_FACTOR: u32 = 10;

/// At most this often the map is searched for entries that have recovered.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Budgets of wrong passwords.
pub(crate) struct SlowDown {
    burst: u32,
    interval: Duration,
    entries_max: usize,
    hasher: RandomState,
    start: Instant,
    budgets: Mutex<Budgets>,
}

/// What an attempt is counted against. A digest, so that long user names cost nothing to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pair: u64,
    address: u64,
}

#[derive(Default)]
struct Budgets {
    /// When each budget is whole again, milliseconds after the start.
    whole_at_ms: HashMap<u64, u64>,
    swept: Option<Instant>,
}

impl SlowDown {
    /// `burst` wrong passwords at once, then one per `interval`; `entries_max` budgets remembered.
    pub(crate) fn new(burst: u32, interval: Duration, entries_max: usize) -> Self {
        let hasher = RandomState::new();
        Self {
            burst: burst.max(1),
            interval,
            entries_max,
            hasher,
            start: Instant::now(),
            budgets: Mutex::default(),
        }
    }

    /// Who `user` at `address` is. IPv6 addresses count by their /64.
    pub(crate) fn suspect(&self, user: &str, address: IpAddr) -> Suspect {
        let network = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)),
        };
        Suspect { pair: self.hasher.hash_one((network, user)), address: self.hasher.hash_one(network) }
    }

    /// Whether there is budget for an attempt. Takes none.
    pub(crate) fn may_try(&self, suspect: Suspect, now: Instant) -> bool {
        let now_ms = self.ms(now);
        let mut budgets = self.budgets.lock();
        budgets.has(suspect.pair, now_ms, self.pair_window_ms())
            && budgets.has(suspect.address, now_ms, self.address_window_ms())
            && budgets.has_room(now, now_ms, self.entries_max)
    }

    /// Takes one attempt from the pair's budget before its password is looked at, so that many at once cannot pass
    /// together. `false`: refuse it.
    pub(crate) fn admit(&self, suspect: Suspect, now: Instant) -> bool {
        let admitted = self.may_try(suspect, now);
        if admitted {
            self.take(suspect.pair, self.interval, self.pair_window_ms(), now);
        }
        admitted
    }

    /// The admitted attempt was right, or was not looked at: it costs nothing.
    pub(crate) fn refund(&self, suspect: Suspect) {
        let interval_ms = millis(self.interval);
        if let Some(whole_at_ms) = self.budgets.lock().whole_at_ms.get_mut(&suspect.pair) {
            *whole_at_ms = whole_at_ms.saturating_sub(interval_ms);
        }
    }

    /// The admitted attempt was wrong: it counts against the address too.
    pub(crate) fn confirm(&self, suspect: Suspect, now: Instant) {
        self.take(suspect.address, self.interval / ADDRESS_FACTOR, self.address_window_ms(), now);
    }

    fn take(&self, key: u64, amount: Duration, window_ms: u64, now: Instant) {
        let now_ms = self.ms(now);
        let mut budgets = self.budgets.lock();
        let whole_at_ms = budgets.whole_at_ms.entry(key).or_insert(0);
        *whole_at_ms = ((*whole_at_ms).max(now_ms) + millis(amount)).min(now_ms + window_ms + millis(amount));
    }

    /// How far ahead a pair's budget may be used up and still allow one more attempt.
    fn pair_window_ms(&self) -> u64 {
        millis(self.interval) * u64::from(self.burst - 1)
    }

    fn address_window_ms(&self) -> u64 {
        millis(self.interval / ADDRESS_FACTOR) * u64::from(self.burst * ADDRESS_FACTOR - 1)
    }

    fn ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.start))
    }
}

impl Budgets {
    fn has(&self, key: u64, now_ms: u64, window_ms: u64) -> bool {
        self.whole_at_ms.get(&key).is_none_or(|at| *at <= now_ms + window_ms)
    }

    /// Whether two more budgets can be remembered. An attempt that could not be counted is refused: filling the map
    /// takes that many wrong passwords within one penalty, each of which was paid for in hashing.
    fn has_room(&mut self, now: Instant, now_ms: u64, entries_max: usize) -> bool {
        let full = |budgets: &Self| budgets.whole_at_ms.len() + 2 > entries_max;
        if full(self) && self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_INTERVAL) {
            self.swept = Some(now);
            self.whole_at_ms.retain(|_, at| *at > now_ms);
        }
        !full(self)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn wrong(slow: &SlowDown, user: &str, address: &str, now: Instant) -> bool {
        let suspect = slow.suspect(user, address.parse().unwrap());
        let admitted = slow.admit(suspect, now);
        if admitted {
            slow.confirm(suspect, now);
        }
        admitted
    }

    #[test]
    fn after_the_burst_one_attempt_per_interval_is_let_through() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let now = Instant::now();
        let admitted = (0..10).filter(|_| wrong(&slow, "alice", "192.0.2.1", now)).count();
        assert_eq!(admitted, 3);
        assert!(!wrong(&slow, "alice", "192.0.2.1", now + INTERVAL / 2));
        assert!(wrong(&slow, "alice", "192.0.2.1", now + INTERVAL));
        assert!(!wrong(&slow, "alice", "192.0.2.1", now + INTERVAL));
    }

    // A window that each refused retry extends is a ban for ever (blitzortung#302).
    #[test]
    fn a_penalty_does_not_grow_by_being_hit() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let now = Instant::now();
        for _ in 0..10_000 {
            wrong(&slow, "alice", "192.0.2.1", now);
        }
        assert!(wrong(&slow, "alice", "192.0.2.1", now + INTERVAL));
    }

    #[test]
    fn others_are_not_slowed_down() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let now = Instant::now();
        while wrong(&slow, "alice", "192.0.2.1", now) {}
        assert!(wrong(&slow, "alice", "192.0.2.2", now));
        assert!(wrong(&slow, "bob", "192.0.2.1", now));
    }

    #[test]
    fn many_users_at_one_address_share_a_wider_budget() {
        let slow = SlowDown::new(3, INTERVAL, 1000);
        let now = Instant::now();
        let admitted = (0..100).filter(|n| wrong(&slow, &format!("user{n}"), "192.0.2.1", now)).count();
        assert_eq!(admitted, 30);
        assert!(wrong(&slow, "user200", "192.0.2.1", now + INTERVAL / 10));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let suspect = |address: &str| slow.suspect("alice", address.parse().unwrap());
        assert_eq!(suspect("2001:db8::1"), suspect("2001:db8::ffff:1"));
        assert_ne!(suspect("2001:db8::1"), suspect("2001:db8:0:1::1"));
        assert_eq!(suspect("::ffff:192.0.2.1"), suspect("192.0.2.1"));
        assert_ne!(suspect("192.0.2.2"), suspect("192.0.2.1"));
    }

    #[test]
    fn right_passwords_cost_nothing() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let now = Instant::now();
        let suspect = slow.suspect("alice", "192.0.2.1".parse().unwrap());
        for _ in 0..100 {
            assert!(slow.admit(suspect, now));
            slow.refund(suspect);
        }
    }

    #[test]
    fn attempts_at_once_cannot_pass_together() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let now = Instant::now();
        let suspect = slow.suspect("alice", "192.0.2.1".parse().unwrap());
        assert_eq!((0..100).filter(|_| slow.admit(suspect, now)).count(), 3);
    }

    #[test]
    fn the_map_is_bounded_and_recovers() {
        let slow = SlowDown::new(3, INTERVAL, 20);
        let now = Instant::now();
        for n in 0..100 {
            wrong(&slow, "alice", &format!("192.0.2.{n}"), now);
        }
        assert!(slow.budgets.lock().whole_at_ms.len() <= 20);
        assert!(wrong(&slow, "bob", "198.51.100.1", now + 20 * INTERVAL));
    }
}
