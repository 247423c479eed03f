//! What stands for something of the client in topics of rules. `%c` and `%u` are compared by the worker where they stand;
//! `%{attribute}` is filled in when a passport is made. Each is one whole level.

use std::collections::BTreeMap;
use std::sync::Arc;

use link::{Effect, Rule};

use crate::DenyReason;

/// The Client Identifier.
pub(super) const CLIENT_ID: &str = "%c";

/// The user name.
pub(super) const SUBJECT: &str = "%u";

/// Bytes of an attribute's name.
const NAME_BYTES_MAX: usize = 64;

/// What a source says of a client, by name.
pub(super) type Attributes = BTreeMap<Arc<str>, Arc<str>>;

/// The name in `%{name}`.
fn attribute_of(level: &str) -> Option<&str> {
    level.strip_prefix("%{")?.strip_suffix('}')
}

/// Whether a level is one of them.
pub(super) fn is_placeholder(level: &str) -> bool {
    matches!(level, CLIENT_ID | SUBJECT) || attribute_of(level).is_some()
}

/// Refuses what looks like one and is none.
pub(super) fn check(topic: &str) -> Result<(), String> {
    for level in topic.split('/') {
        if let Some(name) = attribute_of(level) {
            if !is_name(name) {
                return Err(format!("{topic:?}: an attribute has 1 to 64 letters, digits, _ - or ."));
            }
        } else if !is_placeholder(level) && [CLIENT_ID, SUBJECT, "%{"].iter().any(|one| level.contains(one)) {
            return Err(format!("{topic:?}: %c, %u and %{{attribute}} stand for whole levels only"));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Which of them a list of rules uses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses {
    client_id: Place,
    subject: Place,
    pub(super) attributes: bool,
}

/// Where a placeholder is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    #[default]
    Nowhere,
    Within,
    /// As the first level, where `$` means something.
    First,
}

impl Uses {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut uses = Self::default();
        for topic in rules.iter().flat_map(|rule| rule.topics.iter().chain(&rule.literal)) {
            for (index, level) in topic.split('/').enumerate() {
                let place = if index == 0 { Place::First } else { Place::Within };
                match level {
                    CLIENT_ID => uses.client_id = uses.client_id.max(place),
                    SUBJECT => uses.subject = uses.subject.max(place),
                    _ => uses.attributes |= attribute_of(level).is_some(),
                }
            }
        }
        uses
    }

    /// Whether these may stand where the rules have them: a value that holds a separator or a wildcard could slip past a rule,
    /// and one with `$` in front reach what belongs to the server.
    pub(super) fn admit(&self, client_id: &str, subject: &str) -> bool {
        let fits = |place, value| match place {
            Place::Nowhere => true,
            Place::Within => is_one_level(value),
            Place::First => is_one_level(value) && !value.starts_with('$'),
        };
        fits(self.client_id, client_id) && fits(self.subject, subject)
    }
}

fn is_one_level(value: &str) -> bool {
    !value.is_empty() && !value.contains(['/', '+', '#'])
}

/// The rule with the client's attributes in their places. A topic of an *allow* rule whose attribute the client does not have is
/// left out.
///
/// # Errors
/// The client is refused: an attribute is more than one level, or a *deny* rule names one that it does not have.
pub(super) fn fill(rule: &Rule, attributes: &Attributes) -> Result<Rule, DenyReason> {
    let fill_all = |topics: &[Arc<str>]| -> Result<Vec<Arc<str>>, DenyReason> {
        let filled = topics.iter().map(|topic| fill_topic(topic, rule.effect, attributes));
        filled.filter_map(Result::transpose).collect()
    };
    Ok(Rule { topics: fill_all(&rule.topics)?, literal: fill_all(&rule.literal)?, ..rule.clone() })
}

fn fill_topic(
    topic: &Arc<str>,
    effect: Effect,
    attributes: &Attributes,
) -> Result<Option<Arc<str>>, DenyReason> {
    if !topic.contains("%{") {
        return Ok(Some(topic.clone()));
    }
    let mut filled = String::with_capacity(topic.len());
    for (index, level) in topic.split('/').enumerate() {
        if index > 0 {
            filled.push('/');
        }
        let Some(name) = attribute_of(level) else {
            filled.push_str(level);
            continue;
        };
        match attributes.get(name) {
            Some(value) if is_value(value, index) => filled.push_str(value),
            Some(_) => {
                tracing::debug!(attribute = name, "refused: its value is no level of a topic");
                return Err(DenyReason::NotAuthorized);
            }
            None if effect != Effect::Deny => return Ok(None),
            None => {
                tracing::debug!(attribute = name, "refused: a rule that forbids names what the client lacks");
                return Err(DenyReason::NotAuthorized);
            }
        }
    }
    Ok(Some(filled.into()))
}

/// Whether an attribute may stand for the level at `index`; not if the worker would take it for a placeholder.
fn is_value(value: &str, index: usize) -> bool {
    is_one_level(value)
        && !value.contains(char::is_control)
        && !matches!(value, CLIENT_ID | SUBJECT)
        && (index > 0 || !value.starts_with('$'))
}

#[cfg(test)]
mod tests {
    use link::Action;

    use super::*;

    fn rule(effect: Effect, topics: &[&str]) -> Rule {
        Rule::new(effect, Action::All, topics.iter().map(|&topic| topic.into()).collect())
    }

    fn attributes(list: &[(&str, &str)]) -> Attributes {
        list.iter().map(|&(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn attributes_stand_for_whole_levels() {
        let who = attributes(&[("site", "bern"), ("hall", "7 b"), ("empty", "")]);
        let topics = ["%{site}/#", "a/%{hall}/%c/%{site}", "a/%{none}", "b/+", "%{hall}"];
        let filled = fill(&rule(Effect::Allow, &topics), &who).unwrap();
        assert_eq!(filled.topics, ["bern/#", "a/7 b/%c/bern", "b/+", "7 b"].map(Arc::from));
        let literal = Rule { literal: vec!["%{site}/+".into()], ..rule(Effect::Allow, &[]) };
        assert_eq!(fill(&literal, &who).unwrap().literal, [Arc::from("bern/+")]);
    }

    #[test]
    fn a_value_that_is_not_one_level_refuses_the_client() {
        for value in ["", "a/b", "+", "#", "a+", "x#", "a\0", "a\n", "\u{7f}", "%c", "%u", "$SYS"] {
            let who = attributes(&[("site", value)]);
            for effect in [Effect::Allow, Effect::Deny] {
                let outcome = fill(&rule(effect, &["ok", "%{site}/x"]), &who);
                assert_eq!(outcome, Err(DenyReason::NotAuthorized), "{value:?}");
            }
        }
        let who = attributes(&[("site", "$SYS")]);
        assert_eq!(fill(&rule(Effect::Allow, &["a/%{site}"]), &who).unwrap().topics, [Arc::from("a/$SYS")]);
    }

    #[test]
    fn what_is_forbidden_by_an_attribute_that_is_missing_refuses_the_client() {
        let nobody = Attributes::new();
        assert_eq!(fill(&rule(Effect::Allow, &["%{a}"]), &nobody), Ok(rule(Effect::Allow, &[])));
        assert_eq!(fill(&rule(Effect::Deny, &["%{a}"]), &nobody), Err(DenyReason::NotAuthorized));
    }

    #[test]
    fn what_looks_like_a_placeholder_and_is_none_is_named() {
        for right in ["%c/%u", "a/%{b}/#", "%{a.b-c_D1}", "100%", "%d/%"] {
            check(right).unwrap();
        }
        let partial = "stand for whole levels only";
        for (wrong, text) in [
            ("a%c", partial),
            ("%cc/a", partial),
            ("a/x%{b}", partial),
            ("%{a/b}", partial),
            ("%{b", partial),
            ("%{}", "1 to 64 letters"),
            ("%{a b}", "1 to 64 letters"),
        ] {
            assert!(check(wrong).unwrap_err().contains(text), "{wrong}");
        }
    }

    #[test]
    fn a_client_is_judged_by_what_is_used_of_it() {
        let uses = |topic| Uses::of(&[rule(Effect::Allow, &[topic])]);
        for bad in ["", "+", "#", "a/b"] {
            assert!(!uses("a/%c").admit(bad, "u") && uses("a/%u").admit(bad, "u"), "{bad}");
            assert!(!uses("%u").admit("c", bad) && uses("a").admit(bad, bad), "{bad}");
        }
        assert!(uses("a/%c").admit("$SYS", "u") && !uses("%c/a").admit("$SYS", "u"));
        assert!(uses("%{x}").attributes && !uses("%c").attributes);
    }
}
