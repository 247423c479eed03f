//! The suite for clusters over the one in memory, and its own controls.

use std::sync::Arc;

use state::{Cluster, MemoryCluster, Position, StoreError};

use crate::harness::begin;
use crate::suite::cluster::{Worker, Workers, cluster_behaviours};

struct InMemory {
    cluster: MemoryCluster,
    now: u64,
}

impl Workers for InMemory {
    fn start() -> Self {
        let cluster = MemoryCluster::new();
        cluster.set_inbox_bytes_max(1 << 20);
        cluster.set_log_entries_max(1000);
        Self { cluster, now: 0 }
    }

    fn worker(&mut self, name: &str) -> Worker {
        let worker = self.cluster.worker(name);
        Worker { store: Arc::new(worker.store()), cluster: worker }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.cluster.tick(self.now);
    }
}

cluster_behaviours!(InMemory);

/// Two that have joined.
fn two_workers(cluster: &MemoryCluster) -> [Arc<state::MemoryWorker>; 2] {
    let workers = [cluster.worker("a"), cluster.worker("b")];
    for worker in &workers {
        begin(|done| worker.join(done)).recv().expect("an answer").expect("joined");
    }
    workers
}

#[test]
fn a_worker_that_is_cut_off_hears_nothing() {
    let [a, b] = two_workers(&MemoryCluster::new());
    let waiting = begin(|done| a.read_log(Position(0), 1000, done));
    a.store().fail_with(Some(StoreError::Closed));
    assert!(waiting.recv().expect("an answer").is_err());
    assert!(begin(|done| a.renew(Some(Position(0)), 1000, done)).recv().expect("an answer").is_err());
    assert!(begin(|done| b.renew(Some(Position(0)), 1000, done)).recv().expect("an answer").is_ok());
    a.store().fail_with(None);
    a.store().hold();
    let held = begin(|done| a.renew(Some(Position(0)), 1000, done));
    assert!(held.try_recv().is_err());
    assert!(a.store().step());
    assert!(held.try_recv().expect("an answer").is_ok());
}

#[test]
fn a_failover_is_told_once_to_each() {
    let cluster = MemoryCluster::new();
    let a = cluster.worker("a");
    begin(|done| a.join(done)).recv().expect("an answer").expect("joined");
    let left = state::RouteChange::Left(a.id());
    for _ in 0..3 {
        begin(|done| a.append(vec![left.clone()], done)).recv().expect("an answer").expect("appended");
    }
    cluster.fail_over(2);
    let read = |after| begin(|done| a.read_log(Position(after), 0, done));
    assert!(read(3).recv().expect("an answer").expect("a page").has_gap);
    let page = read(0);
    let page = page.recv().expect("an answer").expect("a page");
    assert_eq!((page.has_gap, page.changes.len()), (false, 1));
    let inbox = begin(|done| a.read_inbox(Position(0), 0, done));
    assert!(inbox.recv().expect("an answer").expect("a page").has_gap);
}

#[test]
fn after_a_failover_what_was_applied_counts_for_nothing_before_the_log_was_read_again() {
    let cluster = MemoryCluster::new();
    let [a, b] = two_workers(&cluster);
    let left = state::RouteChange::Left(a.id());
    begin(|done| a.append(vec![left], done)).recv().expect("an answer").expect("appended");
    let renew = |worker: &state::MemoryWorker| {
        let lease = begin(|done| worker.renew(Some(Position(1)), 1000, done));
        let lease = lease.recv().expect("an answer").expect("a lease");
        let mut others = lease.members.iter().filter(|member| member.id != worker.id());
        (lease.is_elsewhere, others.next().and_then(|member| member.applied))
    };
    renew(&a);
    assert_eq!(renew(&b), (false, Some(Position(1))));
    cluster.fail_over(0);
    assert_eq!(renew(&b), (true, Some(Position(0))));
    assert_eq!(renew(&a), (true, Some(Position(0))));
    let read = |after| {
        begin(|done| a.read_log(Position(after), 0, done)).recv().expect("an answer").expect("a page")
    };
    assert!(read(1).has_gap && renew(&a).0, "it may not have heard of it yet");
    assert!(!read(0).has_gap && !renew(&a).0);
    assert_eq!(renew(&b), (true, Some(Position(1))));
}
