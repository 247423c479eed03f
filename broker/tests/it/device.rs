//! A device of a test: raw packets into a stream, and what comes back, without sockets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use broker::{Broker, BrokerConfig, WorkerStream};
use bytes::{Bytes, BytesMut};
use link::{CloseCause, ConnectionId, Event, Open, Outgoing, Passport, Stream, Upstream};
use mqtt::{
    Connect, Packet, PropertiesBuf, Property, ProtocolVersion, Publish, QoS, ReasonCode, Will, frame,
};
use prometheus_client::registry::Registry;
use state::{MemoryStore, Store};
use testkit::connection::{bytes_of, connect, open, publish, v5};

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// How long a test waits for something that the clock has to bring.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct World {
    pub(crate) store: MemoryStore,
    pub(crate) broker: Broker,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() }, MemoryStore::new()).await
    }

    pub(crate) async fn with(config: BrokerConfig, store: MemoryStore) -> Self {
        Self::over(config, Arc::new(store.clone()), store).await
    }

    /// With another store in front of `store`.
    pub(crate) async fn over(config: BrokerConfig, front: Arc<dyn Store>, store: MemoryStore) -> Self {
        let broker = Broker::start(config, front, &mut Registry::default()).await.unwrap();
        Self { store, broker }
    }

    pub(crate) fn connect(&self, how: &How<'_>) -> Device {
        Device::connect(&self.broker, how)
    }
}

/// What a test's CONNECT says.
#[derive(Clone)]
pub(crate) struct How<'a> {
    pub(crate) client_id: &'a str,
    /// Who it is; empty for who did not have to say.
    pub(crate) subject: &'a str,
    pub(crate) clean_start: bool,
    pub(crate) expiry_s: u32,
    /// Topic and delay.
    pub(crate) will: Option<(&'a str, u32)>,
    pub(crate) will_retain: bool,
    pub(crate) will_qos: QoS,
    /// The Message Expiry Interval of the Will.
    pub(crate) will_expiry_s: Option<u32>,
    pub(crate) receive_maximum: u16,
}

impl<'a> How<'a> {
    pub(crate) fn clean(client_id: &'a str) -> Self {
        Self {
            client_id,
            subject: "",
            clean_start: true,
            expiry_s: 0,
            will: None,
            will_retain: false,
            will_qos: QoS::AtLeastOnce,
            will_expiry_s: None,
            receive_maximum: 1000,
        }
    }

    pub(crate) fn stored(client_id: &'a str) -> Self {
        Self { clean_start: false, expiry_s: 3600, ..Self::clean(client_id) }
    }

    /// It is asked by somebody.
    pub(crate) fn by(self, subject: &'a str) -> Self {
        Self { subject, ..self }
    }

    /// What it may do: everything.
    pub(crate) fn passport(&self) -> Passport {
        Passport::unrestricted(self.subject.into(), self.client_id.into())
    }

    /// The CONNECT packet.
    pub(crate) fn packet(&self) -> Bytes {
        let properties = PropertiesBuf::default()
            .with(Property::SessionExpiryInterval(self.expiry_s))
            .with(Property::ReceiveMaximum(self.receive_maximum));
        let of_will = self.will.map(|(_, delay)| {
            let properties = PropertiesBuf::default().with(Property::WillDelayInterval(delay));
            match self.will_expiry_s {
                Some(interval) => properties.with(Property::MessageExpiryInterval(interval)),
                None => properties,
            }
        });
        let will = self.will.zip(of_will.as_ref()).map(|((topic, _), properties)| Will {
            qos: self.will_qos,
            retain: self.will_retain,
            topic,
            payload: b"gone",
            properties: properties.as_properties(),
        });
        let connect = connect(ProtocolVersion::V5, self.client_id);
        let (clean_start, properties) = (self.clean_start, properties.as_properties());
        bytes_of(&Connect { clean_start, properties, will, ..connect })
    }
}

/// No other connection has it.
pub(crate) fn next_connection() -> ConnectionId {
    ConnectionId(CONNECTIONS.fetch_add(1, Ordering::Relaxed).into())
}

pub(crate) struct Device {
    pub(crate) stream: Option<WorkerStream>,
    out: Outgoing,
    received: BytesMut,
    /// What the worker has not taken yet.
    sending: VecDeque<Bytes>,
    pub(crate) closed: Option<ReasonCode>,
    next_id: u16,
}

/// A packet that came, with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    ConnAck { session_present: bool, code: u8 },
    Publish { topic: String, payload: Vec<u8>, qos: u8, dup: bool, retain: bool, id: Option<u16> },
    Other { first_byte: u8, body: Vec<u8> },
}

impl Device {
    pub(crate) fn connect(broker: &Broker, how: &How<'_>) -> Self {
        Self::connect_with(broker, how, how.passport())
    }

    /// With another passport than one that allows everything.
    pub(crate) fn connect_with(broker: &Broker, how: &How<'_>, passport: Passport) -> Self {
        let mut device = Self::open(broker, how, passport);
        device.pump();
        device
    }

    fn open(broker: &Broker, how: &How<'_>, passport: Passport) -> Self {
        let open = open(next_connection().0, how.client_id, how.packet());
        let stream = broker.open(Open { passport: Arc::new(passport), ..open });
        Self {
            stream: Some(stream),
            out: Outgoing::new(),
            received: BytesMut::new(),
            sending: VecDeque::new(),
            closed: None,
            next_id: 1,
        }
    }

    /// Takes about 64 KiB of what the worker has for the device, and then no more.
    pub(crate) fn turn(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let stream = self.stream.as_mut().unwrap();
        stream.begin_turn();
        let _polled = stream.poll_recv(&mut cx, &mut self.out, 64 << 10);
    }

    /// Takes all that the worker has for the device, and hands it what it takes.
    pub(crate) fn pump(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while let (Some(stream), None) = (&mut self.stream, self.closed) {
            stream.begin_turn();
            let polled = stream.poll_recv(&mut cx, &mut self.out, 64 << 10);
            self.take_out();
            match polled {
                Poll::Ready(Event::Wrote) => {}
                Poll::Ready(Event::Closed(reason)) => self.closed = Some(reason),
                Poll::Ready(Event::TakenOver) | Poll::Pending if !self.hand_over() => break,
                Poll::Ready(Event::TakenOver) | Poll::Pending => {}
            }
        }
    }

    pub(crate) fn send(&mut self, packet: &[u8]) {
        self.sending.push_back(Bytes::copy_from_slice(packet));
        self.hand_over();
        self.pump();
    }

    /// Hands the worker what it takes. Whether that was anything.
    fn hand_over(&mut self) -> bool {
        let mut has_taken = false;
        while let (Some(stream), None, Some(packet)) = (&mut self.stream, self.closed, self.sending.front()) {
            let frame = frame::split(packet, u32::MAX).unwrap().unwrap();
            if !stream.takes(frame.packet_type()) || (stream.looks_ahead() && !stream.clears(frame)) {
                break;
            }
            if let Err(reason) = stream.send(frame, &mut self.out) {
                self.closed = Some(reason);
            }
            has_taken = true;
            self.sending.pop_front();
            self.take_out();
        }
        has_taken
    }

    fn take_out(&mut self) {
        while !self.out.is_empty() {
            let chunk = self.out.chunk().len();
            self.received.extend_from_slice(self.out.chunk());
            self.out.advance(chunk);
        }
    }

    pub(crate) fn subscribe(&mut self, filter: &str, options: u8) {
        let id = self.id();
        let length = u8::try_from(2 + 1 + 2 + filter.len() + 1).unwrap();
        let filter_length = u8::try_from(filter.len()).unwrap();
        let head = [0x82, length, (id >> 8) as u8, id as u8, 0, 0, filter_length];
        self.send(&[&head, filter.as_bytes(), &[options]].concat());
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) {
        let id = self.id();
        let length = u8::try_from(2 + 1 + 2 + filter.len()).unwrap();
        let filter_length = u8::try_from(filter.len()).unwrap();
        let head = [0xa2, length, (id >> 8) as u8, id as u8, 0, 0, filter_length];
        self.send(&[&head, filter.as_bytes()].concat());
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS, retain: bool) -> u16 {
        let id = self.id();
        self.publish_as(id, topic, payload, qos, retain);
        id
    }

    pub(crate) fn publish_as(&mut self, id: u16, topic: &str, payload: &[u8], qos: QoS, retain: bool) {
        self.send(&v5(&Packet::Publish(Publish { retain, ..publish(topic, payload, qos, id) })));
    }

    /// Sends a two-byte acknowledgement: PUBACK 0x40, PUBREC 0x50, PUBREL 0x62, PUBCOMP 0x70.
    pub(crate) fn acknowledge(&mut self, first_byte: u8, id: u16) {
        self.send(&[first_byte, 2, (id >> 8) as u8, id as u8]);
    }

    fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// The next packet, if one has come.
    pub(crate) fn got(&mut self) -> Option<Got> {
        self.got_raw().map(|bytes| read(frame::split(&bytes, u32::MAX).unwrap().unwrap()))
    }

    /// The same, as it came.
    pub(crate) fn got_raw(&mut self) -> Option<Bytes> {
        self.pump();
        let length = frame::split(&self.received, u32::MAX).unwrap()?.raw.len();
        Some(self.received.split_to(length).freeze())
    }

    /// All packets that have come.
    pub(crate) fn drain(&mut self) -> Vec<Got> {
        std::iter::from_fn(|| self.got()).collect()
    }

    /// Payloads of the PUBLISH packets that have come.
    pub(crate) fn payloads(&mut self) -> Vec<Vec<u8>> {
        let publish = |got| match got {
            Got::Publish { payload, .. } => Some(payload),
            _ => None,
        };
        self.drain().into_iter().filter_map(publish).collect()
    }

    /// The socket is gone without DISCONNECT.
    pub(crate) fn lose(&mut self) {
        self.stream.take().unwrap().close(CloseCause::Abnormal);
    }

    /// Sends DISCONNECT 0x00.
    pub(crate) fn disconnect(&mut self) {
        self.send(&[0xe0, 0]);
        self.stream = None;
    }

    /// The next packet, waiting for the clock if need be.
    pub(crate) async fn wait(&mut self) -> Got {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            if let Some(got) = self.got() {
                return got;
            }
            assert!(tokio::time::Instant::now() < deadline, "nothing came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn read(packet: frame::Frame<'_>) -> Got {
    let (first_byte, body) = (packet.raw[0], packet.body());
    match first_byte >> 4 {
        2 => Got::ConnAck { session_present: body[0] == 1, code: body[1] },
        3 => {
            let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let topic = String::from_utf8(body[2..2 + length].to_vec()).unwrap();
            let mut rest = &body[2 + length..];
            let qos = first_byte >> 1 & 3;
            let id = (qos > 0).then(|| u16::from_be_bytes([rest[0], rest[1]]));
            if qos > 0 {
                rest = &rest[2..];
            }
            let payload = rest[1 + usize::from(rest[0])..].to_vec();
            Got::Publish { topic, payload, qos, dup: first_byte & 8 != 0, retain: first_byte & 1 != 0, id }
        }
        _ => Got::Other { first_byte, body: body.to_vec() },
    }
}
