//! A client that sends as fast as it can, beside a good one, through an edge and workers: the one is slowed down, the other goes on,
//! and what bounds them moves with their sessions when a worker dies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::bytes::{Connect, Publish};
use crate::harness::{Server, Target, Transport, unique};
use crate::tiers::{Shape, Tiers, metric};

/// Messages a second that each connection may send.
const RATE: u32 = 50;

/// Messages of the good client.
const MESSAGES: usize = 100;

/// For how long the greedy one sends at most.
const LOAD_MAX: Duration = Duration::from_secs(120);

/// How long one of them may take, on a busy machine.
const SLOW: Duration = Duration::from_secs(3);

fn received(workers: &[Server]) -> f64 {
    workers.iter().map(|worker| metric(worker, "tidegate_broker_messages_received_total")).sum()
}

#[test]
fn a_greedy_client_is_slowed_down_and_a_good_one_goes_on() {
    let mut shape = Shape::new(2, 1);
    shape.edge_extra = format!(
        "[[authorization.limits]]\nwho = [\"anonymous\"]\nreceived_messages_per_s = {RATE}\nqos_max = 1\n\
         subscriptions_max = 2\n"
    );
    let mut tiers = Tiers::start_single(&shape);
    let (topic, stop) = (unique("t"), AtomicBool::new(false));
    let at = |tiers: &Tiers, transport| Target { server: &tiers.edges[0], transport }.v5();
    let mut publisher = at(&tiers, Transport::Tls);
    // What a clean session was to get may die with its worker.
    let stored = Connect::stored(&unique("s"));
    let mut subscriber = Target { server: &tiers.edges[0], transport: Transport::Wss }.connect(&stored);
    assert_eq!(subscriber.subscribe(&topic, 2), 1, "no more than its highest QoS");
    let mut greedy = at(&tiers, Transport::Tcp);
    let (before, since) = (received(&tiers.workers), Instant::now());
    let slowest = std::thread::scope(|scope| {
        let flood = Publish::new("flood", "x".repeat(1_000)).bytes().repeat(100);
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) && since.elapsed() < LOAD_MAX {
                greedy.send(&flood);
            }
        });
        let mut slowest = Duration::ZERO;
        for number in 0..MESSAGES {
            let since = Instant::now();
            publisher.publish(&topic, &number.to_string(), 1);
            assert_eq!(subscriber.take().text(), number.to_string());
            slowest = slowest.max(since.elapsed());
        }
        let sent = received(&tiers.workers) - before - MESSAGES as f64;
        let may_send = f64::from(RATE) * (since.elapsed().as_secs_f64() + 1.0);
        stop.store(true, Ordering::Relaxed);
        assert!(sent > 0.0 && sent <= may_send, "{sent} messages of the greedy client, {may_send} at most");
        slowest
    });
    assert!(slowest < SLOW, "{slowest:?}");
    assert!(metric(&tiers.edges[0], "tidegate_edge_limited_total") >= 1.0);

    tiers.kill_worker(0);
    for number in 0..10 {
        publisher.publish(&topic, &number.to_string(), 1);
        subscriber.take();
    }
    assert_eq!(subscriber.subscribe(&unique("t"), 2), 1);
    assert_eq!(subscriber.subscribe(&unique("t"), 2), 0x97);
    publisher.send(&Publish::new(&topic, "x").qos2(1).bytes());
    publisher.expect_disconnect(0x9B);
}
