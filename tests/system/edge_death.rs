//! An edge is killed: its devices come back at another one, with their sessions and everything that was queued. The Wills of
//! those that do not come back fire, once.

use std::time::Duration;

use crate::fleet::{mixed, watcher};
use crate::harness::fleet::{Fleet, Phase, Plan};
use crate::harness::let_pass;
use crate::tiers::{Shape, Tiers, within};

const DEVICES: usize = 80;
/// How many of the edge's devices stay away.
const LOST: usize = 10;
/// Longer than a worker waits for devices whose edge has gone.
const WILLS: Duration = Duration::from_secs(60);

fn will_of(name: &str) -> String {
    format!("will/{name}")
}

#[test]
fn devices_of_a_dead_edge_come_back_to_everything() {
    let mut shape = Shape::new(2, 2);
    shape.worker_extra = "link.handoff_grace_ms = 5000\n".to_owned();
    let mut tiers = Tiers::start_single(&shape);
    let mut fleet = Fleet::new(&tiers.edges());
    for plan in mixed(DEVICES, 2, Duration::from_millis(200)) {
        // What a clean session had goes with its connection, which is an edge's. A Will without a delay is due as soon as the
        // connection has ended, whoever comes back; 3.1.1 has no delay. v5 [MQTT-3.1.3-9]
        let will_delay_s = (plan.version == 5).then_some(60);
        fleet.add(Plan { stored: true, will_delay_s, ..plan });
    }
    let mut lost = Vec::new();
    for number in 0..LOST {
        let client_id = format!("lost-{number}");
        lost.push(will_of(&client_id));
        let plan =
            Plan { client_id, filters: Vec::new(), returns: false, will_delay_s: Some(1), ..watcher(0) };
        fleet.add(Plan { version: if number % 2 == 0 { 4 } else { 5 }, ..plan });
    }
    let watcher = fleet.add(watcher(1));
    fleet.wait_until_ready(Duration::from_secs(60));
    fleet.enter(Phase::Load);
    let_pass(Duration::from_secs(3));
    let of_the_edge = (0..DEVICES).filter(|number| fleet.plan(*number).edge == 0).count();
    fleet.edge_is(0, None);
    tiers.edges[0].kill();
    let_pass(Duration::from_secs(5));
    fleet.wait_until_ready(Duration::from_secs(30));
    let_pass(Duration::from_secs(3));
    let totals = fleet.settle(Duration::from_secs(60));
    within("the Wills of those that stay away", WILLS, || {
        let wills = fleet.with_account(watcher, |account| account.wills.len());
        (wills >= LOST).then_some(())
    });
    // A second one would come at about the same time.
    let_pass(Duration::from_secs(3));
    let totals_with_wills = fleet.totals();
    println!("{}", totals_with_wills.table("an edge is killed"));
    assert_eq!(totals.closes.len(), of_the_edge + LOST, "the devices of the dead edge, and no others");
    assert_eq!(totals.sessions_lost, 0, "every device that came back found its session");
    assert_eq!(totals.sessions_resumed, of_the_edge as u64);
    assert_eq!((totals.lost_stored[1], totals.lost_stored[2], totals.repeated[2]), (0, 0, 0));
    assert_eq!(totals.out_of_order[1..], [0, 0]);
    let fired: Vec<(String, u64)> = totals_with_wills.wills.into_iter().collect();
    let wanted: Vec<(String, u64)> = lost.into_iter().map(|topic| (topic, 1)).collect();
    assert_eq!(fired, wanted, "the Wills of those that stay away, once each, and no others");
}
