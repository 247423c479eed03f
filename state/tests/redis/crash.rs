//! `kill -9` of a worker in the middle of publishing: what was answered is there, and QoS 2 came once. The test runs itself
//! again as the worker that is killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mqtt::PacketId;

use state::{Claim, Due, Enqueued, Number, Origin, Publish, RedisConfig, RedisStore, Secret, Store};

use crate::harness::{Calls, START, claim, message, packet_id, publish_to, wait, will};
use crate::load::read_values;
use crate::servers::{Server, gate};
use crate::stores::{config_for, connect_at};

const URL_VARIABLE: &str = "TIDEGATE_STATE_CRASH_URL";
const SESSIONS: usize = 5;
const KILLS: u32 = 5;

/// Publishes under way. What was answered and not heard must not be forgotten yet, so this is less than `FORGOTTEN_AFTER`.
const UNDER_WAY: u64 = 64;
const FORGOTTEN_AFTER: u64 = 100;
/// Packet Identifiers in use.
const IDENTIFIERS: u64 = 60_000;

fn identifier(value: u64) -> PacketId {
    packet_id(u16::try_from(1 + value % IDENTIFIERS).expect("small"))
}

/// Not a test of its own: the process that is killed.
#[test]
fn child_that_publishes_until_it_is_killed() {
    let Some(url) = std::env::var_os(URL_VARIABLE) else { return };
    let config = RedisConfig {
        nodes: vec![Secret::new(url.to_string_lossy())],
        key_prefix: "crash".to_owned(),
        ..RedisConfig::default()
    };
    let store = connect_at(config, START);
    let calls = Calls(&store);
    let publisher = calls.own(claim("publisher")).fence;
    let owners: Vec<_> = (0..SESSIONS).map(|n| calls.own(claim(&format!("s{n}"))).fence).collect();
    // The test runner has begun a line.
    println!();
    let mut first = String::new();
    std::io::stdin().lock().read_line(&mut first).expect("where to go on");
    let first: u64 = first.trim().parse().expect("a number");
    // What the process before this one had sent and not seen answered is sent again. v5 [MQTT-4.4.0-1]
    let answered = Arc::new(AtomicU64::new(0));
    for value in first.. {
        while value - first > UNDER_WAY + answered.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let sessions: Vec<_> = owners.iter().map(|owner| &owner.session).collect();
        let publish = Publish {
            origin: Some(Origin { fence: publisher.clone(), packet_id: identifier(value) }),
            ..publish_to(&sessions, &message("t", &value.to_string()))
        };
        let count = Arc::clone(&answered);
        let done = Box::new(move |answer: Result<state::Published, state::StoreError>| {
            let numbers: Vec<String> = answer
                .expect("published")
                .targets
                .iter()
                .map(|target| match target {
                    Enqueued::At(Number(n)) => n.to_string(),
                    other => panic!("{other:?}"),
                })
                .collect();
            let mut out = std::io::stdout().lock();
            writeln!(out, "published {value} {}.", numbers.join(" ")).expect("a parent that reads");
            out.flush().expect("a parent that reads");
            count.fetch_add(1, Ordering::SeqCst);
        });
        store.publish(publish, done);
        if value > FORGOTTEN_AFTER {
            store.forget_received(&publisher, identifier(value - FORGOTTEN_AFTER), Box::new(|_| ()));
        }
    }
}

fn run_and_kill(server: &Server, numbers: &mut [BTreeMap<u64, u64>], published: &mut u64, lines_min: usize) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "crash::child_that_publishes_until_it_is_killed",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(URL_VARIABLE, server.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let mut stdin = child.stdin.take().expect("its input");
    writeln!(stdin, "{}", *published + 1).expect("told where to go on");
    let mut count = 0;
    for line in BufReader::new(child.stdout.take().expect("its output")).lines() {
        let Ok(line) = line else { break };
        // The last line may be torn.
        let Some(rest) = line.strip_prefix("published ").and_then(|rest| rest.strip_suffix('.')) else {
            continue;
        };
        let mut words = rest.split_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        let value = words.next().expect("a value");
        assert_eq!(value, *published + 1, "answers in order");
        *published = value;
        for (numbers, number) in numbers.iter_mut().zip(words) {
            numbers.insert(number, value);
        }
        count += 1;
        if count == lines_min {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("dead");
    assert!(count >= lines_min, "the child publishes");
}

#[test]
fn what_was_answered_survives_kill_9_of_the_worker() {
    gate();
    let server = Server::start(&[]);
    let mut numbers = vec![BTreeMap::new(); SESSIONS];
    let mut published = 0;
    for kill in 0..KILLS {
        run_and_kill(&server, &mut numbers, &mut published, 200 + 150 * kill as usize);
        let config = RedisConfig { key_prefix: "crash".to_owned(), ..config_for(vec![server.url()]) };
        let store = connect_at(config, START);
        for (n, numbers) in numbers.iter().enumerate() {
            let owned = Calls(&store).own(claim(&format!("s{n}")));
            let values = read_values(&store, &owned.fence);
            let expected: Vec<u64> = (1..owned.tail.0).collect();
            assert_eq!(values.keys().copied().collect::<Vec<_>>(), expected, "s{n}: no gap");
            for (number, value) in numbers {
                assert_eq!(values.get(number), Some(value), "s{n}: what was answered is there");
            }
            let values: Vec<u64> = values.into_values().collect();
            assert!(values.windows(2).all(|pair| pair[1] == pair[0] + 1), "s{n}: each once, in order");
        }
    }
    println!("{published} QoS 2 messages over {KILLS} kills: none lost, none twice");
}

// Queues that have it know it by that when it comes again.
#[test]
fn a_will_that_an_earlier_run_was_handed_keeps_its_number() {
    gate();
    let server = Server::start(&[]);
    let number = |store: &RedisStore| {
        let due = wait(|done| store.claim_due(START, 9, done)).expect("what is due");
        let [Due::Will(will)] = due.as_slice() else { panic!("a will") };
        will.number
    };
    for expiry_s in [60, 0] {
        let config = config_for(vec![server.url()]);
        let store = connect_at(config.clone(), START);
        let calls = Calls(&store);
        // Others have had numbers.
        for _ in 0..3 {
            let owned = calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
            calls.release(&owned.fence, 60, true, START).expect("released");
            let due = wait(|done| store.claim_due(START, 9, done)).expect("what is due");
            let [Due::Will(will)] = due.as_slice() else { panic!("a will") };
            wait(|done| store.finish_will(will, done)).expect("finished");
        }
        let owned = calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
        calls.release(&owned.fence, expiry_s, true, START).expect("released");
        let first = number(&store);
        for _ in 0..2 {
            assert_eq!(number(&connect_at(config.clone(), START)), first, "expiry {expiry_s}");
        }
        if expiry_s > 0 {
            let store = connect_at(config, START);
            let will = Calls(&store).claim(claim("a")).expect("a claim").will_due.expect("it is due");
            assert_eq!(will.number, first, "by a claim");
        }
    }
}
