//! A device that goes in good order and comes back at once, and one whose CONNECT was refused and accepted elsewhere: nobody hears
//! of a Will, nothing that it said is lost, and no fault of a worker or of Redis ends its new connection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::harness::bytes::{Connect, Will};
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::{Server, Transport};
use crate::proxy::Proxy;
use crate::servers::Server as RedisServer;
use crate::tiers::{Redis, Shape, Tiers};

const TIMES: usize = 1000;
const DISCONNECT: [u8; 2] = [0xE0, 0];
/// Within this everything has arrived that is going to.
const VERDICT: Duration = Duration::from_secs(15);

fn with_will(connect: Connect) -> Connect {
    connect.will(Will::new("will/device", "gone"))
}

async fn connect(edge: &Server, transport: Transport, trust: &Trust, connect: &Connect) -> Option<Talker> {
    let connected = Talker::connect(edge.address(transport), transport, trust, connect).await;
    connected.ok().filter(|(_, connack)| connack.code == 0).map(|(talker, _)| talker)
}

/// What came to somebody who listens to everything.
#[derive(Debug, Default)]
struct Heard {
    messages: BTreeSet<usize>,
    wills: usize,
}

struct Watcher {
    heard: Arc<tokio::sync::Mutex<Heard>>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Watcher {
    async fn at(edge: &Server, trust: &Trust) -> Self {
        let mut talker =
            connect(edge, Transport::Tls, trust, &Connect::v5("watcher")).await.expect("accepted");
        talker.subscribe(1, "#", 0).await.unwrap();
        let (heard, is_over) = (Arc::<tokio::sync::Mutex<Heard>>::default(), Arc::<AtomicBool>::default());
        let (own, over) = (Arc::clone(&heard), Arc::clone(&is_over));
        let task = tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let Ok(Some(packet)) = talker.next_within(Duration::from_millis(100)).await else { continue };
                let (topic, text) = talker.take(&packet).await.unwrap();
                let mut heard = own.lock().await;
                if topic.starts_with("will/") {
                    heard.wills += 1;
                } else if let Ok(number) = text.parse() {
                    heard.messages.insert(number);
                }
            }
        });
        Self { heard, is_over, task }
    }

    /// Waits until so many messages have come, and then for what should not come.
    async fn verdict(self, messages: usize, after: Duration) -> Heard {
        let until = Instant::now() + VERDICT;
        while self.heard.lock().await.messages.len() < messages && Instant::now() < until {
            sleep(Duration::from_millis(50)).await;
        }
        sleep(after).await;
        self.is_over.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        std::mem::take(&mut *self.heard.lock().await)
    }
}

/// Comes, says something at QoS 0, goes in good order, and comes back at once. How much was lost, and how many Wills there were.
async fn come_and_go(
    title: &str,
    edges: &[&Server],
    transport: Transport,
    is_stored: bool,
) -> (usize, usize) {
    let trust = Trust::read(edges[0].ca_file());
    let watcher = Watcher::at(edges[0], &trust).await;
    let how = if is_stored { Connect::stored("device") } else { Connect::v5("device") };
    let how = with_will(how);
    let started = Instant::now();
    for time in 0..TIMES {
        let edge = edges[time % edges.len()];
        let mut talker = connect(edge, transport, &trust, &how).await.expect("accepted");
        let publish = talker.publication(0, "said", &time.to_string(), 0);
        talker.send(&[&publish[..], &DISCONNECT].concat()).await.unwrap();
    }
    let took = started.elapsed();
    let heard = watcher.verdict(TIMES, Duration::from_secs(6)).await;
    let lost = TIMES - heard.messages.len();
    println!("| {title:<44} | {took:>8.1?} | {lost:>4} lost | {:>4} Wills |", heard.wills);
    (lost, heard.wills)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_device_that_comes_back_at_once_has_said_disconnect() {
    let server = Server::start("");
    let results = runtime().block_on(async {
        let mut results = Vec::new();
        for transport in [Transport::Tcp, Transport::Tls] {
            for is_stored in [false, true] {
                let title = format!("one process, {transport:?}, stored: {is_stored}");
                results.push(come_and_go(&title, &[&server], transport, is_stored).await);
            }
        }
        results
    });
    assert!(results.iter().all(|result| *result == (0, 0)), "{results:?}");
}

#[test]
fn a_device_that_comes_back_at_once_to_any_edge_has_said_disconnect() {
    let tiers = Tiers::start_single(&Shape::new(2, 2));
    let results = runtime().block_on(async {
        let mut results = Vec::new();
        let all = tiers.edges();
        for edges in [&all[..1], &all[..]] {
            for is_stored in [false, true] {
                let title = format!("{} edges, stored: {is_stored}", edges.len());
                results.push(come_and_go(&title, edges, Transport::Tls, is_stored).await);
            }
        }
        results
    });
    tiers.checked(|_| assert!(results.iter().all(|result| *result == (0, 0)), "{results:?}"));
}

const DEVICES: usize = 36;

fn name(number: usize) -> String {
    format!("device-{number}")
}

/// How to come back, and come back again if that was refused.
async fn insist(edge: &Server, trust: &Trust, how: &Connect) -> Talker {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(talker) = connect(edge, Transport::Tls, trust, how).await {
            return talker;
        }
        assert!(Instant::now() < until, "not accepted");
        sleep(Duration::from_millis(200)).await;
    }
}

/// How many connections were ended, looked at for so long. They stay.
async fn ended(talkers: &mut [Talker], time: Duration) -> usize {
    let until = Instant::now() + time;
    let mut ended = 0;
    for talker in talkers {
        loop {
            match talker.next_within(until.saturating_duration_since(Instant::now())).await {
                Ok(Some(packet)) if packet.first & 0xF0 == 0xE0 => {
                    println!("ended: {packet:02x?}");
                    ended += 1;
                    break;
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    println!("ended: {error}");
                    ended += 1;
                    break;
                }
            }
        }
    }
    ended
}

#[test]
fn a_disconnect_counts_while_the_master_of_the_registry_stands_still() {
    let tiers = Tiers::start(&Shape::new(3, 2));
    let Redis::Cluster(cluster) = &tiers.redis else { panic!("a cluster") };
    let slot = cluster.servers[0].cli(&["cluster", "keyslot", "tg{c}w"]).parse().expect("a slot");
    let master = cluster.owner(slot);
    let (heard, ended) = runtime().block_on(stand_still(&tiers, master));
    println!("| {DEVICES} devices under a stalled master | {} Wills | {ended} ended |", heard.wills);
    cluster.settle();
    tiers.checked(|_| assert_eq!((heard.wills, ended), (0, 0)));
}

async fn stand_still(tiers: &Tiers, master: &RedisServer) -> (Heard, usize) {
    let edges = tiers.edges();
    let trust = Trust::read(edges[0].ca_file());
    let watcher = Watcher::at(edges[0], &trust).await;
    let how = |number: usize| with_will(Connect::stored(&name(number)));
    let mut devices = Vec::new();
    let mut publishers = Vec::new();
    for number in 0..DEVICES {
        devices.push(insist(edges[number % 2], &trust, &how(number)).await);
        let mut publisher = insist(edges[number % 2], &trust, &Connect::stored(&format!("p-{number}"))).await;
        publisher.subscribe(1, &format!("load/{number}"), 1).await.unwrap();
        publishers.push(publisher);
    }
    master.pause();
    // Past the route leases: what is published waits.
    sleep(Duration::from_millis(1300)).await;
    for (number, publisher) in publishers.iter_mut().enumerate() {
        let publish = publisher.publication(2, &format!("load/{number}"), "x", 1);
        publisher.send(&publish).await.unwrap();
    }
    let mut back = tokio::task::JoinSet::new();
    for (number, mut talker) in devices.into_iter().enumerate() {
        talker.send(&DISCONNECT).await.unwrap();
        drop(talker);
        let (address, trust, how) =
            (edges[(number / 2) % 2].address(Transport::Tls), trust.clone(), how(number));
        back.spawn(async move {
            sleep(Duration::from_millis(700)).await;
            let until = Instant::now() + Duration::from_secs(60);
            loop {
                let connected = Talker::connect(address, Transport::Tls, &trust, &how).await;
                if let Ok((talker, connack)) = connected
                    && connack.code == 0
                {
                    return talker;
                }
                assert!(Instant::now() < until, "not accepted");
                sleep(Duration::from_millis(200)).await;
            }
        });
    }
    sleep(Duration::from_secs(6)).await;
    master.go_on();
    let mut talkers = back.join_all().await;
    let ended = ended(&mut talkers, Duration::from_secs(10)).await;
    let heard = watcher.verdict(0, Duration::from_secs(1)).await;
    drop(talkers);
    (heard, ended)
}

/// Two edges with a worker each, of which nobody takes the first for dead while it has a fault; its nodes by way of a proxy.
fn with_a_proxy() -> (Tiers, Proxy) {
    let worker_extra = "[cluster]\nworker_timeout_ms = 120000\n".to_owned();
    let shape = Shape { worker_extra, ..Shape::paired(2) };
    Tiers::start_with_proxy(&shape)
}

fn expect_nothing_taken(tiers: Tiers, title: &str, (heard, ended): &(Heard, usize)) {
    println!(
        "| {DEVICES} devices refused at a worker that {title} | {} Wills | {ended} ended |",
        heard.wills
    );
    tiers.checked(|_| assert_eq!((heard.wills, *ended), (0, 0)));
}

#[test]
fn a_connect_that_was_refused_takes_nothing_later() {
    let (tiers, proxy) = with_a_proxy();
    let found = runtime().block_on(be_refused(&tiers, || proxy.shut(), || proxy.open()));
    expect_nothing_taken(tiers, "was cut off", &found);
}

#[test]
fn a_connect_that_was_refused_takes_nothing_from_who_sleeps_through_it() {
    let (tiers, _proxy) = with_a_proxy();
    let worker = &tiers.workers[0];
    let found = runtime().block_on(be_refused(&tiers, || worker.signal("STOP"), || worker.signal("CONT")));
    expect_nothing_taken(tiers, "stood still", &found);
}

/// The devices connect where the worker has a fault, are refused, and connect elsewhere. Then the fault ends.
async fn be_refused(tiers: &Tiers, begin: impl FnOnce(), end: impl FnOnce()) -> (Heard, usize) {
    let trust = Trust::read(tiers.edges[0].ca_file());
    let watcher = Watcher::at(&tiers.edges[1], &trust).await;
    let how = |number: usize| {
        let connect = if number.is_multiple_of(2) {
            Connect::stored(&name(number))
        } else {
            Connect::v5(&name(number))
        };
        with_will(connect)
    };
    begin();
    let mut refused = tokio::task::JoinSet::new();
    for number in 0..DEVICES {
        let (address, trust, how) = (tiers.edges[0].address(Transport::Tls), trust.clone(), how(number));
        refused.spawn(async move {
            let connecting = Talker::connect(address, Transport::Tls, &trust, &how);
            // Half of them wait for the answer; the others give up before it.
            let patience = Duration::from_secs(if number % 4 < 2 { 20 } else { 3 });
            if let Ok(Ok((_, connack))) = tokio::time::timeout(patience, connecting).await {
                assert_ne!(connack.code, 0, "accepted without a store");
            }
            number
        });
    }
    let mut talkers = Vec::new();
    while let Some(number) = refused.join_next().await {
        talkers.push(insist(&tiers.edges[1], &trust, &how(number.unwrap())).await);
    }
    end();
    let ended = ended(&mut talkers, Duration::from_secs(12)).await;
    let heard = watcher.verdict(0, Duration::from_secs(1)).await;
    drop(talkers);
    (heard, ended)
}
