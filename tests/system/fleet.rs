//! Devices with every kind of connection and session against one process that nothing happens to: what the other tests count
//! must be 0 here, or their counts would mean nothing.

use std::time::Duration;

use crate::harness::fleet::{Fleet, Phase, Plan};
use crate::harness::{Server, Transport, let_pass};
use crate::tiers::within;

/// Half stored and half clean, half TLS and half WSS, half 3.1.1 and half 5, spread over the edges; each publishes, and has two
/// subscribers, one with a stored session and one with a clean one.
pub(crate) fn mixed(count: usize, edges: usize, interval: Duration) -> Vec<Plan> {
    let stem = |number: usize| format!("load/{}", number % count);
    let plan = |number: usize| Plan {
        client_id: format!("device-{number}"),
        version: if number & 2 == 0 { 4 } else { 5 },
        stored: number & 4 == 0,
        transport: if number & 1 == 0 { Transport::Tls } else { Transport::Wss },
        edge: (number >> 3) % edges,
        filters: vec![format!("{}/+", stem(number + 1)), format!("{}/+", stem(number + 5))],
        topic: Some(stem(number)),
        interval,
        ping: Duration::from_millis(500),
        returns: true,
        will_delay_s: Some(0),
    };
    (0..count).map(plan).collect()
}

/// A device with a stored session that takes the Will Messages of all others.
pub(crate) fn watcher(edge: usize) -> Plan {
    Plan {
        client_id: "watcher".to_owned(),
        version: 5,
        stored: true,
        transport: Transport::Tls,
        edge,
        filters: vec!["will/#".to_owned()],
        topic: None,
        interval: Duration::from_secs(1),
        ping: Duration::from_millis(500),
        returns: true,
        will_delay_s: None,
    }
}

#[test]
fn nothing_is_amiss_where_nothing_happens() {
    let server = Server::start("");
    let mut fleet = Fleet::new(&[&server]);
    for plan in mixed(40, 1, Duration::from_millis(20)) {
        fleet.add(plan);
    }
    fleet.add(watcher(0));
    fleet.wait_until_ready(Duration::from_secs(30));
    fleet.enter(Phase::Load);
    let_pass(Duration::from_secs(3));
    within("there is load", Duration::from_secs(60), || (fleet.totals().acknowledged[1] > 500).then_some(()));
    let totals = fleet.settle_with_qos_0(Duration::from_secs(30));
    println!("{}", totals.table("one process, no faults"));
    totals.expect_clean();
    assert_eq!((totals.stray, totals.sent_again, totals.repeated), (0, 0, [0; 3]));
    assert_eq!((totals.lost_stored, totals.lost_clean), ([0; 3], [0; 3]));
}
