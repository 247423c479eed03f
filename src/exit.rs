//! How the process ends when it cannot do what it was told: one line, and an exit code of sysexits.h.

use std::fmt::Display;
use std::process::ExitCode;

use crate::stderr;

/// An end that is not a success.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    line: String,
}

impl Failure {
    /// 1, as container engines want it: a process that was asked is not ready, or not there.
    pub(crate) fn unhealthy(line: impl Display) -> Self {
        Self { code: 1, line: line.to_string() }
    }

    /// EX_USAGE: the command line or the configuration is wrong.
    pub(crate) fn usage(line: impl Display) -> Self {
        Self { code: 64, line: line.to_string() }
    }

    /// EX_UNAVAILABLE: an address, a directory or another resource is taken.
    pub(crate) fn unavailable(line: impl Display) -> Self {
        Self { code: 69, line: line.to_string() }
    }

    /// EX_SOFTWARE: something that should not happen.
    pub(crate) fn software(line: impl Display) -> Self {
        Self { code: 70, line: line.to_string() }
    }

    /// EX_IOERR: a file could not be read or written.
    pub(crate) fn io(line: impl Display) -> Self {
        Self { code: 74, line: line.to_string() }
    }

    /// What was asked is not so, which was said already.
    pub(crate) fn denied() -> Self {
        Self { code: 1, line: String::new() }
    }

    /// Says so and answers the code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.line.is_empty() {
            stderr::say(&format!("tidegate: {}", self.line));
        }
        ExitCode::from(self.code)
    }
}

/// The text of an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors repeat their cause in their own text.
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
