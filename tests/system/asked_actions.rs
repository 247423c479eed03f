//! Actions that an HTTP endpoint is asked about, through edge, worker and service of authentication: a packet that waits for the
//! answer outlives its worker, and a service that stands still holds up only who is asked about.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBACK, Publish};
use crate::harness::endpoint::{Condition, Endpoint};
use crate::harness::server::addresses_file;
use crate::harness::{Client, Server, Target, Transport, unique, until};
use crate::servers::free_port;
use crate::tiers::{Shape, Tiers, wait_until_ready};

/// A service that asks `endpoint`, which may take its time.
fn service(endpoint: &Endpoint, dir: &TempDir) -> Server {
    let keys = dir.path().join("keys");
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("certs").arg(&keys).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let home = dir.path().join("authsvc");
    fs::create_dir(&home).unwrap();
    let config = format!(
        "service.listen = \"127.0.0.1:{}\"\nservice.request_timeout_ms = 60000\npassport.signing_key_file = \"{}\"\n\
         admin.listen = \"127.0.0.1:0\"\nruntime.addresses_file = {:?}\n{}",
        free_port(),
        keys.join("passport.key").display(),
        addresses_file(&home),
        endpoint.section("timeout_ms = 25000\n")
    );
    let mut server = Server::begin("authsvc", &home, &keys.join("ca.pem"), &config);
    server.wait_until_up();
    wait_until_ready(&server);
    server
}

fn connect(tiers: &Tiers, edge: usize, user: &str) -> Client {
    let at = Target { server: &tiers.edges[edge], transport: Transport::Tcp };
    at.connect(&Connect::stored(&unique("c")).user(user, "x"))
}

fn publish(client: &mut Client, topic: &str, payload: &str) -> u8 {
    client.send(&Publish::new(topic, payload).qos1(7).bytes());
    client.expect_reply(PUBACK, 7).reason
}

#[test]
fn a_packet_that_waits_for_an_answer_outlives_its_worker() {
    let (endpoint, dir) = (Endpoint::start(), TempDir::new().unwrap());
    let service = service(&endpoint, &dir);
    let url = format!("http://{}", service.address_of("service"));
    let mut shape = Shape::new(2, 1);
    shape.signs_at_edges = false;
    shape.edge_extra = format!("authsvc = {{ urls = [{url:?}], timeout_ms = 30000 }}\n");
    shape.worker_extra = format!(
        "authsvc = {{ urls = [{url:?}], timeout_ms = 30000 }}\npassport.jwks_url = \"{url}/.well-known/jwks.json\"\n\
         passport.jwks_interval_s = 1\n"
    );
    let mut tiers = Tiers::start_single(&shape);
    let mut observer = connect(&tiers, 0, "observer");
    assert_eq!(observer.subscribe("#", 1), 1);
    let mut alice = connect(&tiers, 0, "alice");
    assert_eq!(publish(&mut alice, "own/alice/known", "0"), 0);
    assert_eq!(publish(&mut alice, "own/bob/x", "never"), 0x87);
    assert_eq!(observer.take().text(), "0");

    endpoint.is(Condition::Hanging);
    let asked = endpoint.asked();
    let mut all = Publish::new("shared/a", "1").qos1(1).bytes();
    all.extend(Publish::new("own/alice/known", "2").qos1(2).bytes());
    alice.send(&all);
    until(|| (endpoint.asked() > asked).then_some(()), || "it is asked about".to_owned());
    // One of the two has her.
    for number in 0..2 {
        tiers.kill_worker(number);
        tiers.run_worker(number);
        wait_until_ready(&tiers.workers[number]);
    }
    until(|| (endpoint.asked() > asked + 1).then_some(()), || "it is asked about again".to_owned());
    let mut other = connect(&tiers, 0, "observer");
    assert_eq!(publish(&mut other, "elsewhere", "meanwhile"), 0);
    assert_eq!(observer.take().text(), "meanwhile");
    endpoint.is(Condition::Well);
    assert_eq!(alice.expect_reply(PUBACK, 1).reason, 0);
    assert_eq!(alice.expect_reply(PUBACK, 2).reason, 0);
    assert_eq!((observer.take().text(), observer.take().text()), ("1", "2"));

    service.signal("STOP");
    let since = Instant::now();
    assert_eq!(publish(&mut alice, "shared/b", "never"), 0x83);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(publish(&mut alice, "own/alice/known", "3"), 0);
    assert_eq!(observer.take().text(), "3");
    service.signal("CONT");
    let is_back = || (publish(&mut alice, "shared/c", "4") == 0).then_some(());
    until(is_back, || "the service is asked again".to_owned());
    assert_eq!(observer.take().text(), "4");
}
