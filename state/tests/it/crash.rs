//! `kill -9` in the middle of writing: what was acknowledged is there, numbers have no gap, and QoS 2 came once.
//!
//! The test runs itself again as a child that writes and says what was answered; the parent kills it and looks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mqtt::PacketId;

use state::{Claim, EmbeddedConfig, EmbeddedStore, Enqueued, Fsync, Number, Origin, Publish, Record, Store};

use crate::embedded::config_in;
use crate::harness::{Calls, START, claim, message, packet_id, publish_to};

/// Tells the child where to write.
const DIR_VARIABLE: &str = "TIDEGATE_STATE_CRASH_DIR";
const FSYNC_VARIABLE: &str = "TIDEGATE_STATE_CRASH_FSYNC";

const SESSIONS: usize = 5;
const KILLS: u32 = 4;

/// Publishes under way. What was answered and not heard must not be forgotten yet, so this is less than `FORGOTTEN_AFTER`.
const UNDER_WAY: u64 = 64;
const FORGOTTEN_AFTER: u64 = 100;
/// Packet Identifiers in use.
const IDENTIFIERS: u64 = 60_000;

fn identifier(value: u64) -> PacketId {
    packet_id(u16::try_from(1 + value % IDENTIFIERS).expect("small"))
}

fn config(dir: &std::path::Path, fsync: Fsync) -> EmbeddedConfig {
    EmbeddedConfig {
        fsync,
        queue_memory_bytes_max: 100_000,
        write_buffer_bytes: 1024 * 1024,
        ..config_in(dir)
    }
}

/// Not a test of its own: the process that is killed.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return };
    let fsync = if std::env::var_os(FSYNC_VARIABLE).is_some() { Fsync::Interval } else { Fsync::Always };
    let store = EmbeddedStore::open(config(dir.as_ref(), fsync)).expect("a store");
    let calls = Calls(&store);
    let publisher = calls.own(claim("publisher"));
    let owners: Vec<_> = (0..SESSIONS).map(|n| calls.own(claim(&format!("s{n}"))).fence).collect();
    // The test runner has begun a line.
    println!();
    // What the process before this one had sent and not seen answered is sent again. v5 [MQTT-4.4.0-1]
    let stdin = std::io::stdin();
    let mut first = String::new();
    stdin.lock().read_line(&mut first).expect("where to go on");
    let first: u64 = first.trim().parse().expect("a number");
    let mut acknowledged = [0; SESSIONS];
    let answered = Arc::new(AtomicU64::new(0));
    for value in first.. {
        while value - first > UNDER_WAY + answered.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let id = identifier(value);
        let sessions: Vec<_> = owners.iter().map(|owner| &owner.session).collect();
        let payload =
            if value % 7 == 0 { format!("{value} {}", "x".repeat(3000)) } else { value.to_string() };
        let publish = Publish {
            origin: Some(Origin { fence: publisher.fence.clone(), packet_id: id }),
            ..publish_to(&sessions, &message("t", &payload))
        };
        let report = move |line: String| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").expect("a parent that reads");
            out.flush().expect("a parent that reads");
        };
        let count = Arc::clone(&answered);
        store.publish(
            publish,
            Box::new(move |answer| {
                let answer = answer.expect("published");
                let report = |line| {
                    report(line);
                    count.fetch_add(1, Ordering::SeqCst);
                };
                if answer.duplicate {
                    return report(format!("published {value}"));
                }
                let numbers: Vec<_> = answer
                    .targets
                    .iter()
                    .map(|target| match target {
                        Enqueued::At(Number(n)) => n.to_string(),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                report(format!("published {value} {}", numbers.join(" ")));
            }),
        );
        if value > FORGOTTEN_AFTER {
            store.forget_received(&publisher.fence, identifier(value - FORGOTTEN_AFTER), Box::new(|_| ()));
        }
        // One session drains, every second number first.
        if value % 3 == 0 {
            for offset in [2, 1] {
                let number = acknowledged[0] + offset;
                store.acknowledge(
                    &owners[0],
                    Number(number),
                    Box::new(move |_| report(format!("acknowledged {number}"))),
                );
            }
            acknowledged[0] += 2;
        }
    }
}

/// What the children said.
#[derive(Default)]
struct Heard {
    /// Highest value whose publish was answered.
    published: u64,
    /// By session: number to value.
    numbers: Vec<BTreeMap<u64, u64>>,
    acknowledged: BTreeSet<u64>,
}

impl Heard {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let mut rest = words.filter_map(|word| word.parse::<u64>().ok());
        let Some(value) = rest.next() else { return };
        match kind {
            "published" => {
                assert_eq!(value, self.published + 1, "answers in order");
                self.published = value;
                for (numbers, number) in self.numbers.iter_mut().zip(rest) {
                    numbers.insert(number, value);
                }
            }
            "acknowledged" => {
                self.acknowledged.insert(value);
            }
            _ => {}
        }
    }
}

fn run_and_kill(dir: &std::path::Path, fsync: Fsync, heard: &mut Heard, lines_min: usize) {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["crash::child_that_writes_until_it_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR_VARIABLE, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if fsync == Fsync::Interval {
        command.env(FSYNC_VARIABLE, "1");
    }
    let mut child = command.spawn().expect("a child");
    let mut stdin = child.stdin.take().expect("its input");
    writeln!(stdin, "{}", heard.published + 1).expect("told where to go on");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut count = 0;
    while count < lines_min {
        assert!(Instant::now() < deadline, "the child writes");
        let line = lines.next().expect("more").expect("a line");
        count += usize::from(line.starts_with("published"));
        heard.hear(&line);
    }
    child.kill().expect("killed");
    for line in lines.map_while(Result::ok) {
        // The last line may be torn; a whole one was answered.
        if line.starts_with("published") && line.split(' ').count() < 2 + SESSIONS {
            continue;
        }
        heard.hear(&line);
    }
    child.wait().expect("dead");
}

fn check(dir: &std::path::Path, fsync: Fsync, heard: &Heard) {
    let store = EmbeddedStore::open_at(config(dir, fsync), START).expect("a store");
    store.check_invariants();
    let calls = Calls(&store);
    for (n, numbers) in heard.numbers.iter().enumerate() {
        let owned = calls.own(Claim { now: START, ..claim(&format!("s{n}")) });
        let mut values = BTreeMap::new();
        let mut from = owned.head;
        loop {
            let page = calls.read(&owned.fence, from.0, 1000).expect("a page");
            if page.records.is_empty() {
                break;
            }
            from = page.next;
            for queued in page.records {
                let Record::Message(delivery) = queued.record else { panic!("no PUBREL was sent") };
                let text = String::from_utf8_lossy(delivery.message.payload_slice()).into_owned();
                let value: u64 = text.split(' ').next().and_then(|word| word.parse().ok()).expect("a value");
                values.insert(queued.number.0, value);
            }
        }
        let is_drained = |number: &u64| n == 0 && heard.acknowledged.contains(number);
        for (number, value) in numbers.iter().filter(|(number, _)| !is_drained(number)) {
            // The drained session may have acknowledged more than it could say.
            if n > 0 {
                assert_eq!(values.get(number), Some(value), "session {n}: what was answered is there");
            }
        }
        for number in values.keys() {
            assert!(!is_drained(number), "session {n}: {number} was acknowledged and came back");
        }
        if n > 0 {
            let expected: Vec<u64> = (1..owned.tail.0).collect();
            assert_eq!(values.keys().copied().collect::<Vec<_>>(), expected, "session {n}: no gap");
            let mut sorted: Vec<u64> = values.values().copied().collect();
            assert!(sorted.is_sorted(), "session {n}: in order");
            sorted.dedup();
            assert_eq!(sorted.len(), values.len(), "session {n}: nothing twice");
        }
    }
}

fn survives_kills(fsync: Fsync) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut heard = Heard { numbers: vec![BTreeMap::new(); SESSIONS], ..Heard::default() };
    for kill in 0..KILLS {
        run_and_kill(dir.path(), fsync, &mut heard, 300 + 400 * kill as usize);
        check(dir.path(), fsync, &heard);
    }
    assert!(heard.published > 1000);
}

#[test]
fn what_was_answered_survives_kill_9_with_fsync_always() {
    survives_kills(Fsync::Always);
}

#[test]
fn what_was_answered_survives_kill_9_with_fsync_interval() {
    survives_kills(Fsync::Interval);
}
