//! Single actions of clients that are connected, for rules that ask ([`link::Effect::Ask`]): what is asked and what is answered,
//! whether that is decided in the same process or behind HTTP.

use std::sync::Arc;
use std::time::Duration;

use link::Attributes;
use mqtt::QoS;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a client wants to do. The JSON of `POST /v1/authorize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Its Client Identifier.
    pub client_id: Arc<str>,
    /// Who it is, as its passport says; empty for nobody in particular.
    #[serde(default = "nobody")]
    pub subject: Arc<str>,
    /// What its passport says of it besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Arc<Attributes>>,
    /// What it is.
    pub action: ActionName,
    /// The Topic Name, or the Topic Filter without a Share Name.
    pub topic: Arc<str>,
    /// Of the message, or the one that the subscription asks for.
    #[serde(serialize_with = "write_qos", deserialize_with = "read_qos")]
    pub qos: QoS,
    /// The message is to be retained.
    #[serde(default)]
    pub retain: bool,
}

/// Which action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionName {
    /// PUBLISH, or a Will Message.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionVerdict {
    /// Allowed; a subscription with no more than this QoS.
    Allow(QoS),
    /// Forbidden.
    Deny,
    /// Whoever was asked has no say in it.
    Ignore,
    /// There is no answer.
    Unavailable,
}

/// An [`ActionVerdict`] and for how long it may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionRuling {
    /// What was decided.
    pub verdict: ActionVerdict,
    /// For how long that holds for the same action of the same client; zero for this once.
    pub lifetime: Duration,
}

impl ActionRuling {
    /// No answer.
    pub const UNAVAILABLE: Self = Self { verdict: ActionVerdict::Unavailable, lifetime: Duration::ZERO };
}

fn nobody() -> Arc<str> {
    "".into()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn write_qos<S: Serializer>(qos: &QoS, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(qos.as_u8())
}

fn read_qos<'de, D: Deserializer<'de>>(deserializer: D) -> Result<QoS, D::Error> {
    let level = u8::deserialize(deserializer)?;
    QoS::try_from(level).map_err(|_| serde::de::Error::custom("qos is none of 0, 1 and 2"))
}

/// How a ruling is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WrittenRuling {
    result: ResultName,
    /// The highest QoS of a subscription that is allowed; without it, the one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    /// Seconds for which it may be remembered.
    #[serde(default, skip_serializing_if = "is_zero")]
    max_age: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ResultName {
    Allow,
    Deny,
    Ignore,
    Unavailable,
    /// One that is not known allows nothing.
    #[serde(other)]
    Other,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(seconds: &u64) -> bool {
    *seconds == 0
}

impl From<ActionRuling> for WrittenRuling {
    fn from(ruling: ActionRuling) -> Self {
        let (result, qos) = match ruling.verdict {
            ActionVerdict::Allow(QoS::ExactlyOnce) => (ResultName::Allow, None),
            ActionVerdict::Allow(qos) => (ResultName::Allow, Some(qos.as_u8())),
            ActionVerdict::Deny => (ResultName::Deny, None),
            ActionVerdict::Ignore => (ResultName::Ignore, None),
            ActionVerdict::Unavailable => (ResultName::Unavailable, None),
        };
        Self { result, qos, max_age: ruling.lifetime.as_secs() }
    }
}

impl From<WrittenRuling> for ActionRuling {
    fn from(written: WrittenRuling) -> Self {
        let verdict = match written.result {
            ResultName::Allow => match written.qos.map(QoS::try_from) {
                None => ActionVerdict::Allow(QoS::ExactlyOnce),
                Some(Ok(qos)) => ActionVerdict::Allow(qos),
                Some(Err(_)) => ActionVerdict::Unavailable,
            },
            ResultName::Deny | ResultName::Other => ActionVerdict::Deny,
            ResultName::Ignore => ActionVerdict::Ignore,
            ResultName::Unavailable => ActionVerdict::Unavailable,
        };
        Self { verdict, lifetime: Duration::from_secs(written.max_age) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it stands in `docs/authsvc.md`; a change here breaks services that others wrote.
    const QUESTION: &str = r#"{"client_id":"pump-7","subject":"alice","attributes":{"site":"north"},"action":"publish","topic":"site/north/state","qos":1,"retain":false}"#;

    #[test]
    fn a_question_is_written_as_it_was_published() {
        let action: Action = serde_json::from_str(QUESTION).unwrap();
        assert_eq!(serde_json::to_string(&action).unwrap(), QUESTION);
        let least = r#"{"client_id":"a","action":"subscribe","topic":"a/#","qos":0,"shoe_size":43}"#;
        let action: Action = serde_json::from_str(least).unwrap();
        assert!(action.subject.is_empty() && !action.retain && action.attributes.is_none());
        for wrong in [
            r#"{"client_id":"a","action":"subscribe","topic":"a/#","qos":3}"#,
            r#"{"client_id":"a","action":"delete","topic":"a/#","qos":0}"#,
            r#"{"client_id":"a","action":"publish","qos":0}"#,
        ] {
            assert!(serde_json::from_str::<Action>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rulings_are_written_as_they_were_published() {
        let of = |verdict, seconds| ActionRuling { verdict, lifetime: Duration::from_secs(seconds) };
        for (ruling, text) in [
            (of(ActionVerdict::Allow(QoS::ExactlyOnce), 30), r#"{"result":"allow","max_age":30}"#),
            (of(ActionVerdict::Allow(QoS::AtMostOnce), 0), r#"{"result":"allow","qos":0}"#),
            (of(ActionVerdict::Deny, 5), r#"{"result":"deny","max_age":5}"#),
            (of(ActionVerdict::Ignore, 5), r#"{"result":"ignore","max_age":5}"#),
            (ActionRuling::UNAVAILABLE, r#"{"result":"unavailable"}"#),
        ] {
            assert_eq!(serde_json::to_string(&WrittenRuling::from(ruling)).unwrap(), text);
            let read: WrittenRuling = serde_json::from_str(text).unwrap();
            assert_eq!(ActionRuling::from(read), ruling);
        }
    }

    #[test]
    fn what_is_not_understood_allows_nothing() {
        let read = |text| serde_json::from_str::<WrittenRuling>(text).map(ActionRuling::from);
        assert_eq!(read(r#"{"result":"perhaps"}"#).unwrap().verdict, ActionVerdict::Deny);
        assert_eq!(read(r#"{"result":"allow","qos":9}"#).unwrap().verdict, ActionVerdict::Unavailable);
        assert!(read(r#"{"allow":true}"#).is_err() && read("[]").is_err());
    }
}
