//! The list: what was revoked, in its order and by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::REVOKED_S_MAX;
use super::file::{LastingEntry, RevocationFile};
use super::target::{Bearer, RevokeReason, Target};

/// Entries that are remembered; beyond it those are forgotten that have ended first, or would.
pub(super) const ENTRIES_MAX: usize = 100_000;

/// Entries that are told in one answer.
pub(super) const TOLD_MAX: usize = 1_000;

/// For how long an entry is told after it has ended.
const REMEMBERED: Duration = Duration::from_secs(600);

/// One entry.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Counts from 1; larger ones are newer.
    pub id: u64,
    /// What is revoked.
    pub target: Target,
    /// Why.
    pub reason: RevokeReason,
    /// Connections that began before this have to go.
    pub at: Instant,
    /// Until then nobody new comes.
    pub until: Instant,
}

/// The list. Clones are the same.
#[derive(Clone)]
pub struct Revocations(Arc<KeptList>);

struct KeptList {
    /// Of this list, so that who follows it sees when it has begun anew.
    replica: String,
    list: Mutex<RevocationList>,
    newest: watch::Sender<u64>,
    /// Where it is kept beyond the process.
    file: OnceLock<RevocationFile>,
}

#[derive(Default)]
struct RevocationList {
    /// The newest entry of each target, by its number.
    entries: BTreeMap<u64, Revocation>,
    /// Their numbers by when they end.
    by_end: BTreeSet<(Instant, u64)>,
    /// The newest entry of each target.
    by_name: HashMap<Target, Times>,
    newest: u64,
    /// Up to here they were forgotten.
    forgotten: u64,
    /// Names the rules in force; empty where nobody has said.
    rules: Arc<str>,
    /// The number at which they became others; 0: not since the start.
    rules_changed: u64,
}

#[derive(Clone, Copy)]
struct Times {
    id: u64,
    at: Instant,
    until: Instant,
    reason: RevokeReason,
    /// What an operator said of it, whatever a source says later.
    by_operator: Option<Span>,
}

/// Revoked since, and until.
#[derive(Clone, Copy)]
struct Span {
    at: Instant,
    until: Instant,
}

impl Span {
    /// The later of both times.
    fn with(self, other: Option<Self>) -> Self {
        let Some(other) = other else { return self };
        Self { at: self.at.max(other.at), until: self.until.max(other.until) }
    }
}

impl Default for Revocations {
    fn default() -> Self {
        let replica = format!("{:032x}", rand::random::<u128>());
        let (list, newest) = (Mutex::default(), watch::Sender::new(0));
        Self(Arc::new(KeptList { replica, list, newest, file: OnceLock::new() }))
    }
}

/// What is told of a list.
pub struct Told {
    /// The newest entry that was told.
    pub newest: u64,
    /// In their order.
    pub entries: Vec<Revocation>,
    /// Entries in between were forgotten already.
    pub has_missed: bool,
    /// The number at which rules became others last; 0: not since the start.
    pub rules_changed: u64,
}

impl Revocations {
    /// The name of this list, another one after a restart.
    pub fn replica(&self) -> &str {
        &self.0.replica
    }

    /// Revokes `target` now, and for so long.
    pub fn revoke(&self, target: Target, reason: RevokeReason, lasts: Duration) {
        let now = Instant::now();
        self.add(target, reason, now, now + lasts.min(Duration::from_secs(REVOKED_S_MAX)));
    }

    /// The same from elsewhere: since `at`, until `until`.
    pub(super) fn add(&self, target: Target, reason: RevokeReason, at: Instant, until: Instant) {
        let newest = {
            let mut list = self.0.list.lock();
            list.forget(Instant::now());
            list.newest += 1;
            let id = list.newest;
            let before = list.by_name.get(&target).copied();
            let by_operator = before.and_then(|times| times.by_operator);
            let by_operator = match reason {
                RevokeReason::Administrative => Some(Span { at, until }.with(by_operator)),
                RevokeReason::CredentialsChanged => by_operator,
            };
            // Whoever was revoked later, or for longer, stays so: another replica may be late to tell of before.
            let span = before.map(|times| Span { at: times.at, until: times.until });
            let Span { at, until } = Span { at, until }.with(span);
            if let Some(before) = before {
                list.take(before.id);
            }
            list.by_name.insert(target.clone(), Times { id, at, until, reason, by_operator });
            let entry = Revocation { id, target, reason, at, until };
            list.by_end.insert((entry.end(), id));
            list.entries.insert(id, entry);
            id
        };
        self.0.newest.send_replace(newest);
    }

    /// Takes what is in the file of before, and keeps there from now on what an operator revokes for longer. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read or written, or a line of it is not as it was written: the text says which.
    pub(crate) fn keep_in(&self, path: &Path) -> Result<(), String> {
        let file = RevocationFile::new(path);
        let now = Instant::now();
        for entry in file.read()? {
            let Some((age, lasts)) = entry.times() else { continue };
            // Nobody is there yet who came before a time that this machine knows nothing of.
            let at = now.checked_sub(age).unwrap_or(now);
            let lasts = lasts.min(Duration::from_secs(REVOKED_S_MAX));
            self.add(entry.target, RevokeReason::Administrative, at, now + lasts);
        }
        // What cannot be written is found out now, and not by the first order.
        file.write(|| self.lasting()).map_err(|error| format!("= {path:?}: cannot be written: {error}"))?;
        // A second one can only come from a second start.
        let _ = self.0.file.set(file);
        Ok(())
    }

    /// Writes down what lasts, where it is to be. Blocks on the disk.
    pub(super) fn keep(&self) -> io::Result<()> {
        self.0.file.get().map_or(Ok(()), |file| file.write(|| self.lasting()))
    }

    /// What an operator revoked and has not ended.
    pub(super) fn lasting(&self) -> Vec<LastingEntry> {
        let list = self.0.list.lock();
        let now = Instant::now();
        let lasting = |entry: &Revocation| {
            let times = list.by_name.get(&entry.target)?;
            let span = times.by_operator.filter(|span| span.until > now)?;
            Some(LastingEntry::new(entry.target.clone(), now - span.at, span.until - now))
        };
        list.entries.values().filter_map(lasting).collect()
    }

    /// How many entries and names it has.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        let list = self.0.list.lock();
        (list.entries.len(), list.by_name.len())
    }

    /// The entries after `after`, `TOLD_MAX` at most.
    pub fn since(&self, after: u64) -> Told {
        let mut list = self.0.list.lock();
        list.forget(Instant::now());
        let later = list.entries.range((Bound::Excluded(after), Bound::Unbounded));
        let entries: Vec<_> = later.map(|(_, entry)| entry).take(TOLD_MAX).cloned().collect();
        // Rules have numbers without entries.
        let newest =
            entries.last().filter(|_| entries.len() == TOLD_MAX).map_or(list.newest, |entry| entry.id);
        let has_missed = after > 0 && after < list.forgotten;
        Told { newest, entries, has_missed, rules_changed: list.rules_changed }
    }

    /// Tells that rules became others: what connected clients may do is to be asked about anew.
    pub(crate) fn tell_of_rules(&self) {
        let newest = {
            let mut list = self.0.list.lock();
            list.newest += 1;
            list.rules_changed = list.newest;
            list.newest
        };
        self.0.newest.send_replace(newest);
    }

    /// Says what names the rules in force: what differs where they do. Who follows asks anew when it is another name.
    pub(crate) fn name_rules(&self, name: &Arc<str>) {
        let was = std::mem::replace(&mut self.0.list.lock().rules, name.clone());
        if !was.is_empty() && was != *name {
            self.tell_of_rules();
        }
    }

    pub(super) fn rules(&self) -> Arc<str> {
        self.0.list.lock().rules.clone()
    }

    /// Returns when there is an entry after `after`. Cancel safe.
    pub async fn changed(&self, after: u64) {
        // The sender lives as long as this does.
        let _ = self.0.newest.subscribe().wait_for(|newest| *newest > after).await;
    }

    /// Why `bearer`, whose connection began at `since`, may not be here.
    pub fn verdict(&self, bearer: &Bearer<'_>, since: Instant) -> Option<RevokeReason> {
        let list = self.0.list.lock();
        if list.by_name.is_empty() {
            return None;
        }
        let now = Instant::now();
        let has = |target| {
            let times = list.by_name.get(&target)?;
            (now < times.until || since <= times.at).then_some(times.reason)
        };
        let user = (!bearer.user.is_empty()).then(|| Target::User(bearer.user.into()));
        let token = bearer.token_id.map(|id| Target::Token(id.into()));
        let certificate = bearer.certificate.map(|print| Target::Certificate(print.into()));
        let client_id = Some(Target::ClientId(bearer.client_id.into()));
        [client_id, user, token, certificate].into_iter().flatten().find_map(has)
    }
}

impl Revocation {
    /// When it has ended.
    fn end(&self) -> Instant {
        self.until.max(self.at)
    }
}

impl RevocationList {
    /// Makes room for one more: what has ended goes first, what lasts longest stays.
    fn forget(&mut self, now: Instant) {
        while let Some((end, id)) = self.by_end.first().copied() {
            let is_over = end + REMEMBERED <= now;
            if !is_over && self.entries.len() < ENTRIES_MAX {
                return;
            }
            if !is_over {
                tracing::warn!("more was revoked than is remembered: the entry that ends first is forgotten");
            }
            self.forgotten = self.forgotten.max(id);
            if let Some(entry) = self.take(id) {
                self.by_name.remove(&entry.target);
            }
        }
    }

    fn take(&mut self, id: u64) -> Option<Revocation> {
        let entry = self.entries.remove(&id)?;
        self.by_end.remove(&(entry.end(), id));
        Some(entry)
    }
}
