//! An edge is told to end: it says so while it still serves, tells its devices to go one after the other, and ends in good order.
//! They come back at another edge to everything, and no Will fires of those whose delay has not passed.

use std::time::Duration;

use crate::fleet::{mixed, watcher};
use crate::harness::fleet::{Fleet, Phase, Plan};
use crate::harness::{Transport, let_pass};
use crate::tiers::{Shape, Tiers, ask, within};

const DEVICES: usize = 40;
/// Of them, in a second.
const PACE: usize = 10;
/// For as long the edge serves after it was told.
const DELAY: Duration = Duration::from_secs(3);
/// Delay, the time to drain, and that for the workers to hear of it, all as configured or by default.
const END: Duration = Duration::from_secs(3 + 10 + 5);

#[test]
fn an_edge_that_ends_sends_its_devices_to_another_one_by_one() {
    let mut shape = Shape::new(1, 2);
    let delay_ms = DELAY.as_millis();
    shape.edge_extra = format!("runtime.drain_delay_ms = {delay_ms}\nedge.drain_per_s = {PACE}\n");
    let tiers = Tiers::start_single(&shape);
    let mut fleet = Fleet::new(&tiers.edges());
    for plan in mixed(DEVICES, 2, Duration::from_secs(1)) {
        // Without a delay a Will is due as soon as the connection has ended. v5 [MQTT-3.1.3-9]
        let will_delay_s = (plan.version == 5).then_some(60);
        fleet.add(Plan { stored: true, will_delay_s, ..plan });
    }
    let watcher = fleet.add(watcher(1));
    fleet.wait_until_ready(Duration::from_secs(60));
    fleet.enter(Phase::Load);
    let_pass(Duration::from_secs(2));
    let of_the_edge = (0..DEVICES).filter(|number| fleet.plan(*number).edge == 0).count();
    let edge = &tiers.edges[0];
    fleet.edge_is(0, None);
    edge.signal("TERM");
    within("/readyz says so", DELAY, || (ask(edge, "/readyz").0 == 503).then_some(()));
    assert_eq!(fleet.totals().closes.len(), 0, "nobody has been told to go yet");
    let code = edge.wait_for_end(END);
    let log = edge.log();
    assert_eq!(code, 0, "the edge ends in good order:\n{log}");
    for complaint in ["connections were cut at the deadline", "no worker has heard"] {
        assert!(!log.contains(complaint), "{log}");
    }
    fleet.wait_until_ready(Duration::from_secs(30));
    let_pass(Duration::from_secs(2));
    let totals = fleet.settle(Duration::from_secs(60));
    tiers.checked(|_| {
        println!("{}", totals.table("an edge ends in good order"));
        assert_eq!(totals.closes.len(), of_the_edge, "the devices of the edge, and no others");
        for (name, _, how) in &totals.closes {
            let number: usize = name.trim_start_matches("device-").parse().unwrap();
            let plan = fleet.plan(number);
            // Over WebSocket the close comes at once with it, and these devices do not look behind that.
            let is_told = plan.version == 5 && plan.transport == Transport::Tls;
            assert!(!is_told || how.contains("0x8b"), "{name} was told why: {how}");
        }
        let first = totals.closes.iter().map(|(_, at, _)| *at).min().unwrap();
        let last = totals.closes.iter().map(|(_, at, _)| *at).max().unwrap();
        let paced = Duration::from_millis((of_the_edge * 1_000 / PACE / 2) as u64);
        assert!(last - first >= paced, "not all at once, but within {:?}", last - first);
        assert_eq!((totals.sessions_lost, totals.sessions_resumed), (0, of_the_edge as u64));
        assert_eq!((totals.lost_stored[1], totals.lost_stored[2], totals.repeated[2]), (0, 0, 0));
        // A PUBREL that is sent again on the new connection may come after its flow has ended.
        assert!(totals.refused.keys().all(|code| *code == 0x92), "{:?}", totals.refused);
        let wills = fleet.with_account(watcher, |account| account.wills.len());
        assert_eq!(wills, 0, "they came back in time");
    });
}
