//! SUBSCRIBE and UNSUBSCRIBE: answers, options, identifiers, overlapping and wildcard filters.

use crate::harness::bytes::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, ack};
use crate::harness::property as p;
use crate::harness::{Target, unique};

over_every_transport!(
    suback_has_the_identifier_and_a_code_for_each_filter_in_order,
    unsuback_has_the_identifier_and_a_code_for_each_filter_in_order,
    unsubscribe_of_nothing_is_answered,
    malformed_filters_are_refused,
    wildcard_filters_match_as_specified,
    same_filter_replaces_the_subscription,
    one_packet_acts_like_many,
    no_local_keeps_own_messages_away,
    subscription_identifiers_come_with_messages,
    resubscribing_changes_the_identifier,
    overlapping_subscriptions_give_one_copy_with_the_highest_qos,
    unsubscribe_compares_character_by_character,
    unsubscribe_stops_new_messages,
    unsubscribe_completes_flows_that_were_begun,
    longest_topic_is_accepted,
    utf8_filters_match_utf8_topics,
    subscriptions_need_not_wait_for_suback,
    what_follows_a_request_in_one_write_is_carried_out_after_it,
    what_comes_before_the_end_is_carried_out_in_order,
);

fn suback_has_the_identifier_and_a_code_for_each_filter_in_order(at: Target) {
    // v5 [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-2.2.1-6], [MQTT-3.8.4-6], [MQTT-3.8.4-7], [MQTT-3.9.3-1], [MQTT-3.9.3-2],
    // [MQTT-3.2.2-10]
    let name = unique("t");
    let mut client = at.v5();
    let filters: Vec<String> = (0..6).map(|number| format!("{name}/{number}")).collect();
    let qos = [2u8, 0, 1, 1, 0, 2];
    let pairs: Vec<(&str, u8)> = filters.iter().map(String::as_str).zip(qos).collect();
    for id in [1u16, 65_535] {
        client.send(&bytes::subscribe(id, &[], &pairs));
        let [high, low] = id.to_be_bytes();
        client.expect(&[0x90, 9, high, low, 0, 2, 0, 1, 1, 0, 2]);
    }
}

fn unsuback_has_the_identifier_and_a_code_for_each_filter_in_order(at: Target) {
    // v5 [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6], [MQTT-3.11.3-1], [MQTT-3.11.3-2]
    let (a, b) = (unique("t"), unique("t"));
    let mut client = at.v5();
    client.subscribe_all(&[(&a, 0), (&b, 0)], &[]);
    client.send(&bytes::unsubscribe(0xABCD, &[&a, "never/subscribed", &b, &a]));
    client.expect(&[0xB0, 7, 0xAB, 0xCD, 0, 0x00, 0x11, 0x00, 0x11]);
}

fn unsubscribe_of_nothing_is_answered(at: Target) {
    // v5 [MQTT-3.10.4-5]
    let mut client = at.v5();
    client.send(&bytes::unsubscribe(3, &[&unique("t")]));
    client.expect(&[0xB0, 4, 0, 3, 0, 0x11]);
}

fn malformed_filters_are_refused(at: Target) {
    // v5 [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1], [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    let bad = [
        "",
        "a/#/b",
        "#/a",
        "a#",
        "#a",
        "a/b#",
        "##",
        "a+",
        "+a",
        "a/b+/c",
        "a/+b",
        "++",
        "$share/",
        "$share/g",
        "$share//a",
        "$share/g/",
        "$share/+/a",
        "$share/a+b/c",
        "$share/#/a",
        "$share/g#/a",
        "$share/g/a#",
    ];
    for filter in bad {
        for bytes in [bytes::subscribe(1, &[], &[(filter, 0)]), bytes::unsubscribe(1, &[filter])] {
            let mut client = at.v5();
            client.send(&bytes);
            let disconnect = client.read_packet().disconnect();
            assert_eq!(disconnect.reason, 0x8F, "{filter:?}");
            client.expect_close();
        }
    }
}

fn wildcard_filters_match_as_specified(at: Target) {
    // v5 sections 4.7.1.2 and 4.7.1.3, and [MQTT-3.3.2-3]: the topic that arrives matches the filter.
    let root = unique("t");
    let topics = ["", "/", "a", "a/", "/a", "a/b", "a/b/c", "a//c", "b/b", "a/b/"];
    let cases: [(&str, &[&str]); 13] = [
        ("#", &["", "/", "a", "a/", "/a", "a/b", "a/b/c", "a//c", "b/b", "a/b/"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c", "a//c", "a/b/"]),
        ("+", &["", "a"]),
        ("+/+", &["/", "a/", "/a", "a/b", "b/b"]),
        ("a/+", &["a/", "a/b"]),
        ("+/b", &["a/b", "b/b"]),
        ("a/+/c", &["a/b/c", "a//c"]),
        ("+/+/#", &["/", "a/", "/a", "a/b", "a/b/c", "a//c", "b/b", "a/b/"]),
        ("a/b/#", &["a/b", "a/b/c", "a/b/"]),
        ("+/b/+", &["a/b/c", "a/b/"]),
        ("/+", &["/", "/a"]),
        ("a", &["a"]),
        ("a/b/c/#", &["a/b/c"]),
    ];
    let mut publisher = at.v5();
    for (filter, wanted) in cases {
        let mut subscriber = at.v5();
        subscriber.subscribe(&format!("{root}/{filter}"), 0);
        for topic in topics {
            publisher.publish(&format!("{root}/{topic}"), topic, 0);
        }
        let found: Vec<String> =
            wanted.iter().map(|_| subscriber.expect_publish()).map(|got| got.text().to_owned()).collect();
        assert_eq!(found, wanted, "{filter}");
        subscriber.expect_silence_from(&mut publisher);
    }
}

fn same_filter_replaces_the_subscription(at: Target) {
    // v5 [MQTT-3.8.4-3], [MQTT-3.8.4-4]: one subscription, with the new options, and no message is lost.
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe(&topic, 2);
    publisher.publish(&topic, "one", 2);
    assert_eq!(client.take().qos, 2);
    client.subscribe(&topic, 0);
    publisher.publish(&topic, "two", 2);
    let two = client.expect_message("two");
    assert_eq!(two.qos, 0);
    client.expect_silence_from(&mut publisher);
    assert_eq!(client.unsubscribe(&[&topic, &topic]), [0x00, 0x11]);
}

fn one_packet_acts_like_many(at: Target) {
    // v5 [MQTT-3.8.4-5]: the same filter twice in a packet: the later one holds.
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    let granted = client.subscribe_all(&[(&topic, 2), (&topic, 1)], &[]);
    assert_eq!(granted.codes, [2, 1]);
    publisher.publish(&topic, "x", 2);
    assert_eq!(client.take().qos, 1);
    client.expect_silence_from(&mut publisher);
}

fn no_local_keeps_own_messages_away(at: Target) {
    // v5 [MQTT-3.8.3-3]
    let topic = unique("t");
    let (mut client, mut other) = (at.v5(), at.v5());
    client.subscribe(&topic, 0x04 | 1);
    client.publish(&topic, "mine", 1);
    other.publish(&topic, "theirs", 1);
    assert_eq!(client.take().text(), "theirs");
    client.expect_silence_from(&mut other);
    client.subscribe(&topic, 1);
    client.publish(&topic, "again", 0);
    client.expect_message("again");
}

fn subscription_identifiers_come_with_messages(at: Target) {
    // v5 [MQTT-3.3.4-3]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    for identifier in [1usize, 127, 128, 268_435_455] {
        client.subscribe_with(
            &format!("{topic}/{identifier}"),
            1,
            &p::variable(p::SUBSCRIPTION_ID, identifier),
        );
        publisher.publish(&format!("{topic}/{identifier}"), "x", 1);
        let found = client.take().properties.numbers(p::SUBSCRIPTION_ID);
        assert_eq!(found, [u32::try_from(identifier).unwrap()]);
    }
    client.subscribe(&format!("{topic}/none"), 0);
    publisher.publish(&format!("{topic}/none"), "x", 0);
    assert!(!client.take().properties.has(p::SUBSCRIPTION_ID));
}

fn resubscribing_changes_the_identifier(at: Target) {
    // v5 [MQTT-3.8.4-3], section 3.8.2.1.2
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    for identifier in [5usize, 6] {
        client.subscribe_with(&topic, 0, &p::variable(p::SUBSCRIPTION_ID, identifier));
        publisher.publish(&topic, "x", 0);
        assert_eq!(
            client.take().properties.numbers(p::SUBSCRIPTION_ID),
            [u32::try_from(identifier).unwrap()]
        );
    }
    client.subscribe(&topic, 0);
    publisher.publish(&topic, "x", 0);
    assert!(!client.take().properties.has(p::SUBSCRIPTION_ID));
}

fn overlapping_subscriptions_give_one_copy_with_the_highest_qos(at: Target) {
    // v5 [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.4-4]: Tidegate sends a single copy with every identifier.
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe_with(&format!("{topic}/+"), 0, &p::variable(p::SUBSCRIPTION_ID, 1));
    client.subscribe_with(&format!("{topic}/a"), 2, &p::variable(p::SUBSCRIPTION_ID, 2));
    client.subscribe_with(&format!("{topic}/#"), 1, &p::variable(p::SUBSCRIPTION_ID, 3));
    client.subscribe(&format!("+/{topic}/none"), 1);
    for qos in 0..=2 {
        publisher.publish(&format!("{topic}/a"), "x", qos);
        let message = client.take();
        assert_eq!(message.qos, qos);
        assert_eq!(message.properties.numbers(p::SUBSCRIPTION_ID), [1, 2, 3]);
        client.expect_silence_from(&mut publisher);
    }
}

fn unsubscribe_compares_character_by_character(at: Target) {
    // v5 [MQTT-3.10.4-1]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe(&format!("{topic}/+"), 0);
    let others =
        [format!("{topic}/a"), format!("{topic}/#"), format!("{topic}/+/"), topic.to_uppercase() + "/+"];
    for other in &others {
        assert_eq!(client.unsubscribe(&[other]), [0x11], "{other}");
    }
    publisher.publish(&format!("{topic}/a"), "x", 0);
    client.expect_message("x");
    assert_eq!(client.unsubscribe(&[&format!("{topic}/+")]), [0x00]);
}

fn unsubscribe_stops_new_messages(at: Target) {
    // v5 [MQTT-3.10.4-2]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe(&topic, 1);
    publisher.publish(&topic, "one", 1);
    assert_eq!(client.take().text(), "one");
    client.unsubscribe(&[&topic]);
    for qos in 0..=2 {
        publisher.publish(&topic, "two", qos);
    }
    client.expect_silence_from(&mut publisher);
}

fn unsubscribe_completes_flows_that_were_begun(at: Target) {
    // v5 [MQTT-3.10.4-3]: over a reconnect, too.
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut client = at.connect(&stored);
    client.subscribe(&topic, 2);
    let mut publisher = at.v5();
    publisher.publish(&topic, "one", 1);
    publisher.publish(&topic, "two", 2);
    let (one, two) = (client.expect_message("one"), client.expect_message("two"));
    client.unsubscribe(&[&topic]);
    client.send(&ack(PUBREC, two.id));
    client.expect(&ack(PUBREL, two.id));
    client.vanish();
    let mut client = at.connect(&stored);
    let again = client.expect_message("one");
    assert_eq!((again.id, again.dup), (one.id, true));
    client.expect(&ack(PUBREL, two.id));
    client.send(&ack(PUBACK, one.id));
    client.send(&ack(PUBCOMP, two.id));
    client.expect_silence();
    at.connect(&Connect::v5(&id)).leave();
}

fn longest_topic_is_accepted(at: Target) {
    // v5 [MQTT-4.7.3-3]: up to 65,535 bytes.
    let stem = unique("t");
    let topic = format!("{stem}/{}", "x".repeat(65_534 - stem.len()));
    assert_eq!(topic.len(), 65_535);
    let mut client = at.v5();
    assert_eq!(client.subscribe(&topic, 1), 1);
    client.send(&bytes::Publish::new(&topic, "long").bytes());
    assert_eq!(client.expect_message("long").topic, topic);
    assert_eq!(client.unsubscribe(&[&topic]), [0]);
}

fn utf8_filters_match_utf8_topics(at: Target) {
    // v5 [MQTT-3.8.3-1], [MQTT-3.10.3-1], [MQTT-3.3.2-1]
    let topic = format!("{}/Zürich/東京/🌡", unique("t"));
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe(&topic, 0);
    publisher.publish(&topic, "x", 0);
    assert_eq!(client.expect_publish().topic, topic);
    assert_eq!(client.unsubscribe(&[&topic]), [0]);
}

fn subscriptions_need_not_wait_for_suback(at: Target) {
    // v5 [MQTT-3.8.4-1]: many at a time, each answered.
    let name = unique("t");
    let mut client = at.v5();
    let all: Vec<u8> =
        (1..=100).flat_map(|id: u16| bytes::subscribe(id, &[], &[(&format!("{name}/{id}"), 1)])).collect();
    client.send(&all);
    for id in 1..=100u8 {
        client.expect(&[0x90, 4, 0, id, 0, 1]);
    }
}

fn what_follows_a_request_in_one_write_is_carried_out_after_it(at: Target) {
    // v5 [MQTT-3.10.4-2], [MQTT-3.8.4-1]
    for connect in [Connect::stored(&unique("c")), Connect::v5(&unique("c"))] {
        let mut client = at.connect(&connect);
        for round in 0..40 {
            let topic = unique("t");
            let own = bytes::Publish::new(&topic, "own").qos1(9).bytes();
            client.send(&[bytes::subscribe(8, &[], &[(&topic, 1)]), own].concat());
            client.expect(&[0x90, 4, 0, 8, 0, 1]);
            let mut is_acknowledged = false;
            let publish = loop {
                let packet = client.read_packet();
                match packet.bytes()[0] >> 4 {
                    4 => {
                        assert_eq!(packet.bytes(), [0x40, 2, 0, 9], "round {round}");
                        is_acknowledged = true;
                    }
                    _ => break packet.publish(bytes::V5),
                }
            };
            assert_eq!(publish.text(), "own");
            client.acknowledge(&publish);
            if !is_acknowledged {
                client.expect(&[0x40, 2, 0, 9]);
            }
            let not = bytes::Publish::new(&topic, "not").qos1(11).bytes();
            let never = bytes::Publish::new(&topic, "never").bytes();
            client.send(&[bytes::unsubscribe(10, &[&topic]), not, never].concat());
            client.expect(&[0xB0, 4, 0, 10, 0, 0]);
            client.expect(&[0x40, 3, 0, 11, 0x10]);
            client.expect_alive();
        }
    }
}

fn what_comes_before_the_end_is_carried_out_in_order(at: Target) {
    // v5 [MQTT-3.14.4-3]
    let will_topic = unique("w");
    let mut watcher = at.v5();
    watcher.subscribe(&will_topic, 0);
    for _ in 0..20 {
        let topic = unique("t");
        let connect = Connect::stored(&unique("c"));
        let mut client = at.connect(&connect.clone().will(bytes::Will::new(&will_topic, "dead")));
        let own = bytes::Publish::new(&topic, "own").qos1(9).bytes();
        client.send(&[&bytes::subscribe(8, &[], &[(&topic, 1)]), &own, bytes::DISCONNECT].concat());
        while client.poll(crate::harness::DEADLINE).is_ok() {}
        let (mut client, connack) = at.connect_and_see(&connect);
        assert!(connack.session_present);
        let publish = client.take();
        assert_eq!(publish.text(), "own");
        client.leave();
    }
    watcher.expect_silence();
}
