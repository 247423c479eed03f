//! Connections of one client at this edge, one after the other, in the order in which they were accepted, and not too often:
//! before the next one asks for the session, the one before it has handed over what its socket had received, a DISCONNECT above
//! all, and if that ended it, its worker knows. Who has to go is found here, too.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use authsvc::{Revocation, Revocations, RevokeReason, Target};
use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::{self, Duration, timeout, timeout_at};

use super::holder::Holder;
use super::relays::Relays;
use crate::config::EdgeConfig;

/// How long a connection waits for the one before it. A worker that has lost its store, or is dead, takes that long.
const PATIENCE: Duration = Duration::from_secs(5);

/// No relay yet.
const NO_SLOT: u32 = u32::MAX;

const ASKED: u8 = 1;
const READ_OUT: u8 = 2;
const OVER: u8 = 4;
const DISMISSED: u8 = 8;
const REVOKED: u8 = 16;
const CREDENTIALS_CHANGED: u8 = 32;
const SERVED: u8 = 64;

/// Who came last, by Client Identifier.
pub(crate) struct Successions {
    last: Mutex<HashMap<Arc<str>, Arc<ClientPlace>, RandomState>>,
    relays: Arc<Relays>,
    /// Who has to go, if somebody says so.
    pub(crate) revocations: OnceLock<Revocations>,
    /// One takeover of a client in this time, and so many at once.
    takeover_interval: Duration,
    takeover_burst: u32,
}

impl Successions {
    pub(crate) fn new(config: &EdgeConfig, relays: Arc<Relays>) -> Self {
        Self {
            last: Mutex::default(),
            relays,
            revocations: OnceLock::new(),
            takeover_interval: config.takeover_interval(),
            takeover_burst: config.takeover_burst,
        }
    }

    /// Why this connection may not be here, if so.
    pub(crate) fn revoked(&self, holder: &Holder) -> Option<RevokeReason> {
        if holder.is_distrusted() {
            return Some(RevokeReason::CredentialsChanged);
        }
        let revocations = self.revocations.get()?;
        holder.ask(|bearer| revocations.verdict(bearer, holder.since))
    }

    /// Has those connections ended that began before one of these entries and are meant by it. Looks at all connections, unless
    /// clients are named.
    pub(crate) fn revoke(&self, entries: &[Revocation]) {
        let mut found: Vec<(Arc<ClientPlace>, RevokeReason)> = Vec::new();
        {
            let places = self.last.lock();
            let (clients, others): (Vec<_>, Vec<_>) =
                entries.iter().partition(|entry| matches!(entry.target, Target::ClientId(_)));
            for entry in clients {
                let Target::ClientId(client_id) = &entry.target else { continue };
                let place = places.get(client_id).filter(|place| place.holder.since <= entry.at);
                found.extend(place.map(|place| (Arc::clone(place), entry.reason)));
            }
            let others = Named::new(others);
            if !others.is_empty() {
                let named =
                    |place: &Arc<ClientPlace>| Some((Arc::clone(place), others.reason_for(&place.holder)?));
                found.extend(places.values().filter_map(named));
            }
        }
        for (place, reason) in found {
            place.revoke(reason, &self.relays);
        }
    }

    /// Has those connections ended whose certificates are not trusted any more. Answers how many.
    pub(crate) fn revoke_distrusted(&self) -> usize {
        let with_certificate = |place: &&Arc<ClientPlace>| place.holder.shown.is_some();
        let places: Vec<_> = self.last.lock().values().filter(with_certificate).map(Arc::clone).collect();
        let distrusted = places.iter().filter(|place| place.holder.is_distrusted());
        distrusted.map(|place| place.revoke(RevokeReason::CredentialsChanged, &self.relays)).count()
    }
}

/// Entries by what they name.
struct Named<'a> {
    users: HashMap<&'a str, &'a Revocation>,
    tokens: HashMap<&'a str, &'a Revocation>,
    certificates: HashMap<&'a str, &'a Revocation>,
}

impl<'a> Named<'a> {
    fn new(entries: Vec<&'a Revocation>) -> Self {
        let (users, tokens, certificates) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut named = Self { users, tokens, certificates };
        for entry in entries {
            // Of several entries for one name the last is the newest.
            match &entry.target {
                Target::User(name) => named.users.insert(name, entry),
                Target::Token(name) => named.tokens.insert(name, entry),
                Target::Certificate(name) => named.certificates.insert(name, entry),
                Target::ClientId(_) => None,
            };
        }
        named
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.tokens.is_empty() && self.certificates.is_empty()
    }

    fn reason_for(&self, holder: &Holder) -> Option<RevokeReason> {
        holder.ask(|bearer| {
            let user = self.users.get(bearer.user).filter(|_| !bearer.user.is_empty());
            let token = bearer.token_id.and_then(|id| self.tokens.get(id));
            let certificate = bearer.certificate.and_then(|print| self.certificates.get(print));
            let mut named = [user, token, certificate].into_iter().flatten();
            named.find(|entry| holder.since <= entry.at).map(|entry| entry.reason)
        })
    }
}

/// One connection's place among those of its client.
pub(crate) struct ClientPlace {
    holder: Holder,
    flags: AtomicU8,
    /// Where its relay is woken.
    slot: AtomicU32,
    /// Until when the one that comes next has to wait for what this one has sent too fast, on the edge's clock; 0: not at all.
    owes_until_ms: AtomicU32,
    /// The one that comes next.
    next: AtomicWaker,
    precedence: Mutex<Precedence>,
}

/// Where a connection stands among those of its client.
#[derive(Clone)]
enum Precedence {
    /// Nobody is before it, or it has been served.
    First,
    /// It waits for this one.
    Behind(Arc<ClientPlace>),
    /// It has taken over; by then the takeovers of its client have been made up for.
    Took(time::Instant),
}

impl ClientPlace {
    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    fn set(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.next.wake();
    }

    /// Has its relay end it.
    fn revoke(&self, reason: RevokeReason, relays: &Relays) {
        self.ask(
            REVOKED | if reason == RevokeReason::CredentialsChanged { CREDENTIALS_CHANGED } else { 0 },
            relays,
        );
    }

    fn ask(&self, flag: u8, relays: &Relays) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        relays.wake(self.slot.load(Ordering::Acquire));
    }

    /// Until when the next connection of the client is held back for what this one has sent too fast, on the edge's clock, if it
    /// is.
    fn owes_until_ms(&self) -> Option<u32> {
        Some(self.owes_until_ms.load(Ordering::Acquire)).filter(|until| *until != 0)
    }

    /// Returns when one of these is so.
    async fn becomes(&self, flags: u8) {
        poll_fn(|cx| {
            self.next.register(cx.waker());
            if self.has(flags) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until it has handed over what it had received and goes on, or is over; not for ever. One that has no CONNACK by
    /// then is dismissed.
    async fn give_way(&self, relays: &Relays) {
        self.ask(ASKED, relays);
        if timeout(PATIENCE, self.becomes(READ_OUT | OVER)).await.is_err() {
            self.ask(DISMISSED, relays);
        }
    }

    /// The one that it waits for.
    fn before(&self) -> Option<Arc<Self>> {
        match &*self.precedence.lock() {
            Precedence::Behind(before) => Some(Arc::clone(before)),
            Precedence::First | Precedence::Took(_) => None,
        }
    }

    /// When the takeovers of its client have been made up for.
    fn made_up(&self) -> Option<time::Instant> {
        match &*self.precedence.lock() {
            Precedence::Took(made_up) => Some(*made_up),
            Precedence::First | Precedence::Behind(_) => None,
        }
    }
}

/// A connection in its place, from before it asks for its session until its end.
pub(crate) struct Tenancy {
    place: Arc<ClientPlace>,
    successions: Arc<Successions>,
}

impl Tenancy {
    /// Takes the place of whoever came last. `None` if that one was accepted later: this one's client has tried again meanwhile.
    pub(crate) fn begin(successions: &Arc<Successions>, holder: Holder) -> Option<Self> {
        let place = {
            let mut last = successions.last.lock();
            let before = last.get(&holder.client_id).filter(|before| !before.has(OVER));
            if before.is_some_and(|before| before.holder.since > holder.since) {
                return None;
            }
            let place = Arc::new(ClientPlace {
                flags: AtomicU8::new(0),
                slot: AtomicU32::new(NO_SLOT),
                owes_until_ms: AtomicU32::new(0),
                next: AtomicWaker::new(),
                precedence: Mutex::new(before.cloned().map_or(Precedence::First, Precedence::Behind)),
                holder,
            });
            last.insert(Arc::clone(&place.holder.client_id), Arc::clone(&place));
            place
        };
        let tenancy = Self { place, successions: Arc::clone(successions) };
        tenancy.look_up();
        Some(tenancy)
    }

    /// What was revoked before it was known by this name, nobody else tells it.
    fn look_up(&self) {
        if let Some(reason) = self.successions.revoked(&self.place.holder) {
            self.place.revoke(reason, &self.successions.relays);
        }
    }

    /// It is here by this token from now on.
    pub(crate) fn renew(&self, token_id: Option<&Arc<str>>) {
        {
            let mut shown = self.place.holder.token_id.lock();
            if shown.as_ref() == token_id {
                return;
            }
            *shown = token_id.cloned();
        }
        self.look_up();
    }

    /// Whether it has to wait for another one.
    pub(crate) fn is_behind(&self) -> bool {
        self.place.before().is_some()
    }

    /// Waits until it may take the place over. It asks nobody to go before [`Tenancy::take_over`].
    pub(crate) async fn wait(&self) {
        while let Some(before) = self.place.before() {
            before.becomes(SERVED | OVER).await;
            let Some(earlier) = before.before() else {
                let successions = &self.successions;
                let ahead = successions.takeover_interval * (successions.takeover_burst - 1);
                if let Some(at) = before.made_up().and_then(|made_up| made_up.checked_sub(ahead)) {
                    // Not longer than it lasts.
                    let _ = timeout_at(at, before.becomes(OVER)).await;
                }
                return;
            };
            // It has gone before it was served; the one that it waited for may be there.
            *self.place.precedence.lock() = Precedence::Behind(earlier);
        }
    }

    /// Has whoever was there before hand over what it had received.
    pub(crate) async fn take_over(&self) {
        if let Some(before) = self.place.before() {
            before.give_way(&self.successions.relays).await;
        }
    }

    /// Until when it is held back for what the one before it has sent too fast, on the edge's clock, if it is.
    pub(crate) fn owed_until_ms(&self) -> Option<u32> {
        self.place.before()?.owes_until_ms()
    }

    /// The session is asked for.
    pub(crate) fn is_served(&self) {
        if let Some(before) = self.place.before() {
            let now = time::Instant::now();
            let made_up = before.made_up().map_or(now, |made_up| made_up.max(now));
            *self.place.precedence.lock() = Precedence::Took(made_up + self.successions.takeover_interval);
        }
        self.place.set(SERVED);
    }

    /// Who the connection is.
    pub(crate) fn holder(&self) -> &Holder {
        &self.place.holder
    }

    /// Its relay is woken by this slot from now on.
    pub(crate) fn settle(&self, slot: u32) {
        self.place.slot.store(slot, Ordering::Release);
    }

    /// Whether another one waits for what it has received.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.place.flags.load(Ordering::Acquire) & (ASKED | READ_OUT) == ASKED
    }

    /// Why it has to go, if somebody said so.
    #[inline]
    pub(crate) fn revoked(&self) -> Option<RevokeReason> {
        let flags = self.place.flags.load(Ordering::Acquire);
        (flags & REVOKED != 0).then_some(if flags & CREDENTIALS_CHANGED != 0 {
            RevokeReason::CredentialsChanged
        } else {
            RevokeReason::Administrative
        })
    }

    /// Whether another one has waited long enough.
    pub(crate) fn is_dismissed(&self) -> bool {
        self.place.has(DISMISSED)
    }

    /// It has sent so much that its client is to be held back until then.
    pub(crate) fn owe_until(&self, until_ms: u32) {
        self.place.owes_until_ms.store(until_ms, Ordering::Release);
    }

    /// All that it had received was handed over, and it is there still.
    pub(crate) fn has_read_out(&self) {
        self.place.set(READ_OUT);
    }

    /// To be dropped when its worker knows that it is over.
    pub(crate) fn into_end(self) -> Box<dyn Any + Send + Sync> {
        Box::new(self)
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        {
            let mut last = self.successions.last.lock();
            if last.get(&self.place.holder.client_id).is_some_and(|place| Arc::ptr_eq(place, &self.place)) {
                last.remove(&self.place.holder.client_id);
            }
        }
        self.place.set(OVER);
    }
}

#[cfg(test)]
mod tests {
    use authsvc::Certificate;
    use tokio::time::Instant;

    use super::*;

    fn successions(config: &EdgeConfig) -> Arc<Successions> {
        Arc::new(Successions::new(config, Arc::default()))
    }

    fn holder(client_id: &str) -> Holder {
        Holder::of(client_id)
    }

    #[test]
    fn those_are_revoked_who_are_named_and_came_before() {
        let successions = successions(&EdgeConfig::default());
        let certificate = |fingerprint: &str| {
            let (subject, distinguished_name) = ("".into(), "".into());
            let (alternative_names, fingerprint) = (vec![], fingerprint.into());
            Some(Arc::new(Certificate { subject, distinguished_name, alternative_names, fingerprint }))
        };
        let begin = |client_id: &str, subject: &str, token: &str| {
            let (subject, token_id) = (subject.into(), Mutex::new(Some(token.into())));
            let certificate = certificate(&format!("{client_id}{client_id}"));
            let holder = Holder { subject, token_id, certificate, ..holder(client_id) };
            Tenancy::begin(&successions, holder).expect("the last")
        };
        let tenancies =
            [begin("a", "alice", "1"), begin("b", "alice", "2"), begin("c", "bob", "3"), begin("d", "", "4")];
        let revoked = || tenancies.iter().map(|tenancy| tenancy.revoked().is_some()).collect::<Vec<_>>();
        let revoke = |target, at| {
            let reason = RevokeReason::CredentialsChanged;
            successions.revoke(&[Revocation { id: 1, target, reason, at, until: at }]);
        };
        let before = std::time::Instant::now() - Duration::from_secs(3600);
        let now = std::time::Instant::now();
        for target in [Target::User("".into()), Target::User("a".into()), Target::Token("9".into())] {
            revoke(target, now);
        }
        revoke(Target::User("alice".into()), before);
        assert_eq!(revoked(), [false; 4]);
        revoke(Target::ClientId("d".into()), now);
        assert_eq!(revoked(), [false, false, false, true]);
        revoke(Target::Certificate("cc".into()), now);
        assert_eq!(revoked(), [false, false, true, true]);
        revoke(Target::Token("2".into()), now);
        assert_eq!(revoked(), [false, true, true, true]);
        revoke(Target::User("alice".into()), now);
        assert_eq!(revoked(), [true; 4]);
        assert_eq!(tenancies[0].revoked(), Some(RevokeReason::CredentialsChanged));
    }

    #[test]
    fn who_takes_its_place_after_it_was_revoked_goes_too() {
        let successions = successions(&EdgeConfig::default());
        let list = Revocations::default();
        let _ = successions.revocations.set(list.clone());
        let early = holder("a");
        list.revoke(Target::ClientId("a".into()), RevokeReason::Administrative, Duration::ZERO);
        let tenancy = Tenancy::begin(&successions, early).expect("the last");
        assert_eq!(tenancy.revoked(), Some(RevokeReason::Administrative));
    }

    #[test]
    fn who_shows_another_token_goes_with_that_one() {
        let successions = successions(&EdgeConfig::default());
        let list = Revocations::default();
        let _ = successions.revocations.set(list.clone());
        let begin = |client_id: &str| {
            let token_id = Mutex::new(Some("first".into()));
            let tenancy = Tenancy::begin(&successions, Holder { token_id, ..holder(client_id) });
            tenancy.expect("the last")
        };
        let (stays, goes) = (begin("a"), begin("b"));
        let second = Arc::from("second");
        goes.renew(Some(&second));
        let revoke = |name: &str| {
            let target = Target::Token(name.into());
            list.revoke(target.clone(), RevokeReason::Administrative, Duration::from_secs(60));
            let at = std::time::Instant::now();
            let entry = Revocation { id: 1, target, reason: RevokeReason::Administrative, at, until: at };
            successions.revoke(&[entry]);
        };
        revoke("second");
        assert_eq!([stays.revoked(), goes.revoked()], [None, Some(RevokeReason::Administrative)]);
        // It was revoked while it was looked at.
        stays.renew(Some(&second));
        assert_eq!(stays.revoked(), Some(RevokeReason::Administrative));
        let left = begin("c");
        left.renew(None);
        revoke("first");
        assert_eq!(left.revoked(), None, "that token is not what it is here by");
    }

    fn begin(successions: &Arc<Successions>, client_id: &str) -> Tenancy {
        Tenancy::begin(successions, holder(client_id)).expect("the last")
    }

    /// Waits for its turn and takes over.
    async fn take_over(tenancy: &Tenancy) {
        tenancy.wait().await;
        tenancy.take_over().await;
        tenancy.is_served();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_the_one_before_it_and_no_other() {
        let successions = successions(&EdgeConfig::default());
        let first = begin(&successions, "a");
        first.is_served();
        assert!(!begin(&successions, "b").is_behind());
        let second = begin(&successions, "a");
        assert!(second.is_behind());
        let began = Instant::now();
        let (_, end) = tokio::join!(take_over(&second), async {
            assert!(!second.is_asked());
            first.has_read_out();
            first.into_end()
        });
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(end);
        let third = begin(&successions, "a");
        let before = third.place.before().expect("the second");
        assert!(Arc::ptr_eq(&before, &second.place), "the first has not taken it along");
        drop((second, third));
        assert!(!begin(&successions, "a").is_behind());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_answer_is_waited_for_no_longer_than_that() {
        let successions = successions(&EdgeConfig::default());
        let silent = begin(&successions, "a");
        silent.is_served();
        let next = begin(&successions, "a");
        let began = Instant::now();
        take_over(&next).await;
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(silent.is_asked() && silent.is_dismissed());
    }

    #[test]
    fn one_that_was_accepted_earlier_takes_nothing_over() {
        let (successions, since) = (successions(&EdgeConfig::default()), std::time::Instant::now());
        let early = || Holder { since, ..holder("a") };
        let late = begin(&successions, "a");
        assert!(Tenancy::begin(&successions, early()).is_none());
        drop(late);
        assert!(Tenancy::begin(&successions, early()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_takeovers_as_the_burst_do_not_wait_and_each_of_the_others_does() {
        for burst in [1, 2, 5] {
            let config = EdgeConfig { takeover_burst: burst, ..EdgeConfig::default() };
            let interval = config.takeover_interval();
            let successions = successions(&config);
            let mut last = begin(&successions, "a");
            last.is_served();
            for number in 1..burst + 4 {
                let next = begin(&successions, "a");
                let waited = Instant::now();
                last.has_read_out();
                take_over(&next).await;
                last = next;
                let expected = if number > burst { interval } else { Duration::ZERO };
                let waited = waited.elapsed();
                assert!(waited.abs_diff(expected) < interval / 5, "{number} of {burst}: {waited:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_while_it_waits_leaves_its_place_to_the_next() {
        let successions = successions(&EdgeConfig::default());
        let first = begin(&successions, "a");
        first.is_served();
        let (gone, next) = (begin(&successions, "a"), begin(&successions, "a"));
        drop(gone);
        next.wait().await;
        assert!(Arc::ptr_eq(&next.place.before().expect("the first"), &first.place));
        first.has_read_out();
        take_over(&next).await;
        assert!(next.place.has(SERVED) && first.place.has(READ_OUT));
    }
}
