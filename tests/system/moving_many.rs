//! 10,000 idle devices on one of two workers, which is killed: none is closed, and all are resumed at the other one. The time is
//! printed. Plain TCP, because every device is a socket of this process and of the edge, whose number is limited.

use std::time::{Duration, Instant};

use crate::fleet::mixed;
use crate::harness::Transport;
use crate::harness::fleet::{Fleet, Phase, Plan};
use crate::tiers::{Shape, Tiers, metric, within};

/// `TIDEGATE_DEVICES=n` for another number.
const DEVICES: usize = 10_000;
const CONNECTED: &str = "tidegate_link_streams";
const HEALTHY: &str = "tidegate_workers_healthy";

fn device_count() -> usize {
    std::env::var("TIDEGATE_DEVICES").ok().and_then(|count| count.parse().ok()).unwrap_or(DEVICES)
}

#[test]
fn all_devices_of_a_killed_worker_are_resumed() {
    let count = device_count();
    let mut tiers = Tiers::start_single(&Shape::new(2, 1));
    tiers.kill_worker(1);
    let mut fleet = Fleet::new(&tiers.edges());
    let started = Instant::now();
    for plan in mixed(count, 1, Duration::from_secs(1)) {
        let ping = Duration::from_secs(15);
        let filters = plan.topic.iter().map(|topic| format!("{topic}/+")).collect();
        fleet.add(Plan { transport: Transport::Tcp, filters, ping, ..plan });
        // Faster than they can be served only means that connections wait for longer than their deadline.
        if fleet.len().is_multiple_of(200) {
            fleet.wait_until_ready(Duration::from_secs(60));
        }
    }
    fleet.wait_until_ready(Duration::from_secs(60));
    println!("{count} devices connected in {:.1?}", started.elapsed());
    tiers.run_worker(1);
    within("the edge has found the new worker", Duration::from_secs(60), || {
        (metric(&tiers.edges[0], HEALTHY) >= 2.0).then_some(())
    });
    let moved_before = metric(&tiers.workers[1], CONNECTED);
    let killed = Instant::now();
    tiers.kill_worker(0);
    within("all devices are resumed", Duration::from_secs(120), || {
        (metric(&tiers.workers[1], CONNECTED) >= count as f64).then_some(())
    });
    let took = killed.elapsed();
    // Each of them can publish and gets its own message back.
    fleet.enter(Phase::Load);
    // No longer, or a slow machine would have more to do than it can.
    within("each publishes after it", Duration::from_secs(120), || {
        (0..count).all(|number| fleet.with_account(number, |account| account.has_published(1))).then_some(())
    });
    let totals = fleet.settle(Duration::from_secs(120));
    println!("{}", totals.table("a worker with all devices is killed"));
    println!("| devices moved                              | {:>9} |", count as f64 - moved_before);
    println!("| until the last was resumed                 | {:>6} ms |", took.as_millis());
    totals.expect_clean();
}
