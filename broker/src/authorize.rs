//! What a passport allows. Rules are tried in order and the first that applies decides; when none does, the answer is no.
//!
//! Nothing is allocated: `%c` and `%u` are compared in place, each as one whole level and never as a wildcard. Passports
//! without restrictions are recognised once, when a session gets them.

use std::sync::Arc;

use link::{Action, Effect, Passport, Rule};
use mqtt::topic::SharedFilter;

/// A passport, ready to be asked.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    passport: Arc<Passport>,
    /// Every Topic Name that does not start with `$` may be published to.
    publish_all: bool,
    /// Every Topic Filter that does not start with `$` may be subscribed to.
    subscribe_all: bool,
}

impl Authority {
    /// Looks once at the rules for the answers that need no second look.
    pub(crate) fn new(passport: Arc<Passport>) -> Self {
        let allows_all = |action| {
            for rule in passport.rules.iter().filter(|rule| rule.concerns(action)) {
                match rule.effect {
                    Effect::Allow if rule.topics.iter().any(|topic| &**topic == "#") => return true,
                    Effect::Deny if !rule.is_only_about_dollar() => return false,
                    _ => {}
                }
            }
            false
        };
        let (publish_all, subscribe_all) = (allows_all(Action::Publish), allows_all(Action::Subscribe));
        Self { passport, publish_all, subscribe_all }
    }

    /// Whether a message may be published to this Topic Name. `$SYS` is the server's alone, whatever the rules say, but
    /// for the state of bridges, which another broker tells there.
    // The specification leaves `$SYS` to implementations (v5 section 4.7.2); clients that could write there could forge
    // what operators watch.
    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        if topic.starts_with('$') {
            return !is_server_only(topic) && self.first_applies(Action::Publish, topic);
        }
        self.publish_all || self.first_applies(Action::Publish, topic)
    }

    /// Whether this Topic Filter may be subscribed to; for a Shared Subscription its own filter counts, not the Share
    /// Name.
    ///
    /// An *allow* rule applies when one of its filters covers everything that `filter` can match, a *deny* rule already
    /// when it overlaps: there is no second check per message, so a subscription to `#` must not slip past a rule that
    /// forbids `secret/#`.
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        let filter = match SharedFilter::parse(filter) {
            Ok(Some(shared)) => shared.filter,
            Ok(None) => filter,
            Err(_) => return false,
        };
        if self.subscribe_all && !filter.starts_with('$') {
            return true;
        }
        self.first_applies(Action::Subscribe, filter)
    }

    /// Whether a message with this Topic Name may be received. Every subscription that is granted covers what it matches, so
    /// this says no only to what an earlier passport let in.
    pub(crate) fn may_receive(&self, topic: &str) -> bool {
        (self.subscribe_all && !topic.starts_with('$')) || self.first_applies(Action::Subscribe, topic)
    }

    /// Whether this passport allows just the same to the same client.
    pub(crate) fn is_as_before(&self, passport: &Passport) -> bool {
        let (rules, others) = (&self.passport.rules, &passport.rules);
        // Clients with equal rules mostly share them.
        (Arc::ptr_eq(rules, others) || rules == others) && self.passport.client_id == passport.client_id
    }

    /// Whose passport it is.
    pub(crate) fn subject(&self) -> &str {
        &self.passport.subject
    }

    fn first_applies(&self, action: Action, filter: &str) -> bool {
        let rules = self.passport.rules.iter().filter(|rule| rule.concerns(action));
        for rule in rules {
            let applies = match rule.effect {
                Effect::Allow => rule.topics.iter().any(|pattern| self.covers(pattern, filter)),
                Effect::Deny => rule.topics.iter().any(|pattern| self.overlaps(pattern, filter)),
            };
            if applies {
                return rule.effect == Effect::Allow;
            }
        }
        false
    }

    /// Whether everything that `filter` can match is matched by `pattern`.
    fn covers(&self, pattern: &str, filter: &str) -> bool {
        if starts_with_wildcard(pattern) && filter.starts_with('$') {
            // v5 [MQTT-4.7.2-1]
            return false;
        }
        let (mut patterns, mut levels) = (pattern.split('/'), filter.split('/'));
        loop {
            match (patterns.next(), levels.next()) {
                (None, None) => return true,
                // "a/#" matches "a" as well (v5 section 4.7.1.2).
                (Some("#"), _) => return patterns.next().is_none(),
                (None, Some(_)) | (Some(_), None) | (Some(_), Some("#")) => return false,
                (Some("+"), Some(_)) => {}
                (Some(own @ ("%c" | "%u")), Some(level)) => {
                    let identity = self.identity(own);
                    if identity.is_empty() || identity.contains(['+', '#']) || identity != level {
                        return false;
                    }
                }
                (Some(literal), Some(level)) if literal == level => {}
                _ => return false,
            }
        }
    }

    /// Whether a Topic Name exists that both `pattern` and `filter` match.
    fn overlaps(&self, pattern: &str, filter: &str) -> bool {
        let dollar_apart = |a: &str, b: &str| starts_with_wildcard(a) && b.starts_with('$');
        if dollar_apart(pattern, filter) || dollar_apart(filter, pattern) {
            // v5 [MQTT-4.7.2-1]
            return false;
        }
        let (mut patterns, mut levels) = (pattern.split('/'), filter.split('/'));
        loop {
            match (patterns.next(), levels.next()) {
                (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some("+"), _) | (_, Some("+")) => {}
                (Some(own @ ("%c" | "%u")), Some(level)) if self.identity(own) == level => {}
                (Some(literal), Some(level)) if literal == level => {}
                _ => return false,
            }
        }
    }

    fn identity(&self, placeholder: &str) -> &str {
        if placeholder == "%c" { &self.passport.client_id } else { &self.passport.subject }
    }
}

fn starts_with_wildcard(filter: &str) -> bool {
    filter.starts_with(['+', '#'])
}

/// What [`Authority`] asks of a rule.
trait Concern {
    fn concerns(&self, action: Action) -> bool;
    fn is_only_about_dollar(&self) -> bool;
}

impl Concern for Rule {
    fn concerns(&self, action: Action) -> bool {
        self.action == Action::All || self.action == action
    }

    fn is_only_about_dollar(&self) -> bool {
        self.topics.iter().all(|topic| topic.starts_with('$'))
    }
}

/// `$SYS`, except `$SYS/broker/connection/NAME/state`: there a Mosquitto bridge says whether it is up, as its Will too.
fn is_server_only(topic: &str) -> bool {
    let Some(rest) = topic.strip_prefix("$SYS") else { return false };
    let bridge = rest.strip_prefix("/broker/connection/").and_then(|rest| rest.strip_suffix("/state"));
    (rest.is_empty() || rest.starts_with('/')) && bridge.is_none_or(|name| name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(rules: &[(Effect, Action, &[&str])]) -> Authority {
        named("device-7", "alice", rules)
    }

    fn named(client_id: &str, subject: &str, rules: &[(Effect, Action, &[&str])]) -> Authority {
        let rules = rules.iter().map(|(effect, action, topics)| Rule {
            effect: *effect,
            action: *action,
            topics: topics.iter().map(|&t| Arc::from(t)).collect(),
        });
        let rules = rules.collect::<Vec<_>>().into();
        let passport =
            Passport { subject: subject.into(), client_id: client_id.into(), rules, expires_at_s: None };
        Authority::new(Arc::new(passport))
    }

    fn allow_subscribe(pattern: &str, filter: &str) -> bool {
        authority(&[(Effect::Allow, Action::Subscribe, &[pattern])]).may_subscribe(filter)
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        let nobody = authority(&[]);
        assert!(!nobody.may_publish("a"));
        assert!(!nobody.may_subscribe("a"));
    }

    #[test]
    fn an_unrestricted_passport_allows_all_but_publishing_to_sys() {
        let all = Authority::new(Arc::new(Passport::unrestricted("".into(), "c".into())));
        assert!(all.publish_all && all.subscribe_all);
        for filter in ["#", "a/+/b", "$SYS/#", "$share/group/a/#"] {
            assert!(all.may_subscribe(filter), "{filter}");
        }
        assert!(all.may_publish("a/b"));
        assert!(!all.may_publish("$SYS"));
        assert!(!all.may_publish("$SYS/broker/uptime"));
    }

    #[test]
    fn a_bridge_may_tell_its_state() {
        let all = Authority::new(Arc::new(Passport::unrestricted("".into(), "c".into())));
        assert!(all.may_publish("$SYS/broker/connection/bridge/state"));
        assert!(!all.may_publish("$SYS/broker/connection/bridge/other"));
        assert!(!all.may_publish("$SYS/broker/connection/a/b/state"));
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let rules: &[(Effect, Action, &[&str])] = &[
            (Effect::Deny, Action::Publish, &["alarms/fire"]),
            (Effect::Allow, Action::All, &["alarms/#"]),
            (Effect::Deny, Action::All, &["alarms/flood"]),
        ];
        let alarms = authority(rules);
        assert!(!alarms.may_publish("alarms/fire"));
        assert!(alarms.may_subscribe("alarms/fire"));
        assert!(alarms.may_publish("alarms/flood"));
        assert!(!alarms.may_publish("other"));
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
        assert!(most.may_publish("public/a"));
        assert!(!most.may_publish("secret/a"));
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
        let topics = [
            "a/b",
            "a",
            "a/secret",
            "b",
            "b/late",
            "b/c/d",
            "alice/b/x",
            "device-7/y",
            "d/y",
            "$SYS/a",
            "$x",
        ];
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
        let own: &[(Effect, Action, &[&str])] =
            &[(Effect::Allow, Action::All, &["devices/%c/#", "users/%u/+"])];
        let alice = authority(own);
        assert!(alice.may_publish("devices/device-7/state"));
        assert!(alice.may_subscribe("users/alice/+"));
        assert!(!alice.may_publish("devices/device-8/state"));
        assert!(!alice.may_subscribe("devices/+/state"));
        assert!(!alice.may_publish("devices/%c/state"));
    }

    #[test]
    fn an_identity_with_wildcards_or_slashes_gains_nothing() {
        let own: &[(Effect, Action, &[&str])] =
            &[(Effect::Allow, Action::All, &["devices/%c", "users/%u/x"])];
        for identity in ["+", "#", "a/b", ""] {
            let odd = named(identity, identity, own);
            assert!(!odd.may_subscribe("devices/+"), "{identity:?}");
            assert!(!odd.may_subscribe("devices/#"), "{identity:?}");
            assert!(!odd.may_publish("devices/a/b"), "{identity:?}");
            assert!(!odd.may_publish("users//x"), "{identity:?}");
        }
    }
}
