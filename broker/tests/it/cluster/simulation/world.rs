//! Workers, devices, and what happens to them.

use std::sync::Arc;
use std::time::Duration;

use broker::{Broker, BrokerConfig, ClusterSettings};
use mqtt::QoS;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use state::{MemoryCluster, MemoryWorker};
use tokio::time::{Instant, sleep};

use super::client::{Client, FILTERS, Noticed, Wish};
use super::dice::Dice;
use super::faulty::{Faulty, Slow, away};

const WORKERS: usize = 2;
const PUBLISHERS: usize = 2;
const SUBSCRIBERS: usize = 3;
/// Members of the share, the last of the devices.
const MEMBERS: usize = 2;

/// By its Client Identifier.
pub(super) fn is_publisher(client_id: &str) -> bool {
    client_id.strip_prefix('c').and_then(|n| n.parse().ok()).is_some_and(|n: usize| n < PUBLISHERS)
}

struct Worker {
    broker: Broker,
    memory: Arc<MemoryWorker>,
    registry: Registry,
    /// Stopped, as by SIGSTOP, until then.
    stopped_until: Option<Instant>,
    /// Cut off from the store until then.
    cut_until: Option<Instant>,
    /// A part of its store is slow until then.
    slow: Arc<Slow>,
    slow_until: Option<Instant>,
}

/// What is known of a message, and who must or must not get it.
struct Sent {
    publisher: usize,
    topic: usize,
    qos: QoS,
    is_acknowledged: bool,
    /// Both members of the share were subscribed.
    is_shared: bool,
    /// Who was subscribed when it was sent first: whoever was not may get a copy that was sent again, late.
    was_on: Vec<bool>,
    required: Vec<bool>,
    forbidden: Vec<bool>,
}

pub(super) struct World {
    dice: Dice,
    cluster: MemoryCluster,
    started: Instant,
    workers: Vec<Worker>,
    /// Publishers, then subscribers, then members of the share.
    clients: Vec<Client>,
    sent: Vec<Sent>,
    moves: usize,
    stops: usize,
    cuts: usize,
    failovers: usize,
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        let cluster = MemoryCluster::new();
        let mut workers = Vec::new();
        for n in 0..WORKERS {
            let memory = cluster.worker(&format!("w{n}"));
            let dice = Some(Mutex::new(Dice::new(seed ^ (n as u64 + 1) << 32)));
            let slow = Arc::new(Slow::default());
            let store = Arc::new(Faulty { inner: memory.store(), dice, slow: Arc::clone(&slow) });
            let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
            let settings =
                ClusterSettings { lease_ms: 300, worker_timeout_ms: 1200, ..ClusterSettings::default() };
            let mut registry = Registry::default();
            let broker =
                Broker::start_shared(config, store, memory.clone(), settings, &mut registry).await.unwrap();
            workers.push(Worker {
                broker,
                memory,
                registry,
                stopped_until: None,
                cut_until: None,
                slow,
                slow_until: None,
            });
        }
        for worker in &workers {
            worker.memory.store().hold();
        }
        let clients = (0..PUBLISHERS + SUBSCRIBERS + MEMBERS)
            .map(|n| {
                let mut client = Client::new(&format!("c{n}"));
                client.share = (n >= PUBLISHERS + SUBSCRIBERS).then_some(false);
                client
            })
            .collect();
        Self {
            dice: Dice::new(seed),
            cluster,
            started: Instant::now(),
            workers,
            clients,
            sent: Vec::new(),
            moves: 0,
            stops: 0,
            cuts: 0,
            failovers: 0,
        }
    }

    pub(super) async fn step(&mut self) {
        match self.dice.below(20) {
            0..10 => self.publish(),
            10..14 => self.resubscribe(),
            14..16 => self.move_device(),
            16 if self.dice.one_in(3) => self.harm(),
            _ => {}
        }
        self.turn().await;
    }

    fn move_device(&mut self) {
        let n = self.dice.below(self.clients.len());
        let worker = self.dice.below(WORKERS);
        if self.workers[worker].stopped_until.is_some() {
            return;
        }
        // Without a loss first it is a takeover: the old connection is told, or never hears.
        if self.dice.one_in(2) {
            self.clients[n].lose();
        }
        self.moves += 1;
        self.clients[n].connect(worker, &self.workers[worker].broker);
    }

    fn harm(&mut self) {
        let n = self.dice.below(WORKERS);
        let longest_ms = if self.dice.one_in(4) { 3000 } else { 600 };
        let until = Instant::now() + Duration::from_millis(self.dice.below(longest_ms) as u64);
        match self.dice.below(7) {
            5 | 6 => {
                self.workers[n].slow_until = Some(until);
                self.workers[n].slow.set(true);
            }
            0 | 1 => {
                self.stops += 1;
                self.workers[n].stopped_until = Some(until);
            }
            2 | 3 => {
                self.cuts += 1;
                self.workers[n].cut_until = Some(until);
                self.workers[n].memory.store().fail_with(Some(away()));
            }
            _ if self.dice.one_in(2) => self.cluster.trim_log(),
            _ => {
                self.failovers += 1;
                self.cluster.fail_over(self.dice.below(3));
            }
        }
    }

    fn can_act(&self, n: usize) -> bool {
        let client = &self.clients[n];
        client.is_connected && self.workers[client.worker].stopped_until.is_none()
    }

    fn publish(&mut self) {
        let n = self.dice.below(PUBLISHERS);
        if !self.can_act(n) || self.clients[n].in_flight() >= 6 {
            return;
        }
        let (topic, qos) = (self.dice.below(3), self.dice.below(5));
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][qos.div_ceil(2)];
        let wishes = self.clients.iter().map(|client| match client.share {
            Some(_) => (false, false),
            None => {
                let matching = || client.wishes.iter().enumerate().filter(|(at, _)| *at == topic || *at == 2);
                let is_on = matching().any(|(_, wish)| *wish == Wish::On);
                (is_on, matching().all(|(_, wish)| *wish == Wish::Off))
            }
        });
        let (required, forbidden): (Vec<bool>, Vec<bool>) = wishes.unzip();
        let was_on = required.clone();
        let is_shared = self.clients.iter().all(|client| client.share != Some(false));
        let sent =
            Sent { publisher: n, topic, qos, is_acknowledged: false, is_shared, was_on, required, forbidden };
        self.sent.push(sent);
        self.clients[n].publish(self.sent.len() - 1, &format!("t/{topic}"), qos);
    }

    fn resubscribe(&mut self) {
        let n = PUBLISHERS + self.dice.below(SUBSCRIBERS);
        if !self.can_act(n) {
            return;
        }
        let (filter, is_on) = (self.dice.below(FILTERS.len()), !self.dice.one_in(3));
        // What is not acknowledged yet may be matched before or after.
        for sent in self.sent.iter_mut().filter(|sent| !sent.is_acknowledged) {
            if is_on {
                sent.forbidden[n] = false;
            } else {
                sent.required[n] = false;
            }
        }
        self.clients[n].change(filter, is_on);
    }

    /// A few milliseconds pass.
    async fn turn(&mut self) {
        let now = Instant::now();
        for n in 0..WORKERS {
            let worker = &mut self.workers[n];
            if worker.stopped_until.is_some_and(|until| now < until) {
                continue;
            }
            worker.stopped_until = None;
            if worker.cut_until.is_some_and(|until| now >= until) {
                worker.cut_until = None;
                worker.memory.store().fail_with(None);
            }
            if worker.slow_until.is_some_and(|until| now >= until) {
                worker.slow_until = None;
                worker.slow.set(false);
            }
            worker.slow.give(self.dice.below(4));
            let answers = self.dice.below(worker.memory.store().held() + 3);
            for _ in 0..answers {
                worker.memory.store().step();
            }
        }
        for n in 0..self.clients.len() {
            self.pump(n);
        }
        sleep(Duration::from_millis(1 + self.dice.below(12) as u64)).await;
        self.cluster.tick(u64::try_from(self.started.elapsed().as_millis()).unwrap());
    }

    fn pump(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if client.device.is_none() || self.workers[client.worker].stopped_until.is_some() {
            return;
        }
        for noticed in client.pump() {
            match noticed {
                Noticed::Acknowledged(message) => self.sent[message].is_acknowledged = true,
                Noticed::Closed => {}
            }
        }
    }

    /// Ends all faults and lets everything come to rest.
    pub(super) async fn settle(&mut self) {
        for worker in &mut self.workers {
            (worker.stopped_until, worker.cut_until, worker.slow_until) = (None, None, None);
            worker.slow.set(false);
            worker.memory.store().fail_with(None);
            worker.memory.store().let_go();
        }
        for round in 0..8000 {
            for n in 0..self.clients.len() {
                if self.clients[n].device.is_none() {
                    let worker = self.dice.below(WORKERS);
                    self.clients[n].connect(worker, &self.workers[worker].broker);
                }
            }
            self.turn().await;
            let is_idle = self.clients.iter().all(|client| client.is_connected && client.in_flight() == 0);
            if is_idle && round > 100 && self.is_complete() {
                break;
            }
        }
        // What should not come has its chance.
        for _ in 0..100 {
            self.turn().await;
        }
    }

    fn is_complete(&self) -> bool {
        self.missing().is_none()
    }

    /// An acknowledged message that a device lacks.
    fn missing(&self) -> Option<String> {
        for (message, sent) in self.sent.iter().enumerate() {
            if !sent.is_acknowledged {
                continue;
            }
            for (n, client) in self.clients.iter().enumerate() {
                if sent.required[n] && !client.got.contains(&message) {
                    return Some(format!("{} lacks message {message} of c{}", client.name, sent.publisher));
                }
            }
            if sent.is_shared && self.shared_copies(message) == 0 {
                return Some(format!("no member of the share has message {message} of c{}", sent.publisher));
            }
        }
        None
    }

    fn shared_copies(&self, message: usize) -> usize {
        let members = self.clients.iter().filter(|client| client.share.is_some());
        members.flat_map(|client| &client.got).filter(|got| **got == message).count()
    }

    pub(super) fn check(&self) -> [usize; 6] {
        for (n, client) in self.clients.iter().enumerate() {
            assert!(client.is_connected, "{} is connected in the end", client.name);
            assert_eq!(client.in_flight(), 0, "{} has its acknowledgements", client.name);
            self.check_order(n);
            self.check_qos_0(n);
            for (message, sent) in self.sent.iter().enumerate() {
                let count = client.got.iter().filter(|got| **got == message).count();
                let what =
                    format!("{}: message {message} of c{} at {:?}", client.name, sent.publisher, sent.qos);
                assert!(count == 0 || !sent.forbidden[n], "{what} came after UNSUBACK");
                assert!(count <= 1 || sent.qos == QoS::AtLeastOnce, "{what} came {count} times");
            }
        }
        for (message, sent) in self.sent.iter().enumerate() {
            let copies = self.shared_copies(message);
            assert!(
                copies <= 1 || sent.qos == QoS::AtLeastOnce,
                "the share has message {message} {copies} times"
            );
        }
        assert_eq!(self.missing(), None);
        let metrics = |worker: &Worker| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &worker.registry).unwrap();
            let line =
                text.lines().find(|line| line.starts_with("tidegate_cluster_expelled_total ")).unwrap();
            line.split(' ').next_back().unwrap().parse::<usize>().unwrap()
        };
        let expelled = self.workers.iter().map(metrics).sum();
        [self.sent.len(), self.moves, self.stops, self.cuts, self.failovers, expelled]
    }

    /// Of one publisher and topic what comes with QoS 0 on one connection comes once and in order.
    fn check_qos_0(&self, n: usize) {
        let client = &self.clients[n];
        for got in &client.got_qos_0 {
            let mut last = std::collections::HashMap::new();
            for message in got {
                let sent = &self.sent[*message];
                if sent.qos == QoS::AtMostOnce {
                    let before = last.insert((sent.publisher, sent.topic), *message);
                    assert!(before < Some(*message), "{}: {message} came after {before:?}", client.name);
                }
            }
        }
    }

    /// First arrivals of one publisher's messages of one topic and QoS are in the order in which they were sent.
    fn check_order(&self, n: usize) {
        let client = &self.clients[n];
        let mut last = std::collections::HashMap::new();
        let mut seen = std::collections::HashSet::new();
        for message in &client.got {
            let sent = &self.sent[*message];
            // Of a share, a copy that its publisher sent again may go to another member.
            let may_jump = match client.share {
                Some(_) => sent.qos == QoS::AtLeastOnce,
                None => !sent.was_on[n],
            };
            if !seen.insert(*message) || may_jump {
                continue;
            }
            let before = last.insert((sent.publisher, sent.topic, sent.qos as u8), *message);
            assert!(before < Some(*message), "{}: message {message} came after {before:?}", client.name);
        }
    }
}
