//! What workers have in common, while servers die and workers do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use state::{
    Burial, Claim, ConnectionId, Heard, Noted, Position, RedisConfig, RouteChange, StoreError, StoredSession,
};

use crate::faults::{fragile_cluster, urls};
use crate::harness::{Calls, START, begin, claim, take, wait};
use crate::servers::{Cluster, Server, gate, until};
use crate::stores::config_for;
use crate::suite::cluster::{Worker, placed};
use crate::workers::Shared;

/// Appends of one worker that wait for their answer.
const WINDOW: usize = 16;

fn shared(urls: Vec<String>) -> Shared {
    let config = RedisConfig { is_shared: true, replicas: 1, inbox_bytes_max: 1 << 20, ..config_for(urls) };
    Shared { config }
}

fn join(worker: &Worker) -> Position {
    wait(|done| worker.cluster.join(done)).expect("joined").log_end
}

fn change(worker: &str, n: u64) -> RouteChange {
    RouteChange::Gone(Arc::new(StoredSession { client_id: Arc::from(worker), incarnation: n }))
}

/// The server that has a slot by a tag.
fn owner_of<'a>(cluster: &'a Cluster, tag: &str) -> &'a Server {
    let key = format!("x{{{tag}}}");
    let running = cluster.masters()[0];
    cluster.owner(running.cli(&["cluster", "keyslot", &key]).parse().expect("a slot"))
}

/// Dies, and comes back as a replica of the one that took its place.
fn replace(cluster: &Cluster, victim: &Server) {
    victim.kill();
    until("another has its place", || cluster.masters().len() == 3);
    victim.run();
}

/// Appends until it is told to stop; answers the places.
fn append_all(worker: &Worker, name: &str, stop: &AtomicBool) -> BTreeMap<u64, u64> {
    let mut places = BTreeMap::new();
    let mut waiting = std::collections::VecDeque::new();
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) || !waiting.is_empty() {
        if !stop.load(Ordering::SeqCst) && waiting.len() < WINDOW {
            n += 1;
            waiting.push_back((n, begin(|done| worker.cluster.append(vec![change(name, n)], done))));
            continue;
        }
        let (n, answer) = waiting.pop_front().expect("one waits");
        let place = take(&answer).expect("appended").0;
        assert!(places.insert(place, n).is_none(), "a place is given once");
    }
    assert!(places.values().is_sorted(), "in the order of the calls");
    places
}

/// Reads the whole log, from `at` on: place to what is there.
fn read_all(worker: &Worker, mut at: u64) -> Result<BTreeMap<u64, RouteChange>, StoreError> {
    let mut found = BTreeMap::new();
    loop {
        let page = wait(|done| worker.cluster.read_log(Position(at), 0, done))?;
        assert!(!page.has_gap, "everything is there from {at} on");
        let Some(last) = page.changes.last() else { return Ok(found) };
        at = last.position.0;
        found.extend(page.changes.into_iter().map(|placed| (placed.position.0, placed.what)));
    }
}

#[test]
fn a_log_that_two_workers_write_survives_a_failover() {
    let cluster = fragile_cluster();
    let shared = shared(urls(&cluster));
    let (a, b) = (shared.new_worker("a"), shared.new_worker("b"));
    join(&a);
    join(&b);
    let stop = AtomicBool::new(false);
    let places = std::thread::scope(|scope| {
        let (stop, a, b) = (&stop, &a, &b);
        let writers =
            [(a, "a"), (b, "b")].map(|(worker, name)| scope.spawn(move || append_all(worker, name, stop)));
        std::thread::sleep(Duration::from_millis(300));
        replace(&cluster, owner_of(&cluster, "c"));
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::SeqCst);
        writers.map(|writer| writer.join().expect("a writer"))
    });
    // Both were connected to the server that is gone, and are told so before anything else, once.
    let mut logs = Vec::new();
    for worker in [&a, &b] {
        let page = wait(|done| worker.cluster.read_log(Position(0), 0, done)).expect("a page");
        assert!(page.has_gap && page.changes.is_empty());
        logs.push(read_all(worker, 0).expect("the log"));
    }
    assert_eq!(logs[0], logs[1], "all read the same");
    let log = &logs[0];
    assert_eq!(log.keys().copied().collect::<Vec<_>>(), (1..=log.len() as u64).collect::<Vec<_>>());
    for (name, places) in ["a", "b"].iter().zip(&places) {
        for (place, n) in places {
            assert_eq!(log.get(place), Some(&change(name, *n)), "what was answered is there");
        }
    }
    println!("log of {} entries, {} and {} answered", log.len(), places[0].len(), places[1].len());
    assert!(log.len() == places[0].len() + places[1].len(), "nothing is there twice");
    cluster.settle();
}

#[test]
fn what_was_applied_of_a_log_counts_for_nothing_at_the_server_that_took_its_place() {
    let cluster = fragile_cluster();
    let shared = shared(urls(&cluster));
    let (a, b) = (shared.new_worker("a"), shared.new_worker("b"));
    let renew = |worker: &Worker, applied| wait(|done| worker.cluster.renew(applied, 60_000, done));
    join(&a);
    join(&b);
    wait(|done| b.cluster.append(vec![change("b", 1)], done)).expect("appended");
    assert_eq!(read_all(&a, 0).expect("the log").len(), 1);
    for (worker, applied) in [(&a, Some(Position(1))), (&b, None)] {
        assert!(!renew(worker, applied).expect("a lease").is_elsewhere);
    }
    let all_applied = |worker: &Worker| {
        let lease = renew(worker, None).ok()?;
        let others = lease.members.iter().filter(|member| member.id != worker.cluster.id());
        Some((lease.is_elsewhere, others.map(|member| (member.is_live, member.applied)).collect::<Vec<_>>()))
    };
    assert_eq!(all_applied(&b), Some((false, vec![(true, Some(Position(1)))])));
    replace(&cluster, owner_of(&cluster, "c"));
    // There the same place may be another entry's: who has not read it again is waited for, whatever it says, and has no lease.
    let mut seen = None;
    until("somebody answers", || {
        seen = all_applied(&b);
        seen.is_some()
    });
    assert_eq!(seen, Some((true, vec![(true, Some(Position(0)))])));
    assert!(renew(&a, Some(Position(1))).expect("a lease").is_elsewhere);
    assert_eq!(all_applied(&b), Some((true, vec![(true, Some(Position(0)))])));
    assert!(wait(|done| a.cluster.read_log(Position(1), 0, done)).expect("a page").has_gap);
    assert!(renew(&a, Some(Position(1))).expect("a lease").is_elsewhere, "it may not have heard of it yet");
    assert_eq!(read_all(&a, 0).expect("the log").len(), 1);
    assert!(!renew(&a, Some(Position(1))).expect("a lease").is_elsewhere);
    assert_eq!(all_applied(&b), Some((true, vec![(true, Some(Position(1)))])));
    cluster.settle();
}

#[test]
fn an_inbox_tells_that_its_server_was_replaced_and_loses_nothing() {
    let cluster = fragile_cluster();
    let shared = shared(urls(&cluster));
    let (a, b) = (shared.new_worker("a"), shared.new_worker("b"));
    join(&a);
    join(&b);
    let note = |n: u128| Noted::TakenOver { client_id: Arc::from("c"), connection_id: ConnectionId(n) };
    let post = |n| wait(|done| b.cluster.post(a.cluster.id(), vec![note(n)], done)).expect("posted");
    for n in 1..=3 {
        assert_eq!(post(n), Heard::Yes);
    }
    let page = wait(|done| a.cluster.read_inbox(Position(0), 0, done)).expect("a page");
    assert_eq!((page.notes.len(), page.has_gap), (3, false));
    let waiting = begin(|done| a.cluster.read_inbox(Position(3), 2000, done));
    replace(&cluster, owner_of(&cluster, &format!("w:{:016x}", a.cluster.id().0)));
    assert_eq!(post(4), Heard::Yes);
    // The read that waited may have given up before there was a server.
    let mut page = take(&waiting).unwrap_or_default();
    until("it is told", || {
        page.has_gap || {
            page = wait(|done| a.cluster.read_inbox(Position(3), 100, done)).unwrap_or_default();
            page.has_gap
        }
    });
    let mut at = page.notes.last().map_or(3, |last| last.position.0);
    assert_eq!(post(5), Heard::Yes);
    until("the last one came", || {
        let page = wait(|done| a.cluster.read_inbox(Position(at), 100, done)).unwrap_or_default();
        at = page.notes.last().map_or(at, |last| last.position.0);
        at == 5
    });
    cluster.settle();
}

#[test]
fn a_lease_is_renewed_while_the_log_is_written_as_fast_as_can_be() {
    gate();
    let server = Server::start(&[]);
    let shared = Shared::on(vec![server.url()]);
    let a = shared.new_worker("a");
    join(&a);
    let many = |n: u64| vec![change(&"x".repeat(200), n); 200];
    let answers: Vec<_> = (0..300).map(|n| begin(|done| a.cluster.append(many(n), done))).collect();
    // Not behind what waits to be written.
    for _ in 0..3 {
        let lease = wait(|done| a.cluster.renew(Some(Position(0)), 1000, done)).expect("a lease");
        assert!(!lease.is_expelled);
        assert!(answers.last().expect("many").try_recv().is_err(), "the log is still being written");
    }
    for answer in answers {
        take(&answer).expect("appended");
    }
}

#[test]
fn a_worker_that_starts_has_its_inbox_where_a_write_counts() {
    let cluster = fragile_cluster();
    let shared = shared(urls(&cluster));
    // A master that nobody has copies of holds its writes; what workers have in common is elsewhere.
    let alone = cluster.owner(0);
    assert_ne!(alone.port, owner_of(&cluster, "c").port);
    let replica = cluster.replica_of(alone);
    replica.kill();
    for n in 0..8 {
        let worker = shared.new_worker(&format!("w{n}"));
        let joined = begin(|done| worker.cluster.join(done));
        joined.recv_timeout(Duration::from_secs(20)).expect("in time").expect("joined");
    }
    replica.run();
    cluster.settle();
}

#[test]
fn a_burial_goes_on_where_a_dead_worker_left_it() {
    gate();
    let server = Server::start(&[]);
    let shared = Shared::on(vec![server.url()]);
    let (a, b, c) = (shared.new_worker("a"), shared.new_worker("b"), shared.new_worker("c"));
    join(&a);
    join(&b);
    let at_a = Calls(&*a.store);
    let owned: Vec<_> =
        (0..60).map(|n| at_a.own(Claim { expiry_s: 60, ..claim(&format!("c{n}")) }).fence).collect();
    // As a worker would have left it that was at it until now, and half through.
    let run = format!("{:016x}", a.cluster.id().0);
    let key = format!("{}{{c}}y", shared.config.key_prefix);
    let leave = "local t = redis.call('TIME') return redis.call('HSET', KEYS[1], ARGV[1], \
                 cmsgpack.pack({ 'dead', t[1] * 1000 + math.floor(t[2] / 1000) + 5000, 2048 }))";
    let since = Instant::now();
    assert_eq!(server.cli(&["eval", leave, "1", &key, &run]), "1");
    let refused = wait(|done| a.cluster.join(done));
    assert!(matches!(&refused, Err(error) if error.is_retryable()), "while it is being buried");
    assert!(wait(|done| a.cluster.renew(Some(Position(0)), 1000, done)).expect("a lease").is_expelled);
    let (worker, handed_on) = (a.cluster.id(), Position::default());
    let burial = Burial { worker, silent_ms: 0, grace_ms: 0, now: START, handed_on };
    let both = [&b, &c].map(|worker| begin(|done| worker.cluster.bury(burial, done)));
    for answer in both {
        assert!(take(&answer).expect("buried").is_empty());
    }
    assert!(since.elapsed() > Duration::from_millis(4900), "the one that was at it has its time");
    let let_go: Vec<bool> = owned.iter().map(|fence| at_a.acknowledge(fence, 1).is_err()).collect();
    let count = let_go.iter().filter(|gone| **gone).count();
    assert!((15..45).contains(&count), "those of the other half: {count}");
    let page = wait(|done| b.cluster.read_log(Position(0), 0, done)).expect("a page");
    assert_eq!(page.changes, [placed(1, RouteChange::Left(a.cluster.id()))], "said once");
    assert!(join(&a) > Position(0));
}
