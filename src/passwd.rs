//! `tidegate passwd`: sets or deletes one user of a password file.

use std::io::{BufRead, ErrorKind, IsTerminal as _};
use std::path::PathBuf;

use authsvc::{AuthError, Editor};
use clap::Args;

use crate::exit::Failure;
use crate::output::print;

/// The longest password that CONNECT can carry, bytes.
const PASSWORD_BYTES_MAX: u64 = 65_535;

/// What is said of a password that is no text.
const NOT_UTF8: &str = "the password is not UTF-8; nothing was changed";

/// Arguments of `passwd`. The password is asked for on a terminal, or read from the first line of standard input.
#[derive(Debug, Args)]
pub(crate) struct Passwd {
    /// The password file; made if there is none.
    pub(crate) file: PathBuf,
    /// The user name.
    pub(crate) user: String,
    /// Delete the user instead.
    #[arg(long)]
    pub(crate) delete: bool,
    /// Write no record for SCRAM-SHA-256.
    #[arg(long)]
    pub(crate) no_scram: bool,
    /// Iterations of the SCRAM-SHA-256 record (4096 to 10000000): what a login costs the client, and a thief of the file.
    #[arg(long, value_name = "N", default_value_t = ::authsvc::SCRAM_ITERATIONS, conflicts_with = "no_scram",
        value_parser = clap::value_parser!(u32).range(4096..=10_000_000))]
    pub(crate) scram_iterations: u32,
}

/// Does what `arguments` say.
pub(crate) fn run(arguments: &Passwd) -> Result<(), Failure> {
    let open = || Editor::open(&arguments.file).map_err(failure);
    let password = if arguments.delete {
        None
    } else {
        // Nobody is asked for a password that could not be written, and nobody else waits for one who is asked.
        drop(open()?);
        Some(password(&arguments.user)?)
    };
    let mut editor = open()?;
    let known = editor.contains(&arguments.user);
    if let Some(password) = password {
        let iterations = (!arguments.no_scram).then_some(arguments.scram_iterations);
        editor.set(&arguments.user, password.as_bytes(), iterations).map_err(failure)?;
    } else if !editor.remove(&arguments.user) {
        let (user, file) = (&arguments.user, arguments.file.display());
        return Err(Failure::usage(format!("{file} has no user {user:?}")));
    }
    editor.save().map_err(failure)?;
    let did = match (arguments.delete, known) {
        (true, _) => "deleted",
        (false, true) => "changed",
        (false, false) => "added",
    };
    print(&format!("{did} {} in {}\n", arguments.user, arguments.file.display()))
}

pub(crate) fn failure(error: AuthError) -> Failure {
    match error {
        AuthError::Read { .. } | AuthError::Write { .. } => Failure::io(error),
        error => Failure::usage(error),
    }
}

fn password(user: &str) -> Result<String, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return first_line(input.lock());
    }
    let ask = |prompt: String| {
        rpassword::prompt_password(prompt).map_err(|error| match error.kind() {
            ErrorKind::InvalidData => Failure::usage(NOT_UTF8),
            _ => Failure::io(format!("cannot read the password from the terminal: {error}")),
        })
    };
    let first = ask(format!("Password for {user}: "))?;
    if first != ask("Again: ".to_owned())? {
        return Err(Failure::usage("the two passwords differ; nothing was changed"));
    }
    check(first.into_bytes())
}

fn first_line(input: impl BufRead) -> Result<String, Failure> {
    let mut line = Vec::new();
    input
        .take(PASSWORD_BYTES_MAX + 2)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::io(format!("cannot read the password from standard input: {error}")))?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    check(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

fn check(password: Vec<u8>) -> Result<String, Failure> {
    if password.is_empty() {
        return Err(Failure::usage("the password is empty; nothing was changed"));
    }
    if password.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(Failure::usage("the password is longer than the 65535 bytes that CONNECT can carry"));
    }
    String::from_utf8(password).map_err(|_| Failure::usage(NOT_UTF8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_first_line() {
        for input in ["secret", "secret\n", "secret\r\n", "secret\nmore\n"] {
            assert_eq!(first_line(input.as_bytes()).unwrap(), "secret", "{input:?}");
        }
        assert_eq!(first_line(" with blanks \n".as_bytes()).unwrap(), " with blanks ");
    }

    #[test]
    fn a_password_that_is_no_text_is_refused_as_such() {
        let refused = first_line(&b"caf\xe9\n"[..]).unwrap_err();
        assert_eq!(format!("{refused:?}"), format!("{:?}", Failure::usage(NOT_UTF8)));
        assert_eq!(first_line(&b"secret\n\xff"[..]).unwrap(), "secret");
    }

    #[test]
    fn an_empty_or_too_long_password_is_refused() {
        assert!(first_line("\n".as_bytes()).is_err());
        assert!(first_line("".as_bytes()).is_err());
        assert!(first_line("x".repeat(65_536).as_bytes()).is_err());
        assert!(first_line(format!("{}\n", "x".repeat(65_535)).as_bytes()).is_ok());
    }
}
