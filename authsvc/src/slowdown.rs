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

/// Wrong passwords that an address may owe beyond its budget. Those that are looked at at once all pass, as devices behind one
/// address do that come back together, and cost what they turn out to be; but nobody behind it is kept waiting for more than three
/// intervals for it.
const ADDRESS_DEBT_MAX: u32 = 3 * ADDRESS_FACTOR;

/// Budgets of wrong passwords.
pub(crate) struct SlowDown {
    burst: u32,
    interval: Duration,
    entries_max: usize,
    hasher: RandomState,
    start: Instant,
    budgets: Mutex<Budgets>,
    /// Secrets that are being looked at: whose, and which.
    guesses: Mutex<HashMap<(u64, u64), UnderWay>>,
}

/// One secret of one user at one address, however many clients have come with it.
#[derive(Default)]
struct UnderWay {
    attempts: usize,
    is_wrong: bool,
}

/// What an attempt is counted against. A digest, so that long user names cost nothing to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pair: u64,
    address: u64,
}

impl Suspect {
    /// Where it comes from.
    pub(crate) fn source(self) -> u64 {
        self.address
    }
}

#[derive(Default)]
struct Budgets {
    /// When each budget is whole again, milliseconds after the start. One that is not here is whole.
    whole_at_ms: HashMap<u64, u64>,
}

/// An admitted attempt that nobody has judged yet.
pub(crate) struct Guess<'a> {
    slow_down: &'a SlowDown,
    suspect: Suspect,
    secret: u64,
}

impl Guess<'_> {
    /// It counts.
    pub(crate) fn was_wrong(self) {
        if let Some(under_way) = self.slow_down.guesses.lock().get_mut(&self.key()) {
            under_way.is_wrong = true;
        }
    }

    fn key(&self) -> (u64, u64) {
        (self.suspect.pair, self.secret)
    }
}

impl Drop for Guess<'_> {
    fn drop(&mut self) {
        let mut guesses = self.slow_down.guesses.lock();
        let Some(under_way) = guesses.get_mut(&self.key()) else { return };
        under_way.attempts -= 1;
        if under_way.attempts > 0 {
            return;
        }
        let is_wrong = under_way.is_wrong;
        guesses.remove(&self.key());
        if is_wrong {
            self.slow_down.confirm(self.suspect, Instant::now());
        } else {
            self.slow_down.refund(self.suspect, Instant::now());
        }
    }
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
            guesses: Mutex::default(),
        }
    }

    /// Who `user` at `address` is. IPv6 addresses count by their /64, names without case and by their words, since directories do not
    /// tell them apart (RFC 4518 sections 2.2 and 2.6.1).
    pub(crate) fn suspect(&self, user: &str, address: IpAddr) -> Suspect {
        let network = network(address);
        let words: Vec<String> = user.split_whitespace().map(str::to_lowercase).collect();
        Suspect { pair: self.hasher.hash_one((network, words)), address: self.hasher.hash_one(network) }
    }

    /// Whether there is budget for an attempt. Takes none.
    pub(crate) fn may_try(&self, suspect: Suspect, now: Instant) -> bool {
        let now_ms = self.ms(now);
        let budgets = self.budgets.lock();
        budgets.has(suspect.pair, now_ms, self.pair_window_ms())
            && budgets.has(suspect.address, now_ms, self.address_window_ms())
    }

    /// Takes one attempt from the pair's budget before its password is looked at, so that many at once cannot pass
    /// together. `false`: refuse it.
    pub(crate) fn admit(&self, suspect: Suspect, now: Instant) -> bool {
        let admitted = self.may_try(suspect, now);
        if admitted {
            let ahead_ms_max = self.pair_window_ms() + millis(self.interval);
            self.take(suspect.pair, self.interval, ahead_ms_max, now);
        }
        admitted
    }

    /// The same, to be given back unless it turns out wrong, whatever becomes of who waits for it. Those who come with the same
    /// secret while it is looked at are one guess: a fleet that shares a user, and an address, comes all at once.
    pub(crate) fn guess(&self, suspect: Suspect, secret: &[u8]) -> Option<Guess<'_>> {
        let secret = self.hasher.hash_one(secret);
        let mut guesses = self.guesses.lock();
        let key = (suspect.pair, secret);
        if !guesses.contains_key(&key) && !self.admit(suspect, Instant::now()) {
            return None;
        }
        guesses.entry(key).or_default().attempts += 1;
        Some(Guess { slow_down: self, suspect, secret })
    }

    /// The admitted attempt was right, or was not looked at: it costs nothing.
    pub(crate) fn refund(&self, suspect: Suspect, now: Instant) {
        let (interval_ms, now_ms) = (millis(self.interval), self.ms(now));
        let mut budgets = self.budgets.lock();
        if let Some(whole_at_ms) = budgets.whole_at_ms.get_mut(&suspect.pair) {
            *whole_at_ms = whole_at_ms.saturating_sub(interval_ms);
            // Devices whose passwords are right leave nothing behind.
            if *whole_at_ms <= now_ms {
                budgets.whole_at_ms.remove(&suspect.pair);
            }
        }
    }

    /// The admitted attempt was wrong: it counts against the address too.
    pub(crate) fn confirm(&self, suspect: Suspect, now: Instant) {
        let amount = self.interval / ADDRESS_FACTOR;
        let ahead_ms_max = self.address_window_ms() + millis(amount * ADDRESS_DEBT_MAX);
        self.take(suspect.address, amount, ahead_ms_max, now);
    }

    fn take(&self, key: u64, amount: Duration, ahead_ms_max: u64, now: Instant) {
        let now_ms = self.ms(now);
        let mut budgets = self.budgets.lock();
        if !budgets.whole_at_ms.contains_key(&key) {
            budgets.make_room(now_ms, self.entries_max);
        }
        let whole_at_ms = budgets.whole_at_ms.entry(key).or_insert(0);
        *whole_at_ms = ((*whole_at_ms).max(now_ms) + millis(amount)).min(now_ms + ahead_ms_max);
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

    /// Makes room for one more, for nobody is refused because others have filled the map: their own attempts may have
    /// cost them nothing, as in SCRAM. What has recovered goes; where that does not do, the half that is nearest to it.
    /// Who makes room so for more guesses has made as many from other addresses before.
    fn make_room(&mut self, now_ms: u64, entries_max: usize) {
        if self.whole_at_ms.len() < entries_max {
            return;
        }
        self.whole_at_ms.retain(|_, at| *at > now_ms);
        // A quarter at least is freed, so that this is rare.
        if self.whole_at_ms.len() > entries_max / 4 * 3 {
            let mut times: Vec<u64> = self.whole_at_ms.values().copied().collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            self.whole_at_ms.retain(|_, at| *at > median);
        }
    }
}

/// What counts as one source: an address, of IPv6 its /64.
pub(crate) fn network(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)),
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

    #[test]
    fn one_secret_is_one_guess_however_many_come_with_it_at_once() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let suspect = slow.suspect("fleet", "192.0.2.1".parse().unwrap());
        let fleet: Vec<_> = (0..100).map(|_| slow.guess(suspect, b"right").unwrap()).collect();
        let wrong = [&b"a"[..], b"b"].map(|secret| slow.guess(suspect, secret).unwrap());
        assert!(slow.guess(suspect, b"c").is_none(), "the burst is under way");
        wrong.into_iter().for_each(Guess::was_wrong);
        drop(fleet);
        slow.guess(suspect, b"c").unwrap().was_wrong();
        assert!(slow.guess(suspect, b"d").is_none(), "three were wrong");
        assert!(slow.guesses.lock().is_empty());
    }

    #[test]
    fn a_wrong_secret_counts_once_when_the_last_who_came_with_it_is_told() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let suspect = slow.suspect("fleet", "192.0.2.1".parse().unwrap());
        for secret in [&b"a"[..], b"b", b"c"] {
            let fleet: Vec<_> = (0..10).map(|_| slow.guess(suspect, secret).unwrap()).collect();
            fleet.into_iter().for_each(Guess::was_wrong);
        }
        assert!(slow.guess(suspect, b"d").is_none());
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
    fn guesses_that_are_looked_at_at_once_cost_their_address_what_they_were() {
        let slow = SlowDown::new(3, INTERVAL, 10_000);
        let now = Instant::now();
        let suspects = (0..1000).map(|n| slow.suspect(&format!("user{n}"), "192.0.2.1".parse().unwrap()));
        let suspects: Vec<_> = suspects.filter(|suspect| slow.admit(*suspect, now)).collect();
        assert_eq!(suspects.len(), 1000, "devices come back together");
        suspects.into_iter().for_each(|suspect| slow.confirm(suspect, now));
        for seconds in [1, 10, 29] {
            assert!(!wrong(&slow, "next", "192.0.2.1", now + Duration::from_secs(seconds)), "{seconds} s");
        }
        assert!(wrong(&slow, "next", "192.0.2.1", now + INTERVAL * 3), "and no longer than that");
        assert!(wrong(&slow, "next", "192.0.2.2", now));
    }

    // A fleet behind one address, some of which have old passwords.
    #[test]
    fn a_few_wrong_passwords_among_many_right_ones_refuse_nobody() {
        let slow = SlowDown::new(10, INTERVAL, 10_000);
        let now = Instant::now();
        let suspect = |n: u32| slow.suspect(&format!("device{n}"), "192.0.2.1".parse().unwrap());
        for second in 0..60 {
            let now = now + Duration::from_secs(second);
            for n in 0..1000 {
                assert!(slow.admit(suspect(n), now) || n < 2, "{n} after {second} s");
            }
            (0..1000).for_each(|n| {
                if n < 2 { slow.confirm(suspect(n), now) } else { slow.refund(suspect(n), now) }
            });
        }
    }

    #[test]
    fn names_that_a_directory_takes_for_one_are_one() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let suspect = |user: &str| slow.suspect(user, "192.0.2.1".parse().unwrap());
        for same in ["ALICE  Liddell", " alice liddell", "Alice Liddell  "] {
            assert_eq!(suspect(same), suspect("alice liddell"), "{same:?}");
        }
        assert_ne!(suspect("aliceliddell"), suspect("alice liddell"));
        assert_ne!(suspect("alice"), suspect("alice liddell"));
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
            slow.refund(suspect, now);
        }
        assert!(slow.budgets.lock().whole_at_ms.is_empty(), "nor do they fill the map");
    }

    #[test]
    fn attempts_at_once_cannot_pass_together() {
        let slow = SlowDown::new(3, INTERVAL, 100);
        let now = Instant::now();
        let suspect = slow.suspect("alice", "192.0.2.1".parse().unwrap());
        assert_eq!((0..100).filter(|_| slow.admit(suspect, now)).count(), 3);
    }

    // Each wrong proof of SCRAM is as cheap for who sends it as for who reads it.
    #[test]
    fn who_fills_the_map_gets_nobody_refused() {
        let slow = SlowDown::new(3, INTERVAL, 20);
        let mut now = Instant::now();
        for n in 0..1000 {
            now += Duration::from_millis(1);
            wrong(&slow, &format!("user{n}"), &format!("10.0.{}.{}", n / 250, n % 250), now);
            assert!(slow.budgets.lock().whole_at_ms.len() <= 20);
            let stranger = slow.suspect("bob", "198.51.100.1".parse().unwrap());
            assert!(slow.admit(stranger, now), "after {n}");
            slow.refund(stranger, now);
        }
    }

    #[test]
    fn who_guesses_most_is_remembered_longest() {
        let slow = SlowDown::new(3, INTERVAL, 20);
        let now = Instant::now();
        while wrong(&slow, "alice", "192.0.2.1", now) {}
        for n in 0..200 {
            wrong(&slow, "alice", &format!("10.0.0.{n}"), now);
        }
        assert!(!wrong(&slow, "alice", "192.0.2.1", now));
    }

    #[test]
    fn the_map_forgets_what_has_recovered() {
        let slow = SlowDown::new(3, INTERVAL, 20);
        let now = Instant::now();
        for n in 0..10 {
            wrong(&slow, "alice", &format!("192.0.2.{n}"), now);
        }
        assert!(wrong(&slow, "bob", "198.51.100.1", now + 20 * INTERVAL));
        assert_eq!(slow.budgets.lock().whole_at_ms.len(), 2);
    }
}
