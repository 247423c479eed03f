//! Clients that take as much memory as they can, one kind after the other, in a process that may have so much: it keeps to that, says
//! so, and others are served as before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::bytes::{Connect, Publish, subscribe};
use crate::harness::{Client, Server, Target, Transport, unique, until};
use crate::tiers::{Shape, Tiers, ask, metric};

const MIB: u64 = 1 << 20;

/// What the process may have, and by how much it may go past that for a moment: what comes between two looks.
const BUDGET: u64 = 256 * MIB;
const MARGIN: u64 = 64 * MIB;

/// What each tier may have, which is little more than it begins with, and by how much it may go past that.
const TIER_BUDGET: u64 = 64 * MIB;
const TIER_MARGIN: u64 = 96 * MIB;

/// Devices that do not read and have a topic in common.
const DEAF: usize = 200;

/// Messages of 100 kB that are to be dropped, three times as much as the process may have.
const DROPPED_MIN: u64 = 8_000;

/// For how long they are published to at most.
const LOAD_MAX: Duration = Duration::from_secs(60);

/// Round trips of the good pair in each state.
const TRIPS: usize = 200;

/// What a busy machine may add to a round trip.
const NOISE: Duration = Duration::from_millis(250);

fn server() -> Server {
    let mut server = Server::start("");
    server.restart_with(vec![("TIDEGATE__RUNTIME__MEMORY_MAX_BYTES", BUDGET.to_string().into())]);
    server
}

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// Two clients of which one tells the other something now and then.
struct Pair {
    publisher: Client,
    subscriber: Client,
    topic: String,
}

impl Pair {
    fn new(server: &Server) -> Self {
        let topic = unique("pair");
        let mut subscriber = tcp(server).connect(&Connect::stored(&unique("good")));
        assert_eq!(subscriber.subscribe(&topic, 1), 1);
        Self { publisher: tcp(server).v5(), subscriber, topic }
    }

    /// How long nearly all of its round trips take at most.
    fn p99(&mut self, trips: usize) -> Duration {
        let mut took: Vec<Duration> = (0..trips)
            .map(|number| {
                let since = Instant::now();
                self.publisher.publish(&self.topic, &number.to_string(), 1);
                assert_eq!(self.subscriber.take().text(), number.to_string());
                since.elapsed()
            })
            .collect();
        took.sort_unstable();
        took[trips * 99 / 100]
    }
}

fn expect_within_budget(server: &Server) {
    expect_within(server, BUDGET + MARGIN);
}

fn expect_within(server: &Server, bytes: u64) {
    let peak = server.peak_kib() * 1024;
    println!("{} MiB at most", peak / MIB);
    assert!(peak <= bytes, "{} MiB instead of {}", peak / MIB, bytes / MIB);
}

/// What `greedy` does leaves the memory of the process within its budget, and a good pair as quick as before.
fn expect_served_beside(server: &Server, greedy: impl FnOnce(&AtomicBool) + Send) {
    let mut pair = Pair::new(server);
    let calm = pair.p99(TRIPS);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let greedy = scope.spawn(|| greedy(&stop));
        let mut busy = pair.p99(TRIPS);
        while !greedy.is_finished() && metric(server, "tidegate_broker_limited_total") == 0.0 {
            busy = busy.max(pair.p99(20));
        }
        stop.store(true, Ordering::Relaxed);
        println!("99 of 100 round trips took {calm:?} before, and {busy:?} beside them");
        assert!(busy <= 2 * calm + NOISE, "{busy:?} instead of {calm:?}");
    });
    expect_within_budget(server);
}

#[test]
fn devices_that_do_not_read_are_kept_within_the_memory_of_the_process() {
    for qos in [0, 1] {
        let server = server();
        let topics: Vec<_> = (0..40).map(|_| unique("unread")).collect();
        let mut deaf: Vec<_> = topics
            .iter()
            .map(|topic| {
                let mut client = tcp(&server).v5();
                client.subscribe(topic, qos);
                client
            })
            .collect();
        // Each of them may have 16 MiB of QoS 0, or 64 MiB of QoS 1.
        let flood = |stop: &AtomicBool| {
            let mut publisher = tcp(&server).v5();
            let payload = "x".repeat(100_000);
            for _ in 0..400 {
                for topic in &topics {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    publisher.publish(topic, &payload, qos);
                }
            }
        };
        if qos == 0 {
            // Nothing has to be refused: what waits is dropped, and what comes in its place.
            let mut pair = Pair::new(&server);
            let calm = pair.p99(TRIPS);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| flood(&stop));
                let is_dropped = || dropped_for_memory(&server) >= DROPPED_MIN;
                let mut busy = pair.p99(TRIPS);
                let since = Instant::now();
                while !is_dropped() && since.elapsed() < Duration::from_secs(60) {
                    busy = busy.max(pair.p99(20));
                }
                stop.store(true, Ordering::Relaxed);
                let dropped = dropped_for_memory(&server);
                assert!(dropped >= DROPPED_MIN, "{dropped} messages were let go of");
                println!("99 of 100 round trips took {calm:?} before, and {busy:?} beside them");
                assert!(busy <= 2 * calm + NOISE, "{busy:?} instead of {calm:?}");
            });
            expect_within_budget(&server);
        } else {
            expect_served_beside(&server, flood);
            // Who is ended is told why, if it reads at last.
            assert!(deaf.iter_mut().any(is_ended), "nobody was ended");
        }
        assert!(server.log().contains("too much memory"), "the log says so");
    }
}

/// Messages with QoS 0 that were dropped since there was too much memory.
fn dropped_for_memory(server: &Server) -> u64 {
    let name = "tidegate_broker_messages_dropped_total{reason=\"OutOfMemory\",qos=\"0\"} ";
    let metrics = ask(server, "/metrics").1;
    metrics.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |count| count.parse().unwrap())
}

/// Whether the connection was ended with 0x97, or without a word that could be read.
fn is_ended(client: &mut Client) -> bool {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        match client.poll_until(deadline) {
            Ok(packet) if packet.first == 0xE0 => {
                assert_eq!(packet.disconnect().reason, 0x97);
                return true;
            }
            Ok(_) => {}
            Err(is_closed) => return is_closed,
        }
    }
}

#[test]
fn sessions_that_hold_much_keep_others_out_until_they_have_gone() {
    let server = server();
    let mut greedy = Vec::new();
    let hold = || {
        let mut client = tcp(&server).v5();
        let mut codes = Vec::new();
        for part in 0..4_u16 {
            let filters: Vec<_> = (0..16).map(|n| format!("{part}/{n}/{}", "x".repeat(60_000))).collect();
            let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
            client.send(&subscribe(part + 1, &[], &filters));
            codes.extend(client.read_packet().suback(5).codes);
        }
        (client, codes)
    };
    let mut pair = Pair::new(&server);
    let calm = pair.p99(TRIPS);
    while greedy.len() < 200 {
        let mut first = tcp(&server).open();
        first.send(&Connect::v5(&unique("c")).bytes());
        let code = first.expect_connack().code;
        if code != 0 {
            assert_eq!(code, 0x97);
            break;
        }
        greedy.push(hold().0);
    }
    assert!(greedy.len() < 200, "nobody was kept out");
    assert_eq!(tcp(&server).refused(&Connect::v4(&unique("c")).bytes(), 4).code, 3);
    let busy = pair.p99(TRIPS);
    println!("99 of 100 round trips took {calm:?} before, and {busy:?} beside them");
    assert!(busy <= 2 * calm + NOISE, "{busy:?} instead of {calm:?}");
    assert!(metric(&server, "tidegate_edge_limited_total") >= 2.0);
    expect_within_budget(&server);
    // Who holds little may go on subscribing.
    assert_eq!(pair.subscriber.subscribe(&unique("t"), 1), 1);
    for client in greedy {
        client.vanish();
    }
    let is_let_in = || {
        let mut client = tcp(&server).open();
        client.send(&Connect::v5(&unique("c")).bytes());
        (client.expect_connack().code == 0).then_some(())
    };
    until(is_let_in, || server.log());
}

#[test]
fn four_clients_at_full_speed_leave_others_their_turn() {
    let server = Server::start("");
    let mut pair = Pair::new(&server);
    let calm = pair.p99(TRIPS);
    let stop = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut client = tcp(&server).v5();
            let flood = Publish::new(unique("flood"), "x").bytes().repeat(1_000);
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    client.send(&flood);
                }
            });
        }
        let busy = pair.p99(TRIPS);
        stop.store(true, Ordering::Relaxed);
        busy
    });
    println!("99 of 100 round trips took {calm:?} before, and {busy:?} beside four clients at full speed");
    assert!(busy <= 4 * calm + NOISE, "{busy:?} instead of {calm:?}");
}

#[test]
fn each_tier_is_kept_within_its_own_memory() {
    let mut shape = Shape::new(1, 1);
    let budget = format!("runtime.memory_max_bytes = {TIER_BUDGET}\n");
    (shape.edge_extra, shape.worker_extra) = (budget.clone(), budget);
    let tiers = Tiers::start_single(&shape);
    let (edge, worker) = (&tiers.edges[0], &tiers.workers[0]);
    let topic = unique("unread");
    let deaf = |_| {
        let mut client = tcp(edge).v5();
        client.subscribe(&topic, 0);
        client.keeps_little();
        client
    };
    let _deaf: Vec<_> = (0..DEAF).map(deaf).collect();
    let (mut pair, mut publisher) = (Pair::new(edge), tcp(edge).v5());
    // The edge has what was sent to each of them, and cannot drop any of it; the worker drops.
    let ended = || metric(edge, "tidegate_edge_limited_total") > 0.0;
    let dropped = || ask(worker, "/metrics").1.contains("dropped_total{reason=\"OutOfMemory\",qos=\"0\"}");
    let (since, payload) = (Instant::now(), "x".repeat(300_000));
    let mut slowest = Duration::ZERO;
    while !(ended() && dropped()) && since.elapsed() < LOAD_MAX {
        publisher.publish(&topic, &payload, 0);
        // The pair goes on all the while.
        slowest = slowest.max(pair.p99(1));
    }
    println!("a round trip took {slowest:?} at most");
    assert!(ended(), "nobody was ended:\n{}", edge.log());
    assert!(dropped(), "nothing was dropped:\n{}", worker.log());
    for server in [edge, worker] {
        assert!(server.log().contains("too much memory"), "the log says so");
        expect_within(server, TIER_BUDGET + TIER_MARGIN);
    }
}
