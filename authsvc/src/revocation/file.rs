//! What an operator revoked for longer, in a file, so that it is in force after a restart too. The file is small, is written as a
//! whole with each order, and says when things end by the wall clock, which alone goes on while no process runs.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use files::private::Readers;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::target::Target;

/// An entry of the file, a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastingEntry {
    #[serde(flatten)]
    pub(crate) target: Target,
    /// When it was revoked, seconds since 1970.
    at_s: u64,
    /// Until then nobody new comes.
    until_s: u64,
}

impl LastingEntry {
    /// Revoked so long ago, for so long from now on.
    pub(crate) fn new(target: Target, age: Duration, lasts: Duration) -> Self {
        let now = unix_now();
        let until = now + lasts;
        // A second more rather than less.
        let until_s = until.as_secs() + u64::from(until.subsec_nanos() > 0);
        Self { target, at_s: now.saturating_sub(age).as_secs(), until_s }
    }

    /// How long ago it was revoked, and for how long it lasts from now on; nothing if it has ended. Whatever became of the clock, that is
    /// no longer than it was to last.
    pub(crate) fn times(&self) -> Option<(Duration, Duration)> {
        let now = unix_now();
        let left = Duration::from_secs(self.until_s).checked_sub(now).filter(|left| !left.is_zero())?;
        let asked = Duration::from_secs(self.until_s.saturating_sub(self.at_s));
        Some((now.saturating_sub(Duration::from_secs(self.at_s)), left.min(asked)))
    }
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Where they are kept.
pub(crate) struct RevocationFile {
    path: PathBuf,
    /// One writes at a time.
    writing: Mutex<()>,
}

impl RevocationFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), writing: Mutex::new(()) }
    }

    /// What it holds; nothing if there is none yet. The text of an error says what is wrong with it and where.
    pub(crate) fn read(&self) -> Result<Vec<LastingEntry>, String> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(format!("= {:?}: cannot be read: {error}", self.path)),
        };
        let entries = text.lines().enumerate().map(|(number, line)| {
            let problem = |error| format!("= {:?} line {}: {error}", self.path, number + 1);
            serde_json::from_str(line).map_err(problem)
        });
        entries.collect()
    }

    /// Replaces it by what is to be kept when its turn comes; it is on disk when this returns.
    pub(crate) fn write(&self, kept: impl FnOnce() -> Vec<LastingEntry>) -> io::Result<()> {
        let _writing = self.writing.lock();
        let mut text = Vec::new();
        for entry in kept() {
            serde_json::to_writer(&mut text, &entry)?;
            text.push(b'\n');
        }
        files::private::replace(&self.path, Readers::Owner, |file| file.write_all(&text))
    }
}
