//! An edge of a test: one link over TCP, and what came on it for each device, by name.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use broker::{Broker, BrokerConfig, ClusterSettings, LinkConfig, LinkServer};
use bytes::{Bytes, BytesMut};
use link::mux::{EdgeEnd, EdgeEvent, OpenFlows, Replay, Settings};
use link::wire::{OpenBody, RefuseReason, StreamId};
use link::{CloseCause, Passport, PassportSigner, PassportVerifier};
use link::{Resume, TopicAlias};
use mqtt::{OwnedFrame, ReasonCode, frame};
use prometheus_client::registry::Registry;
use state::{MemoryCluster, MemoryStore, Store};
use testkit::authority::passport_key;
use testkit::connection::open_body;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::device::{DEADLINE, Got, How, next_connection, read};

/// The Client Identifier of a device that is never taken.
const MARKER: &str = "marker";

static SIGNER: LazyLock<PassportSigner> =
    LazyLock::new(|| PassportSigner::from_pem(passport_key().as_bytes()).unwrap());

/// A token that the workers of a test accept.
pub(crate) fn sign(passport: &Passport) -> Bytes {
    SIGNER.sign(passport).unwrap()
}

/// A worker with links.
pub(crate) struct Worker {
    pub(crate) broker: Broker,
    pub(crate) links: LinkServer,
    pub(crate) store: MemoryStore,
}

impl Worker {
    /// One that has its store for itself.
    pub(crate) async fn new(store: &MemoryStore) -> Self {
        Self::with(store, LinkConfig::default()).await
    }

    pub(crate) async fn with(store: &MemoryStore, config: LinkConfig) -> Self {
        let mut registry = Registry::default();
        let broker = Broker::start(broker_config(), Arc::new(store.clone()), &mut registry).await.unwrap();
        Self::serve(broker, store.clone(), config, registry).await
    }

    /// One of several.
    pub(crate) async fn sharing(
        cluster: &MemoryCluster,
        config: LinkConfig,
        settings: ClusterSettings,
    ) -> Self {
        Self::sharing_over(cluster, config, settings, |store| Arc::new(store)).await
    }

    /// One of several, with another store in front of its own.
    pub(crate) async fn sharing_over(
        cluster: &MemoryCluster,
        config: LinkConfig,
        settings: ClusterSettings,
        front: impl FnOnce(MemoryStore) -> Arc<dyn Store>,
    ) -> Self {
        let worker = cluster.worker("worker");
        let store = worker.store();
        let mut registry = Registry::default();
        let front = front(store.clone());
        let broker =
            Broker::start_shared(broker_config(), front, worker, settings, &mut registry).await.unwrap();
        Self::serve(broker, store, config, registry).await
    }

    async fn serve(broker: Broker, store: MemoryStore, config: LinkConfig, mut registry: Registry) -> Self {
        let verifier = PassportVerifier::from_pems(&[SIGNER.public_pem()], Duration::ZERO).unwrap();
        let config = LinkConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(), ..config };
        let links = LinkServer::start(config, broker.clone(), verifier, &mut registry).await.unwrap();
        Self { broker, links, store }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.links.addresses()[0]
    }
}

fn broker_config() -> BrokerConfig {
    BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() }
}

/// What one device had from its worker.
pub(crate) struct Device {
    pub(crate) stream: StreamId,
    pub(crate) open: Box<OpenBody>,
    pub(crate) connack: Option<Bytes>,
    pub(crate) packets: VecDeque<Bytes>,
    pub(crate) closed: Option<(ReasonCode, Bytes)>,
    pub(crate) refused: Option<RefuseReason>,
    pub(crate) is_resumed: bool,
    pub(crate) is_finished: bool,
    /// Another connection has its session.
    pub(crate) is_asked_to_yield: bool,
    /// Then nothing of it is left to be sent.
    pub(crate) yields_at_once: bool,
    pub(crate) flows: OpenFlows,
    pub(crate) aliases: BTreeMap<u16, String>,
    /// Costs of packets that the device has not taken.
    untaken: u32,
    pub(crate) reads: bool,
}

/// A device whose link is gone.
pub(crate) struct Adrift {
    pub(crate) device: Device,
    pub(crate) replay: Replay,
}

/// TCP, with TLS or without.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

pub(crate) struct Edge {
    socket: Box<dyn Socket>,
    end: EdgeEnd,
    started: Instant,
    buffer: BytesMut,
    pub(crate) devices: BTreeMap<String, Device>,
    /// What HELLO said of it, milliseconds.
    pub(crate) handoff_grace_ms: u32,
    is_ready: bool,
    pub(crate) is_draining: bool,
    pub(crate) is_over: bool,
}

impl Edge {
    /// Dials a worker and waits for its HELLO.
    pub(crate) async fn dial(worker: &Worker) -> Self {
        Self::over(TcpStream::connect(worker.address()).await.unwrap()).await
    }

    /// Waits for HELLO on a connection.
    pub(crate) async fn over(socket: impl Socket + 'static) -> Self {
        let mut edge = Self {
            socket: Box::new(socket),
            end: EdgeEnd::new(Settings::new("edge"), Duration::ZERO),
            started: Instant::now(),
            buffer: BytesMut::new(),
            devices: BTreeMap::new(),
            handoff_grace_ms: 0,
            is_ready: false,
            is_draining: false,
            is_over: false,
        };
        edge.until("HELLO", |edge| edge.is_ready).await;
        edge
    }

    /// Opens a session and waits for the CONNACK.
    pub(crate) async fn connect(&mut self, how: &How<'_>) {
        self.open(how, sign(&how.passport()));
        self.until("CONNACK", |edge| edge.device(how.client_id).connack.is_some()).await;
    }

    /// Sends OPEN.
    pub(crate) fn open(&mut self, how: &How<'_>, passport: Bytes) {
        let open = Box::new(open_body(next_connection().0, passport, how.packet()));
        let stream = self.end.open(open.clone(), Replay::default()).unwrap();
        let device = Device {
            stream,
            open,
            connack: None,
            packets: VecDeque::new(),
            closed: None,
            refused: None,
            is_resumed: false,
            is_finished: false,
            is_asked_to_yield: false,
            yields_at_once: true,
            flows: OpenFlows::default(),
            aliases: BTreeMap::new(),
            untaken: 0,
            reads: true,
        };
        self.devices.insert(how.client_id.to_owned(), device);
    }

    /// Goes on with a device whose link is gone.
    pub(crate) fn resume(&mut self, name: &str, adrift: Adrift) {
        let Adrift { mut device, replay } = adrift;
        let resume = Resume {
            connack: device.connack.clone().unwrap(),
            backlog: 0,
            flows: device.flows.to_device(),
            inbound_qos2: device.flows.from_device(),
            topic_aliases: device
                .aliases
                .iter()
                .map(|(alias, topic)| TopicAlias { alias: *alias, topic: topic.as_str().into() })
                .collect(),
            retained_due: Bytes::new(),
        };
        device.open.resume = Some(Box::new(resume));
        device.stream = self.end.open(device.open.clone(), replay).unwrap();
        device.is_resumed = false;
        device.untaken = 0;
        self.devices.insert(name.to_owned(), device);
    }

    pub(crate) fn device(&self, name: &str) -> &Device {
        &self.devices[name]
    }

    pub(crate) fn device_mut(&mut self, name: &str) -> &mut Device {
        self.devices.get_mut(name).unwrap()
    }

    /// Sends a Control Packet of a device.
    pub(crate) fn send(&mut self, name: &str, packet: &[u8]) {
        let device = self.devices.get_mut(name).unwrap();
        device.flows.pass_from_device(frame::split(packet, u32::MAX).unwrap().unwrap());
        let packet = OwnedFrame::from_bytes(Bytes::copy_from_slice(packet), u32::MAX).unwrap().unwrap();
        self.end.send(device.stream, packet.into()).unwrap();
    }

    pub(crate) fn subscribe(&mut self, name: &str, id: u8, filter: &str, qos: u8) {
        let length = u8::try_from(2 + 1 + 2 + filter.len() + 1).unwrap();
        let filter_length = u8::try_from(filter.len()).unwrap();
        self.send(name, &[&[0x82, length, 0, id, 0, 0, filter_length], filter.as_bytes(), &[qos]].concat());
    }

    pub(crate) fn publish(&mut self, name: &str, qos: u8, id: u8, topic: &str, payload: &[u8]) {
        let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
        body.extend_from_slice(topic.as_bytes());
        if qos > 0 {
            body.extend([0, id]);
        }
        body.push(0);
        body.extend_from_slice(payload);
        self.send(name, &[&[0x30 | qos << 1, u8::try_from(body.len()).unwrap()], &body[..]].concat());
    }

    /// Sends a two-byte acknowledgement: PUBACK 0x40, PUBREC 0x50, PUBREL 0x62, PUBCOMP 0x70.
    pub(crate) fn acknowledge(&mut self, name: &str, first_byte: u8, id: u16) {
        self.send(name, &[first_byte, 2, (id >> 8) as u8, id as u8]);
    }

    /// The device's connection ended.
    pub(crate) fn close(&mut self, name: &str) {
        let stream = self.device(name).stream;
        self.end.close(stream, CloseCause::Abnormal);
    }

    /// Sends a renewed passport.
    pub(crate) fn renew(&mut self, name: &str, token: Bytes) {
        let stream = self.device(name).stream;
        self.end.renew(stream, token).unwrap();
    }

    /// The next packet for a device.
    pub(crate) async fn got(&mut self, name: &str) -> Got {
        self.until("a packet", |edge| !edge.device(name).packets.is_empty()).await;
        let packet = self.device_mut(name).packets.pop_front().unwrap();
        read(frame::split(&packet, u32::MAX).unwrap().unwrap())
    }

    /// What has come for a device when everything that was sent before has had its effect.
    pub(crate) async fn drain(&mut self, name: &str) -> Vec<Got> {
        // Answered after what came before it.
        self.send(name, &[0xA2, 7, 0xFF, 0xFE, 0, 0, 2, b'~', b'~']);
        let mut all = Vec::new();
        loop {
            match self.got(name).await {
                Got::Other { first_byte: 0xB0, body } if body[..2] == [0xFF, 0xFE] => return all,
                got => all.push(got),
            }
        }
    }

    /// The link is cut. What the device has is what it took before.
    pub(crate) fn cut(mut self) -> BTreeMap<String, Adrift> {
        let mut adrift = BTreeMap::new();
        for unfinished in self.end.abandon() {
            let name = self.devices.iter().find(|(_, device)| device.stream == unfinished.stream);
            let name = name.map(|(name, _)| name.clone()).unwrap();
            let mut device = self.devices.remove(&name).unwrap();
            for packet in unfinished.packets {
                device.take(packet.raw);
            }
            adrift.insert(name, Adrift { device, replay: unfinished.replay });
        }
        adrift
    }

    /// Gives one device up.
    pub(crate) fn give_up(&mut self, name: &str) -> Adrift {
        let mut device = self.devices.remove(name).unwrap();
        let unfinished = self.end.give_up(device.stream).unwrap();
        for packet in unfinished.packets {
            device.take(packet.raw);
        }
        Adrift { device, replay: unfinished.replay }
    }

    /// Writes whatever bytes, as no edge would.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Serves the link until `what` has happened.
    pub(crate) async fn until(&mut self, what: &str, mut happened: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.turn().await;
            if happened(self) {
                return;
            }
            assert!(Instant::now() < deadline, "{what} did not happen");
        }
    }

    /// Serves the link until the sessions have had all that was sent, whatever they do with it.
    pub(crate) async fn settle(&mut self) {
        // Refused without the store, in the same turn of the worker as what came before it, or a later one.
        self.open(&How::clean(MARKER), Bytes::new());
        self.until("a refusal", |edge| edge.device(MARKER).refused.is_some()).await;
        self.devices.remove(MARKER);
    }

    /// Serves the link for so long, where it is time that is tested.
    pub(crate) async fn serve_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn().await;
        }
    }

    /// Writes what there is, and takes what comes within a moment.
    async fn turn(&mut self) {
        while !self.is_over && !self.end.outgoing().is_empty() {
            let out = self.end.outgoing();
            match self.socket.write(out.chunk()).await {
                Ok(written) => out.advance(written),
                Err(_) => self.is_over = true,
            }
        }
        self.is_over |= self.socket.flush().await.is_err();
        if self.is_over {
            return;
        }
        match timeout(Duration::from_millis(5), self.socket.read_buf(&mut self.buffer)).await {
            Ok(Ok(0) | Err(_)) => self.is_over = true,
            Ok(Ok(_)) => self.end.receive(self.started.elapsed(), &mut self.buffer).unwrap(),
            Err(_) => {}
        }
        while let Some(event) = self.end.poll_event() {
            self.take(event);
        }
        self.end.tick(self.started.elapsed()).unwrap();
    }

    fn take(&mut self, event: EdgeEvent) {
        let stream = event.stream();
        let device = self.devices.values_mut().find(|device| Some(device.stream) == stream);
        match (event, device) {
            (EdgeEvent::Ready(peer), _) => {
                self.handoff_grace_ms = peer.hello.handoff_grace_ms;
                self.is_ready = true;
            }
            (EdgeEvent::Draining { .. }, _) => self.is_draining = true,
            (EdgeEvent::Opened { connack, .. }, Some(device)) => {
                if connack.is_empty() {
                    device.is_resumed = true;
                } else {
                    device.connack = Some(connack);
                }
            }
            (EdgeEvent::Refused { reason, packet, .. }, Some(device)) => {
                device.refused = Some(reason);
                device.packets.push_back(packet);
            }
            (EdgeEvent::Packet { packet, cost, stream }, Some(device)) => {
                device.take(packet.raw);
                if device.reads {
                    self.end.give_back(stream, cost);
                } else {
                    device.untaken += cost;
                }
            }
            (EdgeEvent::Closed { reason, packet, .. }, Some(device)) => {
                device.closed = Some((reason, packet));
            }
            (EdgeEvent::Yield { stream }, Some(device)) => {
                device.is_asked_to_yield = true;
                if device.yields_at_once {
                    let reason = ReasonCode::SessionTakenOver;
                    device.closed = Some((reason, Bytes::from_static(&[0xE0, 1, 0x8E])));
                    self.end.close(stream, CloseCause::Abnormal);
                }
            }
            (EdgeEvent::Finished { .. }, Some(device)) => device.is_finished = true,
            _ => {}
        }
    }

    /// The device reads again what it left unread.
    pub(crate) fn read_again(&mut self, name: &str) {
        let device = self.devices.get_mut(name).unwrap();
        device.reads = true;
        self.end.give_back(device.stream, std::mem::take(&mut device.untaken));
    }
}

impl Device {
    fn take(&mut self, packet: Bytes) {
        self.flows.pass_to_device(frame::split(&packet, u32::MAX).unwrap().unwrap());
        self.packets.push_back(packet);
    }
}
