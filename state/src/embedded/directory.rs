//! The directory of a store: one process at a time, and a format record that says who may read it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use files::private;

use super::config::OpenError;

/// What this version writes and reads.
const FORMAT: &str = "tidegate state 1\n";

/// A directory that this process has to itself, until it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    /// Where the database is.
    pub(super) database: PathBuf,
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
        Ok(Self { database, _lock: lock })
    }
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
