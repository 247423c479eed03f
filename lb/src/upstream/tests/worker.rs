//! A worker for tests: a listener, links on `link::mux::WorkerEnd`, and a store that it shares with others. It can be killed,
//! stopped, told to leave and to refuse.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ::link::CloseCause;
use ::link::mux::{Settings, WorkerEnd, WorkerEvent};
use ::link::wire::{Ending, OpenBody, RefuseReason, StreamId};
use bytes::{Buf, Bytes, BytesMut};
use mqtt::{OwnedFrame, PacketType, QoS, ReasonCode};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep};
use tokio_rustls::TlsAcceptor;

/// What all workers of a test know.
#[derive(Default)]
pub(super) struct Store {
    /// By connection id: payloads of PUBLISH packets in the order in which they came.
    pub(super) published: Mutex<HashMap<u128, Vec<Bytes>>>,
    /// How devices left, in order.
    pub(super) closed: Mutex<Vec<(u128, CloseCause)>>,
}

#[derive(Clone, Debug)]
enum Order {
    /// Every link is cut.
    Die,
    /// Nothing is read or written any more.
    Stand,
    Drain,
    /// It is without its store, or has it again.
    Store {
        is_away: bool,
    },
    /// A packet for a connection.
    Push(u128, Bytes),
    /// Ends a connection.
    End(u128, ReasonCode, Bytes),
}

/// What a worker does with OPEN and PACKET.
#[derive(Clone, Default)]
pub(super) struct Manner {
    /// Refuses every OPEN.
    pub(super) refuses: Option<RefuseReason>,
    /// Leaves OPEN without an answer.
    pub(super) is_mute: bool,
    /// Takes packets and neither answers nor reports them.
    pub(super) holds_packets: bool,
    /// Answers, and reports nothing.
    pub(super) reports_nothing: bool,
    /// What it allows a device, in CONNACK.
    pub(super) topic_alias_max: u16,
    /// What it says in HELLO, of links that come from then on.
    pub(super) handoff_grace_ms: u32,
}

/// The worker.
pub(super) struct FakeWorker {
    pub(super) address: SocketAddr,
    inner: Arc<Inner>,
    listening: JoinHandle<()>,
}

struct Inner {
    store: Arc<Store>,
    manner: Mutex<Manner>,
    opens: Mutex<Vec<OpenBody>>,
    packets: Mutex<Vec<(u128, Bytes)>>,
    tokens: Mutex<Vec<Bytes>>,
    orders: broadcast::Sender<Order>,
}

impl FakeWorker {
    pub(super) async fn start(store: &Arc<Store>, tls: Option<TlsAcceptor>) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("address"), store, tls).await
    }

    pub(super) async fn start_at(at: SocketAddr, store: &Arc<Store>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(at).await.expect("bound");
        let address = listener.local_addr().expect("address");
        let inner = Arc::new(Inner {
            store: store.clone(),
            manner: Mutex::default(),
            opens: Mutex::default(),
            packets: Mutex::default(),
            tokens: Mutex::default(),
            orders: broadcast::channel(4_096).0,
        });
        let shared = inner.clone();
        let listening = tokio::spawn(async move {
            loop {
                let Ok((io, _)) = listener.accept().await else { return };
                let (inner, tls) = (shared.clone(), tls.clone());
                let orders = inner.orders.subscribe();
                tokio::spawn(async move {
                    match tls {
                        None => serve(io, inner, orders).await,
                        Some(tls) => {
                            if let Ok(io) = tls.accept(io).await {
                                serve(io, inner, orders).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, inner, listening }
    }

    pub(super) fn manner(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.inner.manner.lock());
    }

    pub(super) fn opens(&self) -> Vec<OpenBody> {
        self.inner.opens.lock().clone()
    }

    /// Packets of devices, in order.
    pub(super) fn packets(&self, connection: u128) -> Vec<Bytes> {
        let packets = self.inner.packets.lock();
        packets.iter().filter(|(of, _)| *of == connection).map(|(_, packet)| packet.clone()).collect()
    }

    pub(super) fn tokens(&self) -> Vec<Bytes> {
        self.inner.tokens.lock().clone()
    }

    fn order(&self, order: Order) {
        // Without a link nobody hears it.
        let _ = self.inner.orders.send(order);
    }

    pub(super) fn push(&self, connection: u128, packet: impl Into<Bytes>) {
        self.order(Order::Push(connection, packet.into()));
    }

    pub(super) fn end(&self, connection: u128, reason: ReasonCode, packet: &'static [u8]) {
        self.order(Order::End(connection, reason, Bytes::from_static(packet)));
    }

    pub(super) fn drain(&self) {
        self.order(Order::Drain);
    }

    pub(super) fn tell_store(&self, is_away: bool) {
        self.order(Order::Store { is_away });
    }

    /// Cuts all links and takes no more.
    pub(super) async fn kill(self) {
        self.listening.abort();
        // The listener is gone when the task is.
        let _ = self.listening.await;
        let _ = self.inner.orders.send(Order::Die);
    }

    /// Keeps its sockets open and says nothing any more.
    pub(super) fn stand(&self) {
        self.order(Order::Stand);
        self.listening.abort();
    }

    /// Cuts its links; they may be dialled anew.
    pub(super) fn cut(&self) {
        self.order(Order::Die);
    }
}

struct Served {
    connection: u128,
}

struct Serving {
    inner: Arc<Inner>,
    end: WorkerEnd,
    streams: HashMap<StreamId, Served>,
}

async fn serve<T: AsyncRead + AsyncWrite + Unpin>(
    mut io: T,
    inner: Arc<Inner>,
    mut orders: broadcast::Receiver<Order>,
) {
    let started = Instant::now();
    let mut settings = Settings::new("worker");
    settings.handoff_grace_ms = inner.manner.lock().handoff_grace_ms;
    let mut serving =
        Serving { inner, end: WorkerEnd::new(settings, Duration::ZERO), streams: HashMap::new() };
    let mut input = BytesMut::new();
    loop {
        while !serving.end.outgoing().is_empty() {
            let Ok(written) = io.write(serving.end.outgoing().chunk()).await else { return };
            serving.end.outgoing().advance(written);
        }
        if io.flush().await.is_err() {
            return;
        }
        tokio::select! {
            read = io.read_buf(&mut input) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
                if serving.end.receive(started.elapsed(), &mut input).is_err() {
                    return;
                }
            }
            order = orders.recv() => match order {
                Ok(Order::Die) | Err(_) => return,
                Ok(Order::Stand) => std::future::pending().await,
                Ok(order) => serving.obey(&order),
            },
            () = sleep(Duration::from_millis(100)) => {
                if serving.end.tick(started.elapsed()).is_err() {
                    return;
                }
            }
        }
        while let Some(event) = serving.end.poll_event() {
            serving.take(event);
        }
    }
}

impl Serving {
    fn obey(&mut self, order: &Order) {
        let stream_of = |connection: u128| {
            self.streams.iter().find(|(_, served)| served.connection == connection).map(|(id, _)| *id)
        };
        match order {
            Order::Drain => self.end.drain(Duration::from_secs(5)),
            Order::Store { is_away } => self.end.tell_store(*is_away),
            Order::Push(connection, packet) => {
                if let Some(stream) = stream_of(*connection) {
                    self.end.send(stream, &whole(packet)).expect("room");
                }
            }
            Order::End(connection, reason, packet) => {
                if let Some(stream) = stream_of(*connection) {
                    self.end.close(stream, *reason, (!packet.is_empty()).then(|| whole(packet)));
                }
            }
            Order::Die | Order::Stand => {}
        }
    }

    fn take(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Open { stream, open } => self.open(stream, *open),
            WorkerEvent::Packet { stream, number, packet, cost } => {
                self.packet(stream, number, &packet.raw, cost);
            }
            WorkerEvent::Passport { token, .. } => self.inner.tokens.lock().push(token),
            WorkerEvent::Close { stream, number, ending } => {
                if let (Some(served), Ending::Device(cause)) = (self.streams.remove(&stream), ending) {
                    self.inner.store.closed.lock().push((served.connection, cause));
                    self.end.durable(stream, number);
                }
            }
            _ => {}
        }
    }

    fn open(&mut self, stream: StreamId, open: OpenBody) {
        let manner = self.inner.manner.lock().clone();
        let is_resume = open.resume.is_some();
        let connection = open.connection_id.0;
        self.inner.opens.lock().push(open);
        if let Some(reason) = manner.refuses {
            return self.end.refuse(stream, reason, None);
        }
        if manner.is_mute {
            return;
        }
        // CONNACK of MQTT 5 with a Topic Alias Maximum.
        let [high, low] = manner.topic_alias_max.to_be_bytes();
        let connack = Bytes::copy_from_slice(&[0x20, 6, 0, 0, 3, 0x22, high, low]);
        self.end.accept(stream, (!is_resume).then(|| whole(&connack))).expect("accepted");
        self.streams.insert(stream, Served { connection });
    }

    fn packet(&mut self, stream: StreamId, number: u64, packet: &Bytes, cost: u32) {
        let Some(served) = self.streams.get(&stream) else { return };
        let connection = served.connection;
        self.inner.packets.lock().push((connection, packet.clone()));
        let manner = self.inner.manner.lock().clone();
        if manner.holds_packets {
            return;
        }
        self.end.give_back(stream, cost);
        let frame = mqtt::frame::split(packet, u32::MAX).expect("framed").expect("whole");
        if frame.packet_type() == PacketType::Publish {
            let payload = mqtt::Publish::decode(mqtt::ProtocolVersion::V5, mqtt::Receiver::Server, frame);
            let payload = Bytes::copy_from_slice(payload.expect("a PUBLISH").payload);
            self.inner.store.published.lock().entry(connection).or_default().push(payload);
        }
        if let Some(answer) = answer(frame) {
            // The device may have left meanwhile.
            let _ = self.end.send(stream, &whole(&answer));
        }
        if !manner.reports_nothing {
            self.end.durable(stream, number);
        }
    }
}

fn whole(packet: &Bytes) -> OwnedFrame {
    OwnedFrame::from_bytes(packet.clone(), u32::MAX).expect("framed").expect("whole")
}

/// What a worker answers at once.
fn answer(frame: mqtt::Frame<'_>) -> Option<Bytes> {
    let first_byte = match (frame.packet_type(), QoS::from_bits(frame.first_byte() >> 1)) {
        (PacketType::Publish, Some(QoS::AtLeastOnce)) => 0x40,
        (PacketType::Publish, Some(QoS::ExactlyOnce)) => 0x50,
        (PacketType::PubRel, _) => 0x70,
        (PacketType::Subscribe, _) => 0x90,
        _ => return None,
    };
    let mut id = frame.body();
    if frame.packet_type() == PacketType::Publish {
        let topic_len = id.get_u16();
        id.advance(topic_len.into());
    }
    let id = id.get_u16().to_be_bytes();
    Some(match first_byte {
        0x90 => Bytes::copy_from_slice(&[0x90, 4, id[0], id[1], 0, 1]),
        _ => Bytes::copy_from_slice(&[first_byte, 2, id[0], id[1]]),
    })
}
