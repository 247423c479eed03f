//! An edge: the real way of devices to workers, in a process of its own. The sockets of devices, and the relay between them and
//! this, are left out.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use lb::upstream::{WorkerStream, Workers, WorkersConfig};
use link::{CloseCause, Event, Open, Outgoing, Stream, Upstream};
use mqtt::{Connect, Disconnect, ProtocolVersion, ReasonCode};
use prometheus_client::registry::Registry;
use rand::{Rng, SeedableRng};
use testkit::{connection, metrics};

use super::network::Network;
use super::process::Process;
use super::{Dice, KEYS};

/// Bytes that a device takes at once.
const TAKEN_BYTES: usize = 4096;

pub(super) struct Edge {
    pub(super) process: Process,
    workers: Workers,
    registry: Registry,
    dice: Dice,
}

impl Edge {
    pub(super) fn start(number: usize, network: &Network, workers: &[SocketAddr], mut dice: Dice) -> Self {
        let mut config = WorkersConfig {
            addresses: workers.iter().map(ToString::to_string).collect(),
            edge_name: format!("edge{number}"),
            // Nothing in a simulation takes so long: nobody is given up.
            handoff_timeout_ms: 3_600_000,
            resume_timeout_ms: dice.random_range(300..2_000),
            backoff_max_ms: 500,
            links_per_worker: dice.random_range(1..=2),
            ..WorkersConfig::default()
        };
        config.passport.signing_key_file = Some(KEYS.file.clone());
        let process = Process::new();
        let mut registry = Registry::default();
        let reach = network.reach(number);
        let chance = Dice::seed_from_u64(dice.random());
        let started = async { Workers::start_by(config, reach, chance, &mut registry).unwrap() };
        let workers = process.run(started);
        Self { process, workers, registry, dice }
    }

    /// A device's connection with this CONNECT.
    pub(super) fn open(&mut self, number: usize, client_id: &str, connect: &Bytes) -> Line {
        let first = mqtt::frame::split(connect, u32::MAX).unwrap().unwrap();
        let version = Connect::decode(first).unwrap().version;
        let open = Open { attempt: 0, ..connection::open(self.dice.random(), client_id, connect.clone()) };
        let stream = self.process.run(async { self.workers.open(open) });
        Line { edge: number, version, stream: Some(stream), out: Outgoing::new(), received: BytesMut::new() }
    }

    /// What a metric says.
    pub(super) fn metric(&self, name: &str) -> usize {
        metrics::count(&self.registry, name)
    }

    /// How many connections have ended of which no worker has heard.
    pub(super) fn stop(&self) -> usize {
        self.process.run(self.workers.stop(Duration::from_millis(1)))
    }
}

/// One connection of a device.
pub(super) struct Line {
    pub(super) edge: usize,
    version: ProtocolVersion,
    stream: Option<WorkerStream>,
    out: Outgoing,
    received: BytesMut,
}

impl Line {
    /// Takes some of what has come, within the process of its edge. How the service ended the connection, if it did.
    pub(super) fn receive(&mut self) -> Option<ReasonCode> {
        let mut cx = Context::from_waker(Waker::noop());
        let stream = self.stream.as_mut()?;
        let polled = stream.poll_recv(&mut cx, &mut self.out, TAKEN_BYTES);
        while !self.out.is_empty() {
            self.received.extend_from_slice(self.out.chunk());
            self.out.advance(self.out.chunk().len());
        }
        match polled {
            Poll::Ready(Event::Closed(reason)) => {
                self.stream = None;
                Some(reason)
            }
            // As a relay does that has read what there was.
            Poll::Ready(Event::TakenOver) => {
                let reason = ReasonCode::SessionTakenOver;
                if self.version.is_v5() {
                    Disconnect::new(reason).encode(self.version, &mut self.received);
                }
                self.stream.take()?.close(CloseCause::Abnormal);
                Some(reason)
            }
            _ => None,
        }
    }

    /// The next packet that has come.
    pub(super) fn packet(&mut self) -> Option<Bytes> {
        let length = mqtt::frame::split(&self.received, u32::MAX).unwrap()?.raw.len();
        Some(self.received.split_to(length).freeze())
    }

    /// Sends what it may.
    pub(super) fn send(&mut self, packets: &mut BytesMut) {
        let mut cx = Context::from_waker(Waker::noop());
        while let Some(stream) = &mut self.stream
            && !packets.is_empty()
            && stream.poll_ready(&mut cx).is_ready()
            && let Some(frame) = mqtt::frame::split(packets, u32::MAX).unwrap()
        {
            let length = frame.raw.len();
            stream.send(frame, &mut self.out).unwrap();
            packets.advance(length);
        }
    }

    /// The device's socket is gone.
    pub(super) fn close(mut self) {
        if let Some(stream) = self.stream.take() {
            stream.close(CloseCause::Abnormal);
        }
    }
}
