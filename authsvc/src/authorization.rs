//! From configured rules to passports. Clients with the same rules share them.

use std::collections::HashMap;
use std::sync::Arc;

use link::{Passport, Rule};
use mqtt::topic::validate_filter;

use crate::config::AuthorizationConfig;
use crate::source::Grant;
use crate::{AuthError, DenyReason};

/// Stands for everybody who authenticated.
const EVERYBODY: &str = "*";

/// Stands for those who did not have to.
const ANONYMOUS: &str = "anonymous";

/// Who a client turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Let in without credentials.
    Anonymous,
    /// Let in by a source.
    User(Grant),
}

/// The rules of every user, made once.
pub(crate) struct Authorization {
    /// Users that a rule names.
    named: HashMap<Arc<str>, RuleSet>,
    everybody: RuleSet,
    anonymous: RuleSet,
    /// Everything is allowed.
    unrestricted: RuleSet,
    /// Whether there is any configured rule.
    has_rules: bool,
    /// The subject of anonymous clients, shared by them.
    nobody: Arc<str>,
    lifetime_s: Option<u64>,
}

#[derive(Clone)]
struct RuleSet {
    rules: Arc<[Rule]>,
    uses_client_id: bool,
    uses_subject: bool,
}

impl Authorization {
    /// Compiles `config`; passports last `lifetime_s`.
    pub(crate) fn new(config: &AuthorizationConfig, lifetime_s: Option<u64>) -> Result<Self, AuthError> {
        check(config)?;
        if config.rule.is_empty() {
            let all = RuleSet::new(unrestricted());
            return Ok(Self {
                named: HashMap::new(),
                everybody: all.clone(),
                anonymous: all.clone(),
                unrestricted: all,
                has_rules: false,
                nobody: "".into(),
                lifetime_s,
            });
        }
        let rules_for = |applies: &dyn Fn(&str) -> bool| {
            let rules = config.rule.iter().filter(|rule| rule.who.iter().any(|who| applies(who)));
            RuleSet::new(
                rules
                    .map(|r| Rule { effect: r.effect, action: r.action, topics: r.topics.clone() })
                    .collect(),
            )
        };
        let names = config.rule.iter().flat_map(|rule| &rule.who);
        let names = names.filter(|who| !matches!(who.as_ref(), EVERYBODY | ANONYMOUS));
        let named =
            names.map(|name| (name.clone(), rules_for(&|who| who == EVERYBODY || who == &**name))).collect();
        Ok(Self {
            named,
            everybody: rules_for(&|who| who == EVERYBODY),
            anonymous: rules_for(&|who| who == ANONYMOUS),
            unrestricted: RuleSet::new(unrestricted()),
            has_rules: true,
            nobody: "".into(),
            lifetime_s,
        })
    }

    /// The passport of `identity`, from `now_s` (seconds since the Unix epoch) on.
    pub(crate) fn passport(
        &self,
        identity: &Identity,
        client_id: &Arc<str>,
        now_s: u64,
    ) -> Result<Arc<Passport>, DenyReason> {
        let (set, subject, granted_until_s) = match identity {
            Identity::Anonymous => (self.anonymous.clone(), self.nobody.clone(), None),
            Identity::User(grant) => (self.rules_of(grant), grant.subject.clone(), grant.expires_at_s),
        };
        // `%c` and `%u` are whole levels: a value that holds a separator or a wildcard could slip past a rule.
        if (set.uses_client_id && !is_one_level(client_id)) || (set.uses_subject && !is_one_level(&subject)) {
            return Err(DenyReason::NotAuthorized);
        }
        let lifetime_ends_s = self.lifetime_s.map(|lifetime_s| now_s.saturating_add(lifetime_s));
        Ok(Arc::new(Passport {
            subject,
            client_id: client_id.clone(),
            rules: set.rules,
            expires_at_s: lifetime_ends_s.into_iter().chain(granted_until_s).min(),
        }))
    }

    /// What was granted comes first. Where nothing is configured, what was granted is all.
    fn rules_of(&self, grant: &Grant) -> RuleSet {
        if grant.is_superuser {
            return self.unrestricted.clone();
        }
        let configured = self.named.get(&grant.subject).unwrap_or(&self.everybody);
        if grant.rules.is_empty() {
            return configured.clone();
        }
        let configured = if self.has_rules { &configured.rules[..] } else { &[] };
        RuleSet::new(grant.rules.iter().chain(configured).cloned().collect())
    }
}

impl RuleSet {
    fn new(rules: Vec<Rule>) -> Self {
        let uses = |placeholder| {
            rules.iter().flat_map(|rule| &rule.topics).any(|t| t.split('/').any(|level| level == placeholder))
        };
        Self { uses_client_id: uses("%c"), uses_subject: uses("%u"), rules: rules.into() }
    }
}

fn unrestricted() -> Vec<Rule> {
    Passport::unrestricted(Arc::from(""), Arc::from("")).rules.to_vec()
}

fn is_one_level(value: &str) -> bool {
    !value.is_empty() && !value.contains(['/', '+', '#'])
}

/// Refuses rules that could never apply as written.
fn check(config: &AuthorizationConfig) -> Result<(), AuthError> {
    for (index, rule) in config.rule.iter().enumerate() {
        let wrong = |key, problem: String| Err(AuthError::Rule { index, key, problem });
        if rule.who.is_empty() {
            return wrong("who", "is empty: name users, \"*\" or \"anonymous\"".to_owned());
        }
        if rule.topics.is_empty() {
            return wrong("topics", "is empty: \"#\" is every topic".to_owned());
        }
        for topic in &rule.topics {
            if validate_filter(topic).is_err() {
                return wrong("topics", format!("{topic:?} is not a valid Topic Filter"));
            }
            let partial = |level: &str| (level.contains("%c") || level.contains("%u")) && level.len() > 2;
            if topic.split('/').any(partial) {
                return wrong("topics", format!("{topic:?}: %c and %u stand for whole levels only"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use link::{Action, Effect};

    use super::*;
    use crate::config::RuleConfig;

    fn rule(who: &[&str], action: Action, topics: &[&str]) -> RuleConfig {
        let list = |all: &[&str]| all.iter().map(|one| Arc::from(*one)).collect();
        RuleConfig { who: list(who), effect: Effect::Allow, action, topics: list(topics) }
    }

    fn compiled(rules: Vec<RuleConfig>) -> Authorization {
        Authorization::new(&AuthorizationConfig { rule: rules }, None).unwrap()
    }

    fn allows(passport: &Passport, action: Action) -> bool {
        passport.rules.iter().any(|rule| rule.action == action)
    }

    fn user(name: &str) -> Identity {
        Identity::User(Grant::of(name.into()))
    }

    #[test]
    fn without_rules_everything_is_allowed() {
        let passport = compiled(vec![]).passport(&Identity::Anonymous, &"c".into(), 0).unwrap();
        assert_eq!(*passport, Passport::unrestricted("".into(), "c".into()));
    }

    #[test]
    fn rules_apply_to_whom_they_name_in_their_order() {
        let all = compiled(vec![
            rule(&["alice"], Action::Publish, &["a"]),
            rule(&["*"], Action::Subscribe, &["b"]),
            rule(&["anonymous"], Action::All, &["c"]),
        ]);
        let passport = |identity| all.passport(&identity, &"c".into(), 0).unwrap();
        let topics =
            |identity| passport(identity).rules.iter().map(|r| r.topics[0].to_string()).collect::<Vec<_>>();
        assert_eq!(topics(user("alice")), ["a", "b"]);
        assert_eq!(topics(user("bob")), ["b"]);
        assert_eq!(topics(Identity::Anonymous), ["c"]);
        assert_eq!(topics(user("anonymous")), ["b"], "a subject of that name is not anonymous");
        assert!(!allows(&passport(user("bob")), Action::Publish));
        assert!(Arc::ptr_eq(&passport(user("bob")).rules, &passport(user("carol")).rules), "shared");
    }

    #[test]
    fn placeholders_are_refused_to_values_that_are_more_than_a_level() {
        let all = compiled(vec![
            rule(&["*"], Action::All, &["devices/%c/#"]),
            rule(&["anonymous"], Action::All, &["public"]),
        ]);
        for id in ["+", "#", "a/b", ""] {
            assert_eq!(all.passport(&user("alice"), &id.into(), 0), Err(DenyReason::NotAuthorized), "{id}");
            assert!(all.passport(&Identity::Anonymous, &id.into(), 0).is_ok(), "{id}");
        }
        let by_name = compiled(vec![rule(&["*"], Action::All, &["users/%u"])]);
        assert!(by_name.passport(&user("#"), &"c".into(), 0).is_err());
        assert!(by_name.passport(&user("alice"), &"a/b".into(), 0).is_ok());
    }

    #[test]
    fn a_passport_ends_after_its_lifetime() {
        let all = Authorization::new(&AuthorizationConfig::default(), Some(60)).unwrap();
        let passport = all.passport(&Identity::Anonymous, &"c".into(), 1000).unwrap();
        assert_eq!(passport.expires_at_s, Some(1060));
    }

    #[test]
    fn the_earlier_end_counts() {
        let all = Authorization::new(&AuthorizationConfig::default(), Some(60)).unwrap();
        for (granted, ends) in [(None, 1060), (Some(1030), 1030), (Some(1090), 1060)] {
            let grant = Grant { expires_at_s: granted, ..Grant::of("alice".into()) };
            let passport = all.passport(&Identity::User(grant), &"c".into(), 1000).unwrap();
            assert_eq!(passport.expires_at_s, Some(ends), "{granted:?}");
        }
    }

    #[test]
    fn what_was_granted_comes_before_what_is_configured() {
        let granted =
            |topic: &str| Rule { effect: Effect::Allow, action: Action::Publish, topics: vec![topic.into()] };
        let passport = |rules, grant| {
            compiled(rules).passport(&Identity::User(grant), &"c".into(), 0).map(|passport| {
                let rules = passport.rules.iter();
                rules.map(|rule| rule.topics[0].to_string()).collect::<Vec<_>>()
            })
        };
        let grant = Grant { rules: vec![granted("mine/%c")], ..Grant::of("alice".into()) };
        let configured = || vec![rule(&["*"], Action::All, &["all"])];
        assert_eq!(passport(configured(), grant.clone()).unwrap(), ["mine/%c", "all"]);
        assert_eq!(passport(vec![], grant.clone()).unwrap(), ["mine/%c"], "and nothing else");
        let superuser = Grant { is_superuser: true, ..grant };
        assert_eq!(passport(configured(), superuser).unwrap(), ["#"]);
        let by_name = Grant { rules: vec![granted("by/%u")], ..Grant::of("a/b".into()) };
        assert_eq!(passport(configured(), by_name), Err(DenyReason::NotAuthorized));
    }

    #[test]
    fn a_rule_that_cannot_apply_is_named() {
        let cases = [
            (rule(&[], Action::All, &["a"]), "who is empty: name users, \"*\" or \"anonymous\""),
            (rule(&["*"], Action::All, &[]), "topics is empty: \"#\" is every topic"),
            (rule(&["*"], Action::All, &["a/#/b"]), "topics \"a/#/b\" is not a valid Topic Filter"),
            (
                rule(&["*"], Action::All, &["a/x%c"]),
                "topics \"a/x%c\": %c and %u stand for whole levels only",
            ),
        ];
        for (bad, expected) in cases {
            let config = AuthorizationConfig { rule: vec![rule(&["*"], Action::All, &["ok"]), bad] };
            let error = Authorization::new(&config, None).err().unwrap().to_string();
            assert_eq!(error, format!("authorization.rule[1].{expected}"));
        }
    }
}
