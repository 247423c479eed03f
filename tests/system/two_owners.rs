//! A worker is cut off from Redis, but not from its edge, while its devices connect again elsewhere: it acknowledges nothing and
//! delivers nothing for sessions that another worker has taken, and lets them go when it is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::bytes::Connect;
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::{Server, Transport};
use crate::proxy::Proxy;
use crate::tiers::{Shape, Tiers};

const DEVICES: usize = 50;
/// Messages for each device while it has two connections.
const MESSAGES: usize = 5;
/// Longer than any lease.
const CUT_OFF: Duration = Duration::from_secs(8);
const VERDICT: Duration = Duration::from_secs(30);

async fn connect(edge: &Server, trust: &Trust, client_id: &str) -> Talker {
    let connect = Connect::stored(client_id);
    let connected = Talker::connect(edge.address(Transport::Tls), Transport::Tls, trust, &connect).await;
    let (talker, connack) = connected.unwrap();
    assert_eq!(connack.code, 0, "{connack:?}");
    talker
}

/// What came to connections that had lost their session.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: usize,
    delivered: usize,
    told: usize,
    otherwise: Vec<String>,
}

/// Takes what comes to an old connection until it is closed, or for this long.
async fn watch(talker: &mut Talker, wait: Duration, seen: &mut Seen) {
    let until = Instant::now() + wait;
    loop {
        match talker.next_within(until.saturating_duration_since(Instant::now())).await {
            Ok(Some(packet)) => match packet.first & 0xF0 {
                0x30 => seen.delivered += 1,
                0x40 | 0x50 | 0x70 => seen.acknowledged += 1,
                0xE0 if packet.disconnect().reason == 0x8E => {
                    seen.told += 1;
                    return;
                }
                _ => seen.otherwise.push(format!("{packet:02x?}")),
            },
            Ok(None) => return,
            Err(error) => {
                seen.otherwise.push(error.to_string());
                return;
            }
        }
    }
}

#[test]
fn a_worker_without_its_store_cannot_speak_for_sessions_taken_by_another() {
    // Within the cut nobody takes the worker for dead: its devices would be moved, and "near" has nowhere to go.
    let worker_extra = "[cluster]\nworker_timeout_ms = 120000\n".to_owned();
    let shape = Shape { worker_extra, ..Shape::paired(2) };
    let (tiers, proxy) = Tiers::start_with_proxy(&shape);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&tiers, &proxy));
}

async fn run(tiers: &Tiers, proxy: &Proxy) {
    let trust = Trust::read(tiers.edges[0].ca_file());
    let name = |number: usize| format!("owned-{number}");
    let mut old = Vec::new();
    for number in 0..DEVICES {
        let mut talker = connect(&tiers.edges[0], &trust, &name(number)).await;
        talker.subscribe(1, &name(number), 2).await.unwrap();
        old.push(talker);
    }
    let mut near = connect(&tiers.edges[0], &trust, "near").await;
    let mut far = connect(&tiers.edges[1], &trust, "far").await;
    let mut seen = Seen::default();
    proxy.shut();
    let mut new = Vec::new();
    for number in 0..DEVICES {
        new.push(connect(&tiers.edges[1], &trust, &name(number)).await);
    }
    // From both sides of the cut: to the sessions, and from the connections that no longer have them.
    let mut wanted = 0;
    for (number, talker) in old.iter_mut().enumerate() {
        for time in 0..MESSAGES {
            far.publish(1, &name(number), &format!("far {time}"), 1 + u8::try_from(time % 2).unwrap())
                .await
                .unwrap();
            wanted += 1;
        }
        let own = talker.publication(7, &name(number), "own", 1);
        talker.send(&own).await.unwrap();
        let from_near = near.publication(u16::try_from(number + 1).unwrap(), &name(number), "near", 1);
        near.send(&from_near).await.unwrap();
    }
    let until = Instant::now() + CUT_OFF;
    for talker in &mut old {
        let left = until.saturating_duration_since(Instant::now()) / 4;
        watch(talker, left.max(Duration::from_millis(20)), &mut seen).await;
    }
    let in_the_cut = format!("{seen:?}");
    let acknowledged_near = near.next_within(Duration::from_millis(100)).await.unwrap();
    proxy.open();
    for talker in &mut old {
        watch(talker, VERDICT, &mut seen).await;
    }
    let mut delivered = 0;
    let until = Instant::now() + VERDICT;
    for talker in &mut new {
        let mut of_this = 0;
        while of_this < MESSAGES {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(Some(packet)) = talker.next_within(left).await else { break };
            let (_, text) = talker.take(&packet).await.unwrap();
            of_this += usize::from(text.starts_with("far"));
        }
        delivered += of_this;
    }
    println!("\n{DEVICES} devices of a worker without its store connect elsewhere; in the cut: {in_the_cut}");
    println!("| acknowledged on old connections  | {:>8} |", seen.acknowledged);
    println!("| delivered on old connections     | {:>8} |", seen.delivered);
    println!("| old connections told 0x8E        | {:>8} |", seen.told);
    println!("| delivered on new connections     | {delivered:>8} of {wanted} |");
    assert!(acknowledged_near.is_none(), "the worker acknowledged without its store");
    assert_eq!((seen.acknowledged, seen.delivered), (0, 0), "for sessions that another has taken");
    assert_eq!((seen.told, seen.otherwise.len()), (DEVICES, 0), "{:?}", seen.otherwise);
    assert_eq!(delivered, wanted);
    // What was held back goes on.
    for _ in 0..DEVICES {
        near.next_of(&[0x40]).await.expect("what was held back is acknowledged");
    }
    let after = connect(&tiers.edges[0], &trust, "after").await;
    drop(after);
}
