//! The passport: what authentication decided about a client, carried with its session to any worker.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Limits, QosSet};

/// Names and values that a client's source says of it.
pub type Attributes = BTreeMap<Arc<str>, Arc<str>>;

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
    /// The identifier of the token (`jti`) by which the client showed who it is, if it did by one: so that the token can be
    /// revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<Arc<str>>,
    /// What is told of the client beside its name when an action is asked about ([`Effect::Ask`]). Bounded in number and bytes by
    /// the source that says it; `None` for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Arc<Attributes>>,
    /// What it is bounded by beyond what everybody is. Shared between clients with equal limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Arc<Limits>>,
    /// The signed form that it came in, for workers, which verify it; `None` where it was made in this process.
    #[serde(skip)]
    pub token: Option<PassportToken>,
}

/// The signed form of a [`Passport`]. Who has it is let in as its subject, so that its `Debug` shows nothing of
/// it.
#[derive(Clone, PartialEq, Eq)]
pub struct PassportToken(pub Bytes);

impl fmt::Debug for PassportToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassportToken")
    }
}

/// One line of what a client may do. What a rule does not say is left out of its token, so that workers of earlier versions
/// read those that they understand, and refuse the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What happens when it applies.
    pub effect: Effect,
    /// What it is about.
    pub action: Action,
    /// Topic Filters, in which `%c` stands for the Client Identifier and `%u` for the subject (each only as a whole
    /// level). A SUBSCRIBE is covered when everything that its filter can match is matched by one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<Arc<str>>,
    /// Topic Names and Topic Filters that are meant as they stand: `a/+` is the subscription to `a/+`, and not one to `a/b`.
    /// `%c` and `%u` as above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub literal: Vec<Arc<str>>,
    /// With which QoS a message is published, or a subscription granted.
    #[serde(default, skip_serializing_if = "QosSet::is_all")]
    pub qos: QosSet,
    /// Whether the message is to be retained; `None` if that does not matter. Not looked at for subscriptions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
}

impl Rule {
    /// One about these Topic Filters, whatever QoS and RETAIN are.
    pub fn new(effect: Effect, action: Action, topics: Vec<Arc<str>>) -> Self {
        Self { effect, action, topics, literal: Vec::new(), qos: QosSet::ALL, retain: None }
    }

    /// Whether it applies to every QoS, retained or not.
    pub fn is_unconditional(&self) -> bool {
        self.qos.is_all() && self.retain.is_none()
    }
}

/// Whether a [`Rule`] permits, forbids, or leaves it to who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Permits.
    Allow,
    /// Forbids.
    Deny,
    /// Neither: a source is asked about the single action. A rule that asks applies to a SUBSCRIBE as one that permits does.
    Ask,
}

/// What a [`Rule`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// PUBLISH and Will Messages.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
    /// PUBLISH, Will Messages and SUBSCRIBE.
    All,
    /// Messages one by one, as they are delivered: a subscription may match more than the client may have.
    Receive,
}

impl Passport {
    /// One that allows what `rules` say, for ever.
    pub fn new(subject: Arc<str>, client_id: Arc<str>, rules: Arc<[Rule]>) -> Self {
        Self {
            subject,
            client_id,
            rules,
            expires_at_s: None,
            token_id: None,
            attributes: None,
            limits: None,
            token: None,
        }
    }

    /// One that allows everything for ever.
    pub fn unrestricted(subject: Arc<str>, client_id: Arc<str>) -> Self {
        let everything = vec!["#".into(), "$SYS/#".into()];
        Self::new(subject, client_id, [Rule::new(Effect::Allow, Action::All, everything)].into())
    }
}
