//! A subscriber that stops reading while many publish: memory stays bounded, the others are not slowed, the offender is closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::bytes::Publish;
use crate::harness::{Server, Target, Transport};

const PUBLISHERS: usize = 100;
const PAYLOAD: usize = 2_000;
/// Messages of each publisher at least; together far more than every bound set here.
const MESSAGES: usize = 600;
/// For how long they publish at least: past the time that a device may leave bytes unread.
const LOAD: Duration = Duration::from_secs(12);

const CONFIG: &str = "[broker]\nqos0_bytes_max = 4000000\nqueue_messages_max = 2000\nqueue_bytes_max = 4000000\n\
                      [edge]\noutgoing_bytes_max = 1000000\nwrite_timeout_s = 5\n";

#[test]
fn a_subscriber_that_stops_reading_is_bounded_and_ended() {
    let server = Server::start(CONFIG);
    let at = |transport| Target { server: &server, transport };
    let mut stalled: Vec<_> = Transport::ALL
        .into_iter()
        .map(|transport| {
            let mut client = at(transport).v5();
            client.subscribe("load/#", 1);
            client
        })
        .collect();
    let mut healthy = at(Transport::Tcp).v5();
    healthy.subscribe("probe", 1);
    let mut prober = at(Transport::Tcp).v5();
    for _ in 0..20 {
        prober.publish("probe", "x", 1);
        healthy.take();
    }
    let before = server.resident_kib();
    let payload = "x".repeat(PAYLOAD);
    let peak = AtomicU64::new(0);
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|part| {
                let (at, payload) = (&at, &payload);
                scope.spawn(move || {
                    let mut publishers: Vec<_> =
                        (0..PUBLISHERS / 4).map(|_| at(Transport::Tcp).v5()).collect();
                    let start = Instant::now();
                    let mut round = 0;
                    while round < MESSAGES || start.elapsed() < LOAD {
                        round += 1;
                        for (number, client) in publishers.iter_mut().enumerate() {
                            let topic = format!("load/{part}/{number}");
                            if round % 10 == 0 {
                                client.publish(&topic, payload, 1);
                            } else {
                                client.send(&Publish::new(&topic, payload).bytes());
                            }
                        }
                    }
                })
            })
            .collect();
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let start = Instant::now();
            prober.publish("probe", "x", 1);
            healthy.take();
            slowest = slowest.max(start.elapsed());
            peak.fetch_max(server.resident_kib(), Ordering::Relaxed);
        }
    });
    let growth = peak.load(Ordering::Relaxed).saturating_sub(before);
    println!("memory grew by {growth} KiB at most, the slowest round trip took {slowest:?}");
    // Four stalled subscribers, each with at most 4 MB of QoS 0, 4 MB of queue and 1 MB at the edge; 100 publishers beside.
    assert!(growth < 96 * 1024, "resident memory grew by {growth} KiB");
    // Nobody waits for the end of one that does not read, which comes after `write_timeout_s`.
    assert!(slowest < Duration::from_secs(5), "a healthy round trip took {slowest:?}");
    for client in &mut stalled {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match client.poll_until(deadline) {
                // v5 section 3.14.2.1: if there is room for a last word, it says why.
                Ok(packet) if packet.first == 0xE0 => {
                    let reason = packet.disconnect().reason;
                    assert!([0x97, 0x93, 0x83, 0x80].contains(&reason), "{reason:#04x}");
                }
                Ok(_) => {}
                Err(closed) => {
                    assert!(closed, "a client that did not read for so long is still connected");
                    break;
                }
            }
        }
    }
    assert!(server.is_alive());
}
