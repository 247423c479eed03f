//! The directory of a store: one process at a time, a format record that says who may read it, and a place for what is
//! damaged.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use files::private;
use parking_lot::Mutex;

use super::config::OpenError;
use super::damage::Damage;
use super::mark::{Mark, MarkFile};

/// What this version writes and reads.
const FORMAT: &str = "tidegate state 1\n";

/// A directory that this process has to itself, until it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    /// Where the database is.
    pub(super) database: PathBuf,
    /// How far the store has come.
    pub(super) mark: Mutex<MarkFile>,
    dir: PathBuf,
    _lock: File,
}

impl Directory {
    /// Takes a directory, makes it if needed, and checks its format.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        private::make_dir(dir).map_err(|source| io("make", dir, source))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| io("open", &path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("lock", &path, source)),
        }
        tighten(dir);
        let database = dir.join("db");
        check_format(dir, &database)?;
        let path = dir.join("progress");
        let mark = MarkFile::open(&path).map_err(|source| io("open", &path, source))?;
        Ok(Self { database, mark: Mutex::new(mark), dir: dir.to_owned(), _lock: lock })
    }

    /// Has a database made if there is none: it is there whole, or not at all.
    pub(super) fn make_database<E: From<DirectoryError>>(
        &self,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.database.exists() {
            return Ok(());
        }
        if let Some(batches) = self.mark.lock().mark.map(|mark| mark.answered).filter(|batches| *batches > 0)
        {
            return Err(DirectoryError::Damaged(Damage::DatabaseMissing { batches }).into());
        }
        let new = self.dir.join("db.new");
        let failed = |action, source| DirectoryError::Io { action, path: new.clone(), source };
        match std::fs::remove_dir_all(&new) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(failed("remove", source).into());
            }
            Ok(()) | Err(_) => {}
        }
        make(&new)?;
        let moved = std::fs::rename(&new, &self.database).and_then(|()| File::open(&self.dir)?.sync_all());
        moved.map_err(|source| failed("move", source))?;
        let written = self.mark.lock().write_safely(Mark::new());
        Ok(written.map_err(|source| failed("write beside", source))?)
    }

    /// A new directory for what is damaged.
    pub(super) fn aside(&self) -> std::io::Result<PathBuf> {
        let all = self.dir.join("damaged");
        private::make_dir(&all)?;
        for number in 1_u32.. {
            let aside = all.join(number.to_string());
            match std::fs::create_dir(&aside) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| aside),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Keeps the whole database elsewhere: the store begins anew. Where it is kept.
    pub(super) fn set_aside(&self) -> std::io::Result<PathBuf> {
        let kept = self.aside()?.join("db");
        match std::fs::rename(&self.database, &kept) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.mark.lock().write_safely(Mark::new())?;
        Ok(kept)
    }
}

/// Why a directory has no database.
#[derive(Debug)]
pub(super) enum DirectoryError {
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    Damaged(Damage),
}

/// What an earlier version left open to others, payloads among it, is closed to them.
fn tighten(dir: &Path) {
    match private::tighten(dir) {
        Ok(0) => {}
        Ok(count) => {
            tracing::warn!(dir = %dir.display(), count, "others could read files of the store; now they cannot");
        }
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "others may be able to read files of the store");
        }
    }
}

fn check_format(dir: &Path, database: &Path) -> Result<(), OpenError> {
    let path = dir.join("format");
    match std::fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => Err(unknown(dir, found.trim_end())),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("read", &path, error)),
        Err(_) if database.exists() => Err(unknown(dir, "")),
        Err(_) => write_format(dir, &path).map_err(|source| io("write", &path, source)),
    }
}

/// Writes the format record so that it is there whole, or not at all.
fn write_format(dir: &Path, path: &Path) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(FORMAT.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

fn unknown(dir: &Path, found: &str) -> OpenError {
    OpenError::UnknownFormat { dir: dir.to_owned(), found: found.chars().take(80).collect() }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io { action, path: path.to_owned(), source }
}
