//! Rules that name groups, `group:NAME`: put together for each set of groups that clients come with, and shared by those that
//! come with the same.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use link::Rule;
use parking_lot::Mutex;

use super::{EVERYBODY, RuleConfig, RuleSet};

/// What a group is named with in `who`.
pub(super) const GROUP: &str = "group:";

/// Sets that are kept; beyond it all are made anew.
const SETS_MAX: usize = 4096;

/// Who it is, if rules name it, and which of the groups that rules name it is in.
type Key = (Option<Arc<str>>, Vec<Arc<str>>);

/// See the module.
pub(super) struct ByGroup {
    rules: Vec<RuleConfig>,
    /// The groups that rules name.
    names: BTreeSet<Arc<str>>,
    /// What comes last in each set.
    last: Vec<Rule>,
    made: Mutex<HashMap<Key, RuleSet>>,
}

impl ByGroup {
    pub(super) fn new(rules: &[RuleConfig], last: &[Rule]) -> Self {
        let who = rules.iter().flat_map(|rule| &rule.who);
        let names = who.filter_map(|who| who.strip_prefix(GROUP)).map(Arc::from).collect();
        Self { rules: rules.to_vec(), names, last: last.to_vec(), made: Mutex::default() }
    }

    /// The rules for who is in `groups`, and is `subject` if rules name it; `None` if no rule names any of them.
    pub(super) fn rules_of(&self, subject: Option<&Arc<str>>, groups: &[Arc<str>]) -> Option<RuleSet> {
        let named: BTreeSet<&Arc<str>> = groups.iter().filter(|group| self.names.contains(*group)).collect();
        if named.is_empty() {
            return None;
        }
        let key = (subject.cloned(), named.into_iter().cloned().collect());
        let mut made = self.made.lock();
        if let Some(set) = made.get(&key) {
            return Some(set.clone());
        }
        let set = self.make(&key);
        if made.len() >= SETS_MAX {
            made.clear();
        }
        made.insert(key, set.clone());
        Some(set)
    }

    fn make(&self, (subject, groups): &Key) -> RuleSet {
        let applies = |who: &Arc<str>| match who.strip_prefix(GROUP) {
            Some(group) => groups.iter().any(|of| &**of == group),
            None => &**who == EVERYBODY || Some(who) == subject.as_ref(),
        };
        let rules = self.rules.iter().filter(|rule| rule.who.iter().any(applies));
        RuleSet::new(rules.map(RuleConfig::compile).chain(self.last.iter().cloned()).collect())
    }
}
