//! PUBLISH as it passes through the server: QoS flows, what is kept of it, order.

use crate::harness::bytes::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, ack, ack_reason};
use crate::harness::property as p;
use crate::harness::{Target, let_pass, unique};
use std::time::Duration;

over_every_transport!(
    qos0_is_not_acknowledged_and_has_no_identifier,
    qos1_is_acknowledged_with_its_identifier,
    qos1_with_a_used_identifier_is_a_new_message,
    qos2_takes_four_steps_with_one_identifier,
    qos2_repeated_before_pubrel_is_delivered_once,
    qos2_identifier_is_free_after_pubcomp,
    qos2_flow_goes_on_after_the_message_expired,
    pubrel_of_an_unknown_identifier_is_answered_not_found,
    pubrec_of_an_unknown_identifier_is_answered_not_found,
    acknowledgements_come_in_the_order_of_the_messages,
    delivered_qos_is_the_lower_of_both,
    first_delivery_has_dup_off_even_if_it_came_with_dup,
    outgoing_identifiers_are_not_used_twice_at_a_time,
    outgoing_qos2_completes_with_its_identifier,
    refused_delivery_counts_as_acknowledged,
    properties_are_forwarded_unaltered_and_in_order,
    payload_is_forwarded_unaltered,
    empty_payload_is_a_message,
    message_expiry_is_counted_down,
    expired_message_is_not_delivered,
    messages_of_one_publisher_stay_in_order,
    topic_name_is_matched_without_normalization,
    clients_do_not_exchange_messages_by_dollar_topics,
    a_message_reaches_every_matching_session,
);

fn qos0_is_not_acknowledged_and_has_no_identifier(at: Target) {
    // v5 [MQTT-2.2.1-2], [MQTT-4.3.1-1]: the bytes that arrive are known to the last one.
    let topic = unique("t");
    let mut client = at.v5();
    client.subscribe(&topic, 2);
    client.send(&Publish::new(&topic, "x").bytes());
    client.expect(&Publish::new(&topic, "x").bytes());
    client.expect_silence();
}

fn qos1_is_acknowledged_with_its_identifier(at: Target) {
    // v5 [MQTT-3.3.4-1], [MQTT-4.3.2-4], [MQTT-2.2.1-5]
    let mut client = at.v5();
    for id in [1, 2, 0x1234, 65_535] {
        client.send(&Publish::new(unique("t"), "x").qos1(id).bytes());
        client.expect_success(PUBACK, id);
    }
}

fn qos1_with_a_used_identifier_is_a_new_message(at: Target) {
    // v5 [MQTT-4.3.2-5]: after PUBACK the identifier is new again, whatever DUP says.
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 1);
    publisher.send(&Publish::new(&topic, "one").qos1(7).bytes());
    publisher.expect_success(PUBACK, 7);
    publisher.send(&Publish::new(&topic, "two").qos1(7).dup().bytes());
    publisher.expect_success(PUBACK, 7);
    assert_eq!(subscriber.take().text(), "one");
    assert_eq!(subscriber.take().text(), "two");
}

fn qos2_takes_four_steps_with_one_identifier(at: Target) {
    // v5 [MQTT-4.3.3-8], [MQTT-4.3.3-11], [MQTT-2.2.1-5]
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 2);
    publisher.send(&Publish::new(&topic, "x").qos2(300).bytes());
    publisher.expect_success(PUBREC, 300);
    publisher.send(&ack(PUBREL, 300));
    publisher.expect(&ack(PUBCOMP, 300));
    assert_eq!(subscriber.take().text(), "x");
    subscriber.expect_silence_from(&mut publisher);
}

fn qos2_repeated_before_pubrel_is_delivered_once(at: Target) {
    // v5 [MQTT-4.3.3-10]
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 2);
    publisher.send(&Publish::new(&topic, "once").qos2(9).bytes());
    publisher.expect_success(PUBREC, 9);
    for _ in 0..3 {
        publisher.send(&Publish::new(&topic, "once").qos2(9).dup().bytes());
        publisher.expect_success(PUBREC, 9);
    }
    publisher.send(&ack(PUBREL, 9));
    publisher.expect_success(PUBCOMP, 9);
    assert_eq!(subscriber.take().text(), "once");
    subscriber.expect_silence_from(&mut publisher);
}

fn qos2_identifier_is_free_after_pubcomp(at: Target) {
    // v5 [MQTT-4.3.3-12]
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 2);
    for payload in ["one", "two"] {
        publisher.publish(&topic, payload, 2);
        assert_eq!(subscriber.take().text(), payload);
    }
}

fn qos2_flow_goes_on_after_the_message_expired(at: Target) {
    // v5 [MQTT-4.3.3-13] as receiver, [MQTT-4.3.3-7] as sender: expiry ends no flow that was begun.
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 2);
    let expiring = Publish::new(&topic, "x").with(p::four(p::MESSAGE_EXPIRY, 4));
    publisher.send(&expiring.clone().qos2(3).bytes());
    publisher.expect_success(PUBREC, 3);
    publisher.send(&ack(PUBREL, 3));
    publisher.expect_success(PUBCOMP, 3);
    let message = subscriber.expect_publish();
    publisher.send(&expiring.qos2(4).bytes());
    publisher.expect_success(PUBREC, 4);
    let_pass(Duration::from_millis(4_500));
    subscriber.send(&ack(PUBREC, message.id));
    // The second may or may not have been delivered in time; its PUBLISH can stand before the PUBREL.
    let mut packet = subscriber.read_packet();
    while packet.kind() == 3 {
        packet = subscriber.read_packet();
    }
    assert_eq!(packet.bytes(), ack(PUBREL, message.id));
    publisher.send(&ack(PUBREL, 4));
    publisher.expect_success(PUBCOMP, 4);
}

fn pubrel_of_an_unknown_identifier_is_answered_not_found(at: Target) {
    // v5 [MQTT-3.7.2-1], [MQTT-4.3.3-11]
    let mut client = at.v5();
    client.send(&ack(PUBREL, 77));
    assert_eq!(client.expect_reply(PUBCOMP, 77).reason, 0x92);
    client.expect_alive();
}

fn pubrec_of_an_unknown_identifier_is_answered_not_found(at: Target) {
    // v5 [MQTT-3.6.2-1]
    let mut client = at.v5();
    client.send(&ack(PUBREC, 78));
    assert_eq!(client.expect_reply(PUBREL, 78).reason, 0x92);
    client.expect_alive();
}

fn acknowledgements_come_in_the_order_of_the_messages(at: Target) {
    // v5 [MQTT-4.6.0-2] to [MQTT-4.6.0-4], which the server keeps as well.
    let topic = unique("t");
    let mut client = at.v5();
    let ids = [30u16, 4, 99, 1, 12];
    let publishes: Vec<u8> = ids.iter().flat_map(|id| Publish::new(&topic, "x").qos1(*id).bytes()).collect();
    client.send(&publishes);
    for id in ids {
        client.expect_success(PUBACK, id);
    }
    let publishes: Vec<u8> = ids.iter().flat_map(|id| Publish::new(&topic, "x").qos2(*id).bytes()).collect();
    client.send(&publishes);
    for id in ids {
        client.expect_success(PUBREC, id);
    }
    let releases: Vec<u8> = ids.iter().flat_map(|id| ack(PUBREL, *id)).collect();
    client.send(&releases);
    for id in ids {
        client.expect_success(PUBCOMP, id);
    }
}

fn delivered_qos_is_the_lower_of_both(at: Target) {
    // v5 [MQTT-3.8.4-8]
    let mut publisher = at.v5();
    for granted in 0..=2 {
        let topic = unique("t");
        let mut subscriber = at.v5();
        assert_eq!(subscriber.subscribe(&topic, granted), granted);
        for published in 0..=2 {
            publisher.publish(&topic, "x", published);
            assert_eq!(subscriber.take().qos, published.min(granted));
        }
    }
}

fn first_delivery_has_dup_off_even_if_it_came_with_dup(at: Target) {
    // v5 [MQTT-3.3.1-3], [MQTT-4.3.2-2], [MQTT-4.3.3-2]
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 2);
    publisher.send(&Publish::new(&topic, "one").qos1(1).dup().bytes());
    publisher.expect_success(PUBACK, 1);
    let one = subscriber.take();
    assert_eq!((one.text(), one.dup, one.qos), ("one", false, 1));
    publisher.send(&Publish::new(&topic, "two").qos2(2).dup().bytes());
    publisher.expect_success(PUBREC, 2);
    publisher.send(&ack(PUBREL, 2));
    publisher.expect_success(PUBCOMP, 2);
    let two = subscriber.take();
    assert_eq!((two.text(), two.dup, two.qos), ("two", false, 2));
}

fn outgoing_identifiers_are_not_used_twice_at_a_time(at: Target) {
    // v5 [MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT-4.3.3-1], [MQTT-4.3.2-3], [MQTT-4.3.3-3]
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 2);
    for number in 0..20 {
        publisher.publish(&topic, "x", 1 + number % 2);
    }
    let mut ids: Vec<u16> = (0..20).map(|_| subscriber.expect_publish().id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20, "twenty flows are open, each with an identifier of its own");
}

fn outgoing_qos2_completes_with_its_identifier(at: Target) {
    // v5 [MQTT-4.3.3-4], [MQTT-4.3.3-5], [MQTT-4.3.3-6], [MQTT-4.4.0-1]: nothing is sent again while connected.
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 2);
    publisher.publish(&topic, "x", 2);
    let message = subscriber.expect_publish();
    subscriber.expect_silence_from(&mut publisher);
    subscriber.send(&ack(PUBREC, message.id));
    subscriber.expect(&ack(PUBREL, message.id));
    subscriber.expect_silence_from(&mut publisher);
    subscriber.send(&ack(PUBCOMP, message.id));
    subscriber.expect_silence_from(&mut publisher);
}

fn refused_delivery_counts_as_acknowledged(at: Target) {
    // v5 [MQTT-4.4.0-2]: an error in PUBACK or PUBREC ends the flow, and nothing is sent again, on a new connection either.
    let (topic, id) = (unique("t"), unique("s"));
    let stored = bytes::Connect::stored(&id);
    let (mut subscriber, mut publisher) = (at.connect(&stored), at.v5());
    subscriber.subscribe(&topic, 2);
    publisher.publish(&topic, "one", 1);
    publisher.publish(&topic, "two", 2);
    let one = subscriber.expect_message("one");
    let two = subscriber.expect_message("two");
    subscriber.send(&ack_reason(PUBACK, one.id, 0x83));
    subscriber.send(&ack_reason(PUBREC, two.id, 0x97));
    subscriber.expect_silence_from(&mut publisher);
    subscriber.leave();
    let mut subscriber = at.connect(&stored);
    subscriber.expect_silence_from(&mut publisher);
    subscriber.leave();
}

fn properties_are_forwarded_unaltered_and_in_order(at: Target) {
    // v5 [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-18], [MQTT-3.3.2-20]
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 0);
    let publish = Publish::new(&topic, "täxt")
        .with(p::pair("b", "1"))
        .with(p::byte(p::PAYLOAD_FORMAT, 1))
        .with(p::pair("a", "2"))
        .with(p::text(p::CONTENT_TYPE, "text/plain; ü"))
        .with(p::text(p::RESPONSE_TOPIC, "answer/ß"))
        .with(p::pair("a", "1"))
        .with(p::text(p::CORRELATION_DATA, [0, 255, 0, 1]))
        .with(p::pair("", "\u{FEFF}"));
    publisher.publish_as(publish, 0);
    let properties = subscriber.take().properties;
    assert_eq!(properties.number(p::PAYLOAD_FORMAT), Some(1));
    assert_eq!(properties.text(p::CONTENT_TYPE), Some("text/plain; ü"));
    assert_eq!(properties.text(p::RESPONSE_TOPIC), Some("answer/ß"));
    assert_eq!(properties.data(p::CORRELATION_DATA), Some(&[0, 255, 0, 1][..]));
    // v5 [MQTT-1.5.4-3]: the byte order mark is not stripped.
    assert_eq!(properties.pairs(), [("b", "1"), ("a", "2"), ("a", "1"), ("", "\u{FEFF}")]);
    assert_eq!(properties.0.len(), 8, "nothing is added: {properties:?}");
    publisher.publish_as(Publish::new(&topic, "x").with(p::byte(p::PAYLOAD_FORMAT, 0)), 1);
    assert_eq!(subscriber.take().properties.number(p::PAYLOAD_FORMAT), Some(0));
}

fn payload_is_forwarded_unaltered(at: Target) {
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 1);
    for size in [1usize, 127, 128, 16_383, 16_384, 200_000] {
        let payload: Vec<u8> = (0..size).map(|place| u8::try_from(place % 251).unwrap()).collect();
        publisher.publish_as(Publish::new(&topic, &payload), 1);
        assert!(subscriber.take().payload == payload, "{size} bytes");
    }
}

fn empty_payload_is_a_message(at: Target) {
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 1);
    publisher.publish(&topic, "", 1);
    assert_eq!(subscriber.take().text(), "");
}

fn message_expiry_is_counted_down(at: Target) {
    // v5 [MQTT-3.3.2-6]
    let (topic, id) = (unique("t"), unique("s"));
    let stored = bytes::Connect::stored(&id);
    let mut subscriber = at.connect(&stored);
    subscriber.subscribe(&topic, 1);
    let mut publisher = at.v5();
    publisher.publish_as(Publish::new(&topic, "x").with(p::four(p::MESSAGE_EXPIRY, 100)), 1);
    let left = subscriber.take().properties.number(p::MESSAGE_EXPIRY).unwrap();
    assert!((90..=100).contains(&left), "{left} s left at once");
    subscriber.leave();
    publisher.publish_as(Publish::new(&topic, "x").with(p::four(p::MESSAGE_EXPIRY, 100)), 1);
    let_pass(Duration::from_millis(2_100));
    let mut subscriber = at.connect(&stored);
    let left = subscriber.take().properties.number(p::MESSAGE_EXPIRY).unwrap();
    assert!((80..=98).contains(&left), "{left} s left after two seconds");
    subscriber.leave();
}

fn expired_message_is_not_delivered(at: Target) {
    // v5 [MQTT-3.3.2-5]: from the queue of a session that was away, and as a retained message.
    let (topic, id) = (unique("t"), unique("s"));
    let stored = bytes::Connect::stored(&id);
    let mut subscriber = at.connect(&stored);
    subscriber.subscribe(&topic, 1);
    subscriber.leave();
    let mut publisher = at.v5();
    publisher.publish_as(Publish::new(&topic, "late").retain().with(p::four(p::MESSAGE_EXPIRY, 1)), 1);
    publisher.publish_as(Publish::new(&topic, "stays"), 1);
    let_pass(Duration::from_millis(2_100));
    let mut subscriber = at.connect(&stored);
    assert_eq!(subscriber.take().text(), "stays");
    subscriber.expect_silence_from(&mut publisher);
    let mut late = at.v5();
    late.subscribe(&topic, 1);
    late.expect_silence_from(&mut publisher);
    subscriber.leave();
}

fn messages_of_one_publisher_stay_in_order(at: Target) {
    // v5 [MQTT-4.6.0-5], [MQTT-4.6.0-6]
    for qos in 0..=2 {
        let topic = unique("t");
        let (mut subscriber, mut publisher) = (at.v5(), at.v5());
        subscriber.subscribe(&topic, 2);
        for batch in 0..10u16 {
            for number in 0..10 {
                let publish = Publish::new(&topic, format!("{}", batch * 10 + number));
                let id = number + 1;
                publisher.send(&match qos {
                    0 => publish.bytes(),
                    1 => publish.qos1(id).bytes(),
                    _ => publish.qos2(id).bytes(),
                });
            }
            for id in 1..=10 {
                match qos {
                    0 => {}
                    1 => publisher.expect_success(PUBACK, id),
                    _ => publisher.expect_success(PUBREC, id),
                }
            }
            if qos == 2 {
                for id in 1..=10 {
                    publisher.send(&ack(PUBREL, id));
                    publisher.expect_success(PUBCOMP, id);
                }
            }
        }
        let mut messages = Vec::new();
        while messages.len() < 100 {
            let packet = subscriber.read_packet();
            if packet.first == PUBREL {
                let release = packet.reply(PUBREL, 5);
                subscriber.send(&ack(PUBCOMP, release.id));
                continue;
            }
            let message = packet.publish(5);
            match qos {
                0 => {}
                1 => subscriber.send(&ack(PUBACK, message.id)),
                _ => subscriber.send(&ack(PUBREC, message.id)),
            }
            messages.push(message.text().to_owned());
        }
        let wanted: Vec<_> = (0..100).map(|number| format!("{number}")).collect();
        assert_eq!(messages, wanted, "QoS {qos}");
    }
}

fn topic_name_is_matched_without_normalization(at: Target) {
    // v5 [MQTT-4.7.3-4], [MQTT-3.3.2-3], [MQTT-1.5.4-3]: case, spaces, composed letters, empty levels and U+FEFF all count.
    let root = unique("t");
    let names = [
        "a/b",
        "A/b",
        "a/b/",
        "/a/b",
        "a//b",
        "a/b ",
        "caf\u{e9}",
        "cafe\u{301}",
        "\u{feff}a/b",
        "a/\u{fffd}",
    ];
    let mut publisher = at.v5();
    for name in names {
        let mut subscriber = at.v5();
        subscriber.subscribe(&format!("{root}/{name}"), 0);
        for other in names {
            publisher.publish(&format!("{root}/{other}"), other, 0);
        }
        assert_eq!(subscriber.expect_message(name).topic, format!("{root}/{name}"));
        subscriber.expect_silence_from(&mut publisher);
    }
}

fn clients_do_not_exchange_messages_by_dollar_topics(at: Target) {
    // Section 4.7.2 asks the server to prevent it.
    let name = unique("");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&format!("$own/{name}"), 1);
    publisher.send(&Publish::new(format!("$own/{name}"), "x").qos1(1).bytes());
    assert_eq!(publisher.expect_reply(PUBACK, 1).reason, 0x87);
    publisher.send(&Publish::new(format!("$own/{name}"), "x").bytes());
    subscriber.expect_silence_from(&mut publisher);
}

fn a_message_reaches_every_matching_session(at: Target) {
    // v5 [MQTT-4.5.0-1]: connected or stored.
    let (topic, id) = (unique("t"), unique("s"));
    let stored = bytes::Connect::stored(&id);
    let mut away = at.connect(&stored);
    away.subscribe(&format!("{topic}/#"), 1);
    away.leave();
    let mut here = at.v5();
    here.subscribe(&format!("{topic}/+"), 1);
    let mut publisher = at.v5();
    publisher.publish(&format!("{topic}/x"), "hello", 1);
    assert_eq!(here.take().text(), "hello");
    assert_eq!(at.connect(&stored).take().text(), "hello");
    at.connect(&bytes::Connect::v5(&id)).leave();
}
