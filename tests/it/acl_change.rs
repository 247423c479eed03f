//! An ACL file that changes while clients are connected: what they may do follows, and nobody has to connect anew.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBACK, Publish};
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Server, Target, Transport, replace, unique, until};
use crate::process::get;

/// A file has to be the same for three seconds and is looked at each second; then clients are asked about.
const SOON: Duration = Duration::from_secs(10);

/// A server whose only user is anna, and its ACL file.
fn start(dir: &TempDir, acl: &str) -> Server {
    let (users, file) = (dir.path().join("users"), dir.path().join("acl"));
    passwd(&users, "anna", &[]);
    fs::write(&file, acl).unwrap();
    Server::start(&format!(
        "[auth]\npassword_file = {users:?}\nanonymous = \"always\"\nhash_timeout_ms = 60000\n[authorization]\nacl_file = {file:?}\n\
         [edge]\nauthenticate_timeout_ms = 60000\n"
    ))
}

/// Whether a message at QoS 1 is taken.
fn may_publish(client: &mut Client, topic: &str) -> bool {
    let publish = Publish::new(topic, "x").qos1(9);
    let publish = if client.version < 5 { publish.v3() } else { publish };
    client.send(&publish.bytes());
    client.expect_reply(PUBACK, 9).reason < 0x80
}

#[test]
fn what_a_connected_client_may_do_follows_the_file() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir, "topic write open\nuser anna\ntopic readwrite before/#\n");
    let over = |transport| Target { server: &server, transport };
    let anna = |transport| over(transport).connect(&Connect::v5(&unique("a")).user("anna", PASSWORD));
    let mut clients = [Transport::Tcp, Transport::Tls, Transport::Wss].map(anna);
    let mut nobody = over(Transport::Tcp).v5();
    for client in &mut clients {
        assert_eq!(client.subscribe("before/quiet", 1), 1);
        assert!(may_publish(client, "before/x") && !may_publish(client, "after/x"));
    }
    assert!(may_publish(&mut nobody, "open"));

    // What cannot be read changes nothing.
    let acl = dir.path().join("acl");
    fs::write(&acl, "topic nonsense\n  topic read ++").unwrap();
    until(|| server.log().contains("ACL file not taken").then_some(()), || server.log());
    assert!(may_publish(&mut clients[0], "before/y"));

    let since = Instant::now();
    replace(&acl, "user anna\ntopic readwrite after/#\n");
    for client in &mut clients {
        until(|| may_publish(client, "after/x").then_some(()), || server.log());
        assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
        assert!(!may_publish(client, "before/x"));
        assert_eq!((client.subscribe("before/quiet", 1), client.subscribe("after/quiet", 1)), (0x87, 1));
    }
    until(|| (!may_publish(&mut nobody, "open")).then_some(()), || server.log());
    let (_, metrics) = get(&server, "/metrics");
    assert!(metrics.contains("result=\"renewed\"} 4\n"), "once each: {metrics}");
    // Nobody is left who goes by the file of before.
    let mut subscriber = anna(Transport::Tcp);
    assert_eq!(subscriber.subscribe("before/quiet", 1), 0x87);
}
