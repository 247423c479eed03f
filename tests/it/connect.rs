//! CONNECT and CONNACK: what is accepted, what is refused and with which code.

use crate::harness::bytes::{self, Connect, Will, field, packet, subscribe};
use crate::harness::property::{self as p, block};
use crate::harness::{Target, unique};

over_every_transport!(
    connect_is_answered_by_one_connack,
    connack_names_nothing_that_is_not_offered,
    any_legal_client_id_of_23_characters_is_accepted,
    client_id_may_be_any_utf8,
    byte_order_mark_in_a_client_id_is_kept,
    empty_client_id_is_assigned_one_that_is_unique,
    assigned_client_id_names_the_session,
    first_packet_must_be_connect,
    second_connect_is_a_protocol_error,
    unknown_protocol_name_is_closed,
    unknown_protocol_level_is_refused_as_unsupported,
    a_client_that_takes_no_connack_is_closed_and_one_that_takes_too_little_is_told,
    the_largest_will_and_a_payload_of_a_mebibyte_are_accepted,
    refusal_processes_nothing_that_follows,
    password_without_user_name_is_allowed_in_v5,
    every_field_of_connect_arrives_in_order,
    packets_may_follow_connect_without_waiting,
    connect_may_come_in_single_bytes,
    request_response_information_zero_returns_none,
);

fn connect_is_answered_by_one_connack(at: Target) {
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    // v5 [MQTT-3.1.4-5], [MQTT-3.2.0-1]: success comes before anything else; [MQTT-3.2.2-2]: Clean Start, no session.
    assert!(!connack.session_present);
    // v5 [MQTT-3.2.0-2]: there is no second one.
    client.expect_alive();
    client.leave();
}

fn connack_names_nothing_that_is_not_offered(at: Target) {
    let (client, connack) = at.connect_and_see(&Connect::v5(&unique("c")));
    // Maximum QoS is only sent to deny QoS 2 (v5 [MQTT-3.2.2-9]), and the rest of what is offered is the default of 3.2.2.3.
    assert!(!connack.properties.has(p::MAXIMUM_QOS));
    assert_ne!(connack.properties.number(p::RETAIN_AVAILABLE), Some(0));
    assert!(!connack.properties.has(p::ASSIGNED_CLIENT_ID));
    // v5 [MQTT-4.12.0-6]: no method was named.
    assert!(!connack.properties.has(p::AUTH_METHOD));
    client.leave();
}

fn any_legal_client_id_of_23_characters_is_accepted(at: Target) {
    // v5 [MQTT-3.1.3-5]; the alphabet comes in three pieces of 1 to 23 characters.
    for id in ["0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ", "z"] {
        let tail = unique("");
        let keep = 23usize.saturating_sub(tail.len()).min(id.len());
        let id = if id.len() == 1 { id.to_owned() } else { format!("{}{tail}", &id[..keep]) };
        at.connect(&Connect::v5(&id)).leave();
    }
}

fn client_id_may_be_any_utf8(at: Target) {
    // v5 [MQTT-3.1.3-4]
    let id = format!("{}/ + # $ Ünï-中-🚀", unique("u"));
    at.connect(&Connect::v5(&id)).leave();
}

fn byte_order_mark_in_a_client_id_is_kept(at: Target) {
    // v5 [MQTT-1.5.4-3]: with and without U+FEFF are two identifiers, so neither takes over the other.
    let id = unique("b");
    let mut plain = at.connect(&Connect::v5(&id));
    let mut marked = at.connect(&Connect::v5(&format!("\u{FEFF}{id}")));
    marked.expect_alive();
    plain.expect_alive();
}

fn empty_client_id_is_assigned_one_that_is_unique(at: Target) {
    // v5 [MQTT-3.1.3-6], [MQTT-3.1.3-7], [MQTT-3.2.2-16]
    let (mut first, one) = at.connect_and_see(&Connect::v5(""));
    let (mut second, other) = at.connect_and_see(&Connect::v5(""));
    let one = one.properties.text(p::ASSIGNED_CLIENT_ID).expect("an assigned identifier").to_owned();
    let other = other.properties.text(p::ASSIGNED_CLIENT_ID).expect("an assigned identifier").to_owned();
    assert!(!one.is_empty());
    assert_ne!(one, other);
    first.expect_alive();
    second.expect_alive();
}

fn assigned_client_id_names_the_session(at: Target) {
    // v5 [MQTT-3.1.3-7], [MQTT-3.1.3-2]: the connection is processed as if the client had sent that identifier.
    let anonymous = Connect::stored("");
    let (client, connack) = at.connect_and_see(&anonymous);
    assert!(!connack.session_present);
    let id = connack.properties.text(p::ASSIGNED_CLIENT_ID).unwrap().to_owned();
    client.leave();
    let (client, connack) = at.connect_and_see(&Connect::stored(&id));
    assert!(connack.session_present, "the session of the assigned identifier is there");
    client.leave();
    at.connect(&Connect::v5(&id)).leave();
}

fn first_packet_must_be_connect(at: Target) {
    // v5 [MQTT-3.1.0-1]; [MQTT-3.14.0-1]: no DISCONNECT before a CONNACK.
    let early: [&[u8]; 5] = [
        bytes::PINGREQ,
        bytes::DISCONNECT,
        &subscribe(1, &[], &[("a", 0)]),
        &bytes::Publish::new("a", "b").bytes(),
        &bytes::auth(0x18, &p::text(p::AUTH_METHOD, "X")),
    ];
    for bytes in early {
        let mut client = at.open();
        client.send(bytes);
        client.expect_close();
    }
}

fn second_connect_is_a_protocol_error(at: Target) {
    // v5 [MQTT-3.1.0-2]
    let id = unique("c");
    let mut client = at.connect(&Connect::v5(&id));
    client.send(&Connect::v5(&id).bytes());
    client.expect_disconnect(0x82);
}

fn unknown_protocol_name_is_closed(at: Target) {
    // v5 [MQTT-3.1.2-1]: CONNACK 0x84 may be sent, the close must follow. By an unknown name no version can be told.
    for name in ["mqtt", "MQTT5", "HTTP", ""] {
        let mut client = at.open();
        client.send(&packet(0x10, &[&field(name), &[5, 2, 0, 0, 0], &field("c")]));
        client.expect_close();
    }
}

fn unknown_protocol_level_is_refused_as_unsupported(at: Target) {
    // v5 [MQTT-3.1.2-2] with 0x84; levels below 5 get the return code of 3.1.1 (section 3.1.2.2 there).
    let connect = |level: u8| packet(0x10, &[&field("MQTT"), &[level, 2, 0, 0], &[0], &field("c")]);
    for level in [6, 127] {
        assert_eq!(at.refused(&connect(level), 5).code, 0x84, "level {level}");
    }
    for level in [0, 1] {
        let mut client = at.open();
        client.send(&connect(level));
        client.expect(&[0x20, 2, 0, 1]);
        client.expect_close();
    }
}

fn a_client_that_takes_no_connack_is_closed_and_one_that_takes_too_little_is_told(at: Target) {
    // v5 [MQTT-3.1.2-24]: nothing over the client's Maximum Packet Size is sent. A CONNACK has five bytes at least, one that
    // accepts has more.
    let id = unique("s");
    at.connect(&Connect::stored(&id)).leave();
    let small = |bytes| Connect::stored(&id).clean().with(p::four(p::MAXIMUM_PACKET_SIZE, bytes)).bytes();
    for bytes in [1, 2, 4] {
        let mut client = at.open();
        client.send(&small(bytes));
        client.expect_close();
    }
    for bytes in [5, 10] {
        assert_eq!(at.refused(&small(bytes), 5).code, 0x95, "{bytes}");
    }
    let (client, connack) = at.connect_and_see(&Connect::stored(&id));
    assert!(connack.session_present, "who was refused took nothing over");
    client.leave();
    at.connect(&Connect::v5(&id)).leave();
}

fn the_largest_will_and_a_payload_of_a_mebibyte_are_accepted(at: Target) {
    // v5 sections 1.5.6 and 3.1.3.4: a Will Payload has up to 65,535 bytes, and a topic as well.
    let (topic, long) = (unique("t"), "w".repeat(65_535));
    let will = Will::new(&format!("{}/{}", topic, "x".repeat(65_000)), &long);
    let mut witness = at.v5();
    witness.subscribe(&format!("{topic}/#"), 1);
    at.connect(&Connect::v5(&unique("c")).will(will)).vanish();
    assert_eq!(witness.expect_publish().payload.len(), long.len());
    let payload = "p".repeat(1 << 20);
    at.v5().publish(&format!("{topic}/large"), &payload, 1);
    assert_eq!(witness.take().payload.len(), payload.len());
}

fn refusal_processes_nothing_that_follows(at: Target) {
    // v5 [MQTT-3.1.4-6], [MQTT-3.2.2-7]: the PUBLISH behind a refused CONNECT has no effect.
    let topic = unique("t");
    let mut witness = at.v5();
    witness.subscribe(&topic, 0);
    let mut client = at.open();
    let reserved = packet(0x10, &[&field("MQTT"), &[5, 3, 0, 0, 0], &field("c")]);
    client.send(&[reserved, bytes::Publish::new(&topic, "no").bytes()].concat());
    assert_eq!(client.expect_connack().code, 0x81);
    client.expect_close();
    let mut publisher = at.v5();
    witness.expect_silence_from(&mut publisher);
}

fn password_without_user_name_is_allowed_in_v5(at: Target) {
    // v5 [MQTT-3.1.2-16], [MQTT-3.1.2-18], [MQTT-3.1.2-19]: the flags alone say what is there. Credentials are not asked
    // for here, so a password by itself may be judged but must parse: anything but 0x81 and 0x82.
    let mut client = at.open();
    client.send(&Connect::v5(&unique("c")).password_only("secret").bytes());
    let connack = client.expect_connack();
    assert!(![0x81, 0x82].contains(&connack.code), "{connack:?}");
}

fn every_field_of_connect_arrives_in_order(at: Target) {
    // v5 [MQTT-3.1.3-1], [MQTT-3.1.3-3], [MQTT-3.1.2-9]: Client Identifier, Will Properties, Will Topic, Will Payload.
    let (id, topic) = (unique("c"), unique("t"));
    let mut witness = at.v5();
    witness.subscribe(&topic, 0);
    let mut body = field("MQTT");
    body.extend([5, 0x06, 0, 0]);
    body.extend(block(&p::four(p::SESSION_EXPIRY, 0)));
    body.extend(field(&id));
    body.extend(block(&p::text(p::CONTENT_TYPE, "text/x")));
    body.extend(field(&topic));
    body.extend(field("the will"));
    let mut client = at.open();
    client.send(&packet(0x10, &[&body]));
    assert_eq!(client.expect_connack().code, 0);
    client.vanish();
    let will = witness.expect_message("the will");
    assert_eq!(will.properties.text(p::CONTENT_TYPE), Some("text/x"));
    assert_eq!(will.topic, topic);
}

fn packets_may_follow_connect_without_waiting(at: Target) {
    // v5 section 3.1.4 allows it; nothing is answered before CONNACK (v5 [MQTT-3.2.0-1]).
    let topic = unique("t");
    let mut client = at.open();
    client.send(
        &[
            Connect::v5(&unique("c")).bytes(),
            subscribe(7, &[], &[(&topic, 0)]),
            bytes::Publish::new(&topic, "x").bytes(),
        ]
        .concat(),
    );
    assert_eq!(client.expect_connack().code, 0);
    client.expect(&[0x90, 4, 0, 7, 0, 0]);
    client.expect_message("x");
}

fn connect_may_come_in_single_bytes(at: Target) {
    // v5 [MQTT-4.2-1]: a stream has no packet boundaries.
    let connect = Connect::v5(&unique("c")).will(Will::new("w", "x")).with(p::pair("k", "v")).bytes();
    let mut client = at.open();
    for byte in &connect {
        client.send(&[*byte]);
    }
    assert_eq!(client.expect_connack().code, 0);
    for byte in subscribe(9, &[], &[("a/b", 1)]) {
        client.send(&[byte]);
    }
    client.expect(&[0x90, 4, 0, 9, 0, 1]);
    client.leave();
}

fn request_response_information_zero_returns_none(at: Target) {
    // v5 [MQTT-3.1.2-28]; absent means 0.
    let none = Connect::v5(&unique("c"));
    for connect in [none.clone(), none.with(p::byte(p::REQUEST_RESPONSE, 0))] {
        let (client, connack) = at.connect_and_see(&connect);
        assert!(!connack.properties.has(p::RESPONSE_INFORMATION));
        client.leave();
    }
}
