//! Measures the embedded store: calls per second and microseconds of CPU (of the whole process) per call, for enqueueing
//! at several batch sizes, acknowledging and draining, and the time to open after a long history.
//!
//! `cargo run --release -p tidegate-state --example bench [messages] [directory] [flow | fan-out | open]`

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Instant;

use mqtt::QoS;
use state::testing::{claim, publish_to};
use state::{
    Claim, EXPIRY_NEVER, EmbeddedConfig, EmbeddedStore, Fence, Fsync, Message, Number, Owned, Publish,
    Release, Store, StoredSession,
};

/// As the broker has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAYLOAD_BYTES: usize = 256;
const SESSIONS: usize = 50;

/// Counts answers, so that a bench can wait for them.
#[derive(Clone, Default)]
struct Answers(Arc<Count>);

#[derive(Default)]
struct Count {
    answered: AtomicU64,
    awaited: AtomicU64,
    waiter: Mutex<Option<Thread>>,
}

impl Answers {
    fn count<T>(&self) -> state::Done<T> {
        let count = Arc::clone(&self.0);
        Box::new(move |answer| {
            if let Err(error) = answer {
                eprintln!("an answer failed: {error}");
                std::process::exit(1);
            }
            if count.answered.fetch_add(1, Ordering::SeqCst) + 1 == count.awaited.load(Ordering::SeqCst)
                && let Ok(waiter) = count.waiter.lock()
                && let Some(thread) = waiter.as_ref()
            {
                thread.unpark();
            }
        })
    }

    fn wait(&self, count: u64) {
        if let Ok(mut waiter) = self.0.waiter.lock() {
            *waiter = Some(std::thread::current());
        }
        self.0.awaited.store(count, Ordering::SeqCst);
        while self.0.answered.load(Ordering::SeqCst) < count {
            std::thread::park();
        }
    }
}

/// User and system time of this process, in microseconds.
fn cpu() -> [f64; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12]
        .map(|at| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default() * 10_000.0)
}

/// Resident memory of this process, in MiB.
fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096 / (1024 * 1024)
}

fn measure(name: &str, calls: u64, run: impl FnOnce()) {
    let (before, start) = (cpu(), Instant::now());
    run();
    let (after, elapsed) = (cpu(), start.elapsed().as_secs_f64());
    let [user, system] = [0, 1].map(|at| (after[at] - before[at]) / calls as f64);
    println!(
        "{name:<44} {:>10.0}/s {user:>8.2} + {system:>6.2} us user + system {elapsed:>8.2} s {:>6} MiB",
        calls as f64 / elapsed,
        resident_mib()
    );
}

fn call<T: Send + 'static>(call: impl FnOnce(state::Done<T>)) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    call(Box::new(move |answer| {
        sender.send(answer).ok();
    }));
    match receiver.recv() {
        Ok(Ok(answer)) => answer,
        other => {
            eprintln!("a call failed: {:?}", other.map(Result::err));
            std::process::exit(1);
        }
    }
}

fn own(store: &EmbeddedStore, client_id: &str) -> Owned {
    match call(|done| store.claim(Claim { receive_maximum: 1000, ..claim(client_id) }, done)).session {
        Some(owned) => owned,
        None => std::process::exit(1),
    }
}

fn message() -> Arc<Message> {
    Arc::new(Message::new("bench/some/topic", &[], &[7; PAYLOAD_BYTES], QoS::AtLeastOnce, false, 1))
}

fn publish(session: &Arc<StoredSession>) -> Publish {
    publish_to(&[session], &message())
}

/// Publishes with at most `window` calls under way: the batch size that a group commit can have.
fn enqueue(store: &EmbeddedStore, sessions: &[Arc<StoredSession>], messages: u64, window: u64) {
    let answers = Answers::default();
    for n in 0..messages {
        if n % window == 0 {
            answers.wait(n);
        }
        store.publish(publish(&sessions[n as usize % sessions.len()]), answers.count());
    }
    answers.wait(messages);
}

/// Reads queues in pages and acknowledges every record.
fn drain(store: &EmbeddedStore, owners: &[Fence], page: usize) -> u64 {
    let mut total = 0;
    for owner in owners {
        let mut from = Number(1);
        loop {
            let answers = Answers::default();
            let found = call(|done| store.read_queue(owner, from, page, usize::MAX, done));
            if found.records.is_empty() {
                break;
            }
            for queued in &found.records {
                store.acknowledge(owner, queued.number, answers.count());
            }
            answers.wait(found.records.len() as u64);
            total += found.records.len() as u64;
            from = found.next;
        }
    }
    total
}

fn open(config: &EmbeddedConfig) -> EmbeddedStore {
    match EmbeddedStore::open(config.clone()) {
        Ok(store) => store,
        Err(error) => {
            eprintln!("cannot open: {error}");
            std::process::exit(1);
        }
    }
}

fn fresh(dir: &Path, name: &str, fsync: Fsync) -> EmbeddedConfig {
    let dir = dir.join(name);
    std::fs::remove_dir_all(&dir).ok();
    EmbeddedConfig { dir, fsync, ..EmbeddedConfig::default() }
}

fn bench_flow(dir: &Path, fsync: Fsync, messages: u64) {
    println!("-- fsync = {fsync:?}, {PAYLOAD_BYTES} byte payloads, {SESSIONS} sessions");
    for window in [1, 16, 128, 1600] {
        let config = fresh(dir, "flow", fsync);
        let store = open(&config);
        let owned: Vec<Fence> = (0..SESSIONS).map(|n| own(&store, &format!("c{n}")).fence).collect();
        let sessions: Vec<_> = owned.iter().map(|fence| Arc::clone(&fence.session)).collect();
        let count = messages.min(match window {
            1 => 3_000,
            16 => 100_000,
            _ => u64::MAX,
        });
        measure(&format!("enqueue, {window} under way"), count, || enqueue(&store, &sessions, count, window));
        if window < 128 {
            continue;
        }
        measure("drain, pages of 128, from memory and disk", count, || {
            assert_eq!(drain(&store, &owned, 128), count);
        });
    }
    let config = EmbeddedConfig { queue_memory_bytes_max: 0, ..fresh(dir, "flow", fsync) };
    let store = open(&config);
    let owned: Vec<Fence> = (0..SESSIONS).map(|n| own(&store, &format!("c{n}")).fence).collect();
    let sessions: Vec<_> = owned.iter().map(|fence| Arc::clone(&fence.session)).collect();
    measure("enqueue, 1600 under way, nothing kept", messages, || enqueue(&store, &sessions, messages, 1600));
    measure("drain, pages of 128, all from disk", messages, || {
        assert_eq!(drain(&store, &owned, 128), messages);
    });
}

/// One message for many sessions.
fn bench_fan_out(dir: &Path, sessions: u64, payload: usize) {
    let store = open(&fresh(dir, "fan-out", Fsync::Always));
    let owned: Vec<Fence> = (0..sessions).map(|n| own(&store, &format!("c{n}")).fence).collect();
    let rounds = 200_000 / sessions;
    let answers = Answers::default();
    measure(&format!("fan-out of {payload} bytes to {sessions} sessions"), rounds * sessions, || {
        for n in 0..rounds {
            let message =
                Arc::new(Message::new("fan/out", &[], &vec![7; payload], QoS::AtLeastOnce, false, 1));
            let sessions: Vec<_> = owned.iter().map(|fence| &fence.session).collect();
            store.publish(publish_to(&sessions, &message), answers.count());
            answers.wait((n + 1).saturating_sub(8));
        }
        answers.wait(rounds);
    });
}

/// Opening after a long history that is all acknowledged, with many sessions.
fn bench_open(dir: &Path, sessions: u64, messages: u64) {
    let config = fresh(dir, "open", Fsync::Interval);
    let store = open(&config);
    let answers = Answers::default();
    measure(&format!("claim {sessions} sessions"), sessions, || {
        for n in 0..sessions {
            store.claim(claim(&format!("client-{n}")), answers.count());
        }
        answers.wait(sessions);
    });
    let owned: Vec<Owned> = (0..sessions).map(|n| own(&store, &format!("client-{n}"))).collect();
    let (enqueued, acknowledged) = (Answers::default(), Answers::default());
    let rounds = messages / sessions;
    measure(&format!("enqueue and acknowledge {messages}"), messages, || {
        for round in 0..rounds {
            for (owner, n) in owned.iter().zip(round * sessions..) {
                enqueued.wait(n.saturating_sub(10_000));
                store.publish(publish(&owner.fence.session), enqueued.count());
            }
            enqueued.wait((round + 1) * sessions);
            for (owner, n) in owned.iter().zip(round * sessions..) {
                acknowledged.wait(n.saturating_sub(10_000));
                store.acknowledge(&owner.fence, Number(round + 1), acknowledged.count());
            }
            acknowledged.wait((round + 1) * sessions);
        }
    });
    for owner in &owned {
        let release =
            Release { expiry_s: EXPIRY_NEVER, keep_will: false, sent: Number(0), grace_ms: 0, now: 1 };
        store.release(&owner.fence, release, Answers::default().count());
    }
    call(|done| store.close(done));
    drop(store);
    for attempt in ["first", "second"] {
        measure(&format!("open, {attempt} time, {sessions} sessions"), 1, || {
            let store = open(&config);
            assert_eq!(store.stats().sessions, sessions);
            assert_eq!(store.stats().queued_messages, 0);
        });
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let messages = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(500_000);
    let dir =
        arguments.next().map_or_else(|| std::env::temp_dir().join("tidegate-state-bench"), PathBuf::from);
    let only = arguments.next();
    let is_wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    if is_wanted("flow") {
        bench_flow(&dir, Fsync::Always, messages);
        bench_flow(&dir, Fsync::Interval, messages);
    }
    if is_wanted("fan-out") {
        bench_fan_out(&dir, 1000, 256);
        bench_fan_out(&dir, 1000, 4096);
    }
    if is_wanted("open") {
        bench_open(&dir, 100_000, 2 * messages);
    }
    std::fs::remove_dir_all(&dir).ok();
}
