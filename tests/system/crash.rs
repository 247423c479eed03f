//! `kill -9` and restart, again and again, under QoS 1 and 2 load against stored sessions.
//! `TIDEGATE_CRASH_SEED` and `TIDEGATE_CRASH_ROUNDS` replay or lengthen a run.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, ack};
use crate::harness::packet::Packet;
use crate::harness::{Client, Server, Transport, let_pass};

const PUBLISHERS: usize = 6;
/// Messages of one publisher that are not acknowledged yet.
const WINDOW: usize = 30;
const FINISH: Duration = Duration::from_secs(120);
const CONFIG: &str = "[broker]\nqueue_messages_max = 10000000\nqueue_bytes_max = 4000000000\n";

/// Where the server is at present.
struct Place {
    address: Mutex<Option<SocketAddr>>,
    stop: AtomicBool,
}

impl Place {
    /// Connects as soon as the server is there, with whatever session it has. `None` when the run is over.
    fn connect(&self, connect: &Connect) -> Option<(Client, bool)> {
        let until = Instant::now() + FINISH;
        loop {
            assert!(Instant::now() < until, "no connection within {FINISH:?}");
            let address = *self.address.lock().unwrap();
            if let Some(mut client) = address.and_then(Client::try_open) {
                client.send(&connect.bytes());
                if let Ok(packet) = client.poll(Duration::from_secs(5)) {
                    let connack = packet.connack(5);
                    assert_eq!(connack.code, 0, "a restarted server takes its sessions back");
                    return Some((client, connack.session_present));
                }
            }
            let_pass(Duration::from_millis(3));
        }
    }
}

/// One publisher: numbers its messages, resends what is not acknowledged, in order.
struct Publisher {
    topic: String,
    qos: u8,
    next: u64,
    next_id: u16,
    /// Packet Identifier, number, whether PUBREC came.
    open: VecDeque<(u16, u64, bool)>,
}

impl Publisher {
    fn message(&self, id: u16, number: u64) -> bytes::Publish {
        let publish = bytes::Publish::new(&self.topic, format!("{number}"));
        if self.qos == 1 { publish.qos1(id) } else { publish.qos2(id) }
    }

    /// Runs until told to stop and everything is acknowledged; returns how many messages were.
    fn run(mut self, place: &Place) -> u64 {
        let connect = Connect::stored(&format!("from-{}", self.topic.replace('/', "-")));
        let mut had_session = false;
        loop {
            let Some((mut client, present)) = place.connect(&connect) else { return self.next };
            assert!(present || !had_session, "the session of a publisher is lost");
            had_session = true;
            // v5 [MQTT-4.4.0-1], [MQTT-4.6.0-1]
            for (id, number, received) in &self.open {
                client.send(&if *received {
                    ack(PUBREL, *id)
                } else {
                    self.message(*id, *number).dup().bytes()
                });
            }
            while self.step(&mut client, place.stop.load(Ordering::Relaxed)) {
                if place.stop.load(Ordering::Relaxed) && self.open.is_empty() {
                    return self.next;
                }
            }
        }
    }

    /// Fills the window and takes one answer; `false` when the connection is gone.
    fn step(&mut self, client: &mut Client, stopping: bool) -> bool {
        while !stopping && self.open.len() < WINDOW {
            let (id, number) = (self.next_id, self.next);
            self.next_id = if id == u16::MAX { 1 } else { id + 1 };
            self.next += 1;
            self.open.push_back((id, number, false));
            client.send(&self.message(id, number).bytes());
        }
        match client.poll(Duration::from_millis(200)) {
            Ok(packet) => self.answer(client, &packet),
            Err(closed) => return !closed,
        }
        true
    }

    fn answer(&mut self, client: &mut Client, packet: &Packet) {
        let reply = packet.reply(packet.first, 5);
        let place = self.open.iter().position(|(id, _, _)| *id == reply.id);
        match packet.first {
            PUBACK | PUBCOMP => {
                let _ = place.map(|place| self.open.remove(place));
            }
            PUBREC => {
                assert!(reply.reason < 0x80, "{reply:?}");
                if let Some(place) = place {
                    self.open[place].2 = true;
                }
                client.send(&ack(PUBREL, reply.id));
            }
            other => panic!("{other:#04x} for a publisher"),
        }
    }
}

/// One subscriber: what came, how often, in which order.
#[derive(Default)]
struct Subscriber {
    /// Identifiers of QoS 2 messages received and not yet released, as a client keeps them in its session.
    unreleased: HashSet<u16>,
    /// By topic: the numbers in the order of their first arrival, and how many came again.
    numbers: HashMap<String, (Vec<u64>, u64)>,
    seen: HashMap<String, BTreeSet<u64>>,
}

impl Subscriber {
    fn run(mut self, place: &Place, name: &str, wanted: &Mutex<Option<HashMap<String, u64>>>) -> Subscriber {
        let connect = Connect::stored(name);
        let mut until = Instant::now() + FINISH;
        loop {
            let Some((mut client, present)) = place.connect(&connect) else { return self };
            assert!(present, "the session of a subscriber is lost");
            loop {
                match client.poll(Duration::from_millis(100)) {
                    Ok(packet) => self.take(&mut client, &packet),
                    Err(true) => break,
                    Err(false) => {}
                }
                match &*wanted.lock().unwrap() {
                    Some(wanted) if self.has(wanted) && self.unreleased.is_empty() => return self,
                    Some(_) => assert!(Instant::now() < until, "messages are missing: {}", self.gaps()),
                    None => until = Instant::now() + FINISH,
                }
            }
        }
    }

    fn has(&self, wanted: &HashMap<String, u64>) -> bool {
        wanted.iter().all(|(topic, count)| self.seen.get(topic).map_or(0, |seen| seen.len() as u64) >= *count)
    }

    fn gaps(&self) -> String {
        let counts: Vec<_> = self.seen.iter().map(|(topic, seen)| (topic, seen.len(), seen.last())).collect();
        format!("{counts:?}")
    }

    fn take(&mut self, client: &mut Client, packet: &Packet) {
        if packet.first == PUBREL {
            let id = packet.reply(PUBREL, 5).id;
            self.unreleased.remove(&id);
            client.send(&ack(PUBCOMP, id));
            return;
        }
        let publish = packet.publish(5);
        let new = publish.qos != 2 || self.unreleased.insert(publish.id);
        assert!(new || publish.dup, "a repeat has DUP set. v5 [MQTT-3.3.1-1]");
        client.send(&ack(if publish.qos == 2 { PUBREC } else { PUBACK }, publish.id));
        if new {
            let number = publish.text().parse().unwrap();
            let (order, repeats) = self.numbers.entry(publish.topic.clone()).or_default();
            if self.seen.entry(publish.topic).or_default().insert(number) {
                order.push(number);
            } else {
                *repeats += 1;
            }
        }
    }

    /// Nothing acknowledged is lost, the order is kept, QoS 2 comes exactly once.
    fn check(&self, name: &str, wanted: &HashMap<String, u64>) {
        for (topic, count) in wanted {
            let (order, repeats) = &self.numbers[topic];
            let sorted: Vec<u64> = (0..*count).collect();
            assert!(
                *order == sorted,
                "{name}: {topic} is out of order or has gaps: {:?}",
                first_fault(order)
            );
            if topic.ends_with("/2") {
                assert_eq!(*repeats, 0, "{name}: {topic} has QoS 2 messages twice");
            }
        }
    }
}

fn first_fault(order: &[u64]) -> Option<(usize, u64)> {
    order.iter().copied().enumerate().find(|(place, number)| *place as u64 != *number)
}

/// A number below `bound`; a linear congruence is random enough for the moments of a kill.
fn random(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % bound
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn start(dir: &TempDir, place: &Place) -> Server {
    let server = Server::start_in(dir.path(), CONFIG);
    *place.address.lock().unwrap() = Some(server.address(Transport::Tcp));
    server
}

/// Ends the process without notice, and waits until nothing of it is left.
fn kill(server: Server, place: &Place) {
    *place.address.lock().unwrap() = None;
    server.signal("KILL");
    drop(server);
}

#[test]
fn acknowledged_messages_outlive_kill_and_restart() {
    let mut seed = setting("TIDEGATE_CRASH_SEED", u64::from(std::process::id()));
    let rounds = setting("TIDEGATE_CRASH_ROUNDS", 20);
    println!("TIDEGATE_CRASH_SEED={seed} TIDEGATE_CRASH_ROUNDS={rounds}");
    let dir = TempDir::new().unwrap();
    let place = Arc::new(Place { address: Mutex::new(None), stop: AtomicBool::new(false) });
    let wanted = Arc::new(Mutex::new(None));
    let mut server = start(&dir, &place);
    for name in ["here", "away"] {
        let (mut client, _) = place.connect(&Connect::stored(name)).unwrap();
        assert_eq!(client.subscribe("load/#", 2), 2);
        client.leave();
    }
    let publishers: Vec<JoinHandle<(String, u64)>> = (0..PUBLISHERS)
        .map(|number| {
            let qos = if number % 2 == 0 { 1 } else { 2 };
            let topic = format!("load/{number}/{qos}");
            let publisher =
                Publisher { topic: topic.clone(), qos, next: 0, next_id: 1, open: VecDeque::new() };
            let place = Arc::clone(&place);
            std::thread::spawn(move || (topic, publisher.run(&place)))
        })
        .collect();
    let subscriber = |name: &'static str| {
        let (place, wanted) = (Arc::clone(&place), Arc::clone(&wanted));
        std::thread::spawn(move || Subscriber::default().run(&place, name, &wanted))
    };
    let here = subscriber("here");
    for _ in 0..rounds {
        let_pass(Duration::from_millis(50 + random(&mut seed, 450)));
        kill(server, &place);
        server = start(&dir, &place);
    }
    place.stop.store(true, Ordering::Relaxed);
    let counts: HashMap<String, u64> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    *wanted.lock().unwrap() = Some(counts.clone());
    let total: u64 = counts.values().sum();
    println!("{total} messages acknowledged over {rounds} kills");
    assert!(total > rounds * 20, "there was load: {total}");
    here.join().unwrap().check("here", &counts);
    // What waited for a session that was away all the time outlives one more kill.
    kill(server, &place);
    let server = start(&dir, &place);
    subscriber("away").join().unwrap().check("away", &counts);
    kill(server, &place);
}
