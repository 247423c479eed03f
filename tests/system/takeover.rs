//! The same Client Identifier at two edges, and so at two workers, at once, again and again: one connection is left, the other is
//! told 0x8E, and no message for the session is lost.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::harness::bytes::Connect;
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::{Server, Transport};
use crate::tiers::{Shape, Tiers};

const TIMES: usize = 1_000;
/// How long it may take until one of two connections is told that it has lost.
const VERDICT: Duration = Duration::from_secs(20);

/// What came to the session, over whichever connection.
#[derive(Default)]
struct Inbox {
    numbers: BTreeSet<usize>,
    repeats: usize,
}

/// How a connection of the pair ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// DISCONNECT with 0x8E.
    TakenOver,
    /// It was still there when the other one had been told.
    Kept,
    /// Anything else.
    Other(String),
}

async fn connect(edge: &Server, trust: &Trust, client_id: &str) -> io::Result<Talker> {
    let connect = Connect::stored(client_id);
    let (talker, connack) =
        Talker::connect(edge.address(Transport::Tls), Transport::Tls, trust, &connect).await?;
    assert_eq!(connack.code, 0, "{connack:?}");
    Ok(talker)
}

/// Takes messages until the connection is ended, or the other one is.
async fn hold(mut talker: Talker, inbox: &Mutex<Inbox>, decided: &AtomicBool) -> (End, Option<Talker>) {
    let until = Instant::now() + VERDICT;
    loop {
        match talker.next_within(Duration::from_millis(20)).await {
            Ok(Some(packet)) if packet.first == 0xE0 => {
                let reason = packet.disconnect().reason;
                decided.store(true, Ordering::SeqCst);
                let end = if reason == 0x8E { End::TakenOver } else { End::Other(format!("{reason:#04x}")) };
                return (end, None);
            }
            Ok(Some(packet)) => {
                let Ok((_, text)) = talker.take(&packet).await else { continue };
                let mut inbox = inbox.lock().await;
                if !inbox.numbers.insert(text.parse().unwrap()) {
                    inbox.repeats += 1;
                }
            }
            Ok(None) => {}
            Err(error) => {
                decided.store(true, Ordering::SeqCst);
                return (End::Other(error.to_string()), None);
            }
        }
        if decided.load(Ordering::SeqCst) {
            return (End::Kept, Some(talker));
        }
        if Instant::now() > until {
            return (End::Other("nobody was told".to_owned()), None);
        }
    }
}

#[test]
fn one_connection_of_two_is_left_and_nothing_is_lost() {
    let tiers = Tiers::start_single(&Shape::paired(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&tiers));
}

async fn run(tiers: &Tiers) {
    let trust = Trust::read(tiers.edges[0].ca_file());
    let inbox = Mutex::new(Inbox::default());
    let mut current = connect(&tiers.edges[0], &trust, "twin").await.unwrap();
    current.subscribe(1, "twin", 1).await.unwrap();
    let (published, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let publishing = tokio::spawn({
        let (published, stop, trust) = (published.clone(), stop.clone(), trust.clone());
        let address = tiers.edges[1].address(Transport::Tls);
        async move {
            let connect = Connect::v5("publisher");
            let (mut talker, _) = Talker::connect(address, Transport::Tls, &trust, &connect).await.unwrap();
            while !stop.load(Ordering::SeqCst) {
                let number = published.load(Ordering::SeqCst);
                talker.publish(1, "twin", &number.to_string(), 1).await.unwrap();
                published.store(number + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let started = Instant::now();
    let (mut told, mut amiss) = (0, Vec::new());
    for time in 0..TIMES {
        // Both at once, against each other and against the one that is there.
        let undecided = AtomicBool::new(false);
        let pair = tokio::join!(
            connect(&tiers.edges[0], &trust, "twin"),
            connect(&tiers.edges[1], &trust, "twin"),
            hold(current, &inbox, &undecided),
        );
        told += usize::from(pair.2.0 == End::TakenOver);
        if pair.2.0 != End::TakenOver {
            amiss.push(format!("{time}: the old one: {:?}", pair.2.0));
        }
        let (Ok(left), Ok(right)) = (pair.0, pair.1) else { panic!("{time}: refused") };
        let decided = AtomicBool::new(false);
        let (left, right) = tokio::join!(hold(left, &inbox, &decided), hold(right, &inbox, &decided));
        let ends = [left.0, right.0];
        told += ends.iter().filter(|end| **end == End::TakenOver).count();
        if !matches!(ends, [End::TakenOver, End::Kept] | [End::Kept, End::TakenOver]) {
            amiss.push(format!("{time}: {ends:?}"));
        }
        current = match left.1.or(right.1) {
            Some(talker) => talker,
            None => connect(&tiers.edges[time % 2], &trust, "twin").await.unwrap(),
        };
    }
    let took = started.elapsed();
    stop.store(true, Ordering::SeqCst);
    publishing.await.unwrap();
    let published = published.load(Ordering::SeqCst);
    let until = Instant::now() + VERDICT;
    while inbox.lock().await.numbers.len() < published && Instant::now() < until {
        let Ok(Some(packet)) = current.next_within(Duration::from_millis(200)).await else { continue };
        let (_, text) = current.take(&packet).await.unwrap();
        let mut inbox = inbox.lock().await;
        if !inbox.numbers.insert(text.parse().unwrap()) {
            inbox.repeats += 1;
        }
    }
    let inbox = inbox.into_inner();
    println!("\n{TIMES} pairs of connections of one client at two workers, {took:.1?}");
    println!("| told 0x8E                        | {told:>8} of {} |", 2 * TIMES);
    println!("| otherwise                        | {:>8} |", amiss.len());
    println!("| messages acknowledged            | {published:>8} |");
    println!("| lost                             | {:>8} |", published - inbox.numbers.len());
    println!("| delivered again (QoS 1)          | {:>8} |", inbox.repeats);
    assert!(amiss.is_empty(), "{amiss:?}");
    assert_eq!(inbox.numbers.len(), published, "messages lost");
}
