//! Authentication in the same process: the sources in their order, then the policy for clients without credentials.

use std::sync::Arc;
use std::time::{Duration, Instant};

use link::Passport;
use prometheus_client::registry::Registry;

use crate::action::{Action, ActionRuling};
use crate::authorization::{Authorization, AuthorizationConfig, Identity};
use crate::clock::now_s;
use crate::config::{Anonymous, AuthConfig};
use crate::metrics::Metrics;
use crate::revocation::{Revocations, RevokeReason, Target};
use crate::scram;
use crate::slowdown::SlowDown;
use crate::source::jwt::JwtSource;
use crate::source::password_file::PasswordSource;
use crate::source::{Chain, SourceContext};
use crate::verdict::{Grant, Verdict};
use crate::{AuthError, Authenticator, Decision, DenyReason, LocalExchange, Request};

/// The [`Authenticator`] of a single process. Clones share everything.
#[derive(Clone)]
pub struct Local {
    pub(crate) inner: Arc<Decider>,
}

pub(crate) struct Decider {
    config: AuthConfig,
    authorization: Authorization,
    chain: Chain,
    pub(crate) slow_down: Arc<SlowDown>,
    pub(crate) metrics: Metrics,
    revocations: Revocations,
}

/// An Authentication Method that is offered.
enum MethodKind {
    /// SCRAM-SHA-256.
    Scram,
    /// A token as it stands.
    Token,
}

impl Local {
    /// Starts the sources and compiles the rules.
    ///
    /// # Errors
    /// A file, a setting or a rule is not as documented; the text is one line that names it.
    pub fn start(
        config: &AuthConfig,
        authorization: &AuthorizationConfig,
        registry: &mut Registry,
    ) -> Result<Self, AuthError> {
        config.check()?;
        let interval = Duration::from_secs(config.wrong_password_interval_s.into());
        let slow_down = SlowDown::new(config.wrong_passwords_max, interval, config.slowed_down_max);
        let context = SourceContext { metrics: Metrics::register(registry), slow_down: Arc::new(slow_down) };
        let inner = Decider {
            authorization: Authorization::new(authorization, config)?,
            chain: Chain::start(config, &context)?,
            slow_down: context.slow_down,
            metrics: context.metrics,
            revocations: Revocations::default(),
            config: config.clone(),
        };
        if let Some(path) = &config.revocations_file {
            let wrong = |problem| AuthError::File { section: "auth", key: "revocations_file", problem };
            inner.revocations.keep_in(path).map_err(wrong)?;
        }
        inner.revocations.name_rules(&inner.authorization.name());
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Checks `config` and `authorization` as [`Local::start`] would, and starts nothing.
    ///
    /// # Errors
    /// As [`Local::start`].
    pub fn check(config: &AuthConfig, authorization: &AuthorizationConfig) -> Result<(), AuthError> {
        config.check()?;
        Chain::check(config)?;
        Authorization::new(authorization, config)?;
        Ok(())
    }

    /// Has the files of sources, and the ACL file, read again though they look the same, when [`Local::look`] finds them settled.
    pub fn ask(&self) {
        self.inner.chain.ask();
        self.inner.authorization.ask();
    }

    /// Looks whether files of sources, or the ACL file, have changed and settled, and takes them then; what is wrong with one
    /// leaves in force what was. Either is logged. To be called every [`files::LOOK_INTERVAL`]; blocks on the disk.
    pub fn look(&self, now: Instant) {
        // Whoever is there by what is no longer so has to show who it is again.
        for user in self.inner.chain.look(now) {
            let target = Target::User(user);
            self.inner.revocations.revoke(target, RevokeReason::CredentialsChanged, Duration::ZERO);
        }
        self.inner.authorization.look(now);
        self.inner.revocations.name_rules(&self.inner.authorization.name());
    }

    /// Who has to go.
    pub fn revocations(&self) -> &Revocations {
        &self.inner.revocations
    }

    /// An exchange that goes on from what [`crate::Exchange::suspend`] gave, in this process or another.
    pub(crate) fn resume(&self, method: &str, request: Request, state: &[u8]) -> Option<LocalExchange> {
        let exchange = match self.inner.kind_of(method) {
            Some(MethodKind::Scram) => LocalExchange::resume_scram(self.inner.clone(), request, state),
            Some(MethodKind::Token) => LocalExchange::resume_token(self.inner.clone(), request, state),
            None => None,
        };
        if exchange.is_none() {
            self.inner.metrics.count_deny(DenyReason::BadMethod);
        }
        exchange
    }

    /// What the rules allow now to a client that comes as `subject` (empty: without credentials), whether it still could: for
    /// what it left behind. `None` if they let nobody come so. Not the whole truth unless
    /// [`AuthConfig::rules_follow_from_names`]. Where rules go by groups or attributes, which only a source tells of a client that is
    /// there, all is allowed: what it left behind passed its last passport.
    pub fn passport_of(&self, subject: &str, client_id: &str) -> Option<Arc<Passport>> {
        if !subject.is_empty() && self.inner.authorization.asks_sources() {
            return Some(Arc::new(Passport::unrestricted(subject.into(), client_id.into())));
        }
        let identity =
            if subject.is_empty() { Identity::Anonymous } else { Identity::User(Grant::of(subject.into())) };
        self.inner.authorization.passport(&identity, &client_id.into(), now_s()).ok()
    }

    /// What the source says of an action that rules leave to it. Ends within a time that its settings bound. Cancel safe.
    pub async fn authorize(&self, action: &Action) -> ActionRuling {
        match self.inner.chain.http() {
            Some(source) => source.rule(action).await,
            None => {
                tracing::debug!(client_id = %action.client_id, "asked about an action, and no source decides about those");
                ActionRuling::UNAVAILABLE
            }
        }
    }

    /// Passwords that wait to be hashed.
    pub fn queued(&self) -> usize {
        self.inner.password_file().map_or(0, PasswordSource::queued)
    }
}

impl Authenticator for Local {
    type Exchange = LocalExchange;

    fn rules_may_change(&self) -> bool {
        self.inner.authorization.may_change()
    }

    async fn authenticate(&self, request: Request) -> Decision {
        let asked = Instant::now();
        let decision = self.inner.decide(&request).await;
        self.inner.metrics.decision_seconds.observe(asked.elapsed().as_secs_f64());
        self.inner.metrics.count(&decision);
        decision
    }

    fn begin(&self, method: &str, request: Request) -> Option<LocalExchange> {
        let exchange = self.inner.kind_of(method).map(|kind| match kind {
            MethodKind::Scram => LocalExchange::scram(self.inner.clone(), request),
            MethodKind::Token => LocalExchange::token(self.inner.clone(), request),
        });
        if exchange.is_none() {
            self.inner.metrics.count_deny(DenyReason::BadMethod);
        }
        exchange
    }
}

impl Decider {
    /// The password file, if there is one.
    pub(crate) fn password_file(&self) -> Option<&PasswordSource> {
        self.chain.password_file()
    }

    /// Signed tokens, if they are configured.
    pub(crate) fn jwt(&self) -> Option<&JwtSource> {
        self.chain.jwt()
    }

    /// What a method is, if it is offered.
    // v5 section 4.12: compared as it stands.
    fn kind_of(&self, method: &str) -> Option<MethodKind> {
        if self.config.scram && self.password_file().is_some() && method == scram::METHOD {
            return Some(MethodKind::Scram);
        }
        self.jwt().is_some_and(|source| source.has_method(method)).then_some(MethodKind::Token)
    }

    async fn decide(&self, request: &Request) -> Decision {
        match self.chain.decide(request).await {
            Verdict::Allow(grant) => self.allow(&Identity::User(grant), request),
            Verdict::Deny(reason) => Decision::Deny(reason),
            Verdict::Ignore | Verdict::Unknown => {
                let has_credentials = request.username.is_some() || request.password.is_some();
                // Without a source nobody can be told apart, so a name is no more than none.
                if has_credentials && !self.chain.is_empty() {
                    Decision::Deny(DenyReason::BadCredentials)
                } else {
                    self.decide_anonymous(request)
                }
            }
        }
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

    /// Makes the passport.
    pub(crate) fn allow(&self, identity: &Identity, request: &Request) -> Decision {
        match self.authorization.passport(identity, &request.client_id, now_s()) {
            Ok(passport) => Decision::Allow(passport),
            Err(reason) => Decision::Deny(reason),
        }
    }
}

#[cfg(test)]
mod tests;
