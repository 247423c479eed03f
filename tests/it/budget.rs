//! Sums that one client, and one user, may have: bytes of a session beside its messages, a share of stored sessions and of retained
//! messages. What is beyond is refused or said; others are served as before.

use serde_json::json;

use crate::bounds::counted;
use crate::harness::bytes::{Connect, PUBACK, Publish, Will};
use crate::harness::property as p;
use crate::harness::{Client, Server, Target, Transport, unique, until};
use crate::token::{server_with, token};

const VERSIONS: [u8; 2] = [4, 5];

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// A name of so many bytes.
fn long(name: &str, bytes: usize) -> String {
    let stem = unique(name);
    format!("{stem}{}", "x".repeat(bytes - stem.len()))
}

fn of_user(version: u8, user: &str) -> Connect {
    Connect::new(version, &unique("c")).user(user, &token(60, &json!({"sub": user})))
}

#[test]
fn filters_of_a_session_have_so_many_bytes_together() {
    let server = Server::start("[broker]\nsession_bytes_max = 2000\n");
    for version in VERSIONS {
        let quota = if version == 5 { 0x97 } else { 0x80 };
        let id = unique("s");
        let connect = || {
            let connect = Connect::new(version, &id).resume();
            if version == 5 { connect.with(p::four(p::SESSION_EXPIRY, 600)) } else { connect }
        };
        let mut client = tcp(&server).connect(&connect());
        let [one, two, three] = ["a", "b", "c"].map(|name| long(name, 900));
        assert_eq!(client.subscribe_all(&[(&one, 0), (&two, 0), (&three, 0)], &[]).codes, [0, 0, quota]);
        assert_eq!(client.subscribe(&one, 1), 1, "replaced");
        client.leave();
        // What a stored session has counts on its next connection.
        let mut client = tcp(&server).connect(&connect());
        assert_eq!(client.subscribe(&three, 0), quota);
        assert_eq!(client.subscribe(&unique("t"), 0), 0);
        client.unsubscribe(&[&two]);
        assert_eq!(client.subscribe(&three, 0), 0);
    }
    assert_eq!(counted(&server, "broker", "session_bytes_max"), 4);
    tcp(&server).v5().expect_alive();
}

#[test]
fn topics_behind_aliases_count_in_both_directions() {
    // v5 [MQTT-3.1.2-26]: an alias more or less is for each side to choose.
    let server = Server::start("[broker]\nsession_bytes_max = 2000\n");
    let root = unique("t");
    let topics = [1, 2, 3].map(|number| format!("{root}/{number}{}", "x".repeat(700)));
    let mut subscriber =
        tcp(&server).connect(&Connect::v5(&unique("c")).with(p::two(p::TOPIC_ALIAS_MAXIMUM, 10)));
    subscriber.subscribe(&format!("{root}/#"), 0);
    let mut client = tcp(&server).v5();
    let with_alias =
        |topic: &str, alias: u16| Publish::new(topic, "x").with(p::two(p::TOPIC_ALIAS, alias)).bytes();
    // Set anew, it takes the place of what it stood for.
    for (topic, alias) in [(&topics[0], 1), (&topics[1], 2), (&topics[2], 2), (&topics[2], 1)] {
        client.send(&with_alias(topic, alias));
        client.expect_alive();
        let message = subscriber.expect_publish();
        assert!(message.topic.is_empty() || message.topic == *topic);
        let is_alias = message.properties.number(p::TOPIC_ALIAS).is_some();
        assert_eq!(is_alias, *topic != topics[2], "there is room for two");
    }
    client.send(&with_alias(&topics[0], 3));
    client.expect_disconnect(0x97);
    subscriber.expect_alive();
    assert_eq!(counted(&server, "broker", "session_bytes_max"), 1);
}

#[test]
fn a_will_that_is_beyond_the_bytes_of_a_session_is_refused() {
    let server = Server::start("[broker]\nsession_bytes_max = 2000\n");
    for version in VERSIONS {
        let with_will = |bytes: usize| {
            let will = Will::new(&unique("w"), &"x".repeat(bytes));
            Connect::new(version, &unique("c")).will(will)
        };
        let mut client = tcp(&server).connect(&with_will(1_800));
        let quota = if version == 5 { 0x97 } else { 0x80 };
        assert_eq!(client.subscribe(&long("t", 300), 0), quota, "the Will counts");
        let code = tcp(&server).refused(&with_will(2_001).bytes(), version).code;
        assert_eq!(code, if version == 5 { 0x97 } else { 3 });
    }
}

#[test]
fn one_user_does_not_use_up_the_stored_sessions() {
    let (_dir, mut server) = server_with("[state]\nsessions_max = 20\n");
    let stored = |server: &Server, user: &str| {
        let connect = of_user(5, user).with(p::four(p::SESSION_EXPIRY, 600));
        let mut client = tcp(server).open();
        client.send(&connect.bytes());
        client.expect_connack().code
    };
    let made = (0..30).filter(|_| stored(&server, "greedy") == 0).count();
    assert_eq!(made, 18);
    for _ in 0..2 {
        assert_eq!(stored(&server, "greedy"), 0x97);
        let v3 = of_user(4, "greedy").resume();
        assert_eq!(tcp(&server).refused(&v3.bytes(), 4).code, 3);
        assert_eq!(stored(&server, "good"), 0);
        // What a session belongs to is known after a restart.
        server.restart_with(Vec::new());
    }
    assert!(counted(&server, "broker", "sessions_max") == 0, "counted anew");
    assert_eq!(stored(&server, "good"), 0x97, "full");
}

#[test]
fn one_user_does_not_use_up_the_retained_messages() {
    let (_dir, mut server) = server_with("limits_claim = \"limits\"\n[state]\nretained_messages_max = 20\n");
    let root = unique("t");
    let retain = |client: &mut Client, name: &str| {
        client.send(&Publish::new(format!("{root}/{name}"), "x").retain().qos1(7).bytes());
        client.expect_reply(PUBACK, 7).reason
    };
    let accepted = |code: u8| code == 0 || code == 0x10;
    {
        let mut greedy = tcp(&server).connect(&of_user(5, "greedy"));
        let made = (0..30).filter(|n| accepted(retain(&mut greedy, &format!("g/{n}")))).count();
        assert_eq!(made, 18);
        let limits = token(60, &json!({"sub": "few", "limits": {"retained_messages_max": 1}}));
        let mut few = tcp(&server).connect(&Connect::v5(&unique("c")).user("few", &limits));
        assert!(accepted(retain(&mut few, "f/1")));
        assert_eq!(retain(&mut few, "f/2"), 0x97);
        assert!(accepted(retain(&mut few, "f/1")), "replaced");
    }
    server.restart_with(Vec::new());
    let mut greedy = tcp(&server).connect(&of_user(5, "greedy"));
    assert_eq!(retain(&mut greedy, "g/40"), 0x97, "it is known whose they are");
    assert!(accepted(retain(&mut greedy, "g/1")), "replaced");
    let mut good = tcp(&server).connect(&of_user(5, "good"));
    assert!(accepted(retain(&mut good, "o/1")));
    assert_eq!(counted(&server, "broker", "retained_messages_max"), 1);

    // MQTT 3 and QoS 0 cannot be told: the message is delivered, and not retained, which the log says.
    let mut old = tcp(&server).connect(&of_user(4, "greedy"));
    good.subscribe(&format!("{root}/g/#"), 0);
    let kept = (0..18).map(|_| good.expect_publish()).filter(|message| message.retain).count();
    assert_eq!(kept, 18);
    old.publish_as(Publish::new(format!("{root}/g/50"), "y").retain(), 1);
    assert!(!good.expect_message("y").retain);
    old.publish_as(Publish::new(format!("{root}/g/51"), "z").retain(), 0);
    good.expect_message("z");
    let is_counted = || (counted(&server, "broker", "retained_messages_max") == 3).then_some(());
    until(is_counted, || server.log());
    until(|| server.log().contains("a message is not retained").then_some(()), || server.log());
}
