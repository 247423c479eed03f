//! A session is the user's who made it. Alice may have `secret/#`, Bob `public/#`, Carol everything; all of them know a device
//! called `dev`.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBCOMP, PUBREC, PUBREL, V5, Will, ack};
use crate::harness::property as p;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, DEADLINE, Server, Target, Transport, let_pass, unique};
use crate::process::get;

const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// A configuration in which each user may have some topics. A debug build on a busy machine hashes slowly.
fn configuration(dir: &Path, alice_may: &str, more: &str) -> String {
    let rule = |who, topics| {
        format!(
            "[[authorization.rule]]\nwho = [\"{who}\"]\neffect = \"allow\"\naction = \"all\"\ntopics = [{topics}]\n"
        )
    };
    let rules = [rule("alice", alice_may), rule("bob", "\"public/#\""), rule("carol", "\"#\"")].concat();
    let file = dir.join("passwords");
    format!(
        "[auth]\npassword_file = \"{}\"\nhash_timeout_ms = 60000\n[edge]\nauthenticate_timeout_ms = 60000\n{rules}{more}",
        file.display()
    )
}

/// A server whose state is in `dir`; alice may have these topics.
fn start(dir: &Path, alice_may: &str, more: &str) -> Server {
    let file = dir.join("passwords");
    if !file.exists() {
        for user in USERS {
            passwd(&file, user, &[]);
        }
    }
    Server::start_in(dir, &configuration(dir, alice_may, more))
}

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// Every way in which a client may come: version, Clean Start, a session that outlives the connection.
fn ways(user: &str) -> [Connect; 6] {
    let expiry = || p::four(p::SESSION_EXPIRY, 60);
    [
        Connect::v5("dev"),
        Connect::v5("dev").resume(),
        Connect::v5("dev").with(expiry()),
        Connect::v5("dev").resume().with(expiry()),
        Connect::v4("dev"),
        Connect::v4("dev").resume(),
    ]
    .map(|connect| connect.user(user, PASSWORD))
}

fn assert_refused(at: Target<'_>, connect: &Connect) {
    let version = connect.version();
    let connack = at.refused(&connect.bytes(), version);
    // v5 3.2.2.2; v3 3.2.2.3: identifier rejected.
    assert_eq!(connack.code, if version == V5 { 0x85 } else { 2 });
}

fn dropped(server: &Server, reason: &str) -> f64 {
    let name = format!("tidegate_broker_messages_dropped_total{{reason=\"{reason}\"");
    let metrics = get(server, "/metrics").1;
    let value = |line: &str| line.strip_prefix(&name)?.rsplit(' ').next()?.parse::<f64>().ok();
    metrics.lines().filter_map(value).sum()
}

#[test]
fn what_waits_for_one_user_is_not_anothers_and_stays_as_it_is() {
    let dir = TempDir::new().unwrap();
    let server = start(dir.path(), "\"secret/#\"", "");
    let at = tcp(&server);
    let mut carol = at.connect(&Connect::v5(&unique("c")).user("carol", PASSWORD));
    let alices =
        [Connect::stored("dev"), Connect::v4("dev").resume()].map(|alice| alice.user("alice", PASSWORD));
    for alice in alices {
        let mut device = at.connect(&alice);
        device.subscribe("secret/#", 1);
        device.leave();
        carol.publish("secret/x", "before", 1);
        for bob in ways("bob") {
            assert_refused(at, &bob.will(Will::new("public/will", "his")));
        }
        carol.publish("secret/x", "after", 1);
        let (mut device, connack) = at.connect_and_see(&alice);
        assert!(connack.session_present);
        for payload in ["before", "after"] {
            let publish = device.expect_message(payload);
            device.acknowledge(&publish);
        }
        carol.publish("secret/x", "live", 1);
        let live = device.expect_message("live");
        device.acknowledge(&live);
        device.leave();
        // Begun anew by its owner: what is left is nothing, and then it is anybody's.
        at.connect(&Connect::v4("dev").user("alice", PASSWORD)).leave();
        let bob = at.connect(&Connect::v5("dev").user("bob", PASSWORD));
        bob.leave();
    }
}

#[test]
fn nobody_ends_the_connection_of_another_user() {
    let dir = TempDir::new().unwrap();
    let server = start(dir.path(), "\"secret/#\"", "");
    let at = tcp(&server);
    let mut carol = at.connect(&Connect::v5(&unique("c")).user("carol", PASSWORD));
    carol.subscribe("+/will", 0);
    for alice in ways("alice") {
        let mut device = at.connect(&alice.clone().will(Will::new("secret/will", "hers")));
        device.subscribe("secret/#", 1);
        for bob in ways("bob") {
            assert_refused(at, &bob.will(Will::new("public/will", "his")));
        }
        carol.publish("secret/x", "live", 1);
        let live = device.expect_message("live");
        device.acknowledge(&live);
        device.leave();
        at.connect(&Connect::v4("dev").user("alice", PASSWORD)).leave();
    }
    carol.expect_silence();
}

#[test]
fn each_user_has_a_session_of_that_name_where_it_is_configured_so() {
    let dir = TempDir::new().unwrap();
    let more = "[broker]\nforeign_session = \"separate\"\n";
    let server = start(dir.path(), "\"secret/#\"", more);
    let at = tcp(&server);
    let mut carol = at.connect(&Connect::v5("dev").user("carol", PASSWORD));
    for number in 0..ways("").len() {
        let [mut alice, mut bob] = ["alice", "bob"].map(|user| at.connect(&ways(user)[number]));
        alice.subscribe("secret/#", 1);
        bob.subscribe("public/#", 1);
        for (topic, device) in [("secret/x", &mut alice), ("public/x", &mut bob)] {
            carol.publish(topic, topic, 1);
            let publish = device.expect_message(topic);
            device.acknowledge(&publish);
        }
        alice.expect_alive();
        bob.expect_alive();
        alice.leave();
        bob.leave();
    }
    let prefix = [p::byte(0x19, 1), p::four(p::SESSION_EXPIRY, 60)].concat();
    let connack = at.connect_and_see(&Connect::v5("dev").user("bob", PASSWORD).with(prefix)).1;
    assert_eq!(connack.properties.text(0x1A), Some("response/dev"), "what the client knows has its name");
}

/// A device that has one QoS 2 message in flight whose PUBREC it has sent, one whose PUBREC it has not, and the rest waiting.
fn leave_in_the_middle(at: Target<'_>, connect: &Connect, carol: &mut Client) {
    let mut device = at.connect(connect);
    device.subscribe("secret/#", 2);
    device.subscribe("public/#", 2);
    for (topic, qos) in [("secret/a", 2), ("secret/b", 2), ("secret/c", 1), ("public/d", 1), ("secret/e", 2)]
    {
        carol.publish(topic, topic, qos);
    }
    device.expect_message("secret/a");
    device.expect_message("secret/b");
    device.send(&ack(PUBREC, 1));
    device.expect_success(PUBREL, 1);
    device.vanish();
}

#[test]
fn what_waits_passes_the_rules_of_when_it_is_delivered() {
    let dir = TempDir::new().unwrap();
    let both = "\"secret/#\", \"public/#\"";
    let window = p::two(p::RECEIVE_MAXIMUM, 2);
    let connect = Connect::stored("dev").user("alice", PASSWORD).with(window);
    let server = start(dir.path(), both, "");
    let mut carol = tcp(&server).connect(&Connect::v5(&unique("c")).user("carol", PASSWORD));
    leave_in_the_middle(tcp(&server), &connect, &mut carol);
    // In good order: what was sent is known, and the rest was not.
    server.signal("TERM");
    assert_eq!(server.wait_for_end(6 * DEADLINE), 0);
    drop((carol, server));

    let server = start(dir.path(), "\"public/#\"", "");
    let at = tcp(&server);
    let mut carol = at.connect(&Connect::v5(&unique("c")).user("carol", PASSWORD));
    let (mut device, connack) = at.connect_and_see(&connect);
    assert!(connack.session_present);
    // Both flows that the device knows of are ended, the second one without its message.
    for id in [1, 2] {
        device.expect_success(PUBREL, id);
    }
    for id in [1, 2] {
        device.send(&ack(PUBCOMP, id));
    }
    let publish = device.expect_message("public/d");
    assert_eq!(publish.id, 4, "the identifiers stay what they were");
    device.acknowledge(&publish);
    // The subscription is gone, for live messages and retained ones.
    assert_eq!(device.subscribe("secret/#", 1), 0x87);
    carol.publish("secret/x", "live", 1);
    carol.publish("public/x", "live", 1);
    let live = device.expect_message("live");
    assert_eq!(live.topic, "public/x");
    device.acknowledge(&live);
    assert_eq!(dropped(&server, "ReceiverNotAuthorized"), 3.0);
    device.leave();
    // In good order again: what was acknowledged does not come again.
    server.signal("TERM");
    assert_eq!(server.wait_for_end(6 * DEADLINE), 0);
    drop((carol, server));

    // A right that is given again finds nothing of what was dropped.
    let server = start(dir.path(), both, "");
    let mut device = tcp(&server).connect(&connect);
    device.expect_silence();
}

#[test]
fn a_will_passes_the_rules_of_when_it_is_published() {
    let dir = TempDir::new().unwrap();
    let mut server = start(dir.path(), "\"secret/#\"", "");
    let leave = |user, id, topic, delay_s| {
        let will = Will::new(topic, "gone").retain().delay(delay_s);
        tcp(&server).connect(&Connect::stored(id).user(user, PASSWORD).will(will))
    };
    let _connected = leave("alice", "connected", "secret/connected", 0);
    leave("alice", "away", "secret/away", 2).vanish();
    leave("bob", "marker", "public/marker", 2).vanish();
    server.kill();

    let server = start(dir.path(), "\"other/#\"", "");
    let deadline = Instant::now() + DEADLINE;
    while dropped(&server, "NotAuthorized") < 2.0 {
        assert!(Instant::now() < deadline, "hers are not judged");
        let_pass(Duration::from_millis(20));
    }
    let mut carol = tcp(&server).connect(&Connect::v5(&unique("c")).user("carol", PASSWORD));
    carol.subscribe("#", 0);
    assert_eq!(carol.expect_publish().topic, "public/marker");
    carol.expect_silence();
}
