//! A model device: keeps its part of a session as the specification says, sees through what a server must not do, and notes what
//! its application got. It has no connection of its own: packets go in and out of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use mqtt::{
    Ack, AckKind, Connect, Disconnect, Frame, Packet, PacketId, PropertiesBuf, Property, ProtocolVersion,
    Publish, QoS, ReasonCode, Receiver, Will,
};

/// The filters that devices subscribe to and withdraw from.
pub(super) const FILTERS: [&str; 3] = ["t/0", "t/1", "t/+"];

/// Filters with what the watcher of Wills has.
const ALL_FILTERS: [&str; 4] = ["t/0", "t/1", "t/+", WILLS];
pub(super) const WILLS: &str = "w/+";
/// Its place among the filters.
pub(super) const WILLS_AT: usize = 3;

/// Messages that a device may send it at once, unacknowledged.
const RECEIVE_MAXIMUM: u16 = 8;

/// Changes of subscriptions that it asks for at once. Messages need identifiers, too.
const CHANGES_MAX: usize = 8;

/// Where a subscription stands, as the device knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wish {
    #[default]
    Off,
    Subscribing,
    On,
    Unsubscribing,
}

/// A message on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) index: u32,
    pub(super) topic: usize,
    pub(super) qos: QoS,
    /// Bytes of its payload, at least 4.
    pub(super) size: usize,
}

impl Message {
    fn payload(&self) -> Vec<u8> {
        let mut payload = self.index.to_be_bytes().to_vec();
        payload.resize(self.size.max(4), 7);
        payload
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Publish(Message),
    Released,
}

/// What CONNECT says besides who it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastWill {
    pub(super) index: u32,
    pub(super) delay_s: u32,
    pub(super) qos: QoS,
}

/// What a device noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noticed {
    /// It has its session.
    Connected,
    /// The connection is refused for now.
    Refused,
    Acknowledged(u32),
    /// A change of a subscription is refused.
    NotChanged,
    /// The server ended the connection, and says why.
    Told(ReasonCode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Offline,
    Connecting,
    Connected,
}

pub(super) struct Client {
    pub(super) name: String,
    pub(super) version: ProtocolVersion,
    pub(super) is_clean: bool,
    /// Topic Aliases that it takes, and gives.
    alias_max: u16,
    pub(super) phase: Phase,
    has_session: bool,
    /// In the order of the PUBLISH packets.
    flows: VecDeque<(PacketId, Flow)>,
    next_id: PacketId,
    pub(super) wishes: [Wish; 4],
    changes: BTreeMap<PacketId, (usize, bool)>,
    /// QoS 2 identifiers that it has got and not seen released.
    received: BTreeSet<PacketId>,
    /// QoS 1 and 2 identifiers of this connection that it has not acknowledged in full.
    unacknowledged: BTreeSet<PacketId>,
    /// Which message came last by which identifier, and by which of its connections.
    came: BTreeMap<PacketId, (u32, u32)>,
    /// Connections that it has begun.
    connections: u32,
    from_server: BTreeMap<u16, String>,
    to_server: BTreeMap<u16, String>,
    /// Messages from this on were published when the connection was there already.
    fresh_from: u32,
    /// What is to be sent.
    pub(super) sending: VecDeque<Bytes>,
    /// What its application got, in order.
    pub(super) got: Vec<u32>,
    /// How much of that earlier sessions of it brought, if they are over.
    pub(super) sessions: Vec<usize>,
}

impl Client {
    pub(super) fn new(name: String, version: ProtocolVersion, is_clean: bool, alias_max: u16) -> Self {
        Self {
            name,
            version,
            is_clean,
            alias_max: if version.is_v5() { alias_max } else { 0 },
            phase: Phase::Offline,
            has_session: false,
            flows: VecDeque::new(),
            next_id: PacketId::MIN,
            wishes: [Wish::Off; 4],
            changes: BTreeMap::new(),
            received: BTreeSet::new(),
            unacknowledged: BTreeSet::new(),
            came: BTreeMap::new(),
            connections: 0,
            from_server: BTreeMap::new(),
            to_server: BTreeMap::new(),
            fresh_from: 0,
            sending: VecDeque::new(),
            got: Vec::new(),
            sessions: Vec::new(),
        }
    }

    /// A new connection begins: its CONNECT.
    pub(super) fn connect(&mut self, will: Option<LastWill>) -> Bytes {
        self.phase = Phase::Connecting;
        self.connections += 1;
        self.sending.clear();
        let properties = PropertiesBuf::default()
            .with(Property::SessionExpiryInterval(if self.is_clean { 0 } else { 3600 }))
            .with(Property::ReceiveMaximum(RECEIVE_MAXIMUM))
            .with(Property::TopicAliasMaximum(self.alias_max));
        let delay = will.map_or(0, |will| will.delay_s);
        let of_will = PropertiesBuf::default().with(Property::WillDelayInterval(delay));
        let none = PropertiesBuf::default();
        let (properties, of_will) =
            if self.version.is_v5() { (properties, of_will) } else { (none.clone(), none) };
        let payload = will.map(|will| (will.index | WILL_BIT).to_be_bytes());
        let topic = format!("w/{}", self.name);
        let connect = Connect {
            version: self.version,
            is_bridge: false,
            clean_start: self.is_clean,
            keep_alive_s: 0,
            properties: properties.as_properties(),
            client_id: &self.name,
            will: will.zip(payload.as_ref()).map(|(will, payload)| Will {
                qos: will.qos,
                retain: false,
                topic: &topic,
                payload,
                properties: of_will.as_properties(),
            }),
            user_name: None,
            password: None,
        };
        let mut packet = BytesMut::new();
        connect.encode(&mut packet);
        packet.freeze()
    }

    /// The connection is gone.
    pub(super) fn lose(&mut self) {
        self.phase = Phase::Offline;
        self.sending.clear();
        self.changes.clear();
        if self.is_clean {
            self.wishes = [Wish::Off; 4];
        }
    }

    /// The last packet of a connection that ends well.
    pub(super) fn disconnect(&self) -> Bytes {
        let mut packet = BytesMut::new();
        Disconnect::new(ReasonCode::NormalDisconnection).encode(self.version, &mut packet);
        packet.freeze()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flows.len()
    }

    /// Nothing is under way in either direction, as far as it knows.
    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Connected
            && self.flows.is_empty()
            && self.changes.is_empty()
            && self.received.is_empty()
            && self.sending.is_empty()
            && self.wishes.iter().all(|wish| matches!(wish, Wish::Off | Wish::On))
    }

    pub(super) fn publish(&mut self, message: Message, alias: u16) {
        let id = (message.qos != QoS::AtMostOnce).then(|| self.take_id());
        if let Some(id) = id {
            self.flows.push_back((id, Flow::Publish(message)));
        }
        self.put_publish(message, id, false, alias);
    }

    /// Asks for a change of a subscription, unless too many have no answer.
    pub(super) fn change(&mut self, filter: usize, is_on: bool) {
        if self.changes.len() >= CHANGES_MAX {
            return;
        }
        self.wishes[filter] = match (is_on, self.wishes[filter]) {
            (true, Wish::On) => Wish::On,
            (true, _) => Wish::Subscribing,
            (false, _) => Wish::Unsubscribing,
        };
        self.put_change(filter, is_on);
    }

    /// Asks again for what was refused or not answered.
    pub(super) fn insist(&mut self) {
        for filter in 0..self.wishes.len() {
            let is_asked = self.changes.values().any(|(asked, _)| *asked == filter);
            match self.wishes[filter] {
                Wish::Subscribing if !is_asked => self.put_change(filter, true),
                Wish::Unsubscribing if !is_asked => self.put_change(filter, false),
                _ => {}
            }
        }
    }

    pub(super) fn insist_if_connected(&mut self) {
        if self.phase == Phase::Connected {
            self.insist();
        }
    }

    /// What is under way.
    pub(super) fn tell(&self) -> String {
        format!(
            "{:?}, {:?}, {:?}, {:?}, {:?}",
            self.phase, self.flows, self.changes, self.received, self.wishes
        )
    }

    fn put_change(&mut self, filter: usize, is_on: bool) {
        let id = self.take_id();
        tracing::info!(client = self.name, filter, is_on, "changes a subscription");
        self.changes.insert(id, (filter, is_on));
        let text = ALL_FILTERS[filter].as_bytes();
        let mut body = id.as_u16().to_be_bytes().to_vec();
        if self.version.is_v5() {
            body.push(0);
        }
        body.extend([0, text.len() as u8]);
        body.extend(text);
        if is_on {
            body.push(2);
        }
        let first_byte = if is_on { 0x82 } else { 0xA2 };
        self.sending.push_back([&[first_byte, body.len() as u8], &body[..]].concat().into());
    }

    /// Small identifiers come again soon.
    fn take_id(&mut self) -> PacketId {
        loop {
            let id = self.next_id;
            self.next_id = if id.as_u16() >= 24 { PacketId::MIN } else { id.next() };
            if !self.flows.iter().any(|(used, _)| *used == id) && !self.changes.contains_key(&id) {
                return id;
            }
        }
    }

    fn put_publish(&mut self, message: Message, packet_id: Option<PacketId>, dup: bool, alias: u16) {
        let topic = format!("t/{}", message.topic);
        let mut properties = PropertiesBuf::default();
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
            retain: false,
            topic: named,
            packet_id,
            properties: properties.as_properties(),
            payload: &payload,
        };
        tracing::info!(client = self.name, message.index, id = ?packet_id, dup, qos = ?message.qos, "publishes");
        let mut bytes = BytesMut::new();
        packet.encode(self.version, &mut bytes);
        self.sending.push_back(bytes.freeze());
    }

    fn put_ack(&mut self, kind: AckKind, id: PacketId) {
        let mut bytes = BytesMut::new();
        Ack::new(id, ReasonCode::Success).encode(kind, self.version, &mut bytes);
        self.sending.push_back(bytes.freeze());
    }

    /// A packet came. `messages` were published so far.
    pub(super) fn take(&mut self, frame: Frame<'_>, messages: u32) -> Option<Noticed> {
        let packet = Packet::decode(self.version, Receiver::Client, frame).unwrap();
        if let Packet::ConnAck(connack) = &packet {
            assert_eq!(self.phase, Phase::Connecting, "{}: one CONNACK", self.name);
            if connack.reason.is_error() {
                return Some(Noticed::Refused);
            }
            self.fresh_from = messages;
            self.on_connack(connack.session_present);
            return Some(Noticed::Connected);
        }
        if let Packet::Disconnect(disconnect) = &packet {
            return Some(Noticed::Told(disconnect.reason));
        }
        assert_eq!(self.phase, Phase::Connected, "{}: CONNACK comes before {packet:?}", self.name);
        match &packet {
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(ack) => return Some(self.on_puback(ack)),
            Packet::PubRec(ack) => return self.on_pubrec(ack),
            Packet::PubRel(ack) => {
                self.received.remove(&ack.packet_id);
                self.unacknowledged.remove(&ack.packet_id);
                self.put_ack(AckKind::PubComp, ack.packet_id);
            }
            Packet::PubComp(ack) => {
                self.flows.retain(|flow| *flow != (ack.packet_id, Flow::Released));
            }
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
        assert!(
            session_present || self.is_clean || !self.has_session,
            "the session of {} is lost",
            self.name
        );
        assert!(!session_present || !self.is_clean, "{} asked for a clean session", self.name);
        self.phase = Phase::Connected;
        self.has_session = true;
        self.unacknowledged.clear();
        self.from_server.clear();
        self.to_server.clear();
        if !session_present {
            self.sessions.push(self.got.len());
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
        let index = u32::from_be_bytes(publish.payload[..4].try_into().unwrap());
        let topic = self.topic_of(publish);
        let (id, dup) = (publish.packet_id, publish.dup);
        tracing::info!(client = self.name, index, ?id, dup, "gets a message");
        assert_eq!(topic.starts_with("w/"), index & WILL_BIT != 0, "{}: {index} at {topic}", self.name);
        let Some(id) = publish.packet_id else { return self.got.push(index) };
        assert!(self.unacknowledged.insert(id), "{}: identifier {id:?} is in use", self.name);
        // v5 [MQTT-3.3.4-9]
        let bound = usize::from(RECEIVE_MAXIMUM);
        let is_over = self.version.is_v5() && self.unacknowledged.len() > bound;
        assert!(!is_over, "{}: more than {bound} unacknowledged", self.name);
        // v5 [MQTT-4.4.0-1], v5 [MQTT-3.3.1-1]
        let is_fresh = index & WILL_BIT == 0 && index >= self.fresh_from;
        assert!(!publish.dup || !is_fresh, "{}: DUP on a connection that did not break", self.name);
        let before = self.came.insert(id, (index, self.connections));
        let is_again = before.is_some_and(|(came, by)| came == index && by < self.connections);
        assert!(publish.dup || !is_again, "{}: {index} again without DUP", self.name);
        if publish.qos == QoS::AtLeastOnce {
            self.got.push(index);
            self.unacknowledged.remove(&id);
            self.put_ack(AckKind::PubAck, id);
        } else {
            if self.received.insert(id) {
                self.got.push(index);
            }
            self.put_ack(AckKind::PubRec, id);
        }
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
        // v5 [MQTT-4.6.0-2]
        let first = self
            .flows
            .iter()
            .position(|(_, flow)| matches!(flow, Flow::Publish(message) if message.qos == QoS::AtLeastOnce));
        let flow = first.and_then(|at| self.flows.remove(at));
        match flow {
            Some((id, Flow::Publish(message))) if id == ack.packet_id => Noticed::Acknowledged(message.index),
            other => panic!("{}: {ack:?} while the first is {other:?}", self.name),
        }
    }

    fn on_pubrec(&mut self, ack: &Ack<'_>) -> Option<Noticed> {
        assert!(!ack.reason.is_error(), "{}: {ack:?}", self.name);
        let flow = self.flows.iter_mut().find(|(id, _)| *id == ack.packet_id);
        let Some((id, Flow::Publish(message))) =
            flow.map(|(id, flow)| (*id, std::mem::replace(flow, Flow::Released)))
        else {
            panic!("{}: {ack:?} for nothing", self.name);
        };
        assert_eq!(message.qos, QoS::ExactlyOnce, "{}: PUBREC for QoS 1", self.name);
        tracing::info!(client = self.name, message.index, "is told that its message came");
        self.put_ack(AckKind::PubRel, id);
        Some(Noticed::Acknowledged(message.index))
    }

    fn on_change(&mut self, id: PacketId, is_refused: bool) -> Option<Noticed> {
        let Some((filter, is_on)) = self.changes.remove(&id) else {
            panic!("{}: an answer for nothing", self.name);
        };
        tracing::info!(client = self.name, filter, is_on, is_refused, "changed a subscription");
        // A later change of the same subscription may be under way.
        if !is_refused && !self.changes.values().any(|(other, _)| *other == filter) {
            self.wishes[filter] = if is_on { Wish::On } else { Wish::Off };
        }
        is_refused.then_some(Noticed::NotChanged)
    }

    /// Where its subscriptions will stand, as far as it can know, when what it sends now is carried out: as the changes that it
    /// has asked for on this connection leave them.
    pub(super) fn wishes_in_order(&self) -> [Wish; 4] {
        let is_asked = |filter: usize| self.changes.values().any(|(asked, _)| *asked == filter);
        std::array::from_fn(|filter| match self.wishes[filter] {
            Wish::Subscribing if is_asked(filter) => Wish::On,
            Wish::Unsubscribing if is_asked(filter) => Wish::Off,
            wish => wish,
        })
    }
}

/// Set in what a Will says.
pub(super) const WILL_BIT: u32 = 1 << 31;
