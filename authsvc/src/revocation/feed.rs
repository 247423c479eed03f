//! The list as it is told to who follows it from another process.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::REVOKED_S_MAX;
use super::list::{Revocation, Revocations};
use super::target::{RevokeReason, Target};

/// One entry as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    id: u64,
    #[serde(flatten)]
    pub(crate) target: Target,
    pub(crate) reason: RevokeReason,
    /// How long ago it was revoked, milliseconds: clocks may differ.
    age_ms: u64,
    /// For how long nobody new comes, milliseconds from now on.
    pub(super) lasts_ms: u64,
}

/// The answer of `GET /v1/revocations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Feed {
    pub(crate) replica: String,
    pub(crate) newest: u64,
    pub(crate) has_missed: bool,
    /// Names the rules in force.
    #[serde(default)]
    pub(crate) rules: String,
    pub(crate) revocations: Vec<Entry>,
}

impl Feed {
    /// What `list` has after `after`.
    pub(crate) fn new(list: &Revocations, after: u64) -> Self {
        let told = list.since(after);
        let now = Instant::now();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let entry = |entry: Revocation| Entry {
            id: entry.id,
            target: entry.target,
            reason: entry.reason,
            age_ms: ms(now.saturating_duration_since(entry.at)),
            lasts_ms: ms(entry.until.saturating_duration_since(now)),
        };
        Self {
            replica: list.replica().to_owned(),
            newest: told.newest,
            has_missed: told.has_missed,
            rules: list.rules().to_string(),
            revocations: told.entries.into_iter().map(entry).collect(),
        }
    }
}

impl Entry {
    /// Adds it to the list of who follows.
    pub(crate) fn add_to(self, list: &Revocations) {
        let now = Instant::now();
        let age = Duration::from_millis(self.age_ms);
        let lasts = Duration::from_millis(self.lasts_ms).min(Duration::from_secs(REVOKED_S_MAX));
        // A machine that has run for less time than that had no connections then.
        let Some(at) = now.checked_sub(age) else { return };
        list.add(self.target, self.reason, at, now + lasts);
    }
}
