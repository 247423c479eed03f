//! A device for tests: it drives its stream as a relay does, without a socket.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use ::link::{CloseCause, Event, Open, Outgoing, Passport, Peer, Stream, Upstream};
use bytes::{Buf, Bytes, BytesMut};
use mqtt::{Packet, PropertiesBuf, Property, ProtocolVersion, QoS, ReasonCode};
use testkit::connection::{self, bytes_of, v5};
use tokio::time::{Duration, timeout};

use crate::fake::PATIENCE;
use crate::upstream::device::Device;
use crate::upstream::{WorkerStream, Workers};

/// One that is connected, or wants to be.
pub(super) struct TestDevice {
    pub(super) connection: u128,
    stream: Option<WorkerStream>,
    received: BytesMut,
}

/// What comes to a device.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Packet(Bytes),
    Closed(ReasonCode),
}

pub(super) fn open(number: u128, version: ProtocolVersion) -> Open {
    let client_id = format!("device-{number}");
    let connect = bytes_of(&connection::connect(version, &client_id));
    let peer = Peer {
        address: ([192, 0, 2, 1], 1).into(),
        listener: "test".into(),
        certificate_subject: Some("CN=device".into()),
    };
    let passport = Passport::unrestricted("someone".into(), client_id.clone().into()).into();
    Open { peer, passport, server_keep_alive_s: Some(60), ..connection::open(number, &client_id, connect) }
}

/// PUBLISH of MQTT 5 to topic `t`.
pub(super) fn publish(qos: QoS, id: u16, payload: &[u8]) -> Bytes {
    publish_by(qos, id, "t", None, payload)
}

pub(super) fn publish_by(qos: QoS, id: u16, topic: &str, alias: Option<u16>, payload: &[u8]) -> Bytes {
    let mut properties = PropertiesBuf::new();
    if let Some(alias) = alias {
        properties.push(Property::TopicAlias(alias));
    }
    let properties = properties.as_properties();
    v5(&Packet::Publish(mqtt::Publish { properties, ..connection::publish(topic, payload, qos, id) }))
}

impl TestDevice {
    /// Asks for its session.
    pub(super) fn begin(workers: &Workers, connection: u128) -> Self {
        Self::begin_as(workers, connection, ProtocolVersion::V5)
    }

    pub(super) fn begin_as(workers: &Workers, connection: u128, version: ProtocolVersion) -> Self {
        let stream = workers.open(open(connection, version));
        Self { connection, stream: Some(stream), received: BytesMut::new() }
    }

    /// Asks for its session and gets CONNACK.
    pub(super) async fn connect(workers: &Workers, connection: u128) -> Self {
        let mut device = Self::begin(workers, connection);
        let first = device.next().await;
        assert!(matches!(&first, Received::Packet(packet) if packet[0] == 0x20), "{first:?}");
        device
    }

    fn stream(&mut self) -> &mut WorkerStream {
        self.stream.as_mut().expect("open")
    }

    /// What it shares with those who carry it.
    pub(super) fn shared(&mut self) -> Arc<Device> {
        self.stream().device.clone()
    }

    /// Waits until there is room for a packet.
    pub(super) async fn ready(&mut self) {
        poll_fn(|cx| self.stream().poll_ready(cx)).await;
    }

    /// Sends a packet when there is room.
    pub(super) async fn send(&mut self, packet: &Bytes) {
        timeout(PATIENCE, self.ready()).await.expect("room");
        self.push(packet).expect("taken");
    }

    /// Sends a packet without asking for room.
    pub(super) fn push(&mut self, packet: &Bytes) -> Result<(), ReasonCode> {
        let frame = mqtt::frame::split(packet, u32::MAX).expect("framed").expect("whole");
        let mut out = Outgoing::new();
        let outcome = self.stream().send(frame, &mut out);
        self.keep(&mut out);
        outcome
    }

    pub(super) async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.stream().poll_ready(cx).is_ready())).await
    }

    fn keep(&mut self, out: &mut Outgoing) {
        while !out.is_empty() {
            let len = out.chunk().len();
            self.received.extend_from_slice(out.chunk());
            out.advance(len);
        }
    }

    fn packet(&mut self) -> Option<Bytes> {
        let frame = mqtt::frame::split_bytes(&mut self.received, u32::MAX).expect("framed")?;
        Some(frame.raw)
    }

    /// The next that comes.
    pub(super) async fn next(&mut self) -> Received {
        self.next_within(PATIENCE).await.unwrap_or_else(|| panic!("nothing came to {}", self.connection))
    }

    pub(super) async fn next_within(&mut self, within: Duration) -> Option<Received> {
        timeout(within, self.receive()).await.ok()
    }

    async fn receive(&mut self) -> Received {
        loop {
            if let Some(packet) = self.packet() {
                return Received::Packet(packet);
            }
            let mut out = Outgoing::new();
            let event = poll_fn(|cx| self.stream().poll_recv(cx, &mut out, 1 << 16)).await;
            self.keep(&mut out);
            if let Event::Closed(reason) = event {
                return match self.packet() {
                    Some(packet) => {
                        // What is said last is looked at by those who ask again.
                        self.stream = None;
                        Received::Packet(packet)
                    }
                    None => Received::Closed(reason),
                };
            }
        }
    }

    pub(super) fn renew(&mut self, passport: Passport) {
        self.stream().renew(passport.into());
    }

    pub(super) fn close(mut self, cause: CloseCause) {
        if let Some(stream) = self.stream.take() {
            stream.close(cause);
        }
    }

    /// Publishes `count` messages at QoS 1, `window` of them at a time, and answers how often each was acknowledged.
    pub(super) async fn publish_all(&mut self, count: u16, window: usize) -> Vec<u32> {
        let mut acknowledged = vec![0; usize::from(count)];
        let mut under_way = VecDeque::new();
        let mut next = 1;
        while next <= count || !under_way.is_empty() {
            while under_way.len() < window && next <= count {
                self.send(&publish(QoS::AtLeastOnce, next, &next.to_be_bytes())).await;
                under_way.push_back(next);
                next += 1;
            }
            let Received::Packet(mut packet) = self.next().await else { panic!("closed") };
            assert_eq!(packet[0], 0x40, "{packet:x?}");
            packet.advance(2);
            let id = packet.get_u16();
            acknowledged[usize::from(id) - 1] += 1;
            under_way.retain(|other| *other != id);
        }
        acknowledged
    }
}
