//! Connections of one client at this edge, one after the other, in the order in which they were accepted, and not too often:
//! before the next one asks for the session, the one before it has handed over what its socket had received, a DISCONNECT above
//! all, and if that ended it, its worker knows. Who has to go is found here, too.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use authsvc::{Revocation, Revocations, RevokeReason, Target};
use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::{self, Duration, timeout, timeout_at};

use super::holder::Holder;
use super::relays::Relays;
use crate::config::EdgeConfig;

/// How long a connection waits for the one before it. A worker that has lost its store, or is dead, takes that long.
const PATIENCE: Duration = Duration::from_secs(5);

/// No relay yet.
const NO_SLOT: u32 = u32::MAX;

const ASKED: u16 = 1;
const READ_OUT: u16 = 2;
const OVER: u16 = 4;
const DISMISSED: u16 = 8;
const REVOKED: u16 = 16;
const CREDENTIALS_CHANGED: u16 = 32;
const SERVED: u16 = 64;
const IN_TURN: u16 = 128;
const REPLACED: u16 = 256;

/// The connections of one client that are not over, in the order in which they were accepted; nearly always one. Whoever is taken
/// over is among them to its end: the next one may end first.
type Places = SmallVec<[Arc<ClientPlace>; 1]>;

/// Who comes after whom, by Client Identifier.
pub(crate) struct Successions {
    places: Mutex<HashMap<Arc<str>, Places, RandomState>>,
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
            places: Mutex::default(),
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
            let places = self.places.lock();
            let (clients, others): (Vec<_>, Vec<_>) =
                entries.iter().partition(|entry| matches!(entry.target, Target::ClientId(_)));
            for entry in clients {
                let Target::ClientId(client_id) = &entry.target else { continue };
                let of_client = places.get(client_id).into_iter().flatten();
                let meant = of_client.filter(|place| place.holder.since <= entry.at);
                found.extend(meant.map(|place| (Arc::clone(place), entry.reason)));
            }
            let others = Named::new(others);
            if !others.is_empty() {
                let named =
                    |place: &Arc<ClientPlace>| Some((Arc::clone(place), others.reason_for(&place.holder)?));
                found.extend(places.values().flatten().filter_map(named));
            }
        }
        for (place, reason) in found {
            place.revoke(reason, &self.relays);
        }
    }

    /// Has those connections ended whose certificates are not trusted any more. Answers how many.
    pub(crate) fn revoke_distrusted(&self) -> usize {
        let with_certificate = |place: &&Arc<ClientPlace>| place.holder.shown.is_some();
        let places: Vec<_> =
            self.places.lock().values().flatten().filter(with_certificate).map(Arc::clone).collect();
        let distrusted = places.iter().filter(|place| place.holder.is_distrusted());
        distrusted.map(|place| place.revoke(RevokeReason::CredentialsChanged, &self.relays)).count()
    }

    /// The one that this one comes after, of those that are there still.
    fn before(&self, place: &Arc<ClientPlace>) -> Option<Arc<ClientPlace>> {
        let places = self.places.lock();
        let of_client = places.get(&place.holder.client_id)?;
        let position = of_client.iter().position(|other| Arc::ptr_eq(other, place))?;
        of_client.get(position.checked_sub(1)?).cloned()
    }

    /// Forgets one that ends. The one before it, which it may have asked to give way, has its place as if nobody had asked.
    fn forget(&self, place: &Arc<ClientPlace>) {
        let mut places = self.places.lock();
        let Some(of_client) = places.get_mut(&place.holder.client_id) else { return };
        let Some(position) = of_client.iter().position(|other| Arc::ptr_eq(other, place)) else { return };
        of_client.remove(position);
        if let Some(before) = position.checked_sub(1).and_then(|before| of_client.get(before)) {
            before.flags.fetch_and(!(ASKED | READ_OUT), Ordering::AcqRel);
        }
        if of_client.is_empty() {
            places.remove(&place.holder.client_id);
        }
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
            let (by_name, name) = match &entry.target {
                Target::User(name) => (&mut named.users, name),
                Target::Token(name) => (&mut named.tokens, name),
                Target::Certificate(name) => (&mut named.certificates, name),
                Target::ClientId(_) => continue,
            };
            // Of several entries for one name that of the latest time means all whom the others mean. Replicas of a service of
            // authentication tell theirs in any order.
            let latest = by_name.entry(&**name).or_insert(entry);
            if latest.at < entry.at {
                *latest = entry;
            }
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
    flags: AtomicU16,
    /// Where its relay is woken.
    slot: AtomicU32,
    /// Until when the one that comes next has to wait for what this one has sent too fast, on the edge's clock; 0: not at all.
    owes_until_ms: AtomicU32,
    /// The one that comes next.
    next: AtomicWaker,
    /// Its own, as long as it waits for its turn.
    waiting: AtomicWaker,
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
    fn has(&self, flag: u16) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    fn set(&self, flag: u16) {
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

    fn ask(&self, flag: u16, relays: &Relays) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.waiting.wake();
        relays.wake(self.slot.load(Ordering::Acquire));
    }

    /// Until when the next connection of the client is held back for what this one has sent too fast, on the edge's clock, if it
    /// is.
    fn owes_until_ms(&self) -> Option<u32> {
        Some(self.owes_until_ms.load(Ordering::Acquire)).filter(|until| *until != 0)
    }

    /// Returns when one of these is so.
    async fn becomes(&self, flags: u16) {
        self.becomes_by(&self.next, flags).await;
    }

    /// The same for whom this one wakes.
    async fn becomes_by(&self, waker: &AtomicWaker, flags: u16) {
        poll_fn(|cx| {
            waker.register(cx.waker());
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

/// Why a connection has no turn among those of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTurn {
    /// Another one has come that waits instead.
    Replaced,
    /// Somebody said that it has to go.
    Revoked,
    /// Its device has gone.
    Gone,
}

/// A connection in its place, from before it asks for its session until its end.
pub(crate) struct Tenancy {
    place: Arc<ClientPlace>,
    successions: Arc<Successions>,
}

impl Tenancy {
    /// Takes the place of whoever came last; if that one waits for its turn, it waits no longer. `None` if it was accepted later: this
    /// one's client has tried again meanwhile.
    pub(crate) fn begin(successions: &Arc<Successions>, holder: Holder) -> Option<Self> {
        let place = {
            let mut places = successions.places.lock();
            let of_client = places.entry(Arc::clone(&holder.client_id)).or_default();
            let before = of_client.last();
            if before.is_some_and(|before| before.holder.since > holder.since) {
                return None;
            }
            // Of those that wait, one is enough; however many come, no more are kept.
            if let Some(waits) = before.filter(|before| !before.has(IN_TURN | SERVED)) {
                waits.ask(REPLACED, &successions.relays);
            }
            let place = Arc::new(ClientPlace {
                flags: AtomicU16::new(if before.is_none() { IN_TURN } else { 0 }),
                slot: AtomicU32::new(NO_SLOT),
                owes_until_ms: AtomicU32::new(0),
                next: AtomicWaker::new(),
                waiting: AtomicWaker::new(),
                precedence: Mutex::new(before.cloned().map_or(Precedence::First, Precedence::Behind)),
                holder,
            });
            of_client.push(Arc::clone(&place));
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
    ///
    /// # Errors
    /// It may not: it is replaced or revoked.
    pub(crate) async fn wait(&self) -> Result<(), NoTurn> {
        let cut_off = self.place.becomes_by(&self.place.waiting, REPLACED | REVOKED);
        tokio::select! {
            biased;
            () = cut_off => {}
            () = self.turn() => {}
        }
        // Whoever comes now finds it either way.
        let _places = self.successions.places.lock();
        match self.place.flags.load(Ordering::Acquire) {
            flags if flags & REVOKED != 0 => Err(NoTurn::Revoked),
            flags if flags & REPLACED != 0 => Err(NoTurn::Replaced),
            _ => {
                self.place.flags.fetch_or(IN_TURN, Ordering::AcqRel);
                Ok(())
            }
        }
    }

    async fn turn(&self) {
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

    /// Has whoever was there before hand over what it had received. If that one ends, another may have been there before it: one
    /// that it did not take over in the end.
    pub(crate) async fn take_over(&self) {
        while let Some(before) = self.place.before() {
            before.give_way(&self.successions.relays).await;
            let Some(earlier) = self.successions.before(&self.place).filter(|_| before.has(OVER)) else {
                return;
            };
            *self.place.precedence.lock() = Precedence::Behind(earlier);
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
        let read_out = |flags| (flags & ASKED != 0).then_some(flags | READ_OUT);
        if self.place.flags.fetch_update(Ordering::AcqRel, Ordering::Acquire, read_out).is_ok() {
            self.place.next.wake();
        }
    }

    /// To be dropped when its worker knows that it is over.
    pub(crate) fn into_end(self) -> Box<dyn Any + Send + Sync> {
        Box::new(self)
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        self.successions.forget(&self.place);
        self.place.set(OVER);
    }
}

#[cfg(test)]
mod tests;
