//! Shared Subscriptions whose members are at several workers, over Redis, while a worker is killed: every message with QoS 1 that was
//! acknowledged reaches a member.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::harness::bytes::{self, Connect, Publish};
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::{Server, Transport};
use crate::tiers::{Shape, Tiers, metric, within};

/// Members at each worker; their queues are in memory.
const MEMBERS: usize = 4;
const ROUNDS: usize = 3;
/// Messages in one write of the publisher.
const BATCH: u32 = 8;
/// Notes to the other worker before it is killed.
const NOTES_BEFORE: f64 = 500.0;
/// How long a member waits before it looks whether all is over.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// How long it may take until a dead worker is buried and what it was sent is with other members.
const BURIED_WITHIN: Duration = Duration::from_secs(20);

async fn connect(edge: &Server, trust: &Trust, client_id: &str) -> Talker {
    let address = edge.address(Transport::Tls);
    let how = Connect::v5(client_id);
    let (talker, connack) = Talker::connect(address, Transport::Tls, trust, &how).await.unwrap();
    assert_eq!(connack.code, 0, "{connack:?}");
    talker
}

/// What members have, and what was acknowledged.
#[derive(Default)]
struct Account {
    taken: Mutex<HashSet<u32>>,
    /// Deliveries, those that came again included.
    deliveries: AtomicU32,
    acknowledged: AtomicU32,
    /// Nothing more is published.
    is_published: AtomicBool,
    is_over: AtomicBool,
}

impl Account {
    fn lacks(&self) -> usize {
        let taken = self.taken.lock();
        (0..self.acknowledged.load(Ordering::Acquire)).filter(|number| !taken.contains(number)).count()
    }
}

fn member(runtime: &Runtime, mut talker: Talker, account: Arc<Account>) -> JoinHandle<()> {
    runtime.spawn(async move {
        while !account.is_over.load(Ordering::Acquire) {
            let Some(packet) = talker.next_within(LOOK_AFTER).await.unwrap() else { continue };
            if packet.first & 0xF0 == 0x30 {
                let (_, text) = talker.take(&packet).await.unwrap();
                account.taken.lock().insert(text.parse().unwrap());
                account.deliveries.fetch_add(1, Ordering::AcqRel);
            }
        }
    })
}

/// Publishes numbers, and waits for all answers before it goes on.
fn publisher(runtime: &Runtime, mut talker: Talker, account: Arc<Account>) -> JoinHandle<()> {
    runtime.spawn(async move {
        while !account.is_published.load(Ordering::Acquire) {
            let first = account.acknowledged.load(Ordering::Acquire);
            let message = |number: u32| {
                let id = u16::try_from(number - first + 1).unwrap();
                Publish::new("shared/t", number.to_string()).qos1(id).bytes()
            };
            let batch: Vec<u8> = (first..first + BATCH).flat_map(message).collect();
            talker.send(&batch).await.unwrap();
            for _ in 0..BATCH {
                talker.next_of(&[0x40]).await.unwrap();
            }
            account.acknowledged.fetch_add(BATCH, Ordering::AcqRel);
        }
    })
}

// ARCHITECTURE, rule 18.
#[test]
fn what_a_killed_worker_was_sent_for_a_share_reaches_other_members() {
    let extra = "cluster.worker_timeout_ms = 4000\n".to_owned();
    let mut tiers = Tiers::start_single(&Shape { worker_extra: extra, ..Shape::paired(2) });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let trust = Trust::read(tiers.edges[0].ca_file());
    let account = Arc::new(Account::default());
    let mut tasks = Vec::new();
    for n in 0..2 * MEMBERS {
        let mut talker = runtime.block_on(connect(&tiers.edges[n % 2], &trust, &format!("member-{n}")));
        runtime.block_on(async {
            talker.send(&bytes::subscribe(1, &[], &[("$share/g/shared/#", 1)])).await.unwrap();
            talker.next_of(&[0x90]).await.unwrap();
        });
        tasks.push(member(&runtime, talker, Arc::clone(&account)));
    }
    let talker = runtime.block_on(connect(&tiers.edges[0], &trust, "publisher"));
    let publishing = publisher(&runtime, talker, Arc::clone(&account));
    let handed_on =
        |tiers: &Tiers| metric(&tiers.workers[0], "tidegate_cluster_messages_handed_on_total") as usize;
    for round in 1..=ROUNDS {
        let before = handed_on(&tiers);
        // Its members are there.
        let notes = metric(&tiers.workers[0], "tidegate_cluster_notes_sent_total");
        let sent = || metric(&tiers.workers[0], "tidegate_cluster_notes_sent_total");
        within("notes", BURIED_WITHIN, || (sent() > notes + NOTES_BEFORE).then_some(()));
        tiers.kill_worker(1);
        let buried = || metric(&tiers.workers[0], "tidegate_cluster_workers_buried_total");
        within("the burial", BURIED_WITHIN, || (buried() >= round as f64).then_some(()));
        assert!(handed_on(&tiers) > before, "the dead worker was sent none");
        tiers.run_worker(1);
    }
    account.is_published.store(true, Ordering::Release);
    runtime.block_on(publishing).unwrap();
    within("all that was acknowledged", BURIED_WITHIN, || (account.lacks() == 0).then_some(()));
    account.is_over.store(true, Ordering::Release);
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    let (all, lost) = (account.acknowledged.load(Ordering::Acquire), account.lacks());
    let again = account.deliveries.load(Ordering::Acquire) as usize - account.taken.lock().len();
    let handed_on = handed_on(&tiers);
    println!("{all} acknowledged, {handed_on} handed on, {lost} lost, {again} came again");
    assert_eq!(lost, 0);
}
