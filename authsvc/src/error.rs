//! What can be wrong with the files and settings of authentication. Each text is one line for an operator.

use std::path::PathBuf;

/// Why authentication cannot start, or a file cannot be read again.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The password file cannot be read.
    #[error("cannot read password file {path:?}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The password file cannot be written.
    #[error("cannot write password file {path:?}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of the password file is not as documented.
    #[error("password file {path:?} line {line}: {problem}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No user is left of those that there were.
    #[error(
        "password file {path:?} has no user any more; the {users} of before stay (a restart would take it as it is)"
    )]
    Nobody {
        /// Which file.
        path: PathBuf,
        /// How many users there were.
        users: usize,
    },
    /// A user name that no file can hold.
    #[error("user name {name:?}: {problem}")]
    UserName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The ACL file cannot be read.
    #[error("cannot read ACL file {path:?}: {source}")]
    AclRead {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of the ACL file is not understood.
    #[error("ACL file {path:?} line {line}: {problem}")]
    AclLine {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// No line is left of those that there were.
    #[error("ACL file {path:?} says nothing any more; what it said stays (a restart would take it as it is)")]
    AclEmpty {
        /// Which file.
        path: PathBuf,
    },
    /// A rule that can never apply as written.
    #[error("authorization.rule[{index}].{key} {problem}")]
    Rule {
        /// Which rule, from 0.
        index: usize,
        /// Which key of it.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Limits that can never apply as written.
    #[error("authorization.limits[{index}].{} {}", .error.key, .error.problem)]
    Limits {
        /// Which entry, from 0.
        index: usize,
        /// What is wrong with which key of it.
        error: link::SettingError,
    },
    /// A setting that is out of its bounds.
    #[error(transparent)]
    Bound(#[from] link::SettingError),
    /// A setting that is missing or does not go with others, or a file that it names.
    #[error("{section}.{key} {problem}")]
    Section {
        /// The section, with dots.
        section: &'static str,
        /// Which key of it.
        key: &'static str,
        /// What is wrong, or what it must be.
        problem: String,
    },
    /// A file that a setting names cannot be used as it is.
    #[error("{section}.{key} {problem}")]
    File {
        /// The section, with dots.
        section: &'static str,
        /// Which key of it.
        key: &'static str,
        /// Which file, and what is wrong with it.
        problem: String,
    },
    /// Hashing refused its parameters or its input.
    #[error("cannot hash the password: {0}")]
    Hash(String),
    /// A thread could not be started.
    #[error("cannot start a thread for password hashing: {0}")]
    Thread(std::io::Error),
}

impl AuthError {
    /// Whether it is a file that the configuration names, and not what the configuration says: that may be over without a change of
    /// the configuration.
    pub fn is_of_a_file(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::AclRead { .. } | Self::File { .. })
    }
}
