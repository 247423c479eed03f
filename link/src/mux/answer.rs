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

/// What a packet from the device asks an answer for; `None` for the rest.
pub fn asked_by(packet: Frame<'_>) -> Option<Asked> {
    let (what, id) = match packet.packet_type() {
        PacketType::Publish => match published(packet)? {
            (QoS::ExactlyOnce, id) => (What::PublishQos2, id),
            (_, id) => (What::PublishQos1, id),
        },
        PacketType::PubRel => (What::Pubrel, acknowledged(packet)?.0),
        PacketType::Subscribe => (What::Subscribe, acknowledged(packet)?.0),
        PacketType::Unsubscribe => (What::Unsubscribe, acknowledged(packet)?.0),
        _ => return None,
    };
    Some(Asked { what, id })
}

impl Asked {
    /// What a packet from the device that asks this shows to be answered: PUBREL comes from who has the PUBREC.
    pub(super) fn shown_answered(self) -> Option<Self> {
        (self.what == What::Pubrel).then_some(Self { what: What::PublishQos2, ..self })
    }
}

/// What a packet from the worker answers; `None` for the rest.
pub fn answered_by(packet: Frame<'_>) -> Option<Asked> {
    let what = match packet.packet_type() {
        PacketType::PubAck => What::PublishQos1,
        PacketType::PubRec => What::PublishQos2,
        PacketType::PubComp => What::Pubrel,
        PacketType::SubAck => What::Subscribe,
        PacketType::UnsubAck => What::Unsubscribe,
        _ => return None,
    };
    Some(Asked { what, id: acknowledged(packet)?.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(packet: &[u8]) -> Frame<'_> {
        mqtt::frame::split(packet, 100).unwrap().unwrap()
    }

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
        for (at, asked) in asked.into_iter().map(frame).enumerate() {
            for (other, answer) in answers.into_iter().map(frame).enumerate() {
                let (asked, answered) = (asked_by(asked), answered_by(answer));
                assert!(asked.is_some() && answered.is_some());
                assert_eq!(asked == answered, at == other);
            }
        }
        assert_ne!(asked_by(frame(asked[2])), answered_by(frame(&[0x70, 2, 0, 8])));
    }

    #[test]
    fn other_packets_neither_ask_nor_answer() {
        for packet in
            [&[0x30, 3, 0, 1, b't'][..], &[0xE0, 0], &[0x62, 2, 0, 0], &[0x40, 1, 0], &[0x32, 2, 0, 9]]
        {
            assert_eq!((asked_by(frame(packet)), answered_by(frame(packet))), (None, None));
        }
    }
}
