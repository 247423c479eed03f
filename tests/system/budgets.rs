//! What one user may have, of sessions and of retained messages, is counted over all workers, on a Redis Cluster, and stays so
//! when a worker dies in the middle of it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBACK, Publish, V5};
use crate::harness::property as p;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Target, Transport, unique, until};
use crate::tiers::{Shape, Tiers, metric};

const SESSIONS_MAX: usize = 8;
const RETAINED_MAX: usize = 6;
/// Of sessions that end when their client has gone for so long.
const SHORT_S: u32 = 1;
const LONG_S: u32 = 600;

/// Two workers with an edge each, so that it is known who serves whom.
fn start(passwords: &Path) -> Tiers {
    let mut shape = Shape::paired(2);
    shape.edge_extra = format!(
        "auth.password_file = \"{}\"\nauth.hash_timeout_ms = 60000\nedge.authenticate_timeout_ms = 60000\n\
         [[authorization.limits]]\nwho = [\"*\"]\nsessions_max = {SESSIONS_MAX}\nretained_messages_max = {RETAINED_MAX}\n",
        passwords.display()
    );
    shape.worker_extra =
        "cluster.worker_timeout_ms = 4000\nlink.handoff_grace_ms = 1000\nredis.timer_sweep_ms = 500\n"
            .to_owned();
    Tiers::start(&shape)
}

fn at(tiers: &Tiers, edge: usize) -> Target<'_> {
    Target { server: &tiers.edges[edge], transport: Transport::Tcp }
}

/// Connects; the Reason Code.
fn connect(at: Target<'_>, user: &str, id: &str, expiry_s: u32) -> (Client, u8) {
    let connect = Connect::v5(id).resume().user(user, PASSWORD).with(p::four(p::SESSION_EXPIRY, expiry_s));
    let mut client = at.open();
    client.send(&connect.bytes());
    let code = client.expect_connack().code;
    (client, code)
}

/// How many of these sessions could be made, each of which goes on when its client has gone.
fn made(at: Target<'_>, user: &str, count: usize) -> usize {
    let codes: Vec<u8> = (0..count).map(|_| connect(at, user, &unique("s"), LONG_S).1).collect();
    assert!(codes.iter().all(|code| [0, 0x97].contains(code)), "{codes:?}");
    codes.iter().filter(|code| **code == 0).count()
}

/// How many of these topics have a retained message now, of those that may have one.
fn retained(client: &mut Client, topics: &[String]) -> usize {
    let codes: Vec<u8> = topics
        .iter()
        .map(|topic| {
            client.send(&Publish::new(topic, "x").retain().qos1(7).bytes());
            client.expect_reply(PUBACK, 7).reason
        })
        .collect();
    assert!(codes.iter().all(|code| [0, 0x10, 0x97].contains(code)), "{codes:?}");
    codes.iter().filter(|code| **code != 0x97).count()
}

#[test]
fn what_a_user_has_is_counted_over_all_workers() {
    let dir = TempDir::new().unwrap();
    let passwords = dir.path().join("passwords");
    for user in ["alice", "bob"] {
        passwd(&passwords, user, &[]);
    }
    let tiers = start(&passwords);
    // One after the other only for the hash of the password.
    let mut publishers = [0, 1].map(|edge| connect(at(&tiers, edge), "alice", &unique("p"), 0).0);
    let all = std::thread::scope(|scope| {
        let both = [0, 1].map(|edge| {
            let at = at(&tiers, edge);
            scope.spawn(move || made(at, "alice", SESSIONS_MAX))
        });
        both.map(|made| made.join().unwrap()).iter().sum::<usize>()
    });
    assert_eq!(all, SESSIONS_MAX);
    let topics: Vec<String> = (0..2 * RETAINED_MAX).map(|_| unique("t")).collect();
    let all = std::thread::scope(|scope| {
        let halves = publishers.iter_mut().zip(topics.chunks(RETAINED_MAX));
        let both: Vec<_> =
            halves.map(|(client, topics)| scope.spawn(move || retained(client, topics))).collect();
        both.into_iter().map(|retained| retained.join().unwrap()).sum::<usize>()
    });
    assert_eq!(all, RETAINED_MAX);
    let refused: f64 =
        tiers.workers.iter().map(|worker| metric(worker, "tidegate_broker_limited_total")).sum();
    assert_eq!(refused, (SESSIONS_MAX + RETAINED_MAX) as f64);

    // Others are served as before.
    assert_eq!(made(at(&tiers, 1), "bob", 1), 1);
    let (mut bob, _) = connect(at(&tiers, 0), "bob", &unique("p"), 0);
    assert_eq!(retained(&mut bob, &[unique("t")]), 1);

    // What was cleared by way of one worker makes room at the other.
    for topic in &topics {
        bob.send(&Publish::new(topic, "").retain().qos1(7).bytes());
        bob.expect_reply(PUBACK, 7);
    }
    let more: Vec<String> = (0..RETAINED_MAX).map(|_| unique("t")).collect();
    let has_room = || (retained(&mut publishers[1], &more) == RETAINED_MAX).then_some(());
    until(has_room, || tiers.workers[1].log());
}

#[test]
fn a_worker_that_is_killed_leaves_no_sessions_and_messages_counted_that_are_not_there() {
    let dir = TempDir::new().unwrap();
    let passwords = dir.path().join("passwords");
    passwd(&passwords, "alice", &[]);
    let mut tiers = start(&passwords);
    let mut publisher = connect(at(&tiers, 1), "alice", &unique("p"), 0).0;
    let root = unique("t");
    let is_killed = AtomicBool::new(false);
    // Sessions and retained messages come and go at the first worker when it is killed.
    std::thread::scope(|scope| {
        let (target, worker, is_killed, root) = (at(&tiers, 0), &tiers.workers[0], &is_killed, &root);
        for client in 0..3 {
            scope.spawn(move || come_and_go(target, &format!("{root}/{client}"), is_killed));
        }
        until(|| (metric(worker, "tidegate_broker_limited_total") > 20.0).then_some(()), || worker.log());
        worker.signal("KILL");
        is_killed.store(true, Ordering::SeqCst);
    });
    tiers.kill_worker(0);
    // The sessions end by themselves, and then as many as ever may be there, and no more.
    let mut all = 0;
    let are_all_made = || {
        all += made(at(&tiers, 1), "alice", SESSIONS_MAX - all);
        (all == SESSIONS_MAX).then_some(())
    };
    until(are_all_made, || tiers.workers[1].log());
    assert_eq!(made(at(&tiers, 1), "alice", 3), 0);

    // So it is with retained messages when those that are left are cleared.
    publisher.subscribe(&format!("{root}/#"), 0);
    while let Ok(left) = publisher.poll(Duration::from_secs(1)) {
        let left = left.publish(V5);
        if !left.text().is_empty() {
            publisher.send(&Publish::new(left.topic, "").retain().bytes());
        }
    }
    publisher.unsubscribe(&[&format!("{root}/#")]);
    let topics: Vec<String> = (0..RETAINED_MAX).map(|_| unique("t")).collect();
    let are_all_retained = || (retained(&mut publisher, &topics) == RETAINED_MAX).then_some(());
    until(are_all_retained, || tiers.workers[1].log());
    assert_eq!(retained(&mut publisher, &[unique("t")]), 0);
}

#[test]
fn retained_messages_in_redis_have_so_many_bytes() {
    let mut shape = Shape::new(1, 1);
    shape.worker_extra = "redis.retained_bytes_max = 10000\nredis.timer_sweep_ms = 100\n".to_owned();
    let tiers = Tiers::start_single(&shape);
    let (root, payload) = (unique("t"), "x".repeat(2000));
    let mut good = at(&tiers, 0).v5();
    let mut greedy = at(&tiers, 0).v5();
    let retain = |client: &mut Client, name: &str, payload: &str, expiry_s: Option<u32>| {
        let publish = Publish::new(format!("{root}/{name}"), payload).retain().qos1(7);
        let expiry = expiry_s.map_or(Vec::new(), |expiry_s| p::four(p::MESSAGE_EXPIRY, expiry_s));
        client.send(&publish.with(expiry).bytes());
        client.expect_reply(PUBACK, 7).reason
    };
    assert_eq!(retain(&mut good, "good", &payload, None), 0x10);
    let made = (0..9).filter(|n| retain(&mut greedy, &format!("greedy/{n}"), &payload, None) != 0x97).count();
    assert_eq!(made, 3);
    // MQTT 3 cannot be told: the log says so. Whoever is subscribed gets the message.
    good.subscribe(&format!("{root}/old"), 0);
    let mut old = at(&tiers, 0).v4();
    old.publish_as(Publish::new(format!("{root}/old"), &payload).retain(), 1);
    assert!(!good.expect_message(&payload).retain);
    let is_said = || tiers.workers[0].log().contains("a message is not retained").then_some(());
    until(is_said, || tiers.workers[0].log());

    // What others have retained is there, and may be replaced; what is removed makes room.
    let mut reader = at(&tiers, 0).v5();
    reader.subscribe(&format!("{root}/good"), 0);
    assert!(reader.expect_message(&payload).retain);
    assert_eq!(retain(&mut good, "good", &payload, None), 0);
    assert!(!reader.expect_message(&payload).retain);
    assert_eq!(retain(&mut good, "more", &payload, None), 0x97);
    retain(&mut greedy, "greedy/0", "", None);
    assert_eq!(retain(&mut good, "brief", &payload, Some(1)), 0x10);
    assert_eq!(retain(&mut good, "more", &payload, None), 0x97);
    // So does what has expired, though nobody reads it.
    until(|| (retain(&mut good, "more", &payload, None) != 0x97).then_some(()), || tiers.workers[0].log());
    assert_eq!(retain(&mut good, "still", &payload, None), 0x97);
}

/// Makes sessions that end, and retained messages that are cleared, as fast as it can.
fn come_and_go(at: Target<'_>, topic: &str, is_over: &AtomicBool) {
    for number in 0.. {
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        let mut client = at.open();
        let connect = Connect::v5(&unique("c")).user("alice", PASSWORD);
        client.send(&connect.with(p::four(p::SESSION_EXPIRY, SHORT_S)).bytes());
        for payload in ["x", ""] {
            client.send(&Publish::new(format!("{topic}/{number}"), payload).retain().bytes());
        }
        drop(client.poll(Duration::from_millis(50)));
    }
}
