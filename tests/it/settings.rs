//! Bounds and offers that an operator sets, each with a server of its own: announced to the client, and enforced.

use std::time::{Duration, Instant};

use crate::harness::bytes::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, Will, ack};
use crate::harness::property as p;
use crate::harness::{DEADLINE, Server, Target, Transport, unique};

const SHARED_AVAILABLE: u8 = 0x2A;

/// Over TCP to this server.
fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

#[test]
fn server_keep_alive_is_announced_and_enforced() {
    // v5 [MQTT-3.1.2-21], [MQTT-3.2.2-21], [MQTT-3.2.2-22]
    let server = Server::start("[edge]\nkeep_alive_max_s = 1\n");
    let at = tcp(&server);
    for asked in [0, 60] {
        let start = Instant::now();
        let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")).keep_alive(asked));
        assert_eq!(connack.properties.number(p::SERVER_KEEP_ALIVE), Some(1));
        client.expect_disconnect(0x8D);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    let (client, connack) = at.connect_and_see(&Connect::v5(&unique("c")).keep_alive(1));
    assert!(!connack.properties.has(p::SERVER_KEEP_ALIVE));
    client.leave();
}

#[test]
fn receive_maximum_is_announced_and_enforced() {
    // v5 [MQTT-3.3.4-7], section 3.3.4: 0x93
    let server = Server::start("[broker]\nreceive_maximum = 3\n");
    let at = tcp(&server);
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    assert_eq!(connack.properties.number(p::RECEIVE_MAXIMUM), Some(3));
    for id in 1..=3 {
        client.send(&Publish::new("a", "x").qos2(id).bytes());
        client.expect_success(PUBREC, id);
    }
    // A repeat is no new flow, and PUBCOMP gives room for one.
    client.send(&Publish::new("a", "x").qos2(2).dup().bytes());
    client.expect_success(PUBREC, 2);
    client.send(&ack(PUBREL, 2));
    client.expect(&ack(PUBCOMP, 2));
    client.send(&Publish::new("a", "x").qos2(4).bytes());
    client.expect_success(PUBREC, 4);
    client.send(&Publish::new("a", "x").qos2(5).bytes());
    client.expect_disconnect(0x93);
}

#[test]
fn maximum_packet_size_is_announced_and_enforced() {
    // v5 [MQTT-3.2.2-15], section 3.2.2.3.6: 0x95
    let server = Server::start("[edge]\npacket_bytes_max = 2000\n");
    let at = tcp(&server);
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    assert_eq!(connack.properties.number(p::MAXIMUM_PACKET_SIZE), Some(2000));
    let sized = |size: usize| {
        let publish = Publish::new("a", vec![b'x'; size - 7]).qos1(1).bytes();
        assert_eq!(publish.len(), size + 2);
        publish
    };
    client.send(&sized(1998));
    client.expect_success(PUBACK, 1);
    client.send(&sized(1999));
    client.expect_disconnect(0x95);
    let mut client = at.v4();
    client.send(&Publish::new("a", vec![b'x'; 2000]).v3().bytes());
    client.expect_close();
}

#[test]
fn topic_aliases_can_be_switched_off() {
    // v5 [MQTT-3.2.2-18]
    let server = Server::start("[broker]\ntopic_alias_max = 0\noutgoing_topic_alias_max = 0\n");
    let at = tcp(&server);
    let allowing = Connect::v5(&unique("c")).with(p::two(p::TOPIC_ALIAS_MAXIMUM, 10));
    let (mut client, connack) = at.connect_and_see(&allowing);
    assert_eq!(connack.properties.number(p::TOPIC_ALIAS_MAXIMUM).unwrap_or(0), 0);
    client.subscribe("a", 0);
    for _ in 0..3 {
        client.send(&Publish::new("a", "x").bytes());
        assert!(!client.expect_message("x").properties.has(p::TOPIC_ALIAS));
    }
    client.send(&Publish::new("a", "x").with(p::two(p::TOPIC_ALIAS, 1)).bytes());
    client.expect_disconnect(0x94);
}

#[test]
fn shared_subscriptions_can_be_switched_off() {
    let server = Server::start("[broker]\nshared_subscriptions = false\n");
    let at = tcp(&server);
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    assert_eq!(connack.properties.number(SHARED_AVAILABLE), Some(0));
    let granted = client.subscribe_all(&[("$share/g/a", 0), ("a", 1)], &[]);
    assert_eq!(granted.codes, [0x9E, 1]);
    assert_eq!(at.v4().subscribe("$share/g/a", 0), 0x80);
}

#[test]
fn session_expiry_is_cut_to_the_longest_allowed() {
    // v5 section 3.2.2.3.2: the client is told.
    let server = Server::start("[broker]\nsession_expiry_max_s = 1\n");
    let at = tcp(&server);
    let (client, connack) = at.connect_and_see(&Connect::stored("s"));
    assert_eq!(connack.properties.number(p::SESSION_EXPIRY), Some(1));
    client.leave();
    crate::harness::let_pass(Duration::from_millis(2_500));
    let (_, connack) = at.connect_and_see(&Connect::stored("s"));
    assert!(!connack.session_present);
}

#[test]
fn queue_of_an_absent_session_is_bounded() {
    let server = Server::start("[broker]\nqueue_messages_max = 5\n");
    let at = tcp(&server);
    let mut client = at.connect(&Connect::stored("s"));
    client.subscribe("a", 1);
    client.leave();
    let mut publisher = at.v5();
    for number in 0..20 {
        publisher.publish("a", &number.to_string(), 1);
    }
    let mut client = at.connect(&Connect::stored("s"));
    for number in 0..5 {
        assert_eq!(client.take().text(), number.to_string());
    }
    client.expect_silence_from(&mut publisher);
}

#[test]
fn subscriptions_of_a_session_are_bounded() {
    let server = Server::start("[broker]\nsubscriptions_max = 2\n");
    let at = tcp(&server);
    let mut client = at.v5();
    assert_eq!(client.subscribe_all(&[("a", 0), ("b", 0), ("c", 0)], &[]).codes, [0, 0, 0x97]);
    assert_eq!(client.subscribe("a", 1), 1, "a known filter takes no room");
    client.unsubscribe(&["b"]);
    assert_eq!(client.subscribe("c", 0), 0);
    assert_eq!(at.v4().subscribe_all(&[("a", 0), ("b", 0), ("c", 0)], &[]).codes, [0, 0, 0x80]);
}

#[test]
fn topic_levels_are_bounded() {
    let server = Server::start("[broker]\ntopic_levels_max = 3\n");
    let at = tcp(&server);
    let mut client = at.v5();
    assert_eq!(client.subscribe_all(&[("a/b/c", 1), ("a/b/c/d", 1), ("a/b/#", 1)], &[]).codes, [1, 0x8F, 1]);
    client.send(&Publish::new("a/b/c/d", "x").qos1(7).bytes());
    assert_eq!(client.expect_reply(PUBACK, 7).reason, 0x90);
    client.send(&Publish::new("a/b/c/d", "x").bytes());
    client.expect_disconnect(0x90);
    let will = Connect::v5(&unique("c")).will(Will::new("a/b/c/d", "x"));
    assert_eq!(at.refused(&will.bytes(), 5).code, 0x90);
}

#[test]
fn client_ids_are_bounded() {
    // v5 [MQTT-3.1.3-8]
    let server = Server::start("[edge]\nclient_id_bytes_max = 30\n");
    let at = tcp(&server);
    let (fits, over) = ("x".repeat(30), "x".repeat(31));
    at.connect(&Connect::v5(&fits)).leave();
    assert_eq!(at.refused(&Connect::v5(&over).bytes(), 5).code, 0x85);
    assert_eq!(at.refused(&Connect::v4(&over).bytes(), 4).code, 2);
}

#[test]
fn connect_packets_are_bounded() {
    let server = Server::start("[edge]\nconnect_bytes_max = 1000\n");
    let at = tcp(&server);
    let large = Connect::v5("c").will(Will::new("t", &"x".repeat(1000)));
    assert_eq!(at.refused(&large.bytes(), 5).code, 0x95);
}

#[test]
fn connect_must_be_whole_by_a_deadline() {
    // Long enough for the handshakes on a busy machine, far from what holds if nothing is configured.
    let server = Server::start("[edge]\nconnect_timeout_ms = 3000\n");
    let connect = Connect::v5(&unique("c")).bytes();
    std::thread::scope(|scope| {
        for transport in Transport::ALL {
            for length in [0, 1, 2, connect.len() - 1] {
                let (server, connect) = (&server, &connect);
                scope.spawn(move || {
                    let mut client = Target { server, transport }.open();
                    let start = Instant::now();
                    client.send(&connect[..length]);
                    client.expect_close_within(DEADLINE);
                    assert!(start.elapsed() < Duration::from_secs(9), "{transport:?} {length}");
                });
            }
        }
    });
}

const RULES: &str = r##"
[[authorization.rule]]
who = ["anonymous"]
effect = "deny"
action = "all"
topics = ["secret/#"]
[[authorization.rule]]
who = ["anonymous"]
effect = "allow"
action = "all"
topics = ["#"]
"##;

#[test]
fn refused_publish_frees_its_identifier() {
    // v5 [MQTT-4.3.3-9], [MQTT-3.5.2-1], [MQTT-3.4.2-1], [MQTT-4.4.0-2]
    let server = Server::start(RULES);
    let at = tcp(&server);
    let (mut subscriber, mut client) = (at.v5(), at.v5());
    subscriber.subscribe("open", 2);
    client.send(&Publish::new("secret/x", "no").qos2(5).bytes());
    assert_eq!(client.expect_reply(PUBREC, 5).reason, 0x87);
    client.send(&Publish::new("open", "yes").qos2(5).bytes());
    client.expect_success(PUBREC, 5);
    client.send(&ack(PUBREL, 5));
    client.expect(&ack(PUBCOMP, 5));
    assert_eq!(subscriber.take().text(), "yes");
    client.send(&Publish::new("secret/x", "no").qos1(6).bytes());
    assert_eq!(client.expect_reply(PUBACK, 6).reason, 0x87);
    client.send(&Publish::new("secret/x", "no").bytes());
    client.expect_alive();
}

#[test]
fn rules_hold_for_subscriptions_and_wills() {
    let server = Server::start(RULES);
    let at = tcp(&server);
    let mut client = at.v5();
    assert_eq!(
        client.subscribe_all(&[("open", 1), ("secret/x", 1), ("secret/#", 0)], &[]).codes,
        [1, 0x87, 0x87]
    );
    assert_eq!(at.v4().subscribe_all(&[("secret/x", 1), ("open", 1)], &[]).codes, [0x80, 1]);
    let will = |version| Connect::new(version, &unique("c")).will(Will::new("secret/w", "x")).bytes();
    assert_eq!(at.refused(&will(5), 5).code, 0x87);
    assert_eq!(at.refused(&will(4), 4).code, 5);
    // What a wildcard reaches is not let through either.
    let mut wide = at.v5();
    let granted = wide.subscribe("#", 0);
    at.v4().publish("secret/x", "no", 1);
    if granted < 0x80 {
        wide.expect_silence_from(&mut at.v5());
    }
}

#[test]
fn anonymous_clients_can_be_kept_out() {
    // v5 [MQTT-3.1.4-2]
    let server = Server::start("[auth]\nanonymous = \"never\"\n");
    let at = tcp(&server);
    let code = at.refused(&Connect::v5(&unique("c")).bytes(), 5).code;
    assert!([0x86, 0x87].contains(&code), "{code:#04x}");
    let code = at.refused(&Connect::v4(&unique("c")).bytes(), 4).code;
    assert!([4, 5].contains(&code), "{code}");
}

#[test]
fn slow_reader_loses_qos0_and_keeps_qos1() {
    let server = Server::start("[broker]\nqos0_bytes_max = 20000\n[edge]\noutgoing_bytes_max = 20000\n");
    let at = tcp(&server);
    let mut slow = at.v5();
    slow.subscribe("a", 1);
    let mut publisher = at.v5();
    // Far more than the socket's buffers take while nobody reads.
    let large = "x".repeat(100_000);
    for _ in 0..200 {
        publisher.publish("a", &large, 0);
    }
    publisher.publish("a", "kept", 1);
    let mut qos0 = 0;
    loop {
        let message = slow.take();
        if message.qos == 1 {
            assert_eq!(message.text(), "kept");
            break;
        }
        qos0 += 1;
    }
    assert!(qos0 < 200, "all {qos0} were buffered");
}

#[test]
fn live_sys_topics_do_not_match_leading_wildcards() {
    // v5 [MQTT-4.7.2-1]
    let server = Server::start("[broker]\nsys_interval_s = 1\n");
    let at = tcp(&server);
    let (mut wild, mut exact) = (at.v5(), at.v5());
    wild.subscribe_all(&[("#", 0), ("+/broker/uptime", 0), ("+/#", 0)], &[]);
    exact.subscribe("$SYS/broker/uptime", 0);
    // The retained value, if it is there already, then live ones.
    for _ in 0..3 {
        assert_eq!(exact.expect_publish().topic, "$SYS/broker/uptime");
    }
    wild.expect_silence();
}
