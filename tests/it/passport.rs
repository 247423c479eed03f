//! Passports that end (`auth.passport_lifetime_s`): renewed behind the client's back as long as what CONNECT said is right.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::{Connect, Will, auth};
use crate::harness::property as p;
use crate::harness::scram::{METHOD, Scram};
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, DEADLINE, Server, Target, Transport, unique};
use crate::process::get;

fn renewals(server: &Server, result: &str) -> u64 {
    let name = format!("tidegate_edge_passport_renewals_total{{result=\"{result}\"}} ");
    let metrics = get(server, "/metrics").1;
    metrics.lines().filter_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).sum()
}

/// A connection by SCRAM, whose passport only the client can renew.
fn by_scram(server: &Server, user: &str) -> Client {
    let method = |data: &str| [p::text(p::AUTH_METHOD, METHOD), p::text(p::AUTH_DATA, data)].concat();
    let mut client = Client::open(server, Transport::Tls);
    let mut scram = Scram::new(user, PASSWORD, &unique("nonce"));
    client.send(&Connect::v5(&unique("c")).with(method(&scram.first())).bytes());
    let challenge = client.read_packet().auth();
    let challenge = challenge.properties.text(p::AUTH_DATA).unwrap();
    client.send(&auth(0x18, &method(&scram.answer(challenge))));
    assert_eq!(client.expect_connack().code, 0);
    client
}

#[test]
fn a_user_who_is_removed_has_to_go_and_others_stay() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwords");
    for user in ["anna", "bert"] {
        passwd(&file, user, &[]);
    }
    let file_key = file.display();
    let server = Server::start(&format!("[auth]\npassword_file = \"{file_key}\"\npassport_lifetime_s = 2\n"));
    let at = |transport| Target { server: &server, transport };
    let will = unique("will");
    let anna = Connect::v5(&unique("c")).user("anna", PASSWORD).will(Will::new(&will, "gone"));
    let mut anna = at(Transport::Wss).connect(&anna);
    let mut old = at(Transport::Tcp).connect(&Connect::v4(&unique("c")).user("anna", PASSWORD));
    let mut bert = at(Transport::Tls).connect(&Connect::v5(&unique("c")).user("bert", PASSWORD));
    bert.subscribe(&will, 0);

    // Well beyond what one passport is good for nobody has noticed anything.
    let deadline = Instant::now() + 3 * DEADLINE;
    while renewals(&server, "renewed") < 9 {
        assert!(Instant::now() < deadline, "passports are not renewed");
        std::thread::sleep(Duration::from_millis(20));
    }
    anna.expect_alive();
    old.expect_alive();

    passwd(&file, "anna", &["--delete"]);
    server.signal("HUP");
    anna.expect_disconnect(0x87);
    old.expect_close_within(DEADLINE);
    // As after any end that the client did not ask for. v5 [MQTT-3.1.2-8]
    assert_eq!(bert.expect_publish().topic, will);
    bert.expect_alive();
    assert!(!server.log().contains(PASSWORD), "no password in the log");
}

#[test]
fn an_authentication_method_has_to_be_run_again_in_time() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwords");
    passwd(&file, "anna", &[]);
    let file_key = file.display();
    let server = Server::start(&format!("[auth]\npassword_file = \"{file_key}\"\npassport_lifetime_s = 2\n"));
    let since = Instant::now();
    let mut client = by_scram(&server, "anna");
    client.expect_disconnect(0x87);
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(renewals(&server, "renewed") + renewals(&server, "denied"), 0);
}
