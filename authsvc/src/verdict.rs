//! What sources say: who a client is, that it may not come, or nothing. What a client may do follows in
//! [`crate::authorization`].

use std::collections::BTreeMap;
use std::sync::Arc;

use link::{Attributes, Limits, Rule};
use serde::{Deserialize, Serialize};

use crate::DenyReason;

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
    /// The same, found out just now by the password that came: a wrong one, if nobody else takes it.
    Unknown,
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
