//! What members of shares leave all at once, to a store on disk: no more of it than there should be is in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use mqtt::QoS;
use state::{
    Claim, Delivery, Due, EmbeddedConfig, EmbeddedStore, Message, Number, Publish, Release, Store,
    SubscriptionIds, Target, Via,
};

use crate::embedded::config_in;
use crate::harness::{Calls, START, claim, wait};

const MEMBERS: usize = 4;
const MESSAGES: usize = 10;
const MESSAGE_BYTES: usize = 1024 * 1024;

/// As the store has it.
const LEFT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Members whose queues are full, and which are away for so long.
fn fill(store: &EmbeddedStore, expiry_s: u32) {
    let payload = "x".repeat(MESSAGE_BYTES);
    for member in 0..MEMBERS {
        let owner = Calls(store).own(Claim { expiry_s: 10, ..claim(&format!("member {member}")) }).fence;
        for number in 0..MESSAGES {
            let topic = format!("{member}/{number}");
            let message =
                Arc::new(Message::new(&topic, &[], payload.as_bytes(), QoS::AtLeastOnce, false, START));
            let delivery = Delivery {
                message: Arc::clone(&message),
                qos: QoS::AtLeastOnce,
                retain: false,
                subscription_ids: SubscriptionIds::NONE,
                via: Via::Share("$share/g/#".into()),
            };
            let target = Target { session: Arc::clone(&owner.session), delivery, share: None };
            Calls(store).publish(Publish { message, origin: None, identity: None, targets: vec![target] });
        }
        let release = Release { expiry_s, keep_will: false, sent: Number(1), grace_ms: 0, now: START };
        wait(|done| store.release(&owner, release, done)).expect("released");
    }
}

/// Takes what is due at `now` until nothing is, and finishes what was left; answers how much was left at once at most.
fn take_all(store: &EmbeddedStore, now: u64) -> usize {
    let (mut topics, mut most, mut rounds) = (BTreeSet::new(), 0, 0);
    while store.stats().sessions > 0 || topics.len() < MEMBERS * MESSAGES {
        rounds += 1;
        assert!(rounds < 100, "all comes in the end");
        let mut left = Vec::new();
        loop {
            let due = wait(|done| store.claim_due(now, 1000, done)).expect("due");
            if due.is_empty() {
                break;
            }
            left.extend(due.into_iter().filter_map(|due| match due {
                Due::Left(left) => Some(left),
                _ => None,
            }));
        }
        most = most.max(left.iter().map(|left| left.message.size()).sum());
        for left in &left {
            assert!(topics.insert(left.message.topic().to_owned()), "nothing twice");
            wait(|done| store.finish_left(left, done)).expect("finished");
        }
        store.check_invariants();
    }
    most
}

#[test]
fn members_that_end_at_once_leave_little_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = |now| {
        let config =
            EmbeddedConfig { queue_memory_bytes_max: 100_000, ..config_in(&dir.path().join("state")) };
        EmbeddedStore::open_at(config, now).expect("a store")
    };
    let store = open(START);
    fill(&store, 10);
    drop(store);
    let store = open(START + 1);
    assert!(take_all(&store, START + 10_000) <= LEFT_BYTES_MAX);
    // Those that end with their connections wait, too.
    fill(&store, 0);
    assert!(take_all(&store, START + 10_000) <= LEFT_BYTES_MAX);
    drop(store);
    let store = open(START + 20_000);
    assert!(wait(|done| store.claim_due(u64::MAX / 2, 1000, done)).expect("due").is_empty());
}
