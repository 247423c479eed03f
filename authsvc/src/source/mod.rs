//! Sources of identities: each is asked in the configured order and says who a client is, that it may not come, or that
//! it is none of its own. What a client may do follows in `authorization`.

mod certificate;
pub(crate) mod password_file;

use std::collections::BTreeMap;
use std::sync::Arc;

use certificate::CertificateSource;
use link::Rule;
use password_file::PasswordSource;
use serde::{Deserialize, Serialize};

use crate::config::AuthConfig;
use crate::metrics::Metrics;
use crate::slowdown::SlowDown;
use crate::{AuthError, DenyReason, Request};

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
    /// Rules that come before the configured ones.
    pub(crate) rules: Vec<Rule>,
    /// May do everything.
    pub(crate) is_superuser: bool,
    /// Until when, seconds since the Unix epoch: the passport ends no later.
    pub(crate) expires_at_s: Option<u64>,
}

impl Grant {
    /// One that says no more than who it is.
    pub(crate) fn of(subject: Arc<str>) -> Self {
        Self {
            subject,
            attributes: BTreeMap::new(),
            rules: Vec::new(),
            is_superuser: false,
            expires_at_s: None,
        }
    }
}

/// A source by the name of its key in `[auth]`; `auth.sources` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceName {
    /// The client certificate of the TLS connection.
    Certificate,
    /// The password file.
    PasswordFile,
}

impl SourceName {
    /// All of them, in the order in which they are asked by default.
    pub(crate) const ALL: [Self; 2] = [Self::Certificate, Self::PasswordFile];
}

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
}

impl Source {
    fn start(name: SourceName, config: &AuthConfig, shared: &Shared) -> Result<Self, AuthError> {
        Ok(match name {
            SourceName::Certificate => Self::Certificate(CertificateSource),
            SourceName::PasswordFile => Self::PasswordFile(Box::new(PasswordSource::start(config, shared)?)),
        })
    }

    async fn decide(&self, request: &Request) -> Verdict {
        match self {
            Self::Certificate(source) => source.decide(request),
            Self::PasswordFile(source) => source.decide(request).await,
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
            Source::Certificate(_) => None,
        })
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
