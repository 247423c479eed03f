//! Files of the operator that are written while the server runs: what is seen between two writes harms nobody.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::Connect;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Server, Target, Transport, let_pass, unique, until};

/// For less than this, something that is not meant may be in a file.
const PAUSE: Duration = Duration::from_millis(2_200);

fn at(server: &Server, transport: Transport) -> Target<'_> {
    Target { server, transport }
}

fn by_password(user: &str) -> Connect {
    Connect::v5(&unique("c")).user(user, PASSWORD)
}

/// Waits until the log has a line with all of these.
fn logged(server: &Server, words: &[&str]) -> String {
    let is_told = |line: &&str| words.iter().all(|word| line.contains(word));
    until(
        || server.log().lines().find(is_told).map(str::to_owned),
        || format!("{words:?} in\n{}", server.log()),
    )
}

/// Rewrites a file in place, as an editor does that truncates it first; `between` runs at each state of it.
fn rewrite_in_place(path: &Path, text: &str, mut between: impl FnMut(&str)) {
    let first_line = text.find('\n').unwrap() + 1;
    for part in ["", &text[..first_line], &text[..text.len() - 20]] {
        // Truncates, and keeps the inode.
        fs::write(path, part).unwrap();
        let until = Instant::now() + PAUSE;
        while Instant::now() < until {
            between(part);
            let_pass(Duration::from_millis(100));
        }
    }
    fs::write(path, text).unwrap();
}

// Truncated, cut after a line, cut within one: nobody is refused, and nobody who is connected has to go.
#[test]
fn a_password_file_that_is_rewritten_in_place_throws_nobody_out() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwords");
    for user in ["anna", "bert"] {
        passwd(&file, user, &[]);
    }
    let server = Server::start(&format!(
        "[auth]\npassword_file = {file:?}\npassport_lifetime_s = 1\nhash_timeout_ms = 60000\n\
         [edge]\nauthenticate_timeout_ms = 60000\n"
    ));
    let users = ["anna", "bert"];
    let mut connected: Vec<Client> =
        users.iter().map(|user| at(&server, Transport::Tls).connect(&by_password(user))).collect();
    let text = fs::read_to_string(&file).unwrap();
    rewrite_in_place(&file, &text, |_| {
        for user in users {
            at(&server, Transport::Tcp).connect(&by_password(user)).leave();
        }
    });
    for client in &mut connected {
        client.expect_alive();
    }
    let_pass(Duration::from_secs(2));
    for client in &mut connected {
        client.expect_alive();
    }

    // What is meant is taken, and the log says who went.
    let without_anna: String = text.split_inclusive('\n').filter(|line| !line.starts_with("anna:")).collect();
    fs::write(&file, without_anna).unwrap();
    connected.remove(0).expect_disconnect(0x87);
    connected[0].expect_alive();
    logged(&server, &["users were removed", "anna"]);
}

#[test]
fn a_password_file_without_users_is_not_taken_not_even_when_asked_for() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwords");
    passwd(&file, "anna", &[]);
    let server = Server::start(&format!("[auth]\npassword_file = {file:?}\n"));
    fs::write(&file, "").unwrap();
    server.signal("HUP");
    logged(&server, &["WARN", "has no user any more"]);
    at(&server, Transport::Tcp).connect(&by_password("anna")).leave();
    passwd(&file, "bert", &[]);
    logged(&server, &["users were removed", "anna"]);
    at(&server, Transport::Tcp).connect(&by_password("bert")).leave();
    at(&server, Transport::Tcp).refused(&by_password("anna").bytes(), 5);
}

#[test]
fn certificates_that_are_rewritten_in_place_are_taken_when_they_are_whole() {
    let dir = TempDir::new().unwrap();
    let server = Server::start_in(dir.path(), "");
    let certs = dir.path().join("data/certs");
    let text = fs::read_to_string(certs.join("server.pem")).unwrap();
    server.signal("HUP");
    rewrite_in_place(&certs.join("server.pem"), &text, |_| at(&server, Transport::Tls).v5().leave());
    logged(&server, &["certificates read", "mqtts"]);
    assert!(!server.log().contains("certificates not taken"), "{}", server.log());
    at(&server, Transport::Tls).v5().leave();

    fs::write(certs.join("server.key"), "").unwrap();
    server.signal("HUP");
    let line = logged(&server, &["WARN", "certificates not taken", "server.key: is empty"]);
    assert!(line.contains("certificates.key_file"), "{line}");
    at(&server, Transport::Wss).v5().leave();
}
