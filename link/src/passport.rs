//! The passport: what authentication decided about a client, carried with its session to any worker.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a client may do, until when, and who it is. The claims of the token that a worker verifies; in one process the
/// edge hands it over as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passport {
    /// Who it is: a user name, a certificate subject; empty for anonymous clients. `%u` in rules. It names the principal that
    /// sessions belong to, and stays the same for a connection whatever passports it gets.
    pub subject: Arc<str>,
    /// The Client Identifier that it was issued for. `%c` in rules.
    pub client_id: Arc<str>,
    /// Tried in order, the first that applies decides; when none does, the action is refused. Shared between clients
    /// with equal rules.
    pub rules: Arc<[Rule]>,
    /// When it ends, seconds since the Unix epoch; `None` for never. An expired one ends the connection with 0x87.
    pub expires_at_s: Option<u64>,
}

/// One line of what a client may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What happens when it applies.
    pub effect: Effect,
    /// What it is about.
    pub action: Action,
    /// Topic Filters, in which `%c` stands for the Client Identifier and `%u` for the subject (each only as a whole
    /// level). A SUBSCRIBE is covered when everything that its filter can match is matched by one of these.
    pub topics: Vec<Arc<str>>,
}

/// Whether a [`Rule`] permits or forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Permits.
    Allow,
    /// Forbids.
    Deny,
}

/// What a [`Rule`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// PUBLISH and Will Messages.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
    /// Both.
    All,
}

impl Passport {
    /// One that allows everything for ever.
    pub fn unrestricted(subject: Arc<str>, client_id: Arc<str>) -> Self {
        let allow =
            Rule { effect: Effect::Allow, action: Action::All, topics: vec!["#".into(), "$SYS/#".into()] };
        Self { subject, client_id, rules: [allow].into(), expires_at_s: None }
    }
}
