//! Keep Alive, PINGREQ and how connections end.

use std::time::{Duration, Instant};

use crate::harness::bytes::{self, Connect, PINGREQ, PINGRESP, Publish};
use crate::harness::property as p;
use crate::harness::{DEADLINE, Target, unique};

over_every_transport!(
    pingreq_is_answered,
    silence_of_one_and_a_half_keep_alives_ends_the_connection,
    any_packet_keeps_the_connection_alive,
    keep_alive_zero_never_ends_the_connection,
    server_uses_the_keep_alive_of_the_client,
    normal_disconnect_closes_the_connection,
    nothing_is_processed_after_disconnect,
    every_reason_of_disconnect_is_accepted,
    half_a_packet_does_not_keep_the_connection_alive_for_ever,
);

fn pingreq_is_answered(at: Target) {
    // v5 [MQTT-3.12.4-1]
    let mut client = at.v5();
    for _ in 0..3 {
        client.send(PINGREQ);
        client.expect(PINGRESP);
    }
    client.send(&PINGREQ.repeat(50));
    for _ in 0..50 {
        client.expect(PINGRESP);
    }
}

fn silence_of_one_and_a_half_keep_alives_ends_the_connection(at: Target) {
    // v5 [MQTT-3.1.2-22]; the DISCONNECT that v5 allows carries 0x8D.
    for version in [4, 5] {
        let start = Instant::now();
        let mut client = at.connect(&Connect::new(version, &unique("c")).keep_alive(1));
        if version == 5 {
            client.expect_disconnect(0x8D);
        } else {
            client.expect_close_within(DEADLINE);
        }
        let passed = start.elapsed();
        assert!(passed >= Duration::from_millis(1_400), "closed after {passed:?}");
        assert!(passed < Duration::from_secs(10), "closed after {passed:?}");
    }
}

fn any_packet_keeps_the_connection_alive(at: Target) {
    // v5 [MQTT-3.1.2-22]: each Control Packet starts the time anew.
    let topic = unique("t");
    let mut client = at.connect(&Connect::v5(&unique("c")).keep_alive(4));
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_millis(7_500) {
        match round % 3 {
            0 => client.expect_alive(),
            1 => client.send(&Publish::new(&topic, "x").bytes()),
            _ => client.publish(&topic, "x", 1),
        }
        round += 1;
        // Waits by listening, so that a close would be seen at once.
        assert_eq!(client.poll(Duration::from_millis(900)), Err(false));
    }
    client.leave();
}

fn keep_alive_zero_never_ends_the_connection(at: Target) {
    let mut client = at.connect(&Connect::v5(&unique("c")).keep_alive(0));
    assert_eq!(client.poll(Duration::from_millis(2_500)), Err(false));
    client.expect_alive();
}

fn server_uses_the_keep_alive_of_the_client(at: Target) {
    // v5 [MQTT-3.2.2-22]: no Server Keep Alive in the answer means that the client's value holds.
    let start = Instant::now();
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("c")).keep_alive(2));
    assert!(!connack.properties.has(p::SERVER_KEEP_ALIVE));
    client.expect_disconnect(0x8D);
    let passed = start.elapsed();
    assert!(passed >= Duration::from_millis(2_900), "closed after {passed:?}");
}

fn normal_disconnect_closes_the_connection(at: Target) {
    // v5 [MQTT-3.14.4-2] binds the client to close; the server closes as well (section 3.14.4).
    for version in [3, 4, 5] {
        at.connect(&Connect::new(version, &unique("c"))).leave();
    }
}

fn nothing_is_processed_after_disconnect(at: Target) {
    // v5 [MQTT-3.14.4-1]
    let topic = unique("t");
    let mut witness = at.v5();
    witness.subscribe(&topic, 0);
    let mut client = at.v5();
    client.send(&[bytes::DISCONNECT, &Publish::new(&topic, "no").bytes()].concat());
    client.expect_close();
    witness.expect_silence_from(&mut at.v5());
}

fn every_reason_of_disconnect_is_accepted(at: Target) {
    // v5 section 3.14.2.1: those that a client may send.
    for reason in [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99] {
        let mut client = at.v5();
        client.send(&bytes::disconnect(
            reason,
            &[p::text(p::REASON_STRING, "why"), p::pair("k", "v")].concat(),
        ));
        client.expect_close();
    }
}

fn half_a_packet_does_not_keep_the_connection_alive_for_ever(at: Target) {
    // v5 [MQTT-3.1.2-22] speaks of Control Packets, not of bytes.
    let mut client = at.connect(&Connect::v5(&unique("c")).keep_alive(1));
    client.send(&[0x30, 100, 0, 1, b'a', 0]);
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        client.send(b"x");
        match client.poll(Duration::from_millis(300)) {
            Ok(packet) => {
                assert_eq!(packet.disconnect().reason, 0x8D);
                client.expect_close();
                return;
            }
            Err(closed) => assert!(!closed, "closed without DISCONNECT 0x8D"),
        }
    }
    panic!("bytes of one packet that never ends keep the connection open");
}
