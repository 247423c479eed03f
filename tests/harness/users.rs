//! Users in a password file, by `tidegate passwd`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The password of each of them.
pub(crate) const PASSWORD: &str = "tg-secret-pencil of oak";

/// `tidegate passwd FILE USER ...` with the password.
pub(crate) fn passwd(file: &Path, user: &str, more: &[&str]) {
    let mut passwd = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["passwd".as_ref(), file.as_os_str(), user.as_ref()])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(passwd.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    assert!(passwd.wait().unwrap().success(), "tidegate passwd");
}
