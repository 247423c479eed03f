//! The process: health, metrics, `$SYS`, an orderly end, and what is there after a restart.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBACK, PUBREC, PUBREL, Publish, Will, ack};
use crate::harness::transport::tcp;
use crate::harness::{Server, Target, Transport, shared, unique};

fn at(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// Status line and body of `GET path` on the admin port.
pub(crate) fn get(server: &Server, path: &str) -> (String, String) {
    let mut socket = tcp(server.address_of("admin"));
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn health_and_metrics_are_served() {
    let server = shared();
    for path in ["/livez", "/readyz", "/metrics"] {
        let (status, _) = get(server, path);
        assert!(status.contains(" 200"), "{path}: {status}");
    }
    assert!(get(server, "/elsewhere").0.contains(" 404"));
    at(server).v5().publish(&unique("t"), "x", 1);
    let metrics = get(server, "/metrics").1;
    assert!(metrics.ends_with("# EOF\n"), "the exposition is whole");
    assert!(metrics.lines().any(|line| line.starts_with("process_")), "{metrics}");
}

#[test]
fn sys_topics_tell_the_version() {
    // Retained, and not matched by # alone. v5 [MQTT-4.7.2-1]
    let mut client = at(shared()).v5();
    client.subscribe("$SYS/broker/version", 0);
    let version = client.expect_publish();
    assert!(version.text().starts_with("tidegate version"), "{version:?}");
    client.subscribe("$SYS/broker/clients/+", 0);
    assert!(client.expect_publish().topic.starts_with("$SYS/broker/clients/"));
}

#[test]
fn clients_cannot_publish_to_sys() {
    let mut client = at(shared()).v5();
    client.subscribe("$SYS/broker/version", 0);
    client.expect_publish();
    client.send(&Publish::new("$SYS/broker/version", "mine").qos1(1).bytes());
    assert!(client.expect_reply(PUBACK, 1).reason >= 0x80);
    client.expect_silence();
}

#[test]
fn sigterm_disconnects_everybody_and_ends_in_time() {
    let server = Server::start("");
    let mut clients: Vec<_> = Transport::ALL
        .into_iter()
        .flat_map(|transport| {
            let target = Target { server: &server, transport };
            [target.v5(), target.v4()]
        })
        .collect();
    let start = Instant::now();
    server.signal("TERM");
    for client in &mut clients {
        // v5 section 3.14.2.1: 0x8B, server shutting down.
        client.expect_dropped(0x8B);
    }
    server.wait_for_end(Duration::from_secs(15));
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn restart_keeps_sessions_queues_and_retained_messages() {
    // Once in good order, once without notice.
    for signal in ["TERM", "KILL"] {
        let dir = TempDir::new().unwrap();
        let server = Server::start_in(dir.path(), "");
        let mut client = at(&server).connect(&Connect::stored("s"));
        client.subscribe("a/+", 2);
        client.subscribe("$share/g/b", 1);
        let mut publisher = at(&server).v5();
        publisher.publish("a/1", "inflight", 1);
        let inflight = client.expect_message("inflight");
        publisher.publish("a/2", "released", 2);
        let released = client.expect_message("released");
        client.send(&ack(PUBREC, released.id));
        client.expect(&ack(PUBREL, released.id));
        client.vanish();
        publisher.publish("a/3", "queued", 2);
        publisher.publish_as(Publish::new("kept", "retained").retain(), 1);
        publisher.publish_as(Publish::new("removed", "x").retain(), 1);
        publisher.publish_as(Publish::new("removed", "").retain(), 1);
        let mut received = at(&server).connect(&Connect::stored("p"));
        received.send(&Publish::new("a/4", "once").qos2(9).bytes());
        received.expect_success(PUBREC, 9);
        server.signal(signal);
        server.wait_for_end(Duration::from_secs(15));
        drop(server);

        let server = Server::start_in(dir.path(), "");
        // v5 [MQTT-4.3.3-10]: the repeat of a message that was received before the restart is not delivered again.
        let mut received = at(&server).connect(&Connect::stored("p"));
        received.send(&Publish::new("a/4", "once").qos2(9).dup().bytes());
        received.expect_success(PUBREC, 9);
        received.send(&ack(PUBREL, 9));
        received.expect_success(0x70, 9);
        let (mut client, connack) = at(&server).connect_and_see(&Connect::stored("s"));
        assert!(connack.session_present, "after SIG{signal}");
        let again = client.expect_message("inflight");
        assert_eq!((again.id, again.dup), (inflight.id, true));
        client.expect(&ack(PUBREL, released.id));
        let (queued, once) = (client.expect_message("queued"), client.expect_message("once"));
        client.expect_silence_from(&mut received);
        client.send(&ack(PUBACK, again.id));
        client.acknowledge(&queued);
        client.acknowledge(&once);
        // The subscriptions work on.
        received.publish("a/5", "new", 1);
        assert_eq!(client.take().text(), "new");
        received.publish("b", "shared", 1);
        assert_eq!(client.take().text(), "shared");
        let mut late = at(&server).v5();
        late.subscribe("kept", 1);
        assert_eq!(late.take().text(), "retained");
        late.subscribe("removed", 1);
        late.expect_silence_from(&mut received);
    }
}

#[test]
fn will_of_a_connection_that_ended_with_the_process_is_published_after_the_restart() {
    let dir = TempDir::new().unwrap();
    let server = Server::start_in(dir.path(), "");
    let will = Will::new("gone", "will").qos(1).delay(1);
    let client = at(&server).connect(&Connect::stored("s").will(will));
    let mut witness = at(&server).connect(&Connect::stored("w"));
    witness.subscribe("gone", 1);
    server.signal("KILL");
    server.wait_for_end(Duration::from_secs(5));
    drop((client, server));
    let server = Server::start_in(dir.path(), "");
    let mut witness = at(&server).connect(&Connect::stored("w"));
    assert_eq!(witness.take().text(), "will");
}

#[test]
fn sessions_expire_while_the_process_is_down() {
    use crate::harness::property as p;
    let dir = TempDir::new().unwrap();
    let brief = Connect::v5("s").resume().with(p::four(p::SESSION_EXPIRY, 1));
    let server = Server::start_in(dir.path(), "");
    at(&server).connect(&brief).leave();
    server.signal("TERM");
    server.wait_for_end(Duration::from_secs(15));
    drop(server);
    crate::harness::let_pass(Duration::from_millis(2_000));
    let server = Server::start_in(dir.path(), "");
    let (_, connack) = at(&server).connect_and_see(&brief);
    assert!(!connack.session_present);
}
