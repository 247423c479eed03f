//! Receive Maximum, Maximum Packet Size and Topic Alias Maximum, in both directions.

use crate::harness::bytes::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, ack, ack_reason};
use crate::harness::property as p;
use crate::harness::{Target, unique};

over_every_transport!(
    server_sends_no_more_than_receive_maximum,
    pubrec_with_an_error_returns_the_quota,
    pubrec_of_success_does_not_return_the_quota,
    other_packets_are_not_held_back_by_the_quota,
    quota_is_full_again_on_a_new_connection,
    exceeding_the_servers_receive_maximum_is_refused,
    packets_over_the_clients_maximum_are_not_sent,
    a_discarded_packet_counts_as_delivered,
    optional_properties_are_left_out_for_a_small_client,
    packets_over_the_servers_maximum_are_refused,
    every_alias_up_to_the_maximum_is_accepted,
    alias_can_be_set_anew,
    unknown_alias_is_a_protocol_error,
    alias_over_the_maximum_is_refused,
    server_sends_no_alias_unless_it_is_allowed,
    server_keeps_to_the_clients_alias_maximum,
    each_connection_has_its_own_aliases,
    reasons_are_left_out_if_the_client_asks_for_none,
);

fn server_sends_no_more_than_receive_maximum(at: Target) {
    // v5 [MQTT-3.3.4-9], [MQTT-4.9.0-1], [MQTT-4.9.0-2]
    for maximum in [1u16, 3] {
        let topic = unique("t");
        let mut client = at.connect(&Connect::v5(&unique("c")).with(p::two(p::RECEIVE_MAXIMUM, maximum)));
        client.subscribe(&topic, 2);
        let mut publisher = at.v5();
        for number in 0..8 {
            publisher.publish(&topic, &number.to_string(), 1 + number % 2);
        }
        let mut open: Vec<_> = (0..maximum).map(|_| client.expect_publish()).collect();
        client.expect_silence_from(&mut publisher);
        for number in 0..8 {
            let message = open.remove(0);
            assert_eq!(message.text(), number.to_string());
            client.acknowledge(&message);
            if number + i32::from(maximum) < 8 {
                open.push(client.expect_publish());
            }
            client.expect_silence_from(&mut publisher);
        }
    }
}

fn pubrec_with_an_error_returns_the_quota(at: Target) {
    // v5 [MQTT-3.3.4-9]
    let topic = unique("t");
    let mut client = at.connect(&Connect::v5(&unique("c")).with(p::two(p::RECEIVE_MAXIMUM, 1)));
    client.subscribe(&topic, 2);
    let mut publisher = at.v5();
    publisher.publish(&topic, "one", 2);
    publisher.publish(&topic, "two", 2);
    let one = client.expect_message("one");
    client.send(&ack_reason(PUBREC, one.id, 0x80));
    assert_eq!(client.take().text(), "two");
}

fn pubrec_of_success_does_not_return_the_quota(at: Target) {
    // v5 [MQTT-3.3.4-9], [MQTT-4.9.0-2]: only PUBCOMP does.
    let topic = unique("t");
    let mut client = at.connect(&Connect::v5(&unique("c")).with(p::two(p::RECEIVE_MAXIMUM, 1)));
    client.subscribe(&topic, 2);
    let mut publisher = at.v5();
    publisher.publish(&topic, "one", 2);
    publisher.publish(&topic, "two", 2);
    let one = client.expect_message("one");
    client.send(&ack(PUBREC, one.id));
    client.expect(&ack(PUBREL, one.id));
    client.expect_silence_from(&mut publisher);
    client.send(&ack(PUBCOMP, one.id));
    assert_eq!(client.take().text(), "two");
}

fn other_packets_are_not_held_back_by_the_quota(at: Target) {
    // v5 [MQTT-3.3.4-10], [MQTT-4.9.0-3]: QoS 0, acknowledgements, SUBACK, PINGRESP.
    let topic = unique("t");
    let mut client = at.connect(&Connect::v5(&unique("c")).with(p::two(p::RECEIVE_MAXIMUM, 1)));
    client.subscribe(&topic, 1);
    let mut publisher = at.v5();
    publisher.publish(&topic, "held", 1);
    publisher.publish(&topic, "waits", 1);
    let held = client.expect_message("held");
    publisher.publish(&topic, "free", 0);
    assert_eq!(client.expect_publish().text(), "free");
    client.expect_alive();
    client.publish(&unique("t"), "x", 1);
    client.publish(&unique("t"), "x", 2);
    client.expect_silence();
    client.acknowledge(&held);
    assert_eq!(client.take().text(), "waits");
}

fn quota_is_full_again_on_a_new_connection(at: Target) {
    // v5 section 4.9: the send quota is no part of the session.
    let (topic, id) = (unique("t"), unique("s"));
    let with = |maximum| Connect::stored(&id).with(p::two(p::RECEIVE_MAXIMUM, maximum));
    let mut client = at.connect(&with(1));
    client.subscribe(&topic, 1);
    let mut publisher = at.v5();
    for payload in ["one", "two", "three"] {
        publisher.publish(&topic, payload, 1);
    }
    client.expect_message("one");
    client.vanish();
    let mut client = at.connect(&with(2));
    let messages = [client.expect_message("one"), client.expect_message("two")];
    client.expect_silence_from(&mut publisher);
    for message in &messages {
        client.acknowledge(message);
    }
    client.expect_message("three");
    at.connect(&Connect::v5(&id)).leave();
}

fn exceeding_the_servers_receive_maximum_is_refused(at: Target) {
    // Section 3.3.4: more QoS 2 flows than the server's Receive Maximum are answered by 0x93.
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    let maximum = u16::try_from(connack.properties.number(p::RECEIVE_MAXIMUM).unwrap_or(65_535)).unwrap();
    let topic = unique("t");
    if maximum == 65_535 {
        // Every Packet Identifier may be in use: there is nothing beyond.
        client.send(&Publish::new(&topic, "x").qos2(1).bytes());
        client.expect_success(PUBREC, 1);
        return;
    }
    for id in 1..=maximum {
        client.send(&Publish::new(&topic, "x").qos2(id).bytes());
        client.expect_success(PUBREC, id);
    }
    client.send(&Publish::new(&topic, "x").qos2(maximum + 1).bytes());
    client.expect_disconnect(0x93);
}

fn packets_over_the_clients_maximum_are_not_sent(at: Target) {
    // v5 [MQTT-3.1.2-24]: the exact size passes, one byte more does not.
    let topic = unique("t");
    let size = |payload: usize| Publish::new(&topic, vec![b'x'; payload]).bytes().len();
    let payload = 60;
    let maximum = u32::try_from(size(payload)).unwrap();
    let mut client = at.connect(&Connect::v5(&unique("c")).with(p::four(p::MAXIMUM_PACKET_SIZE, maximum)));
    client.subscribe(&topic, 0);
    let mut publisher = at.v5();
    publisher.publish(&topic, &"x".repeat(payload + 1), 0);
    publisher.publish(&topic, &"x".repeat(payload), 0);
    publisher.publish(&topic, &"x".repeat(payload + 2), 0);
    assert_eq!(client.expect_publish().payload.len(), payload);
    client.expect_silence_from(&mut publisher);
}

fn a_discarded_packet_counts_as_delivered(at: Target) {
    // v5 [MQTT-3.1.2-25]: it neither blocks the quota nor comes back after a reconnect.
    let (topic, id) = (unique("t"), unique("s"));
    let small =
        Connect::stored(&id).with(p::four(p::MAXIMUM_PACKET_SIZE, 100)).with(p::two(p::RECEIVE_MAXIMUM, 1));
    let mut client = at.connect(&small);
    client.subscribe(&topic, 2);
    let mut publisher = at.v5();
    let large = "x".repeat(200);
    for (payload, qos) in [(large.as_str(), 1), ("one", 1), (&large, 2), ("two", 2)] {
        publisher.publish(&topic, payload, qos);
    }
    assert_eq!(client.take().text(), "one");
    assert_eq!(client.take().text(), "two");
    client.leave();
    publisher.publish(&topic, &large, 1);
    publisher.publish(&topic, "three", 1);
    let mut client = at.connect(&small);
    assert_eq!(client.take().text(), "three");
    client.leave();
    let mut client = at.connect(&Connect::stored(&id));
    client.expect_silence_from(&mut publisher);
    at.connect(&Connect::v5(&id)).leave();
}

fn optional_properties_are_left_out_for_a_small_client(at: Target) {
    // v5 [MQTT-3.2.2-19], [MQTT-3.2.2-20], [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.5.2-2], [MQTT-3.5.2-3], [MQTT-3.6.2-2],
    // [MQTT-3.6.2-3], [MQTT-3.7.2-2], [MQTT-3.7.2-3], [MQTT-3.9.2-1], [MQTT-3.9.2-2], [MQTT-3.11.2-1], [MQTT-3.11.2-2],
    // [MQTT-3.14.2-3], [MQTT-3.14.2-4]: an answer with a Reason String would be over the limit of the connection.
    let bare = |mut client: crate::harness::Client, send: Vec<u8>, most: usize| {
        client.send(&send);
        let packet = client.read_packet();
        assert!(packet.bytes().len() <= most, "{packet:02x?}");
        packet
    };
    let (_, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    assert_eq!(connack.code, 0);
    let maximum = 24;
    let small =
        || Connect::v5(&unique("c")).with(p::four(p::MAXIMUM_PACKET_SIZE, u32::try_from(maximum).unwrap()));
    let mut client = at.open();
    client.send(&small().bytes());
    let connack = client.read_packet();
    assert!(connack.bytes().len() <= maximum, "{connack:02x?}");
    let not_found = bare(at.connect(&small()), ack(PUBREL, 1), maximum);
    assert_eq!(not_found.reply(PUBCOMP, 5).reason, 0x92);
    let not_found = bare(at.connect(&small()), ack(PUBREC, 1), maximum);
    assert_eq!(not_found.reply(PUBREL, 5).reason, 0x92);
    bare(at.connect(&small()), Publish::new("nobody/here", "x").qos1(1).bytes(), maximum).reply(PUBACK, 5);
    bare(at.connect(&small()), Publish::new("nobody/here", "x").qos2(1).bytes(), maximum).reply(PUBREC, 5);
    bare(at.connect(&small()), bytes::subscribe(1, &[], &[("a", 0)]), maximum).suback(5);
    bare(at.connect(&small()), bytes::unsubscribe(1, &["none"]), maximum).unsuback(5);
    bare(at.connect(&small()), vec![0x36, 7, 0, 1, b'a', 0, 1, 0, b'x'], maximum).disconnect();
}

fn packets_over_the_servers_maximum_are_refused(at: Target) {
    // Section 3.2.2.3.6: DISCONNECT 0x95, as soon as the length is known and before the bytes came.
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    let maximum = connack.properties.number(p::MAXIMUM_PACKET_SIZE).unwrap_or(268_435_460) as usize;
    if maximum >= 268_435_460 {
        return;
    }
    let topic = unique("t");
    let head = Publish::new(&topic, "").bytes().len();
    let mut over = vec![0x30];
    over.extend(bytes::varint(maximum));
    over.extend(&Publish::new(&topic, "").bytes()[2..]);
    assert!(over.len() > head);
    client.send(&over);
    client.expect_disconnect(0x95);
}

fn every_alias_up_to_the_maximum_is_accepted(at: Target) {
    // v5 [MQTT-3.3.2-12]
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    let maximum = u16::try_from(connack.properties.number(p::TOPIC_ALIAS_MAXIMUM).unwrap_or(0)).unwrap();
    assert!(maximum > 0, "the server offers topic aliases");
    let topic = unique("t");
    client.subscribe(&format!("{topic}/#"), 0);
    let aliases: Vec<u16> = (1..=maximum.min(20)).chain([maximum]).collect();
    for alias in &aliases {
        let name = format!("{topic}/{alias}");
        client.send(&Publish::new(&name, "x").with(p::two(p::TOPIC_ALIAS, *alias)).bytes());
        let message = client.expect_publish();
        assert_eq!(message.topic, name);
        assert!(!message.properties.has(p::TOPIC_ALIAS), "an alias is of one connection only");
    }
    for alias in &aliases {
        client.send(&Publish::new("", "y").with(p::two(p::TOPIC_ALIAS, *alias)).bytes());
        assert_eq!(client.expect_publish().topic, format!("{topic}/{alias}"));
    }
}

fn alias_can_be_set_anew(at: Target) {
    let (one, two) = (unique("t"), unique("t"));
    let (mut client, mut subscriber) = (at.v5(), at.v5());
    subscriber.subscribe_all(&[(&one, 0), (&two, 0)], &[]);
    let alias = || p::two(p::TOPIC_ALIAS, 1);
    for name in [&one, &two] {
        client.send(&Publish::new(name, "set").with(alias()).bytes());
        client.send(&Publish::new("", "used").with(alias()).bytes());
        for payload in ["set", "used"] {
            assert_eq!(subscriber.expect_message(payload).topic, *name);
        }
    }
}

fn unknown_alias_is_a_protocol_error(at: Target) {
    // Section 3.3.2.3.4
    let mut client = at.v5();
    client.send(&Publish::new("", "x").with(p::two(p::TOPIC_ALIAS, 1)).bytes());
    client.expect_disconnect(0x82);
}

fn alias_over_the_maximum_is_refused(at: Target) {
    // v5 [MQTT-3.2.2-17], [MQTT-3.3.2-9] bind the client; the server answers 0x94.
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    let maximum = u16::try_from(connack.properties.number(p::TOPIC_ALIAS_MAXIMUM).unwrap_or(0)).unwrap();
    if maximum < 65_535 {
        client.send(&Publish::new("a", "x").with(p::two(p::TOPIC_ALIAS, maximum + 1)).bytes());
        client.expect_disconnect(0x94);
    }
}

fn server_sends_no_alias_unless_it_is_allowed(at: Target) {
    // v5 [MQTT-3.1.2-27]
    for allowance in [Vec::new(), p::two(p::TOPIC_ALIAS_MAXIMUM, 0)] {
        let topic = unique("t");
        let mut client = at.connect(&Connect::v5(&unique("c")).with(allowance));
        client.subscribe(&topic, 0);
        let mut publisher = at.v5();
        for _ in 0..5 {
            publisher.publish(&topic, "x", 0);
            let message = client.expect_publish();
            assert!(!message.properties.has(p::TOPIC_ALIAS));
            assert_eq!(message.topic, topic);
        }
    }
}

fn server_keeps_to_the_clients_alias_maximum(at: Target) {
    // v5 [MQTT-3.1.2-26], [MQTT-3.3.2-11], [MQTT-3.3.2-8]: and what it abbreviates can be told.
    let topic = unique("t");
    let mut client = at.connect(&Connect::v5(&unique("c")).with(p::two(p::TOPIC_ALIAS_MAXIMUM, 2)));
    client.subscribe(&format!("{topic}/#"), 1);
    let mut publisher = at.v5();
    let mut known = std::collections::HashMap::new();
    for round in 0..4 {
        for number in 0..4 {
            let name = format!("{topic}/{number}");
            publisher.publish(&name, "x", round % 2);
            let message = client.take();
            let alias = message.properties.number(p::TOPIC_ALIAS);
            if let Some(alias) = alias {
                assert!((1..=2).contains(&alias), "alias {alias}");
                if !message.topic.is_empty() {
                    known.insert(alias, message.topic.clone());
                }
                assert_eq!(known.get(&alias), Some(&name), "the alias stands for the topic published to");
            } else {
                assert_eq!(message.topic, name);
            }
        }
    }
}

fn each_connection_has_its_own_aliases(at: Target) {
    // v5 [MQTT-3.3.2-7], section 3.3.2.3.4
    let (one, two) = (unique("t"), unique("t"));
    let (mut first, mut second, mut subscriber) = (at.v5(), at.v5(), at.v5());
    subscriber.subscribe_all(&[(&one, 0), (&two, 0)], &[]);
    let alias = || p::two(p::TOPIC_ALIAS, 1);
    first.send(&Publish::new(&one, "1").with(alias()).bytes());
    subscriber.expect_message("1");
    second.send(&Publish::new(&two, "2").with(alias()).bytes());
    subscriber.expect_message("2");
    first.send(&Publish::new("", "3").with(alias()).bytes());
    assert_eq!(subscriber.expect_message("3").topic, one);
    second.send(&Publish::new("", "4").with(alias()).bytes());
    assert_eq!(subscriber.expect_message("4").topic, two);
}

fn reasons_are_left_out_if_the_client_asks_for_none(at: Target) {
    // v5 [MQTT-3.1.2-29]: no Reason String or User Property outside of PUBLISH, CONNACK and DISCONNECT.
    let mut client = at.connect(&Connect::v5(&unique("c")).with(p::byte(p::REQUEST_PROBLEM, 0)));
    client.send(&ack(PUBREL, 1));
    assert!(client.expect_reply(PUBCOMP, 1).properties.0.is_empty());
    client.send(&ack(PUBREC, 2));
    assert!(client.expect_reply(PUBREL, 2).properties.0.is_empty());
    client.send(&Publish::new(unique("t"), "x").qos1(3).bytes());
    assert!(client.expect_reply(PUBACK, 3).properties.0.is_empty());
    client.send(&Publish::new(unique("t"), "x").qos2(4).bytes());
    assert!(client.expect_reply(PUBREC, 4).properties.0.is_empty());
    assert!(client.subscribe_all(&[(&unique("t"), 0)], &[]).properties.0.is_empty());
    client.send(&bytes::unsubscribe(5, &["none"]));
    assert!(client.read_packet().unsuback(5).properties.0.is_empty());
    // User Properties of a PUBLISH pass all the same.
    let topic = unique("t");
    client.subscribe(&topic, 0);
    at.v5().publish_as(Publish::new(&topic, "x").with(p::pair("k", "v")), 0);
    assert_eq!(client.expect_publish().properties.pairs(), [("k", "v")]);
}
