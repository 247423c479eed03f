//! Frames on the wire: what goes out comes in, however it is cut, and nothing else does.

use bytes::{BufMut, BytesMut};
use link::Outgoing;
use link::wire::{
    Decoded, Frame, FrameLimits, HEADER_BYTES, Kind, OPTIONAL, OPTIONAL_BYTES_MAX, StreamId, WireError,
    decode,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::frame::{any_frame, packet};

fn encoded(stream: StreamId, frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(stream, &mut out);
    assert_eq!(out.len(), HEADER_BYTES + frame.body_len());
    out
}

fn raw(stream: u32, kind: u8, len: u32, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32(stream);
    out.put_u8(kind);
    out.put_u32(len);
    out.put_slice(body);
    out
}

fn whole(kind: Kind, body: &[u8]) -> Result<Option<Decoded>, WireError> {
    let stream = u32::from(!kind.is_for_link());
    decode(&mut raw(stream, kind as u8, u32::try_from(body.len()).unwrap(), body), &FrameLimits::default())
}

proptest! {
    #[test]
    fn every_frame_comes_back((stream, frame) in any_frame()) {
        let mut bytes = encoded(stream, &frame);
        bytes.put_slice(b"next");
        let decoded = decode(&mut bytes, &FrameLimits::default());
        prop_assert_eq!(decoded, Ok(Some(Decoded::Frame(stream, frame))));
        prop_assert_eq!(&bytes[..], b"next");
    }

    #[test]
    fn sharing_makes_the_same_bytes((stream, frame) in any_frame()) {
        let mut shared = Outgoing::new();
        frame.encode_shared(stream, &mut shared);
        prop_assert_eq!(shared.chunk(), &encoded(stream, &frame)[..]);
    }

    #[test]
    fn a_frame_may_be_split_anywhere((stream, frame) in any_frame()) {
        let bytes = encoded(stream, &frame);
        for at in 0..bytes.len() {
            let mut buf = BytesMut::from(&bytes[..at]);
            prop_assert_eq!(decode(&mut buf, &FrameLimits::default()), Ok(None));
            buf.put_slice(&bytes[at..]);
            let decoded = decode(&mut buf, &FrameLimits::default());
            prop_assert_eq!(decoded, Ok(Some(Decoded::Frame(stream, frame.clone()))));
        }
    }

    #[test]
    fn a_body_cut_short_is_an_error_or_another_frame((stream, frame) in any_frame(), cut in any::<u16>()) {
        let bytes = encoded(stream, &frame);
        let len = usize::from(cut) % (frame.body_len() + 1);
        let mut buf = raw(stream.0, frame.kind() as u8, u32::try_from(len).unwrap(), &bytes[HEADER_BYTES..][..len]);
        if let Ok(Some(Decoded::Frame(stream, other))) = decode(&mut buf, &FrameLimits::default()) {
            // HELLO without what was appended later is that of a neighbour.
            let is_whole = other.kind() != Kind::Hello;
            prop_assert!(!is_whole || encoded(stream, &other).len() == HEADER_BYTES + len);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), kind in 0_u8..20, link in any::<bool>()) {
        let _ = decode(&mut BytesMut::from(&bytes[..]), &FrameLimits::default());
        let mut framed = raw(u32::from(!link), kind, u32::try_from(bytes.len()).unwrap(), &bytes);
        let _ = decode(&mut framed, &FrameLimits::default());
    }

    #[test]
    fn a_frame_with_a_changed_byte_does_not_panic(
        (stream, frame) in any_frame(), at in any::<u32>(), value in any::<u8>(),
    ) {
        let mut bytes = encoded(stream, &frame);
        let at = at as usize % bytes.len();
        bytes[at] = value;
        if let Ok(Some(Decoded::Frame(stream, frame))) = decode(&mut bytes, &FrameLimits::default()) {
            let again = decode(&mut encoded(stream, &frame), &FrameLimits::default());
            prop_assert_eq!(again, Ok(Some(Decoded::Frame(stream, frame))));
        }
    }
}

#[test]
fn a_body_over_the_bound_is_refused_before_it_comes() {
    for (kind, max) in [(Kind::Window, 4), (Kind::Ping, 8), (Kind::Packet, 1024 * 1024 + 8)] {
        let stream = u32::from(!kind.is_for_link());
        let kind = kind as u8;
        let mut header = raw(stream, kind, max + 1, b"");
        assert_eq!(
            decode(&mut header, &FrameLimits::default()),
            Err(WireError::TooLong { kind, len: max + 1, max })
        );
        assert_eq!(decode(&mut raw(stream, kind, max, b""), &FrameLimits::default()), Ok(None));
    }
}

#[test]
fn an_unknown_frame_is_skipped_only_if_it_is_optional() {
    let mut bytes = raw(7, OPTIONAL | 14, 3, b"new");
    bytes.put_slice(&encoded(StreamId::LINK, &Frame::Ping { token: 5 }));
    assert_eq!(
        decode(&mut bytes, &FrameLimits::default()),
        Ok(Some(Decoded::Skipped { kind: OPTIONAL | 14 }))
    );
    let ping = Decoded::Frame(StreamId::LINK, Frame::Ping { token: 5 });
    assert_eq!(decode(&mut bytes, &FrameLimits::default()), Ok(Some(ping)));
    assert_eq!(decode(&mut raw(7, 14, 0, b""), &FrameLimits::default()), Err(WireError::UnknownKind(14)));
    assert_eq!(decode(&mut raw(7, 0, 0, b""), &FrameLimits::default()), Err(WireError::UnknownKind(0)));
    let over = decode(&mut raw(7, OPTIONAL, OPTIONAL_BYTES_MAX + 1, b""), &FrameLimits::default());
    assert!(matches!(over, Err(WireError::TooLong { .. })));
}

#[test]
fn a_later_hello_may_say_more() {
    let hello =
        [b"TGlk".as_slice(), &[0, 1, 0, 2], &[0; 8], &[0, 1, b'w'], &[0, 0, 1, 0], &[0, 0, 2, 0]].concat();
    let decoded = |body: &[u8]| match whole(Kind::Hello, body) {
        Ok(Some(Decoded::Frame(_, Frame::Hello(hello)))) => hello,
        other => panic!("{other:?}"),
    };
    assert_eq!((&*decoded(&hello).id, decoded(&hello).handoff_grace_ms), ("w", 0));
    let hello = [&hello, [0, 0, 0xEA, 0x60].as_slice()].concat();
    assert_eq!(decoded(&hello).handoff_grace_ms, 60_000);
    assert_eq!(decoded(&hello), decoded(&[&hello, b"more".as_slice()].concat()));
}

#[test]
fn every_fault_has_its_name() {
    assert_eq!(whole(Kind::Hello, b"GET / HTTP/1.1"), Err(WireError::NotALink));
    assert_eq!(whole(Kind::Window, &[0; 4]), Err(WireError::Value("credit")));
    assert_eq!(whole(Kind::Window, &[1; 3]), Err(WireError::Short("credit")));
    assert_eq!(whole(Kind::Packet, &[0; 8]), Err(WireError::Value("number")));
    let two = [&[0, 0, 0, 0, 0, 0, 0, 1], &packet(0xE0, b"").raw[..], &packet(0xE0, b"").raw[..]].concat();
    assert_eq!(whole(Kind::Packet, &two), Err(WireError::NotOnePacket("packet")));
    let falling = [[0, 0, 0, 0, 0, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0, 5]].concat();
    assert_eq!(whole(Kind::Durable, &falling), Err(WireError::Value("beyond")));
    let trailing = [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 9];
    assert_eq!(whole(Kind::Close, &trailing), Err(WireError::Trailing(1)));
    assert_eq!(whole(Kind::Close, &[0, 0, 0, 0, 0, 0, 0, 1, 3, 0]), Err(WireError::Value("number")));
    let mut misplaced = raw(3, Kind::Ping as u8, 8, &[0; 8]);
    assert_eq!(
        decode(&mut misplaced, &FrameLimits::default()),
        Err(WireError::WrongStream(Kind::Ping as u8))
    );
}

#[test]
fn a_packet_shares_the_buffer_that_it_came_in() {
    let frame = Frame::Packet { number: 1, packet: packet(0x30, &[7; 5000]) };
    let mut bytes = encoded(StreamId(1), &frame);
    let range = bytes.as_ptr_range();
    let Ok(Some(Decoded::Frame(_, Frame::Packet { packet, .. }))) =
        decode(&mut bytes, &FrameLimits::default())
    else {
        panic!("not a packet");
    };
    assert!(range.contains(&packet.raw.as_ptr()));
}
