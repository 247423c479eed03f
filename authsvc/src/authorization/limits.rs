//! `[[authorization.limits]]`: what bounds whom. For each limit the first entry counts that is about the client and has it; what its
//! source says comes before all of them.

use std::collections::HashSet;
use std::sync::Arc;

use link::{Limits, SettingError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::who::Who;
use crate::AuthError;
use crate::verdict::Grant;

/// Different limits that are kept to be shared; beyond it all are made anew.
const SHARED_MAX: usize = 1024;

/// One `[[authorization.limits]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// As in a rule; besides, `attribute:NAME=VALUE` for those of whom their source says so.
    pub who: Vec<Arc<str>>,
    /// What bounds them.
    #[serde(flatten)]
    pub limits: Limits,
}

impl LimitsConfig {
    /// Refuses one that could never apply as written.
    pub(crate) fn check(&self) -> Result<(), SettingError> {
        if self.who.is_empty() {
            return Err(wrong_who("is empty: name users, \"*\" or \"anonymous\""));
        }
        if self.limits.is_empty() {
            return Err(wrong_who("is alone: an entry needs a limit, such as subscriptions_max"));
        }
        self.limits.check_bounds("")
    }
}

fn wrong_who(problem: impl Into<String>) -> SettingError {
    SettingError::new("", "who", problem)
}

/// Whom an entry is about.
enum Selector {
    Who(Who),
    Attribute(Arc<str>, Arc<str>),
}

impl Selector {
    fn parse(who: &Arc<str>) -> Result<Self, String> {
        match who.strip_prefix("attribute:").map(|rest| rest.split_once('=')) {
            None => Who::parse(who).map(Self::Who),
            Some(Some((name, value))) if !name.is_empty() => Ok(Self::Attribute(name.into(), value.into())),
            Some(_) => Err("attribute: needs a name and a value, as in \"attribute:site=bern\"".to_owned()),
        }
    }

    /// Without a grant it is about clients that did not have to authenticate.
    fn is_about(&self, grant: Option<&Grant>) -> bool {
        match (self, grant) {
            (Self::Who(who), None) => *who == Who::Anonymous,
            (Self::Who(who), Some(grant)) => who.is_about(&grant.subject, &grant.groups),
            (Self::Attribute(..), None) => false,
            (Self::Attribute(name, value), Some(grant)) => grant.attributes.get(name) == Some(value),
        }
    }
}

/// All of them, in their order.
pub(super) struct LimitsTable {
    entries: Vec<(Vec<Selector>, Limits)>,
    /// Clients with equal limits share them.
    shared: Mutex<HashSet<Arc<Limits>>>,
}

impl LimitsTable {
    /// # Errors
    /// The first entry that could never apply as written.
    pub(super) fn new(config: &[LimitsConfig]) -> Result<Self, AuthError> {
        let entries = config.iter().enumerate().map(|(index, entry)| -> Result<_, AuthError> {
            let wrong = |error| AuthError::Limits { index, error };
            entry.check().map_err(wrong)?;
            let who = entry.who.iter().map(Selector::parse).collect::<Result<_, _>>();
            Ok((who.map_err(|problem: String| wrong(wrong_who(problem)))?, entry.limits.clone()))
        });
        Ok(Self { entries: entries.collect::<Result<_, _>>()?, shared: Mutex::default() })
    }

    /// Those of a client; `None` if nothing bounds it.
    pub(super) fn of(&self, grant: Option<&Grant>) -> Option<Arc<Limits>> {
        let granted = grant.and_then(|grant| grant.limits.as_deref());
        if self.entries.is_empty() && granted.is_none() {
            return None;
        }
        let about = self.entries.iter().filter(|(who, _)| who.iter().any(|who| who.is_about(grant)));
        let limits = about.fold(granted.cloned().unwrap_or_default(), |limits, (_, more)| limits.or(more));
        if limits.is_empty() {
            return None;
        }
        let mut shared = self.shared.lock();
        if let Some(known) = shared.get(&limits) {
            return Some(known.clone());
        }
        if shared.len() >= SHARED_MAX {
            shared.clear();
        }
        let limits = Arc::new(limits);
        shared.insert(limits.clone());
        Some(limits)
    }
}

/// What a source says in the form of an entry without `who`.
///
/// # Errors
/// It is none: what is wrong with it.
pub(crate) fn read_limits(limits: &serde_json::Value) -> Result<Option<Box<Limits>>, String> {
    let Some(mut entry) = limits.as_object().cloned() else { return Err("are no object".to_owned()) };
    if entry.insert("who".to_owned(), vec!["*"].into()).is_some() {
        return Err("have a who, which is not for a source to say".to_owned());
    }
    let entry: LimitsConfig =
        serde_json::from_value(entry.into()).map_err(|error| format!("are not as documented: {error}"))?;
    let problem = |error: SettingError| format!("are out of bounds: {} {}", error.key, error.problem);
    entry.limits.check_bounds("").map_err(problem)?;
    Ok((!entry.limits.is_empty()).then(|| Box::new(entry.limits)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn entry(who: &[&str], limits: Limits) -> LimitsConfig {
        LimitsConfig { who: who.iter().map(|&who| who.into()).collect(), limits }
    }

    fn sessions(max: u32) -> Limits {
        Limits { sessions_max: Some(max), ..Limits::default() }
    }

    fn of_whom(table: &LimitsTable, grant: &Grant) -> Option<(Option<u32>, Option<u8>)> {
        table.of(Some(grant)).map(|limits| (limits.sessions_max, limits.qos_max))
    }

    #[test]
    fn for_each_limit_the_first_entry_counts_that_has_it() {
        let low_qos = Limits { qos_max: Some(0), ..Limits::default() };
        let table = LimitsTable::new(&[
            entry(&["alice", "group:staff"], sessions(100)),
            entry(&["attribute:site=bern"], low_qos),
            entry(&["*", "anonymous"], Limits { qos_max: Some(1), ..sessions(5) }),
        ])
        .unwrap();
        let plain = Grant::of("bob".into());
        assert_eq!(of_whom(&table, &plain), Some((Some(5), Some(1))));
        assert_eq!(of_whom(&table, &Grant::of("alice".into())), Some((Some(100), Some(1))));
        let staff = Grant { groups: vec!["staff".into()], ..plain.clone() };
        assert_eq!(of_whom(&table, &staff), Some((Some(100), Some(1))));
        let bern = Grant { attributes: BTreeMap::from([("site".into(), "bern".into())]), ..plain.clone() };
        assert_eq!(of_whom(&table, &bern), Some((Some(5), Some(0))));
        let granted = Grant { limits: Some(Box::new(sessions(7))), ..bern };
        assert_eq!(of_whom(&table, &granted), Some((Some(7), Some(0))));
        assert_eq!(table.of(None).unwrap().sessions_max, Some(5));
        assert!(Arc::ptr_eq(&table.of(Some(&plain)).unwrap(), &table.of(None).unwrap()), "shared");
    }

    #[test]
    fn who_is_not_meant_is_not_bounded() {
        let none = LimitsTable::new(&[]).unwrap();
        assert!(none.of(None).is_none() && none.of(Some(&Grant::of("a".into()))).is_none());
        let others = LimitsTable::new(&[entry(&["*"], sessions(1))]).unwrap();
        assert!(others.of(None).is_none());
        let named = LimitsTable::new(&[entry(&["alice"], sessions(1))]).unwrap();
        assert!(named.of(Some(&Grant::of("a".into()))).is_none());
    }

    #[test]
    fn an_entry_that_cannot_apply_is_named() {
        for (bad, expected) in [
            (entry(&[], sessions(1)), "who is empty: name users, \"*\" or \"anonymous\""),
            (
                entry(&["*"], Limits::default()),
                "who is alone: an entry needs a limit, such as subscriptions_max",
            ),
            (entry(&["*"], sessions(0)), "sessions_max must be at least 1"),
            (entry(&["group:"], sessions(1)), "who group: needs a name, as in \"group:staff\""),
            (
                entry(&["attribute:=x"], sessions(1)),
                "who attribute: needs a name and a value, as in \"attribute:site=bern\"",
            ),
            (
                entry(&["attribute:x"], sessions(1)),
                "who attribute: needs a name and a value, as in \"attribute:site=bern\"",
            ),
        ] {
            let error = LimitsTable::new(&[entry(&["*"], sessions(1)), bad]).err().unwrap();
            assert_eq!(error.to_string(), format!("authorization.limits[1].{expected}"));
        }
    }

    #[test]
    fn what_a_source_says_is_read_to_the_letter() {
        assert_eq!(read_limits(&json!({})), Ok(None));
        assert_eq!(read_limits(&json!({"sessions_max": 3})), Ok(Some(Box::new(sessions(3)))));
        for (wrong, expected) in [
            (json!(3), "are no object"),
            (json!({"sessions_max": 0}), "are out of bounds: sessions_max must be at least 1"),
            (json!({"sessions_max": "3"}), "are not as documented: "),
            (json!({"session_max": 3}), "are not as documented: unknown field `session_max`"),
            (json!({"who": ["*"]}), "have a who"),
        ] {
            let problem = read_limits(&wrong).unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
        }
    }
}
