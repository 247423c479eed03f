//! Edges, workers and a store, devices at the edges, and the time that they share.

mod device;
mod fault;
mod rest;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker::{CleanSessions, ClusterSettings};
use mqtt::{ProtocolVersion, QoS};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use state::MemoryCluster;
use testkit::client::{Client, Message, Phase, RETAINED, Wish};

use super::Dice;
use super::edge::Edge;
use super::network::Network;
use super::oracle::Oracle;
use super::will::{FILTERS, RETAINED_AT, SHARE_AT, WILLS_AT};
use super::worker::{Setup, Worker};
use device::Device;

const EDGES: usize = 2;
const WORKERS: usize = 3;
/// The watcher of Wills, then publishers, subscribers, members of a share, and readers of retained messages.
const PUBLISHERS: Range<usize> = 1..3;
const SUBSCRIBERS: Range<usize> = 3..6;
const MEMBERS: Range<usize> = 6..8;
const READERS: Range<usize> = 8..10;

/// Messages that a device may be sent at once, unacknowledged.
const RECEIVE_MAXIMUM: u16 = 8;

/// How long a session waits for its device to move: longer than anything that goes wrong here.
pub(super) const GRACE_MS: u64 = 20_000;

/// The clock of workers when a simulation begins.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What happened in a simulation.
pub(super) const COUNTED: [&str; 12] = [
    "messages",
    "connections",
    "takeovers",
    "kills",
    "stops",
    "drains",
    "cuts",
    "stalls",
    "outages",
    "edges killed",
    "wills",
    "messages behind a request",
];

/// One place for a worker, and the run of it that there is.
struct Place {
    name: String,
    address: SocketAddr,
    run: Option<Worker>,
    /// When the next run begins, once there is none.
    start_at: u64,
}

pub(super) struct World {
    dice: Dice,
    setup: Setup,
    places: Vec<Place>,
    edges: Vec<Edge>,
    devices: Vec<Device>,
    oracle: Oracle,
    round: u64,
    now_ms: Arc<AtomicU64>,
    counts: [usize; COUNTED.len()],
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::seed_from_u64(seed);
        let now_ms = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&now_ms);
        let is_kept = dice.random_bool(0.5);
        let settings = ClusterSettings {
            lease_ms: 300,
            worker_timeout_ms: 1200,
            handoff_grace_ms: GRACE_MS as u32,
            clean_sessions: if is_kept { CleanSessions::Store } else { CleanSessions::Memory },
            ..ClusterSettings::default()
        };
        let setup = Setup {
            cluster: MemoryCluster::new(),
            network: Network::new(Dice::seed_from_u64(dice.random())),
            time: Arc::new(move || EPOCH_MS + clock.load(Ordering::Relaxed)),
            settings,
            is_rough: dice.random_bool(0.7),
            window_bytes: if dice.random_bool(0.3) { 1024 } else { 64 << 10 },
        };
        let places = (0..WORKERS).map(|n| Place {
            name: format!("worker{n}"),
            address: ([10, 0, 0, n as u8 + 1], 7883).into(),
            run: None,
            start_at: 0,
        });
        let mut world = Self {
            setup,
            places: places.collect(),
            edges: Vec::new(),
            devices: Vec::new(),
            oracle: Oracle::new(Vec::new(), Vec::new()),
            round: 0,
            now_ms,
            counts: [0; COUNTED.len()],
            dice,
        };
        world.begin(is_kept);
        world
    }

    /// Everybody but the last worker is there, and somebody is subscribed to Wills.
    fn begin(&mut self, is_kept: bool) {
        let clients: Vec<Client> = (0..READERS.end)
            .map(|n| {
                let is_v5 = self.dice.random_bool(0.6);
                let version = if is_v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
                let is_clean = n > 0 && !MEMBERS.contains(&n) && self.dice.random_bool(0.35);
                let bounds = (RECEIVE_MAXIMUM, self.dice.random_range(0..3));
                Client::new(format!("c{n}"), version, is_clean, bounds, &FILTERS)
            })
            .collect();
        let keeps = clients.iter().map(|client| is_kept || !client.is_clean).collect();
        let is_stored = clients.iter().map(|client| !client.is_clean).collect();
        self.oracle = Oracle::new(keeps, is_stored);
        self.devices = clients.into_iter().map(Device::new).collect();
        self.places[WORKERS - 1].start_at = self.dice.random_range(100..600);
        for n in 0..EDGES {
            let edge = self.new_edge(n);
            self.edges.push(edge);
        }
        while !self.places.iter().any(|place| place.run.as_ref().is_some_and(Worker::is_serving)) {
            self.turn();
        }
        for n in 0..self.devices.len() {
            self.connect(n);
        }
        while self.devices[0].client.wishes[WILLS_AT] != Wish::On {
            if self.devices[0].line.is_none() {
                self.connect(0);
            }
            let client = &mut self.devices[0].client;
            if client.phase == Phase::Connected && client.is_idle() {
                client.change(WILLS_AT, true);
            }
            client.insist();
            self.turn();
        }
        for n in MEMBERS {
            while self.devices[n].client.wishes[SHARE_AT] == Wish::Off {
                if self.devices[n].line.is_none() {
                    self.connect(n);
                }
                if self.devices[n].can_act() {
                    self.devices[n].client.change(SHARE_AT, true);
                }
                self.turn();
            }
        }
    }

    fn new_edge(&mut self, n: usize) -> Edge {
        let addresses: Vec<_> = self.places.iter().map(|place| place.address).collect();
        Edge::start(n, &self.setup.network, &addresses, Dice::seed_from_u64(self.dice.random()))
    }

    fn now(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub(super) fn step(&mut self) {
        match self.dice.random_range(0..40) {
            0..18 => self.publish(),
            18..22 => self.resubscribe(),
            22..25 => self.speak(),
            25..31 => self.disturb_device(),
            31..33 => self.harm(),
            _ => {}
        }
        let known: Vec<_> = self.devices.iter().map(|device| device.client.wishes.clone()).collect();
        self.turn();
        for (n, known) in known.iter().enumerate().take(SUBSCRIBERS.end).skip(SUBSCRIBERS.start) {
            for (filter, before) in known.iter().enumerate().take(WILLS_AT) {
                if *before == Wish::Subscribing && self.devices[n].client.wishes[filter] == Wish::On {
                    // What comes right after SUBACK, wherever, is for it.
                    PUBLISHERS.for_each(|publisher| self.publish_by(publisher, filter));
                }
            }
        }
    }

    fn publish(&mut self) {
        let n = self.dice.random_range(PUBLISHERS);
        // Of a retained topic there is one publisher: what is last is known.
        let topic = if self.dice.random_ratio(1, 5) { RETAINED + n } else { self.dice.random_range(0..3) };
        self.publish_by(n, topic);
    }

    fn publish_by(&mut self, n: usize, topic: usize) {
        if !self.devices[n].can_act() || self.devices[n].client.in_flight() >= 6 {
            return;
        }
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
            [self.dice.random_range(0..5_usize).div_ceil(2)];
        let qos = if topic >= RETAINED { qos.max(QoS::AtLeastOnce) } else { qos };
        let clears = topic >= RETAINED && self.dice.random_ratio(1, 5);
        let size = if clears {
            0
        } else if self.dice.random_ratio(1, 8) {
            self.dice.random_range(4..3000)
        } else {
            4
        };
        let message = Message { index: self.oracle.messages(), topic, qos, size };
        self.oracle.publish(n, message, self.devices.iter().map(|device| &device.client));
        let alias = self.dice.random_range(0..3);
        self.devices[n].client.publish(message, alias);
        self.counts[0] += 1;
    }

    fn resubscribe(&mut self) {
        let n = self.dice.random_range(SUBSCRIBERS.start..READERS.end);
        if MEMBERS.contains(&n) || !self.devices[n].can_act() {
            return;
        }
        if READERS.contains(&n) {
            let is_on = !self.dice.random_ratio(1, 3);
            return self.change(n, RETAINED_AT, is_on);
        }
        self.change_by(n);
    }

    /// A device changes a subscription and publishes to itself, all in one go.
    fn speak(&mut self) {
        let n = self.dice.random_range(SUBSCRIBERS);
        if !self.devices[n].can_act() {
            return;
        }
        for _ in 0..self.dice.random_range(1..3) {
            let filter = self.change_by(n);
            self.publish_by(n, filter);
            self.counts[11] += 1;
        }
    }

    /// Answers the filter, which is as good as a topic.
    fn change_by(&mut self, n: usize) -> usize {
        let (filter, is_on) = (self.dice.random_range(0..3), !self.dice.random_ratio(1, 3));
        self.change(n, filter, is_on);
        filter
    }

    fn change(&mut self, n: usize, filter: usize, is_on: bool) {
        self.oracle.change(n, is_on);
        self.devices[n].client.insist();
        self.devices[n].client.change(filter, is_on);
    }

    /// A few milliseconds pass.
    fn turn(&mut self) {
        let is_long = self.dice.random_ratio(1, 6);
        let ms = self.dice.random_range(if is_long { 10..60 } else { 1..10 });
        self.pass(ms);
    }

    fn pass(&mut self, ms: u64) {
        let time = Duration::from_millis(ms);
        self.round += 1;
        let now_ms = self.now_ms.fetch_add(ms, Ordering::Relaxed) + ms;
        self.setup.cluster.tick(now_ms);
        self.setup.network.pass();
        self.start_workers();
        let mut order: Vec<usize> = (0..EDGES + WORKERS).collect();
        order.shuffle(&mut self.dice);
        for n in order {
            if n < EDGES {
                let Self { edges, devices, oracle, dice, .. } = self;
                edges[n].process.pass(time, || {
                    devices.iter_mut().for_each(|device| device.take_turn(n, oracle, dice, now_ms));
                });
            } else if let Some(worker) = &mut self.places[n - EDGES].run {
                if self.round < worker.stands_until {
                    worker.road.pass_without();
                    worker.process.stand(time);
                } else {
                    worker.process.pass(time, || worker.road.pass());
                }
            }
        }
    }

    /// Workers that have left are gone, and those whose time has come begin.
    fn start_workers(&mut self) {
        for n in 0..WORKERS {
            let place = &mut self.places[n];
            if let Some(worker) = place.run.take_if(|worker| worker.has_left()) {
                worker.kill();
                place.start_at = self.round + self.dice.random_range(1..200);
            }
            if place.run.is_none() && self.round >= place.start_at {
                let dice = Dice::seed_from_u64(self.dice.random());
                tracing::info!(n, now_ms = self.now_ms.load(Ordering::Relaxed), "worker begins");
                place.run = Some(Worker::start(&self.setup, &place.name, place.address, dice));
            }
        }
    }
}
