//! Sources of identities: each is asked in the configured order and says who a client is, that it may not come, or that
//! it is none of its own. What a client may do follows in `authorization`.

mod certificate;
mod claims;
mod context;
pub(crate) mod http;
pub(crate) mod introspection;
pub(crate) mod jwt;
pub(crate) mod ldap;
pub(crate) mod password_file;

use std::sync::Arc;
use std::time::Instant;

use certificate::CertificateSource;
pub use claims::ClaimsConfig;
pub(crate) use context::SourceContext;
use http::HttpSource;
use introspection::IntrospectionSource;
use jwt::JwtSource;
use ldap::{LdapConfig, LdapSource};
use password_file::PasswordSource;
use serde::{Deserialize, Serialize};

use crate::config::AuthConfig;
use crate::slowdown::SlowDown;
use crate::verdict::Verdict;
use crate::{AuthError, DenyReason, Request};

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

/// The order of sources is checked before they start.
fn not_configured() -> AuthError {
    let problem = "names a source that is not configured".to_owned();
    AuthError::Section { section: "auth", key: "sources", problem }
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
    fn start(name: SourceName, config: &AuthConfig, context: &SourceContext) -> Result<Self, AuthError> {
        Ok(match name {
            SourceName::Certificate => Self::Certificate(CertificateSource::new(config)),
            SourceName::PasswordFile => Self::PasswordFile(Box::new(PasswordSource::start(config, context)?)),
            SourceName::Jwt => {
                Self::Jwt(Box::new(JwtSource::start(&config.jwt.clone().unwrap_or_default(), context)?))
            }
            SourceName::Introspection => {
                let config = config.introspection.clone().unwrap_or_default();
                Self::Introspection(IntrospectionSource::start(&config, context)?)
            }
            SourceName::Http => {
                let config = config.http.as_ref().ok_or_else(not_configured)?;
                Self::Http(Box::new(HttpSource::start(config, context)?))
            }
            SourceName::Ldap => {
                let config = config.ldap.as_ref().ok_or_else(not_configured)?;
                Self::Ldap(Box::new(LdapSource::start(config, context)?))
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
    slow_down: Arc<SlowDown>,
}

impl Chain {
    /// Starts the sources that are configured.
    ///
    /// # Errors
    /// A source's file or setting is not as documented.
    pub(crate) fn start(config: &AuthConfig, context: &SourceContext) -> Result<Self, AuthError> {
        let sources = config.sources_in_force();
        let sources = sources.into_iter().map(|name| Source::start(name, config, context));
        Ok(Self { sources: sources.collect::<Result<_, _>>()?, slow_down: context.slow_down.clone() })
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
        config.http.as_ref().map(HttpSource::check).transpose()?;
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
        let mut is_guess = false;
        for source in &self.sources {
            match source.decide(request).await {
                Verdict::Ignore => {}
                Verdict::Unknown => is_guess = true,
                verdict => return verdict,
            }
        }
        // Last, so that only those pay for a hash whom nobody knows.
        let verdict = match self.password_file() {
            Some(source) => source.refuse_unknown(request).await,
            None => Verdict::Ignore,
        };
        if verdict == Verdict::Ignore && is_guess { self.charge(request) } else { verdict }
    }

    /// A password of a user whom nobody knows costs what a wrong one of a known user does, so that they look alike.
    fn charge(&self, request: &Request) -> Verdict {
        let (user, now) = (request.username.as_deref().unwrap_or_default(), Instant::now());
        let suspect = self.slow_down.suspect(user, request.peer.ip());
        if !self.slow_down.admit(suspect, now) {
            return Verdict::Deny(DenyReason::SlowedDown);
        }
        self.slow_down.confirm(suspect, now);
        Verdict::Unknown
    }
}
