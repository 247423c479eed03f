//! Changes a password file: whole-file replacement, so that a reader never sees half of it.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use argon2::PasswordHasher as _;
use argon2::password_hash::SaltString;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use files::private::{self, Readers};

use super::parsed::{FAKE_SALT_PREFIX, PasswordFile, check_user_name};
use super::record::argon2;
use crate::AuthError;
use crate::scram::Verifier;

/// A password file being changed, by nobody else meanwhile. Comments and the order of lines are kept.
pub struct Editor {
    _lock: File,
    path: PathBuf,
    lines: Vec<String>,
}

impl Editor {
    /// Opens `path`, or begins a new file if there is none. Waits until nobody else changes it.
    ///
    /// # Errors
    /// The file cannot be read, or is not a password file.
    pub fn open(path: &Path) -> Result<Self, AuthError> {
        let failed = |source| AuthError::Read { path: path.to_owned(), source };
        let lock = private::lock(path).map_err(failed)?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(source) => return Err(failed(source)),
        };
        PasswordFile::parse(&text, path)?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if !lines.iter().any(|line| line.starts_with(FAKE_SALT_PREFIX)) {
            let key: [u8; 32] = rand::random();
            lines.insert(0, format!("{FAKE_SALT_PREFIX}{}", BASE64.encode(key)));
        }
        Ok(Self { _lock: lock, path: path.to_owned(), lines })
    }

    /// Whether `user` has a record.
    pub fn contains(&self, user: &str) -> bool {
        self.lines.iter().any(|line| belongs_to(line, user))
    }

    /// Sets the password of `user`: an Argon2id record and, with `scram_iterations`, a SCRAM-SHA-256 record.
    ///
    /// # Errors
    /// The user name cannot be held by a file.
    pub fn set(
        &mut self,
        user: &str,
        password: &[u8],
        scram_iterations: Option<u32>,
    ) -> Result<(), AuthError> {
        check_user_name(user).map_err(|problem| AuthError::UserName { name: user.to_owned(), problem })?;
        let salt: [u8; 16] = rand::random();
        let failed = |error: argon2::password_hash::Error| AuthError::Hash(error.to_string());
        let salt = SaltString::encode_b64(&salt).map_err(failed)?;
        let hash = argon2().hash_password(password, &salt).map_err(failed)?;
        let mut records = vec![format!("{user}:{hash}")];
        if let Some(iterations) = scram_iterations {
            let salt: [u8; 16] = rand::random();
            records.push(format!("{user}:{}", Verifier::derive(password, &salt, iterations)));
        }
        let at = self.lines.iter().position(|line| belongs_to(line, user)).unwrap_or(self.lines.len());
        self.remove(user);
        self.lines.splice(at..at, records);
        Ok(())
    }

    /// Removes `user`; answers whether there was one.
    pub fn remove(&mut self, user: &str) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| !belongs_to(line, user));
        self.lines.len() < before
    }

    /// Replaces the file: readable by its owner only, or as it was if it is there already.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(self) -> Result<(), AuthError> {
        private::replace(&self.path, Readers::Kept, |file| self.write_to(file))
            .map_err(|source| AuthError::Write { path: self.path.clone(), source })
    }

    fn write_to(&self, file: &mut File) -> std::io::Result<()> {
        self.lines.iter().try_for_each(|line| writeln!(file, "{line}"))
    }
}

fn belongs_to(line: &str, user: &str) -> bool {
    !line.starts_with(['#', '$']) && line.split_once(':').is_some_and(|(name, _)| name == user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::password_file::record::verify;

    fn read(path: &Path) -> PasswordFile {
        PasswordFile::parse(&std::fs::read_to_string(path).unwrap(), path).unwrap()
    }

    #[test]
    fn what_is_written_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let mut editor = Editor::open(&path).unwrap();
        editor.set("alice", b"one", Some(4096)).unwrap();
        editor.set("bob", b"two", None).unwrap();
        editor.save().unwrap();

        let file = read(&path);
        let alice = file.user("alice").unwrap();
        assert!(verify(alice.password.as_ref().unwrap(), b"one"));
        assert!(!verify(alice.password.as_ref().unwrap(), b"two"));
        assert_eq!(alice.scram.as_ref().unwrap().iterations, 4096);
        assert!(file.user("bob").unwrap().scram.is_none());
        assert!(file.fake_salt_key.is_some());
    }

    #[test]
    fn setting_again_replaces_both_records_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let mut editor = Editor::open(&path).unwrap();
        editor.set("alice", b"one", Some(4096)).unwrap();
        editor.set("bob", b"two", Some(4096)).unwrap();
        editor.save().unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.insert_str(0, "# the gateway\n");
        std::fs::write(&path, &text).unwrap();

        let mut editor = Editor::open(&path).unwrap();
        editor.set("alice", b"three", None).unwrap();
        editor.save().unwrap();
        let changed = std::fs::read_to_string(&path).unwrap();
        assert!(changed.starts_with("# the gateway\n"));
        let file = read(&path);
        assert!(verify(file.user("alice").unwrap().password.as_ref().unwrap(), b"three"));
        assert!(file.user("alice").unwrap().scram.is_none());
        assert_eq!(text.lines().last(), changed.lines().last(), "bob is untouched");
    }

    #[test]
    fn what_several_change_at_once_is_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::thread::scope(|threads| {
            for n in 0..8 {
                let path = &path;
                threads.spawn(move || {
                    let mut editor = Editor::open(path).unwrap();
                    editor.set(&format!("user{n}"), b"secret", None).unwrap();
                    editor.save().unwrap();
                });
            }
        });
        assert_eq!(read(&path).len(), 8);
    }

    #[test]
    fn a_removed_user_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let mut editor = Editor::open(&path).unwrap();
        editor.set("alice", b"one", Some(4096)).unwrap();
        assert!(editor.contains("alice"));
        assert!(editor.remove("alice"));
        assert!(!editor.remove("alice"));
        editor.save().unwrap();
        assert_eq!(read(&path).len(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_a_new_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        Editor::open(&path).unwrap().save().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
