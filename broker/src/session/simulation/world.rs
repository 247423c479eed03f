//! Everything around a session: the driver that has its effects done, the network, a store, other publishers. Each step is
//! a throw of dice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use link::{Outgoing, Passport};
use mqtt::{Connect, PacketId, PropertiesBuf, Property, ProtocolVersion, QoS, ReasonCode};
use state::{
    Claim, ConnectionId, Delivery, EXPIRY_NEVER, Enqueued, Fence, MemoryStore, Number, Origin, Owned,
    Publish, QueueLimits, QueuePage, Record, Release, Store, StoreError, StoredSession, SubscriptionIds,
    Target,
};

use super::client::{Client, Message};
use super::dice::Dice;
use crate::config::BrokerConfig;
use crate::session::{Effect, Input, Opening, Outputs, Session};

const TOPICS: usize = 2;
const NOW: u64 = 1_000_000;

/// What comes back to a session.
#[derive(Clone, Debug)]
enum Event {
    Deliver(Delivery),
    DeliverStored(Number, Delivery),
    Published(PacketId, QoS, Result<ReasonCode, StoreError>),
    Released(Number, Result<(), StoreError>),
    Forgotten(PacketId, Result<(), StoreError>),
    Queue(Result<QueuePage, StoreError>),
}

/// Answers of the store, for the connection that asked (0: whoever is there).
type Mailbox = Arc<Mutex<Vec<(u64, Event)>>>;

struct Connection {
    generation: u64,
    session: Session,
    fence: Option<Fence>,
    wire: Outgoing,
    /// Not done yet, in order.
    effects: VecDeque<Effect>,
    inbox: VecDeque<Event>,
    /// Bytes from the client that did not arrive yet.
    arriving: VecDeque<u8>,
    frames: mqtt::FrameBuffer,
}

pub(super) struct World {
    dice: Dice,
    config: Arc<BrokerConfig>,
    store: MemoryStore,
    mailbox: Mailbox,
    connection: Option<Connection>,
    client: Client,
    stored: bool,
    generation: u64,
    serial: u32,
    /// The client's session in the store, once it was there.
    session: Option<Arc<StoredSession>>,
    /// Who gets what the client publishes.
    sink: Arc<StoredSession>,
    sink_fence: Fence,
    /// QoS 1 and 2 messages for the client that were accepted for its stored session.
    promised: Arc<Mutex<Vec<Message>>>,
    /// QoS 1 and 2 messages that the connection's session in memory was given.
    given: Vec<Message>,
    /// What the client had got when the connection began.
    got_before: usize,
    /// How often what waits for the session is lost, late or repeated.
    faults_one_in: usize,
    calm: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let version = ProtocolVersion::ALL[dice.below(3)];
        let receive_maximum =
            if version.is_v5() { u16::try_from(1 + dice.below(6)).unwrap() } else { u16::MAX };
        let client = Client::new(version, receive_maximum, u16::try_from(dice.below(3)).unwrap());
        let config = BrokerConfig {
            receive_maximum: u16::try_from(1 + dice.below(8)).unwrap(),
            inflight_max: u16::try_from(1 + dice.below(10)).unwrap(),
            ..BrokerConfig::default()
        };
        let store = MemoryStore::new();
        let sink = claim(&store, "sink", 0, 1).expect("a session for the sink");
        store.hold();
        Self {
            stored: !dice.one_in(4),
            faults_one_in: 2 + dice.below(10),
            dice,
            config: Arc::new(config),
            store,
            mailbox: Mailbox::default(),
            connection: None,
            client,
            generation: 0,
            serial: 0,
            session: None,
            sink: Arc::clone(&sink.fence.session),
            sink_fence: sink.fence,
            promised: Arc::default(),
            given: Vec::new(),
            got_before: 0,
            calm: false,
        }
    }

    /// One throw of dice; `winding_down` makes nothing new.
    pub(super) fn step(&mut self, winding_down: bool) {
        match self.dice.below(100) {
            _ if self.connection.is_none() => self.reconnect(),
            0..16 if winding_down => {}
            0..8 => self.publish_to_client(),
            8..16 => self.publish_from_client(),
            16..34 => self.do_effect(),
            34..54 => {
                self.store.step();
            }
            54..72 => self.hand_in_event(),
            72..82 => self.move_bytes_to_client(),
            82..92 => self.move_bytes_to_session(),
            92..96 => self.client.acknowledge_one(),
            96 => self.hand_in(Input::Writable),
            97 => self.client.repeat_if_impatient(),
            98 if self.dice.one_in(2) => self.break_connection(),
            99 if self.dice.one_in(4) => self.crash(),
            _ => {}
        }
    }

    /// Faults end; everything runs until nothing is left to do.
    pub(super) fn settle(&mut self) {
        self.calm = true;
        // What was told and lost is found by reading: a reconnect begins with that, a later number shows the gap.
        if self.stored && self.dice.one_in(2) {
            self.break_connection();
            self.run_until_quiet();
        } else {
            self.run_until_quiet();
            self.publish_to_client_at(QoS::AtLeastOnce);
            self.run_until_quiet();
        }
    }

    fn run_until_quiet(&mut self) {
        for _ in 0..100_000 {
            if self.connection.is_none() {
                self.reconnect();
            }
            self.client.acknowledge_one();
            self.move_bytes_to_session();
            self.do_effect();
            self.store.step();
            self.hand_in_event();
            self.move_bytes_to_client();
            if self.connection.as_ref().is_some_and(|connection| connection.session.waits_for_room()) {
                self.hand_in(Input::Writable);
            }
            if self.is_quiet() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn is_quiet(&mut self) -> bool {
        self.collect();
        let Some(connection) = &self.connection else { return false };
        connection.effects.is_empty()
            && connection.inbox.is_empty()
            && connection.wire.is_empty()
            && connection.arriving.is_empty()
            && self.store.held() == 0
            && self.client.is_idle()
    }

    /// What must hold at the end.
    pub(super) fn check(&self) {
        let connection = self.connection.as_ref().expect("connected");
        assert_eq!(connection.session.outbound.inflight(), 0, "every flow to the client is over");
        assert_eq!(connection.session.outbound.waiting(), 0, "nothing waits");
        let owed = if self.stored { self.promised.lock().unwrap().clone() } else { self.given.clone() };
        let got = if self.stored { &self.client.got[..] } else { &self.client.got[self.got_before..] };
        check_delivery("to the client", &owed, got);
        if !self.stored {
            let queued = got.iter().filter(|message| message.qos != QoS::AtMostOnce).count();
            assert_eq!(queued, owed.len(), "a session in memory sends nothing twice");
        }
        let read = read_all(&self.store, &self.sink_fence);
        check_delivery("from the client", &self.client.acknowledged, &read);
        if let Some(fence) = &connection.fence {
            assert!(read_all(&self.store, fence).is_empty(), "what was acknowledged leaves the store");
        }
    }

    fn message(&mut self, qos: QoS) -> Message {
        self.serial += 1;
        Message { topic: self.dice.below(TOPICS), qos, serial: self.serial }
    }

    fn any_qos(&mut self) -> QoS {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.dice.below(3)]
    }

    /// Somebody else publishes, to the client's subscription.
    fn publish_to_client(&mut self) {
        let qos = self.any_qos();
        self.publish_to_client_at(qos);
    }

    fn publish_to_client_at(&mut self, qos: QoS) {
        let message = self.message(qos);
        let delivery = Delivery {
            message: Arc::new(as_stored(message)),
            qos: message.qos,
            retain: false,
            subscription_ids: SubscriptionIds::NONE,
        };
        if message.qos == QoS::AtMostOnce || !self.stored {
            if let Some(connection) = &mut self.connection {
                connection.inbox.push_back(Event::Deliver(delivery));
                if message.qos != QoS::AtMostOnce {
                    self.given.push(message);
                }
            }
            return;
        }
        let Some(session) = &self.session else { return };
        let targets = vec![Target { session: Arc::clone(session), delivery: delivery.clone() }];
        let publish = Publish { message: Arc::clone(&delivery.message), origin: None, targets };
        let (mailbox, promised) = (Arc::clone(&self.mailbox), Arc::clone(&self.promised));
        self.store.publish(
            publish,
            Box::new(move |result| {
                if let Ok(published) = result
                    && let [Enqueued::At(number)] = published.targets[..]
                {
                    promised.lock().unwrap().push(message);
                    mailbox.lock().unwrap().push((0, Event::DeliverStored(number, delivery)));
                }
            }),
        );
    }

    fn publish_from_client(&mut self) {
        let qos = self.any_qos();
        let message = self.message(qos);
        if self.client.may_publish(usize::from(self.config.receive_maximum)) {
            self.client.publish(message);
        }
    }

    fn reconnect(&mut self) {
        if self.generation > 0 && !self.calm && !self.dice.one_in(4) {
            return;
        }
        self.generation += 1;
        let owned = if self.stored {
            let owned =
                claim(&self.store, "client", u128::from(self.generation), self.client.receive_maximum);
            // The answer to a claim is held like any other.
            let Some(owned) = owned else { return };
            self.session = Some(Arc::clone(&owned.fence.session));
            Some(owned)
        } else {
            None
        };
        self.given.clear();
        self.got_before = self.client.got.len();
        self.open(owned);
    }

    fn open(&mut self, owned: Option<Owned>) {
        let client = &self.client;
        let mut properties = PropertiesBuf::new();
        if client.version.is_v5() {
            properties.push(Property::SessionExpiryInterval(if self.stored { EXPIRY_NEVER } else { 0 }));
            properties.push(Property::ReceiveMaximum(client.receive_maximum));
            properties.push(Property::TopicAliasMaximum(client.alias_max));
        }
        let connect = Connect {
            version: client.version,
            clean_start: !self.stored,
            keep_alive_s: 0,
            properties: properties.as_properties(),
            client_id: "client",
            will: None,
            user_name: None,
            password: None,
        };
        let fence = owned.as_ref().map(|owned| owned.fence.clone());
        let opening = Opening {
            client_id: "client".into(),
            assigned: false,
            passport: Arc::new(Passport::unrestricted("".into(), "client".into())),
            server_keep_alive_s: None,
            authentication: None,
            stored: owned,
            memory_queue: false,
            resume: None,
            now: NOW,
        };
        let (mut wire, mut effects) = (Outgoing::new(), Vec::new());
        let mut out = Outputs { wire: &mut wire, effects: &mut effects };
        let session = Session::open(opening, &connect, &self.config, &mut out).expect("the session opens");
        self.client.trust_session(self.stored);
        self.connection = Some(Connection {
            generation: self.generation,
            session,
            fence,
            wire,
            effects: effects.into(),
            inbox: VecDeque::new(),
            arriving: VecDeque::new(),
            frames: mqtt::FrameBuffer::new(),
        });
    }

    /// Has the next effect done.
    fn do_effect(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let Some(effect) = connection.effects.pop_front() else { return };
        let (generation, fence) = (connection.generation, connection.fence.clone());
        self.perform(effect, generation, fence);
    }

    fn perform(&mut self, effect: Effect, generation: u64, fence: Option<Fence>) {
        let mailbox = Arc::clone(&self.mailbox);
        let post = move |event| mailbox.lock().unwrap().push((generation, event));
        match (effect, fence) {
            (Effect::Publish(id, message), fence) => self.route(id, message, fence, post),
            (Effect::ReadQueue(from, max), Some(fence)) => {
                // Small pages, so that there are many.
                let done = Box::new(move |page| post(Event::Queue(page)));
                self.store.read_queue(&fence, from, max.min(5), usize::MAX, done);
            }
            (Effect::Acknowledge(number), Some(fence)) => {
                self.store.acknowledge(&fence, number, Box::new(|_| ()));
            }
            (Effect::MarkReleased(number), Some(fence)) => {
                let done = Box::new(move |result| post(Event::Released(number, result)));
                self.store.mark_released(&fence, number, done);
            }
            (Effect::ForgetReceived(id), Some(fence)) => {
                let done = Box::new(move |result| post(Event::Forgotten(id, result)));
                self.store.forget_received(&fence, id, done);
            }
            (Effect::Close(closing), _) => {
                assert_eq!(closing.reason, ReasonCode::SessionTakenOver, "nobody did anything wrong");
                self.connection = None;
                self.client.disconnect();
            }
            (other, _) => panic!("unexpected {other:?}"),
        }
    }

    /// The client's message goes to the sink.
    fn route(
        &mut self,
        id: Option<PacketId>,
        message: Arc<state::Message>,
        fence: Option<Fence>,
        post: impl Fn(Event) + Send + 'static,
    ) {
        let Some(packet_id) = id else { return };
        let qos = message.qos();
        let origin = fence.filter(|_| qos == QoS::ExactlyOnce).map(|fence| Origin { fence, packet_id });
        let delivery = Delivery {
            message: Arc::clone(&message),
            qos,
            retain: false,
            subscription_ids: SubscriptionIds::NONE,
        };
        let targets = vec![Target { session: Arc::clone(&self.sink), delivery }];
        let done = Box::new(move |result: Result<_, StoreError>| {
            post(Event::Published(packet_id, qos, result.map(|_| ReasonCode::Success)));
        });
        self.store.publish(Publish { message, origin, targets }, done);
    }

    /// Takes what the store answered into the inbox.
    fn collect(&mut self) {
        let arrived = std::mem::take(&mut *self.mailbox.lock().unwrap());
        let Some(connection) = &mut self.connection else { return };
        for (generation, event) in arrived {
            if generation == 0 || generation == connection.generation {
                connection.inbox.push_back(event);
            }
        }
    }

    fn hand_in_event(&mut self) {
        self.collect();
        let Some(connection) = &mut self.connection else { return };
        let Some(event) = connection.inbox.pop_front() else { return };
        let input = match event {
            Event::DeliverStored(number, _) if !self.calm && self.dice.one_in(self.faults_one_in) => {
                match self.dice.below(4) {
                    0 => return,
                    1 => return self.hand_in(Input::Missed(number)),
                    2 => {
                        connection.inbox.push_back(event);
                        return;
                    }
                    _ => {
                        connection.inbox.push_back(event.clone());
                        event
                    }
                }
            }
            // Answers of different durability overtake each other.
            Event::Published(..) if !self.calm && self.dice.one_in(self.faults_one_in) => {
                connection.inbox.push_back(event);
                return;
            }
            event => event,
        };
        match input {
            Event::Deliver(delivery) => self.hand_in(Input::Deliver(delivery)),
            Event::DeliverStored(number, delivery) => self.hand_in(Input::DeliverStored(number, delivery)),
            Event::Published(id, qos, result) => self.hand_in(Input::Published(id, qos, result)),
            Event::Released(number, result) => self.hand_in(Input::Released(number, result)),
            Event::Forgotten(id, result) => self.hand_in(Input::Forgotten(id, result)),
            Event::Queue(page) => self.hand_in(Input::Queue(page)),
        }
    }

    fn hand_in(&mut self, input: Input<'_>) {
        if let Some(connection) = &mut self.connection {
            connection.handle(input);
        }
    }

    /// Some of what was written reaches the client, which may be slow.
    fn move_bytes_to_client(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let mut bytes = 1 + self.dice.below(60);
        while bytes > 0 && !connection.wire.is_empty() {
            let chunk = connection.wire.chunk();
            let taken = chunk.len().min(bytes);
            self.client.take(&chunk[..taken]);
            connection.wire.advance(taken);
            bytes -= taken;
        }
    }

    /// Some of what the client sent reaches the session.
    fn move_bytes_to_session(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        connection.arriving.extend(self.client.sending.drain(..));
        let bytes = (1 + self.dice.below(60)).min(connection.arriving.len());
        let chunk: Vec<u8> = connection.arriving.drain(..bytes).collect();
        let mut frames = std::mem::take(&mut connection.frames);
        let mut reader = frames.frames(&chunk, u32::MAX);
        while let Some(frame) = reader.next_frame().expect("a valid packet") {
            connection.handle(Input::Packet(frame));
        }
        drop(reader);
        connection.frames = frames;
    }

    /// The network fails, or the client connects again before the driver notices.
    fn break_connection(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        self.client.disconnect();
        let taken_over = !self.calm && self.dice.one_in(3);
        if taken_over {
            self.client.doubt_what_the_server_knows();
            // A new owner; what the old one still does is fenced off.
            while self.connection.is_none() {
                self.reconnect();
            }
            connection.handle(Input::TakenOver);
        } else if self.dice.one_in(2) {
            connection.effects.clear();
        }
        let sent = connection.session.sent();
        let (generation, fence) = (connection.generation, connection.fence.clone());
        for effect in connection.effects {
            if !matches!(effect, Effect::Close(_)) {
                self.perform(effect, generation, fence.clone());
            }
        }
        if let (Some(fence), false) = (fence, taken_over) {
            let release = Release { expiry_s: EXPIRY_NEVER, keep_will: false, sent, grace_ms: 0, now: NOW };
            self.store.release(&fence, release, Box::new(|_| ()));
        }
    }

    /// The process dies and comes back: what the store had is there, what was under way is not.
    fn crash(&mut self) {
        self.connection = None;
        self.client.disconnect();
        self.client.doubt_what_the_server_knows();
        self.mailbox.lock().unwrap().clear();
        self.store.restart(NOW);
        self.sink_fence = claim(&self.store, "sink", 0, 1).expect("the sink is there").fence;
        self.store.hold();
    }
}

impl Connection {
    fn handle(&mut self, input: Input<'_>) {
        let mut effects = Vec::new();
        let mut out = Outputs { wire: &mut self.wire, effects: &mut effects };
        self.session.handle(input, NOW, &mut out);
        self.session.check_invariants();
        self.effects.extend(effects);
    }
}

fn as_stored(message: Message) -> state::Message {
    state::Message::new(&message.topic_name(), &[], &message.payload(), message.qos, false, NOW)
}

/// Claims a session, whatever answers are held.
fn claim(store: &MemoryStore, client_id: &str, connection: u128, receive_maximum: u16) -> Option<Owned> {
    let claim = Claim {
        client_id: client_id.into(),
        connection_id: ConnectionId(connection),
        clean_start: false,
        create: true,
        expiry_s: EXPIRY_NEVER,
        will: None,
        limits: QueueLimits { messages_max: u64::MAX, bytes_max: u64::MAX },
        protocol: ProtocolVersion::V5,
        receive_maximum,
        memory_queue: false,
        resume: false,
        now: NOW,
    };
    let slot = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&slot);
    store.claim(claim, Box::new(move |answer| *filled.lock().unwrap() = Some(answer)));
    while slot.lock().unwrap().is_none() && store.step() {}
    let answer = slot.lock().unwrap().take();
    answer.and_then(Result::ok).and_then(|claimed| claimed.session)
}

fn read_all(store: &MemoryStore, fence: &Fence) -> Vec<Message> {
    let slot = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&slot);
    store.read_queue(
        fence,
        Number(0),
        usize::MAX,
        usize::MAX,
        Box::new(move |page| *filled.lock().unwrap() = Some(page)),
    );
    while slot.lock().unwrap().is_none() && store.step() {}
    let page = slot.lock().unwrap().take().expect("an answer").expect("a page");
    let records = page.records.into_iter().filter_map(|queued| match queued.record {
        Record::Message(delivery) => {
            Some(Message::read(delivery.message.topic(), delivery.qos, delivery.message.payload_slice()))
        }
        Record::Released => None,
    });
    records.collect()
}

/// All that was owed came; QoS 2 once; the first of each in order per topic and QoS.
fn check_delivery(what: &str, owed: &[Message], got: &[Message]) {
    let mut counts: BTreeMap<Message, usize> = BTreeMap::new();
    let mut last: BTreeMap<(usize, QoS), u32> = BTreeMap::new();
    for message in got {
        let count = counts.entry(*message).or_default();
        *count += 1;
        if *count == 1 {
            let last = last.entry((message.topic, message.qos)).or_default();
            // v5 [MQTT-4.6.0-5]
            assert!(*last < message.serial, "{what}: {message:?} came after {last}");
            *last = message.serial;
        }
    }
    for (message, count) in &counts {
        let at_most_once = message.qos != QoS::AtLeastOnce;
        assert!(!at_most_once || *count == 1, "{what}: {message:?} came {count} times");
    }
    for message in owed {
        assert!(counts.contains_key(message), "{what}: {message:?} is lost");
    }
}
