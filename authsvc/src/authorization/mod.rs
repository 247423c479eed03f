//! From configured rules to passports. Clients with the same rules share them.

mod group;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;

use link::{Effect, Passport, Rule};

use crate::source::Grant;
use crate::{AuthConfig, AuthError, DenyReason};

use self::group::{ByGroup, GROUP};
pub use self::settings::{AuthorizationConfig, RetainCondition, RuleConfig};

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
    by_group: ByGroup,
    /// Everything is allowed.
    unrestricted: RuleSet,
    /// What allows everything where no rule applies, if so configured: the last of each list.
    last: Vec<Rule>,
    /// The same for clients whose source brought rules: never without a word.
    last_if_granted: Vec<Rule>,
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
    /// Compiles `config`; passports last as long as `auth` says.
    pub(crate) fn new(config: &AuthorizationConfig, auth: &AuthConfig) -> Result<Self, AuthError> {
        config.check()?;
        let last_for = |default| if default == Effect::Allow { unrestricted() } else { Vec::new() };
        let last = last_for(config.default_in_force());
        let rules_for = |applies: &dyn Fn(&str) -> bool| {
            let rules = config.rule.iter().filter(|rule| rule.who.iter().any(|who| applies(who)));
            RuleSet::new(rules.map(RuleConfig::compile).chain(last.clone()).collect())
        };
        let names = config.rule.iter().flat_map(|rule| &rule.who);
        let names =
            names.filter(|who| !matches!(who.as_ref(), EVERYBODY | ANONYMOUS) && !who.starts_with(GROUP));
        let named =
            names.map(|name| (name.clone(), rules_for(&|who| who == EVERYBODY || who == &**name))).collect();
        Ok(Self {
            named,
            by_group: ByGroup::new(&config.rule, &last),
            everybody: rules_for(&|who| who == EVERYBODY),
            anonymous: rules_for(&|who| who == ANONYMOUS),
            unrestricted: RuleSet::new(unrestricted()),
            last,
            last_if_granted: last_for(config.default.unwrap_or(Effect::Deny)),
            nobody: "".into(),
            lifetime_s: auth.passport_lifetime_s,
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
        let expires_at_s = lifetime_ends_s.into_iter().chain(granted_until_s).min();
        let passport = Passport::new(subject, client_id.clone(), set.rules);
        let token_id = match identity {
            Identity::Anonymous => None,
            Identity::User(grant) => grant.token_id.clone(),
        };
        Ok(Arc::new(Passport { expires_at_s, token_id, ..passport }))
    }

    /// What was granted comes first, and ends what is allowed only because there is no rule.
    fn rules_of(&self, grant: &Grant) -> RuleSet {
        if grant.is_superuser {
            return self.unrestricted.clone();
        }
        let named = self.named.get_key_value(&grant.subject);
        let by_group = self.by_group.rules_of(named.map(|(name, _)| name), &grant.groups);
        let configured = by_group.unwrap_or_else(|| named.map_or(&self.everybody, |(_, set)| set).clone());
        if grant.rules.is_empty() {
            return configured;
        }
        let configured = &configured.rules[..configured.rules.len() - self.last.len()];
        RuleSet::new(grant.rules.iter().chain(configured).chain(&self.last_if_granted).cloned().collect())
    }
}

impl RuleSet {
    fn new(rules: Vec<Rule>) -> Self {
        let uses = |placeholder| {
            let topics = rules.iter().flat_map(|rule| rule.topics.iter().chain(&rule.literal));
            topics.into_iter().any(|topic| topic.split('/').any(|level| level == placeholder))
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

#[cfg(test)]
mod tests {
    use link::Action;

    use super::*;

    fn rule(who: &[&str], action: Action, topics: &[&str]) -> RuleConfig {
        let list = |all: &[&str]| all.iter().map(|one| Arc::from(*one)).collect();
        RuleConfig::new(list(who), Effect::Allow, action, list(topics))
    }

    fn compiled(rules: Vec<RuleConfig>) -> Authorization {
        let config = AuthorizationConfig { rule: rules, default: None };
        Authorization::new(&config, &AuthConfig::default()).unwrap()
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
    fn what_no_rule_is_about_is_as_the_default_says() {
        let with = |default| {
            let config = AuthorizationConfig { rule: vec![rule(&["*"], Action::Publish, &["a"])], default };
            let all = Authorization::new(&config, &AuthConfig::default()).unwrap();
            [user("alice"), Identity::Anonymous]
                .map(|who| all.passport(&who, &"c".into(), 0).unwrap().rules.len())
        };
        assert_eq!(with(None), [1, 0]);
        assert_eq!(with(Some(Effect::Deny)), [1, 0]);
        assert_eq!(with(Some(Effect::Allow)), [2, 1]);
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
    fn rules_of_groups_come_in_their_place_among_the_others() {
        let all = compiled(vec![
            rule(&["group:staff"], Action::Subscribe, &["a"]),
            rule(&["alice"], Action::Publish, &["b"]),
            rule(&["group:admins", "*"], Action::All, &["c"]),
            rule(&["group:admins"], Action::All, &["d"]),
        ]);
        let passport = |name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|group| Arc::from(*group)).collect();
            let who = Identity::User(Grant { groups, ..Grant::of(name.into()) });
            all.passport(&who, &"x".into(), 0).unwrap()
        };
        let topics = |name, groups: &[&str]| {
            let rules = passport(name, groups).rules.clone();
            rules.iter().map(|rule| rule.topics[0].to_string()).collect::<Vec<_>>().concat()
        };
        assert_eq!(topics("alice", &[]), "bc");
        assert_eq!(topics("alice", &["others", "staff"]), "abc");
        assert_eq!(topics("bob", &["admins", "staff"]), "acd");
        assert_eq!(topics("bob", &["others"]), "c");
        assert_eq!(topics("group:staff", &[]), "c", "a user of that name is in no group");
        let (one, other) = (passport("bob", &["staff", "x"]), passport("carol", &["staff"]));
        assert!(Arc::ptr_eq(&one.rules, &other.rules), "shared");
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
        let auth = AuthConfig { passport_lifetime_s: Some(60), ..AuthConfig::default() };
        let all = Authorization::new(&AuthorizationConfig::default(), &auth).unwrap();
        let passport = all.passport(&Identity::Anonymous, &"c".into(), 1000).unwrap();
        assert_eq!(passport.expires_at_s, Some(1060));
    }

    #[test]
    fn the_earlier_end_counts() {
        let auth = AuthConfig { passport_lifetime_s: Some(60), ..AuthConfig::default() };
        let all = Authorization::new(&AuthorizationConfig::default(), &auth).unwrap();
        for (granted, ends) in [(None, 1060), (Some(1030), 1030), (Some(1090), 1060)] {
            let grant = Grant { expires_at_s: granted, ..Grant::of("alice".into()) };
            let passport = all.passport(&Identity::User(grant), &"c".into(), 1000).unwrap();
            assert_eq!(passport.expires_at_s, Some(ends), "{granted:?}");
        }
    }

    #[test]
    fn what_was_granted_comes_before_what_is_configured() {
        let granted = |topic: &str| Rule::new(Effect::Allow, Action::Publish, vec![topic.into()]);
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
}
