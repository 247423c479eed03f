//! The password file in force, and reading it again when it has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use crate::AuthError;
use crate::password_file::PasswordFile;

/// The users of one file. What is wrong at a later reading leaves the earlier one in force.
pub(crate) struct Users {
    path: PathBuf,
    current: RwLock<Arc<PasswordFile>>,
    seen: Mutex<Option<Stamp>>,
}

/// What tells that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Users {
    /// Reads `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, AuthError> {
        let seen = stamp(path);
        let file = read(path)?;
        Ok(Self { path: path.to_owned(), current: RwLock::new(Arc::new(file)), seen: Mutex::new(seen) })
    }

    /// What is in force.
    pub(crate) fn current(&self) -> Arc<PasswordFile> {
        self.current.read().clone()
    }

    /// Reads the file again if it looks different from the last time; answers the number of users if it did.
    pub(crate) fn reload_if_changed(&self) -> Result<Option<usize>, AuthError> {
        let now = stamp(&self.path);
        // Noted before reading: a write in between is seen the next time.
        if std::mem::replace(&mut *self.seen.lock(), now) == now {
            return Ok(None);
        }
        self.reload().map(Some)
    }

    /// Reads the file again; answers the number of users.
    pub(crate) fn reload(&self) -> Result<usize, AuthError> {
        let file = read(&self.path)?;
        let users = file.len();
        *self.current.write() = Arc::new(file);
        Ok(users)
    }
}

fn read(path: &Path) -> Result<PasswordFile, AuthError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| AuthError::Read { path: path.to_owned(), source })?;
    #[cfg(unix)]
    warn_if_public(path);
    PasswordFile::parse(&text, path)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode })
}

#[cfg(unix)]
fn warn_if_public(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let public = std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
    if public {
        tracing::warn!(path = %path.display(), "everybody on this machine can read the password file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Editor;

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let set = |user| {
            let mut editor = Editor::open(&path).unwrap();
            editor.set(user, b"secret", None).unwrap();
            editor.save().unwrap();
        };
        set("alice");
        let users = Users::open(&path).unwrap();
        assert_eq!(users.reload_if_changed().unwrap(), None);
        set("bob");
        assert_eq!(users.reload_if_changed().unwrap(), Some(2));

        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(users.reload_if_changed().is_err());
        assert!(users.current().user("bob").is_some(), "the last good one stays in force");
        assert_eq!(users.reload_if_changed().unwrap(), None, "the failure is reported once");
    }
}
