//! The sending side of one client: Packet Identifiers, what is not yet acknowledged, and the QoS 2 handshake.

use crate::measure::payload::Stamp;
use crate::net::packet::{self, Incoming, PublishTemplate};

/// One publishing client.
#[derive(Debug)]
pub(crate) struct Publisher {
    qos: u8,
    next_packet_id: u16,
    unacked: u32,
    unacked_max: u32,
    /// Acknowledgements with a Reason Code of 0x80 or above.
    pub refused: u64,
}

impl Publisher {
    /// A client that has at most `unacked_max` QoS 1 or 2 messages under way.
    #[must_use]
    pub(crate) fn new(qos: u8, unacked_max: u32) -> Self {
        // Half of the identifiers, so that one that is still in use is not given again.
        Self { qos, next_packet_id: 1, unacked: 0, unacked_max: unacked_max.clamp(1, 32_768), refused: 0 }
    }

    /// Whether one more message may leave as far as acknowledgements go.
    #[inline]
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.qos == 0 || self.unacked < self.unacked_max
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
        if self.qos > 0 {
            self.unacked += 1;
            self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
        }
    }

    /// Takes an acknowledgement, answers PUBREC, and returns whether a message was finished.
    #[inline]
    pub(crate) fn acknowledge(&mut self, packet: &Incoming<'_>, out: &mut Vec<u8>) -> bool {
        let reason = match *packet {
            Incoming::Puback { reason, .. } => reason,
            Incoming::Pubcomp { .. } => 0,
            Incoming::Pubrec { packet_id, reason } if reason < 0x80 => {
                out.extend_from_slice(&packet::ack(packet::PUBREL, packet_id));
                return false;
            }
            Incoming::Pubrec { reason, .. } => reason,
            _ => return false,
        };
        self.refused += u64::from(reason >= 0x80);
        self.unacked = self.unacked.saturating_sub(1);
        true
    }
}

/// Answers a PUBLISH or PUBREL on the receiving side.
#[inline]
pub(crate) fn answer(packet: &Incoming<'_>, out: &mut Vec<u8>) {
    let bytes = match *packet {
        Incoming::Publish { qos: 1, packet_id, .. } => packet::ack(packet::PUBACK, packet_id),
        Incoming::Publish { qos: 2, packet_id, .. } => packet::ack(packet::PUBREC, packet_id),
        Incoming::Pubrel { packet_id } => packet::ack(packet::PUBCOMP, packet_id),
        _ => return,
    };
    out.extend_from_slice(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::packet::Version;

    fn send(publisher: &mut Publisher, qos: u8) -> Vec<u8> {
        let template = PublishTemplate::new(Version::V311, "t", qos, false, 24);
        let mut out = Vec::new();
        publisher.send(&template, &Stamp { publisher: 0, sequence: 0, due_ns: 0 }, &mut out);
        out
    }

    #[test]
    fn qos_2_is_finished_by_pubcomp() {
        let mut publisher = Publisher::new(2, 1);
        send(&mut publisher, 2);
        assert!(!publisher.is_open());
        let mut out = Vec::new();
        assert!(!publisher.acknowledge(&Incoming::Pubrec { packet_id: 1, reason: 0 }, &mut out));
        assert_eq!(out, [0x62, 2, 0, 1]);
        assert!(publisher.acknowledge(&Incoming::Pubcomp { packet_id: 1 }, &mut out));
        assert!(publisher.is_idle() && publisher.is_open());
    }

    #[test]
    fn a_refusal_finishes_the_message_and_is_counted() {
        let mut publisher = Publisher::new(2, 2);
        send(&mut publisher, 2);
        let mut out = Vec::new();
        assert!(publisher.acknowledge(&Incoming::Pubrec { packet_id: 1, reason: 0x97 }, &mut out));
        assert!(out.is_empty() && publisher.is_idle());
        assert_eq!(publisher.refused, 1);
    }

    #[test]
    fn packet_identifiers_skip_zero() {
        let mut publisher = Publisher::new(1, 1);
        publisher.next_packet_id = u16::MAX;
        send(&mut publisher, 1);
        assert_eq!(publisher.next_packet_id, 1);
    }

    #[test]
    fn qos_0_needs_no_acknowledgement() {
        let mut publisher = Publisher::new(0, 1);
        send(&mut publisher, 0);
        assert!(publisher.is_open() && publisher.is_idle());
    }
}
