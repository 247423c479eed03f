//! What is wrong with the configuration, as the one line that an operator sees.

use std::fmt;

use crate::exit::Failure;

/// One thing that is wrong. The text is `where: key = value: what to do`.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The file, or the environment variable.
    pub(crate) origin: String,
    /// The key with dots, if it is about one, with what it was set to.
    pub(crate) key: Option<(String, Option<String>)>,
    /// What is wrong, or what to do.
    pub(crate) advice: String,
    /// Where that is.
    pub(crate) fault: Fault,
}

/// What is wrong: it decides whether a start that is tried again may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What the configuration says.
    Setting,
    /// A file that it names.
    File,
    /// An address that it names, which nobody knows now.
    Address,
}

impl Problem {
    /// One of what the configuration says.
    pub(crate) fn of_setting(origin: String, key: Option<(String, Option<String>)>, advice: String) -> Self {
        Self { origin, key, advice, fault: Fault::Setting }
    }

    /// The same, of a file if that is so.
    pub(crate) fn of_file_if(mut self, is_of_a_file: bool) -> Self {
        if is_of_a_file {
            self.fault = Fault::File;
        }
        self
    }

    /// How the process ends for it.
    pub(crate) fn failure(&self) -> Failure {
        match self.fault {
            Fault::Setting => Failure::usage(self),
            Fault::File => Failure::io(self),
            Fault::Address => Failure::unavailable(self),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match &self.key {
            Some((key, Some(value))) => write!(f, "{key} = {value}: ")?,
            Some((key, None)) => write!(f, "{key}: ")?,
            None => {}
        }
        // Whatever a parser or the system said, it stays one line.
        for (n, line) in self.advice.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            write!(f, "{}{line}", if n > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
