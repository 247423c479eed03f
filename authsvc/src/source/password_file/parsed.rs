//! The password file: one record per line, `user:$argon2id$...` (and the others of `record.rs`) for passwords and
//! `user:$scram-sha-256$...` for SCRAM.
//!
//! Blank lines and lines that begin with `#` are comments. A line `$fake-salt-key$BASE64` keeps the salts that unknown
//! users are shown the same across restarts. [`PasswordFile`] is the parsed form; [`Editor`] changes a file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::decoy::Shapes;
use super::record::{self, Cost};
use crate::AuthError;
use crate::scram::{self, Verifier};

/// Begins the line that holds the key of fake salts.
pub(super) const FAKE_SALT_PREFIX: &str = "$fake-salt-key$";

/// A user name's bytes.
const USER_NAME_BYTES_MAX: usize = 256;

/// The parsed file. Cheap to share, never changed.
#[derive(Default)]
pub(crate) struct PasswordFile {
    users: HashMap<Arc<str>, User>,
    pub(super) fake_salt_key: Option<[u8; 32]>,
    costs: Shapes<Cost>,
    /// A record of each cost.
    of_cost: BTreeMap<Cost, Arc<str>>,
    scram_shapes: Shapes<scram::Shape>,
}

/// The records of one user.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// What a password is verified against.
    pub(crate) password: Option<Arc<str>>,
    /// For SCRAM-SHA-256.
    pub(crate) scram: Option<Arc<Verifier>>,
}

impl PasswordFile {
    /// Parses what is in the file at `path`, which is named in errors.
    pub(crate) fn parse_bytes(bytes: &[u8], path: &Path) -> Result<Self, AuthError> {
        let text = str::from_utf8(bytes).map_err(|error| AuthError::Line {
            path: path.to_owned(),
            line: bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1,
            problem: "not UTF-8 text",
        })?;
        Self::parse(text, path)
    }

    /// Parses `text`; `path` is for errors.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, AuthError> {
        let mut file = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            file.take_line(line).map_err(|problem| AuthError::Line {
                path: path.to_owned(),
                line: number + 1,
                problem,
            })?;
        }
        Ok(file)
    }

    fn take_line(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(key) = line.strip_prefix(FAKE_SALT_PREFIX) {
            let key = BASE64.decode(key).ok().and_then(|key| key.try_into().ok());
            self.fake_salt_key = Some(key.ok_or("the key is not 32 bytes in base64")?);
            return Ok(());
        }
        let (name, record) = line.split_once(':').ok_or("expected user:record")?;
        check_user_name(name)?;
        let user = self.users.entry(name.into()).or_default();
        if record.starts_with(Verifier::PREFIX) {
            let verifier = Verifier::parse(record).ok_or("not a valid $scram-sha-256$ record")?;
            self.scram_shapes.add(verifier.shape());
            if user.scram.replace(Arc::new(verifier)).is_some() {
                return Err("a second $scram-sha-256$ record for this user");
            }
        } else {
            let cost = record::check(record)?;
            let record: Arc<str> = record.into();
            self.costs.add(cost);
            self.of_cost.entry(cost).or_insert_with(|| record.clone());
            if user.password.replace(record).is_some() {
                return Err("a second record of a password for this user");
            }
        }
        Ok(())
    }

    /// The records of `name`.
    pub(crate) fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// How many users there are.
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.users.keys()
    }

    /// A record to verify against when `user` is unknown, as dear as those of some who are known. `key` is taken if the file
    /// has none of its own.
    pub(crate) fn decoy(&self, key: &[u8; 32], user: &str) -> Option<&Arc<str>> {
        self.of_cost.get(self.costs.draw(self.fake_salt_key.as_ref().unwrap_or(key), user)?)
    }

    /// What the unknown `user` is shown in SCRAM: iterations and salt as those of some who are known. `key` is taken if the
    /// file has none of its own.
    pub(crate) fn scram_decoy(&self, key: &[u8; 32], user: &str) -> Verifier {
        let key = self.fake_salt_key.as_ref().unwrap_or(key);
        Verifier::fake(key, user, self.scram_shapes.draw(key, user).copied().unwrap_or_default())
    }
}

/// Refuses names that the file, or a rule with `%u`, could not hold.
pub(crate) fn check_user_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > USER_NAME_BYTES_MAX {
        return Err("the user name must have 1 to 256 bytes");
    }
    if name.contains([':', '/', '+', '#', '$', '*']) || name.chars().any(char::is_control) {
        return Err("the user name must not contain : / + # $ * or control characters");
    }
    if name == "anonymous" {
        return Err("the user name anonymous is reserved for rules");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$n0jFOpN4iSsH2pFbhjTDzVxAtIAqQZE+jvfa2bIwSXo";

    fn problem(text: &str) -> String {
        PasswordFile::parse(text, Path::new("users")).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn comments_and_blank_lines_are_skipped() {
        let file = PasswordFile::parse(&format!("# who\n\nalice:{HASH}\n"), Path::new("users")).unwrap();
        assert_eq!(file.len(), 1);
        assert!(file.user("alice").unwrap().password.is_some());
        assert_eq!(file.decoy(&[0; 32], "nobody").map(|decoy| &**decoy), Some(HASH));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let cases = [
            ("alice", "expected user:record"),
            (
                "alice:secret",
                "the record is none of $argon2id$, $scram-sha-256$, $6$ and $7$ (mosquitto_passwd), $2b$ (bcrypt)",
            ),
            ("alice:$argon2id$v=19$m=64", "not a valid $argon2id$ record"),
            (":$argon2id$x", "the user name must have 1 to 256 bytes"),
            ("a/b:$argon2id$x", "the user name must not contain : / + # $ * or control characters"),
            ("anonymous:$argon2id$x", "the user name anonymous is reserved for rules"),
            ("alice:$scram-sha-256$i=1$x", "not a valid $scram-sha-256$ record"),
            ("$fake-salt-key$AAAA", "the key is not 32 bytes in base64"),
        ];
        for (line, expected) in cases {
            assert_eq!(
                problem(&format!("# one\n{line}\n")),
                format!("password file \"users\" line 2: {expected}")
            );
        }
    }

    #[test]
    fn what_is_not_text_is_named_by_its_line() {
        let error = PasswordFile::parse_bytes(b"# one\n\n\xff\n", Path::new("users")).err().unwrap();
        assert_eq!(error.to_string(), "password file \"users\" line 3: not UTF-8 text");
    }

    #[test]
    fn unknown_users_cost_what_those_cost_that_there_are() {
        let dear = HASH.replace("t=1", "t=2");
        let text = format!("a:{HASH}\nb:{dear}\nc:{HASH}\nd:{dear}\n");
        let file = PasswordFile::parse(&text, Path::new("users")).unwrap();
        let drawn = |n: u32| file.decoy(&[0; 32], &format!("nobody{n}")).unwrap();
        let cheap = (0..100).filter(|n| &**drawn(*n) == HASH).count();
        assert!((25..75).contains(&cheap), "{cheap} of 100 are as cheap as half of the users");
        assert_eq!(drawn(7), drawn(7));
    }

    #[test]
    fn unknown_users_cost_what_those_cost_whose_records_were_brought_along() {
        const BCRYPT: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
        let file = PasswordFile::parse(&format!("a:{BCRYPT}\nb:{BCRYPT}\n"), Path::new("users")).unwrap();
        for n in 0..20 {
            assert_eq!(file.decoy(&[0; 32], &format!("nobody{n}")).map(|decoy| &**decoy), Some(BCRYPT));
        }
        let mixed = format!("a:{BCRYPT}\nb:{HASH}\n");
        let file = PasswordFile::parse(&mixed, Path::new("users")).unwrap();
        let drawn = |n: u32| &**file.decoy(&[0; 32], &format!("nobody{n}")).unwrap();
        let brought = (0..100).filter(|n| drawn(*n) == BCRYPT).count();
        assert!((25..75).contains(&brought), "{brought} of 100 look like half of the users");
    }

    #[test]
    fn a_second_record_of_a_kind_is_refused() {
        assert!(problem(&format!("a:{HASH}\na:{HASH}\n")).contains("a second record of a password"));
    }

    #[test]
    fn a_record_cannot_ask_for_unbounded_memory() {
        let text = HASH.replace("m=64", "m=1048576");
        assert!(problem(&format!("a:{text}")).contains("more than 256 MiB"));
    }
}
