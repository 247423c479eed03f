//! Who has to go: users, clients, tokens and certificates that were revoked, by an operator or by a source that has changed.
//! Edges follow the list, end the connections that it is about, and refuse new ones until an entry ends. An entry is told for a
//! while after its end, so that who follows late misses nothing. It is told here, too, that rules have changed, so that what
//! connected clients may do is asked about anew.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use link::Passport;
use mqtt::ReasonCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::revocation_file::{LastingEntry, RevocationFile};

/// Entries that are remembered; beyond it the oldest are forgotten.
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// Entries that are told in one answer.
pub(crate) const TOLD_MAX: usize = 1_000;

/// For how long an entry is told after it has ended.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Longest time for which something may be revoked: a year.
pub(crate) const REVOKED_S_MAX: u64 = 31_536_000;

/// Longest name of what is revoked, bytes.
pub(crate) const NAME_BYTES_MAX: usize = 65_535;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A user, by name: what passports have as their subject.
    User(Arc<str>),
    /// A client, by Client Identifier.
    ClientId(Arc<str>),
    /// A token, by its identifier (`jti`).
    Token(Arc<str>),
    /// A client certificate, by its fingerprint: SHA-256 of its DER encoding, lower-case hex.
    Certificate(Arc<str>),
}

impl Target {
    fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::ClientId(name) | Self::Token(name) | Self::Certificate(name) => name,
        }
    }
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeReason {
    /// An operator said so.
    Administrative,
    /// A source knows the credentials no more, or others instead.
    CredentialsChanged,
}

impl RevokeReason {
    /// What DISCONNECT tells the device.
    pub fn reason_code(self) -> ReasonCode {
        match self {
            Self::Administrative => ReasonCode::AdministrativeAction,
            Self::CredentialsChanged => ReasonCode::NotAuthorized,
        }
    }
}

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

/// Who a connection is, as far as it can be revoked.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    /// The subject of its passport; empty for anonymous clients.
    pub user: &'a str,
    /// Its Client Identifier.
    pub client_id: &'a str,
    /// The identifier of its token, if it came by one.
    pub token_id: Option<&'a str>,
    /// The fingerprint of its certificate, if it has one.
    pub certificate: Option<&'a str>,
}

impl<'a> Bearer<'a> {
    /// The bearer of `passport`, with a certificate of this fingerprint.
    pub fn new(passport: &'a Passport, certificate: Option<&'a str>) -> Self {
        let (user, client_id) = (&*passport.subject, &*passport.client_id);
        Self { user, client_id, token_id: passport.token_id.as_deref(), certificate }
    }

    /// Whether it is what `target` names.
    pub fn is(&self, target: &Target) -> bool {
        match target {
            Target::User(name) => !self.user.is_empty() && self.user == &**name,
            Target::ClientId(name) => self.client_id == &**name,
            Target::Token(name) => self.token_id == Some(&**name),
            Target::Certificate(name) => self.certificate == Some(&**name),
        }
    }
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
    entries: VecDeque<Revocation>,
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
    pub(crate) fn add(&self, target: Target, reason: RevokeReason, at: Instant, until: Instant) {
        let newest = {
            let mut list = self.0.list.lock();
            list.forget(Instant::now());
            list.newest += 1;
            let id = list.newest;
            // Whoever was revoked for longer stays so.
            let until = list.by_name.get(&target).map_or(until, |times| times.until.max(until));
            list.by_name.insert(target.clone(), Times { id, at, until, reason });
            list.entries.push_back(Revocation { id, target, reason, at, until });
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
    fn keep(&self) -> io::Result<()> {
        self.0.file.get().map_or(Ok(()), |file| file.write(|| self.lasting()))
    }

    /// What an operator revoked and has not ended.
    fn lasting(&self) -> Vec<LastingEntry> {
        let list = self.0.list.lock();
        let now = Instant::now();
        let is_newest = |entry: &&Revocation| {
            list.by_name.get(&entry.target).is_some_and(|times| times.id == entry.id)
                && entry.reason == RevokeReason::Administrative
                && entry.until > now
        };
        let newest = list.entries.iter().filter(is_newest);
        newest
            .map(|entry| LastingEntry::new(entry.target.clone(), now - entry.at, entry.until - now))
            .collect()
    }

    /// The entries after `after`, `TOLD_MAX` at most.
    pub fn since(&self, after: u64) -> Told {
        let mut list = self.0.list.lock();
        list.forget(Instant::now());
        let first = list.entries.partition_point(|entry| entry.id <= after);
        let entries: Vec<_> = list.entries.range(first..).take(TOLD_MAX).cloned().collect();
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

    fn rules(&self) -> Arc<str> {
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

impl RevocationList {
    fn forget(&mut self, now: Instant) {
        while let Some(first) = self.entries.front() {
            let newest = self.by_name.get(&first.target).is_none_or(|times| times.id == first.id);
            let is_over = first.until.max(first.at) + REMEMBERED <= now;
            if newest && !is_over && self.entries.len() < ENTRIES_MAX {
                break;
            }
            let Some(first) = self.entries.pop_front() else { break };
            if newest {
                self.forgotten = first.id;
                if !is_over {
                    tracing::warn!("more was revoked than is remembered, the oldest entry is forgotten");
                }
                self.by_name.remove(&first.target);
            }
        }
    }
}

/// One entry as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    id: u64,
    #[serde(flatten)]
    pub(crate) target: Target,
    pub(crate) reason: RevokeReason,
    /// How long ago it was revoked, milliseconds: clocks may differ.
    age_ms: u64,
    /// For how long nobody new comes, milliseconds from now on.
    lasts_ms: u64,
}

/// The answer of `GET /v1/revocations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Feed {
    pub(crate) replica: String,
    pub(crate) newest: u64,
    pub(crate) has_missed: bool,
    /// Names the rules in force.
    #[serde(default)]
    pub(crate) rules: String,
    pub(crate) revocations: Vec<Entry>,
}

impl Feed {
    /// What `list` has after `after`.
    pub(crate) fn new(list: &Revocations, after: u64) -> Self {
        let told = list.since(after);
        let now = Instant::now();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let entry = |entry: Revocation| Entry {
            id: entry.id,
            target: entry.target,
            reason: entry.reason,
            age_ms: ms(now.saturating_duration_since(entry.at)),
            lasts_ms: ms(entry.until.saturating_duration_since(now)),
        };
        Self {
            replica: list.replica().to_owned(),
            newest: told.newest,
            has_missed: told.has_missed,
            rules: list.rules().to_string(),
            revocations: told.entries.into_iter().map(entry).collect(),
        }
    }
}

impl Entry {
    /// Adds it to the list of who follows.
    pub(crate) fn add_to(self, list: &Revocations) {
        let now = Instant::now();
        let age = Duration::from_millis(self.age_ms);
        let lasts = Duration::from_millis(self.lasts_ms).min(Duration::from_secs(REVOKED_S_MAX));
        // A machine that has run for less time than that had no connections then.
        let Some(at) = now.checked_sub(age) else { return };
        list.add(self.target, self.reason, at, now + lasts);
    }
}

/// Why an order was not carried out, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// It is not as documented; the text says why.
    #[error("{0}")]
    Order(String),
    /// It is in force, and will not be after a restart.
    #[error("in force, but not kept beyond this process: {0}")]
    NotKept(io::Error),
}

/// What an operator asks for: the body of `POST /v1/revocations`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeOrder {
    user: Option<Arc<str>>,
    client_id: Option<Arc<str>>,
    token: Option<Arc<str>>,
    certificate: Option<Arc<str>>,
    /// Seconds for which nobody new comes. Default 0: only connections that there are end.
    #[serde(default)]
    lasts_s: u64,
}

impl RevokeOrder {
    /// Reads one from JSON and has it done. The name is what was revoked. Blocks on the disk where the list is kept.
    ///
    /// # Errors
    /// What is wrong with it, or that it could not be written down.
    pub fn carry_out(json: &[u8], list: &Revocations) -> Result<Target, RevokeError> {
        let order: Self =
            serde_json::from_slice(json).map_err(|error| RevokeError::Order(error.to_string()))?;
        let (target, lasts) = order.read().map_err(RevokeError::Order)?;
        list.revoke(target.clone(), RevokeReason::Administrative, lasts);
        list.keep().map_err(RevokeError::NotKept)?;
        Ok(target)
    }

    fn read(self) -> Result<(Target, Duration), String> {
        let order = self;
        let named: Vec<_> = [
            order.user.map(Target::User),
            order.client_id.map(Target::ClientId),
            order.token.map(Target::Token),
            order.certificate.map(|print| Target::Certificate(print.to_ascii_lowercase().into())),
        ]
        .into_iter()
        .flatten()
        .collect();
        let [target] = &named[..] else {
            return Err("name one of user, client_id, token, certificate".to_owned());
        };
        if target.name().is_empty() || target.name().len() > NAME_BYTES_MAX {
            return Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        if order.lasts_s > REVOKED_S_MAX {
            return Err(format!("lasts_s is at most {REVOKED_S_MAX}"));
        }
        Ok((target.clone(), Duration::from_secs(order.lasts_s)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer<'a>(user: &'a str, client_id: &'a str) -> Bearer<'a> {
        Bearer { user, client_id, token_id: Some("t"), certificate: Some("00ff") }
    }

    #[test]
    fn an_entry_is_about_those_that_it_names_and_came_before() {
        let list = Revocations::default();
        let before = Instant::now();
        list.revoke(Target::User("alice".into()), RevokeReason::CredentialsChanged, Duration::ZERO);
        let after = Instant::now() + Duration::from_millis(1);
        assert_eq!(list.verdict(&bearer("alice", "a"), before), Some(RevokeReason::CredentialsChanged));
        assert_eq!(list.verdict(&bearer("alice", "a"), after), None, "she may come again");
        assert_eq!(list.verdict(&bearer("bob", "alice"), before), None);
        assert_eq!(list.verdict(&bearer("", "a"), before), None);
    }

    #[test]
    fn nobody_new_comes_while_an_entry_lasts() {
        for target in ["user", "client_id", "token", "certificate"] {
            let list = Revocations::default();
            let name = if target == "certificate" { "00FF" } else { "t" };
            let order = format!(r#"{{"{target}":"{name}","lasts_s":60}}"#);
            RevokeOrder::carry_out(order.as_bytes(), &list).unwrap();
            let later = Instant::now() + Duration::from_secs(1);
            assert_eq!(
                list.verdict(&bearer("t", "t"), later),
                Some(RevokeReason::Administrative),
                "{target}"
            );
            let other = Bearer { user: "u", client_id: "c", token_id: None, certificate: None };
            assert_eq!(list.verdict(&other, later), None);
        }
    }

    #[test]
    fn orders_are_refused_that_name_nothing_or_two() {
        let list = Revocations::default();
        for wrong in [
            "",
            "{}",
            r#"{"user":"a","client_id":"b"}"#,
            r#"{"user":""}"#,
            r#"{"usr":"a"}"#,
            r#"{"user":"a","lasts_s":-1}"#,
            r#"{"user":"a","lasts_s":31536001}"#,
        ] {
            assert!(RevokeOrder::carry_out(wrong.as_bytes(), &list).is_err(), "{wrong}");
        }
        assert_eq!(list.since(0).newest, 0);
    }

    #[test]
    fn what_an_operator_revoked_for_longer_is_in_force_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked");
        let start = || {
            let list = Revocations::default();
            list.keep_in(&path).unwrap();
            list
        };
        let list = start();
        for order in [
            r#"{"user":"alice","lasts_s":60}"#,
            r#"{"client_id":"brief"}"#,
            r#"{"token":"t1","lasts_s":3600}"#,
            r#"{"user":"alice","lasts_s":1}"#,
        ] {
            RevokeOrder::carry_out(order.as_bytes(), &list).unwrap();
        }
        list.revoke(Target::User("bob".into()), RevokeReason::CredentialsChanged, Duration::from_secs(60));
        for _ in 0..2 {
            let list = start();
            let now = Instant::now() + Duration::from_millis(1);
            let why = |user, client_id| {
                let bearer = Bearer { user, client_id, token_id: None, certificate: None };
                list.verdict(&bearer, now)
            };
            assert_eq!(why("alice", "a"), Some(RevokeReason::Administrative));
            assert_eq!((why("u", "brief"), why("bob", "b")), (None, None));
            let feed = Feed::new(&list, 0);
            assert_eq!(feed.revocations.len(), 2);
            let longest = feed.revocations.iter().map(|entry| entry.lasts_ms).max().unwrap();
            assert!((3_590_000..=3_601_000).contains(&longest), "{longest} ms");
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"user\":\"x\"}}\n")).unwrap();
        let problem = Revocations::default().keep_in(&path).unwrap_err();
        assert!(problem.contains("revoked\" line 3: missing field"), "{problem}");
        // What has ended is left out, and forgotten with the next order.
        std::fs::write(&path, "{\"user\":\"alice\",\"at_s\":1,\"until_s\":61}\n").unwrap();
        let list = start();
        assert_eq!((list.since(0).newest, std::fs::read_to_string(&path).unwrap()), (0, String::new()));
        // Whoever wrote it, nothing is revoked for longer than it may be.
        std::fs::write(&path, format!("{{\"user\":\"alice\",\"at_s\":0,\"until_s\":{}}}\n", u64::MAX))
            .unwrap();
        let lasts_ms = Feed::new(&start(), 0).revocations[0].lasts_ms;
        assert!(lasts_ms <= REVOKED_S_MAX * 1_000, "{lasts_ms} ms");
        // A clock that was set back makes nothing last longer.
        let now_s = LastingEntry::new(Target::User("x".into()), Duration::ZERO, Duration::ZERO);
        let text = serde_json::to_string(&now_s).unwrap().replace("at_s\":", "at_s\":9");
        let ahead: LastingEntry = serde_json::from_str(&text.replace("until_s\":", "until_s\":9")).unwrap();
        assert!(ahead.times().is_none_or(|(age, lasts)| age.is_zero() && lasts <= Duration::from_secs(1)));

        std::fs::remove_dir_all(dir.path()).unwrap();
        let order = br#"{"user":"carl","lasts_s":60}"#;
        assert!(matches!(RevokeOrder::carry_out(order, &list), Err(RevokeError::NotKept(_))));
        assert!(list.verdict(&bearer("carl", "c"), Instant::now()).is_some(), "it is in force all the same");
    }

    #[tokio::test]
    async fn who_follows_is_told_each_entry_once_and_its_age() {
        let (list, follower) = (Revocations::default(), Revocations::default());
        let waiting = tokio::spawn({
            let list = list.clone();
            async move { list.changed(0).await }
        });
        list.revoke(Target::ClientId("a".into()), RevokeReason::Administrative, Duration::from_secs(60));
        waiting.await.unwrap();
        let before = Instant::now();
        let json = serde_json::to_string(&Feed::new(&list, 0)).unwrap();
        let feed: Feed = serde_json::from_str(&json).unwrap();
        assert!(json.contains(r#""client_id":"a""#), "{json}");
        assert_eq!((feed.newest, feed.revocations.len(), feed.has_missed), (1, 1, false));
        for entry in feed.revocations {
            entry.add_to(&follower);
        }
        assert!(follower.verdict(&bearer("x", "a"), before).is_some());
        let feed = Feed::new(&list, 1);
        assert!(feed.revocations.is_empty() && feed.newest == 1);
    }

    #[tokio::test]
    async fn other_rules_are_told_without_an_entry() {
        let list = Revocations::default();
        list.name_rules(&"one".into());
        list.name_rules(&"one".into());
        assert_eq!((list.since(0).newest, list.since(0).rules_changed), (0, 0));
        list.revoke(Target::ClientId("a".into()), RevokeReason::Administrative, Duration::ZERO);
        list.name_rules(&"two".into());
        list.changed(1).await;
        let told = list.since(0);
        assert_eq!((told.newest, told.rules_changed, told.entries.len()), (2, 2, 1));
        assert!(list.since(2).entries.is_empty() && list.since(2).newest == 2);
        assert_eq!(Feed::new(&list, 2).rules, "two");
        let older: Feed =
            serde_json::from_str(r#"{"replica":"r","newest":0,"has_missed":false,"revocations":[]}"#)
                .unwrap();
        assert_eq!(older.rules, "", "a service need not say");
    }

    #[test]
    fn the_list_has_a_bound_and_says_what_it_has_lost() {
        let list = Revocations::default();
        for n in 0..=ENTRIES_MAX {
            let target = Target::ClientId(n.to_string().into());
            list.revoke(target, RevokeReason::Administrative, Duration::from_secs(60));
        }
        assert_eq!(list.0.list.lock().entries.len(), ENTRIES_MAX);
        assert_eq!(list.0.list.lock().by_name.len(), ENTRIES_MAX);
        let told = list.since(0);
        assert_eq!((told.entries.len(), told.newest), (TOLD_MAX, told.entries[TOLD_MAX - 1].id));
        // Another one makes room first.
        list.revoke(Target::ClientId("x".into()), RevokeReason::Administrative, Duration::ZERO);
        assert!(list.since(1).has_missed);
    }
}
