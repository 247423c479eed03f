//! What a start finds. An unfinished write at the end of the journal is cut off; damage is refused, or set aside when the
//! configuration says so; what had been acknowledged and is gone is told, whatever the cause. Journals are looked at before
//! the database reads them, keyspaces after it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

use super::config::{Fsync, OpenError};
use super::damage::{Damage, OnDamage};
use super::directory::{Directory, DirectoryError};
use super::journal_file::{self, JournalFile, Scan};
use super::layout::Keyspace;
use super::mark::{Mark, Progress};

/// Why a database cannot be used.
#[derive(Debug, Error)]
pub(super) enum DiskError {
    #[error(transparent)]
    Database(#[from] fjall::Error),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Damaged(#[from] Damage),
}

impl From<DirectoryError> for DiskError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Io { action, path, source } => Self::Io { action, path, source },
            DirectoryError::Damaged(damage) => Self::Damaged(damage),
        }
    }
}

impl DiskError {
    /// Tells what this machine refuses for now from what is wrong with the files.
    pub(super) fn of_reading(error: fjall::Error) -> Self {
        let cause = match &error {
            fjall::Error::Io(cause) | fjall::Error::Storage(fjall::LsmError::Io(cause)) => Some(cause),
            _ => None,
        };
        let of_machine = cause.is_some_and(|io| io.raw_os_error().is_some() && !is_of_files(io.kind()));
        match error {
            fjall::Error::Locked => Self::Database(error),
            error if of_machine => Self::Database(error),
            error => Self::Damaged(Damage::Unreadable(error)),
        }
    }

    /// As who opens the store is told.
    pub(super) fn of_store(self, dir: &Path) -> OpenError {
        let dir = dir.to_owned();
        match self {
            Self::Database(source) => OpenError::Database { dir, source },
            Self::Io { action, path, source } => OpenError::Io { action, path, source },
            Self::Damaged(damage) => {
                tracing::error!(%damage, "the store is damaged");
                OpenError::Damaged { dir, damage }
            }
        }
    }
}

/// Whether files that are missing, empty or cut short look like this.
fn is_of_files(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, InvalidInput, IsADirectory, NotADirectory, NotFound};
    matches!(kind, AlreadyExists | InvalidInput | IsADirectory | NotADirectory | NotFound)
}

/// What was found in the journals.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// The newest batch in them.
    last: Option<Progress>,
    newest_journal: u64,
    /// Something is missing between what is there.
    is_partial: bool,
}

/// Looks at the journals; cuts off an unfinished write.
///
/// # Errors
/// Damage, unless it is to be set aside. Nothing is changed then.
pub(super) fn inspect(directory: &Directory, fsync: Fsync, policy: OnDamage) -> Result<Ends, DiskError> {
    let mark = directory.mark.lock().mark;
    let read = |path: &Path, source| DiskError::Io { action: "read", path: path.to_owned(), source };
    let journals =
        journal_file::list(&directory.database).map_err(|source| read(&directory.database, source))?;
    let mut ends = Ends { newest_journal: journals.last().map_or(0, |newest| newest.id), ..Ends::default() };
    for id in missing(&journals, mark.map_or(0, |mark| mark.journal)) {
        accept(Damage::JournalMissing { id }, policy)?;
        ends.is_partial = true;
    }
    let keyspaces = directory.database.join("keyspaces");
    check_tables(&keyspaces).map_err(|source| read(&keyspaces, source))??;
    let mut spoilt = Vec::new();
    for journal in &journals {
        let scan = Scan::of(&journal.path).map_err(|source| read(&journal.path, source))?;
        let is_sealed = journal.id != ends.newest_journal;
        if !scan.is_clean() {
            let is_damage = is_sealed || proves_damage(&scan, ends.last, mark, fsync);
            spoilt.push((journal, is_damage));
            if is_damage {
                accept(damage(journal, &scan), policy)?;
                ends.is_partial = true;
                ends.last = scan.behind.iter().filter_map(|(_, batch)| batch.progress).next_back();
            }
        }
        ends.last = ends.last.max(scan.whole.last);
    }
    for (journal, is_damage) in spoilt {
        let scan = Scan::of(&journal.path).map_err(|source| read(&journal.path, source))?;
        let mended = if is_damage { leave_out(directory, journal, &scan) } else { cut(journal, &scan) };
        mended.map_err(|source| DiskError::Io { action: "mend", path: journal.path.clone(), source })?;
    }
    Ok(ends)
}

/// Checks that the list of tables of each keyspace is the one that was written last. The database believes whatever it finds,
/// and removes a keyspace that has no list.
fn check_tables(keyspaces: &Path) -> io::Result<Result<(), Damage>> {
    if !keyspaces.exists() {
        return Ok(Ok(()));
    }
    for entry in std::fs::read_dir(keyspaces)? {
        let path = entry?.path();
        let has_tables =
            || std::fs::read_dir(path.join("tables")).is_ok_and(|mut tables| tables.next().is_some());
        let is_whole = match std::fs::read(path.join("current")) {
            // Its number, its checksum, and which kind of checksum that is.
            Ok(current) => match current.split_first_chunk() {
                Some((number, rest)) => {
                    let list = std::fs::read(path.join(format!("v{}", u64::from_le_bytes(*number))));
                    let found = list.map(|list| xxh3_128(&list).to_le_bytes()).unwrap_or_default();
                    rest.split_last() == Some((&0, &found[..]))
                }
                None => false,
            },
            // It was not made to the end.
            Err(error) => error.kind() == ErrorKind::NotFound && !has_tables(),
        };
        if !is_whole {
            let name = path.file_name().unwrap_or_default().display();
            return Ok(Err(Damage::Tables { dir: format!("keyspaces/{name}") }));
        }
    }
    Ok(Ok(()))
}

/// Journals that are missing among these, or after them.
fn missing(journals: &[JournalFile], newest: u64) -> Vec<u64> {
    let between = journals.windows(2).flat_map(|pair| match pair {
        [before, after] => before.id + 1..after.id,
        _ => 0..0,
    });
    let after = match journals.last() {
        Some(last) => last.id + 1..newest.saturating_add(1).max(last.id + 1),
        None => newest..newest.saturating_add(1),
    };
    between.chain(after).collect()
}

/// Whether what cannot be read in the newest journal was safe from power loss before what is behind it was written.
fn proves_damage(scan: &Scan, last: Option<Progress>, mark: Option<Mark>, fsync: Fsync) -> bool {
    let store = mark.map(|mark| mark.store).or(scan.whole.last.or(last).map(|last| last.store));
    let Some(store) = store else {
        // Of an older version, which did not say: then each batch was written when the one before it was safe.
        return !scan.behind.is_empty() && fsync == Fsync::Always;
    };
    let behind = || scan.behind.iter().filter_map(|(_, batch)| batch.progress.filter(|is| is.store == store));
    let Some(first) = behind().next() else { return false };
    let broken = scan.whole.last.or(last).map_or(first.number - 1, |last| last.number + 1);
    let synced = behind().map(|behind| behind.synced).max().max(mark.map(|mark| mark.synced));
    synced >= Some(broken)
}

fn damage(journal: &JournalFile, scan: &Scan) -> Damage {
    let readable: u64 = scan.behind.iter().map(|(_, batch)| batch.bytes).sum();
    Damage::Journal {
        file: format!("{}.jnl", journal.id),
        at: scan.whole.end,
        bytes: (scan.rest.len() as u64).saturating_sub(readable),
        batches: scan.behind.len(),
        records: scan.behind.iter().map(|(_, batch)| batch.records).sum(),
    }
}

/// Says it; answers it as an error unless it is to be set aside.
fn accept(damage: Damage, policy: OnDamage) -> Result<(), DiskError> {
    match policy {
        OnDamage::Refuse => Err(damage.into()),
        OnDamage::SetAside => {
            tracing::error!(%damage, "the store is damaged, and goes on with the rest");
            Ok(())
        }
    }
}

/// Cuts off an unfinished write.
fn cut(journal: &JournalFile, scan: &Scan) -> io::Result<()> {
    tracing::warn!(
        journal = %journal.path.display(),
        at = scan.whole.end,
        bytes = scan.rest.len(),
        whole_batches = scan.behind.len(),
        records = scan.behind.iter().map(|(_, batch)| batch.records).sum::<u64>(),
        "the last write of the journal was not finished, as when the power goes or the disk is full, and is cut off"
    );
    let file = OpenOptions::new().write(true).open(&journal.path)?;
    file.set_len(scan.whole.end)?;
    file.sync_all()
}

/// Keeps a journal as it is elsewhere, and leaves out of it what cannot be read.
fn leave_out(directory: &Directory, journal: &JournalFile, scan: &Scan) -> io::Result<()> {
    let aside = directory.aside()?;
    let whole = usize::try_from(scan.whole.end).map_err(io::Error::other)?;
    let bytes = std::fs::read(&journal.path)?;
    let bytes = bytes.get(..whole + scan.rest.len()).unwrap_or(&bytes);
    let name = journal.path.file_name().unwrap_or_default();
    write_whole(&aside.join(name), &[bytes])?;
    let new = journal.path.with_extension("new");
    write_whole(&new, &[bytes.get(..whole).unwrap_or_default(), &scan.behind_bytes()])?;
    std::fs::rename(&new, &journal.path)?;
    tracing::error!(kept = %aside.display(), "the damaged journal is kept as it was");
    File::open(&directory.database)?.sync_all()
}

fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// Compares what the keyspaces hold with what was acknowledged. Answers the mark from which the store goes on, and whether
/// something is missing between what is there.
///
/// # Errors
/// Something is missing that the end of the journal does not explain, and that is not accepted.
pub(super) fn compare(
    mark: Option<Mark>,
    found: &[Progress],
    ends: &Ends,
    policy: OnDamage,
) -> Result<(Mark, bool), DiskError> {
    let newest = found.iter().map(|found| found.number).max().unwrap_or_default();
    let mut is_partial = ends.is_partial;
    let is_of = |mark: &Mark| found.iter().all(|found| found.store == 0 || found.store == mark.store);
    let Some(mark) = mark.filter(is_of) else {
        let store = found.iter().map(|found| found.store).find(|store| *store != 0);
        let fresh = Mark::new();
        let fresh = Mark { store: store.unwrap_or(fresh.store), ..fresh };
        return Ok((at(fresh, newest, found, ends), is_partial));
    };
    let journals_end = ends.last.map_or(0, |last| last.number);
    let mut is_end_gone = false;
    for ((keyspace, found), expected) in Keyspace::ALL.iter().zip(found).zip(mark.touched) {
        if found.number >= expected {
            continue;
        }
        if expected > journals_end {
            is_end_gone = true;
            continue;
        }
        let damage = Damage::Behind { keyspace: keyspace.name(), found: found.number, expected };
        accept(damage, if ends.is_partial { OnDamage::SetAside } else { policy })?;
        is_partial = true;
    }
    if is_end_gone {
        tracing::error!(
            batches = mark.synced.saturating_sub(newest),
            first = newest + 1,
            last = mark.synced,
            "the last batches that were acknowledged are gone: the disk has lost what it had confirmed"
        );
    } else if mark.answered > newest.max(mark.synced) {
        tracing::warn!(
            batches = mark.answered - newest,
            first = newest + 1,
            last = mark.answered,
            "the last batches that were acknowledged are gone: with fsync = \"interval\" they were not safe from power loss"
        );
    }
    Ok((at(mark, newest.max(mark.answered), found, ends), is_partial))
}

/// A mark that goes on from what was found.
fn at(mark: Mark, number: u64, found: &[Progress], ends: &Ends) -> Mark {
    let mut found = found.iter().map(|found| found.number);
    let touched = std::array::from_fn(|_| found.next().unwrap_or_default());
    Mark { synced: number, answered: number, journal: ends.newest_journal, touched, ..mark }
}

#[cfg(test)]
mod tests;
