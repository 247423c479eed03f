//! DISCONNECT, both ways, and packets that end the connection.

use mqtt::{Property, ProtocolVersion, ReasonCode};

use super::{plan, v5, v311};
use crate::session::testing::Rig;
use crate::session::{Closing, Input, WillFate};

fn closing(reason: ReasonCode, will: WillFate) -> Closing {
    Closing { reason, will, expiry_s: 0 }
}

// v5 [MQTT-3.14.4-3]
#[test]
fn a_normal_disconnect_drops_the_will() {
    for packet in [&[0xE0, 0][..], &[0xE0, 1, 0], &[0xE0, 2, 0, 0]] {
        let mut rig = v5();
        assert_eq!(rig.bytes(packet).closing(), closing(ReasonCode::Success, WillFate::Drop));
        assert!(rig.sent().is_empty());
    }
    assert_eq!(v311().bytes(&[0xE0, 0]).closing(), closing(ReasonCode::Success, WillFate::Drop));
}

#[test]
fn any_other_disconnect_publishes_the_will() {
    for reason in [ReasonCode::DisconnectWithWillMessage, ReasonCode::UnspecifiedError] {
        let mut rig = v5();
        rig.bytes(&[0xE0, 1, reason.as_u8()]);
        assert_eq!(rig.closing(), closing(reason, WillFate::Publish));
    }
}

#[test]
fn disconnect_may_change_the_session_expiry_interval() {
    let mut rig =
        plan().with(Property::SessionExpiryInterval(5)).configure(|c| c.session_expiry_max_s = 7).open();
    rig.bytes(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
    assert_eq!(rig.closing().expiry_s, 7);
    let mut rig = plan().with(Property::SessionExpiryInterval(5)).open();
    rig.bytes(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    assert_eq!(rig.closing().expiry_s, 0);
}

// v5 section 3.14.2.2.2
#[test]
fn a_session_without_expiry_cannot_get_one_on_disconnect() {
    let mut rig = plan().with(Property::RequestProblemInformation(false)).open();
    rig.bytes(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
    assert_eq!(rig.closing(), closing(ReasonCode::ProtocolError, WillFate::Publish));
    assert_eq!(rig.sent(), [0xE0, 1, 0x82]);
    // What counts is what CONNECT said, not what the server made of it.
    let mut rig =
        plan().with(Property::SessionExpiryInterval(5)).configure(|c| c.session_expiry_max_s = 0).open();
    rig.bytes(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
    assert_eq!(rig.closing(), closing(ReasonCode::Success, WillFate::Drop));
}

// v5 [MQTT-4.13.1-1], v5 [MQTT-3.1.2-29]
#[test]
fn a_malformed_packet_is_answered_with_its_reason_code_and_a_close() {
    // PUBACK with Packet Identifier 0.
    let mut rig = plan().with(Property::RequestProblemInformation(false)).open();
    rig.bytes(&[0x40, 2, 0, 0]);
    assert_eq!(rig.sent(), [0xE0, 1, 0x82]);
    assert_eq!(rig.closing().reason, ReasonCode::ProtocolError);

    let mut told = v5();
    let bytes = told.bytes(&[0x40, 2, 0, 0]).sent();
    assert_eq!(&bytes[2..3], [0x82]);
    assert!(bytes.ends_with(b"the Packet Identifier is zero"));

    let mut older = v311();
    assert!(older.bytes(&[0x40, 2, 0, 0]).sent().is_empty());
    assert_eq!(older.closing().will, WillFate::Publish);
}

// v5 [MQTT-3.14.2-3]
#[test]
fn a_reason_string_that_does_not_fit_is_left_out() {
    let mut rig = plan().with(Property::MaximumPacketSize(20)).open();
    assert_eq!(rig.bytes(&[0x40, 2, 0, 0]).sent(), [0xE0, 1, 0x82]);
}

#[test]
fn packets_that_only_a_server_sends_are_a_protocol_error() {
    // CONNACK, SUBACK, UNSUBACK, PINGRESP
    for packet in [&[0x20, 3, 0, 0, 0][..], &[0x90, 4, 0, 1, 0, 0], &[0xB0, 4, 0, 1, 0, 0], &[0xD0, 0]] {
        let mut rig = v5();
        assert_eq!(rig.bytes(packet).closing().reason, ReasonCode::ProtocolError);
    }
}

// v5 [MQTT-3.1.0-2]
#[test]
fn a_second_connect_is_a_protocol_error() {
    let connect = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0];
    let mut rig = v5();
    assert_eq!(rig.bytes(&connect).closing().reason, ReasonCode::ProtocolError);
}

// v5 [MQTT-3.1.4-3]
#[test]
fn a_session_that_was_taken_over_is_told_so() {
    let mut rig = v5();
    assert_eq!(rig.input(Input::TakenOver).sent(), [0xE0, 1, 0x8E]);
    assert_eq!(rig.closing(), closing(ReasonCode::SessionTakenOver, WillFate::TakenOver));
    let mut older = Rig::new(ProtocolVersion::V31);
    assert!(older.input(Input::TakenOver).sent().is_empty());
    assert_eq!(older.closing().will, WillFate::TakenOver);
}

#[test]
fn the_server_ends_a_connection_with_a_reason_and_the_will_is_due() {
    let mut rig = v5();
    assert_eq!(rig.input(Input::End(ReasonCode::ServerShuttingDown)).sent(), [0xE0, 1, 0x8B]);
    assert_eq!(rig.closing(), closing(ReasonCode::ServerShuttingDown, WillFate::Publish));
}

// v5 [MQTT-3.14.4-1]
#[test]
fn nothing_comes_after_a_close() {
    let mut rig = v5();
    rig.bytes(&[0xE0, 0]);
    rig.effects();
    rig.publish("a", mqtt::QoS::AtLeastOnce, 1).input(Input::TakenOver).input(Input::Writable);
    assert!(rig.effects().is_empty());
    assert!(rig.sent().is_empty());
}
