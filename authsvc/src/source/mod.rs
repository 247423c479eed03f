//! Sources of identities: each is asked in the configured order and says who a client is, that it may not come, or that
//! it is none of its own. What a client may do follows in `authorization`.

mod certificate;
mod claims;
pub(crate) mod http;
pub(crate) mod introspection;
pub(crate) mod jwt;
pub(crate) mod ldap;
pub(crate) mod password_file;
mod problem;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use certificate::CertificateSource;
pub use claims::ClaimsConfig;
use http::{HttpConfig, HttpSource};
use introspection::IntrospectionSource;
use jwt::JwtSource;
use ldap::{LdapConfig, LdapSource};
use link::{Attributes, Limits, Rule};
use password_file::PasswordSource;
pub(crate) use problem::{ProblemLabel, TokenProblem};
use serde::{Deserialize, Serialize};

use crate::config::AuthConfig;
use crate::metrics::Metrics;
use crate::slowdown::SlowDown;
use crate::{AuthError, DenyReason, Request};

/// A user name that comes from outside, bytes.
const SUBJECT_BYTES_MAX: usize = 1024;

/// What a source says about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is this one.
    Allow(Grant),
    /// It may not connect; no other source is asked.
    Deny(DenyReason),
    /// Not mine: the next is asked.
    Ignore,
}

/// Whom a source let in, and what it says of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The user name: `%u`, and the principal that sessions belong to.
    pub(crate) subject: Arc<str>,
    /// What rules may name as `%{name}`; bounded in number and bytes by the source.
    pub(crate) attributes: BTreeMap<Arc<str>, Arc<str>>,
    /// What `group:NAME` in rules refers to; bounded in number by the source.
    pub(crate) groups: Vec<Arc<str>>,
    /// Rules that come before the configured ones.
    pub(crate) rules: Vec<Rule>,
    /// May do everything.
    pub(crate) is_superuser: bool,
    /// Until when, seconds since the Unix epoch: the passport ends no later.
    pub(crate) expires_at_s: Option<u64>,
    /// The identifier of the token that the client showed.
    pub(crate) token_id: Option<Arc<str>>,
    /// Rules that ask, which come after all others but the default; what no rule decides is denied then.
    pub(crate) asks: Vec<Rule>,
    /// What is told of it when it is asked about.
    pub(crate) told: Option<Arc<Attributes>>,
    /// What bounds it; comes before the configured limits.
    pub(crate) limits: Option<Box<Limits>>,
}

impl Grant {
    /// One that says no more than who it is.
    pub(crate) fn of(subject: Arc<str>) -> Self {
        Self {
            subject,
            attributes: BTreeMap::new(),
            groups: Vec::new(),
            rules: Vec::new(),
            is_superuser: false,
            expires_at_s: None,
            token_id: None,
            asks: Vec::new(),
            told: None,
            limits: None,
        }
    }
}

/// Whether a source may take this for a user name: what names nobody, or could not be written to a log or a topic, is none.
pub(crate) fn is_subject(name: &str) -> bool {
    (1..=SUBJECT_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Seconds since the Unix epoch, by this machine's clock.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A source by the name of its key in `[auth]`; `auth.sources` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceName {
    /// The client certificate of the TLS connection.
    Certificate,
    /// The password file.
    PasswordFile,
    /// Signed tokens.
    Jwt,
    /// Tokens that an authorization server is asked about.
    Introspection,
    /// An HTTP endpoint.
    Http,
    /// A directory.
    Ldap,
}

impl SourceName {
    /// All of them, in the order in which they are asked by default.
    pub(crate) const ALL: [Self; 6] =
        [Self::Certificate, Self::PasswordFile, Self::Jwt, Self::Introspection, Self::Http, Self::Ldap];
}

/// What a source that cannot decide, because what it asks is away, makes of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenAway {
    /// They are refused as "server unavailable".
    #[default]
    Refuse,
    /// The next source is asked.
    Ignore,
}

impl WhenAway {
    /// As a verdict.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::Refuse => Verdict::Deny(DenyReason::Unavailable),
            Self::Ignore => Verdict::Ignore,
        }
    }
}

/// The order of sources is checked before they start.
const NOT_CONFIGURED: AuthError =
    AuthError::Setting { key: "sources", problem: "names a source that is not configured" };

/// What is shared by sources.
pub(crate) struct Shared {
    pub(crate) metrics: Metrics,
    /// Who guesses passwords, whichever source they are for.
    pub(crate) slow_down: Arc<SlowDown>,
}

/// One source.
enum Source {
    Certificate(CertificateSource),
    PasswordFile(Box<PasswordSource>),
    Jwt(Box<JwtSource>),
    Introspection(IntrospectionSource),
    Http(Box<HttpSource>),
    Ldap(Box<LdapSource>),
}

impl Source {
    fn start(name: SourceName, config: &AuthConfig, shared: &Shared) -> Result<Self, AuthError> {
        Ok(match name {
            SourceName::Certificate => Self::Certificate(CertificateSource::new(config)),
            SourceName::PasswordFile => Self::PasswordFile(Box::new(PasswordSource::start(config, shared)?)),
            SourceName::Jwt => {
                Self::Jwt(Box::new(JwtSource::start(&config.jwt.clone().unwrap_or_default(), shared)?))
            }
            SourceName::Introspection => {
                let config = config.introspection.clone().unwrap_or_default();
                Self::Introspection(IntrospectionSource::start(&config, shared)?)
            }
            SourceName::Http => {
                let config = config.http.as_ref().ok_or(NOT_CONFIGURED)?;
                Self::Http(Box::new(HttpSource::start(config, shared)?))
            }
            SourceName::Ldap => {
                let config = config.ldap.as_ref().ok_or(NOT_CONFIGURED)?;
                Self::Ldap(Box::new(LdapSource::start(config, shared)?))
            }
        })
    }

    async fn decide(&self, request: &Request) -> Verdict {
        match self {
            Self::Certificate(source) => source.decide(request),
            Self::PasswordFile(source) => source.decide(request).await,
            Self::Jwt(source) => source.decide(request).await,
            Self::Introspection(source) => source.decide(request).await,
            Self::Http(source) => source.decide(request).await,
            Self::Ldap(source) => source.decide(request).await,
        }
    }
}

/// The sources in the order in which they are asked.
pub(crate) struct Chain {
    sources: Vec<Source>,
}

impl Chain {
    /// Starts the sources that are configured.
    ///
    /// # Errors
    /// A source's file or setting is not as documented.
    pub(crate) fn start(config: &AuthConfig, shared: &Shared) -> Result<Self, AuthError> {
        let sources = config.sources_in_force();
        let sources = sources.into_iter().map(|name| Source::start(name, config, shared));
        Ok(Self { sources: sources.collect::<Result<_, _>>()? })
    }

    /// Whether nobody can be told apart.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The password file, if it is among them.
    pub(crate) fn password_file(&self) -> Option<&PasswordSource> {
        self.sources.iter().find_map(|source| match source {
            Source::PasswordFile(source) => Some(&**source),
            _ => None,
        })
    }

    /// Signed tokens, if they are among them.
    pub(crate) fn jwt(&self) -> Option<&JwtSource> {
        self.sources.iter().find_map(|source| match source {
            Source::Jwt(source) => Some(&**source),
            _ => None,
        })
    }

    /// The HTTP endpoint, if it is among them.
    pub(crate) fn http(&self) -> Option<&HttpSource> {
        self.sources.iter().find_map(|source| match source {
            Source::Http(source) => Some(&**source),
            _ => None,
        })
    }

    /// Checks what is configured as [`Chain::start`] would, and starts nothing.
    ///
    /// # Errors
    /// As [`Chain::start`].
    pub(crate) fn check(config: &AuthConfig) -> Result<(), AuthError> {
        config.password_file.as_deref().map(PasswordSource::check).transpose()?;
        config.jwt.as_ref().map(JwtSource::check).transpose()?;
        config.introspection.as_ref().map(IntrospectionSource::check).transpose()?;
        config.http.as_ref().map(HttpConfig::check).transpose()?;
        config.ldap.as_ref().map(LdapConfig::check).transpose()?;
        Ok(())
    }

    /// Has files read again though they look the same, when [`Chain::look`] finds them settled.
    pub(crate) fn ask(&self) {
        for source in &self.sources {
            match source {
                Source::Certificate(_) | Source::Introspection(_) | Source::Http(_) | Source::Ldap(_) => {}
                Source::PasswordFile(source) => source.ask(),
                Source::Jwt(source) => source.ask(),
            }
        }
    }

    /// Looks whether files of sources have changed and settled, and takes them then. Answers which users are not known any
    /// more, or by other credentials. Blocks on the disk.
    pub(crate) fn look(&self, now: Instant) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        for source in &self.sources {
            match source {
                Source::Certificate(_) | Source::Introspection(_) | Source::Http(_) | Source::Ldap(_) => {}
                Source::PasswordFile(source) => changed.extend(source.look(now)),
                Source::Jwt(source) => source.look(now),
            }
        }
        changed
    }

    /// What the first one says that does not ignore `request`.
    pub(crate) async fn decide(&self, request: &Request) -> Verdict {
        for source in &self.sources {
            let verdict = source.decide(request).await;
            if verdict != Verdict::Ignore {
                return verdict;
            }
        }
        // Last, so that only those pay for a hash whom nobody knows.
        match self.password_file() {
            Some(source) => source.refuse_unknown(request).await,
            None => Verdict::Ignore,
        }
    }
}
