//! A model of a client: it keeps its part of a session as the specification says, sees through what a server must not do, and notes
//! what its application got. It has no connection of its own: packets go in and out of it.

mod message;
mod subscription;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use mqtt::{
    Ack, AckKind, Disconnect, Frame, Packet, PacketId, PropertiesBuf, Property, ProtocolVersion, Publish,
    QoS, ReasonCode, Receiver, Will,
};

pub use self::message::{ELSEWHERE, Message, RETAINED};
pub use self::subscription::Wish;

use crate::connection::{bytes_of, connect};

/// Session Expiry Interval of sessions that outlive their connections.
const EXPIRY_S: u32 = 3600;

/// Packet Identifiers that it uses: small ones come again soon.
const IDS_MAX: u16 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Publish(Message),
    Released,
}

/// Which message came last by an identifier.
#[derive(Clone, Copy, Debug)]
struct Came {
    index: u32,
    /// On which of the client's connections.
    by: u32,
    /// It was acknowledged in full.
    is_done: bool,
}

/// What a client notices that its driver has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// It has its session.
    Connected,
    /// The connection is refused for now.
    Refused,
    /// The server has this message of its.
    Acknowledged(Message),
    /// A change of a subscription is refused.
    NotChanged,
    /// The server ends the connection, and says why.
    Told(ReasonCode),
}

/// Where its connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Offline,
    /// CONNECT was sent.
    Connecting,
    /// CONNACK came.
    Connected,
}

/// One client.
pub struct Client {
    /// Its Client Identifier.
    pub name: String,
    /// What it speaks.
    pub version: ProtocolVersion,
    /// Its session ends with its connection.
    pub is_clean: bool,
    /// Messages that it may be sent at once, unacknowledged.
    pub receive_maximum: u16,
    /// Topic Aliases that it takes, and gives.
    alias_max: u16,
    /// Where its connection stands.
    pub phase: Phase,
    has_session: bool,
    /// Its flows to the server, in the order of the PUBLISH packets.
    flows: VecDeque<(PacketId, Flow)>,
    next_id: PacketId,
    filters: &'static [&'static str],
    /// Where the subscription to each of its filters stands.
    pub wishes: Vec<Wish>,
    changes: BTreeMap<PacketId, (usize, bool)>,
    /// QoS 2 identifiers that it has got and not seen released.
    received: BTreeSet<PacketId>,
    /// QoS 1 and 2 identifiers of this connection that it has not acknowledged in full.
    unacknowledged: BTreeSet<PacketId>,
    came: BTreeMap<PacketId, Came>,
    /// Acknowledgements that it takes its time with, in order.
    pending: VecDeque<(AckKind, PacketId)>,
    /// Identifiers of which PUBREC came on this connection.
    recorded: BTreeSet<PacketId>,
    /// Connections that it has begun.
    connections: u32,
    from_server: BTreeMap<u16, String>,
    to_server: BTreeMap<u16, String>,
    /// Messages from this index on were published when the connection was there already.
    pub fresh_from: u32,
    /// Bytes to the server.
    pub sending: BytesMut,
    /// What its application got, in order.
    pub got: Vec<Message>,
    /// How much of that earlier connections of it brought.
    pub connections_at: Vec<usize>,
    /// How much of that earlier sessions of it brought.
    pub sessions_at: Vec<usize>,
}

impl Client {
    /// One that subscribes to some of `filters`.
    pub fn new(
        name: String,
        version: ProtocolVersion,
        is_clean: bool,
        (receive_maximum, alias_max): (u16, u16),
        filters: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            version,
            is_clean,
            receive_maximum: if version.is_v5() { receive_maximum } else { u16::MAX },
            alias_max: if version.is_v5() { alias_max } else { 0 },
            phase: Phase::Offline,
            has_session: false,
            flows: VecDeque::new(),
            next_id: PacketId::MIN,
            filters,
            wishes: vec![Wish::Off; filters.len()],
            changes: BTreeMap::new(),
            received: BTreeSet::new(),
            unacknowledged: BTreeSet::new(),
            came: BTreeMap::new(),
            pending: VecDeque::new(),
            recorded: BTreeSet::new(),
            connections: 0,
            from_server: BTreeMap::new(),
            to_server: BTreeMap::new(),
            fresh_from: 0,
            sending: BytesMut::new(),
            got: Vec::new(),
            connections_at: Vec::new(),
            sessions_at: Vec::new(),
        }
    }

    /// A new connection begins: its CONNECT, with a Will if it leaves one.
    pub fn connect(&mut self, will: Option<Will<'_>>) -> Bytes {
        self.phase = Phase::Connecting;
        self.connections += 1;
        self.sending.clear();
        let mut properties = PropertiesBuf::new();
        if self.version.is_v5() {
            properties.push(Property::SessionExpiryInterval(if self.is_clean { 0 } else { EXPIRY_S }));
            properties.push(Property::ReceiveMaximum(self.receive_maximum));
            properties.push(Property::TopicAliasMaximum(self.alias_max));
        }
        bytes_of(&mqtt::Connect {
            clean_start: self.is_clean,
            properties: properties.as_properties(),
            will,
            ..connect(self.version, &self.name)
        })
    }

    /// The connection is gone.
    pub fn lose(&mut self) {
        self.phase = Phase::Offline;
        self.sending.clear();
        self.pending.clear();
        self.forget_changes();
    }

    /// The last packet of a connection that ends well.
    pub fn disconnect(&self) -> BytesMut {
        let mut packet = BytesMut::new();
        Disconnect::new(ReasonCode::NormalDisconnection).encode(self.version, &mut packet);
        packet
    }

    /// How many of its messages are not done with.
    pub fn in_flight(&self) -> usize {
        self.flows.len()
    }

    /// Nothing is under way in either direction, as far as it knows.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Connected
            && self.flows.is_empty()
            && self.received.is_empty()
            && self.pending.is_empty()
            && self.sending.is_empty()
            && self.is_subscribed_as_it_wishes()
    }

    /// What is under way.
    pub fn tell(&self) -> String {
        format!(
            "{:?}, {:?}, {:?}, {:?}, {:?}",
            self.phase, self.flows, self.changes, self.received, self.wishes
        )
    }

    /// Publishes a message, by a Topic Alias if it may give that one.
    pub fn publish(&mut self, message: Message, alias: u16) {
        let id = (message.qos != QoS::AtMostOnce).then(|| self.take_id());
        if let Some(id) = id {
            self.flows.push_back((id, Flow::Publish(message)));
        }
        self.put_publish(message, id, false, alias);
    }

    /// Sends a QoS 2 message again though its connection did not break, as a client of MQTT 3.1 may.
    pub fn repeat_if_impatient(&mut self) {
        if self.phase != Phase::Connected || self.version != ProtocolVersion::V31 {
            return;
        }
        let first = self.flows.iter().find_map(|(id, flow)| match flow {
            Flow::Publish(message) if message.qos == QoS::ExactlyOnce => Some((*id, *message)),
            _ => None,
        });
        if let Some((id, message)) = first {
            self.put_publish(message, Some(id), true, 0);
        }
    }

    /// Sends the acknowledgement that is due next. Answers whether there was one.
    pub fn acknowledge_one(&mut self) -> bool {
        let Some((kind, id)) = self.pending.pop_front() else { return false };
        if matches!(kind, AckKind::PubAck | AckKind::PubComp) {
            self.unacknowledged.remove(&id);
            if let Some(came) = self.came.get_mut(&id) {
                came.is_done = true;
            }
        }
        self.put_ack(kind, id);
        true
    }

    /// Sends all that are due.
    pub fn acknowledge(&mut self) {
        while self.acknowledge_one() {}
    }

    fn take_id(&mut self) -> PacketId {
        loop {
            let id = self.next_id;
            self.next_id = if id.as_u16() >= IDS_MAX { PacketId::MIN } else { id.next() };
            if !self.flows.iter().any(|(used, _)| *used == id) && !self.changes.contains_key(&id) {
                return id;
            }
        }
    }

    fn put_publish(&mut self, message: Message, packet_id: Option<PacketId>, dup: bool, alias: u16) {
        let topic = message.topic_name();
        let mut properties = PropertiesBuf::new();
        let mut named = &*topic;
        if (1..=self.alias_max).contains(&alias) {
            properties.push(Property::TopicAlias(alias));
            if self.to_server.insert(alias, topic.clone()).as_ref() == Some(&topic) {
                named = "";
            }
        }
        let payload = message.payload();
        let packet = Publish {
            dup,
            qos: message.qos,
            retain: message.is_retained(),
            topic: named,
            packet_id,
            properties: properties.as_properties(),
            payload: &payload,
        };
        tracing::info!(client = self.name, message.index, id = ?packet_id, dup, qos = ?message.qos, "publishes");
        packet.encode(self.version, &mut self.sending);
    }

    fn put_ack(&mut self, kind: AckKind, id: PacketId) {
        Ack::new(id, ReasonCode::Success).encode(kind, self.version, &mut self.sending);
    }

    /// A packet came.
    ///
    /// # Panics
    /// When a server must not send it.
    pub fn take(&mut self, frame: Frame<'_>) -> Option<Noticed> {
        let packet = Packet::decode(self.version, Receiver::Client, frame).expect("a valid packet");
        match &packet {
            Packet::ConnAck(connack) => {
                assert_eq!(self.phase, Phase::Connecting, "{}: one CONNACK", self.name);
                if connack.reason.is_error() {
                    return Some(Noticed::Refused);
                }
                self.on_connack(connack.session_present);
                return Some(Noticed::Connected);
            }
            Packet::Disconnect(disconnect) => return Some(Noticed::Told(disconnect.reason)),
            _ => assert_eq!(self.phase, Phase::Connected, "{}: CONNACK comes before {packet:?}", self.name),
        }
        match &packet {
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(ack) => return Some(self.on_puback(ack)),
            Packet::PubRec(ack) => return self.on_pubrec(ack),
            Packet::PubRel(ack) => {
                self.received.remove(&ack.packet_id);
                self.pending.push_back((AckKind::PubComp, ack.packet_id));
            }
            Packet::PubComp(ack) => self.on_pubcomp(ack),
            Packet::SubAck(ack) => {
                return self.on_change(ack.packet_id, ack.codes.iter().any(ReasonCode::is_error));
            }
            Packet::UnsubAck(ack) => {
                return self.on_change(ack.packet_id, ack.codes.iter().any(ReasonCode::is_error));
            }
            other => panic!("{}: unexpected {other:?}", self.name),
        }
        None
    }

    fn on_connack(&mut self, session_present: bool) {
        // 3.1 has no Session Present: the client knows from itself that it did not ask for a clean session.
        let is_untold = self.version == ProtocolVersion::V31 && !self.is_clean && self.has_session;
        let goes_on = session_present || is_untold;
        assert!(goes_on || self.is_clean || !self.has_session, "the session of {} is lost", self.name);
        assert!(!session_present || !self.is_clean, "{} asked for a clean session", self.name);
        self.phase = Phase::Connected;
        self.has_session = true;
        self.unacknowledged.clear();
        self.recorded.clear();
        self.from_server.clear();
        self.to_server.clear();
        self.connections_at.push(self.got.len());
        if !goes_on {
            self.sessions_at.push(self.got.len());
            self.came.clear();
            self.flows.clear();
            self.received.clear();
        }
        // v5 [MQTT-4.4.0-1], v5 [MQTT-4.6.0-1]
        for (id, flow) in self.flows.clone() {
            match flow {
                Flow::Publish(message) => self.put_publish(message, Some(id), true, 0),
                Flow::Released => self.put_ack(AckKind::PubRel, id),
            }
        }
        self.insist();
    }

    fn on_publish(&mut self, publish: &Publish<'_>) {
        let message = Message::read(&self.topic_of(publish), publish.qos, publish.payload);
        let (index, dup) = (message.index, publish.dup);
        tracing::info!(client = self.name, index, id = ?publish.packet_id, dup, "gets a message");
        let Some(id) = publish.packet_id else { return self.got.push(message) };
        assert!(self.unacknowledged.insert(id), "{}: identifier {id:?} is in use", self.name);
        // v5 [MQTT-3.3.4-9]
        let bound = usize::from(self.receive_maximum);
        assert!(self.unacknowledged.len() <= bound, "{}: more than {bound} unacknowledged", self.name);
        // v5 [MQTT-4.4.0-1], v5 [MQTT-3.3.1-1]
        let is_fresh = message.topic != ELSEWHERE && index >= self.fresh_from && !message.clears();
        assert!(!dup || !is_fresh, "{}: DUP on a connection that did not break", self.name);
        if let Some(before) = self.came.insert(id, Came { index, by: self.connections, is_done: false })
            && before.by < self.connections
        {
            let is_same = before.index == index;
            assert!(is_same || before.is_done, "{}: identifier {id:?} is that of {before:?}", self.name);
            // A retained message comes with each subscription anew.
            let is_anew = message.clears() || (message.is_retained() && before.is_done);
            assert!(dup || !is_same || is_anew, "{}: {index} again without DUP", self.name);
        }
        let is_new = publish.qos == QoS::AtLeastOnce || self.received.insert(id);
        if is_new && !message.clears() {
            self.got.push(message);
        }
        let kind = if publish.qos == QoS::AtLeastOnce { AckKind::PubAck } else { AckKind::PubRec };
        self.pending.push_back((kind, id));
    }

    fn topic_of(&mut self, publish: &Publish<'_>) -> String {
        let Some(alias) = publish.properties.publish_summary().topic_alias else {
            return publish.topic.into();
        };
        // v5 [MQTT-3.1.2-26]
        assert!((1..=self.alias_max).contains(&alias), "{}: alias {alias}", self.name);
        if !publish.topic.is_empty() {
            self.from_server.insert(alias, publish.topic.into());
        }
        self.from_server.get(&alias).cloned().unwrap_or_else(|| panic!("{}: alias {alias} is new", self.name))
    }

    fn on_puback(&mut self, ack: &Ack<'_>) -> Noticed {
        assert!(!ack.reason.is_error(), "{}: {ack:?}", self.name);
        // Not demanded of a server, but ours keeps the order of the PUBLISH packets.
        let first = self
            .flows
            .iter()
            .position(|(_, flow)| matches!(flow, Flow::Publish(message) if message.qos == QoS::AtLeastOnce));
        match first.and_then(|at| self.flows.remove(at)) {
            Some((id, Flow::Publish(message))) if id == ack.packet_id => Noticed::Acknowledged(message),
            other => panic!("{}: {ack:?} while the first is {other:?}", self.name),
        }
    }

    fn on_pubrec(&mut self, ack: &Ack<'_>) -> Option<Noticed> {
        assert!(!ack.reason.is_error(), "{}: {ack:?}", self.name);
        let flow = self.flows.iter_mut().find(|(id, _)| *id == ack.packet_id);
        let was = flow.map(|(_, flow)| std::mem::replace(flow, Flow::Released));
        let Some(Flow::Publish(message)) = was else {
            // Of what was repeated, one comes for each time.
            assert_eq!(self.version, ProtocolVersion::V31, "{}: {ack:?} for nothing", self.name);
            if was.is_some() {
                self.put_ack(AckKind::PubRel, ack.packet_id);
            }
            return None;
        };
        assert_eq!(message.qos, QoS::ExactlyOnce, "{}: PUBREC for QoS 1", self.name);
        tracing::info!(client = self.name, message.index, "is told that its message came");
        self.recorded.insert(ack.packet_id);
        self.put_ack(AckKind::PubRel, ack.packet_id);
        Some(Noticed::Acknowledged(message))
    }

    fn on_pubcomp(&mut self, ack: &Ack<'_>) {
        let is_known = ack.reason == ReasonCode::Success;
        let is_recorded = self.recorded.contains(&ack.packet_id);
        assert!(is_known || !is_recorded, "{}: {ack:?} of this connection", self.name);
        self.flows.retain(|flow| *flow != (ack.packet_id, Flow::Released));
        self.recorded.remove(&ack.packet_id);
    }
}
