//! The password file: one record per line, `user:$argon2id$...` for passwords and `user:$scram-sha-256$...` for SCRAM.
//!
//! Blank lines and lines that begin with `#` are comments. A line `$fake-salt-key$BASE64` keeps the salts that unknown
//! users are shown the same across restarts. [`PasswordFile`] is the parsed form; [`Editor`] changes a file.

mod editor;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

pub use editor::Editor;

use crate::AuthError;
use crate::scram::Verifier;

/// Begins the line that holds the key of fake salts.
const FAKE_SALT_PREFIX: &str = "$fake-salt-key$";

/// Memory that one record may make a verification use, KiB.
const ARGON2_MEMORY_MAX_KIB: u32 = 256 * 1024;

/// Passes over that memory that a record may ask for.
const ARGON2_PASSES_MAX: u32 = 64;

/// A user name's bytes.
const USER_NAME_BYTES_MAX: usize = 256;

/// The parsed file. Cheap to share, never changed.
#[derive(Default)]
pub(crate) struct PasswordFile {
    users: HashMap<Arc<str>, User>,
    fake_salt_key: Option<[u8; 32]>,
    /// Verified against when a user is unknown, so that both take the same time.
    dummy: Option<Arc<str>>,
    scram_iterations: Option<u32>,
}

/// The records of one user.
#[derive(Clone, Default)]
pub(crate) struct User {
    /// PHC string of the password's hash.
    pub(crate) argon2: Option<Arc<str>>,
    /// For SCRAM-SHA-256.
    pub(crate) scram: Option<Arc<Verifier>>,
}

impl PasswordFile {
    /// Parses `text`; `path` is for errors.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, AuthError> {
        let mut file = Self::default();
        let mut costliest = 0;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            file.take_line(line, &mut costliest).map_err(|problem| AuthError::Line {
                path: path.to_owned(),
                line: number + 1,
                problem,
            })?;
        }
        Ok(file)
    }

    fn take_line(&mut self, line: &str, costliest: &mut u64) -> Result<(), &'static str> {
        if let Some(key) = line.strip_prefix(FAKE_SALT_PREFIX) {
            let key = BASE64.decode(key).ok().and_then(|key| key.try_into().ok());
            self.fake_salt_key = Some(key.ok_or("the key is not 32 bytes in base64")?);
            return Ok(());
        }
        let (name, record) = line.split_once(':').ok_or("expected user:record")?;
        check_user_name(name)?;
        let user = self.users.entry(name.into()).or_default();
        if record.starts_with("$argon2id$") {
            let cost = check_argon2(record)?;
            let record: Arc<str> = record.into();
            if cost > *costliest {
                *costliest = cost;
                self.dummy = Some(record.clone());
            }
            if user.argon2.replace(record).is_some() {
                return Err("a second $argon2id$ record for this user");
            }
        } else if record.starts_with(Verifier::PREFIX) {
            let verifier = Verifier::parse(record).ok_or("not a valid $scram-sha-256$ record")?;
            self.scram_iterations.get_or_insert(verifier.iterations);
            if user.scram.replace(Arc::new(verifier)).is_some() {
                return Err("a second $scram-sha-256$ record for this user");
            }
        } else {
            return Err("the record is neither $argon2id$ nor $scram-sha-256$");
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

    /// A record with the parameters of the costliest one, to verify against when a user is unknown.
    pub(crate) fn dummy(&self) -> Option<&Arc<str>> {
        self.dummy.as_ref()
    }

    /// Keys the salts that unknown users are shown.
    pub(crate) fn fake_salt_key(&self) -> Option<&[u8; 32]> {
        self.fake_salt_key.as_ref()
    }

    /// The iteration count of the first SCRAM record, which unknown users are shown too.
    pub(crate) fn scram_iterations(&self) -> Option<u32> {
        self.scram_iterations
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

/// Checks a PHC string and answers what verifying it costs (memory times passes).
fn check_argon2(record: &str) -> Result<u64, &'static str> {
    const INVALID: &str = "not a valid $argon2id$ record";
    let hash = PasswordHash::new(record).map_err(|_| INVALID)?;
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(INVALID);
    }
    let parameters = Params::try_from(&hash).map_err(|_| INVALID)?;
    if parameters.m_cost() > ARGON2_MEMORY_MAX_KIB || parameters.t_cost() > ARGON2_PASSES_MAX {
        return Err("the $argon2id$ record asks for more than 256 MiB or 64 passes");
    }
    Ok(u64::from(parameters.m_cost()) * u64::from(parameters.t_cost()))
}

/// Argon2id as new records are made: 19 MiB, two passes, one lane (OWASP's recommendation).
pub(crate) fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default())
}

/// Whether `password` is the one that `record`, a PHC string, was made from. Takes tens of milliseconds of CPU.
pub(crate) fn verify_argon2(record: &str, password: &[u8]) -> bool {
    use argon2::PasswordVerifier as _;
    PasswordHash::new(record).is_ok_and(|hash| argon2().verify_password(password, &hash).is_ok())
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
        assert!(file.user("alice").unwrap().argon2.is_some());
        assert_eq!(file.dummy().map(|d| &**d), Some(HASH));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let cases = [
            ("alice", "expected user:record"),
            ("alice:secret", "the record is neither $argon2id$ nor $scram-sha-256$"),
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
    fn a_second_record_of_a_kind_is_refused() {
        assert!(problem(&format!("a:{HASH}\na:{HASH}\n")).contains("a second $argon2id$ record"));
    }

    #[test]
    fn a_record_cannot_ask_for_unbounded_memory() {
        let text = HASH.replace("m=64", "m=1048576");
        assert!(problem(&format!("a:{text}")).contains("more than 256 MiB"));
    }
}
