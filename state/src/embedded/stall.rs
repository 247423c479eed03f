//! Waiting for the database. In places it waits for its worker without a look at whether that is there still, and the worker
//! ends for good when it cannot write a table, as when the disk is full: whoever is in one of these places then never
//! comes out. So they are kept out of; what waits here is told when the database works no more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fjall::{AbstractTree, Database, Keyspace, PersistMode};

/// Between looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// With this many sealed memtables a write waits here; with one more it would wait inside. Sealing one takes the worker, or
/// [`write_tables`] where there is none: so none becomes too many while it writes.
const SEALED_MAX: usize = 3;

/// With this many runs of new tables a write waits here; with one more it would wait inside.
const RUNS_MAX: usize = 29;

/// Waits until a write would wait for nothing.
///
/// # Errors
/// The database works no more.
pub(super) fn wait_for_room(database: &Database, keyspaces: &[Keyspace]) -> fjall::Result<()> {
    let is_full = |keyspace: &Keyspace| {
        keyspace.sealed_memtable_count() >= SEALED_MAX || keyspace.tree.l0_run_count() >= RUNS_MAX
    };
    while keyspaces.iter().any(is_full) {
        check(database)?;
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// Has what is in memory of a keyspace written to tables, and waits for that. False if it is stopped before.
///
/// # Errors
/// The database works no more.
pub(super) fn write_tables(
    database: &Database,
    keyspace: &Keyspace,
    is_stopped: &AtomicBool,
) -> fjall::Result<bool> {
    let mut is_sealed = false;
    loop {
        check(database)?;
        if is_stopped.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if keyspace.sealed_memtable_count() == 0 {
            if is_sealed || !keyspace.rotate_memtable()? {
                return Ok(true);
            }
            is_sealed = true;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn check(database: &Database) -> fjall::Result<()> {
    // It says so before it does anything; what it does is little.
    database.persist(PersistMode::Buffer)
}

#[cfg(test)]
mod tests {
    use fjall::KeyspaceCreateOptions;

    use super::*;

    #[test]
    fn who_waits_for_room_is_told_that_there_will_be_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = Database::builder(dir.path()).worker_threads(1).open().expect("a database");
        let keyspace = database.keyspace("k", KeyspaceCreateOptions::default).expect("a keyspace");
        let keyspaces = [keyspace.clone()];
        wait_for_room(&database, &keyspaces).expect("there is room");
        let tables = keyspace.path().join("tables");
        std::fs::remove_dir_all(&tables).expect("removed");
        std::fs::write(&tables, b"").expect("nothing can be written there");
        for number in 0..SEALED_MAX {
            // The worker ends with the first of them, and nothing is taken from then on.
            keyspace.tree.insert(number.to_be_bytes(), "x", number as u64);
            keyspace.rotate_memtable().expect("sealed");
        }
        assert!(matches!(wait_for_room(&database, &keyspaces), Err(fjall::Error::Poisoned)));
    }
}
