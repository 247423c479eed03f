//! Which QoS 1 and 2 flows of a connection are open, as the edge sees them pass: what a resume tells the next worker.

use std::collections::{BTreeMap, BTreeSet};

use mqtt::frame::Frame;
use mqtt::{PacketId, PacketType, QoS};

use crate::{Flow, FlowState};

/// Reason Codes from here on are errors.
const ERROR: u8 = 0x80;

/// The open flows of one connection, without memory of its own while there are none. Bounded by the identifiers there are.
/// Every packet that passes is to be shown, validated before.
#[derive(Clone, Debug, Default)]
pub struct OpenFlows {
    to_device: BTreeMap<PacketId, FlowState>,
    from_device: BTreeSet<PacketId>,
}

impl OpenFlows {
    /// A packet goes to the device.
    pub fn pass_to_device(&mut self, packet: Frame<'_>) {
        match packet.packet_type() {
            PacketType::Publish => {
                if let Some((qos, id)) = published(packet) {
                    let at_qos2 = qos == QoS::ExactlyOnce;
                    let state = if at_qos2 { FlowState::AwaitingPubrec } else { FlowState::AwaitingPuback };
                    self.to_device.insert(id, state);
                }
            }
            PacketType::PubRel => {
                if let Some((id, _)) = acknowledged(packet) {
                    self.to_device.insert(id, FlowState::AwaitingPubcomp);
                }
            }
            PacketType::PubRec | PacketType::PubComp => {
                if let Some((id, is_error)) = acknowledged(packet)
                    && (is_error || packet.packet_type() == PacketType::PubComp)
                {
                    self.from_device.remove(&id);
                }
            }
            _ => {}
        }
    }

    /// A packet came from the device.
    pub fn pass_from_device(&mut self, packet: Frame<'_>) {
        match packet.packet_type() {
            PacketType::Publish => {
                if let Some((QoS::ExactlyOnce, id)) = published(packet) {
                    self.from_device.insert(id);
                }
            }
            PacketType::PubAck | PacketType::PubRec | PacketType::PubComp => {
                let Some((id, is_error)) = acknowledged(packet) else { return };
                if packet.packet_type() != PacketType::PubRec || is_error {
                    self.to_device.remove(&id);
                } else if let Some(state) = self.to_device.get_mut(&id) {
                    *state = FlowState::OwingPubrel;
                }
            }
            _ => {}
        }
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.to_device.is_empty() && self.from_device.is_empty()
    }

    /// Those to the device, for [`crate::Resume::flows`].
    pub fn to_device(&self) -> Vec<Flow> {
        self.to_device.iter().map(|(&packet_id, &state)| Flow { packet_id, state }).collect()
    }

    /// Those at QoS 2 from the device, for [`crate::Resume::inbound_qos2`].
    pub fn from_device(&self) -> Vec<PacketId> {
        self.from_device.iter().copied().collect()
    }
}

/// Quality of Service and Packet Identifier of a PUBLISH; `None` at QoS 0.
pub(super) fn published(packet: Frame<'_>) -> Option<(QoS, PacketId)> {
    let qos = QoS::from_bits(packet.first_byte() >> 1).filter(|qos| *qos != QoS::AtMostOnce)?;
    let (topic_len, rest) = packet.body().split_first_chunk()?;
    let id = rest.get(usize::from(u16::from_be_bytes(*topic_len))..)?.first_chunk()?;
    Some((qos, PacketId::new(u16::from_be_bytes(*id))?))
}

/// Packet Identifier of an acknowledgement (or SUBSCRIBE, UNSUBSCRIBE), and whether it refuses. Only MQTT 5 has a Reason
/// Code, and leaves it out at success.
pub(super) fn acknowledged(packet: Frame<'_>) -> Option<(PacketId, bool)> {
    let (id, rest) = packet.body().split_first_chunk()?;
    let is_error = rest.first().is_some_and(|reason| *reason >= ERROR);
    Some((PacketId::new(u16::from_be_bytes(*id))?, is_error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Frame<'_> {
        mqtt::frame::split(bytes, 100).unwrap().unwrap()
    }

    fn states(flows: &OpenFlows) -> Vec<(u16, FlowState)> {
        flows.to_device().iter().map(|flow| (flow.packet_id.as_u16(), flow.state)).collect()
    }

    #[test]
    fn flows_to_the_device_are_followed_to_their_end() {
        let mut flows = OpenFlows::default();
        flows.pass_to_device(frame(&[0x30, 3, 0, 1, b't']));
        flows.pass_to_device(frame(&[0x32, 5, 0, 1, b't', 0, 1]));
        flows.pass_to_device(frame(&[0x35, 5, 0, 1, b't', 0, 2]));
        flows.pass_to_device(frame(&[0x34, 5, 0, 1, b't', 0, 3]));
        let (puback, pubrec) = (FlowState::AwaitingPuback, FlowState::AwaitingPubrec);
        assert_eq!(states(&flows), [(1, puback), (2, pubrec), (3, pubrec)]);
        flows.pass_from_device(frame(&[0x40, 2, 0, 1]));
        flows.pass_from_device(frame(&[0x50, 2, 0, 2]));
        flows.pass_from_device(frame(&[0x50, 3, 0, 3, 0x97]));
        assert_eq!(states(&flows), [(2, FlowState::OwingPubrel)]);
        flows.pass_to_device(frame(&[0x62, 2, 0, 2]));
        assert_eq!(states(&flows), [(2, FlowState::AwaitingPubcomp)]);
        flows.pass_from_device(frame(&[0x70, 2, 0, 2]));
        flows.pass_from_device(frame(&[0x50, 2, 0, 9]));
        assert!(states(&flows).is_empty());
    }

    #[test]
    fn qos_2_from_the_device_is_open_until_pubcomp_or_a_refusal() {
        let mut flows = OpenFlows::default();
        for packet in [[0x32, 5, 0, 1, b't', 0, 1], [0x34, 5, 0, 1, b't', 0, 2], [0x3C, 5, 0, 1, b't', 0, 3]]
        {
            flows.pass_from_device(frame(&packet));
        }
        flows.pass_to_device(frame(&[0x50, 2, 0, 2]));
        let open = |flows: &OpenFlows| flows.from_device().into_iter().map(u16::from).collect::<Vec<_>>();
        assert_eq!(open(&flows), [2, 3]);
        flows.pass_to_device(frame(&[0x70, 2, 0, 2]));
        flows.pass_to_device(frame(&[0x50, 3, 0, 3, 0x87]));
        assert!(open(&flows).is_empty() && states(&flows).is_empty());
    }

    #[test]
    fn packets_cut_short_are_no_flows() {
        let mut flows = OpenFlows::default();
        for packet in [&[0x34, 2, 0, 9][..], &[0x34, 1, 0], &[0x40, 1, 0], &[0x62, 2, 0, 0]] {
            flows.pass_to_device(frame(packet));
            flows.pass_from_device(frame(packet));
        }
        assert!(states(&flows).is_empty() && flows.from_device().is_empty());
    }
}
