//! Authentication in the same process: certificate, password file, anonymous, in that order.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use link::Passport;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use crate::authorization::{Authorization, Identity};
use crate::config::{Anonymous, AuthConfig, AuthorizationConfig, CertificateIdentity};
use crate::hashing::{Hashing, Job, Verdict};
use crate::metrics::Metrics;
use crate::password_file::argon2;
use crate::recent::{Fingerprint, Recent};
use crate::scram;
use crate::slowdown::{SlowDown, Suspect};
use crate::users::{Change, Users};
use crate::{AuthError, Authenticator, Decision, DenyReason, Request, ScramExchange};

/// Names of removed users that one line of the log shows.
const NAMES_LOGGED_MAX: usize = 50;

/// The [`Authenticator`] of a single process. Clones share everything.
#[derive(Clone)]
pub struct Local {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: AuthConfig,
    authorization: Authorization,
    pub(crate) users: Option<Users>,
    hashing: Hashing,
    recent: Arc<Recent>,
    pub(crate) slow_down: Arc<SlowDown>,
    pub(crate) metrics: Metrics,
    /// Verified against when a user is unknown and the file has no record to imitate.
    dummy: Arc<str>,
    /// Keys what unknown users are shown if the file has no key of its own.
    pub(crate) decoy_key: [u8; 32],
}

impl Local {
    /// Reads the password file, compiles the rules and starts the hashing threads.
    ///
    /// # Errors
    /// The file or a rule is not as documented; the text is one line that names it.
    pub fn start(
        config: &AuthConfig,
        authorization: &AuthorizationConfig,
        registry: &mut Registry,
    ) -> Result<Self, AuthError> {
        config.check()?;
        let users = config.password_file.as_deref().map(Users::open).transpose()?;
        if users.as_ref().is_some_and(|users| users.current().len() == 0) {
            tracing::warn!(path = ?config.password_file, "the password file has no user");
        }
        let metrics = Metrics::register(registry);
        let interval = Duration::from_secs(config.wrong_password_interval_s.into());
        let slow_down = SlowDown::new(config.wrong_passwords_max, interval, config.slowed_down_max);
        let threads = if users.is_some() { config.hash_threads_in_force() } else { 0 };
        let inner = Inner {
            authorization: Authorization::new(authorization, config.passport_lifetime_s)?,
            users,
            hashing: Hashing::start(threads, config.hash_queue_max)?,
            recent: Arc::new(Recent::new(Duration::from_secs(config.recent_ttl_s), config.recent_max)),
            slow_down: Arc::new(slow_down),
            metrics,
            dummy: dummy_record(),
            decoy_key: rand::random(),
            config: config.clone(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Checks `config` and `authorization` as [`Local::start`] would, and starts nothing.
    ///
    /// # Errors
    /// As [`Local::start`].
    pub fn check(config: &AuthConfig, authorization: &AuthorizationConfig) -> Result<(), AuthError> {
        config.check()?;
        config.password_file.as_deref().map(Users::open).transpose()?;
        Authorization::new(authorization, config.passport_lifetime_s)?;
        Ok(())
    }

    /// Has the password file read again though it looks the same, when [`Local::look`] finds it settled.
    pub fn ask(&self) {
        if let Some(users) = &self.inner.users {
            users.ask();
        }
    }

    /// Looks whether the password file has changed and settled, and takes it then; what is wrong with it leaves the users of
    /// before in force. Either is logged. To be called every [`files::LOOK_INTERVAL`]; blocks on the disk.
    pub fn look(&self, now: Instant) {
        let Some(users) = &self.inner.users else { return };
        match users.look(now) {
            Ok(None) => {}
            Ok(Some(change)) => log_change(&change),
            // Nothing is wrong for those that there are, but somebody has meant something else.
            Err(error @ AuthError::Nobody { .. }) => tracing::warn!(%error, "password file not taken"),
            Err(error) => tracing::error!(%error, "password file not taken, the users of before stay"),
        }
    }

    /// What the rules allow now to a client that comes as `subject` (empty: without credentials), whether it still could: for
    /// what it left behind. `None` if they let nobody come so.
    pub fn passport_of(&self, subject: &str, client_id: &str) -> Option<Arc<Passport>> {
        let identity = if subject.is_empty() { Identity::Anonymous } else { Identity::User(subject.into()) };
        self.inner.authorization.passport(&identity, &client_id.into(), now_s()).ok()
    }

    /// Passwords that wait to be hashed.
    pub fn queued(&self) -> usize {
        self.inner.hashing.queued()
    }
}

impl Authenticator for Local {
    type Exchange = ScramExchange;

    async fn authenticate(&self, request: Request) -> Decision {
        let decision = self.inner.decide(&request).await;
        self.inner.metrics.count(&decision);
        decision
    }

    fn begin(&self, method: &str, request: Request) -> Option<ScramExchange> {
        // v5 section 4.12: the method is compared as it stands.
        let offered = self.inner.config.scram && self.inner.users.is_some() && method == scram::METHOD;
        if !offered {
            self.inner.metrics.count_deny(DenyReason::BadMethod);
            return None;
        }
        Some(ScramExchange::new(self.inner.clone(), request))
    }
}

impl Inner {
    async fn decide(&self, request: &Request) -> Decision {
        if let Some(subject) = self.certificate_subject(request) {
            return self.allow(&Identity::User(subject), request);
        }
        match (&request.username, &self.users) {
            (None, _) if request.password.is_none() => self.decide_anonymous(request),
            // Without a source nobody can be told apart, so a name is no more than none.
            (_, None) if !self.config.has_source() => self.decide_anonymous(request),
            (Some(name), Some(users)) => match &request.password {
                Some(password) => self.decide_by_password(users, name, password, request).await,
                None => Decision::Deny(DenyReason::BadCredentials),
            },
            _ => Decision::Deny(DenyReason::BadCredentials),
        }
    }

    fn certificate_subject(&self, request: &Request) -> Option<Arc<str>> {
        if self.config.certificate == CertificateIdentity::Off {
            return None;
        }
        let subject = &request.certificate.as_ref()?.subject;
        (!subject.is_empty()).then(|| subject.clone())
    }

    fn decide_anonymous(&self, request: &Request) -> Decision {
        let allowed = match self.config.anonymous_in_force() {
            Anonymous::Never => false,
            Anonymous::Loopback => request.is_local,
            Anonymous::Always => true,
        };
        if allowed {
            self.allow(&Identity::Anonymous, request)
        } else {
            Decision::Deny(DenyReason::NotAuthorized)
        }
    }

    async fn decide_by_password(
        &self,
        users: &Users,
        name: &Arc<str>,
        password: &Bytes,
        request: &Request,
    ) -> Decision {
        let file = users.current();
        let known = file.user(name).and_then(|user| user.argon2.clone());
        let exists = known.is_some();
        // An unknown user costs the same time as a wrong password.
        let decoy = || file.decoy(&self.decoy_key, name).cloned();
        let record = known.or_else(decoy).unwrap_or_else(|| self.dummy.clone());
        let fingerprint = self.recent.fingerprint(name, &record, password);
        if exists && self.recent.knows(fingerprint, Instant::now()) {
            self.metrics.recent_hits.inc();
            return self.allow(&Identity::User(name.clone()), request);
        }
        let verdict = if let Some(verdict) = self.hashing.join(fingerprint) {
            verdict
        } else {
            let suspect = self.slow_down.suspect(name, request.peer.ip());
            if !self.slow_down.admit(suspect, Instant::now()) {
                return Decision::Deny(DenyReason::SlowedDown);
            }
            let job = Job {
                record,
                password: password.clone(),
                source: suspect.source(),
                settle: self.settle(fingerprint, suspect, exists),
            };
            self.hashing.submit(fingerprint, job)
        };
        match self.wait(verdict).await {
            Verdict::Right if exists => self.allow(&Identity::User(name.clone()), request),
            Verdict::Right | Verdict::Wrong => Decision::Deny(DenyReason::BadCredentials),
            Verdict::Dropped => Decision::Deny(DenyReason::Unavailable),
        }
    }

    /// What a verdict changes, whoever still waits for it.
    fn settle(
        &self,
        fingerprint: Fingerprint,
        suspect: Suspect,
        exists: bool,
    ) -> Box<dyn FnOnce(Verdict) + Send + 'static> {
        let (recent, slow_down, hashed) =
            (self.recent.clone(), self.slow_down.clone(), self.metrics.hashed.clone());
        Box::new(move |verdict| {
            if verdict != Verdict::Dropped {
                hashed.inc();
            }
            match verdict {
                Verdict::Right if exists => {
                    recent.remember(fingerprint, Instant::now());
                    slow_down.refund(suspect, Instant::now());
                }
                Verdict::Dropped => slow_down.refund(suspect, Instant::now()),
                Verdict::Right | Verdict::Wrong => slow_down.confirm(suspect, Instant::now()),
            }
        })
    }

    async fn wait(&self, verdict: oneshot::Receiver<Verdict>) -> Verdict {
        let timeout = Duration::from_millis(self.config.hash_timeout_ms);
        match tokio::time::timeout(timeout, verdict).await {
            Ok(Ok(verdict)) => verdict,
            // Shed, or not in time.
            Ok(Err(_)) | Err(_) => Verdict::Dropped,
        }
    }

    /// Makes the passport.
    pub(crate) fn allow(&self, identity: &Identity, request: &Request) -> Decision {
        match self.authorization.passport(identity, &request.client_id, now_s()) {
            Ok(passport) => Decision::Allow(passport),
            Err(reason) => Decision::Deny(reason),
        }
    }
}

fn log_change(change: &Change) {
    let Change { users, added, changed, removed } = change;
    tracing::info!(users, added, changed, removed = removed.len(), "password file read");
    if !removed.is_empty() {
        let names: Vec<&str> = removed.iter().take(NAMES_LOGGED_MAX).map(|name| &**name).collect();
        let more = removed.len() - names.len();
        tracing::info!(users = names.join(" "), more, "users were removed");
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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

#[cfg(test)]
mod tests;
