//! Tables of rules against what clients ask for.

use super::*;

fn authority(rules: &[(Effect, Action, &[&str])]) -> Authority {
    named("device-7", "alice", rules)
}

fn named(client_id: &str, subject: &str, rules: &[(Effect, Action, &[&str])]) -> Authority {
    of_rules(client_id, subject, rules.iter().map(|rule| plain(*rule)).collect())
}

fn plain((effect, action, topics): (Effect, Action, &[&str])) -> Rule {
    Rule::new(effect, action, topics.iter().map(|&topic| Arc::from(topic)).collect())
}

fn of_rules(client_id: &str, subject: &str, rules: Vec<Rule>) -> Authority {
    Authority::new(Arc::new(Passport::new(subject.into(), client_id.into(), rules.into())))
}

/// A QoS 0 message that is not retained.
fn at(topic: &str) -> Publication<'_> {
    Publication { topic, qos: QoS::AtMostOnce, retain: false }
}

fn allow_subscribe(pattern: &str, filter: &str) -> bool {
    authority(&[(Effect::Allow, Action::Subscribe, &[pattern])]).may_subscribe(filter)
}

#[test]
fn nothing_is_allowed_without_a_rule() {
    let nobody = authority(&[]);
    assert!(!nobody.may_publish(at("a")));
    assert!(!nobody.may_subscribe("a"));
}

#[test]
fn an_unrestricted_passport_allows_all_but_publishing_to_sys() {
    let all = Authority::new(Arc::new(Passport::unrestricted("".into(), "c".into())));
    assert!(all.publish_all && all.subscribe_all);
    for filter in ["#", "a/+/b", "$SYS/#", "$share/group/a/#"] {
        assert!(all.may_subscribe(filter), "{filter}");
    }
    assert!(all.may_publish(at("a/b")));
    assert!(!all.may_publish(at("$SYS")));
    assert!(!all.may_publish(at("$SYS/broker/uptime")));
}

#[test]
fn a_bridge_may_tell_its_state() {
    let all = Authority::new(Arc::new(Passport::unrestricted("".into(), "c".into())));
    assert!(all.may_publish(at("$SYS/broker/connection/bridge/state")));
    assert!(!all.may_publish(at("$SYS/broker/connection/bridge/other")));
    assert!(!all.may_publish(at("$SYS/broker/connection/a/b/state")));
}

#[test]
fn the_first_rule_that_applies_decides() {
    let rules: &[(Effect, Action, &[&str])] = &[
        (Effect::Deny, Action::Publish, &["alarms/fire"]),
        (Effect::Allow, Action::All, &["alarms/#"]),
        (Effect::Deny, Action::All, &["alarms/flood"]),
    ];
    let alarms = authority(rules);
    assert!(!alarms.may_publish(at("alarms/fire")));
    assert!(alarms.may_subscribe("alarms/fire"));
    assert!(alarms.may_publish(at("alarms/flood")));
    assert!(!alarms.may_publish(at("other")));
}

#[test]
fn a_filter_is_covered_only_by_one_that_matches_all_it_can_match() {
    let covered = [
        ("#", "#"),
        ("#", "+/a/#"),
        ("a/#", "a"),
        ("a/#", "a/#"),
        ("a/#", "a/+/b"),
        ("a/+", "a/+"),
        ("a/+", "a/b"),
        ("+/b", "a/b"),
        ("a/+/#", "a/+"),
        ("$SYS/#", "$SYS/broker/+"),
        ("a/b", "$share/group/a/b"),
    ];
    for (pattern, filter) in covered {
        assert!(allow_subscribe(pattern, filter), "{pattern} covers {filter}");
    }
    let not_covered = [
        ("a/+", "a/#"),
        ("a/+", "a"),
        ("a/b", "a/+"),
        ("a/+/#", "a/#"),
        ("#", "$SYS/broker"),
        ("+/broker", "$SYS/broker"),
        ("a/#/b", "a/c/b"),
        ("a", "ab"),
        ("a/b", "$share/group/a/c"),
    ];
    for (pattern, filter) in not_covered {
        assert!(!allow_subscribe(pattern, filter), "{pattern} does not cover {filter}");
    }
}

#[test]
fn a_deny_rule_applies_to_a_subscription_that_overlaps_it() {
    let rules: &[(Effect, Action, &[&str])] =
        &[(Effect::Deny, Action::All, &["secret/#"]), (Effect::Allow, Action::All, &["#"])];
    let most = authority(rules);
    assert!(!most.publish_all);
    for filter in ["#", "+/x", "secret", "secret/+/y", "$share/group/#"] {
        assert!(!most.may_subscribe(filter), "{filter}");
    }
    assert!(most.may_subscribe("public/#"));
    assert!(most.may_publish(at("public/a")));
    assert!(!most.may_publish(at("secret/a")));
}

#[test]
fn what_a_granted_subscription_matches_may_be_received() {
    let rules: &[(Effect, Action, &[&str])] = &[
        (Effect::Deny, Action::Subscribe, &["a/secret", "%u/+/x"]),
        (Effect::Allow, Action::Subscribe, &["a/+", "b/#", "%c/y", "$SYS/#"]),
        (Effect::Deny, Action::All, &["b/late"]),
        (Effect::Allow, Action::Publish, &["#"]),
    ];
    let some = authority(rules);
    let topics =
        ["a/b", "a", "a/secret", "b", "b/late", "b/c/d", "alice/b/x", "device-7/y", "d/y", "$SYS/a", "$x"];
    let filters = ["a/+", "a/b", "b/#", "b/+", "+/y", "#", "device-7/y", "$SYS/a", "$share/g/b/c/#"];
    let plain = |filter: &'static str| filter.strip_prefix("$share/g/").unwrap_or(filter);
    let granted = filters.into_iter().filter(|filter| some.may_subscribe(filter)).map(plain);
    for filter in granted {
        for topic in topics.into_iter().filter(|topic| mqtt::topic::matches(filter, topic)) {
            assert!(some.may_receive(topic), "{topic} by {filter}");
        }
    }
    let received: Vec<_> = topics.into_iter().filter(|topic| some.may_receive(topic)).collect();
    assert_eq!(received, ["a/b", "b", "b/late", "b/c/d", "device-7/y", "$SYS/a"]);
}

#[test]
fn placeholders_stand_for_one_whole_level() {
    let own: &[(Effect, Action, &[&str])] = &[(Effect::Allow, Action::All, &["devices/%c/#", "users/%u/+"])];
    let alice = authority(own);
    assert!(alice.may_publish(at("devices/device-7/state")));
    assert!(alice.may_subscribe("users/alice/+"));
    assert!(!alice.may_publish(at("devices/device-8/state")));
    assert!(!alice.may_subscribe("devices/+/state"));
    assert!(!alice.may_publish(at("devices/%c/state")));
}

#[test]
fn an_identity_with_wildcards_or_slashes_gains_nothing() {
    let own: &[(Effect, Action, &[&str])] = &[(Effect::Allow, Action::All, &["devices/%c", "users/%u/x"])];
    for identity in ["+", "#", "a/b", ""] {
        let odd = named(identity, identity, own);
        assert!(!odd.may_subscribe("devices/+"), "{identity:?}");
        assert!(!odd.may_subscribe("devices/#"), "{identity:?}");
        assert!(!odd.may_publish(at("devices/a/b")), "{identity:?}");
        assert!(!odd.may_publish(at("users//x")), "{identity:?}");
    }
}

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn literal_topics_are_compared_as_they_stand() {
    let literal = |effect, topics: &[&str]| Rule {
        literal: topics.iter().map(|&topic| topic.into()).collect(),
        ..plain((effect, Action::All, &[]))
    };
    let some = of_rules("device-7", "alice", vec![literal(Effect::Allow, &["a/+", "b", "%c/#", "x/%u"])]);
    for filter in ["a/+", "b", "device-7/#", "x/alice", "$share/g/a/+"] {
        assert!(some.may_subscribe(filter), "{filter}");
    }
    for filter in ["a/b", "a/#", "+", "b/", "device-7/a", "%c/#", "x/%u", "x/bob", "#"] {
        assert!(!some.may_subscribe(filter), "{filter}");
    }
    assert!(some.may_publish(at("b")) && some.may_publish(at("x/alice")) && !some.may_publish(at("a/b")));
    // By "a/+", which was granted.
    assert!(some.may_receive("a/b") && some.may_receive("device-7/x/y") && !some.may_receive("c"));

    let rules = vec![literal(Effect::Deny, &["#", "a/b"]), plain((Effect::Allow, Action::All, &["#"]))];
    let most = of_rules("device-7", "alice", rules);
    assert!(!most.may_subscribe("#") && !most.may_subscribe("a/b") && !most.may_publish(at("a/b")));
    assert!(most.may_subscribe("+/#") && most.may_subscribe("a/+") && most.may_publish(at("a")));
    assert!(most.may_receive("a/b"), "by a/+, which was granted");
}

#[test]
fn a_rule_applies_to_the_qos_and_retain_that_it_names() {
    use Effect::{Allow, Deny};
    use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    let rule = |effect, qos, retain| {
        let qos = link::QosSet::of(qos).unwrap();
        Rule { qos, retain, ..plain((effect, Action::Publish, &["#"])) }
    };
    // What each may publish: QoS 0, 1, 2 not retained, then retained.
    let cases = [
        (vec![rule(Allow, vec![AtMostOnce, AtLeastOnce], None)], [true, true, false, true, true, false]),
        (vec![rule(Allow, LEVELS.to_vec(), Some(false))], [true, true, true, false, false, false]),
        (vec![rule(Allow, vec![ExactlyOnce], Some(true))], [false, false, false, false, false, true]),
        (
            vec![rule(Deny, vec![AtLeastOnce], Some(true)), rule(Allow, LEVELS.to_vec(), None)],
            [true, true, true, true, false, true],
        ),
        (
            vec![rule(Allow, vec![AtMostOnce], None), rule(Deny, LEVELS.to_vec(), Some(true))],
            [true, false, false, true, false, false],
        ),
        (vec![rule(Allow, LEVELS.to_vec(), None)], [true; 6]),
    ];
    for (rules, expected) in cases {
        let text = format!("{rules:?}");
        let some = of_rules("c", "u", rules);
        let asked = [false, true].into_iter().flat_map(|retain| LEVELS.map(|qos| (qos, retain)));
        let answers: Vec<_> =
            asked.map(|(qos, retain)| some.may_publish(Publication { topic: "a", qos, retain })).collect();
        assert_eq!(answers, expected, "{text}");
    }
}

#[test]
fn a_subscription_is_granted_the_highest_qos_that_is_allowed() {
    use Effect::{Allow, Deny};
    let rule = |effect, levels: &[u8], topic: &str| {
        let qos = link::QosSet::of(levels.iter().map(|&level| QoS::try_from(level).unwrap())).unwrap();
        Rule { qos, ..plain((effect, Action::Subscribe, &[topic])) }
    };
    // What is granted to who asks for 0, 1 and 2.
    let cases = [
        (vec![rule(Allow, &[0, 1], "a/#")], [Some(0), Some(1), Some(1)]),
        (vec![rule(Allow, &[0], "a/#")], [Some(0), Some(0), Some(0)]),
        (vec![rule(Allow, &[1], "a/#")], [None, Some(1), Some(1)]),
        (vec![rule(Allow, &[0, 2], "a/#")], [Some(0), Some(0), Some(2)]),
        (vec![rule(Deny, &[2], "a/b"), rule(Allow, &[0, 1, 2], "#")], [Some(0), Some(1), Some(1)]),
        (vec![rule(Deny, &[0, 1, 2], "a/b"), rule(Allow, &[0, 1, 2], "#")], [None, None, None]),
        (vec![rule(Allow, &[0, 1, 2], "#")], [Some(0), Some(1), Some(2)]),
    ];
    for (rules, expected) in cases {
        let text = format!("{rules:?}");
        let some = of_rules("c", "u", rules);
        assert_eq!(
            LEVELS.map(|qos| some.on_subscribe("a/+", qos).map(|(qos, _)| qos.as_u8())),
            expected,
            "{text}"
        );
        assert_eq!(some.may_receive("a/b"), expected.iter().any(Option::is_some), "{text}");
    }
    let retained = Rule { retain: Some(true), ..rule(Allow, &[0, 1, 2], "a/#") };
    assert!(of_rules("c", "u", vec![retained]).may_subscribe("a/#"), "RETAIN is about messages");
}

#[test]
fn rules_about_single_messages_let_a_subscription_match_more_than_is_received() {
    let rules: &[(Effect, Action, &[&str])] = &[
        (Effect::Deny, Action::Receive, &["a/secret/#", "b/#"]),
        (Effect::Allow, Action::Receive, &["a/#", "b/c", "%c/+"]),
    ];
    let some = authority(rules);
    assert!(some.tells_messages_apart());
    for filter in ["#", "a/#", "+/secret", "device-7/state", "+/+", "$share/g/device-7/state"] {
        assert!(some.may_subscribe(filter), "{filter}");
    }
    // Nothing would come by these, or, from a group, nothing must be lost.
    for filter in ["a/secret", "a/secret/+", "b/c", "c", "$SYS/#", "$share/g/a/#", "$share/g/#"] {
        assert!(!some.may_subscribe(filter), "{filter}");
    }
    let topics = ["a", "a/b", "a/secret", "a/secret/b", "b/c", "device-7/state", "device-8/state", "$SYS/a"];
    let received: Vec<_> = topics.into_iter().filter(|topic| some.may_receive(topic)).collect();
    assert_eq!(received, ["a", "a/b", "device-7/state"]);
    assert!(!some.may_publish(at("a/b")), "they say nothing about publishing");
}

#[test]
fn what_is_allowed_without_a_look_is_what_a_look_allows() {
    let plain_all = plain((Effect::Allow, Action::All, &["#"]));
    let only = |qos| Rule { qos: link::QosSet::up_to(qos), ..plain_all.clone() };
    let all = of_rules("c", "u", vec![only(QoS::AtMostOnce), plain_all.clone()]);
    assert!(all.publish_all && all.subscribe_all);
    for rules in [
        vec![only(QoS::AtMostOnce)],
        vec![Rule { retain: Some(false), ..plain_all.clone() }],
        vec![plain((Effect::Deny, Action::Publish, &["x"])), plain_all.clone()],
    ] {
        assert!(!of_rules("c", "u", rules.clone()).publish_all, "{rules:?}");
    }
    let apart = vec![plain((Effect::Deny, Action::Receive, &["x"])), plain_all];
    assert!(!of_rules("c", "u", apart).subscribe_all);
}

#[test]
fn an_explanation_says_what_a_client_is_answered() {
    let low = link::QosSet::up_to(QoS::AtLeastOnce);
    let rules = vec![
        plain((Effect::Deny, Action::All, &["a/secret"])),
        Rule { qos: low, ..plain((Effect::Allow, Action::All, &["a/#"])) },
        Rule { retain: Some(true), ..plain((Effect::Allow, Action::Publish, &["b"])) },
        plain((Effect::Allow, Action::Receive, &["c/+"])),
        plain((Effect::Allow, Action::Publish, &["$SYS/#"])),
    ];
    let some = of_rules("c", "u", rules);
    let explain = |attempt| Explanation::of(Arc::clone(&some.passport), attempt);
    for topic in ["a/secret", "a/b", "b", "c/d", "$SYS/x", "$SYS/broker/connection/x/state", "d"] {
        for (qos, retain) in LEVELS.into_iter().flat_map(|qos| [(qos, false), (qos, true)]) {
            let explanation = explain(Attempt::Publish { topic, qos, retain });
            let is_allowed = some.may_publish(Publication { topic, qos, retain });
            assert_eq!(explanation.granted.is_some(), is_allowed, "{topic} {qos:?} {retain}");
        }
        assert_eq!(explain(Attempt::Receive { topic }).granted.is_some(), some.may_receive(topic), "{topic}");
    }
    for filter in ["a/+", "a/b", "a/#", "c/#", "$share/g/c/#", "$share/g/a/b", "$share/", "#"] {
        for qos in LEVELS {
            let explanation = explain(Attempt::Subscribe { filter, qos });
            assert_eq!(explanation.granted, some.on_subscribe(filter, qos).map(|(qos, _)| qos), "{filter}");
        }
    }
    let decider = |attempt| explain(attempt).decider;
    let publish = |topic, qos, retain| decider(Attempt::Publish { topic, qos, retain });
    assert_eq!(publish("a/secret", QoS::AtMostOnce, false), Decider::Rule(0));
    assert_eq!(publish("a/b", QoS::AtLeastOnce, false), Decider::Rule(1));
    assert_eq!(publish("a/b", QoS::ExactlyOnce, false), Decider::Nothing);
    assert_eq!(publish("b", QoS::AtMostOnce, true), Decider::Rule(2));
    assert_eq!(publish("$SYS/x", QoS::AtMostOnce, false), Decider::Server);
    assert_eq!(decider(Attempt::Subscribe { filter: "$share/", qos: QoS::AtMostOnce }), Decider::Invalid);
    assert_eq!(decider(Attempt::Subscribe { filter: "#", qos: QoS::AtMostOnce }), Decider::Rule(0));
}
