//! Every row of the case tables: what decodes, what does not, and with which Reason Code.

use std::collections::HashSet;

use mqtt::{Connect, DecodeError, Packet, PacketType, ProtocolVersion, Receiver, frame};

use crate::vector::{self, Expected, Vector};

/// Bytes of the largest packet in these tests.
const PACKET_SIZE_MAX: u32 = 1024 * 1024;

fn decode(
    version: ProtocolVersion,
    receiver: Receiver,
    bytes: &[u8],
) -> Result<Option<Packet<'_>>, DecodeError> {
    let Some(frame) = frame::split(bytes, PACKET_SIZE_MAX)? else { return Ok(None) };
    assert_eq!(frame.raw, bytes, "a row is one packet");
    Packet::decode(version, receiver, frame).map(Some)
}

fn check(row: &Vector, version: ProtocolVersion) {
    let name = format!("{version:?}: {}", row.name);
    let decoded = decode(version, row.receiver, &row.bytes);
    match (&row.expected, decoded) {
        (Expected::Incomplete, Ok(None)) => {}
        (Expected::Fault(code, cause), Err(error)) => {
            assert!(format!("{error:?}").starts_with(cause), "{name}: {error:?}");
            assert_eq!(error.reason_code().as_u8(), *code, "{name}");
        }
        (Expected::Valid | Expected::ValidOtherwise, Ok(Some(packet))) => {
            let mut encoded = Vec::new();
            packet.encode(version, &mut encoded);
            assert_eq!(encoded.len(), packet.encoded_len(version), "{name}");
            let same = matches!(row.expected, Expected::Valid);
            assert_eq!(encoded == row.bytes, same, "{name}: {encoded:02X?}");
            assert_eq!(decode(version, row.receiver, &encoded), Ok(Some(packet)), "{name}");
        }
        (_, other) => panic!("{name}: {other:?}"),
    }
}

#[test]
fn every_row_decodes_as_the_specification_says() {
    for row in vector::all() {
        row.versions.iter().for_each(|&version| check(row, version));
    }
}

#[test]
fn rows_have_distinct_names_within_their_bytes() {
    let rows = vector::all();
    let names: HashSet<_> = rows.iter().map(|row| (row.name, &row.bytes)).collect();
    assert_eq!(names.len(), rows.len());
    assert!(rows.len() >= 150, "{} rows", rows.len());
}

#[test]
fn every_packet_type_has_a_valid_row_and_a_faulty_one() {
    for packet_type in PacketType::ALL {
        let of_type = |row: &&Vector| {
            row.bytes.first().is_some_and(|&first| PacketType::from_first_byte(first) == Some(packet_type))
        };
        let rows = vector::all();
        assert!(
            rows.iter().filter(of_type).any(|row| matches!(row.expected, Expected::Valid)),
            "{packet_type}"
        );
        assert!(
            rows.iter().filter(of_type).any(|row| matches!(row.expected, Expected::Fault(..))),
            "{packet_type}"
        );
    }
}

/// Cutting a valid packet short anywhere inside of its body, with Remaining Length set right, never makes a panic, and what
/// still decodes encodes to something that decodes to the same.
#[test]
fn every_prefix_of_every_row_decodes_or_is_refused() {
    for row in vector::all() {
        let Ok(Some(whole)) = frame::split(&row.bytes, PACKET_SIZE_MAX) else { continue };
        for end in 0..whole.body().len() {
            let mut cut = vec![whole.first_byte()];
            mqtt::varint::put(u32::try_from(end).unwrap(), &mut cut);
            cut.extend_from_slice(&whole.body()[..end]);
            for version in ProtocolVersion::ALL {
                let Ok(Some(packet)) = decode(version, row.receiver, &cut) else { continue };
                let mut encoded = Vec::new();
                packet.encode(version, &mut encoded);
                assert_eq!(decode(version, row.receiver, &encoded), Ok(Some(packet)), "{}", row.name);
            }
        }
    }
}

#[test]
fn connect_alone_tells_its_version() {
    for (version, text) in [
        (ProtocolVersion::V31, "10 V( s'MQIsdp' 03 02 003C s'c' )"),
        (ProtocolVersion::V311, "10 V( s'MQTT' 04 02 003C s'c' )"),
        (ProtocolVersion::V5, "10 V( s'MQTT' 05 02 003C V() s'c' )"),
    ] {
        let bytes = vector::bytes(text);
        let frame = frame::split(&bytes, PACKET_SIZE_MAX).unwrap().unwrap();
        let connect = Connect::decode(frame).unwrap();
        assert_eq!((connect.version, connect.client_id), (version, "c"));
        assert_eq!(connect.protocol_name(), version.protocol_name());
        assert_eq!(Connect::version_of(frame), Ok(version));
    }
}

#[test]
fn the_version_of_a_faulty_connect_is_known() {
    let bytes = vector::bytes("10 V( s'MQTT' 05 03 003C V() s'c' )");
    let frame = frame::split(&bytes, PACKET_SIZE_MAX).unwrap().unwrap();
    assert_eq!(Connect::decode(frame), Err(DecodeError::ConnectReservedFlag));
    assert_eq!(Connect::version_of(frame), Ok(ProtocolVersion::V5));
}

#[test]
fn only_connect_opens_a_connection() {
    // v5 [MQTT-3.1.0-1]
    let bytes = [0xC0, 0x00];
    let frame = frame::split(&bytes, PACKET_SIZE_MAX).unwrap().unwrap();
    let expected = DecodeError::WrongDirection { packet: PacketType::PingReq };
    assert_eq!(Connect::decode(frame), Err(expected));
    assert_eq!(Connect::version_of(frame), Err(expected));
}
