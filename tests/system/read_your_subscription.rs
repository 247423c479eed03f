//! SUBACK means subscribed everywhere: what another worker accepts after it is delivered, 10,000 times, while other clients
//! subscribe and unsubscribe all the time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::bytes::Connect;
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::{Server, Transport};
use crate::tiers::{Shape, Tiers};

const TIMES: usize = 10_000;
const CLIENTS: usize = 25;
const CHURNING: usize = 8;
/// How long a delivery may take until it counts as missing.
const DELIVERY: Duration = Duration::from_secs(10);

async fn connect(edge: &Server, trust: &Trust, client_id: &str, stored: bool, version: u8) -> Talker {
    let connect = match (version, stored) {
        (5, true) => Connect::stored(client_id),
        (_, true) => Connect::v4(client_id).resume(),
        (version, false) => Connect::new(version, client_id),
    };
    let transport = if version == 5 { Transport::Tls } else { Transport::Wss };
    let (talker, connack) =
        Talker::connect(edge.address(transport), transport, trust, &connect).await.unwrap();
    assert_eq!(connack.code, 0, "{connack:?}");
    talker
}

#[derive(Default)]
struct Counts {
    delivered: AtomicUsize,
    missing: AtomicUsize,
    churned: AtomicUsize,
    stop: AtomicBool,
}

/// Subscribes at one edge and publishes at the other, each time to a topic that nobody had before.
async fn subscribe_and_publish(tiers: &Tiers, trust: &Trust, number: usize, counts: &Counts) {
    let (here, there) = (&tiers.edges[number % 2], &tiers.edges[(number + 1) % 2]);
    let version = if number & 2 == 0 { 4 } else { 5 };
    let mut subscriber = connect(here, trust, &format!("reads-{number}"), number & 4 == 0, version).await;
    let mut publisher = connect(there, trust, &format!("writes-{number}"), false, version).await;
    for time in 0..TIMES / CLIENTS {
        let (topic, qos) = (format!("read/{number}/{time}"), u8::try_from(time % 3).unwrap());
        let filter = if time % 5 == 0 { format!("read/{number}/{time}/#") } else { topic.clone() };
        subscriber.subscribe(1, &filter, qos).await.unwrap();
        publisher.publish(1, &topic, &time.to_string(), qos).await.unwrap();
        let until = Instant::now() + DELIVERY;
        let delivered = loop {
            match subscriber.next_within(until.saturating_duration_since(Instant::now())).await.unwrap() {
                Some(packet) if subscriber.take(&packet).await.unwrap().1 == time.to_string() => break true,
                Some(_) => {}
                None => break false,
            }
        };
        let count = if delivered { &counts.delivered } else { &counts.missing };
        count.fetch_add(1, Ordering::Relaxed);
        if !delivered {
            println!("{topic} at QoS {qos}, subscribed at {filter}: not delivered");
        }
        subscriber.unsubscribe(1, &filter).await.unwrap();
    }
}

/// Changes routes all the time.
async fn churn(tiers: &Tiers, trust: &Trust, number: usize, counts: &Counts) {
    let client_id = format!("churns-{number}");
    let mut talker = connect(&tiers.edges[number % 2], trust, &client_id, number & 2 == 0, 5).await;
    let mut time = 0;
    while !counts.stop.load(Ordering::Relaxed) {
        let filter = format!("churn/{number}/{}/+/#", time % 100);
        talker.subscribe(1, &filter, 1).await.unwrap();
        talker.unsubscribe(1, &filter).await.unwrap();
        counts.churned.fetch_add(2, Ordering::Relaxed);
        time += 1;
    }
}

#[test]
fn what_is_published_elsewhere_after_suback_is_delivered() {
    let tiers = Tiers::start_single(&Shape::paired(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&tiers));
}

async fn run(tiers: &Tiers) {
    let trust = Trust::read(tiers.edges[0].ca_file());
    let counts = Counts::default();
    let started = Instant::now();
    let work = async {
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            clients.push(subscribe_and_publish(tiers, &trust, number, &counts));
        }
        join_all(clients).await;
        counts.stop.store(true, Ordering::Relaxed);
    };
    let churning = async {
        let mut clients = Vec::new();
        for number in 0..CHURNING {
            clients.push(churn(tiers, &trust, number, &counts));
        }
        join_all(clients).await;
    };
    tokio::join!(work, churning);
    let (delivered, missing) = (counts.delivered.into_inner(), counts.missing.into_inner());
    println!("\nsubscribe at one worker, publish at another on SUBACK, {:.1?}", started.elapsed());
    println!("| delivered                        | {delivered:>8} |");
    println!("| missing                          | {missing:>8} |");
    println!("| other changes of subscriptions   | {:>8} |", counts.churned.into_inner());
    assert_eq!((delivered, missing), (TIMES, 0));
}

/// Drives all of them on this task.
async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
