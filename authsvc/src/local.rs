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
use crate::users::Users;
use crate::{AuthError, Authenticator, Decision, DenyReason, Request, ScramExchange};

/// How often the password file is looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

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
    /// Keys fake salts if the file has no key of its own.
    pub(crate) fake_salt_key: [u8; 32],
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
            fake_salt_key: rand::random(),
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

    /// Reads the password file again, whether it looks changed or not. What is wrong with it leaves the users of before
    /// in force. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be read or is not as documented.
    pub fn reload(&self) -> Result<(), AuthError> {
        if let Some(users) = &self.inner.users {
            let count = users.reload()?;
            tracing::info!(users = count, "password file read");
        }
        Ok(())
    }

    /// Reads the password file again whenever it changes, until dropped.
    pub async fn watch(self) {
        if self.inner.users.is_none() {
            return;
        }
        let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let this = self.clone();
            let reloaded = tokio::task::spawn_blocking(move || {
                this.inner.users.as_ref().map_or(Ok(None), Users::reload_if_changed)
            });
            match reloaded.await {
                Ok(Ok(Some(users))) => tracing::info!(users, "password file has changed and was read"),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "password file not taken, the users of before stay");
                }
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
    }

    /// The passport that a client would get now if it came as `subject` (empty: without credentials): for what it left
    /// behind. `None` if nobody can come so.
    pub fn passport_of(&self, subject: &str, client_id: &str) -> Option<Arc<Passport>> {
        let inner = &self.inner;
        let identity = if subject.is_empty() {
            if inner.config.anonymous_in_force() == Anonymous::Never {
                return None;
            }
            Identity::Anonymous
        } else {
            if !inner.may_be_known(subject) {
                return None;
            }
            Identity::User(subject.into())
        };
        inner.authorization.passport(&identity, &client_id.into(), now_s()).ok()
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

    /// Whether a client can show that it is this user. Who has a certificate is not written down anywhere.
    fn may_be_known(&self, user: &str) -> bool {
        let by_certificate = self.config.certificate != CertificateIdentity::Off;
        by_certificate || self.users.as_ref().is_none_or(|users| users.current().user(user).is_some())
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
            Anonymous::Loopback => request.peer.ip().to_canonical().is_loopback(),
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
        let record = known.or_else(|| file.dummy().cloned()).unwrap_or_else(|| self.dummy.clone());
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
            let job =
                Job { record, password: password.clone(), settle: self.settle(fingerprint, suspect, exists) };
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
                    slow_down.refund(suspect);
                }
                Verdict::Dropped => slow_down.refund(suspect),
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
