//! Devices of a stack that somebody else runs and breaks, which is `scripts/test-compose`. It says by lines on standard input what happens,
//! and reads here what the devices saw. Without `TIDEGATE_STACK` there is no stack, and nothing is tested.
//!
//! `TIDEGATE_STACK` names an addresses file for each edge (`runtime.addresses_file`, with the path of the authority's certificate as
//! `ca`), separated by colons; `TIDEGATE_STACK_USER` is `NAME:PASSWORD`, `TIDEGATE_STACK_DEVICES` how many there are.

use std::io::BufRead as _;
use std::path::Path;
use std::time::Duration;

use crate::fleet::mixed;
use crate::harness::Server;
use crate::harness::fleet::{Fleet, Phase, Plan};

const DEVICES: usize = 300;
/// Each device publishes to two others; everything shares the machine with the stack.
const INTERVAL: Duration = Duration::from_secs(2);
const READY: Duration = Duration::from_secs(120);
const SETTLE: Duration = Duration::from_secs(60);

fn start_fleet(edges: &str) -> Fleet {
    let servers: Vec<Server> = edges.split(':').map(|file| Server::running(Path::new(file))).collect();
    let user = std::env::var("TIDEGATE_STACK_USER").ok();
    let user = user.as_deref().and_then(|user| user.split_once(':'));
    let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
    let devices = std::env::var("TIDEGATE_STACK_DEVICES").ok().and_then(|count| count.parse().ok());
    let mut fleet = Fleet::of_user(&servers.iter().collect::<Vec<_>>(), user);
    for plan in mixed(devices.unwrap_or(DEVICES), servers.len(), INTERVAL) {
        // Where an edge dies, what clean sessions had goes with it.
        let stored = plan.stored || servers.len() > 1;
        // Sessions of an earlier run have other subscriptions.
        let client_id = format!("{}-{}", plan.client_id, std::process::id());
        fleet.add(Plan { stored, client_id, ..plan });
    }
    fleet
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
            ("settle", closed) => {
                let totals = fleet.settle(SETTLE);
                println!("{}", totals.table("devices of the stack"));
                if closed.is_empty() {
                    totals.expect_clean();
                } else {
                    // An edge was killed: its devices are those that had to come back, and others saw nothing.
                    let wanted =
                        (0..fleet.len()).filter(|number| fleet.plan(*number).edge.to_string() == closed);
                    assert_eq!(totals.closes.len(), wanted.count(), "{:?}", totals.closes.first());
                    assert_eq!(totals.sessions_lost, 0, "every device that came back found its session");
                    assert_eq!((totals.lost_stored[1], totals.lost_stored[2], totals.repeated[2]), (0, 0, 0));
                    assert_eq!(totals.out_of_order[1..], [0, 0]);
                }
            }
            other => panic!("what does {other:?} mean?"),
        }
        println!("STACK done: {line}");
    }
}
