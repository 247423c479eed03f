//! Password files, with the lines of each tool that makes them, and with Mosquitto's ACL file in place of rules.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{Credential, Reach, Setup, WRONG, hold, rules};
use crate::harness::users::{PASSWORD, passwd};

/// Of [`PASSWORD`], as `htpasswd -B` writes it.
const BCRYPT: &str = "$2b$05$abcdefghijklmnopqrstuu2mzo15neZw.wUq8heGPvGT1VglhbhfK";

/// Writes a file with both users.
type Maker = fn(&Path);

fn argon2id(file: &Path) {
    for user in ["alice", "admin"] {
        passwd(file, user, &["--no-scram"]);
    }
}

fn mosquitto(file: &Path, hash: &str) {
    fs::write(file, "").unwrap();
    for user in ["alice", "admin"] {
        let made = Command::new("mosquitto_passwd")
            .args(["-H", hash, "-b"])
            .arg(file)
            .args([user, PASSWORD])
            .status();
        assert!(made.unwrap().success(), "mosquitto_passwd");
    }
    let kind = if hash == "sha512" { "alice:$6$" } else { "alice:$7$" };
    assert!(fs::read_to_string(file).unwrap().starts_with(kind));
}

fn bcrypt(file: &Path) {
    fs::write(file, format!("alice:{BCRYPT}\nadmin:{BCRYPT}\n")).unwrap();
}

fn setup(name: &str, make: Maker, authorization: impl Fn(&Path) -> String) -> Setup {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("users");
    make(&file);
    let config =
        format!("[auth]\npassword_file = {file:?}\nhash_timeout_ms = 60000\n{}", authorization(dir.path()));
    let by = |user: &str, password: &str| Credential::password(user, password);
    Setup::new(name, config, by("alice", PASSWORD), by("admin", PASSWORD)).keeping(dir).refuses([
        (by("alice", "tg-secret-guess"), WRONG),
        (by("alice", ""), WRONG),
        (by("nobody", PASSWORD), WRONG),
        (by("ALICE", PASSWORD), WRONG),
    ])
}

#[test]
fn passwords_in_a_file_of_any_tool() {
    let by_rules = |_: &Path| rules("alice", "admin");
    hold(vec![
        setup("a password file of Argon2id", argon2id, by_rules),
        setup("a password file with $6$", |file| mosquitto(file, "sha512"), by_rules),
        setup("a password file with $7$", |file| mosquitto(file, "sha512-pbkdf2"), by_rules),
        setup("a password file of bcrypt", bcrypt, by_rules),
    ]);
}

#[test]
fn the_acl_file_of_mosquitto() {
    let by_file = |dir: &Path| {
        let file = dir.join("acl");
        fs::write(
            &file,
            "user admin\ntopic readwrite #\n\nuser alice\ntopic read shared/#\n\npattern readwrite own/%u/#\n",
        )
        .unwrap();
        format!("[authorization]\nacl_file = {file:?}\n")
    };
    let setup = setup("Mosquitto's ACL file", bcrypt, by_file);
    hold(vec![Setup { reach: Reach::Granted, ..setup }]);
}
