//! Everything around a session: the driver that has its effects done, the network, a store, other publishers. Each step is
//! a throw of dice.

mod fault;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes, BytesMut};
use link::Resume;
use link::mux::answered_by;
use link::{Outgoing, Passport};
use mqtt::{Connect, PacketId, ProtocolVersion, QoS, ReasonCode, frame};
use state::testing::{delivery, publish_to};
use state::{
    Claim, EXPIRY_NEVER, Enqueued, Fence, MemoryStore, Origin, Owned, Publish, Store, StoreError,
    StoredSession,
};
use testkit::client::{Client, Message, Noticed, Phase};
use testkit::dice::{Dice, Throw as _, dice};

use super::connection::{Connection, Event};
use super::delivery::check_delivery;
use super::edge::{Edge, whole};
use super::store::{NOW, claim, read_all, wanted};
use crate::config::BrokerConfig;
use crate::session::handler::connect::Terms;
use crate::session::{Effect, Input, Opening, Outputs, Session, StoreOp};

const TOPICS: usize = 2;

/// Answers of the store, for the connection that asked (0: whoever is there).
type Mailbox = Arc<Mutex<Vec<(u64, Event)>>>;

/// Where what belongs to the client's session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the store, and it outlives connections.
    Store,
    /// In the worker's memory, but for what another worker needs to go on with the connection.
    Shared,
    /// In the worker's memory.
    Memory,
}

pub(super) struct World {
    dice: Dice,
    config: Arc<BrokerConfig>,
    store: MemoryStore,
    mailbox: Mailbox,
    connection: Option<Connection>,
    client: Client,
    /// Its CONNECT.
    connect: Bytes,
    /// Bytes for it that are no whole packet.
    partial: BytesMut,
    /// What came to it with QoS 1 and 2 on its connection.
    came: BTreeSet<u32>,
    /// Its messages that the server has acknowledged.
    acknowledged: Vec<Message>,
    edge: Edge,
    place: Place,
    generation: u64,
    /// Of the client's connection, whichever worker it is at.
    connection_id: u128,
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
        let mut dice = dice(seed);
        let version = ProtocolVersion::ALL[dice.below(3)];
        let bounds = (u16::try_from(1 + dice.below(6)).unwrap(), u16::try_from(dice.below(3)).unwrap());
        let place = [Place::Store, Place::Store, Place::Store, Place::Shared, Place::Memory][dice.below(5)];
        let client = Client::new("client".into(), version, place != Place::Store, bounds, &[]);
        let config = BrokerConfig {
            receive_maximum: u16::try_from(1 + dice.below(8)).unwrap(),
            inflight_max: u16::try_from(1 + dice.below(10)).unwrap(),
            ..BrokerConfig::default()
        };
        let store = MemoryStore::new();
        let sink = claim(&store, wanted("sink", 0, 1)).expect("a session for the sink");
        store.hold();
        Self {
            place,
            edge: Edge::default(),
            connection_id: 0,
            faults_one_in: 2 + dice.below(10),
            dice,
            config: Arc::new(config),
            store,
            mailbox: Mailbox::default(),
            connection: None,
            client,
            connect: Bytes::new(),
            partial: BytesMut::new(),
            came: BTreeSet::new(),
            acknowledged: Vec::new(),
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

    fn is_stored(&self) -> bool {
        self.place == Place::Store
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
            92..96 => {
                self.client.acknowledge_one();
            }
            96 => self.hand_in(Input::Writable),
            97 if self.dice.one_in(3) => self.move_on(),
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
        if self.is_stored() && self.dice.one_in(2) {
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
            && self.edge.is_idle()
            && self.store.held() == 0
            && self.client.is_idle()
    }

    /// What must hold at the end.
    pub(super) fn check(&self) {
        let connection = self.connection.as_ref().expect("connected");
        assert_eq!(connection.session.outbound.inflight(), 0, "every flow to the client is over");
        assert_eq!(connection.session.outbound.waiting(), 0, "nothing waits");
        let owed = if self.is_stored() { self.promised.lock().unwrap().clone() } else { self.given.clone() };
        let got = if self.is_stored() { &self.client.got[..] } else { &self.client.got[self.got_before..] };
        check_delivery("to the client", &owed, got);
        if !self.is_stored() {
            let queued = got.iter().filter(|message| message.qos != QoS::AtMostOnce).count();
            assert_eq!(queued, owed.len(), "a session in memory sends nothing twice");
        }
        let read = read_all(&self.store, &self.sink_fence);
        check_delivery("from the client", &self.acknowledged, &read);
        if let Some(fence) = &connection.fence {
            assert!(read_all(&self.store, fence).is_empty(), "what was acknowledged leaves the store");
        }
    }

    fn message(&mut self, qos: QoS) -> Message {
        self.serial += 1;
        Message { topic: self.dice.below(TOPICS), qos, index: self.serial, size: 4 }
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
        let delivery = delivery(&Arc::new(as_stored(message)), message.qos);
        if message.qos == QoS::AtMostOnce || !self.is_stored() {
            if let Some(connection) = &mut self.connection {
                connection.inbox.push_back(Event::Input(Input::Deliver(delivery)));
                if message.qos != QoS::AtMostOnce {
                    self.given.push(message);
                }
            }
            return;
        }
        let Some(session) = &self.session else { return };
        let publish = publish_to(&[session], &delivery.message);
        let (mailbox, promised) = (Arc::clone(&self.mailbox), Arc::clone(&self.promised));
        self.store.publish(
            publish,
            Box::new(move |result| {
                if let Ok(published) = result
                    && let [Enqueued::At(number)] = published.targets[..]
                {
                    promised.lock().unwrap().push(message);
                    let input = Input::DeliverStored(number, delivery);
                    mailbox.lock().unwrap().push((0, Event::Input(input)));
                }
            }),
        );
    }

    fn publish_from_client(&mut self) {
        let qos = self.any_qos();
        let message = self.message(qos);
        let is_allowed = self.client.in_flight() < usize::from(self.config.receive_maximum);
        if self.client.phase == Phase::Connected && is_allowed {
            self.client.publish(message, 0);
        }
    }

    fn reconnect(&mut self) {
        if self.generation > 0 && !self.calm && !self.dice.one_in(4) {
            return;
        }
        self.generation += 1;
        self.connection_id = u128::from(self.generation);
        let wanted = self.wanted();
        let owned = if self.place == Place::Memory {
            None
        } else {
            // The answer to a claim is held like any other.
            let Some(owned) = claim(&self.store, wanted) else { return };
            if self.is_stored() {
                self.session = Some(Arc::clone(&owned.fence.session));
            }
            Some(owned)
        };
        self.edge = Edge::default();
        self.given.clear();
        self.got_before = self.client.got.len();
        self.partial.clear();
        self.came.clear();
        self.connect = self.client.connect(None);
        self.client.fresh_from = self.serial + 1;
        self.open(owned, None);
    }

    /// What the client's connection asks of the store.
    fn wanted(&self) -> Claim {
        let wanted = wanted("client", self.connection_id, self.client.receive_maximum);
        let is_stored = self.is_stored();
        let expiry_s = if is_stored { EXPIRY_NEVER } else { 0 };
        Claim { expiry_s, clean_start: !is_stored, memory_queue: !is_stored, ..wanted }
    }

    fn open(&mut self, owned: Option<Owned>, resume: Option<Resume>) {
        let connect = Connect::decode(whole(&self.connect)).expect("a CONNECT");
        let fence = owned.as_ref().map(|owned| owned.fence.clone());
        let opening = Opening {
            client_id: "client".into(),
            assigned: false,
            passport: Arc::new(Passport::unrestricted("".into(), "client".into())),
            server_keep_alive_s: None,
            authentication: None,
            stored: owned,
            memory_queue: !self.is_stored(),
            resume: resume.map(Box::new),
            now: NOW,
        };
        let (mut wire, mut effects) = (Outgoing::new(), Vec::new());
        let mut out = Outputs { wire: &mut wire, effects: &mut effects };
        let terms = Terms::read(&connect, &opening.passport, &self.config, NOW);
        let session = Session::open(opening, &terms, &self.config, &mut out).expect("the session opens");
        self.connection = Some(Connection {
            generation: self.generation,
            session,
            fence,
            wire,
            effects: effects.into_iter().map(|effect| (effect, 0)).collect(),
            inbox: VecDeque::new(),
            arriving: VecDeque::new(),
            owed: Vec::new(),
            reports: Vec::new(),
        });
    }

    /// Has the next effect done.
    fn do_effect(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let Some((effect, frame)) = connection.effects.pop_front() else { return };
        let (generation, fence) = (connection.generation, connection.fence.clone());
        self.perform(effect, frame, generation, fence);
    }

    fn perform(&mut self, effect: Effect, frame: u64, generation: u64, fence: Option<Fence>) {
        let mailbox = Arc::clone(&self.mailbox);
        let post = move |event| mailbox.lock().unwrap().push((generation, event));
        let report = {
            let post = post.clone();
            move |is_done: bool| {
                if is_done && frame != 0 {
                    post(Event::Durable(frame));
                }
            }
        };
        match (effect, fence) {
            (Effect::Publish(id, message), fence) => self.route(id, &message, fence, post),
            (Effect::RetainAgain(id, message), _) => {
                post(Event::Input(Input::Published(id, message.qos(), Ok(ReasonCode::Success))));
            }
            (Effect::Store(StoreOp::ReadQueue(from, max)), Some(fence)) => {
                // Small pages, so that there are many.
                let done = Box::new(move |page| post(Event::Input(Input::Queue(page))));
                self.store.read_queue(&fence, from, max.min(5), usize::MAX, done);
            }
            (Effect::Store(StoreOp::Acknowledge(number)), Some(fence)) => {
                self.store.acknowledge(&fence, number, Box::new(move |result| report(result.is_ok())));
            }
            (Effect::Store(StoreOp::MarkReleased(number)), Some(fence)) => {
                let done = Box::new(move |result: Result<(), StoreError>| {
                    report(result.is_ok());
                    post(Event::Input(Input::Released(number, result)));
                });
                self.store.mark_released(&fence, number, done);
            }
            (Effect::Store(StoreOp::ForgetReceived(id)), Some(fence)) => {
                let done = Box::new(move |result| post(Event::Input(Input::Forgotten(id, result))));
                self.store.forget_received(&fence, id, done);
            }
            (Effect::Close(closing), _) => {
                assert_eq!(closing.reason, ReasonCode::SessionTakenOver, "nobody did anything wrong");
                self.connection = None;
                self.client.lose();
            }
            // A session in memory has nothing to acknowledge there.
            (other, _) => panic!("unexpected {other:?}"),
        }
    }

    /// The client's message goes to the sink.
    fn route(
        &mut self,
        id: Option<PacketId>,
        message: &Arc<state::Message>,
        fence: Option<Fence>,
        post: impl Fn(Event) + Send + 'static,
    ) {
        let Some(packet_id) = id else { return };
        let qos = message.qos();
        let origin = fence.filter(|_| qos == QoS::ExactlyOnce).map(|fence| Origin { fence, packet_id });
        let done = Box::new(move |result: Result<_, StoreError>| {
            let result = result.map(|_| ReasonCode::Success);
            post(Event::Input(Input::Published(packet_id, qos, result)));
        });
        self.store.publish(Publish { origin, ..publish_to(&[&self.sink], message) }, done);
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
        let event = match event {
            Event::Input(Input::DeliverStored(number, ref delivery))
                if !self.calm && self.dice.one_in(self.faults_one_in) =>
            {
                match self.dice.below(4) {
                    0 => return,
                    1 => return self.hand_in(Input::Missed(number)),
                    2 => {
                        connection.inbox.push_back(event);
                        return;
                    }
                    _ => {
                        let again = Input::DeliverStored(number, delivery.clone());
                        connection.inbox.push_back(Event::Input(again));
                        event
                    }
                }
            }
            // Answers of different durability overtake each other.
            Event::Input(Input::Published(..)) if !self.calm && self.dice.one_in(self.faults_one_in) => {
                connection.inbox.push_back(event);
                return;
            }
            event => event,
        };
        match event {
            Event::Input(input) => self.hand_in(input),
            Event::Durable(frame) => self.edge.durable(frame),
        }
    }

    fn hand_in(&mut self, input: Input<'_>) {
        if let Some(connection) = &mut self.connection {
            connection.handle(input);
        }
    }

    /// Some of what was written reaches the edge, and some of that the client, which may be slow.
    fn move_bytes_to_client(&mut self) {
        if let Some(connection) = &mut self.connection {
            for _ in 0..self.dice.below(4) {
                let Some(frame) = frame::split(connection.wire.chunk(), u32::MAX).expect("valid") else {
                    break;
                };
                let len = frame.raw.len();
                let packet = connection.wire.take(len);
                connection.tell(&mut self.edge);
                self.edge.take_from_worker(&packet);
                if let Some(answered) = answered_by(whole(&packet)) {
                    let answered = connection.owed.extract_if(.., |(asked, _)| *asked == answered);
                    connection.reports.extend(answered.map(|(_, number)| number));
                }
            }
            if self.dice.one_in(2) {
                connection.tell(&mut self.edge);
            }
        }
        let bytes = (1 + self.dice.below(60)).min(self.edge.to_client.len());
        let chunk: Vec<u8> = self.edge.to_client.drain(..bytes).collect();
        self.hand_to_client(&chunk);
    }

    fn hand_to_client(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(frame) = frame::split(&self.partial, u32::MAX).expect("valid") {
            let (length, before) = (frame.raw.len(), self.client.got.len());
            match self.client.take(frame) {
                Some(Noticed::Acknowledged(message)) => self.acknowledged.push(message),
                Some(Noticed::Told(reason)) => {
                    assert_eq!(reason, ReasonCode::SessionTakenOver, "nobody did anything wrong");
                }
                Some(other) => assert_eq!(other, Noticed::Connected),
                None => {}
            }
            self.partial.advance(length);
            let news = self.client.got[before..].iter().filter(|message| message.qos != QoS::AtMostOnce);
            for message in news {
                assert!(self.came.insert(message.index), "{message:?} came before on this connection");
            }
        }
    }

    /// Some of what the client sent reaches the edge, and some of that the session.
    fn move_bytes_to_session(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let bytes = (1 + self.dice.below(60)).min(self.client.sending.len());
        let chunk = self.client.sending.split_to(bytes);
        self.edge.take_from_client(&chunk);
        connection.arriving.extend(std::iter::from_fn(|| self.edge.send()));
        for _ in 0..self.dice.below(4) {
            let Some((number, packet)) = connection.arriving.pop_front() else { return };
            if connection.take(number, &packet) {
                self.edge.durable(number);
            }
        }
    }
}

fn as_stored(message: Message) -> state::Message {
    state::Message::new(&message.topic_name(), &[], &message.payload(), message.qos, false, NOW)
}
