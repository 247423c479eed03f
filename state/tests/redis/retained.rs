//! Retained messages that are large, and those of a slot that moves.

use std::sync::Arc;

use mqtt::QoS;
use state::{Cursor, Message, RetainedPage, Store};

use crate::faults::{fragile_cluster, move_slot, urls};
use crate::harness::{Calls, START, begin, message, take, wait};
use crate::servers::until;
use crate::stores::{InRedis, config_for, shared_server};

const MIB: usize = 1 << 20;
/// Messages that a worker asks for at once.
const MESSAGES_MAX: usize = 256;
/// In each of two buckets.
const MESSAGES: usize = 6;
/// As many as one call has operations, and some.
const READERS: usize = 20;

#[test]
fn pages_of_large_messages_are_small_and_all_come_however_many_read() {
    let redis = InRedis::open(config_for(shared_server()));
    let store = redis.store();
    let body = vec![b'x'; MIB];
    let topic = |n: usize| format!("large/{}/{n}", n % 2);
    for n in 0..2 * MESSAGES {
        let message = Message::new(&topic(n), &[], &body, QoS::AtLeastOnce, true, START);
        wait(|done| store.retain(Arc::new(message), done)).expect("retained");
    }
    let mut all: Vec<String> = (0..2 * MESSAGES).map(topic).collect();
    all.sort_unstable();
    let ask = |cursor: Option<Cursor>| {
        begin(move |done| store.retained("large/#", cursor, MESSAGES_MAX, START, done))
    };
    let mut reading: Vec<_> = (0..READERS).map(|_| (Vec::new(), Some(ask(None)))).collect();
    while reading.iter().any(|(_, asked)| asked.is_some()) {
        for (topics, asked) in &mut reading {
            let Some(answer) = asked.take() else { continue };
            let RetainedPage { messages, next } = take(&answer).expect("a page");
            let bytes: usize = messages.iter().map(|message| message.size()).sum();
            assert!(bytes <= 3 * MIB, "{bytes} bytes in a page");
            topics.extend(messages.iter().map(|message| message.topic().to_owned()));
            *asked = next.map(|cursor| ask(Some(cursor)));
        }
    }
    for (mut topics, _) in reading {
        topics.sort_unstable();
        assert_eq!(topics, all);
    }
}

// The set of a bucket's topics goes with the last of them, and Redis lets no call touch a key of a moving slot that has gone.
#[test]
fn a_topic_that_follows_the_last_of_its_bucket_is_there_though_the_slot_moves() {
    let cluster = fragile_cluster();
    let redis = InRedis::open(config_for(urls(&cluster)));
    let (store, calls) = (redis.store(), Calls(redis.store()));
    // So that all keys of the bucket are there.
    calls.retain_as("alice", 9, "a/b/c", "1").expect("retained");
    let pattern = format!("{}{{*}}x", redis.config.key_prefix);
    let keys: Vec<String> =
        cluster.masters().iter().map(|master| master.cli(&["--scan", "--pattern", &pattern])).collect();
    let key = keys.iter().find_map(|keys| keys.lines().next()).expect("a set of topics");
    let slot = cluster.servers[0].cli(&["cluster", "keyslot", key]);
    let from = cluster.owner(slot.parse().expect("a slot"));
    let to = cluster.masters().into_iter().find(|server| server.port != from.port).expect("another master");
    let (from_id, to_id) = (from.cli(&["cluster", "myid"]), to.cli(&["cluster", "myid"]));
    to.cli(&["cluster", "setslot", &slot, "importing", &from_id]);
    from.cli(&["cluster", "setslot", &slot, "migrating", &to_id]);
    // The first occupies the bucket, so that the others are ready together.
    let payloads = ["2", "", "3"];
    let calls_at = || -> u64 {
        let stats = from.cli(&["info", "commandstats"]);
        let (_, rest) = stats.split_once("cmdstat_fcall:calls=").expect("calls");
        rest.split(',').next().and_then(|count| count.parse().ok()).expect("a count")
    };
    let before = calls_at();
    let asked = payloads.map(|payload| begin(|done| store.retain(message("a/b/c", payload), done)));
    until("the calls came while the slot moves", || calls_at() >= before + 2);
    move_slot(&cluster, slot.parse().expect("a slot"));
    for answer in asked {
        take(&answer).expect("retained");
    }
    assert_eq!(calls.retained("a/b/#", 9, START), ["a/b/c"]);
    cluster.settle();
}
