//! Whom rules apply to, and what passports say.

use std::path::Path;
use std::time::Duration;

use link::{Action, Effect, Rule};
use mqtt::topic::matches;

use super::*;

fn rule(who: &[&str], action: Action, topics: &[&str]) -> RuleConfig {
    let list = |all: &[&str]| all.iter().map(|one| Arc::from(*one)).collect();
    RuleConfig::new(list(who), Effect::Allow, action, list(topics))
}

fn compiled(rules: Vec<RuleConfig>) -> Authorization {
    let config = AuthorizationConfig { rule: rules, ..AuthorizationConfig::default() };
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
        let rule = vec![rule(&["*"], Action::Publish, &["a"])];
        let config = AuthorizationConfig { rule, default, ..AuthorizationConfig::default() };
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

fn topics(passport: &Passport) -> Vec<String> {
    passport.rules.iter().flat_map(|rule| rule.topics.iter().map(ToString::to_string)).collect()
}

#[test]
fn rules_about_a_group_apply_to_who_is_in_it() {
    let all = compiled(vec![
        rule(&["group:staff"], Action::All, &["staff"]),
        rule(&["alice", "group:guests"], Action::All, &["some"]),
        rule(&["*"], Action::All, &["all"]),
    ]);
    let passport = |name: &str, groups: &[&str]| {
        let groups = groups.iter().map(|&group| group.into()).collect();
        let grant = Grant { groups, ..Grant::of(name.into()) };
        topics(&all.passport(&Identity::User(grant), &"c".into(), 0).unwrap())
    };
    assert_eq!(passport("alice", &[]), ["some", "all"]);
    assert_eq!(passport("alice", &["staff"]), ["staff", "some", "all"]);
    assert_eq!(passport("bob", &["guests", "other"]), ["some", "all"]);
    assert_eq!(passport("group:staff", &[]), ["all"], "a user of that name is in no group");
    assert_eq!(passport("staff", &[]), ["all"]);
    let rules = |name: &str, groups: &[&str]| {
        let groups = groups.iter().map(|&group| group.into()).collect();
        let grant = Grant { groups, ..Grant::of(name.into()) };
        all.passport(&Identity::User(grant), &"c".into(), 0).unwrap().rules.clone()
    };
    assert!(Arc::ptr_eq(&rules("bob", &["staff", "x"]), &rules("carol", &["staff"])), "shared");
}

#[test]
fn attributes_are_filled_in() {
    let all = compiled(vec![
        rule(&["*"], Action::All, &["sites/%{site}/%c/#", "own/%u"]),
        rule(&["anonymous"], Action::All, &["sites/%{site}", "open"]),
    ]);
    let grant =
        |site: &str| Grant { attributes: [("site".into(), site.into())].into(), ..Grant::of("alice".into()) };
    let passport = |grant| all.passport(&Identity::User(grant), &"c".into(), 0);
    assert_eq!(topics(&passport(grant("bern")).unwrap()), ["sites/bern/%c/#", "own/%u"]);
    assert_eq!(topics(&passport(Grant::of("alice".into())).unwrap()), ["own/%u"]);
    assert_eq!(passport(grant("+")), Err(DenyReason::NotAuthorized));
    assert_eq!(topics(&all.passport(&Identity::Anonymous, &"c".into(), 0).unwrap()), ["open"]);
}

const ACL: &str = "topic read open/#\npattern write dev/%c/#\npattern deny dev/%c/secret\n\
                   user alice\ntopic a/#\ntopic deny a/b\n";

fn with_acl(dir: &Path, text: &str, rule: Vec<RuleConfig>) -> AuthorizationConfig {
    let path = dir.join("acl");
    std::fs::write(&path, text).unwrap();
    AuthorizationConfig { rule, acl_file: Some(path), ..AuthorizationConfig::default() }
}

/// What a passport says of publishing (`w`) and receiving (`r`), worked out here from its rules.
fn may(passport: &Passport, topic: &str) -> String {
    let allows = |action| {
        let is_about = |rule: &&Rule| {
            let matches_topic = |pattern: &Arc<str>| {
                let pattern = pattern.replace("%c", &passport.client_id).replace("%u", &passport.subject);
                matches(&pattern, topic)
            };
            rule.action == action && rule.topics.iter().any(matches_topic)
        };
        passport.rules.iter().find(is_about).is_some_and(|rule| rule.effect == Effect::Allow)
    };
    let letters = [(Action::Receive, 'r'), (Action::Publish, 'w')];
    letters.into_iter().filter(|&(action, _)| allows(action)).map(|(_, letter)| letter).collect()
}

#[test]
fn an_acl_file_says_what_it_says_to_mosquitto() {
    let dir = tempfile::tempdir().unwrap();
    let all = Authorization::new(&with_acl(dir.path(), ACL, vec![]), &AuthConfig::default()).unwrap();
    let passport =
        |identity: &Identity, client_id: &str| all.passport(identity, &client_id.into(), 0).unwrap();
    let table = |passport: &Passport| {
        ["open/x", "a/b", "a/c", "dev/7/x", "dev/7/secret", "dev/8/x"].map(|topic| may(passport, topic))
    };
    assert_eq!(table(&passport(&Identity::Anonymous, "7")), ["r", "", "", "w", "", ""]);
    assert_eq!(table(&passport(&user("alice"), "7")), ["", "", "rw", "w", "", ""]);
    assert_eq!(table(&passport(&user("bob"), "8")), ["", "", "", "", "", "w"]);
    assert_eq!(table(&passport(&user("alice"), "+")), ["", "", "rw", "", "", ""]);
    assert_eq!(may(&passport(&user("bob"), "7/x"), "dev/7/x/y"), "w");
    let shared = |name| passport(&user(name), "7").rules.clone();
    assert!(Arc::ptr_eq(&shared("bob"), &shared("carol")));
}

#[test]
fn an_acl_file_that_was_changed_counts_for_passports_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_acl(dir.path(), "topic read a\n", vec![]);
    let all = Authorization::new(&config, &AuthConfig::default()).unwrap();
    let mut now = Instant::now();
    let mut settle = || {
        for _ in 0..6 {
            now += Duration::from_secs(1);
            all.look(now);
        }
        topics(&all.passport(&Identity::Anonymous, &"c".into(), 0).unwrap())
    };
    assert_eq!(settle(), ["a"]);
    let write = |text: &str| std::fs::write(config.acl_file.as_ref().unwrap(), text).unwrap();
    write("topic read b\n");
    assert_eq!(settle(), ["b"]);
    for wrong in ["nonsense\n", "", "# all gone\n"] {
        write(wrong);
        assert_eq!(settle(), ["b"], "{wrong:?}");
    }
    write("topic read c\n");
    assert_eq!(settle(), ["c"]);
}

#[test]
fn a_trace_has_the_rules_of_the_passport_and_where_they_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let rules = vec![
        rule(&["anonymous"], Action::All, &["not hers"]),
        rule(&["group:staff"], Action::All, &["staff/%{site}"]),
        rule(&["alice"], Action::All, &["%c"]),
    ];
    let mut config = with_acl(dir.path(), ACL, rules);
    config.default = Some(Effect::Allow);
    let all = Authorization::new(&config, &AuthConfig::default()).unwrap();
    let grant = Grant {
        attributes: [("site".into(), "bern".into())].into(),
        groups: vec!["staff".into()],
        ..Grant::of("alice".into())
    };
    let passport = all.passport(&Identity::User(grant), &"7".into(), 0).unwrap();
    let traced = Traced {
        user: Some("alice".into()),
        client_id: "7".into(),
        attributes: vec![("site".into(), "bern".into())],
        groups: vec!["staff".into()],
    };
    let trace = RuleTrace::new(&config, &traced).unwrap().unwrap();
    for topic in ["staff/bern", "7", "a/b", "a/c", "dev/7/x", "dev/7/secret", "open/x", "other"] {
        assert_eq!(may(&passport, topic), may(&trace.passport, topic), "{topic}");
    }
    let mut origins: Vec<_> = trace.origins.iter().map(ToString::to_string).collect();
    origins.dedup();
    let path = dir.path().join("acl");
    let line = |number, text| format!("{} line {number} ({text})", path.display());
    let expected = [
        "authorization.rule[1]".to_owned(),
        "authorization.rule[2]".to_owned(),
        line(6, "topic deny a/b"),
        line(5, "topic readwrite a/#"),
        line(3, "pattern deny dev/%c/secret"),
        line(2, "pattern write dev/%c/#"),
        "authorization.default".to_owned(),
    ];
    assert_eq!(origins, expected);
    let refused = RuleTrace::new(&config, &Traced { client_id: "a/b".into(), ..traced }).unwrap();
    assert_eq!(refused.unwrap_err(), DenyReason::NotAuthorized);
}
