//! What is wrong with the configuration, as the one line that an operator sees.

use std::fmt;

/// One thing that is wrong. The text is `where: key = value: what to do`.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The file, or the environment variable.
    pub(crate) origin: String,
    /// The key with dots, if it is about one, with what it was set to.
    pub(crate) key: Option<(String, Option<String>)>,
    /// What is wrong, or what to do.
    pub(crate) advice: String,
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
