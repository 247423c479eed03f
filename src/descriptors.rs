//! Open files: how many there may be, and who may have them. Devices get what is left when the store, links and the admin
//! endpoint have theirs, so that no number of devices keeps the store from writing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin;

/// For the runtime, listeners (twice, for whoever follows), logs, and files that are read again.
const OTHERS: u64 = 32;

/// For the store on disk beside the tables that it keeps open: journals, what is being compacted, and locks.
const STORE: u64 = 32;

/// Tables that the store keeps open: one part in so many of all files, within these bounds.
const TABLES_PART: u64 = 8;
const TABLES_MIN: u64 = 24;
const TABLES_MAX: u64 = 900;

/// For links to workers.
const LINKS: u64 = 128;

/// A connection is an open file; the soft limit that a shell hands down is for programs that cannot take more.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
}

/// How many files the process may have open.
fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Tables that the store on disk may keep open.
pub(crate) fn tables_max() -> usize {
    tables_of(open_files_max())
}

fn tables_of(all: u64) -> usize {
    usize::try_from((all / TABLES_PART).clamp(TABLES_MIN, TABLES_MAX)).unwrap_or(usize::MAX)
}

/// Who needs open files beside devices.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beside {
    /// The store on disk.
    Store,
    /// Links to workers.
    Links,
}

/// How many connections of devices there may be, of those that are `wanted`. Says so.
pub(crate) fn connections_max(wanted: usize, beside: Beside) -> usize {
    let all = open_files_max();
    let connections_max = connections_of(all, wanted, beside);
    tracing::info!(connections_max, open_files_max = all, "connections of devices are bounded");
    connections_max
}

fn connections_of(all: u64, wanted: usize, beside: Beside) -> usize {
    let reserve = OTHERS
        + admin::CONNECTIONS_MAX as u64
        + match beside {
            Beside::Store => STORE + tables_of(all) as u64,
            Beside::Links => LINKS,
        };
    let left = usize::try_from(all.saturating_sub(reserve)).unwrap_or(usize::MAX);
    wanted.min(left.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_get_what_others_leave() {
        let (all, none) = (1_000_000, 1);
        for (files, beside, left) in [
            (300, Beside::Store, 300 - 32 - 64 - 32 - 37),
            (1_024, Beside::Store, 1_024 - 32 - 64 - 32 - 128),
            (65_536, Beside::Store, 65_536 - 32 - 64 - 32 - 900),
            (1_024, Beside::Links, 1_024 - 32 - 64 - 128),
            (u64::MAX, Beside::Store, all),
            (50, Beside::Store, none),
        ] {
            assert_eq!(connections_of(files, all, beside), left, "{files} {beside:?}");
        }
        assert_eq!(connections_of(65_536, 10, Beside::Store), 10);
    }
}
