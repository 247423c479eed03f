//! What commands write to standard output.

use std::io::{self, Write as _};

use crate::exit::Failure;

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    write(text).map_err(|error| Failure::io(format!("cannot write to standard output: {error}")))
}

/// The same; a reader that has gone away is no failure.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
