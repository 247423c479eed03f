//! A session is the user's who made it, whichever edge and worker another user comes to, while its own moves, and after a
//! right was taken away.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBCOMP, PUBREL, V5, Will, ack};
use crate::harness::property as p;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Server, Target, Transport, unique};
use crate::tiers::{Shape, Tiers, metric, wait_until_ready};

const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// Alice may have these topics, Bob `public/#`, Carol all.
fn edge_extra(passwords: &Path, alice_may: &str) -> String {
    let rule = |who, topics: &str| {
        format!("{{ who = [\"{who}\"], effect = \"allow\", action = \"all\", topics = [{topics}] }}")
    };
    let rules = [rule("alice", alice_may), rule("bob", "\"public/#\""), rule("carol", "\"#\"")].join(", ");
    // A debug build on a busy machine hashes slowly.
    format!(
        "auth.password_file = \"{}\"\nauth.hash_timeout_ms = 60000\nedge.authenticate_timeout_ms = 60000\n\
         authorization.rule = [{rules}]\n",
        passwords.display()
    )
}

/// Every way in which a client may come.
fn ways(user: &str) -> [Connect; 5] {
    let expiry = || p::four(p::SESSION_EXPIRY, 300);
    [
        Connect::v5("dev"),
        Connect::v5("dev").with(expiry()),
        Connect::v5("dev").resume().with(expiry()),
        Connect::v4("dev"),
        Connect::v4("dev").resume(),
    ]
    .map(|connect| connect.user(user, PASSWORD))
}

fn at(tiers: &Tiers, edge: usize) -> Target<'_> {
    Target { server: &tiers.edges[edge], transport: Transport::Tls }
}

fn assert_refused(at: Target<'_>, connect: &Connect) {
    let version = connect.version();
    let connack = at.refused(&connect.bytes(), version);
    assert_eq!(connack.code, if version == V5 { 0x85 } else { 2 });
}

fn expect_and_take(device: &mut Client, payload: &str) {
    let publish = device.expect_message(payload);
    device.acknowledge(&publish);
}

fn total(tiers: &Tiers, name: &str) -> f64 {
    tiers.workers.iter().map(|worker| metric(worker, name)).sum()
}

#[test]
fn a_session_is_its_users_alone_at_every_edge_and_worker() {
    let dir = TempDir::new().unwrap();
    let passwords = dir.path().join("passwords");
    for user in USERS {
        passwd(&passwords, user, &[]);
    }
    let mut shape = Shape::paired(2);
    shape.edge_extra = edge_extra(&passwords, "\"secret/#\"");
    let tiers = Tiers::start_single(&shape);
    let mut carol = at(&tiers, 1).connect(&Connect::v5(&unique("c")).user("carol", PASSWORD));
    carol.subscribe("+/will", 0);
    for alice in ways("alice") {
        let mut device = at(&tiers, 0).connect(&alice.clone().will(Will::new("secret/will", "hers")));
        device.subscribe("secret/#", 1);
        for edge in [0, 1] {
            for bob in ways("bob") {
                assert_refused(at(&tiers, edge), &bob.will(Will::new("public/will", "his")));
            }
        }
        carol.publish("secret/x", "live", 1);
        expect_and_take(&mut device, "live");
        device.leave();
    }
    // The last of them is stored, and away.
    carol.publish("secret/x", "before", 1);
    for edge in [0, 1] {
        for bob in ways("bob") {
            assert_refused(at(&tiers, edge), &bob.will(Will::new("public/will", "his")));
        }
    }
    carol.publish("secret/x", "after", 1);
    let (mut device, connack) = at(&tiers, 1).connect_and_see(&ways("alice")[2]);
    assert!(connack.session_present);
    for payload in ["before", "after"] {
        expect_and_take(&mut device, payload);
    }
    carol.publish("secret/x", "live", 1);
    expect_and_take(&mut device, "live");
    carol.expect_silence();
    assert_eq!(total(&tiers, "tidegate_broker_sessions_foreign_total"), (6 * 2 * ways("").len()) as f64);
}

#[test]
fn each_user_has_a_session_of_that_name_where_it_is_configured_so() {
    let dir = TempDir::new().unwrap();
    let passwords = dir.path().join("passwords");
    for user in USERS {
        passwd(&passwords, user, &[]);
    }
    let mut shape = Shape::new(2, 1);
    shape.edge_extra = edge_extra(&passwords, "\"secret/#\"");
    shape.worker_extra = "broker.foreign_session = \"separate\"\n".to_owned();
    let mut tiers = Tiers::start_single(&shape);
    let mut carol = at(&tiers, 0).connect(&Connect::v5("dev").user("carol", PASSWORD));
    let [mut alice, mut bob] = ["alice", "bob"].map(|user| at(&tiers, 0).connect(&ways(user)[2]));
    alice.subscribe("secret/#", 1);
    bob.subscribe("public/#", 1);
    tiers.kill_worker(0);
    for (topic, device) in [("secret/x", &mut alice), ("public/x", &mut bob)] {
        carol.publish(topic, topic, 1);
        expect_and_take(device, topic);
    }
    let again = at(&tiers, 0).connect(&ways("bob")[2]);
    bob.expect_disconnect(0x8E);
    alice.expect_alive();
    again.leave();
}

#[test]
fn what_waits_passes_the_rules_of_when_it_is_delivered() {
    let dir = TempDir::new().unwrap();
    let passwords = dir.path().join("passwords");
    for user in USERS {
        passwd(&passwords, user, &[]);
    }
    let mut shape = Shape::paired(2);
    shape.edge_extra = edge_extra(&passwords, "\"secret/#\", \"public/#\"");
    let mut tiers = Tiers::start_single(&shape);
    let alice = Connect::stored("dev").user("alice", PASSWORD).with(p::two(p::RECEIVE_MAXIMUM, 1));
    let mut carol = at(&tiers, 1).connect(&Connect::v5(&unique("c")).user("carol", PASSWORD));
    let will = Will::new("secret/will", "hers").retain();
    let mut device = at(&tiers, 0).connect(&alice.clone().will(will));
    device.subscribe("secret/#", 2);
    device.subscribe("public/#", 2);
    for (topic, qos) in [("secret/a", 2), ("secret/b", 1), ("public/c", 1)] {
        carol.publish(topic, topic, qos);
    }
    device.expect_message("secret/a");

    // The other edge, and the worker behind it, go on with the rules of before.
    let config = tiers.edges[0].dir().join("tidegate.toml");
    let text = fs::read_to_string(&config).unwrap();
    let less = text.replace("\"secret/#\", \"public/#\"", "\"public/#\"");
    assert_ne!(text, less);
    fs::write(&config, less).unwrap();
    restart(&mut tiers.edges[0]);
    let (mut device, connack) = at(&tiers, 0).connect_and_see(&alice);
    assert!(connack.session_present);
    device.expect_success(PUBREL, 1);
    device.send(&ack(PUBCOMP, 1));
    expect_and_take(&mut device, "public/c");
    carol.publish("secret/x", "live", 1);
    carol.publish("public/x", "live", 1);
    let live = device.expect_message("live");
    assert_eq!(live.topic, "public/x");
    device.acknowledge(&live);
    device.expect_alive();
    carol.subscribe("secret/will", 0);
    carol.expect_silence();
}

/// `kill -9`, and the same again.
fn restart(server: &mut Server) {
    server.kill();
    server.run();
    server.wait_until_up();
    wait_until_ready(server);
}
