//! The sending side of one client: Packet Identifiers, what is not yet acknowledged, and the QoS 2 handshake.

use crate::measure::payload::Stamp;
use mqtt::{AckKind, Packet, PacketId, Publish, QoS};

use crate::net::packet::{self, PublishTemplate};

/// One publishing client.
#[derive(Debug)]
pub(crate) struct Publisher {
    qos: QoS,
    next_packet_id: PacketId,
    unacked: u32,
    unacked_max: u32,
    /// When each message under way was due, by its Packet Identifier modulo the length, which is a power of two.
    due_ns: Box<[u64]>,
    /// Acknowledgements with a Reason Code of 0x80 or above.
    pub(crate) refused: u64,
}

impl Publisher {
    /// A client that has at most `unacked_max` QoS 1 or 2 messages under way.
    #[must_use]
    pub(crate) fn new(qos: QoS, unacked_max: u32) -> Self {
        // Half of the identifiers, so that one that is still in use is not given again.
        let unacked_max = unacked_max.clamp(1, 32_768);
        let remembered = if qos == QoS::AtMostOnce { 1 } else { 2 * unacked_max.next_power_of_two() };
        Self {
            qos,
            next_packet_id: PacketId::MIN,
            unacked: 0,
            unacked_max,
            due_ns: vec![0; remembered as usize].into(),
            refused: 0,
        }
    }

    /// Whether one more message may leave as far as acknowledgements go.
    #[inline]
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.qos == QoS::AtMostOnce || self.unacked < self.unacked_max
    }

    /// Whether everything is acknowledged.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.unacked == 0
    }

    /// Appends one message to `out`.
    #[inline]
    pub(crate) fn send(&mut self, template: &PublishTemplate, stamp: &Stamp, out: &mut Vec<u8>) {
        template.append(out, self.next_packet_id, stamp);
        if self.qos != QoS::AtMostOnce {
            self.unacked += 1;
            let at = self.remembered_at(self.next_packet_id);
            self.due_ns[at] = stamp.due_ns;
            self.next_packet_id = self.next_packet_id.next();
        }
    }

    #[inline]
    fn remembered_at(&self, id: PacketId) -> usize {
        usize::from(id.as_u16()) & (self.due_ns.len() - 1)
    }

    /// Takes an acknowledgement, answers PUBREC, and returns when the message that this finishes was due, if it finishes one.
    #[inline]
    pub(crate) fn acknowledge(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Option<u64> {
        let ack = match packet {
            Packet::PubAck(ack) | Packet::PubComp(ack) => ack,
            Packet::PubRec(ack) if !ack.reason.is_error() => {
                packet::acknowledge(AckKind::PubRel, ack.packet_id, out);
                return None;
            }
            Packet::PubRec(ack) => ack,
            _ => return None,
        };
        self.refused += u64::from(ack.reason.is_error());
        self.unacked = self.unacked.saturating_sub(1);
        Some(self.due_ns[self.remembered_at(ack.packet_id)])
    }
}

/// Answers a PUBLISH or PUBREL on the receiving side.
#[inline]
pub(crate) fn answer(packet: &Packet<'_>, out: &mut Vec<u8>) {
    let (kind, packet_id) = match packet {
        Packet::Publish(Publish { qos: QoS::AtLeastOnce, packet_id: Some(packet_id), .. }) => {
            (AckKind::PubAck, packet_id)
        }
        Packet::Publish(Publish { qos: QoS::ExactlyOnce, packet_id: Some(packet_id), .. }) => {
            (AckKind::PubRec, packet_id)
        }
        Packet::PubRel(ack) => (AckKind::PubComp, &ack.packet_id),
        _ => return,
    };
    packet::acknowledge(kind, *packet_id, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt::{Ack, ProtocolVersion, ReasonCode};

    fn send(publisher: &mut Publisher, qos: QoS) {
        let template = PublishTemplate::new(ProtocolVersion::V311, "t", qos, false, 24);
        publisher.send(&template, &Stamp { publisher: 0, sequence: 0, due_ns: 7 }, &mut Vec::new());
    }

    fn ack(reason: ReasonCode) -> Ack<'static> {
        Ack::new(PacketId::MIN, reason)
    }

    #[test]
    fn qos_2_is_finished_by_pubcomp() {
        let mut publisher = Publisher::new(QoS::ExactlyOnce, 1);
        send(&mut publisher, QoS::ExactlyOnce);
        assert!(!publisher.is_open());
        let mut out = Vec::new();
        assert_eq!(publisher.acknowledge(&Packet::PubRec(ack(ReasonCode::Success)), &mut out), None);
        assert_eq!(out, [0x62, 2, 0, 1]);
        assert_eq!(publisher.acknowledge(&Packet::PubComp(ack(ReasonCode::Success)), &mut out), Some(7));
        assert!(publisher.is_idle() && publisher.is_open());
    }

    #[test]
    fn a_refusal_finishes_the_message_and_is_counted() {
        let mut publisher = Publisher::new(QoS::ExactlyOnce, 2);
        send(&mut publisher, QoS::ExactlyOnce);
        let mut out = Vec::new();
        assert!(publisher.acknowledge(&Packet::PubRec(ack(ReasonCode::QuotaExceeded)), &mut out).is_some());
        assert!(out.is_empty() && publisher.is_idle());
        assert_eq!(publisher.refused, 1);
    }

    #[test]
    fn packet_identifiers_skip_zero() {
        let mut publisher = Publisher::new(QoS::AtLeastOnce, 1);
        publisher.next_packet_id = PacketId::MAX;
        send(&mut publisher, QoS::AtLeastOnce);
        assert_eq!(publisher.next_packet_id, PacketId::MIN);
    }

    #[test]
    fn qos_0_needs_no_acknowledgement() {
        let mut publisher = Publisher::new(QoS::AtMostOnce, 1);
        send(&mut publisher, QoS::AtMostOnce);
        assert!(publisher.is_open() && publisher.is_idle());
    }

    #[test]
    fn a_receiver_acknowledges_by_qos() {
        let mut out = Vec::new();
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let template = PublishTemplate::new(ProtocolVersion::V5, "t", qos, false, 24);
            let mut bytes = Vec::new();
            template.append(&mut bytes, PacketId::MIN, &Stamp { publisher: 0, sequence: 0, due_ns: 0 });
            let frame = mqtt::frame::split(&bytes, mqtt::frame::PACKET_SIZE_MAX).unwrap().unwrap();
            let packet = Packet::decode(ProtocolVersion::V5, mqtt::Receiver::Client, frame).unwrap();
            answer(&packet, &mut out);
        }
        answer(&Packet::PubRel(ack(ReasonCode::Success)), &mut out);
        assert_eq!(out, [0x40, 2, 0, 1, 0x50, 2, 0, 1, 0x70, 2, 0, 1]);
    }
}
