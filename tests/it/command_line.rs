//! Commands that end by themselves: what they say, where, and with which exit code.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Exit code and standard error.
fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn an_exit_code_stands_though_nobody_can_be_told() {
    for arguments in [&["standalnoe"][..], &["--check", "--config", "/nonexistent/tidegate.toml"]] {
        let status = tidegate(arguments).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(64), "{arguments:?}");
    }
    let mut command = tidegate(&[]);
    command.env("TIDEGATE__DATA__DIR", "/proc/1/none").env("TIDEGATE__LISTENERS__MQTT", "127.0.0.1:0");
    let code = command.stderr(full()).status().unwrap().code().unwrap();
    assert!([69, 74].contains(&code), "{code}");
}

#[test]
fn output_that_cannot_be_written_is_named() {
    for arguments in ["--help", "--check"] {
        let (code, line) = run(tidegate(&[arguments]).stdout(full()));
        assert_eq!(code, 74);
        assert!(line.starts_with("tidegate: cannot write to standard output: "), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn a_setting_of_the_environment_that_is_not_utf8_is_named() {
    let value = OsStr::from_bytes(b"/etc/caf\xe9");
    for arguments in [&["--check"][..], &["healthcheck"]] {
        let told = run(tidegate(arguments).env("TIDEGATE__AUTHORIZATION__ACL_FILE", value));
        let line =
            "tidegate: environment variable TIDEGATE__AUTHORIZATION__ACL_FILE: its value is not UTF-8\n";
        assert_eq!(told, (64, line.to_owned()));
    }
}
