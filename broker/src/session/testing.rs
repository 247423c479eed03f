//! A session with hands: tests feed it packets and answers, and look at the bytes and effects that come out. The
//! invariants are checked after every input.

use std::sync::Arc;

use link::{Outgoing, Passport, Rule};
use mqtt::{
    Connect, Packet, PacketId, Properties, PropertiesBuf, Property, ProtocolVersion, QoS, ReasonCode,
};
use state::{Delivery, Fence, Message, Number, Owned, StoredSession};

use crate::config::BrokerConfig;

use super::handler::connect::Terms;
use super::{Effect, Input, Opening, Outputs, Request, Session, StoreOp};

/// What a test session is opened with.
pub(crate) struct Plan {
    pub(crate) version: ProtocolVersion,
    pub(crate) clean_start: bool,
    pub(crate) properties: PropertiesBuf,
    pub(crate) config: BrokerConfig,
    pub(crate) rules: Option<Vec<Rule>>,
    pub(crate) stored: Option<Owned>,
    pub(crate) resume: Option<Box<link::Resume>>,
    pub(crate) will_topic: Option<&'static str>,
    pub(crate) assigned: bool,
    pub(crate) server_keep_alive_s: Option<u16>,
    pub(crate) authentication: Option<link::AuthenticationOutcome>,
}

/// A session under test.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) session: Session,
    pub(crate) now: u64,
    wire: Outgoing,
    effects: Vec<Effect>,
}

impl Plan {
    /// A clean session that may do everything.
    pub(crate) fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            clean_start: true,
            properties: PropertiesBuf::new(),
            config: BrokerConfig::default(),
            rules: None,
            stored: None,
            resume: None,
            will_topic: None,
            assigned: false,
            server_keep_alive_s: None,
            authentication: None,
        }
    }

    /// With a property in CONNECT.
    pub(crate) fn with(mut self, property: Property<'_>) -> Self {
        self.properties.push(property);
        self
    }

    /// With a configuration that differs.
    pub(crate) fn configure(mut self, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// With a queue in the store, of which `head..tail` is unacknowledged and `..sent` was sent.
    pub(crate) fn stored(mut self, head: u64, sent: u64, tail: u64) -> Self {
        self.clean_start = false;
        self.stored = Some(owned(head, sent, tail));
        self
    }

    /// On a connection that was another worker's, which has kept so many packets that had no answer.
    pub(crate) fn resumed(mut self, backlog: u32) -> Self {
        let connack = bytes::Bytes::from_static(&[0x20, 3, 0, 0, 0]);
        let (flows, inbound_qos2, topic_aliases) = (Vec::new(), Vec::new(), Vec::new());
        let retained_due = bytes::Bytes::new();
        self.resume = Some(Box::new(link::Resume {
            connack,
            backlog,
            flows,
            inbound_qos2,
            topic_aliases,
            retained_due,
        }));
        self
    }

    /// Opens it and leaves what CONNACK said and what happened.
    pub(crate) fn try_open(self) -> (Result<Rig, ReasonCode>, Vec<u8>, Vec<Effect>) {
        let passport = match self.rules {
            Some(rules) => Passport::new("alice".into(), "client".into(), rules.into()),
            None => Passport::unrestricted("alice".into(), "client".into()),
        };
        let opening = Opening {
            client_id: "client".into(),
            assigned: self.assigned,
            passport: Arc::new(passport),
            server_keep_alive_s: self.server_keep_alive_s,
            authentication: self.authentication,
            stored: self.stored,
            memory_queue: false,
            resume: self.resume,
            now: 1_000_000,
        };
        let will = self.will_topic.map(|topic| mqtt::Will {
            qos: QoS::AtMostOnce,
            retain: false,
            topic,
            payload: b"gone",
            properties: Properties::EMPTY,
        });
        let connect = Connect {
            clean_start: self.clean_start,
            keep_alive_s: 60,
            properties: self.properties.as_properties(),
            will,
            ..testkit::connection::connect(self.version, "client")
        };
        let terms = Terms::read(&connect, &opening.passport, &self.config, opening.now);
        let (mut wire, mut effects) = (Outgoing::new(), Vec::new());
        let mut out = Outputs { wire: &mut wire, effects: &mut effects };
        let session = Session::open(opening, &terms, &Arc::new(self.config), &mut out);
        let connack = drain(&mut wire);
        match session {
            Ok(session) => {
                session.check_invariants();
                let rig = Rig { session, now: 1_000_000, wire: Outgoing::new(), effects: Vec::new() };
                (Ok(rig), connack, effects)
            }
            Err(reason) => (Err(reason), connack, effects),
        }
    }

    /// Opens it; CONNACK is not looked at, effects are kept.
    pub(crate) fn open(self) -> Rig {
        let (rig, _, effects) = self.try_open();
        let mut rig = rig.expect("the session opens");
        rig.effects = effects;
        rig
    }
}

impl Rig {
    /// A clean session of this version.
    pub(crate) fn new(version: ProtocolVersion) -> Self {
        Plan::new(version).open()
    }

    /// Hands in one input.
    pub(crate) fn input(&mut self, input: Input<'_>) -> &mut Self {
        let mut out = Outputs { wire: &mut self.wire, effects: &mut self.effects };
        self.session.handle(input, self.now, &mut out);
        self.session.check_invariants();
        self
    }

    /// The client sends these bytes: whole packets.
    pub(crate) fn bytes(&mut self, mut bytes: &[u8]) -> &mut Self {
        while !bytes.is_empty() {
            let frame =
                mqtt::frame::split(bytes, u32::MAX).expect("a valid fixed header").expect("a whole packet");
            bytes = &bytes[frame.raw.len()..];
            self.input(Input::Packet(frame));
        }
        self
    }

    /// The client sends this packet.
    pub(crate) fn packet(&mut self, packet: &Packet<'_>) -> &mut Self {
        let mut bytes = Vec::new();
        packet.encode(self.session.version, &mut bytes);
        self.bytes(&bytes)
    }

    /// The client publishes.
    pub(crate) fn publish(&mut self, topic: &str, qos: QoS, packet_id: u16) -> &mut Self {
        self.packet(&Packet::Publish(testkit::connection::publish(topic, b"x", qos, packet_id)))
    }

    /// The store has a publish, or nobody had to.
    pub(crate) fn published(&mut self, packet_id: u16, qos: QoS) -> &mut Self {
        self.input(Input::Published(id(packet_id), qos, Ok(ReasonCode::Success)))
    }

    /// What was written for the client since the last look.
    pub(crate) fn sent(&mut self) -> Vec<u8> {
        drain(&mut self.wire)
    }

    /// What was asked for since the last look.
    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What was asked for, as text, for comparison.
    pub(crate) fn effect_names(&mut self) -> Vec<String> {
        self.effects().iter().map(name).collect()
    }

    /// The way the connection ended.
    pub(crate) fn closing(&mut self) -> super::Closing {
        match self.effects().pop() {
            Some(Effect::Close(closing)) => closing,
            other => panic!("no close but {other:?}"),
        }
    }

    /// Bytes that wait on the wire are not taken: as a client that does not read.
    pub(crate) fn wire_len(&self) -> usize {
        self.wire.len()
    }
}

/// A short text for each effect.
fn name(effect: &Effect) -> String {
    match effect {
        Effect::Publish(id, message) => {
            format!("publish {} {}", id.map_or(0, PacketId::as_u16), message.topic())
        }
        Effect::RetainAgain(id, message) => format!("retain {id} {}", message.topic()),
        Effect::Request(id, Request::Subscribe(items)) => {
            let item = |item: &super::SubscribeItem| match &item.subscription {
                Ok(subscription) => subscription.filter.to_string(),
                Err(code) => format!("{:#04x}", code.as_u8()),
            };
            format!("subscribe {id} {}", items.iter().map(item).collect::<Vec<_>>().join(" "))
        }
        Effect::Request(id, Request::Unsubscribe { filters, .. }) => {
            format!("unsubscribe {id} {}", filters.join(" "))
        }
        Effect::MoreRetained(count) => format!("retained {count}"),
        Effect::Store(StoreOp::ReadQueue(from, count)) => format!("read {} {count}", from.0),
        Effect::Store(StoreOp::Acknowledge(number)) => format!("acknowledge {}", number.0),
        Effect::Store(StoreOp::MarkReleased(number)) => format!("release {}", number.0),
        Effect::Store(StoreOp::ForgetReceived(id)) => format!("forget {id}"),
        Effect::Limited(bound) => format!("limited {}", bound.label()),
        Effect::Dropped(reason, qos) => format!("dropped {reason:?} {}", qos.as_u8()),
        Effect::Close(closing) => format!("close {:#04x}", closing.reason.as_u8()),
    }
}

/// A Packet Identifier.
pub(crate) fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}

/// A message to a session.
pub(crate) fn delivery(topic: &str, payload: &[u8], qos: QoS) -> Delivery {
    let message = Message::new(topic, &[], payload, qos, false, 1_000_000);
    state::testing::delivery(&Arc::new(message), qos)
}

/// A stored session as its owner finds it.
pub(crate) fn owned(head: u64, sent: u64, tail: u64) -> Owned {
    let session = Arc::new(StoredSession { client_id: "client".into(), incarnation: 1 });
    Owned {
        fence: Fence { session, epoch: 1, nonce: 1 },
        present: true,
        subscriptions: Vec::new(),
        head: Number(head),
        tail: Number(tail),
        sent: Number(sent),
        repeats: Number(sent),
        received: Vec::new(),
        expiry_s: 0,
    }
}

fn drain(wire: &mut Outgoing) -> Vec<u8> {
    let mut all = Vec::with_capacity(wire.len());
    while !wire.is_empty() {
        all.extend_from_slice(wire.chunk());
        wire.advance(wire.chunk().len());
    }
    all
}
