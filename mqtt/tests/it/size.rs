//! Sizes that a million connections multiply.

use std::mem::size_of;

use mqtt::{DecodeError, Frame, FrameBuffer, Packet, PacketId, Properties, Publish};

#[test]
fn a_connection_holds_a_small_frame_buffer() {
    assert!(size_of::<FrameBuffer>() <= 32);
    assert_eq!(FrameBuffer::new().allocated(), 0);
}

#[test]
fn an_optional_packet_id_takes_two_bytes() {
    assert_eq!(size_of::<Option<PacketId>>(), 2);
}

#[test]
fn views_fit_on_the_stack_with_ease() {
    assert!(size_of::<Frame<'_>>() <= 24);
    assert!(size_of::<Properties<'_>>() <= 24);
    assert!(size_of::<Publish<'_>>() <= 64);
    assert!(size_of::<Packet<'_>>() <= 192);
    assert!(size_of::<DecodeError>() <= 12);
}
