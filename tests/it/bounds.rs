//! Limits of a client and its principal, as its token, an HTTP endpoint or the configuration say: what is beyond is refused with the
//! Reason Code that the specification has for it, in both versions, and who is too fast is slowed down.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::asked_elsewhere::PASSWORD;
use crate::harness::bytes::{self, Connect, PUBACK, Publish, Will, auth, subscribe};
use crate::harness::packet::Connack;
use crate::harness::property as p;
use crate::harness::reference::{Asked, endpoint};
use crate::harness::{Client, DEADLINE, Server, Target, Transport, unique, until};
use crate::process::get;
use crate::token::{data, server_with, token};

const VERSIONS: [u8; 2] = [4, 5];

fn server() -> (TempDir, Server) {
    server_with("limits_claim = \"limits\"\n")
}

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// A token of `user`, which has these limits.
fn of_user(user: &str, limits: &Value) -> String {
    token(60, &json!({"sub": user, "limits": limits}))
}

fn connect_as(version: u8, user: &str, limits: &Value) -> Connect {
    Connect::new(version, &unique("c")).user(user, &of_user(user, limits))
}

fn limited(server: &Server, limits: &Value, version: u8) -> (Client, Connack) {
    tcp(server).connect_and_see(&connect_as(version, "pump-7", limits))
}

fn refused(server: &Server, connect: &Connect) -> u8 {
    tcp(server).refused(&connect.bytes(), connect.version()).code
}

/// In the words of this version.
fn publish(client: &Client, publish: Publish) -> Vec<u8> {
    if client.version == 5 { publish.bytes() } else { publish.v3().bytes() }
}

pub(crate) fn counted(server: &Server, tier: &str, limit: &str) -> u64 {
    let name = format!("tidegate_{tier}_limited_total{{limit=\"{limit}\"}} ");
    let metrics = get(server, "/metrics").1;
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn the_highest_qos_is_told_and_kept_to() {
    // v5 [MQTT-3.2.2-9], [MQTT-3.2.2-10], [MQTT-3.2.2-11], [MQTT-3.2.2-12]
    let (_dir, server) = server();
    for version in VERSIONS {
        for (highest, beyond) in [(0, 1), (1, 2)] {
            let limits = json!({"qos_max": highest});
            let (mut client, connack) = limited(&server, &limits, version);
            let told = (version == 5).then_some(u32::from(highest));
            assert_eq!(connack.properties.number(p::MAXIMUM_QOS), told);
            let topic = unique("t");
            assert_eq!(client.subscribe(&topic, 2), highest);
            client.publish(&topic, "x", highest);
            assert_eq!(client.take().qos, highest);
            let message = Publish::new(&topic, "x");
            client.send(&publish(&client, if beyond == 1 { message.qos1(1) } else { message.qos2(1) }));
            client.expect_dropped(0x9B);
            let will = Will::new(&topic, "gone").qos(beyond);
            let code = refused(&server, &connect_as(version, "pump-7", &limits).will(will));
            assert_eq!(code, if version == 5 { 0x9B } else { 5 });
        }
    }
    assert_eq!(counted(&server, "broker", "qos_max"), 8);
    let (_, connack) = limited(&server, &json!({"qos_max": 2}), 5);
    assert_eq!(connack.properties.number(p::MAXIMUM_QOS), None, "v5 section 3.2.2.3.4: 2 is not told");
}

#[test]
fn retain_is_not_available_to_everybody() {
    // v5 [MQTT-3.2.2-13], [MQTT-3.2.2-14]
    let (_dir, server) = server();
    let limits = json!({"retain": false});
    for version in VERSIONS {
        let (mut client, connack) = limited(&server, &limits, version);
        assert_eq!(connack.properties.number(p::RETAIN_AVAILABLE), (version == 5).then_some(0));
        let topic = unique("t");
        client.publish(&topic, "x", 1);
        client.send(&publish(&client, Publish::new(&topic, "x").retain()));
        client.expect_dropped(0x9A);
        let will = Will::new(&topic, "gone").retain();
        let code = refused(&server, &connect_as(version, "pump-7", &limits).will(will));
        assert_eq!(code, if version == 5 { 0x9A } else { 5 });
        let (mut other, connack) = limited(&server, &json!({"retain": true}), version);
        assert_eq!(connack.properties.number(p::RETAIN_AVAILABLE), None);
        assert_eq!(other.subscribe(&topic, 0), 0);
        other.expect_silence();
    }
    assert_eq!(counted(&server, "broker", "retain"), 4);
}

#[test]
fn packets_have_a_size() {
    let (_dir, server) = server();
    for version in VERSIONS {
        let (mut client, connack) = limited(&server, &json!({"packet_bytes_max": 200}), version);
        assert_eq!(connack.properties.number(p::MAXIMUM_PACKET_SIZE), (version == 5).then_some(200));
        let of_size = |client: &Client, size: usize| {
            let empty = publish(client, Publish::new("t", vec![b'x'; 128])).len() - 128;
            publish(client, Publish::new("t", vec![b'x'; size - empty]))
        };
        client.send(&of_size(&client, 200));
        client.expect_alive();
        client.send(&of_size(&client, 201));
        // v5 [MQTT-3.2.2-15]
        client.expect_dropped(0x95);
    }
    assert_eq!(counted(&server, "edge", "packet_bytes_max"), 2);
}

#[test]
fn subscriptions_and_shared_ones_are_counted() {
    let (_dir, server) = server();
    for version in VERSIONS {
        let quota = if version == 5 { 0x97 } else { 0x80 };
        let (mut client, _) = limited(&server, &json!({"subscriptions_max": 2}), version);
        assert_eq!(client.subscribe_all(&[("a", 0), ("b", 0), ("c", 0)], &[]).codes, [0, 0, quota]);
        assert_eq!(client.subscribe_all(&[("c", 0), ("b", 1)], &[]).codes, [quota, 1], "replaced");
        client.unsubscribe(&["a"]);
        assert_eq!(client.subscribe("c", 0), 0);

        let limits = json!({"shared_groups_max": 3, "shared_groups_per_filter_max": 2});
        let (mut client, _) = limited(&server, &limits, version);
        let filters = ["$share/a/x/#", "$share/b/x/#", "$share/c/x/#", "x/#", "$share/c/y", "$share/d/z"]
            .map(|f| (f, 0));
        assert_eq!(client.subscribe_all(&filters, &[]).codes, [0, 0, quota, 0, 0, quota]);

        let (mut client, connack) = limited(&server, &json!({"shared_groups_max": 0}), version);
        // Shared Subscription Available
        assert_eq!(connack.properties.number(0x2A), (version == 5).then_some(0));
        assert_eq!(client.subscribe("$share/a/x", 0), if version == 5 { 0x9E } else { 0x80 });
    }
    // Ten thousand groups of one filter would be as many copies of each message; the default is for everybody.
    let mut greedy = tcp(&server).connect(&connect_as(5, "pump-8", &json!({})));
    let filters: Vec<_> = (0..10_000).map(|group| format!("$share/g{group}/#")).collect();
    let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
    let codes = greedy.subscribe_all(&filters, &[]).codes;
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 16);
    assert!(codes[16..].iter().all(|code| *code == 0x97));
    assert_eq!(counted(&server, "broker", "shared_groups_max"), 2);
    assert_eq!(counted(&server, "broker", "shared_groups_per_filter_max"), 2 + 10_000 - 16);
    assert_eq!(counted(&server, "broker", "subscriptions_max"), 4);
}

#[test]
fn topics_have_a_length_and_levels() {
    let (_dir, server) = server();
    for version in VERSIONS {
        for (limits, fits, beyond) in [
            (json!({"topic_bytes_max": 5}), "abcde", "abcdef"),
            (json!({"topic_levels_max": 2}), "abcdef/g", "a/b/c"),
        ] {
            let (mut client, _) = limited(&server, &limits, version);
            let invalid = if version == 5 { 0x8F } else { 0x80 };
            assert_eq!(client.subscribe_all(&[(fits, 0), (beyond, 0)], &[]).codes, [0, invalid]);
            client.publish(fits, "x", 0);
            client.expect_message("x");
            if version == 5 {
                client.send(&Publish::new(beyond, "x").qos1(1).bytes());
                assert_eq!(client.expect_reply(PUBACK, 1).reason, 0x90);
            }
            client.send(&publish(&client, Publish::new(beyond, "x")));
            client.expect_dropped(0x90);
        }
    }
}

#[test]
fn a_principal_has_so_many_connections() {
    let (_dir, server) = server();
    let limits = json!({"connections_max": 2});
    for (version, quota) in [(4, 3), (5, 0x97)] {
        let user = unique("u");
        let connect = |id: &str| Connect::new(version, id).user(&user, &of_user(&user, &limits));
        let at = tcp(&server);
        let (first, second, third) = (unique("c"), unique("c"), unique("c"));
        let one = at.connect(&connect(&first));
        let mut two = at.connect(&connect(&second));
        assert_eq!(refused(&server, &connect(&third)), quota);
        let other = connect_as(version, &unique("u"), &limits);
        at.connect(&other).expect_alive();
        // Who comes anew while the edge still has the connection before is not one more.
        let mut again = at.connect(&connect(&first));
        again.expect_alive();
        assert_eq!(refused(&server, &connect(&third)), quota);
        two.expect_alive();
        two.vanish();
        drop(one);
        let accepted = || {
            let mut client = at.open();
            client.version = version;
            client.send(&connect(&third).bytes());
            (client.expect_connack().code == 0).then_some(())
        };
        until(accepted, || server.log());
    }
    assert!(counted(&server, "edge", "connections_max") >= 4);
}

#[test]
fn a_principal_has_so_many_stored_sessions() {
    let (_dir, mut server) = server();
    let limits = json!({"sessions_max": 2});
    let stored = |version: u8, id: &str| {
        let connect = Connect::new(version, id).user("pump-7", &of_user("pump-7", &limits));
        let connect = if version == 5 { connect.with(p::four(p::SESSION_EXPIRY, 600)) } else { connect };
        if version == 5 { connect } else { connect.resume() }
    };
    let (first, second, third) = (unique("s"), unique("s"), unique("s"));
    {
        let at = tcp(&server);
        at.connect(&stored(5, &first)).leave();
        at.connect(&stored(4, &second)).leave();
    }
    for is_restarted in [false, true] {
        let at = tcp(&server);
        for (version, quota) in [(4, 3), (5, 0x97)] {
            assert_eq!(refused(&server, &stored(version, &third)), quota);
            at.connect(&connect_as(version, "pump-7", &limits)).leave();
            let other = connect_as(5, "pump-8", &json!({})).with(p::four(p::SESSION_EXPIRY, 1));
            at.connect(&other).leave();
        }
        at.connect(&stored(5, &first).resume()).leave();
        if !is_restarted {
            server.restart_with(Vec::new());
        }
    }
    // One that is ended makes room.
    let at = tcp(&server);
    at.connect(&Connect::v5(&second).user("pump-7", &of_user("pump-7", &limits))).leave();
    at.connect(&stored(5, &third)).leave();
    assert_eq!(counted(&server, "broker", "sessions_max"), 2);
}

#[test]
fn a_queue_holds_what_its_limits_say() {
    let (_dir, server) = server();
    let limits = json!({"queue_messages_max": 2});
    let (id, topic) = (unique("s"), unique("t"));
    let connect = || {
        let expiry = p::four(p::SESSION_EXPIRY, 600);
        Connect::v5(&id).resume().with(expiry).user("pump-7", &of_user("pump-7", &limits))
    };
    let mut client = tcp(&server).connect(&connect());
    client.subscribe(&topic, 1);
    client.leave();
    let mut publisher = tcp(&server).connect(&connect_as(5, "pump-8", &json!({})));
    for number in 0..5 {
        publisher.publish(&topic, &number.to_string(), 1);
    }
    let mut client = tcp(&server).connect(&connect());
    assert_eq!([client.take().text().to_owned(), client.take().text().to_owned()], ["0", "1"]);
    client.expect_silence_from(&mut publisher);
}

#[test]
fn the_queue_of_a_clean_session_holds_so_many_bytes() {
    let (_dir, server) =
        server_with("limits_claim = \"limits\"\n[broker]\ninflight_max = 1\nqueue_bytes_max = 4500\n");
    let at = tcp(&server);
    let dropped = || {
        let name = "tidegate_broker_messages_dropped_total{reason=\"QueueFull\",qos=\"1\"} ";
        let metrics = get(&server, "/metrics").1;
        metrics.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |count| count.parse().unwrap())
    };
    let mut publisher = at.connect(&connect_as(5, "pump-8", &json!({})));
    let mut all_dropped: u64 = 0;
    for version in VERSIONS {
        // One is on its way to the client and does not count; of the others two, or four by what all have, have room.
        for (limits, kept) in [(json!({"queue_bytes_max": 2500}), 3), (json!({}), 5)] {
            let topic = unique("t");
            let [mut slow, mut quick] = ["pump-7", "pump-9"].map(|user| {
                let limits = if user == "pump-7" { &limits } else { &json!({}) };
                let mut client = at.connect(&connect_as(version, user, limits));
                client.subscribe(&topic, 1);
                client
            });
            for number in 0..7 {
                publisher.publish(&topic, &format!("{number}{}", "x".repeat(1000)), 1);
                assert!(quick.take().text().starts_with(&number.to_string()), "nobody else is held up");
            }
            all_dropped += 7 - kept;
            until(|| (dropped() == all_dropped).then_some(()), || server.log());
            for number in 0..kept {
                assert!(slow.take().text().starts_with(&number.to_string()));
            }
            // What was dropped leaves room, in its place among the others.
            publisher.publish(&topic, "last", 1);
            assert_eq!(slow.take().text(), "last");
            slow.expect_alive();
        }
    }
    assert_eq!(dropped(), all_dropped);
}

/// Sends 30 messages in one write, ten a second, and a PINGREQ behind them. They all come, none before its time.
fn expect_slowed_down(server: &Server, limits: &Value, payload: &str, version: u8) {
    let topic = unique("t");
    let mut observer = tcp(server).connect(&connect_as(5, "observer", &json!({})));
    observer.subscribe(&topic, 0);
    // Keep Alive is shorter than the time for which it is held back.
    let connect = connect_as(version, "pump-7", limits).keep_alive(1);
    let mut client = tcp(server).connect(&connect);
    let since = Instant::now();
    let mut all = Vec::new();
    for _ in 0..30 {
        all.extend(publish(&client, Publish::new(&topic, payload)));
    }
    all.extend(bytes::PINGREQ);
    client.send(&all);
    client.expect(bytes::PINGRESP);
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(2_500), "{took:?}");
    for _ in 0..30 {
        observer.expect_message(payload);
    }
    client.leave();
}

#[test]
fn who_sends_too_fast_is_slowed_down_and_loses_nothing() {
    let (_dir, server) = server();
    for version in VERSIONS {
        expect_slowed_down(&server, &json!({"received_messages_per_s": 10}), "x", version);
        let of_a_packet = "x".repeat(990);
        expect_slowed_down(&server, &json!({"received_bytes_per_s": 10_240}), &of_a_packet, version);
    }
    assert_eq!(counted(&server, "edge", "received_messages_per_s"), 2);
    assert_eq!(counted(&server, "edge", "received_bytes_per_s"), 2);
}

#[test]
fn who_never_lets_up_is_told_so() {
    let (_dir, server) = server();
    let limits = json!({"received_messages_per_s": 5, "held_back_max_s": 1});
    for version in VERSIONS {
        let (mut client, _) = limited(&server, &limits, version);
        let since = Instant::now();
        let one = publish(&client, Publish::new("t", "x"));
        client.send(&one.repeat(100));
        client.expect_dropped(0x96);
        assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    }
    assert_eq!(counted(&server, "edge", "held_back_max_s"), 2);
}

#[test]
fn who_comes_anew_waits_for_what_it_has_sent_too_fast() {
    let (_dir, server) = server();
    let (id, topic) = (unique("c"), unique("t"));
    let limits = json!({"received_messages_per_s": 10});
    let connect = || Connect::v5(&id).user("pump-7", &of_user("pump-7", &limits));
    let mut observer = tcp(&server).connect(&connect_as(5, "observer", &json!({})));
    observer.subscribe(&topic, 0);
    let since = Instant::now();
    let mut first = tcp(&server).connect(&connect());
    first.send(&Publish::new(&topic, "x").bytes().repeat(20));
    observer.expect_message("x");
    // What it had sent is not lost with the connection, and is handed over at once.
    let mut second = tcp(&server).connect(&connect());
    for _ in 1..20 {
        observer.expect_message("x");
    }
    second.send(&Publish::new(&topic, "y").bytes());
    observer.expect_message("y");
    assert!(since.elapsed() >= Duration::from_millis(1_800), "{:?}", since.elapsed());
}

#[test]
fn a_device_is_sent_no_faster_than_it_may_be() {
    let (_dir, server) = server();
    let topic = unique("t");
    let (mut client, _) = limited(&server, &json!({"sent_bytes_per_s": 10_240}), 5);
    client.subscribe(&topic, 1);
    let mut publisher = tcp(&server).connect(&connect_as(5, "pump-8", &json!({})));
    let since = Instant::now();
    for _ in 0..30 {
        publisher.publish(&topic, &"x".repeat(1_000), 1);
    }
    for _ in 0..30 {
        client.take();
    }
    assert!(since.elapsed() >= Duration::from_millis(1_500), "{:?}", since.elapsed());
    assert!(counted(&server, "edge", "sent_bytes_per_s") >= 1);
    // One that is held back is seen to be taken over, too.
    client.expect_alive();
}

#[test]
fn a_renewed_token_has_its_limits_at_once() {
    let (_dir, server) = server();
    let mut client = Client::open(&server, Transport::Tcp);
    client.send(&Connect::v5(&unique("c")).with(data(&of_user("pump-7", &json!({"retain": false})))).bytes());
    assert_eq!(client.expect_connack().code, 0);
    let topic = unique("t");
    let renew = |client: &mut Client, limits: &Value| {
        client.send(&auth(0x19, &data(&of_user("pump-7", limits))));
        assert_eq!(client.read_packet().auth().reason, 0);
    };
    renew(&mut client, &json!({"subscriptions_max": 1, "received_messages_per_s": 10}));
    client.publish_as(Publish::new(&topic, "x").retain(), 1);
    client.send(&subscribe(7, &[], &[("a", 0), ("b", 0)]));
    assert_eq!(client.read_packet().suback(5).codes, [0, 0x97]);
    let since = Instant::now();
    client.send(&[Publish::new(&topic, "x").bytes().repeat(25), bytes::PINGREQ.to_vec()].concat());
    client.expect(bytes::PINGRESP);
    assert!(since.elapsed() >= Duration::from_millis(1_300), "{:?}", since.elapsed());
    // Not held back any more.
    renew(&mut client, &json!({"packet_bytes_max": 128}));
    let since = Instant::now();
    client.send(&[Publish::new(&topic, "x").bytes().repeat(100), bytes::PINGREQ.to_vec()].concat());
    client.expect(bytes::PINGRESP);
    assert!(since.elapsed() < DEADLINE / 2, "{:?}", since.elapsed());
    client.send(&Publish::new(&topic, "x".repeat(128)).bytes());
    client.expect_disconnect(0x95);
}

#[test]
fn the_configuration_says_who_is_bounded_by_what() {
    let server = Server::start(
        "[[authorization.limits]]\nwho = [\"anonymous\"]\nsubscriptions_max = 1\nconnections_max = 1\n\
         [[authorization.limits]]\nwho = [\"*\", \"anonymous\"]\nsubscriptions_max = 7\nqos_max = 1\n\
         [broker]\nshared_groups_max = 1\n",
    );
    let (mut client, connack) = tcp(&server).connect_and_see(&Connect::v5(&unique("c")));
    assert_eq!(connack.properties.number(p::MAXIMUM_QOS), Some(1));
    assert_eq!(client.subscribe_all(&[("a", 2), ("b", 0)], &[]).codes, [1, 0x97]);
    // All who are nobody in particular are not one principal when they are counted.
    tcp(&server).v5().expect_alive();
}

#[test]
fn an_http_endpoint_says_what_bounds_a_client() {
    let address = endpoint(|asked: &Asked| {
        let asked = asked.json();
        let limits =
            if asked["username"] == "alice" { r#"{"qos_max": 0}"# } else { r#"{"qos_max": "none"}"# };
        (200, format!(r#"{{"result": "allow", "is_superuser": true, "limits": {limits}}}"#))
    });
    let server =
        Server::start(&format!("[auth.http]\ncontract = \"emqx5\"\nurl = \"http://{address}/auth\"\n"));
    let at = tcp(&server);
    let (mut alice, connack) = at.connect_and_see(&Connect::v5(&unique("c")).user("alice", PASSWORD));
    assert_eq!(connack.properties.number(p::MAXIMUM_QOS), Some(0));
    assert_eq!(alice.subscribe("t", 2), 0);
    alice.send(&Publish::new("t", "x").qos1(1).bytes());
    alice.expect_disconnect(0x9B);
    let bob = Connect::v5(&unique("c")).user("bob", PASSWORD);
    assert_eq!(at.refused(&bob.bytes(), 5).code, 0x86, "what it says cannot be kept");
}
