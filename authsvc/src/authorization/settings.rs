//! The settings of authorization (`[authorization]`), and what is wrong with a rule as written.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use link::{Action, Effect, QosSet, Rule};
use mqtt::topic::validate_filter;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::LimitsConfig;
use super::placeholder;
use super::who::Who;
use crate::AuthError;

/// What a topic begins with that is meant as it stands.
const LITERAL: &str = "eq ";

/// `[authorization]`: what clients may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationConfig {
    /// `[[authorization.rule]]`, tried in order; the first that applies decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<RuleConfig>,
    /// A Mosquitto ACL file, whose lines come after the rules; none by default. Read again when it changes and on SIGHUP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl_file: Option<PathBuf>,
    /// What happens when none applies. Default: `deny` where there is a rule or an ACL file, and for clients whose source
    /// brings rules; else `allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Effect>,
    /// `[[authorization.limits]]`, tried in order; for each limit the first counts that is about the client and has it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitsConfig>,
}

impl AuthorizationConfig {
    /// What happens when no rule applies.
    // Why it depends: docs/decisions/0013-what-a-rule-says.md.
    pub fn default_in_force(&self) -> Effect {
        let is_open = self.rule.is_empty() && self.acl_file.is_none();
        self.default.unwrap_or(if is_open { Effect::Allow } else { Effect::Deny })
    }

    /// The rules for passports, and whom each is about.
    ///
    /// # Errors
    /// The first that could never apply as written.
    pub(super) fn compile(&self) -> Result<Vec<(Vec<Who>, Rule)>, AuthError> {
        if self.default == Some(Effect::Ask) {
            let problem = "must be \"allow\" or \"deny\": what is asked about, sources say".to_owned();
            return Err(AuthError::Section { section: "authorization", key: "default", problem });
        }
        let rules = self.rule.iter().enumerate().map(|(index, config)| {
            let rule = config.compile().map_err(|(key, problem)| AuthError::Rule { index, key, problem })?;
            let who = config.who.iter().map(Who::parse);
            let who = who.collect::<Result<_, _>>();
            let who = who.map_err(|problem| AuthError::Rule { index, key: "who", problem })?;
            Ok((who, rule))
        });
        rules.collect()
    }
}

/// One `[[authorization.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// User names; `group:NAME` for those whom their source says to be in it, `*` for everybody who authenticated, `anonymous` for
    /// those who did not have to.
    pub who: Vec<Arc<str>>,
    /// `allow` or `deny`.
    pub effect: Effect,
    /// `publish`, `subscribe`, `all` (these two) or `receive`.
    pub action: Action,
    /// Topic Filters; the levels `%c` and `%u` stand for the Client Identifier and the user name, `%{name}` for what the
    /// client's source says of it. `eq a/+` is the filter `a/+` itself, and none of the topics that it matches.
    pub topics: Vec<Arc<str>>,
    /// With which QoS: a number, or a list of them. Default: any.
    #[serde(default, skip_serializing_if = "QosSet::is_all")]
    pub qos: QosSet,
    /// Of messages to be published: `true`, those to be retained; `false`, the others; `"all"`. Default `"all"`.
    #[serde(default, skip_serializing_if = "RetainCondition::is_any")]
    pub retain: RetainCondition,
}

impl RuleConfig {
    /// One for any QoS, retained or not.
    pub fn new(who: Vec<Arc<str>>, effect: Effect, action: Action, topics: Vec<Arc<str>>) -> Self {
        Self { who, effect, action, topics, qos: QosSet::ALL, retain: RetainCondition::default() }
    }

    /// The rule for passports.
    ///
    /// # Errors
    /// It could never apply as written: the key, and what is wrong with it.
    pub(crate) fn compile(&self) -> Result<Rule, (&'static str, String)> {
        self.check()?;
        let (literal, topics): (Vec<_>, Vec<_>) =
            self.topics.iter().partition(|topic| topic.starts_with(LITERAL));
        let topics = topics.into_iter().cloned().collect();
        Ok(Rule {
            literal: literal.into_iter().map(|topic| topic_of(topic).into()).collect(),
            qos: self.qos,
            retain: self.retain.0,
            ..Rule::new(self.effect, self.action, topics)
        })
    }

    /// Refuses one that could never apply as written: the key, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.effect == Effect::Ask {
            return Err((
                "effect",
                "must be \"allow\" or \"deny\": what is asked about, sources say".to_owned(),
            ));
        }
        if self.who.is_empty() {
            return Err(("who", "is empty: name users, \"*\" or \"anonymous\"".to_owned()));
        }
        if self.topics.is_empty() {
            return Err(("topics", "is empty: \"#\" is every topic".to_owned()));
        }
        if self.retain.0.is_some() && !matches!(self.action, Action::Publish | Action::All) {
            return Err(("retain", "is about messages that are published: leave it out here".to_owned()));
        }
        self.topics.iter().try_for_each(|topic| check_topic(topic)).map_err(|problem| ("topics", problem))
    }
}

fn topic_of(topic: &str) -> &str {
    topic.strip_prefix(LITERAL).unwrap_or(topic)
}

fn check_topic(topic: &str) -> Result<(), String> {
    if validate_filter(topic_of(topic)).is_err() {
        return Err(format!("{topic:?} is not a valid Topic Filter"));
    }
    placeholder::check(topic_of(topic))
}

/// Which messages a rule is about: `true`, `false` or `"all"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetainCondition(pub Option<bool>);

impl RetainCondition {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_any(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for RetainCondition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(retain) => serializer.serialize_bool(retain),
            None => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for RetainCondition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Condition;
        impl Visitor<'_> for Condition {
            type Value = RetainCondition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or \"all\"")
            }

            fn visit_bool<E: Error>(self, retain: bool) -> Result<RetainCondition, E> {
                Ok(RetainCondition(Some(retain)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RetainCondition, E> {
                match text {
                    "all" => Ok(RetainCondition(None)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Condition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: Action, topics: &[&str]) -> RuleConfig {
        let topics = topics.iter().map(|&topic| topic.into()).collect();
        RuleConfig::new(vec!["*".into()], Effect::Allow, action, topics)
    }

    #[test]
    fn a_rule_that_cannot_apply_is_named() {
        let all = |topic| rule(Action::All, &[topic]);
        let with_retain = |action| RuleConfig { retain: RetainCondition(Some(true)), ..rule(action, &["a"]) };
        let no_retain = "retain is about messages that are published: leave it out here";
        let cases = [
            (RuleConfig { who: vec![], ..all("a") }, "who is empty: name users, \"*\" or \"anonymous\""),
            (rule(Action::All, &[]), "topics is empty: \"#\" is every topic"),
            (all("a/#/b"), "topics \"a/#/b\" is not a valid Topic Filter"),
            (all("eq a/#/b"), "topics \"eq a/#/b\" is not a valid Topic Filter"),
            (all("eq "), "topics \"eq \" is not a valid Topic Filter"),
            (all("a/x%c"), "topics \"a/x%c\": %c, %u and %{attribute} stand for whole levels only"),
            (
                RuleConfig { who: vec!["ok".into(), "group:".into()], ..all("a") },
                "who group: needs a name, as in \"group:staff\"",
            ),
            (with_retain(Action::Subscribe), no_retain),
            (with_retain(Action::Receive), no_retain),
        ];
        for (bad, expected) in cases {
            let config = AuthorizationConfig { rule: vec![all("ok"), bad], ..AuthorizationConfig::default() };
            let error = config.compile().unwrap_err().to_string();
            assert_eq!(error, format!("authorization.rule[1].{expected}"));
        }
        assert_eq!(with_retain(Action::All).compile().unwrap().retain, Some(true));
    }

    #[test]
    fn only_sources_have_actions_asked_about() {
        let asks = RuleConfig { effect: Effect::Ask, ..rule(Action::All, &["#"]) };
        assert_eq!(asks.check().unwrap_err().0, "effect");
        let asks = AuthorizationConfig { default: Some(Effect::Ask), ..AuthorizationConfig::default() };
        assert!(asks.compile().unwrap_err().to_string().starts_with("authorization.default"));
    }

    #[test]
    fn topics_after_eq_are_literal() {
        let compiled = rule(Action::All, &["eq a/+", "b/+", "equal", "eq", "eq eq a"]).compile().unwrap();
        assert_eq!(compiled.literal, ["a/+", "eq a"].map(Arc::from));
        assert_eq!(compiled.topics, ["b/+", "equal", "eq"].map(Arc::from));
    }

    #[test]
    fn without_a_word_the_default_depends_on_whether_there_is_a_rule() {
        use Effect::{Allow, Deny};
        let rules = [vec![], vec![rule(Action::All, &["a"])]];
        let mut in_force = Vec::new();
        for default in [None, Some(Allow), Some(Deny)] {
            for rule in rules.clone() {
                let config = AuthorizationConfig { rule, default, ..AuthorizationConfig::default() };
                in_force.push(config.default_in_force());
            }
        }
        assert_eq!(in_force, [Allow, Deny, Allow, Allow, Deny, Deny]);
        let file = AuthorizationConfig { acl_file: Some("acl".into()), ..AuthorizationConfig::default() };
        assert_eq!(file.default_in_force(), Deny);
    }
}
