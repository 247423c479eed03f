//! What rules allow, told by what clients of both versions are answered and by what others get.

use crate::harness::bytes::{Connect, Publish, Will};
use crate::harness::{Client, Server, Target, Transport, unique};

/// Rules for clients that did not authenticate, each without its `who`.
fn server(rules: &[&str]) -> Server {
    let rules: String = rules
        .iter()
        .map(|rule| format!("[[authorization.rule]]\nwho = [\"anonymous\"]\n{}\n", rule.replace("; ", "\n")))
        .collect();
    Server::start(&rules)
}

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// Publishes once and returns the Reason Code of a refusal, 0 where there is none.
fn publish(client: &mut Client, topic: &str, payload: &str, qos: u8, retain: bool) -> u8 {
    let publish = Publish::new(topic, payload);
    let reason = client.publish_and_see(if retain { publish.retain() } else { publish }, qos);
    if reason < 0x80 { 0 } else { reason }
}

/// Publishes each of these and compares who gets what.
fn expect_published(server: &Server, cases: &[(&str, u8, bool, bool)]) {
    let at = tcp(server);
    let mut observer = at.v5();
    assert_eq!(observer.subscribe_all(&[("#", 0), ("$dollar/#", 0)], &[]).codes, [0, 0]);
    for version in [4, 5] {
        let mut client = at.connect(&Connect::new(version, "own"));
        let mut expected = Vec::new();
        for (index, &(topic, qos, retain, is_allowed)) in cases.iter().enumerate() {
            let payload = format!("v{version} case {index}: {topic} QoS {qos} retain {retain}");
            let reason = publish(&mut client, topic, &payload, qos, retain);
            let refusal = if version == 5 && qos > 0 { 0x87 } else { 0 };
            assert_eq!(reason, if is_allowed { 0 } else { refusal }, "{payload}");
            expected.extend(is_allowed.then_some(payload));
        }
        publish(&mut client, "end", "end", 1, false);
        expected.push("end".to_owned());
        let received: Vec<_> = expected.iter().map(|_| observer.take().text().to_owned()).collect();
        assert_eq!(received, expected);
    }
    observer.expect_silence();
}

#[test]
fn a_message_is_judged_by_topic_qos_and_retain() {
    let server = server(&[
        "effect = \"allow\"; action = \"subscribe\"; topics = [\"#\", \"$dollar/#\"]",
        "effect = \"deny\"; action = \"publish\"; topics = [\"eq literal/a\"]",
        "effect = \"deny\"; action = \"all\"; qos = 1; retain = true; topics = [\"mixed\"]",
        "effect = \"allow\"; action = \"publish\"; qos = [0, 1]; topics = [\"low/#\"]",
        "effect = \"allow\"; action = \"publish\"; retain = false; topics = [\"live/+\"]",
        "effect = \"allow\"; action = \"publish\"; retain = true; qos = 2; topics = [\"kept\"]",
        "effect = \"allow\"; action = \"publish\"; topics = [\"literal/#\", \"mixed\", \"end\", \"eq +\"]",
        "effect = \"allow\"; action = \"publish\"; topics = [\"of/%c/#\", \"eq as/%c\", \"$dollar/a\", \"$SYS/#\"]",
    ]);
    expect_published(
        &server,
        &[
            ("low/a", 0, false, true),
            ("low/a", 1, true, true),
            ("low/a", 2, false, false),
            ("live/a", 0, false, true),
            ("live/a", 2, false, true),
            ("live/a", 0, true, false),
            ("live/a", 1, true, false),
            ("live/a/b", 1, false, false),
            ("kept", 2, true, true),
            ("kept", 2, false, false),
            ("kept", 1, true, false),
            ("mixed", 1, true, false),
            ("mixed", 1, false, true),
            ("mixed", 0, true, true),
            ("literal/a", 0, false, false),
            ("literal/a", 1, false, false),
            ("literal/a", 2, false, false),
            ("literal/b", 2, false, true),
            ("of/own/x", 1, false, true),
            ("of/other/x", 1, false, false),
            ("as/own", 2, false, true),
            ("as/%c", 2, false, false),
            ("$dollar/a", 1, false, true),
            ("$dollar/b", 1, false, false),
            ("$SYS/broker/x", 1, false, false),
            ("other", 2, false, false),
        ],
    );
}

#[test]
fn a_will_is_judged_as_what_it_will_be() {
    let server = server(&[
        "effect = \"allow\"; action = \"publish\"; qos = [0, 1]; retain = false; topics = [\"will/%c\"]",
        "effect = \"allow\"; action = \"subscribe\"; topics = [\"will/+\"]",
    ]);
    let at = tcp(&server);
    let mut observer = at.v5();
    observer.subscribe("will/+", 2);
    for version in [4, 5] {
        let connect = |topic: &str, qos| {
            let id = unique("c");
            Connect::new(version, &id).will(Will::new(&topic.replace("OWN", &id), "gone").qos(qos))
        };
        let retained = Connect::new(version, "r").will(Will::new("will/r", "gone").retain());
        let not_authorized = if version == 5 { 0x87 } else { 5 };
        for refused in [connect("will/OWN", 2), connect("will/other", 0), retained] {
            assert_eq!(at.refused(&refused.bytes(), version).code, not_authorized);
        }
        for qos in [0, 1] {
            at.connect(&connect("will/OWN", qos)).vanish();
            assert_eq!(observer.take().qos, qos);
        }
    }
}

/// Subscribes to each of these and compares what is granted; 0x80 stands for a refusal.
fn expect_granted(server: &Server, cases: &[(&str, u8, u8)]) {
    for version in [4, 5] {
        let mut client = tcp(server).connect(&Connect::new(version, "own"));
        let asked: Vec<_> = cases.iter().map(|&(filter, qos, _)| (filter, qos)).collect();
        let granted = client.subscribe_all(&asked, &[]).codes;
        let refusal = if version == 5 { 0x87 } else { 0x80 };
        for ((filter, qos, expected), code) in cases.iter().zip(granted) {
            let expected = if *expected == 0x80 { refusal } else { *expected };
            assert_eq!(code, expected, "version {version}: {filter} with QoS {qos}");
        }
    }
}

#[test]
fn each_filter_is_granted_the_highest_qos_that_rules_allow() {
    let server = server(&[
        "effect = \"deny\"; action = \"subscribe\"; topics = [\"eq #\", \"a/secret/#\"]",
        "effect = \"deny\"; action = \"subscribe\"; qos = 2; topics = [\"a/low\"]",
        "effect = \"allow\"; action = \"subscribe\"; topics = [\"a/#\", \"eq l/+\", \"of/%c/+\", \"$SYS/broker/#\"]",
        "effect = \"allow\"; action = \"subscribe\"; qos = [0, 1]; topics = [\"b/#\"]",
        "effect = \"allow\"; action = \"subscribe\"; qos = 1; topics = [\"one\"]",
    ]);
    expect_granted(
        &server,
        &[
            ("a/b", 2, 2),
            ("a/+/x", 1, 0x80),
            ("a/#", 0, 0x80),
            ("a/b/#", 1, 1),
            ("a/secret", 0, 0x80),
            ("a/low", 2, 1),
            ("$share/g/a/b", 2, 2),
            ("$share/g/a/secret/x", 2, 0x80),
            ("$share/g/a/#", 2, 0x80),
            ("l/+", 2, 2),
            ("l/x", 0, 0x80),
            ("of/own/+", 1, 1),
            ("of/+/x", 1, 0x80),
            ("b/x", 2, 1),
            ("b/#", 0, 0),
            ("$share/g/b/#", 2, 1),
            ("one", 2, 1),
            ("one", 0, 0x80),
            ("#", 0, 0x80),
            ("+/#", 0, 0x80),
            ("$SYS/broker/uptime", 0, 0),
            ("$SYS/#", 0, 0x80),
        ],
    );
}

#[test]
fn what_is_granted_with_a_lower_qos_comes_with_it() {
    let server = server(&[
        "effect = \"allow\"; action = \"subscribe\"; qos = [0, 1]; topics = [\"#\"]",
        "effect = \"allow\"; action = \"publish\"; topics = [\"#\"]",
    ]);
    let at = tcp(&server);
    let (mut subscriber, mut publisher) = (at.v5(), at.v4());
    assert_eq!(subscriber.subscribe("a", 2), 1);
    publisher.publish("a", "x", 2);
    // v5 [MQTT-3.8.4-8]
    assert_eq!(subscriber.take().qos, 1);
}

#[test]
fn rules_about_receiving_let_a_wildcard_reach_further_than_what_comes() {
    let server = server(&[
        "effect = \"deny\"; action = \"receive\"; topics = [\"secret/#\"]",
        "effect = \"allow\"; action = \"receive\"; topics = [\"+/#\"]",
        "effect = \"allow\"; action = \"publish\"; topics = [\"#\"]",
    ]);
    let at = tcp(&server);
    let mut publisher = at.v5();
    publisher.publish_as(Publish::new("secret/kept", "no").retain(), 1);
    publisher.publish_as(Publish::new("open/kept", "retained").retain(), 1);
    expect_granted(
        &server,
        &[
            ("#", 0, 0),
            ("secret/x", 0, 0x80),
            ("secret/#", 2, 0x80),
            ("$share/g/#", 0, 0x80),
            ("open/#", 1, 1),
        ],
    );
    for version in [4, 5] {
        for qos in [0, 1, 2] {
            let mut wide = at.connect(&Connect::new(version, &unique("c")));
            assert_eq!(wide.subscribe("#", qos), qos);
            assert_eq!(wide.take().text(), "retained");
            for sent in [0, 1, 2] {
                publisher.publish("secret/x", "no", sent);
                publisher.publish("open/x", "yes", sent);
                let message = wide.take();
                assert_eq!((message.text(), message.qos), ("yes", qos.min(sent)));
            }
        }
    }
}

#[test]
fn what_no_rule_is_about_can_be_allowed() {
    let server = Server::start(concat!(
        "[authorization]\ndefault = \"allow\"\n",
        "[[authorization.rule]]\nwho = [\"anonymous\"]\neffect = \"deny\"\naction = \"all\"\ntopics = [\"secret/#\"]\n",
    ));
    expect_granted(&server, &[("secret/x", 0, 0x80), ("#", 0, 0x80), ("open/#", 2, 2)]);
    let mut client = tcp(&server).v5();
    assert_eq!(publish(&mut client, "secret/x", "no", 1, false), 0x87);
    assert_eq!(publish(&mut client, "open", "yes", 2, false), 0);
    let server = Server::start("[authorization]\ndefault = \"deny\"\n");
    expect_granted(&server, &[("a", 0, 0x80)]);
}
