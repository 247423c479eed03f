//! Which packets of a device are answered by a packet of the worker: once the edge has the answer, nothing has to be
//! repeated for it.

use mqtt::{Frame, PacketId, PacketType, QoS};

use super::flows::{acknowledged, published};

/// What an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    what: What,
    id: PacketId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    PublishQos1,
    PublishQos2,
    Pubrel,
    Subscribe,
    Unsubscribe,
}

fn frame(packet: &[u8]) -> Option<Frame<'_>> {
    mqtt::frame::split(packet, u32::MAX).ok().flatten()
}

/// What a packet from the device asks an answer for; `None` for the rest.
pub fn asked_by(packet: &[u8]) -> Option<Asked> {
    let frame = frame(packet)?;
    let (what, id) = match frame.packet_type() {
        PacketType::Publish => match published(frame)? {
            (QoS::ExactlyOnce, id) => (What::PublishQos2, id),
            (_, id) => (What::PublishQos1, id),
        },
        PacketType::PubRel => (What::Pubrel, acknowledged(frame)?.0),
        PacketType::Subscribe => (What::Subscribe, acknowledged(frame)?.0),
        PacketType::Unsubscribe => (What::Unsubscribe, acknowledged(frame)?.0),
        _ => return None,
    };
    Some(Asked { what, id })
}

/// What a packet from the device shows to be answered: PUBREL comes from who has the PUBREC.
pub(super) fn shown_answered_by(packet: &[u8]) -> Option<Asked> {
    let asked = asked_by(packet).filter(|asked| asked.what == What::Pubrel)?;
    Some(Asked { what: What::PublishQos2, ..asked })
}

/// What a packet from the worker answers; `None` for the rest.
pub fn answered_by(packet: &[u8]) -> Option<Asked> {
    let frame = frame(packet)?;
    let what = match frame.packet_type() {
        PacketType::PubAck => What::PublishQos1,
        PacketType::PubRec => What::PublishQos2,
        PacketType::PubComp => What::Pubrel,
        PacketType::SubAck => What::Subscribe,
        PacketType::UnsubAck => What::Unsubscribe,
        _ => return None,
    };
    Some(Asked { what, id: acknowledged(frame)?.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_its_answer_and_no_other() {
        let asked: [&[u8]; 5] = [
            &[0x32, 5, 0, 1, b't', 0, 7],
            &[0x3C, 5, 0, 1, b't', 0, 7],
            &[0x62, 2, 0, 7],
            &[0x82, 7, 0, 7, 0, 0, 1, b't', 0],
            &[0xA2, 5, 0, 7, 0, 1, b't'],
        ];
        let answers: [&[u8]; 5] = [
            &[0x40, 2, 0, 7],
            &[0x50, 3, 0, 7, 0x80],
            &[0x70, 2, 0, 7],
            &[0x90, 3, 0, 7, 0],
            &[0xB0, 2, 0, 7],
        ];
        for (at, asked) in asked.iter().enumerate() {
            for (other, answer) in answers.iter().enumerate() {
                let (asked, answered) = (asked_by(asked), answered_by(answer));
                assert!(asked.is_some() && answered.is_some());
                assert_eq!(asked == answered, at == other);
            }
        }
        assert_ne!(asked_by(asked[2]), answered_by(&[0x70, 2, 0, 8]));
    }

    #[test]
    fn other_packets_neither_ask_nor_answer() {
        for packet in
            [&[0x30, 3, 0, 1, b't'][..], &[0xE0, 0], &[0x62, 2, 0, 0], &[0x40, 1, 0], &[0x32, 2, 0, 9]]
        {
            assert_eq!((asked_by(packet), answered_by(packet)), (None, None));
        }
    }
}
