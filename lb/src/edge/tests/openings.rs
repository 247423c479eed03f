//! Sessions that are asked for at once.

use super::*;
use crate::admission::{Line, OVERDUE, Opening, Source};

/// Has sessions asked for until there may be no more.
async fn ask_for_all(edge: &Edge) -> Vec<Opening> {
    let source = Source::of(([127, 0, 0, 1], 1).into());
    let mut asked = Vec::new();
    while let Ok(opening) =
        timeout(OVERDUE / 5, edge.shared.admission.openings.opening(source, Line::New)).await
    {
        asked.push(opening);
    }
    assert!(!asked.is_empty());
    asked
}

#[tokio::test]
async fn a_device_waits_until_its_session_may_be_asked_for() {
    let (edge, worker, address) = start(|_| {});
    let begun = Instant::now();
    let asked = ask_for_all(&edge).await;
    let mut device = dial(address).await;
    device.write_all(&connect(5)).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    // None of them was answered, so it came when they were overdue.
    assert!(begun.elapsed() >= OVERDUE, "{:?}", begun.elapsed());
    drop(asked);
    eventually("its own is answered", || edge.shared.admission.openings.asked() == 0).await;
    assert_eq!(worker.sessions().len(), 1);
}

#[tokio::test]
async fn who_waits_for_its_own_client_holds_up_nobody_else() {
    let (edge, worker, address) = start(|config| {
        (config.takeover_burst, config.takeover_interval_ms) = (1, 60_000);
    });
    let mut devices = Vec::new();
    // The first two are served at once, the last ones wait for minutes.
    for served in [true, true, false, false, false] {
        let mut device = dial(address).await;
        device.write_all(&connect(5)).await.expect("written");
        if served {
            expect(&mut device, CONNACK_5).await;
        }
        devices.push(device);
    }
    let are_in_line = || edge.listeners[0].accepted.get() == 5 && edge.shared.metrics.handshakes.get() == 0;
    eventually("all handshakes are over", are_in_line).await;
    eventually("none of them counts as asked for", || edge.shared.admission.openings.asked() == 0).await;
    assert_eq!(worker.sessions().len(), 2, "the last ones wait in line");
}
