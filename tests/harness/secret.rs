//! Passwords, tokens and keys of the tests bear one mark, so that it can be looked for in everything that a process printed, however
//! it was written: as it stands, in base64, in hexadecimal, as a list of bytes.
//! `TIDEGATE_TEST_LOGS` names a directory in which what each process printed is kept.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;

/// What every secret of a test holds.
pub(crate) const MARK: &str = "tg-secret-";

/// How secrets begin that bear no mark: the claims of a signed token, a key, and what is kept of a password.
const BEGINNINGS: [&str; 4] = [".eyJ", "BEGIN PRIVATE KEY", "$argon2id$", "$scram-sha-256$"];

/// The mark in every way in which it may be written.
fn forms() -> Vec<String> {
    let mark = MARK.as_bytes();
    let mut forms = vec![MARK.to_owned(), mark.iter().map(|byte| format!("{byte:02x}")).collect()];
    // Three bytes are four characters: what stands before and behind it changes the ends.
    for (before, first) in [(0, 0), (1, 2), (2, 3)] {
        let text = BASE64_STANDARD_NO_PAD.encode([&b"???"[..before], mark].concat());
        let whole = (before + mark.len()) / 3 * 4;
        forms.push(text[first..whole].to_owned());
    }
    let list: Vec<String> = mark.iter().map(u8::to_string).collect();
    forms.extend([list.join(", "), list.join(",")]);
    forms
}

/// The first line of `text` with a secret in it.
pub(crate) fn find(text: &str) -> Option<&str> {
    let forms = forms();
    text.lines().find(|line| {
        let lower = line.to_lowercase();
        let is_marked =
            forms.iter().any(|form| line.contains(form.as_str()) || lower.contains(form.as_str()));
        is_marked || BEGINNINGS.iter().any(|beginning| line.contains(beginning))
    })
}

/// Fails if there is a secret in what `what` printed.
pub(crate) fn expect_none(what: &str, text: &str) {
    if let Some(line) = find(text) {
        panic!("a secret in what {what} printed:\n{}", line.chars().take(2000).collect::<String>());
    }
}

/// Keeps what a process printed where [`TIDEGATE_TEST_LOGS`](self) says, and fails if there is a secret in it.
pub(crate) fn look_through(log: &Path) {
    let Ok(text) = fs::read(log) else { return };
    if let Some(dir) = std::env::var_os("TIDEGATE_TEST_LOGS") {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir_all(&dir).unwrap();
        fs::write(Path::new(&dir).join(name), &text).unwrap();
    }
    if !std::thread::panicking() {
        expect_none("a process", &String::from_utf8_lossy(&text));
    }
}

#[test]
fn the_mark_is_found_however_it_is_written() {
    assert_eq!(find("nothing here\nnor there"), None);
    let secret = format!("ab{MARK}pencil");
    for text in [
        secret.clone(),
        format!("{:?}", secret.as_bytes()),
        secret.bytes().map(|byte| format!("{byte:02X}")).collect(),
    ] {
        assert!(find(&text).is_some(), "{text}");
    }
    assert!(find("eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJ0aWRlZ2F0ZSJ9.AA").is_some());
    for before in ["", "x", "xy", "xyz"] {
        let text = BASE64_STANDARD_NO_PAD.encode(format!("{before}{MARK}pencil"));
        assert!(find(&format!("a line\nof {text}")).is_some(), "{text}");
    }
}
