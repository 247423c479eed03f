//! The bytes that a session writes, cut into Control Packets: a link carries each by itself.

use link::Outgoing;
use mqtt::{OwnedFrame, frame, varint};

/// Takes the first Control Packet off; `None` when nothing is left. A session writes whole packets, and each fixed header in
/// one run.
pub(super) fn take_packet(out: &mut Outgoing) -> Option<OwnedFrame> {
    let head = out.chunk();
    let length = varint::decode(head.get(1..)?).ok().flatten()?;
    let total = 1 + usize::from(length.len) + length.value as usize;
    OwnedFrame::from_bytes(out.take(total), frame::PACKET_SIZE_MAX).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_whole_whether_their_payload_is_shared_or_not() {
        let mut out = Outgoing::new();
        out.put_slice(&[0x40, 2, 0, 1]);
        let length = 3 + link::SHARED_BYTES_MIN;
        out.put_slice(&[0x30, (length % 128) as u8 | 0x80, (length / 128) as u8, 0, 1, b't']);
        out.put_bytes(vec![7; link::SHARED_BYTES_MIN].into());
        out.put_slice(&[0xD0, 0]);
        assert_eq!(&*take_packet(&mut out).unwrap().raw, [0x40, 2, 0, 1]);
        assert_eq!(take_packet(&mut out).map(|packet| packet.len()), Some(3 + length));
        assert_eq!(&*take_packet(&mut out).unwrap().raw, [0xD0, 0]);
        assert_eq!(take_packet(&mut out), None);
    }
}
