//! Topic Aliases that a device has set: what the edge keeps of a PUBLISH carries the full topic, since the next worker knows
//! no alias before the resume.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use link::TopicAlias;
use mqtt::{Frame, OwnedFrame, PacketType, ProtocolVersion, Publish, PublishHead, Receiver};

/// The aliases of one connection, at most as many as CONNACK allows.
#[derive(Clone, Debug, Default)]
pub(super) struct Aliases(BTreeMap<u16, Arc<str>>);

impl Aliases {
    /// Notes the alias of a packet from the device (MQTT 5), and answers what is kept in its place: the same with its full
    /// topic and no alias. `None` when it has none, or one that the worker will refuse; CONNACK allows `max`.
    pub(super) fn resolve(&mut self, frame: Frame<'_>, max: u16) -> Option<OwnedFrame> {
        if max == 0 || frame.packet_type() != PacketType::Publish || !has_properties(frame) {
            return None;
        }
        let publish = Publish::decode(ProtocolVersion::V5, Receiver::Server, frame).ok()?;
        let summary = publish.properties.publish_summary();
        let alias = summary.topic_alias.filter(|alias| *alias <= max)?;
        if !publish.topic.is_empty() {
            self.0.insert(alias, publish.topic.into());
        }
        let topic = self.0.get(&alias)?;
        let head = PublishHead {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic,
            packet_id: publish.packet_id,
            alias: None,
            message_expiry_remaining_s: summary.message_expiry_s,
            subscription_ids: &[],
            properties: &summary.forwardable,
            payload_len: publish.payload.len(),
        };
        let mut packet = BytesMut::with_capacity(head.encoded_len(ProtocolVersion::V5));
        if !head.encode_into(ProtocolVersion::V5, &mut packet) {
            return None;
        }
        packet.extend_from_slice(publish.payload);
        OwnedFrame::from_bytes(packet.freeze(), u32::MAX).ok().flatten()
    }

    /// As they stand, for a resume.
    pub(super) fn list(&self) -> Vec<TopicAlias> {
        self.0.iter().map(|(&alias, topic)| TopicAlias { alias, topic: topic.clone() }).collect()
    }
}

/// Whether a PUBLISH of MQTT 5 has any property; most have none and need not be decoded here.
fn has_properties(frame: Frame<'_>) -> bool {
    let Some((topic_len, rest)) = frame.body().split_first_chunk() else { return false };
    let packet_id_len = if frame.is_qos0_publish() { 0 } else { 2 };
    rest.get(usize::from(u16::from_be_bytes(*topic_len)) + packet_id_len).is_some_and(|length| *length != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(topic: &str, alias: Option<u16>) -> Vec<u8> {
        let head = PublishHead {
            dup: false,
            qos: mqtt::QoS::AtLeastOnce,
            retain: true,
            topic,
            packet_id: mqtt::PacketId::new(7),
            alias,
            message_expiry_remaining_s: Some(9),
            subscription_ids: &[],
            properties: &[0x01, 1],
            payload_len: 3,
        };
        let mut packet = Vec::new();
        assert!(head.encode_into(ProtocolVersion::V5, &mut packet));
        packet.extend_from_slice(b"abc");
        packet
    }

    fn resolve(aliases: &mut Aliases, packet: &[u8]) -> Option<Vec<u8>> {
        let packet = mqtt::frame::split(packet, 1_000).expect("framed").expect("whole");
        aliases.resolve(packet, 2).map(|packet| packet.raw.into())
    }

    #[test]
    fn what_is_kept_has_its_full_topic_and_everything_else_as_it_was() {
        let mut aliases = Aliases::default();
        let plain = publish("a/b", None);
        assert_eq!(resolve(&mut aliases, &plain), None);
        assert_eq!(resolve(&mut aliases, &publish("", Some(1))), None, "not known yet");
        assert_eq!(resolve(&mut aliases, &publish("a/b", Some(1))).as_deref(), Some(&plain[..]));
        assert_eq!(resolve(&mut aliases, &publish("", Some(1))).as_deref(), Some(&plain[..]));
        assert_eq!(resolve(&mut aliases, &publish("c", Some(3))), None, "more than allowed");
        resolve(&mut aliases, &publish("c", Some(1)));
        let list = aliases.list();
        assert_eq!((list.len(), list[0].alias, &*list[0].topic), (1, 1, "c"));
    }

    #[test]
    fn a_packet_without_properties_is_not_decoded() {
        let mut aliases = Aliases::default();
        assert_eq!(resolve(&mut aliases, b"\x32\x06\0\x01t\0\x01\0"), None);
        assert_eq!(resolve(&mut aliases, b"\x32\x02\0\x09"), None, "cut short");
    }
}
