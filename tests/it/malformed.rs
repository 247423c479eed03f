//! Tables of packets that break a rule, each with the Reason Code that belongs to it, then a close.

use crate::harness::bytes::{self, Connect, Publish, field, packet, varint};
use crate::harness::property::{self as p, block};
use crate::harness::{PROMPT, Target, unique};

over_every_transport!(
    malformed_connect_is_refused,
    malformed_packet_closes_with_its_reason,
    fixed_header_flags_are_checked,
    ill_formed_strings_are_malformed,
    bad_properties_are_refused,
    truncated_packets_are_malformed,
    remaining_length_of_five_bytes_is_malformed,
    malformed_packets_of_v3_are_closed_without_a_word,
    the_offence_of_one_client_disturbs_no_other,
);

const MALFORMED: u8 = 0x81;
const PROTOCOL: u8 = 0x82;

/// Strings that v5 [MQTT-1.5.4-1] and [MQTT-1.5.4-2] forbid: surrogates, overlong forms, beyond U+10FFFF, U+0000, cut short.
const ILL_FORMED: &[&[u8]] = &[
    b"\xED\xA0\x80",
    b"\xED\xBF\xBF",
    b"\xC0\xAF",
    b"\xE0\x80\x80",
    b"\xF4\x90\x80\x80",
    b"\xFF",
    b"\x80",
    b"a\x00b",
    b"ab\xE4\xB8",
];

/// CONNECT of MQTT 5 from flags, properties and payload.
fn connect(flags: u8, properties: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    packet(0x10, &[&field("MQTT"), &[5, flags, 0, 0], &block(properties), &payload.concat()])
}

fn malformed_connect_is_refused(at: Target) {
    let id = field("mal");
    let two = |a: Vec<u8>, b: Vec<u8>| [a, b].concat();
    // v5 [MQTT-3.1.4-1]: each is refused by CONNACK with its code, then closed ([MQTT-3.2.2-7]).
    let cases: &[(&str, Vec<u8>, u8)] = &[
        ("reserved flag [MQTT-3.1.2-3]", connect(0x03, &[], &[&id]), MALFORMED),
        ("Will QoS 3 [MQTT-3.1.2-12]", connect(0x1E, &[], &[&id, &[0], &field("t"), &field("")]), MALFORMED),
        ("Will QoS without Will [MQTT-3.1.2-11]", connect(0x0A, &[], &[&id]), MALFORMED),
        ("Will Retain without Will [MQTT-3.1.2-13]", connect(0x22, &[], &[&id]), MALFORMED),
        ("no Client Identifier [MQTT-3.1.3-3]", connect(0x02, &[], &[]), MALFORMED),
        ("Will Flag without Will [MQTT-3.1.2-9]", connect(0x06, &[], &[&id]), MALFORMED),
        ("Will without payload [MQTT-3.1.2-9]", connect(0x06, &[], &[&id, &[0], &field("t")]), MALFORMED),
        ("User Name missing [MQTT-3.1.2-17]", connect(0x82, &[], &[&id]), MALFORMED),
        ("User Name unannounced [MQTT-3.1.2-16]", connect(0x02, &[], &[&id, &field("u")]), MALFORMED),
        ("Password missing [MQTT-3.1.2-19]", connect(0xC2, &[], &[&id, &field("u")]), MALFORMED),
        (
            "Password unannounced [MQTT-3.1.2-18]",
            connect(0x82, &[], &[&id, &field("u"), &field("p")]),
            MALFORMED,
        ),
        (
            "flags of the fixed header [MQTT-2.1.3-1]",
            packet(0x11, &[&Connect::v5("mal").bytes()[2..]]),
            MALFORMED,
        ),
        ("no Property Length [MQTT-2.2.2-1]", packet(0x10, &[&field("MQTT"), &[5, 2, 0, 0]]), MALFORMED),
        ("Property Length past the end", packet(0x10, &[&field("MQTT"), &[5, 2, 0, 0, 9], &id]), MALFORMED),
        ("wildcard in the Will Topic", connect(0x06, &[], &[&id, &[0], &field("a/#"), &field("")]), 0x90),
        ("empty Will Topic [MQTT-4.7.3-1]", connect(0x06, &[], &[&id, &[0], &field(""), &field("")]), 0x90),
        ("Receive Maximum 0", connect(2, &p::two(p::RECEIVE_MAXIMUM, 0), &[&id]), PROTOCOL),
        ("Maximum Packet Size 0", connect(2, &p::four(p::MAXIMUM_PACKET_SIZE, 0), &[&id]), PROTOCOL),
        ("Request Problem Information 2", connect(2, &p::byte(p::REQUEST_PROBLEM, 2), &[&id]), PROTOCOL),
        ("Request Response Information 2", connect(2, &p::byte(p::REQUEST_RESPONSE, 2), &[&id]), PROTOCOL),
        ("Authentication Data alone", connect(2, &p::text(p::AUTH_DATA, "x"), &[&id]), PROTOCOL),
        (
            "Session Expiry Interval twice",
            connect(2, &two(p::four(p::SESSION_EXPIRY, 1), p::four(p::SESSION_EXPIRY, 1)), &[&id]),
            PROTOCOL,
        ),
        ("a property of PUBLISH", connect(2, &p::two(p::TOPIC_ALIAS, 1), &[&id]), MALFORMED),
        ("an unknown property", connect(2, &[0x7F, 0], &[&id]), MALFORMED),
        (
            "Payload Format Indicator 2 of the Will",
            connect(6, &[], &[&id, &block(&p::byte(p::PAYLOAD_FORMAT, 2)), &field("t"), &field("")]),
            PROTOCOL,
        ),
    ];
    for (what, bytes, code) in cases {
        let connack = at.refused(bytes, 5);
        assert_eq!(connack.code, *code, "{what}: {:#04x}", connack.code);
    }
}

/// Sends the bytes after a CONNECT of MQTT 5 and wants DISCONNECT with this Reason Code, then the close.
fn provoke(at: Target, what: &str, bytes: &[u8], reason: u8) {
    let mut client = at.v5();
    client.send(bytes);
    let disconnect = match client.poll(PROMPT) {
        Ok(packet) => packet.disconnect(),
        Err(closed) => panic!("{what}: no DISCONNECT within {PROMPT:?} (closed: {closed})"),
    };
    assert_eq!(disconnect.reason, reason, "{what}: {:#04x}", disconnect.reason);
    // v5 [MQTT-4.13.1-1], [MQTT-4.13.2-1], [MQTT-3.14.4-1], [MQTT-3.14.4-2]
    client.expect_close();
}

fn malformed_packet_closes_with_its_reason(at: Target) {
    let publish = |topic: &str| Publish::new(topic, "x");
    let option = |byte: u8| bytes::subscribe(1, &[], &[("a", byte)]);
    let cases: Vec<(&str, Vec<u8>, u8)> = vec![
        ("Control Packet type 0", vec![0x00, 0], MALFORMED),
        ("CONNACK from a client", vec![0x20, 3, 0, 0, 0], PROTOCOL),
        ("SUBACK from a client", vec![0x90, 4, 0, 1, 0, 0], PROTOCOL),
        ("UNSUBACK from a client", vec![0xB0, 4, 0, 1, 0, 0], PROTOCOL),
        ("PINGRESP from a client", vec![0xD0, 0], PROTOCOL),
        ("QoS 3 [MQTT-3.3.1-4]", vec![0x36, 7, 0, 1, b'a', 0, 1, 0, b'x'], MALFORMED),
        ("DUP at QoS 0 [MQTT-3.3.1-2]", publish("a").dup().bytes(), MALFORMED),
        ("PUBLISH with identifier 0 [MQTT-2.2.1-3]", publish("a").qos1(0).bytes(), PROTOCOL),
        ("SUBSCRIBE with identifier 0 [MQTT-2.2.1-3]", bytes::subscribe(0, &[], &[("a", 0)]), PROTOCOL),
        ("UNSUBSCRIBE with identifier 0 [MQTT-2.2.1-3]", bytes::unsubscribe(0, &["a"]), PROTOCOL),
        ("wildcard # in a Topic Name [MQTT-3.3.2-2]", publish("a/#").bytes(), 0x90),
        ("wildcard + in a Topic Name [MQTT-4.7.0-1]", publish("a/+/b").bytes(), 0x90),
        ("no Topic Name, no alias [MQTT-4.7.3-1]", publish("").bytes(), PROTOCOL),
        (
            "wildcard in a Response Topic [MQTT-3.3.2-14]",
            publish("a").with(p::text(p::RESPONSE_TOPIC, "b/+")).bytes(),
            PROTOCOL,
        ),
        (
            "Subscription Identifier from a client [MQTT-3.3.4-6]",
            publish("a").with(p::variable(p::SUBSCRIPTION_ID, 1)).bytes(),
            PROTOCOL,
        ),
        ("Topic Alias 0 [MQTT-3.3.2-8]", publish("a").with(p::two(p::TOPIC_ALIAS, 0)).bytes(), 0x94),
        ("SUBSCRIBE without filters [MQTT-3.8.3-2]", packet(0x82, &[&[0, 1, 0]]), PROTOCOL),
        ("UNSUBSCRIBE without filters [MQTT-3.10.3-2]", packet(0xA2, &[&[0, 1, 0]]), PROTOCOL),
        ("SUBSCRIBE without options", packet(0x82, &[&[0, 1, 0], &field("a")]), MALFORMED),
        ("reserved options bit 6 [MQTT-3.8.3-5]", option(0x40), MALFORMED),
        ("reserved options bit 7 [MQTT-3.8.3-5]", option(0x80), MALFORMED),
        ("subscription QoS 3", option(0x03), PROTOCOL),
        ("Retain Handling 3", option(0x30), PROTOCOL),
        (
            "Subscription Identifier 0",
            bytes::subscribe(1, &p::variable(p::SUBSCRIPTION_ID, 0), &[("a", 0)]),
            PROTOCOL,
        ),
        (
            "No Local on a Shared Subscription [MQTT-3.8.3-4]",
            bytes::subscribe(1, &[], &[("$share/g/a", 4)]),
            PROTOCOL,
        ),
        ("PUBACK without an identifier", vec![0x40, 0], MALFORMED),
        ("PUBACK with a code of SUBACK [MQTT-3.4.2-1]", bytes::ack_reason(0x40, 1, 0x01), PROTOCOL),
        ("PUBREC with a code of PUBREL [MQTT-3.5.2-1]", bytes::ack_reason(0x50, 1, 0x92), PROTOCOL),
        ("PUBREL with a code of PUBACK [MQTT-3.6.2-1]", bytes::ack_reason(0x62, 1, 0x10), PROTOCOL),
        ("PUBCOMP with a code of PUBACK [MQTT-3.7.2-1]", bytes::ack_reason(0x70, 1, 0x10), PROTOCOL),
        ("DISCONNECT with a code of CONNACK [MQTT-3.14.2-1]", bytes::disconnect(0x84, &[]), PROTOCOL),
        (
            "DISCONNECT with a Session Expiry Interval after none (section 3.14.2.2.2)",
            bytes::disconnect(0, &p::four(p::SESSION_EXPIRY, 10)),
            PROTOCOL,
        ),
        ("AUTH without a method [MQTT-4.12.0-7]", vec![0xF0, 0], PROTOCOL),
        (
            "AUTH where CONNECT named no method",
            bytes::auth(0x19, &p::text(p::AUTH_METHOD, "SCRAM-SHA-256")),
            PROTOCOL,
        ),
        (
            "AUTH with an unknown code [MQTT-3.15.2-1]",
            bytes::auth(0x42, &p::text(p::AUTH_METHOD, "X")),
            PROTOCOL,
        ),
        ("bytes behind PINGREQ", vec![0xC0, 1, 0], MALFORMED),
        ("bytes behind PUBACK", packet(0x40, &[&[0, 1, 0, 0, 9]]), MALFORMED),
        ("Remaining Length not minimal [MQTT-1.5.5-1]", vec![0xC0, 0x80, 0x00], MALFORMED),
        (
            "Property Length not minimal [MQTT-1.5.5-1]",
            packet(0x30, &[&field("a"), &[0x80, 0x00]]),
            MALFORMED,
        ),
    ];
    for (what, bytes, reason) in &cases {
        provoke(at, what, bytes, *reason);
    }
}

fn fixed_header_flags_are_checked(at: Target) {
    // v5 [MQTT-2.1.3-1], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1], [MQTT-3.14.1-1], [MQTT-3.15.1-1]
    let method = p::text(p::AUTH_METHOD, "X");
    let bodies: [(u8, u8, Vec<u8>); 9] = [
        (0x4, 0, vec![0, 1]),
        (0x5, 0, vec![0, 1]),
        (0x6, 2, vec![0, 1]),
        (0x7, 0, vec![0, 1]),
        (0x8, 2, bytes::subscribe(1, &[], &[("a", 0)])[2..].to_vec()),
        (0xA, 2, bytes::unsubscribe(1, &["a"])[2..].to_vec()),
        (0xC, 0, vec![]),
        (0xE, 0, vec![]),
        (0xF, 0, bytes::auth(0x18, &method)[2..].to_vec()),
    ];
    for (kind, right, body) in &bodies {
        for flags in [0u8, 1, 2, 4, 8, 15] {
            if flags != *right {
                let first = kind << 4 | flags;
                provoke(at, &format!("first byte {first:#04x}"), &packet(first, &[body]), MALFORMED);
            }
        }
    }
}

fn ill_formed_strings_are_malformed(at: Target) {
    for bad in ILL_FORMED {
        let what = format!("{bad:02x?}");
        let text = |id: u8| p::text(id, bad);
        let pair = [&[p::USER_PROPERTY][..], &field("k"), &field(bad)].concat();
        let filter = packet(0x82, &[&[0, 1, 0], &field(bad), &[0]]);
        let unsubscribe = packet(0xA2, &[&[0, 1, 0], &field(bad)]);
        // v5 [MQTT-3.3.2-1], [MQTT-3.3.2-13], [MQTT-3.3.2-19], [MQTT-1.5.7-1], [MQTT-3.8.3-1], [MQTT-3.10.3-1], [MQTT-4.7.3-2]
        provoke(at, &what, &Publish::new(bad, "x").bytes(), MALFORMED);
        provoke(at, &what, &Publish::new("a", "x").with(text(p::RESPONSE_TOPIC)).bytes(), MALFORMED);
        provoke(at, &what, &Publish::new("a", "x").with(text(p::CONTENT_TYPE)).bytes(), MALFORMED);
        provoke(at, &what, &Publish::new("a", "x").with(pair).bytes(), MALFORMED);
        provoke(at, &what, &filter, MALFORMED);
        provoke(at, &what, &unsubscribe, MALFORMED);
        provoke(at, &what, &bytes::disconnect(0, &text(p::REASON_STRING)), MALFORMED);
        // v5 [MQTT-3.1.3-4], [MQTT-3.1.3-11], [MQTT-3.1.3-12]
        let id = field("c");
        let will = connect(0x06, &[], &[&id, &[0], &field(bad), &field("")]);
        for bytes in [connect(2, &[], &[&field(bad)]), will, connect(0x82, &[], &[&id, &field(bad)])] {
            assert_eq!(at.refused(&bytes, 5).code, MALFORMED, "{what}");
        }
    }
}

fn bad_properties_are_refused(at: Target) {
    let topic = unique("t");
    let publish = |properties: &[u8]| packet(0x30, &[&field(&topic), &block(properties), b"x"]);
    let twice = |property: Vec<u8>| [property.clone(), property].concat();
    let cases: Vec<(&str, Vec<u8>, u8)> = vec![
        ("unknown identifier", publish(&[0x7F, 1]), MALFORMED),
        ("identifier of two bytes", publish(&[0x80, 0x01, 0]), MALFORMED),
        ("of CONNECT in PUBLISH", publish(&p::four(p::SESSION_EXPIRY, 1)), MALFORMED),
        ("value cut short", publish(&[p::MESSAGE_EXPIRY, 0, 0]), MALFORMED),
        ("string cut short", publish(&[p::CONTENT_TYPE, 0, 9, b'x']), MALFORMED),
        ("Payload Format Indicator 2", publish(&p::byte(p::PAYLOAD_FORMAT, 2)), PROTOCOL),
        ("Payload Format Indicator twice", publish(&twice(p::byte(p::PAYLOAD_FORMAT, 0))), PROTOCOL),
        ("Message Expiry Interval twice", publish(&twice(p::four(p::MESSAGE_EXPIRY, 9))), PROTOCOL),
        ("Topic Alias twice", publish(&twice(p::two(p::TOPIC_ALIAS, 1))), PROTOCOL),
        ("Response Topic twice", publish(&twice(p::text(p::RESPONSE_TOPIC, "r"))), PROTOCOL),
        ("Correlation Data twice", publish(&twice(p::text(p::CORRELATION_DATA, "r"))), PROTOCOL),
        ("Content Type twice", publish(&twice(p::text(p::CONTENT_TYPE, "r"))), PROTOCOL),
        (
            "Subscription Identifier twice",
            bytes::subscribe(1, &twice(p::variable(p::SUBSCRIPTION_ID, 1)), &[("a", 0)]),
            PROTOCOL,
        ),
        (
            "of PUBLISH in SUBSCRIBE",
            bytes::subscribe(1, &p::text(p::CONTENT_TYPE, "x"), &[("a", 0)]),
            MALFORMED,
        ),
        (
            "Reason String twice in PUBACK",
            packet(0x40, &[&[0, 1, 0], &block(&twice(p::text(p::REASON_STRING, "r")))]),
            PROTOCOL,
        ),
        (
            "Session Expiry Interval twice in DISCONNECT",
            bytes::disconnect(0, &twice(p::four(p::SESSION_EXPIRY, 0))),
            PROTOCOL,
        ),
    ];
    for (what, bytes, reason) in &cases {
        provoke(at, what, bytes, *reason);
    }
}

fn truncated_packets_are_malformed(at: Target) {
    // Every shorter body of these packets breaks off inside of a field.
    let whole: [Vec<u8>; 4] = [
        Publish::new("ab", "").qos1(5).with(p::text(p::CONTENT_TYPE, "x")).bytes(),
        bytes::subscribe(5, &p::variable(p::SUBSCRIPTION_ID, 200), &[("ab", 0)]),
        bytes::unsubscribe(5, &["ab"]),
        bytes::disconnect(4, &p::text(p::REASON_STRING, "xy")),
    ];
    for packet_bytes in &whole {
        let body = &packet_bytes[2..];
        for length in 0..body.len() {
            let cut = packet(packet_bytes[0], &[&body[..length]]);
            let mut client = at.v5();
            client.send(&cut);
            // Left out from the end, the Reason Code and properties of DISCONNECT are legal, and so it closes at once.
            match client.poll(PROMPT) {
                Ok(packet) => {
                    let reason = packet.disconnect().reason;
                    let empty = [MALFORMED, PROTOCOL].contains(&reason);
                    assert!(empty, "{cut:02x?} closes with {reason:#04x}");
                    client.expect_close();
                }
                Err(closed) => assert!(closed && packet_bytes[0] == 0xE0 && length < 2, "{cut:02x?}"),
            }
        }
    }
}

fn remaining_length_of_five_bytes_is_malformed(at: Target) {
    // v5 [MQTT-1.5.5-1] and section 1.5.5: four bytes at most.
    provoke(at, "after CONNECT", &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], MALFORMED);
    // As the first packet: no version can be told, so that there is no CONNACK, but it is seen at its fourth byte.
    for first in [
        &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x01][..],
        &[0x10, 0x80, 0x80, 0x80, 0x80, 0x01],
        &[0x10, 0xFF, 0xFF, 0xFF, 0xFF],
    ] {
        let mut client = at.open();
        client.send(first);
        client.expect_close();
    }
    assert_eq!(varint(268_435_455), [0xFF, 0xFF, 0xFF, 0x7F]);
}

fn malformed_packets_of_v3_are_closed_without_a_word(at: Target) {
    // v3.1.1 [MQTT-4.8.0-1]: there is no DISCONNECT from the server before MQTT 5.
    let cases: [Vec<u8>; 13] = [
        vec![0x36, 6, 0, 1, b'a', 0, 1, b'x'],
        Publish::new("a/#", "x").v3().bytes(),
        Publish::new("", "x").v3().bytes(),
        Publish::new("a", "x").v3().qos1(0).bytes(),
        Publish::new(b"\xFF", "x").v3().bytes(),
        bytes::subscribe_v3(1, &[]),
        bytes::subscribe_v3(1, &[("a", 3)]),
        bytes::subscribe_v3(1, &[("a", 4)]),
        bytes::subscribe_v3(0, &[("a", 0)]),
        bytes::unsubscribe_v3(1, &[]),
        packet(0x80, &[&bytes::subscribe_v3(1, &[("a", 0)])[2..]]),
        vec![0x40, 3, 0, 1, 0],
        vec![0xF0, 0],
    ];
    for bytes in &cases {
        let mut client = at.v4();
        client.send(bytes);
        client.expect_close();
    }
    let mut client = at.v4();
    client.send(&Connect::v4(&unique("c")).bytes());
    client.expect_close();
}

fn the_offence_of_one_client_disturbs_no_other(at: Target) {
    let topic = unique("t");
    let mut witness = at.v5();
    witness.subscribe(&topic, 1);
    let mut publisher = at.v5();
    for number in 0..20 {
        let mut offender = at.v5();
        offender.send(&[0x36, 7, 0, 1, b'a', 0, 1, 0, b'x']);
        publisher.publish(&topic, &number.to_string(), 1);
        assert_eq!(witness.take().text(), number.to_string());
        offender.expect_disconnect(MALFORMED);
    }
}
