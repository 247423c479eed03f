//! PUBLISH, SUBSCRIBE and Wills about which an HTTP endpoint is asked, in both versions: what it answers, changes, and what becomes
//! of everybody while it hangs or fails.

use std::time::{Duration, Instant};

use crate::harness::bytes::{self, Connect, PUBACK, Publish, Will};
use crate::harness::endpoint::{Condition, Endpoint};
use crate::harness::{Client, Server, Target, Transport, unique};
use crate::process::get;

fn server(endpoint: &Endpoint, more: &str) -> Server {
    Server::start(&endpoint.section(&format!("timeout_ms = 500\n{more}")))
}

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

fn packet(client: &Client, topic: &str, payload: &str) -> Publish {
    let publish = Publish::new(topic, payload);
    if client.version < 5 { publish.v3() } else { publish }
}

/// Publishes once and returns the Reason Code of PUBACK or PUBREC, 0 where there is none.
fn publish(client: &mut Client, topic: &str, payload: &str, qos: u8) -> u8 {
    client.publish_and_see(Publish::new(topic, payload), qos)
}

#[test]
fn an_endpoint_decides_about_each_action_once() {
    let endpoint = Endpoint::start();
    let server = server(&endpoint, "");
    let at = tcp(&server);
    let mut observer = at.connect(&Connect::v5(&unique("o")).user("observer", "x"));
    assert_eq!(observer.subscribe("#", 0), 0);
    assert_eq!(endpoint.asked(), 0, "who may do everything is not asked about");
    for version in [4, 5] {
        let connect = || Connect::new(version, &unique("c")).user("alice", "x");
        let (refused, not_authorized) = if version == 5 { (0x87, 0x87) } else { (5, 0x80) };
        let will = |topic: &str| connect().will(Will::new(topic, "gone"));
        assert_eq!(at.refused(&will("own/bob/will").bytes(), version).code, refused);
        at.connect(&will("own/alice/will")).vanish();
        assert_eq!(observer.take().topic, "own/alice/will");
        let mut alice = at.connect(&connect());
        for qos in [0, 1, 2] {
            let payload = format!("version {version} QoS {qos}");
            assert_eq!(publish(&mut alice, "own/alice/x", &payload, qos), 0);
            let refusal = if version == 5 && qos > 0 { 0x87 } else { 0 };
            assert_eq!(publish(&mut alice, "own/bob/x", "never", qos), refusal, "{payload}");
            assert_eq!(observer.take().text(), payload);
        }
        let before = endpoint.asked();
        for _ in 0..10 {
            assert_eq!(publish(&mut alice, "own/alice/x", "again", 1), 0);
            assert_eq!(observer.take().text(), "again");
        }
        assert_eq!(endpoint.asked(), before, "what was answered is known");
        let filters = [
            "own/alice/#",
            "own/bob/#",
            "#",
            "$SYS/#",
            "shared/a",
            "$share/g/shared/a",
            "$share/g/own/bob/x",
        ];
        let asked: Vec<_> = filters.iter().map(|filter| (*filter, 1)).collect();
        let no = not_authorized;
        assert_eq!(alice.subscribe_all(&asked, &[]).codes, [1, no, no, no, 1, 1, no], "version {version}");
        alice.leave();
    }
    observer.expect_silence();
    let first = endpoint.state.0.lock().unwrap().asked[0].clone();
    let told = (&first["host"], &first["site"], &first["action"]);
    assert_eq!(told, (&"127.0.0.1".into(), &"north".into(), &"publish".into()), "{first}");
    let metrics = get(&server, "/metrics").1;
    for name in [
        "tidegate_broker_asks_total{action=\"publish\",outcome=\"denied\"}",
        "tidegate_broker_asks_known_total",
        "tidegate_broker_ask_seconds_count",
        "tidegate_auth_inquiries_total{source=\"http_acl\",outcome=\"allowed\"}",
    ] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
}

#[test]
fn answers_hold_for_their_time_and_a_new_connection_asks_anew() {
    let endpoint = Endpoint::start();
    let server = server(&endpoint, "acl_cache = { allowed_ttl_s = 1, denied_ttl_s = 0 }\n");
    let connect = Connect::v5(&unique("c")).user("alice", "x");
    let mut alice = tcp(&server).connect(&connect);
    assert_eq!(publish(&mut alice, "shared/x", "x", 1), 0x10);
    endpoint.allow("other/");
    assert_eq!(publish(&mut alice, "other/x", "x", 1), 0x10);
    let refused = || (publish(&mut alice, "shared/x", "x", 1) == 0x87).then_some(());
    crate::harness::until(refused, || "what was allowed before is refused".to_owned());
    endpoint.allow("shared/");
    assert_eq!(publish(&mut alice, "shared/x", "x", 1), 0x10, "a refusal is not remembered here");
    let mut again = tcp(&server).connect(&connect);
    endpoint.allow("other/");
    assert_eq!(publish(&mut again, "shared/x", "x", 1), 0x87);
}

#[test]
fn what_is_behind_a_packet_that_is_asked_about_keeps_its_place() {
    let endpoint = Endpoint::start();
    let server = server(&endpoint, "");
    let at = tcp(&server);
    let mut observer = at.connect(&Connect::v5(&unique("o")).user("observer", "x"));
    assert_eq!(observer.subscribe("#", 0), 0);
    endpoint.is(Condition::Slow(Duration::from_millis(150)));
    for version in [4, 5] {
        let mut alice = at.connect(&Connect::new(version, &unique("c")).user("alice", "x"));
        let mut all = Vec::new();
        for id in 1..=6 {
            // Two of each topic, and QoS 0 between them, in one write.
            let topic = format!("shared/{version}/{}", id / 2);
            all.extend(packet(&alice, &topic, &id.to_string()).qos1(id).bytes());
            all.extend(packet(&alice, &topic, &format!("{id}a")).bytes());
        }
        all.extend(if version < 5 {
            bytes::subscribe_v3(9, &[("shared/none", 1)])
        } else {
            bytes::subscribe(9, &[], &[("shared/none", 1)])
        });
        alice.send(&all);
        for id in 1..=6 {
            assert_eq!(alice.expect_reply(PUBACK, id).reason, 0);
        }
        alice.expect(if version < 5 { &[0x90, 3, 0, 9, 1] } else { &[0x90, 4, 0, 9, 0, 1] });
        for id in 1..=6 {
            assert_eq!(observer.take().text(), id.to_string());
            assert_eq!(observer.take().text(), format!("{id}a"));
        }
        // A client that goes at once, without a word or with one, has said what it said.
        for (topic, leaves) in [("shared/last", true), ("shared/very last", false)] {
            let mut alice = at.connect(&Connect::new(version, &unique("c")).user("alice", "x"));
            let mut last = packet(&alice, topic, topic).bytes();
            if leaves {
                last.extend([0xe0, 0]);
            }
            alice.send(&last);
            drop(alice);
            assert_eq!(observer.take().text(), topic);
        }
    }
}

#[test]
fn an_endpoint_that_hangs_or_fails_holds_up_only_who_is_asked_about() {
    let endpoint = Endpoint::start();
    let server = server(&endpoint, "breaker = { failures_max = 3, open_ms = 200 }\n");
    let at = tcp(&server);
    let mut observer = at.connect(&Connect::v5(&unique("o")).user("observer", "x"));
    assert_eq!(observer.subscribe("#", 0), 0);
    let mut known = at.connect(&Connect::v5(&unique("c")).user("carol", "x"));
    assert_eq!(publish(&mut known, "own/carol/x", "before", 1), 0);
    assert_eq!(observer.take().text(), "before");
    for condition in [Condition::Hanging, Condition::Failing] {
        endpoint.is(condition);
        let mut asking: Vec<Client> = Vec::new();
        for version in [4, 5, 5, 5, 5] {
            let mut client = at.connect(&Connect::new(version, &unique("c")).user("alice", "x"));
            client.send(&packet(&client, "own/alice/x", "never").qos1(3).bytes());
            asking.push(client);
        }
        let since = Instant::now();
        for _ in 0..50 {
            assert_eq!(publish(&mut known, "own/carol/x", "meanwhile", 1), 0);
            assert_eq!(observer.take().text(), "meanwhile");
        }
        for client in &mut asking {
            let reason = client.expect_reply(PUBACK, 3).reason;
            assert_eq!(reason, if client.version == 5 { 0x83 } else { 0 }, "{condition:?}");
            let no = if client.version == 5 { 0x83 } else { 0x80 };
            assert_eq!(client.subscribe("own/alice/#", 1), no, "{condition:?}");
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        let will = Connect::v5(&unique("c")).user("alice", "x").will(Will::new("own/alice/will", "never"));
        assert_eq!(at.refused(&will.bytes(), 5).code, 0x88);
        let metrics = get(&server, "/metrics").1;
        assert!(metrics.contains("tidegate_auth_breaker_open{source=\"http_acl\"} 1"), "{metrics}");
        endpoint.is(Condition::Well);
        let mut alice = at.connect(&Connect::v5(&unique("c")).user("alice", "x"));
        let is_back = || (publish(&mut alice, "shared/x", "back", 1) == 0).then_some(());
        crate::harness::until(is_back, || "the endpoint is asked again".to_owned());
        assert_eq!(observer.take().text(), "back");
    }
    observer.expect_silence();
    assert!(get(&server, "/metrics").1.contains("reason=\"Undecided\",qos=\"1\""));
}

#[test]
fn thousands_of_topics_leave_no_more_than_the_bound_and_hold_up_nobody_else() {
    let endpoint = Endpoint::start();
    let server = server(&endpoint, "[broker]\nanswers_max = 8\n");
    let at = tcp(&server);
    let mut greedy = at.connect(&Connect::v5(&unique("c")).user("alice", "x"));
    let mut other = at.connect(&Connect::v5(&unique("c")).user("bob", "x"));
    let before = server.resident_kib();
    let mut all = Vec::new();
    for id in 1..=500 {
        all.extend(Publish::new(format!("shared/{id}"), "x").qos1(id).bytes());
    }
    for round in 0..6 {
        greedy.send(&all);
        let since = Instant::now();
        assert_eq!(publish(&mut other, "shared/x", "x", 1), 0x10);
        assert!(since.elapsed() < Duration::from_secs(5), "round {round}: {:?}", since.elapsed());
        for id in 1..=500 {
            assert_eq!(greedy.expect_reply(PUBACK, id).reason, 0x10);
        }
    }
    assert!(endpoint.asked() >= 3000, "{}", endpoint.asked());
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB");
}
