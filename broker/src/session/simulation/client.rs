//! A model client: keeps its session state as the specification says, sees through what a server must not do, and notes
//! every message that its application got.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt::{Ack, AckKind, Packet, PacketId, Properties, ProtocolVersion, Publish, QoS, ReasonCode, Receiver};

/// One message: topic number and serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) topic: usize,
    pub(super) qos: QoS,
    pub(super) serial: u32,
}

impl Message {
    pub(super) fn topic_name(self) -> String {
        format!("topic/{}", self.topic)
    }

    pub(super) fn payload(self) -> [u8; 4] {
        self.serial.to_be_bytes()
    }

    pub(super) fn read(topic: &str, qos: QoS, payload: &[u8]) -> Self {
        let topic = topic.strip_prefix("topic/").and_then(|n| n.parse().ok()).expect("a topic of ours");
        Self { topic, qos, serial: u32::from_be_bytes(payload.try_into().expect("four bytes")) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Publish(Message),
    Released,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) version: ProtocolVersion,
    pub(super) receive_maximum: u16,
    pub(super) alias_max: u16,
    /// Its flows to the server, in the order of the PUBLISH packets.
    outgoing: VecDeque<(PacketId, Outgoing)>,
    next_id: PacketId,
    /// QoS 2 identifiers it has got and not seen released.
    received: BTreeSet<PacketId>,
    /// QoS 1 and 2 messages of this connection that it has not acknowledged in full.
    unacknowledged: BTreeSet<PacketId>,
    /// Which message came by which identifier and has not been acknowledged in full.
    seen: BTreeMap<PacketId, Message>,
    /// Acknowledgements that it takes its time with, in order.
    pending: VecDeque<(AckKind, PacketId)>,
    aliases: BTreeMap<u16, String>,
    /// What its application got, in order.
    pub(super) got: Vec<Message>,
    /// Its messages that the server has acknowledged.
    pub(super) acknowledged: Vec<Message>,
    /// Bytes to the server.
    pub(super) sending: Vec<u8>,
    /// Bytes from the server that are not a whole packet.
    partial: Vec<u8>,
    connected: bool,
    has_session: bool,
    /// Messages with a serial number from this on were published when the connection was there already.
    fresh_from: u32,
    /// QoS 1 and 2 messages that came on this connection, and identifiers of which PUBREC came.
    came: BTreeSet<u32>,
    recorded: BTreeSet<PacketId>,
}

impl Client {
    pub(super) fn new(version: ProtocolVersion, receive_maximum: u16, alias_max: u16) -> Self {
        Self {
            version,
            receive_maximum,
            alias_max,
            outgoing: VecDeque::new(),
            next_id: PacketId::MIN,
            received: BTreeSet::new(),
            unacknowledged: BTreeSet::new(),
            seen: BTreeMap::new(),
            pending: VecDeque::new(),
            aliases: BTreeMap::new(),
            got: Vec::new(),
            acknowledged: Vec::new(),
            sending: Vec::new(),
            partial: Vec::new(),
            connected: false,
            has_session: false,
            fresh_from: 0,
            came: BTreeSet::new(),
            recorded: BTreeSet::new(),
        }
    }

    /// The connection broke.
    pub(super) fn disconnect(&mut self) {
        self.connected = false;
        self.sending.clear();
        self.partial.clear();
        self.pending.clear();
    }

    /// 3.1 has no Session Present: the client knows from itself that it did not ask for a clean session.
    /// Messages from `serial` on are new to it.
    pub(super) fn trust_session(&mut self, has_session: bool, serial: u32) {
        self.has_session = has_session;
        self.fresh_from = serial;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outgoing.is_empty()
            && self.pending.is_empty()
            && self.sending.is_empty()
            && self.received.is_empty()
    }

    /// A QoS 1 or 2 flow may begin within the server's Receive Maximum.
    pub(super) fn may_publish(&self, receive_maximum: usize) -> bool {
        self.connected && self.outgoing.len() < receive_maximum
    }

    pub(super) fn publish(&mut self, message: Message) {
        let mut id = None;
        if message.qos != QoS::AtMostOnce {
            while self.outgoing.iter().any(|(used, _)| *used == self.next_id) {
                self.next_id = self.next_id.next();
            }
            id = Some(self.next_id);
            self.outgoing.push_back((self.next_id, Outgoing::Publish(message)));
            // Small identifiers come again soon.
            self.next_id = if self.next_id.as_u16() >= 12 { PacketId::MIN } else { self.next_id.next() };
        }
        self.put_publish(message, id, false);
    }

    /// A client of MQTT 3.1 sends a QoS 2 message again when it is impatient.
    pub(super) fn repeat_if_impatient(&mut self) {
        if !self.connected || self.version != ProtocolVersion::V31 {
            return;
        }
        let first = self.outgoing.iter().find_map(|(id, flow)| match flow {
            Outgoing::Publish(message) if message.qos == QoS::ExactlyOnce => Some((*id, *message)),
            _ => None,
        });
        if let Some((id, message)) = first {
            self.put_publish(message, Some(id), true);
        }
    }

    /// Sends the acknowledgement that is due next.
    pub(super) fn acknowledge_one(&mut self) {
        let Some((kind, id)) = self.pending.pop_front() else { return };
        match kind {
            AckKind::PubAck | AckKind::PubComp => {
                self.unacknowledged.remove(&id);
                self.seen.remove(&id);
            }
            AckKind::PubRec | AckKind::PubRel => {}
        }
        self.put_ack(kind, id);
    }

    /// Bytes came.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.partial);
        let mut rest = &all[..];
        while let Some(frame) = mqtt::frame::split(rest, u32::MAX).expect("a valid packet") {
            rest = &rest[frame.raw.len()..];
            let packet = Packet::decode(self.version, Receiver::Client, frame).expect("a valid packet");
            self.on_packet(&packet);
        }
        self.partial = rest.to_vec();
    }

    fn on_packet(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::ConnAck(connack) => {
                let told =
                    connack.session_present || (self.version == ProtocolVersion::V31 && self.has_session);
                self.on_connack(told);
            }
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(ack) => self.finish(ack, QoS::AtLeastOnce),
            Packet::PubRec(ack) => self.on_pubrec(ack),
            Packet::PubRel(ack) => {
                assert_eq!(ack.reason, ReasonCode::Success, "every PUBREC of ours is known");
                self.received.remove(&ack.packet_id);
                self.pending.push_back((AckKind::PubComp, ack.packet_id));
            }
            Packet::PubComp(ack) => {
                let known =
                    self.outgoing.iter().position(|flow| *flow == (ack.packet_id, Outgoing::Released));
                let is_known = ack.reason == ReasonCode::Success;
                assert!(is_known || !self.recorded.contains(&ack.packet_id), "a flow of this connection");
                if let Some(position) = known {
                    self.outgoing.remove(position);
                    self.recorded.remove(&ack.packet_id);
                }
            }
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver, "nobody did anything wrong");
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn on_connack(&mut self, session_present: bool) {
        assert!(!self.connected, "one CONNACK");
        self.connected = true;
        self.unacknowledged.clear();
        self.came.clear();
        self.recorded.clear();
        self.aliases.clear();
        if !session_present {
            self.outgoing.clear();
            self.received.clear();
            self.seen.clear();
            return;
        }
        // v5 [MQTT-4.4.0-1], v5 [MQTT-4.6.0-1]
        for (id, flow) in self.outgoing.clone() {
            match flow {
                Outgoing::Publish(message) => self.put_publish(message, Some(id), true),
                Outgoing::Released => self.put_ack(AckKind::PubRel, id),
            }
        }
    }

    fn on_publish(&mut self, publish: &Publish<'_>) {
        assert!(self.connected, "CONNACK comes first");
        let message = Message::read(&self.topic(publish), publish.qos, publish.payload);
        let Some(id) = publish.packet_id else {
            self.got.push(message);
            return;
        };
        assert!(self.unacknowledged.insert(id), "identifier {id} is in use");
        assert!(self.came.insert(message.serial), "{message:?} came before on this connection");
        // v5 [MQTT-4.4.0-1], v5 [MQTT-3.3.1-1]
        assert!(!publish.dup || message.serial < self.fresh_from, "DUP on a connection that did not break");
        // v5 [MQTT-3.3.4-9]
        let window = usize::from(self.receive_maximum);
        assert!(self.unacknowledged.len() <= window, "over the Receive Maximum of {window}");
        if let Some(before) = self.seen.insert(id, message) {
            assert_eq!(before, message, "identifier {id} is still that of another message");
            // v5 [MQTT-3.3.1-1]
            assert!(publish.dup, "sent again without DUP");
        }
        if publish.qos == QoS::AtLeastOnce {
            self.got.push(message);
            self.pending.push_back((AckKind::PubAck, id));
        } else {
            if self.received.insert(id) {
                self.got.push(message);
            }
            self.pending.push_back((AckKind::PubRec, id));
        }
    }

    fn topic(&mut self, publish: &Publish<'_>) -> String {
        let Some(alias) = publish.properties.publish_summary().topic_alias else {
            return publish.topic.into();
        };
        // v5 [MQTT-3.3.2-11]
        assert!((1..=self.alias_max).contains(&alias), "alias {alias}");
        if !publish.topic.is_empty() {
            self.aliases.insert(alias, publish.topic.into());
        }
        self.aliases.get(&alias).cloned().expect("a known alias")
    }

    fn on_pubrec(&mut self, ack: &Ack<'_>) {
        assert!(!ack.reason.is_error(), "{ack:?}");
        let flow = self.outgoing.iter_mut().find(|(id, _)| *id == ack.packet_id);
        let Some((id, flow)) = flow else { return };
        let id = *id;
        if let Outgoing::Publish(message) = *flow {
            assert_eq!(message.qos, QoS::ExactlyOnce, "PUBREC for QoS 1");
            self.acknowledged.push(message);
            *flow = Outgoing::Released;
        }
        self.recorded.insert(id);
        self.put_ack(AckKind::PubRel, id);
    }

    fn finish(&mut self, ack: &Ack<'_>, qos: QoS) {
        assert!(!ack.reason.is_error(), "{ack:?}");
        // Not demanded of a server, but ours keeps the order of the PUBLISH packets.
        let oldest =
            |flow: &(PacketId, Outgoing)| matches!(flow.1, Outgoing::Publish(message) if message.qos == qos);
        let Some(position) = self.outgoing.iter().position(oldest) else { panic!("PUBACK for nothing") };
        let Some((id, Outgoing::Publish(message))) = self.outgoing.remove(position) else { return };
        assert_eq!(id, ack.packet_id, "PUBACK out of order");
        self.acknowledged.push(message);
    }

    fn put_publish(&mut self, message: Message, packet_id: Option<PacketId>, dup: bool) {
        let topic = message.topic_name();
        let packet = Publish {
            dup,
            qos: message.qos,
            retain: false,
            topic: &topic,
            packet_id,
            properties: Properties::EMPTY,
            payload: &message.payload(),
        };
        packet.encode(self.version, &mut self.sending);
    }

    fn put_ack(&mut self, kind: AckKind, id: PacketId) {
        Ack::new(id, ReasonCode::Success).encode(kind, self.version, &mut self.sending);
    }
}
