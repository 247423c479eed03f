//! The password file in force, and reading it again when it has changed and settled.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use files::{Look, Settling, Snapshot};
use parking_lot::{Mutex, RwLock};

use super::parsed::PasswordFile;
use crate::AuthError;

/// The users of one file. What is wrong at a later reading leaves the earlier one in force.
pub(crate) struct Users {
    path: PathBuf,
    current: RwLock<Arc<PasswordFile>>,
    settling: Mutex<Settling>,
}

/// What another reading of the file has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UserChange {
    /// Users that there are now.
    pub(crate) users: usize,
    /// Who is new.
    pub(crate) added: usize,
    /// Who has other records, by name.
    pub(crate) changed: BTreeSet<Arc<str>>,
    /// Who is no longer there, by name.
    pub(crate) removed: BTreeSet<Arc<str>>,
}

impl Users {
    /// Reads `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, AuthError> {
        let found = Snapshot::take([path]);
        let file = parse(path, &found)?;
        Ok(Self {
            path: path.to_owned(),
            current: RwLock::new(Arc::new(file)),
            settling: Mutex::new(Settling::new(&found)),
        })
    }

    /// What is in force.
    pub(crate) fn current(&self) -> Arc<PasswordFile> {
        self.current.read().clone()
    }

    /// Has the file read again though it looks the same.
    pub(crate) fn ask(&self) {
        self.settling.lock().ask();
    }

    /// Looks whether the file has changed and settled, and takes it then. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read, is not as documented, or has no user where there were some: then those stay. Said once for each
    /// change of the file.
    pub(crate) fn look(&self, now: Instant) -> Result<Option<UserChange>, AuthError> {
        let look = self.settling.lock().look(now);
        match look {
            Look::Same | Look::Changing => Ok(None),
            Look::Settled(found) => self.take(&found).map(Some),
        }
    }

    fn take(&self, found: &Snapshot) -> Result<UserChange, AuthError> {
        let before = self.current();
        let nobody = || AuthError::Nobody { path: self.path.clone(), users: before.len() };
        if found.missing().is_some() && before.len() > 0 {
            return Err(nobody());
        }
        let file = parse(&self.path, found)?;
        if file.len() == 0 && before.len() > 0 {
            return Err(nobody());
        }
        let change = UserChange {
            users: file.len(),
            added: file.names().filter(|name| before.user(name).is_none()).count(),
            changed: file
                .names()
                .filter(|name| before.user(name).is_some_and(|old| Some(old) != file.user(name)))
                .cloned()
                .collect(),
            removed: before.names().filter(|name| file.user(name).is_none()).cloned().collect(),
        };
        *self.current.write() = Arc::new(file);
        Ok(change)
    }
}

fn parse(path: &Path, found: &Snapshot) -> Result<PasswordFile, AuthError> {
    let bytes = found.bytes(path).map_err(|source| AuthError::Read { path: path.to_owned(), source })?;
    #[cfg(unix)]
    warn_if_public(path);
    PasswordFile::parse_bytes(bytes, path)
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
    use std::time::Duration;

    use files::LOOK_INTERVAL;

    use super::*;
    use crate::Editor;

    struct File {
        dir: tempfile::TempDir,
        now: Instant,
    }

    impl File {
        fn new(names: &[&str]) -> Self {
            let file = Self { dir: tempfile::tempdir().unwrap(), now: Instant::now() };
            names.iter().for_each(|name| file.set(name));
            file
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("users")
        }

        fn set(&self, user: &str) {
            let mut editor = Editor::open(&self.path()).unwrap();
            editor.set(user, b"secret", None).unwrap();
            editor.save().unwrap();
        }

        fn remove(&self, user: &str) {
            let mut editor = Editor::open(&self.path()).unwrap();
            assert!(editor.remove(user));
            editor.save().unwrap();
        }

        fn write(&self, text: &str) {
            std::fs::write(self.path(), text).unwrap();
        }

        /// What the next five looks say.
        fn looks(&mut self, users: &Users) -> Vec<Result<UserChange, AuthError>> {
            let mut said = Vec::new();
            for _ in 0..5 {
                self.now += LOOK_INTERVAL;
                said.extend(users.look(self.now).transpose());
            }
            said
        }
    }

    #[test]
    fn a_change_says_who_came_and_who_went() {
        let mut file = File::new(&["alice", "bob"]);
        let users = Users::open(&file.path()).unwrap();
        assert!(file.looks(&users).is_empty());
        file.set("carol");
        file.set("alice");
        file.remove("bob");
        let said = file.looks(&users).remove(0).unwrap();
        let removed = BTreeSet::from([Arc::from("bob")]);
        let changed = BTreeSet::from([Arc::from("alice")]);
        assert_eq!(said, UserChange { users: 2, added: 1, changed, removed });
        assert!(users.current().user("bob").is_none());
    }

    #[test]
    fn a_broken_file_is_not_taken_and_told_once() {
        let mut file = File::new(&["bob"]);
        let users = Users::open(&file.path()).unwrap();
        file.write("nonsense\n");
        let said = file.looks(&users);
        assert!(matches!(said[..], [Err(AuthError::Line { line: 1, .. })]), "{said:?}");
        assert!(users.current().user("bob").is_some(), "the last good one stays in force");
        assert!(file.looks(&users).is_empty(), "the failure is reported once");
    }

    #[test]
    fn a_file_that_is_rewritten_in_place_keeps_its_users_all_the_while() {
        let mut file = File::new(&["alice", "bob"]);
        let whole = std::fs::read_to_string(file.path()).unwrap();
        let users = Users::open(&file.path()).unwrap();
        let lines: Vec<_> = whole.split_inclusive('\n').collect();
        let cut_within_a_line = &whole[..whole.len() - 9];
        for part in ["", lines[0], &lines[..2].concat(), cut_within_a_line] {
            file.write(part);
            for _ in 0..3 {
                file.now += LOOK_INTERVAL;
                assert!(users.look(file.now).unwrap().is_none());
            }
            let current = users.current();
            assert!(current.user("alice").is_some() && current.user("bob").is_some());
        }
        file.write(&whole);
        let said = file.looks(&users).remove(0).unwrap();
        assert_eq!(
            said,
            UserChange { users: 2, added: 0, changed: BTreeSet::new(), removed: BTreeSet::new() }
        );
    }

    #[test]
    fn nobody_where_there_were_some_is_not_taken() {
        let mut file = File::new(&["alice"]);
        let users = Users::open(&file.path()).unwrap();
        for text in ["", "# nobody\n"] {
            file.write(text);
            let said = file.looks(&users);
            assert!(matches!(said[..], [Err(AuthError::Nobody { users: 1, .. })]), "{said:?}");
        }
        std::fs::remove_file(file.path()).unwrap();
        let said = file.looks(&users);
        assert!(matches!(said[..], [Err(AuthError::Nobody { users: 1, .. })]), "{said:?}");
        users.ask();
        assert!(matches!(file.looks(&users)[..], [Err(AuthError::Nobody { .. })]), "nor when asked for");
        assert!(users.current().user("alice").is_some());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_as_such() {
        let mut file = File::new(&["alice"]);
        let users = Users::open(&file.path()).unwrap();
        std::fs::remove_file(file.path()).unwrap();
        std::fs::create_dir(file.path()).unwrap();
        let said = file.looks(&users);
        assert!(matches!(said[..], [Err(AuthError::Read { .. })]), "{said:?}");
        assert!(users.current().user("alice").is_some());
    }

    #[test]
    fn a_file_without_users_at_the_start_may_get_some() {
        let mut file = File::new(&[]);
        file.write("# nobody yet\n");
        let users = Users::open(&file.path()).unwrap();
        file.set("alice");
        assert_eq!(file.looks(&users).remove(0).unwrap().added, 1);
    }

    #[test]
    fn who_asks_gets_the_file_read_again() {
        let mut file = File::new(&["alice"]);
        let users = Users::open(&file.path()).unwrap();
        users.ask();
        file.now += Duration::from_secs(60);
        assert_eq!(file.looks(&users).remove(0).unwrap().users, 1);
    }
}
