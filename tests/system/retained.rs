//! Retained messages for new subscriptions while their topics change, through Redis and across workers: none follows a newer
//! one, none comes twice, and none comes back to its publisher that said No Local.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::harness::bytes::{self, Connect, PUBCOMP, PUBREC, PUBREL, Publish, ack};
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::{Server, Transport};
use crate::tiers::{Shape, Tiers};

/// Topics of the first test, and how often each changes.
const TOPICS: usize = 2000;
const CHANGES: usize = 3;
/// How often each of the other tests subscribes anew.
const ROUNDS: usize = 300;
/// Devices that move.
const MOVERS: usize = 60;
/// Retained messages for each of them, their size, how many have come when the worker goes, and how many may come again: a page of the
/// store, and what was on its way.
const MOVED_TOPICS: usize = 1200;
const MOVED_BYTES: usize = 300;
const BEFORE: usize = 700;
const AGAIN_MAX: usize = 400;
/// How long a device takes over a packet, and for how long it waits for one.
const PAUSE: Duration = Duration::from_millis(1);
const GIVE_UP: Duration = Duration::from_secs(30);
/// For so long nothing may come before a test looks at what has.
const SILENCE: Duration = Duration::from_secs(2);

async fn connect(edge: &Server, trust: &Trust, connect: &Connect) -> Talker {
    let address = edge.address(Transport::Tls);
    let (talker, connack) = Talker::connect(address, Transport::Tls, trust, connect).await.unwrap();
    assert_eq!(connack.code, 0, "{connack:?}");
    talker
}

/// Subscribes with these options and waits for SUBACK.
async fn subscribe(talker: &mut Talker, filter: &str, options: u8) {
    talker.send(&bytes::subscribe(1, &[], &[(filter, options)])).await.unwrap();
    let suback = talker.next_of(&[0x90]).await.unwrap().suback(talker.version);
    assert_eq!(suback.codes, [options & 3]);
}

/// All messages until none comes for a while, acknowledged to the end.
async fn take_all(talker: &mut Talker) -> Vec<(String, String)> {
    let mut all = Vec::new();
    while let Some(packet) = talker.next_within(SILENCE).await.unwrap() {
        match packet.first & 0xF0 {
            0x30 => {
                let publish = packet.publish(talker.version);
                all.push((publish.topic.clone(), publish.text().to_owned()));
                if publish.qos > 0 {
                    let kind = if publish.qos == 2 { PUBREC } else { bytes::PUBACK };
                    talker.send(&ack(kind, publish.id)).await.unwrap();
                }
            }
            0x60 => {
                let id = packet.reply(PUBREL, talker.version).id;
                talker.send(&ack(PUBCOMP, id)).await.unwrap();
            }
            _ => {}
        }
    }
    all
}

/// Sets each topic to this value, half of them with QoS 0.
async fn set_all(talker: &mut Talker, value: usize) {
    for first in (0..TOPICS).step_by(40) {
        let (mut data, mut expected) = (Vec::new(), 0);
        for n in first..first + 40 {
            let publish = Publish::new(format!("stale/{}/{n}", n % 7), value.to_string()).retain();
            let id = u16::try_from(n + 1).unwrap();
            expected += n % 2;
            data.extend(if n % 2 == 0 { publish.bytes() } else { publish.qos1(id).bytes() });
        }
        talker.send(&data).await.unwrap();
        for _ in 0..expected {
            talker.next_of(&[0x40]).await.unwrap();
        }
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Tiers) -> F) {
    let tiers = Tiers::start_single(&Shape::paired(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(tiers));
}

// ARCHITECTURE, rule 37.
#[test]
fn an_old_retained_value_does_not_follow_the_newer_live_one() {
    run(|tiers| async move {
        // All of it, until the end.
        let tiers = tiers;
        let trust = Trust::read(tiers.edges[0].ca_file());
        let mut publisher = connect(&tiers.edges[1], &trust, &Connect::v5("publisher")).await;
        set_all(&mut publisher, 0).await;
        let mut subscribers = JoinSet::new();
        for (name, edge, qos) in [("zero", 0, 0), ("clean", 0, 1), ("stored", 0, 2), ("stored-there", 1, 1)] {
            let is_stored = name.starts_with("stored");
            let how = if is_stored { Connect::stored(name) } else { Connect::v5(name) };
            let mut talker = connect(&tiers.edges[edge], &trust, &how).await;
            subscribers.spawn(async move {
                talker.send(&bytes::subscribe(1, &[], &[("stale/#", qos)])).await.unwrap();
                (name, take_all(&mut talker).await)
            });
        }
        for value in 1..=CHANGES {
            set_all(&mut publisher, value).await;
        }
        while let Some(taken) = subscribers.join_next().await {
            let (name, all) = taken.unwrap();
            let mut last: HashMap<&str, usize> = HashMap::new();
            let (mut back, mut again) = (0, 0);
            for (topic, value) in &all {
                let value: usize = value.parse().unwrap();
                if let Some(before) = last.insert(topic, value) {
                    back += usize::from(value < before);
                    again += usize::from(value == before);
                }
            }
            let wrong = last.values().filter(|value| **value != CHANGES).count();
            println!(
                "{name}: {} came, {back} go back, {again} come again, {wrong} end with an old value",
                all.len()
            );
            assert_eq!((last.len(), back, again, wrong), (TOPICS, 0, 0, 0), "{name}");
        }
    });
}

#[test]
fn what_is_retained_right_after_suback_comes_once() {
    run(|tiers| async move {
        // All of it, until the end.
        let tiers = tiers;
        let trust = Trust::read(tiers.edges[0].ca_file());
        for (name, edge, qos) in [("clean", 0, 2), ("stored", 0, 2), ("clean-there", 1, 1)] {
            let how = if name == "stored" { Connect::stored(name) } else { Connect::v5(name) };
            let mut subscriber = connect(&tiers.edges[edge], &trust, &how).await;
            let mut publisher = connect(&tiers.edges[1], &trust, &Connect::v5("publisher")).await;
            for round in 0..ROUNDS {
                let topic = format!("{name}/{round}");
                subscribe(&mut subscriber, &format!("{topic}/#"), qos).await;
                let publish = Publish::new(format!("{topic}/t"), round.to_string()).retain();
                publisher.send(&publish.qos2(1).bytes()).await.unwrap();
                publisher.next_of(&[0x50]).await.unwrap();
                publisher.send(&ack(PUBREL, 1)).await.unwrap();
                publisher.next_of(&[0x70]).await.unwrap();
            }
            let all = take_all(&mut subscriber).await;
            let mut counts: HashMap<String, usize> = HashMap::new();
            all.into_iter().for_each(|(topic, _)| *counts.entry(topic).or_default() += 1);
            let twice = counts.values().filter(|count| **count > 1).count();
            assert_eq!((counts.len(), twice), (ROUNDS, 0), "{name}");
        }
    });
}

// v5 [MQTT-3.8.3-3]
#[test]
fn what_its_publisher_retains_right_after_suback_does_not_come_back_with_no_local() {
    const NO_LOCAL: u8 = 4;
    run(|tiers| async move {
        // All of it, until the end.
        let tiers = tiers;
        let trust = Trust::read(tiers.edges[0].ca_file());
        for how in [Connect::v5("clean"), Connect::stored("stored")] {
            let mut own = connect(&tiers.edges[0], &trust, &how).await;
            for round in 0..ROUNDS {
                subscribe(&mut own, &format!("own/{round}/#"), 1 | NO_LOCAL).await;
                let publish = Publish::new(format!("own/{round}/t"), "own").retain();
                own.send(&publish.qos1(7).bytes()).await.unwrap();
            }
            assert_eq!(take_all(&mut own).await, []);
            for round in 0..ROUNDS {
                own.send(&Publish::new(format!("own/{round}/t"), "").retain().bytes()).await.unwrap();
            }
        }
    });
}

async fn set_for_movers(edge: &Server, trust: &Trust) {
    let mut publisher = connect(edge, trust, &Connect::v5("publisher")).await;
    for n in 0..MOVED_TOPICS {
        let publish = Publish::new(format!("moved/{n}"), "x".repeat(MOVED_BYTES)).retain();
        publisher.send(&publish.qos1(1).bytes()).await.unwrap();
        publisher.next_of(&[0x40]).await.unwrap();
    }
}

/// A device that takes few messages at once; with `is_stored` its queue is in the store.
async fn mover(edge: &Server, trust: &Trust, number: usize, is_stored: bool) -> Talker {
    let name = format!("mover-{number}");
    let how = if is_stored { Connect::stored(&name) } else { Connect::v5(&name) };
    // Receive Maximum.
    let mut talker = connect(edge, trust, &how.with(vec![0x21, 0, 4])).await;
    subscribe(&mut talker, "elsewhere", 0).await;
    talker
}

/// Completes the flows of what comes until each topic has come, and answers how often one came again; or the topics that lack
/// when nothing has come for long.
async fn take_each(talker: &mut Talker, seen: &mut HashSet<String>) -> Result<usize, usize> {
    let mut again = 0;
    while seen.len() < MOVED_TOPICS {
        let next = talker.next_within(GIVE_UP).await.unwrap();
        let Some(packet) = next else { return Err(MOVED_TOPICS - seen.len()) };
        tokio::time::sleep(PAUSE).await;
        if packet.first & 0xF0 == 0x30 {
            let (topic, _) = talker.take(&packet).await.unwrap();
            again += usize::from(!seen.insert(topic));
        }
    }
    Ok(again)
}

/// How a worker comes or goes while devices get their retained messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Another joins, and takes its share of the devices when they have all.
    Joins,
    /// The worker that has them all is told to stop.
    Drained,
    /// It is killed.
    Killed,
}

// SUBACK was sent, so nothing of the SUBSCRIBE is said again to the next worker but what the edge was told to keep.
#[test]
fn a_device_that_moves_gets_the_rest_of_its_retained_messages() {
    for change in [Change::Joins, Change::Drained, Change::Killed] {
        let mut tiers = Tiers::start_single(&Shape::new(2, 1));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let trust = Trust::read(tiers.edges[0].ca_file());
        runtime.block_on(set_for_movers(&tiers.edges[0], &trust));
        tiers.kill_worker(1);
        let movers: Vec<Talker> =
            (0..MOVERS).map(|n| runtime.block_on(mover(&tiers.edges[0], &trust, n, n % 2 == 0))).collect();
        if change != Change::Joins {
            tiers.run_worker(1);
        }
        let well_under_way = Arc::new(Barrier::new(MOVERS + 1));
        let tasks: Vec<_> = (0..)
            .zip(movers)
            .map(|(n, mut talker)| {
                let well_under_way = Arc::clone(&well_under_way);
                runtime.spawn(async move {
                    let qos = u8::try_from(n % 3).unwrap();
                    talker.send(&bytes::subscribe(1, &[], &[("moved/#", qos)])).await.unwrap();
                    talker.next_of(&[0x90]).await.unwrap();
                    let mut seen = HashSet::new();
                    while seen.len() < BEFORE {
                        let packet = talker.next_of(&[0x30]).await.unwrap();
                        seen.insert(talker.take(&packet).await.unwrap().0);
                    }
                    well_under_way.wait().await;
                    take_each(&mut talker, &mut seen).await
                })
            })
            .collect();
        runtime.block_on(well_under_way.wait());
        match change {
            Change::Joins => tiers.run_worker(1),
            Change::Drained => tiers.drain_worker(0),
            Change::Killed => tiers.kill_worker(0),
        }
        let taken: Vec<_> = tasks.into_iter().map(|task| runtime.block_on(task).unwrap()).collect();
        let lacking: Vec<usize> = taken.iter().filter_map(|taken| taken.err()).collect();
        let again: Vec<usize> = taken.iter().filter_map(|taken| taken.ok()).collect();
        println!("{change:?}: {} of {MOVERS} lack some, came again: {again:?}", lacking.len());
        assert!(lacking.is_empty(), "how many topics devices lack: {lacking:?}");
        let again_max = if change == Change::Joins { 0 } else { AGAIN_MAX };
        assert!(again.iter().all(|count| *count <= again_max), "{again:?}");
    }
}
