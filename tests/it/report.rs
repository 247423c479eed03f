//! One line in the log for each connection that was refused, or ended other than by the device's wish, and no more lines than
//! that; never a secret.

use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::bytes::{self, Connect};
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Server, Target, Transport, unique, until};

const TCP: Transport = Transport::Tcp;

/// The fields of every line at level INFO that says what became of a connection.
fn lines(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let about_connections = lines.filter(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "INFO" && (message == "connection refused" || message == "connection ended")
    });
    about_connections.collect()
}

/// Waits for the line about this client.
fn line_of(server: &Server, client_id: &str) -> Value {
    let found = || lines(server).into_iter().find(|line| line["client_id"] == client_id);
    until(found, || format!("no line about {client_id}:\n{}", server.log()))
}

fn start(users: Option<&TempDir>, extra: &str) -> Server {
    let auth = users.map_or(String::new(), |dir| {
        let file = dir.path().join("users");
        passwd(&file, "anna", &[]);
        format!("[auth]\npassword_file = {file:?}\nhash_timeout_ms = 60000\n")
    });
    Server::start(&format!("{auth}{extra}"))
}

#[test]
fn an_end_that_the_device_did_not_want_has_a_line_with_its_name() {
    let server = start(None, "");
    let at = Target { server: &server, transport: TCP };
    let (large, silent, twice, left, gone) =
        (unique("large"), unique("silent"), unique("twice"), unique("left"), unique("gone"));
    // More than the Maximum Packet Size of the server, which is said by the first bytes.
    let mut client = at.connect(&Connect::v5(&large));
    client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    client.expect_dropped(0x95);
    let _silent = at.connect(&Connect::v5(&silent).keep_alive(1));
    let _first = at.connect(&Connect::v5(&twice));
    let _second = at.connect(&Connect::v5(&twice));
    at.connect(&Connect::v5(&left)).leave();
    at.connect(&Connect::v5(&gone)).vanish();
    for (client_id, reason, code) in [
        (&large, "packet_too_large", "0x95"),
        (&silent, "keep_alive_timeout", "0x8D"),
        (&twice, "session_taken_over", "0x8E"),
    ] {
        let line = line_of(&server, client_id);
        assert_eq!((&line["message"], &line["listener"]), (&"connection ended".into(), &"mqtt".into()));
        assert_eq!((&line["reason"], &line["code"]), (&reason.into(), &code.into()), "{line}");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    let about = |client_id: &str| lines(&server).iter().filter(|line| line["client_id"] == client_id).count();
    assert_eq!((about(&large), about(&silent), about(&twice)), (1, 1, 1));
    assert_eq!((about(&left), about(&gone)), (0, 0), "a DISCONNECT, and a connection that is lost");
}

#[test]
fn a_refusal_has_a_line_and_no_secret() {
    let dir = TempDir::new().unwrap();
    let server = start(Some(&dir), "");
    let at = Target { server: &server, transport: TCP };
    let hostile = "a\n\u{1b}[31m\"b\" code=0x00";
    for (client_id, shown) in [("wrong", "wrong".to_owned()), (hostile, format!("{hostile:?}"))] {
        at.refused(&Connect::v5(client_id).user("anna", "a wrong secret").bytes(), 5);
        let line = line_of(&server, &shown);
        assert_eq!(line["message"], "connection refused");
        assert_eq!((&line["user"], &line["code"]), (&"anna".into(), &"0x86".into()), "{line}");
    }
    // Not MQTT at all, and a CONNECT of a version that nobody knows.
    let mut client = at.open();
    client.send(b"GET / HTTP/1.1\r\n\r\n");
    client.expect_close();
    at.refused(&Connect::new(9, "newer").bytes(), 5);
    let codes =
        || lines(&server).iter().filter_map(|line| line["code"].as_str().map(str::to_owned)).collect();
    until(
        || {
            let codes: Vec<String> = codes();
            (codes.iter().any(|code| code == "0x84") && codes.len() == 4).then_some(())
        },
        || server.log(),
    );
    let mut client = at.connect(&Connect::v5("anna's").user("anna", PASSWORD));
    client.send(&bytes::packet(0x00, &[]));
    client.expect_dropped(0x81);
    let line = line_of(&server, "\"anna's\"");
    assert_eq!((&line["user"], &line["code"]), (&"anna".into(), &"0x81".into()), "{line}");
    assert!(!server.log().contains("secret") && !server.log().contains(PASSWORD), "{}", server.log());
}

#[test]
fn a_storm_of_refusals_has_few_lines() {
    let server = start(None, "[edge]\nclient_id_bytes_max = 23\n");
    let at = Target { server: &server, transport: TCP };
    let began = Instant::now();
    let long = "x".repeat(24);
    for _ in 0..300 {
        at.refused(&Connect::v5(&long).bytes(), 5);
    }
    // Ten at once, and one in each second since.
    let most = 11 + began.elapsed().as_secs();
    let count = lines(&server).len() as u64;
    assert!((10..=most).contains(&count), "{count} lines, at most {most}");
    let quiet = start(None, "[edge]\nclient_id_bytes_max = 23\nlog_lines_per_s = 0\n");
    Target { server: &quiet, transport: TCP }.refused(&Connect::v5(&long).bytes(), 5);
    assert!(lines(&quiet).is_empty());
    // What is counted is counted all the same.
    let metrics = crate::process::get(&server, "/metrics").1;
    let refused = "tidegate_edge_refused_total{reason=\"client_identifier_not_valid\"} 300";
    assert!(metrics.contains(refused), "{metrics}");
}
