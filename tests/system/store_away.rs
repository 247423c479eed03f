//! The whole Redis Cluster stands still for 30 s: devices stay connected, QoS 0 between sessions of one worker flows, QoS 1 and 2
//! are held back, neither acknowledged nor dropped, and go on in order.

use std::time::Duration;

use crate::fleet::{mixed, watcher};
use crate::harness::fleet::{Fleet, Phase, Plan};
use crate::harness::let_pass;
use crate::servers::Server as RedisServer;
use crate::tiers::{Shape, Tiers};

const DEVICES: usize = 80;
const AWAY: Duration = Duration::from_secs(30);
/// What was under way when the store went away may still be answered.
const AFTERGLOW: Duration = Duration::from_secs(2);

/// Messages of a QoS that came so far, and acknowledgements of QoS 1 and 2 that were given to publishers.
fn so_far(fleet: &Fleet) -> ([u64; 3], u64) {
    let totals = fleet.totals();
    (totals.delivered, totals.acknowledged[1] + totals.acknowledged[2])
}

#[test]
fn devices_stay_and_messages_wait_while_the_store_is_away() {
    let tiers = Tiers::start(&Shape::paired(2));
    let mut fleet = Fleet::new(&tiers.edges());
    for (number, plan) in mixed(DEVICES, 2, Duration::from_millis(500)).into_iter().enumerate() {
        // Both of its publishers are at its own worker.
        let half = DEVICES / 2;
        let stem = |number: usize| format!("load/{}", number / half * half + number % half);
        let within =
            |step: usize| format!("{}/+", stem(number / half * half + (number % half + step) % half));
        let filters = vec![within(1), within(5)];
        fleet.add(Plan { edge: number / half, topic: Some(stem(number)), filters, ..plan });
    }
    fleet.add(watcher(0));
    fleet.wait_until_ready(Duration::from_secs(60));
    fleet.enter(Phase::Load);
    let_pass(Duration::from_secs(3));
    tiers.redis.servers().iter().for_each(RedisServer::pause);
    let_pass(AFTERGLOW);
    let before = so_far(&fleet);
    let_pass(AWAY - AFTERGLOW);
    let after = so_far(&fleet);
    tiers.redis.servers().iter().for_each(RedisServer::go_on);
    let_pass(Duration::from_secs(5));
    let totals = fleet.settle_with_qos_0(Duration::from_secs(90));
    println!("{}", totals.table("Redis away for 30 s"));
    println!("| QoS 0 delivered while it was away          | {:>9} |", after.0[0] - before.0[0]);
    println!("| QoS 1 and 2 acknowledged while it was away | {:>9} |", after.1 - before.1);
    tiers.checked(|_| totals.expect_clean());
    assert_eq!(totals.lost_clean, [0; 3], "nobody moved, so nothing is lost");
    assert!(after.0[0] - before.0[0] > 500, "QoS 0 flows");
}
