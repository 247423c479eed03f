//! Devices of a stack that somebody else runs and breaks, which is `scripts/test-compose`. It says by lines on standard input what happens,
//! and reads here what the devices saw. Without `TIDEGATE_STACK` there is no stack, and nothing is tested.
//!
//! `TIDEGATE_STACK` names an addresses file for each edge (`runtime.addresses_file`, with the path of the authority's certificate as
//! `ca`), separated by colons; `TIDEGATE_STACK_USER` is `NAME:PASSWORD`, `TIDEGATE_STACK_DEVICES` how many there are, of which every
//! `TIDEGATE_STACK_AT_FIRST_EDGE`th begins at the first edge.

use std::io::BufRead as _;
use std::path::Path;
use std::time::Duration;

use crate::fleet::mixed;
use crate::harness::Server;
use crate::harness::fleet::{Fleet, Phase, Plan};
use crate::tiers::within;

const DEVICES: usize = 300;
/// Each device publishes to two others; everything shares the machine with the stack.
const INTERVAL: Duration = Duration::from_secs(3);
const PING: Duration = Duration::from_secs(5);
const READY: Duration = Duration::from_secs(240);
const SETTLE: Duration = Duration::from_secs(180);

fn start_fleet(edges: &str) -> Fleet {
    let servers: Vec<Server> = edges.split(':').map(|file| Server::running(Path::new(file))).collect();
    let user = std::env::var("TIDEGATE_STACK_USER").ok();
    let user = user.as_deref().and_then(|user| user.split_once(':'));
    let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<usize>().ok());
    let at_first = number("TIDEGATE_STACK_AT_FIRST_EDGE").unwrap_or(servers.len());
    let mut fleet = Fleet::of_user(&servers.iter().collect::<Vec<_>>(), user);
    let plans = mixed(number("TIDEGATE_STACK_DEVICES").unwrap_or(DEVICES), 1, INTERVAL);
    for (number, plan) in plans.into_iter().enumerate() {
        // Eight in a row are one of each kind.
        let edge = usize::from((number / 8) % at_first != 0);
        // Where an edge dies, which is the first, what clean sessions had goes with it.
        let stored = plan.stored || (edge == 0 && servers.len() > 1);
        // Sessions of an earlier run have other subscriptions.
        let client_id = format!("{}-{}", plan.client_id, std::process::id());
        fleet.add(Plan { edge, stored, client_id, ping: PING, ..plan });
    }
    fleet
}

/// The devices that began at an edge.
fn of_edge(fleet: &Fleet, edge: &str) -> Vec<usize> {
    (0..fleet.len()).filter(|number| fleet.plan(*number).edge.to_string() == edge).collect()
}

/// How many messages of a device at QoS 1 and 2 are acknowledged.
fn acknowledged(fleet: &Fleet, number: usize) -> usize {
    fleet.with_account(number, |account| {
        let published = account.published.iter().filter(|(topic, _)| !topic.ends_with("/0"));
        published.flat_map(|(_, numbers)| numbers).filter(|is_acknowledged| **is_acknowledged).count()
    })
}

/// Every device gets something acknowledged that was not yet.
fn wait_until_all_publish(fleet: &Fleet) {
    let before: Vec<usize> = (0..fleet.len()).map(|number| acknowledged(fleet, number)).collect();
    let has_more = |number: usize| acknowledged(fleet, number) > before[number];
    within("all devices publish", READY, || (0..fleet.len()).all(has_more).then_some(()));
}

/// The devices of an edge that is gone have noticed, and are connected again.
fn wait_until_back(fleet: &mut Fleet, edge: &str) {
    let devices = of_edge(fleet, edge);
    let has_noticed = |number: &usize| fleet.with_account(*number, |account| !account.closes.is_empty());
    within("all connections have ended", READY, || devices.iter().all(has_noticed).then_some(()));
    fleet.wait_until_ready(READY);
}

fn settle(fleet: &mut Fleet, killed: &str) {
    let totals = fleet.settle(SETTLE);
    println!("{}", totals.table("devices of the stack"));
    // durability.clean_sessions = "store" there.
    assert_eq!(totals.lost_clean[1..], [0, 0], "lost to clean sessions");
    if killed.is_empty() {
        return totals.expect_clean();
    }
    // An edge was killed: its devices are those that had to come back, and others saw nothing.
    assert_eq!(totals.closes.len(), of_edge(fleet, killed).len(), "{:?}", totals.closes.first());
    assert_eq!(totals.sessions_lost, 0, "every device that came back found its session");
    assert_eq!((totals.lost_stored[1], totals.lost_stored[2], totals.repeated[2]), (0, 0, 0));
    assert_eq!(totals.out_of_order[1..], [0, 0]);
}

#[test]
fn devices_of_a_stack_that_others_break_see_nothing_of_it() {
    let Ok(edges) = std::env::var("TIDEGATE_STACK") else {
        println!("SKIPPED: no stack; scripts/test-compose brings one up");
        return;
    };
    let mut fleet = start_fleet(&edges);
    for line in std::io::stdin().lock().lines().map(Result::unwrap) {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("ready", _) => fleet.wait_until_ready(READY),
            ("load", _) => fleet.enter(Phase::Load),
            ("gone", edge) => fleet.edge_is(edge.parse().unwrap(), None),
            ("flows", _) => wait_until_all_publish(&fleet),
            ("back", edge) => wait_until_back(&mut fleet, edge),
            ("settle", killed) => settle(&mut fleet, killed),
            other => panic!("what does {other:?} mean?"),
        }
        println!("STACK done: {line}");
    }
}
