//! The password file as a source: users by name and password, hashed on threads of its own, guessing slowed down.
//!
//! `parsed.rs` is the file's form, `users.rs` the file in force, `hashing.rs` the threads.

mod decoy;
mod editor;
mod hashing;
mod parsed;
mod recent;
mod record;
mod users;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use editor::Editor;
use hashing::{Hashed, Hashing, Job};
pub(crate) use parsed::PasswordFile;
use recent::{PasswordFingerprint, Recent};
use record::argon2;
use users::{UserChange, Users};

use super::context::SourceContext;
use crate::config::AuthConfig;
use crate::metrics::Metrics;
use crate::slowdown::{SlowDown, Suspect};
use crate::verdict::{Grant, Verdict};
use crate::{AuthError, DenyReason, Request};

/// Names of removed users that one line of the log shows.
const NAMES_LOGGED_MAX: usize = 50;

/// The users of `auth.password_file`.
pub(crate) struct PasswordSource {
    users: Users,
    hashing: Hashing,
    recent: Arc<Recent>,
    slow_down: Arc<SlowDown>,
    metrics: Metrics,
    timeout: Duration,
    /// Verified against when a user is unknown and the file has no record to imitate.
    dummy: Arc<str>,
    /// Keys what unknown users are shown if the file has no key of its own.
    decoy_key: [u8; 32],
}

/// A user name and the password tried for it.
struct Credentials<'a> {
    name: &'a Arc<str>,
    password: &'a bytes::Bytes,
}

impl<'a> Credentials<'a> {
    fn of(request: &'a Request) -> Option<Self> {
        Some(Self { name: request.username.as_ref()?, password: request.password.as_ref()? })
    }
}

impl PasswordSource {
    /// Reads the file and starts the hashing threads.
    pub(super) fn start(config: &AuthConfig, context: &SourceContext) -> Result<Self, AuthError> {
        let users = Users::open(config.password_file.as_deref().unwrap_or(Path::new("")))?;
        if users.current().len() == 0 {
            tracing::warn!(path = ?config.password_file, "the password file has no user");
        }
        Ok(Self {
            users,
            hashing: Hashing::start(config.hash_threads_in_force(), config.hash_queue_max)?,
            recent: Arc::new(Recent::new(Duration::from_secs(config.recent_ttl_s), config.recent_max)),
            slow_down: context.slow_down.clone(),
            metrics: context.metrics.clone(),
            timeout: Duration::from_millis(config.hash_timeout_ms),
            dummy: dummy_record(),
            decoy_key: rand::random(),
        })
    }

    /// Reads `path` as [`PasswordSource::start`] would.
    pub(crate) fn check(path: &Path) -> Result<(), AuthError> {
        Users::open(path).map(drop)
    }

    /// Decides about users that are in the file. Others may be another source's.
    pub(super) async fn decide(&self, request: &Request) -> Verdict {
        let Some(credentials) = Credentials::of(request) else { return Verdict::Ignore };
        let Some(record) = self.users.current().user(credentials.name).and_then(|user| user.password.clone())
        else {
            return Verdict::Ignore;
        };
        self.verify(&credentials, record, true, request).await
    }

    /// Denies a client that no source knows: as late as a wrong password for a user of this file, and as often.
    pub(super) async fn refuse_unknown(&self, request: &Request) -> Verdict {
        let Some(credentials) = Credentials::of(request) else { return Verdict::Ignore };
        let file = self.users.current();
        let record = file.decoy(&self.decoy_key, credentials.name).unwrap_or(&self.dummy).clone();
        self.verify(&credentials, record, false, request).await
    }

    async fn verify(
        &self,
        Credentials { name, password }: &Credentials<'_>,
        record: Arc<str>,
        exists: bool,
        request: &Request,
    ) -> Verdict {
        let fingerprint = self.recent.fingerprint(name, &record, password);
        if exists && self.recent.knows(fingerprint, Instant::now()) {
            self.metrics.passwords_recent.inc();
            return Verdict::Allow(Grant::of((*name).clone()));
        }
        let outcome = if let Some(outcome) = self.hashing.join(fingerprint) {
            outcome
        } else {
            let suspect = self.slow_down.suspect(name, request.peer.ip());
            if !self.slow_down.admit(suspect, Instant::now()) {
                return Verdict::Deny(DenyReason::SlowedDown);
            }
            let job = Job {
                record,
                password: (*password).clone(),
                source: suspect.source(),
                settle: self.settle(fingerprint, suspect, exists),
            };
            self.hashing.submit(fingerprint, job)
        };
        match self.wait(outcome).await {
            Hashed::Right if exists => Verdict::Allow(Grant::of((*name).clone())),
            Hashed::Right | Hashed::Wrong => Verdict::Deny(DenyReason::BadCredentials),
            Hashed::Dropped => Verdict::Deny(DenyReason::Unavailable),
        }
    }

    /// What an outcome changes, whoever still waits for it.
    fn settle(
        &self,
        fingerprint: PasswordFingerprint,
        suspect: Suspect,
        exists: bool,
    ) -> Box<dyn FnOnce(Hashed) + Send + 'static> {
        let (recent, slow_down, hashed) =
            (self.recent.clone(), self.slow_down.clone(), self.metrics.passwords_hashed.clone());
        Box::new(move |outcome| {
            if outcome != Hashed::Dropped {
                hashed.inc();
            }
            match outcome {
                Hashed::Right if exists => {
                    recent.remember(fingerprint, Instant::now());
                    slow_down.refund(suspect, Instant::now());
                }
                Hashed::Dropped => slow_down.refund(suspect, Instant::now()),
                Hashed::Right | Hashed::Wrong => slow_down.confirm(suspect, Instant::now()),
            }
        })
    }

    async fn wait(&self, outcome: oneshot::Receiver<Hashed>) -> Hashed {
        match tokio::time::timeout(self.timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // Shed, or not in time.
            Ok(Err(_)) | Err(_) => Hashed::Dropped,
        }
    }

    /// The file in force.
    pub(crate) fn current(&self) -> Arc<PasswordFile> {
        self.users.current()
    }

    /// Keys what unknown users are shown if the file has no key of its own.
    pub(crate) fn decoy_key(&self) -> &[u8; 32] {
        &self.decoy_key
    }

    /// Passwords that wait to be hashed.
    pub(crate) fn queued(&self) -> usize {
        self.hashing.queued()
    }

    /// Has the file read again though it looks the same.
    pub(crate) fn ask(&self) {
        self.users.ask();
    }

    /// Looks whether the file has changed and settled, and takes it then; what is wrong with it leaves the users of before
    /// in force. Either is logged. Answers which users are no longer there, or have other passwords. Blocks on the disk.
    pub(crate) fn look(&self, now: Instant) -> Vec<Arc<str>> {
        match self.users.look(now) {
            Ok(None) => {}
            Ok(Some(change)) => {
                log_change(&change);
                return change.removed.into_iter().chain(change.changed).collect();
            }
            // Nothing is wrong for those that there are, but somebody has meant something else.
            Err(error @ AuthError::Nobody { .. }) => tracing::warn!(%error, "password file not taken"),
            Err(error) => tracing::error!(%error, "password file not taken, the users of before stay"),
        }
        Vec::new()
    }
}

fn log_change(change: &UserChange) {
    let UserChange { users, added, changed, removed } = change;
    tracing::info!(users, added, changed = changed.len(), removed = removed.len(), "password file read");
    if !removed.is_empty() {
        let names: Vec<&str> = removed.iter().take(NAMES_LOGGED_MAX).map(|name| &**name).collect();
        let more = removed.len() - names.len();
        tracing::info!(users = names.join(" "), more, "users were removed");
    }
}

/// A record with the parameters of new ones that no password satisfies but by guessing 32 random bytes.
fn dummy_record() -> Arc<str> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let parameters = argon2();
    let parameters = parameters.params();
    let (salt, hash): ([u8; 16], [u8; 32]) = (rand::random(), rand::random());
    format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        parameters.m_cost(),
        parameters.t_cost(),
        parameters.p_cost(),
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(hash)
    )
    .into()
}
