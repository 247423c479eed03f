//! Bytes that nobody meant as MQTT, and packets that were damaged on purpose: refused or decoded, never a panic, and what
//! decodes can be written and read again.

use std::ops::ControlFlow;

use mqtt::{Connect, FrameBuffer, Packet, PacketType, ProtocolVersion, Receiver, frame, topic, varint};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::{strategy, vector};

fn try_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(Some(frame)) = frame::split(bytes, u32::MAX) else { return Ok(()) };
    let _ = Connect::decode(frame);
    let _ = Connect::version_of(frame);
    for version in ProtocolVersion::ALL {
        for receiver in [Receiver::Server, Receiver::Client] {
            let packet = match Packet::decode(version, receiver, frame) {
                Ok(packet) => packet,
                Err(error) => {
                    prop_assert!(error.reason_code().is_error());
                    prop_assert!(!error.to_string().is_empty());
                    continue;
                }
            };
            let mut encoded = Vec::new();
            packet.encode(version, &mut encoded);
            prop_assert_eq!(encoded.len(), packet.encoded_len(version));
            prop_assert!(encoded.len() <= frame.raw.len());
            let again = frame::split(&encoded, u32::MAX)?.expect("a whole packet");
            prop_assert_eq!(Packet::decode(version, receiver, again), Ok(packet));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_refused_or_decoded(bytes in vec(any::<u8>(), 0..80)) {
        try_all(&bytes)?;
    }

    #[test]
    fn any_body_under_a_right_header_is_refused_or_decoded(
        packet_type in select(&PacketType::ALL[..]), flags in 0..8u8, body in vec(any::<u8>(), 0..60),
    ) {
        let first_byte = match packet_type {
            PacketType::Publish => packet_type.first_byte() | flags,
            _ => packet_type.first_byte(),
        };
        let mut bytes = vec![first_byte];
        varint::put(u32::try_from(body.len()).unwrap(), &mut bytes);
        bytes.extend(body);
        try_all(&bytes)?;
    }

    #[test]
    fn damaged_packets_are_refused_or_decoded(
        row: Index, places in vec((any::<Index>(), any::<u8>()), 1..4), cut in prop::option::of(any::<Index>()),
    ) {
        let rows = vector::all();
        let mut bytes = row.get(rows).bytes.clone();
        prop_assume!(!bytes.is_empty());
        for (place, byte) in places {
            *place.get_mut(&mut bytes) = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        try_all(&bytes)?;
    }

    #[test]
    fn any_stream_is_framed_or_refused(chunks in vec(vec(any::<u8>(), 0..40), 0..20)) {
        let mut buffer = FrameBuffer::new();
        let mut arrived = 0;
        for chunk in &chunks {
            arrived += chunk.len();
            let pushed = buffer.push(chunk, 1000, |_| ControlFlow::<()>::Continue(()));
            prop_assert!(buffer.allocated() <= arrived + frame::RESERVE_BYTES_MAX);
            if pushed.is_err() {
                prop_assert_eq!(buffer.allocated(), 0);
                break;
            }
        }
    }

    #[test]
    fn any_text_is_a_topic_or_not(text: String, name: String) {
        let _ = topic::SharedFilter::parse(&text);
        let _ = topic::matches(&text, &name);
        prop_assert_eq!(topic::validate_filter(&text).is_ok(), topic::TopicFilter::new(&text).is_ok());
        if topic::validate_name(&text).is_ok() && !text.starts_with("$share/") {
            prop_assert_eq!(topic::validate_filter(&text), Ok(()));
        }
    }

    #[test]
    fn variable_byte_integers_survive(value in 0..=varint::MAX) {
        let (bytes, len) = varint::encode(value);
        prop_assert_eq!(len, varint::len(value));
        let read = varint::decode(&bytes[..len])?.unwrap();
        prop_assert_eq!((read.value, usize::from(read.len), read.minimal), (value, len, true));
        for cut in 0..len {
            prop_assert_eq!(varint::decode(&bytes[..cut])?, None);
        }
    }

    #[test]
    fn a_filter_that_was_made_from_a_name_matches_it(name in strategy::topic_name(), wild in vec(any::<bool>(), 0..8)) {
        prop_assume!(!name.starts_with('$'));
        let wild = wild.into_iter().chain(std::iter::repeat(false));
        let levels: Vec<_> =
            topic::levels(&name).zip(wild).map(|(level, wild)| if wild { "+" } else { level }).collect();
        let filter = levels.join("/");
        prop_assert!(topic::matches(&filter, &name));
        prop_assert!(topic::matches("#", &name));
        let parent = format!("{filter}/#");
        prop_assert!(topic::matches(&parent, &name));
    }
}
