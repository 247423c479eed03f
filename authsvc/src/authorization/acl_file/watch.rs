//! The ACL file in force, and reading it again when it has changed and settled.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use files::{Look, Settling, Snapshot};
use parking_lot::Mutex;

use super::AclFile;
use crate::AuthError;

/// One file, looked at now and then.
pub(in crate::authorization) struct AclWatch {
    path: PathBuf,
    settling: Mutex<Settling>,
}

impl AclWatch {
    /// Reads `path`.
    pub(in crate::authorization) fn open(path: &Path) -> Result<(Self, Arc<AclFile>), AuthError> {
        let found = Snapshot::take([path]);
        let file = parse(path, &found)?;
        Ok((Self { path: path.to_owned(), settling: Mutex::new(Settling::new(&found)) }, file))
    }

    /// Has the file read again though it looks the same.
    pub(in crate::authorization) fn ask(&self) {
        self.settling.lock().ask();
    }

    /// Looks whether the file has changed and settled, and reads it then. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read, is not understood, or says nothing where `current` said something. Said once for each change of the
    /// file.
    pub(in crate::authorization) fn look(
        &self,
        now: Instant,
        current: &AclFile,
    ) -> Result<Option<Arc<AclFile>>, AuthError> {
        let look = self.settling.lock().look(now);
        let found = match look {
            Look::Same | Look::Changing => return Ok(None),
            Look::Settled(found) => found,
        };
        let says_nothing = || AuthError::AclEmpty { path: self.path.clone() };
        if found.missing().is_some() && !current.is_empty() {
            return Err(says_nothing());
        }
        let file = parse(&self.path, &found)?;
        if file.is_empty() && !current.is_empty() {
            return Err(says_nothing());
        }
        Ok(Some(file))
    }
}

fn parse(path: &Path, found: &Snapshot) -> Result<Arc<AclFile>, AuthError> {
    let bytes = found.bytes(path).map_err(|source| AuthError::AclRead { path: path.to_owned(), source })?;
    let file = AclFile::parse(bytes, path)?;
    for line in &file.ignored {
        let path = path.display();
        tracing::warn!(%path, line, "placeholders stand for themselves there in Mosquitto; the line is ignored");
    }
    Ok(Arc::new(file))
}
