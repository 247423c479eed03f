//! Lines `pattern`: `%c` and `%u` may be part of a level, and their values more than one, as Mosquitto has it. Where they are
//! whole levels on both sides, rules are shared between clients and the worker compares; else they are filled in here.

use std::sync::Arc;

use link::Rule;

use super::Section;
use crate::authorization::placeholder::{CLIENT_ID, SUBJECT, is_placeholder};

/// The rules of all lines `pattern`.
#[derive(Clone, Debug, Default)]
pub(in crate::authorization) struct Patterns {
    pub(in crate::authorization) rules: Vec<Rule>,
    uses_subject: bool,
    /// Some placeholder is not a whole level.
    is_partial: bool,
}

/// What of the patterns is for one client.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::authorization) enum Fit {
    /// The rules as they are.
    Shared,
    /// These.
    Own(Vec<Rule>),
    /// None, and nothing that comes after them: its name or Client Identifier holds a wildcard.
    Nothing,
}

impl Patterns {
    pub(in crate::authorization) fn new(section: &Section) -> Self {
        let rules = section.rules();
        let levels = || rules.iter().flat_map(|rule| &rule.topics).flat_map(|topic| topic.split('/'));
        let is_partial = |level: &str| has_any(level) && !is_placeholder(level);
        Self {
            uses_subject: levels().any(|level| level.contains(SUBJECT)),
            is_partial: levels().any(is_partial),
            rules,
        }
    }

    /// What of them is for this client; `subject` is empty for those without a user name.
    pub(in crate::authorization) fn fit(&self, client_id: &str, subject: &str) -> Fit {
        if self.rules.is_empty() {
            return Fit::Shared;
        }
        let mut values = [client_id, subject].into_iter();
        // A level that the worker would take for a placeholder has no place in a pattern either.
        if values.any(|value| value.contains(['+', '#']) || value.split('/').any(is_placeholder)) {
            return Fit::Nothing;
        }
        let has_more_levels = client_id.contains('/') || subject.contains('/');
        let lacks_subject = subject.is_empty() && self.uses_subject;
        let is_own = self.is_partial || has_more_levels || lacks_subject;
        if is_own { Fit::Own(fill(&self.rules, client_id, subject)) } else { Fit::Shared }
    }
}

/// The rules with these values in their places.
pub(in crate::authorization) fn fill(rules: &[Rule], client_id: &str, subject: &str) -> Vec<Rule> {
    let fill_rule = |rule: &Rule| {
        let topics = rule.topics.iter().filter(|topic| !(subject.is_empty() && topic.contains(SUBJECT)));
        Rule { topics: topics.map(|topic| fill_topic(topic, client_id, subject)).collect(), ..rule.clone() }
    };
    rules.iter().map(fill_rule).collect()
}

/// Each placeholder once: a value is not looked into.
fn fill_topic(topic: &Arc<str>, client_id: &str, subject: &str) -> Arc<str> {
    if !has_any(topic) {
        return topic.clone();
    }
    let mut filled = String::with_capacity(topic.len() + client_id.len() + subject.len());
    let mut rest: &str = topic;
    while let Some(at) = [CLIENT_ID, SUBJECT].iter().filter_map(|one| rest.find(one)).min() {
        let (before, from) = rest.split_at(at);
        let (placeholder, after) = from.split_at(CLIENT_ID.len());
        filled.push_str(before);
        filled.push_str(if placeholder == CLIENT_ID { client_id } else { subject });
        rest = after;
    }
    filled.push_str(rest);
    filled.into()
}

fn has_any(text: &str) -> bool {
    text.contains(CLIENT_ID) || text.contains(SUBJECT)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::authorization::acl_file::AclFile;

    fn patterns(text: &str) -> Patterns {
        Patterns::new(&AclFile::parse(text.as_bytes(), Path::new("acl")).unwrap().patterns)
    }

    fn own(patterns: &Patterns, client_id: &str, subject: &str) -> Vec<String> {
        let Fit::Own(rules) = patterns.fit(client_id, subject) else { panic!("not filled in") };
        rules.iter().flat_map(|rule| rule.topics.iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn whole_levels_are_shared() {
        let whole = patterns("pattern read %u/%c/#\npattern write all\n");
        assert_eq!(whole.fit("c", "u"), Fit::Shared);
        assert_eq!(own(&whole, "a/b", "u"), ["all", "u/a/b/#"]);
        assert_eq!(own(&whole, "c", ""), ["all"], "nobody without a name");
        assert_eq!(patterns("pattern read a/%c\n").fit("c", ""), Fit::Shared);
        assert_eq!(patterns("").fit("+", "#"), Fit::Shared);
    }

    #[test]
    fn parts_of_levels_are_filled_in_once() {
        let part = patterns("pattern read dev-%c-%c/%u/x%u\n");
        assert_eq!(own(&part, "7", "bob"), ["dev-7-7/bob/xbob"]);
        assert_eq!(own(&part, "x%u", "bob"), ["dev-x%u-x%u/bob/xbob"]);
    }

    #[test]
    fn wildcards_in_a_name_leave_nothing() {
        for text in ["pattern read %c\n", "pattern read open\n"] {
            let all = patterns(text);
            for (client_id, subject) in
                [("a+", "u"), ("#", "u"), ("c", "+"), ("c", "a#"), ("%u", "u"), ("c", "a/%c")]
            {
                assert_eq!(all.fit(client_id, subject), Fit::Nothing, "{client_id} {subject}");
            }
        }
    }
}
