//! A worker is cut off from Redis, but not from its edges, while two others are not: its devices go on at these, and none
//! notices more than a pause. When Redis stands still for all of them, and when the cut is short, nobody is moved.

use std::time::{Duration, Instant};

use crate::fleet::{mixed, watcher};
use crate::harness::fleet::{Fleet, Phase, Plan, Totals};
use crate::harness::let_pass;
use crate::servers::Server as RedisServer;
use crate::tiers::{Shape, Tiers, ask, metric, within};

const DEVICES: usize = 90;
/// What was acknowledged may wait for so long while its worker is cut off: the lease, the patience of the edges and the move,
/// on a machine that has much else to do.
const PAUSE_MAX: Duration = Duration::from_secs(9);
const CUT: Duration = Duration::from_secs(20);
const CALM: Duration = Duration::from_secs(3);
const STREAMS: &str = "tidegate_link_streams";

/// Devices moved because their worker was without its store, at all edges.
fn moved(tiers: &Tiers) -> u64 {
    let of = |server| {
        let (_, text) = ask(server, "/metrics");
        let is_it = |line: &&str| {
            line.starts_with("tidegate_workers_moves_total{") && line.contains("reason=\"store_away\"")
        };
        text.lines()
            .filter(is_it)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>() as u64
    };
    tiers.edges.iter().map(of).sum()
}

#[test]
fn devices_of_a_worker_that_is_cut_off_from_its_store_go_to_others() {
    let mut shape = Shape::new(3, 2);
    shape.worker_extra = "durability.clean_sessions = \"store\"\n".to_owned();
    let (tiers, proxy) = Tiers::start_with_proxy(&shape);
    let mut fleet = Fleet::new(&tiers.edges());
    for plan in mixed(DEVICES, 2, Duration::from_millis(500)) {
        fleet.add(plan);
    }
    fleet.add(watcher(0));
    fleet.wait_until_ready(Duration::from_secs(60));
    fleet.enter(Phase::Load);
    let_pass(CALM);

    // All workers pause, and one of them for a moment.
    tiers.redis.servers().iter().for_each(RedisServer::pause);
    let_pass(Duration::from_secs(5));
    tiers.redis.servers().iter().for_each(RedisServer::go_on);
    let_pass(CALM);
    proxy.shut();
    let_pass(Duration::from_millis(700));
    proxy.open();
    let_pass(CALM);
    assert_eq!(moved(&tiers), 0, "nobody is moved for a pause of all, or a short one");

    let served = metric(&tiers.workers[0], STREAMS);
    let begin = Instant::now();
    proxy.shut();
    let took = within("the worker has no devices", CUT, || {
        (metric(&tiers.workers[0], STREAMS) == 0.0).then(|| begin.elapsed())
    });
    // Who comes now is served, too, and at once.
    fleet.add(Plan { client_id: "late".to_owned(), ..watcher(1) });
    fleet.wait_until_ready(Duration::from_secs(5));
    let_pass(CUT.saturating_sub(begin.elapsed()));
    proxy.open();
    let_pass(CALM);
    let totals: Totals = fleet.settle(Duration::from_secs(90));
    println!("{}", totals.table(&format!("a worker with {served} devices is cut off for {CUT:?}")));
    println!("| until it had none                          | {:>6} ms |", took.as_millis());
    let moved = moved(&tiers);
    tiers.checked(|_| {
        totals.expect_clean();
        assert_eq!(totals.lost_clean[1..], [0, 0], "acknowledged messages for clean sessions lost");
        assert!(served > 5.0 && moved as f64 >= served, "{moved} of {served} moved");
        assert!(totals.acknowledgement < PAUSE_MAX, "{:?} until an acknowledgement", totals.acknowledgement);
    });
}
