//! What a failing, moving or forgetful Redis must not lose.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mqtt::QoS;
use state::{
    Claim, ConnectError, Enqueued, Fence, Instead, Message, Number, Origin, Publish, RedisConfig, RedisStore,
    ResumeRefusal, Secret, Store, StoreError, WhenShort,
};

use crate::harness::{Calls, START, begin, claim, message, packet_id, principal, publish_to, take, wait};
use crate::load::Load;
use crate::servers::{Cluster, Server, gate, until};
use crate::stores::{InRedis, config_for, connect_at, runtime};

/// A cluster that one test at a time may break, and mends.
pub(crate) fn fragile_cluster() -> MutexGuard<'static, Cluster> {
    static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();
    gate();
    CLUSTER.get_or_init(|| Mutex::new(Cluster::start())).lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn urls(cluster: &Cluster) -> Vec<String> {
    cluster.servers.iter().map(Server::url).collect()
}

/// The slot of a client's session.
fn slot_of(server: &Server, config: &RedisConfig, client_id: &str) -> u16 {
    server.cli(&["cluster", "keyslot", &key_of(server, config, "m", client_id)]).parse().expect("a slot")
}

/// A key of a client's session, found by looking.
pub(crate) fn key_of(server: &Server, config: &RedisConfig, kind: &str, client_id: &str) -> String {
    let pattern = format!("{}{{*}}{kind}:{client_id}", config.key_prefix);
    let output = server.cli(&["--scan", "--pattern", &pattern]);
    output.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_killed_master_loses_nothing_that_was_answered() {
    let cluster = fragile_cluster();
    // Without a replica that confirms, Redis answers for what only the master has.
    let config = RedisConfig { replicas: 1, when_short: WhenShort::Degrade, ..config_for(urls(&cluster)) };
    let redis = InRedis::open(config);
    let load = Load::new(redis.store(), 24);
    load.run(redis.store(), |more| {
        more(500);
        let victim = cluster.masters()[0].port;
        let victim = cluster.servers.iter().find(|server| server.port == victim).expect("a master");
        victim.kill();
        // Past the failover.
        more(1500);
        victim.run();
        more(100);
    });
    load.check(redis.store(), "master killed");
    assert_eq!(load.failed(), 0, "a failover fits into the retry budget");
    cluster.settle();
}

#[test]
fn a_paused_master_carries_nothing_out_twice() {
    let cluster = fragile_cluster();
    let redis = InRedis::open(config_for(urls(&cluster)));
    let load = Load::new(redis.store(), 24);
    load.run(redis.store(), |more| {
        for _ in 0..2 {
            more(300);
            let master = cluster.masters()[1].port;
            let master = cluster.servers.iter().find(|server| server.port == master).expect("a master");
            let replica = cluster.replica_of(master);
            // What is not confirmed would go with a master that is replaced.
            replica.cli(&["config", "set", "cluster-replica-no-failover", "yes"]);
            master.pause();
            // Longer than a response may take.
            std::thread::sleep(Duration::from_millis(1900));
            master.go_on();
            more(300);
            replica.cli(&["config", "set", "cluster-replica-no-failover", "no"]);
        }
    });
    load.check(redis.store(), "master paused");
    assert_eq!(load.failed(), 0);
    cluster.settle();
}

#[test]
fn a_slot_that_moves_under_load_loses_nothing() {
    let cluster = fragile_cluster();
    let redis = InRedis::open(config_for(urls(&cluster)));
    let load = Load::new(redis.store(), 12);
    load.run(redis.store(), |more| {
        for client in ["s0", "s5"] {
            more(200);
            let slot = cluster
                .servers
                .iter()
                .find(|server| !key_of(server, &redis.config, "m", client).is_empty())
                .map(|server| slot_of(server, &redis.config, client))
                .expect("a slot");
            move_slot(&cluster, slot);
            more(200);
        }
    });
    load.check(redis.store(), "slots moved");
    assert_eq!(load.failed(), 0);
    cluster.settle();
}

pub(crate) fn move_slot(cluster: &Cluster, slot: u16) {
    let from = cluster.owner(slot);
    let masters = cluster.masters();
    let to = masters.iter().find(|server| server.port != from.port).expect("another master");
    let (from_id, to_id) = (from.cli(&["cluster", "myid"]), to.cli(&["cluster", "myid"]));
    let slot = slot.to_string();
    to.cli(&["cluster", "setslot", &slot, "importing", &from_id]);
    from.cli(&["cluster", "setslot", &slot, "migrating", &to_id]);
    let port = to.port.to_string();
    let mut rounds = 0;
    loop {
        let keys = from.cli(&["cluster", "getkeysinslot", &slot, "2"]);
        let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            break;
        }
        let command = ["migrate", "127.0.0.1", &port, "", "0", "5000", "keys"];
        let answer = from.cli(&[&command[..], &keys].concat());
        assert!(answer == "OK" || answer == "NOKEY", "{answer}");
        rounds += 1;
        // Stay between the two for a while, with some keys here and some there.
        std::thread::sleep(Duration::from_millis(if rounds == 1 { 300 } else { 20 }));
    }
    for server in [to, from] {
        server.cli(&["cluster", "setslot", &slot, "node", &to_id]);
    }
    until("all know who has the slot", || {
        cluster.masters().iter().all(|server| {
            let nodes = server.cli(&["cluster", "nodes"]);
            nodes.lines().any(|line| line.starts_with(&to_id) && line.split_whitespace().skip(8).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let slot: u16 = slot.parse().expect("a slot");
                matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
            }))
        })
    });
}

#[test]
fn flushed_functions_are_loaded_again() {
    let cluster = fragile_cluster();
    let redis = InRedis::open(config_for(urls(&cluster)));
    let load = Load::new(redis.store(), 12);
    load.run(redis.store(), |more| {
        for _ in 0..3 {
            more(100);
            for master in cluster.masters() {
                assert_eq!(master.cli(&["function", "flush"]), "OK");
            }
        }
        more(100);
    });
    load.check(redis.store(), "functions flushed");
    assert_eq!(load.failed(), 0);
}

#[test]
fn a_server_that_restarts_keeps_what_was_answered() {
    gate();
    let server = Server::start(&["--appendfsync", "always"]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let load = Load::new(redis.store(), 12);
    load.run(redis.store(), |more| {
        for _ in 0..3 {
            more(300);
            server.kill();
            server.run();
        }
        more(100);
    });
    load.check(redis.store(), "server killed and restarted");
    assert_eq!(load.failed(), 0);
}

#[test]
fn a_store_that_is_away_for_good_is_said_to_be_and_comes_back() {
    gate();
    let server = Server::start(&[]);
    let config = RedisConfig { retry_budget_ms: 300, ..config_for(vec![server.url()]) };
    let redis = InRedis::open(config);
    let calls = Calls(redis.store());
    let owner = calls.own(claim("a")).fence;
    server.kill();
    let answer = calls.acknowledge(&owner, 1);
    assert!(matches!(&answer, Err(error @ StoreError::Unavailable(_)) if error.is_retryable()), "{answer:?}");
    assert!(redis.store().is_failing());
    server.run();
    until("it answers again", || calls.acknowledge(&owner, 1).is_ok());
    assert!(!redis.store().is_failing());
    assert_eq!(calls.enqueue(&owner.session, "x"), Enqueued::At(Number(1)));
}

#[test]
fn a_message_that_was_routed_in_part_is_routed_to_the_rest_once() {
    gate();
    let server = Server::start(&[]);
    let mut redis = InRedis::open(config_for(vec![server.url()]));
    let (publisher, first, second);
    {
        let calls = Calls(redis.store());
        publisher = calls.own(claim("p")).fence;
        (first, second) = (calls.own(claim("s1")).fence, calls.own(claim("s2")).fence);
        let publish = Publish {
            origin: Some(Origin { fence: publisher, packet_id: packet_id(7) }),
            ..publish_to(&[&first.session], &message("t", "2"))
        };
        assert_eq!(calls.publish(publish).targets, [Enqueued::At(Number(1))]);
        wait(|done| redis.store().close(done)).expect("closed");
    }
    // As the process would have left it, had it ended before the second queue and the note that all have it.
    let key = key_of(&server, &redis.config, "r", "p");
    let set_pending = "local v = redis.call('HGET', KEYS[1], '7') assert(v:sub(1, 1) == 'R') \
                       return redis.call('HSET', KEYS[1], '7', 'P' .. v:sub(2))";
    assert_eq!(server.cli(&["eval", set_pending, "1", &key]), "0");
    redis.reopen(START);
    let calls = Calls(redis.store());
    let again = calls.own(claim("p"));
    assert!(again.received.is_empty(), "its PUBREC was not sent");
    let publish = Publish {
        origin: Some(Origin { fence: again.fence.clone(), packet_id: packet_id(7) }),
        ..publish_to(&[&first.session, &second.session], &message("t", "2"))
    };
    let answer = calls.publish(publish.clone());
    assert!(!answer.duplicate);
    assert_eq!(answer.targets, [Enqueued::At(Number(1)), Enqueued::At(Number(1))]);
    assert!(calls.publish(publish).duplicate);
    for client in ["s1", "s2"] {
        let owned = calls.own(claim(client));
        assert_eq!(calls.queue(&owned.fence), [(1, Some("2".to_owned()))], "{client}");
    }
    assert_eq!(calls.own(claim("p")).received, [packet_id(7)]);
}

// v5 [MQTT-4.8.2-5]
#[test]
fn a_message_that_comes_again_goes_to_the_member_of_a_share_that_was_chosen_first() {
    gate();
    let server = Server::start(&[]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let calls = Calls(redis.store());
    let publisher = calls.own(claim("p")).fence;
    let (first, second) = (calls.own(claim("s1")).fence, calls.own(claim("s2")).fence);
    let publish = |chosen: &Fence| {
        let mut publish = publish_to(&[&chosen.session], &message("t", "2"));
        publish.origin = Some(Origin { fence: publisher.clone(), packet_id: packet_id(7) });
        publish.targets[0].share = Some(Arc::from("$share/g/t"));
        publish
    };
    assert_eq!(calls.publish(publish(&first)).targets, [Enqueued::At(Number(1))]);
    // As a worker leaves it that dies before it has noted that all queues have it.
    let key = key_of(&server, &redis.config, "r", "p");
    let set_pending = "local v = redis.call('HGET', KEYS[1], '7') \
                       return redis.call('HSET', KEYS[1], '7', 'P' .. v:sub(2))";
    assert_eq!(server.cli(&["eval", set_pending, "1", &key]), "0");
    let again = calls.publish(publish(&second));
    assert_eq!(again.targets, [Enqueued::At(Number(1))]);
    assert_eq!(again.instead, [Instead { target: 0, chosen: Arc::clone(&first.session) }]);
    assert_eq!(calls.queue(&first).len(), 1);
    assert!(calls.queue(&second).is_empty(), "the other member gets none");
}

#[test]
fn copies_of_a_qos_2_message_for_one_session_are_no_repeats() {
    gate();
    let server = Server::start(&[]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let calls = Calls(redis.store());
    let (publisher, owner) = (calls.own(claim("p")).fence, calls.own(claim("s")).fence);
    let mut publish = Publish {
        origin: Some(Origin { fence: publisher, packet_id: packet_id(1) }),
        ..publish_to(&[&owner.session, &owner.session], &message("t", "1"))
    };
    // The third is in another operation, since its message is another one.
    publish.targets.extend(publish_to(&[&owner.session], &message("t", "2")).targets);
    assert_eq!(calls.publish(publish).targets, [1, 2, 3].map(|n| Enqueued::At(Number(n))));
    assert_eq!(calls.queue(&owner).len(), 3);
}

// A Will that is handed out again, to whichever worker.
#[test]
fn a_message_that_comes_again_under_its_identity_is_there_already() {
    gate();
    let server = Server::start(&[]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let calls = Calls(redis.store());
    let (first, second) = (calls.own(claim("s1")).fence, calls.own(claim("s2")).fence);
    let publish = |sessions: &[&Fence], identity: u8| {
        let sessions: Vec<_> = sessions.iter().map(|owner| &owner.session).collect();
        let publish = publish_to(&sessions, &message("t", "gone"));
        calls.publish(Publish { identity: Some([identity; 16]), ..publish }).targets
    };
    let at = |number| Enqueued::At(Number(number));
    assert_eq!(publish(&[&first], 1), [at(1)]);
    assert_eq!(publish(&[&first, &second], 1), [at(1), at(1)], "one has it, the other gets it");
    assert_eq!(publish(&[&second], 2), [at(2)], "another one");
    calls.acknowledge(&first, 1).expect("acknowledged");
    assert_eq!(publish(&[&first], 1), [at(1)], "known though it was delivered");
    assert!(calls.queue(&first).is_empty());
    assert_eq!(calls.queue(&second).len(), 2);
}

// What a worker that stood still had under way comes after as much as the others did meanwhile.
#[test]
fn an_identity_is_known_for_a_minute_however_many_come_after_it() {
    gate();
    let server = Server::start(&[]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let calls = Calls(redis.store());
    let owner = calls.own(claim("s")).fence;
    let mut next = 0;
    let mut publish = |identity: u128| {
        let publish = publish_to(&[&owner.session], &message("t", "x"));
        let identity = Some(identity.to_le_bytes());
        let targets = calls.publish(Publish { identity, ..publish }).targets;
        let [Enqueued::At(number)] = targets[..] else { panic!("{targets:?}") };
        let is_new = number.0 > next;
        if is_new {
            next = number.0;
            calls.acknowledge(&owner, next).expect("acknowledged");
        }
        is_new
    };
    for identity in 0..6000 {
        assert!(publish(identity), "{identity}");
    }
    assert!(!publish(0), "it is known");
    let keys = identity_keys(&server, &redis.config);
    let age = "for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZINCRBY', KEYS[1], -61000, name) end";
    server.cli(&["eval", age, "1", &keys[1]]);
    for identity in 10_000..10_200 {
        assert!(publish(identity), "{identity}");
    }
    assert_eq!(server.cli(&["zcard", &keys[1]]), "4096", "the oldest go");
    assert_eq!(server.cli(&["hlen", &keys[0]]), "4096");
}

/// The keys of a bucket's identities, found by looking.
fn identity_keys(server: &Server, config: &RedisConfig) -> Vec<String> {
    let keys = ["s", "e"].map(|kind| {
        server
            .cli(&["--scan", "--pattern", &format!("{}{{*}}{kind}", config.key_prefix)])
            .lines()
            .next()
            .map(str::to_owned)
    });
    keys.into_iter().flatten().collect()
}

#[test]
fn identities_have_an_end_where_no_more_come() {
    gate();
    let server = Server::start(&[]);
    let mut redis = InRedis::open(config_for(vec![server.url()]));
    let calls = Calls(redis.store());
    let (publisher, owner) = (calls.own(claim("p")).fence, calls.own(claim("s")).fence);
    let publish = Publish {
        origin: Some(Origin { fence: publisher, packet_id: packet_id(1) }),
        ..publish_to(&[&owner.session], &message("t", "1"))
    };
    assert_eq!(calls.publish(publish).targets, [Enqueued::At(Number(1))]);
    let keys = identity_keys(&server, &redis.config);
    assert_eq!(keys.len(), 2);
    let remaining_ms = |key: &String| server.cli(&["pttl", key]).parse::<i64>().expect("a time");
    for key in &keys {
        assert!((1..=300_000).contains(&remaining_ms(key)), "{key}: {}", remaining_ms(key));
        // As an earlier version left it.
        assert_eq!(server.cli(&["persist", key]), "1");
    }
    redis.reopen(START);
    for key in &keys {
        assert!((1..=300_000).contains(&remaining_ms(key)), "{key}: {}", remaining_ms(key));
    }
}

#[test]
fn retained_messages_that_expired_go_though_nobody_reads_them() {
    gate();
    let server = Server::start(&[]);
    let config = RedisConfig { timer_sweep_ms: 100, ..config_for(vec![server.url()]) };
    let redis = InRedis::open(config);
    let calls = Calls(redis.store());
    for n in 0..500 {
        let short = Message::new(&format!("short/{n}"), &[], b"x", QoS::AtLeastOnce, true, START);
        let short = Arc::new(short.with_expiry(Some(10)));
        wait(|done| redis.store().retain(short, done)).expect("retained");
        let long = Message::new(&format!("short/a/{n}"), &[], b"x", QoS::AtLeastOnce, true, START);
        let long = if n % 2 == 0 { long } else { long.with_expiry(Some(3600)) };
        wait(|done| redis.store().retain(Arc::new(long), done)).expect("retained");
    }
    assert_eq!(redis.store().stats().retained_messages, 1000);
    until("those that expired are gone", || {
        assert!(calls.due(START + 10_000).is_empty());
        redis.store().stats().retained_messages == 500
    });
    let values = || {
        let keys = server.cli(&["--scan", "--pattern", &format!("{}{{r*}}v", redis.config.key_prefix)]);
        let counts =
            keys.lines().map(|key| server.cli(&["hlen", key]).parse::<usize>().expect("a count") - 1);
        counts.sum::<usize>()
    };
    assert_eq!(values(), 500);
    assert_eq!(calls.retained("short/#", 100, START).len(), 500);
    let fresh = connect_at(RedisConfig { worker: "another".to_owned(), ..redis.config.clone() }, START);
    assert_eq!(fresh.stats(), redis.store().stats());
}

// ARCHITECTURE, rule 34: what was done in part is not done again.
#[test]
fn a_full_master_holds_up_its_own_sessions_and_repeats_nothing() {
    let cluster = fragile_cluster();
    for retry_budget_ms in [0, 300] {
        let redis = InRedis::open(RedisConfig { retry_budget_ms, ..config_for(urls(&cluster)) });
        let calls = Calls(redis.store());
        let owners: Vec<Fence> = (0..24).map(|n| calls.own(claim(&format!("s{n}"))).fence).collect();
        let slots = |server: &Server| {
            !server.cli(&["--scan", "--pattern", &format!("{}*m:*", redis.config.key_prefix)]).is_empty()
        };
        let full =
            cluster.masters().into_iter().find(|server| slots(server)).expect("a master with sessions");
        let is_there = |owner: &Fence| !key_of(full, &redis.config, "m", &owner.session.client_id).is_empty();
        let (there, elsewhere): (Vec<&Fence>, Vec<&Fence>) = owners.iter().partition(|owner| is_there(owner));
        assert!(!there.is_empty() && !elsewhere.is_empty());
        full.cli(&["config", "set", "maxmemory", "1"]);
        // As a worker sends it: a publish for each part, again when it is refused.
        let send = |owner: &Fence| {
            begin(|done| redis.store().publish(publish_to(&[&owner.session], &message("t", "1")), done))
        };
        let mut waiting: Vec<_> = there.iter().map(|owner| (*owner, send(owner))).collect();
        for owner in &elsewhere {
            assert_eq!(calls.enqueue(&owner.session, "1"), Enqueued::At(Number(1)), "it waits for nobody");
        }
        let since = Instant::now();
        until("it is said", || {
            for (owner, waits) in &mut waiting {
                match waits.try_recv() {
                    Ok(Err(error)) => {
                        assert!(error.is_retryable() && retry_budget_ms > 0, "{error}");
                        *waits = send(owner);
                    }
                    Ok(Ok(answer)) => panic!("a full server took {answer:?}"),
                    Err(_) => {}
                }
            }
            redis.store().is_failing() && since.elapsed() > Duration::from_secs(3)
        });
        full.cli(&["config", "set", "maxmemory", "0"]);
        for (owner, mut waits) in waiting {
            let answer = loop {
                match take(&waits) {
                    Err(error) if error.is_retryable() => waits = send(owner),
                    answer => break answer.expect("enqueued"),
                }
            };
            assert_eq!(answer.targets, [Enqueued::At(Number(1))]);
        }
        for owner in &owners {
            assert_eq!(calls.queue(owner).len(), 1, "{}: once", owner.session.client_id);
        }
    }
}

#[test]
fn two_workers_fence_each_other() {
    let cluster = fragile_cluster();
    let one = InRedis::open(config_for(urls(&cluster)));
    let other = RedisConfig { worker: "other".to_owned(), ..one.config.clone() };
    let other = connect_at(other, START);
    let old = Calls(one.store()).own(claim("a")).fence;
    Calls(one.store()).enqueue(&old.session, "1");
    let new = Calls(&other).own(claim("a"));
    assert!(new.present);
    assert!(matches!(Calls(one.store()).acknowledge(&old, 1), Err(StoreError::Fenced)));
    assert!(matches!(Calls(one.store()).receive(&old, 1), Err(StoreError::Fenced)));
    let at_other = Calls(one.store()).enqueue(&old.session, "2");
    assert!(matches!(at_other, Enqueued::Elsewhere(Number(2), _)), "anyone may enqueue: {at_other:?}");
    Calls(&other).acknowledge(&new.fence, 1).expect("acknowledged");
    Calls(&other).release(&new.fence, 5, false, START).expect("released");
    // The worker that did not set the timer finds it too, and one of them takes it.
    let (a, b) = (Calls(one.store()).due(START + 5000), Calls(&other).due(START + 5000));
    assert_eq!([a, b].concat(), ["expired a"]);
}

// ARCHITECTURE, rule 35: what is due is decided by Redis's clock, whatever those of workers show.
#[test]
fn workers_with_wrong_clocks_make_nothing_due_and_find_nothing_due() {
    const TEN_MINUTES: u64 = 600_000;
    let cluster = fragile_cluster();
    const SWEEP_MS: u64 = 100;
    let right = RedisConfig { timer_sweep_ms: SWEEP_MS, ..config_for(urls(&cluster)) };
    let wrong = RedisConfig { worker: "wrong".to_owned(), ..right.clone() };
    let [right, wrong] =
        [right, wrong].map(|config| runtime().block_on(RedisStore::connect(config)).expect("a store"));
    let now = state::clock::wall();
    for off in [now + TEN_MINUTES, now - TEN_MINUTES] {
        // Made due by the wrong clock, and by the right one.
        for (client, owner, at) in [("a", &wrong, off), ("b", &right, now)] {
            let fence = Calls(owner).own(claim(client)).fence;
            Calls(owner).release(&fence, 300, false, at).expect("released");
        }
        // The next look goes over all timers.
        std::thread::sleep(Duration::from_millis(2 * SWEEP_MS));
        assert_eq!([Calls(&wrong).due(off), Calls(&right).due(now)].concat(), [""; 0]);
        for client in ["a", "b"] {
            assert!(Calls(&wrong).own(Claim { now: off, ..claim(client) }).present, "{client}");
            let fence = Calls(&wrong).own(claim(client)).fence;
            Calls(&wrong).release(&fence, 0, false, off).expect("released");
        }
    }
    // What is due is found by everybody.
    let fence = Calls(&right).own(claim("c")).fence;
    Calls(&right).release(&fence, 1, false, now).expect("released");
    until("it is found", || Calls(&wrong).due(now - TEN_MINUTES) == ["expired c"]);
}

// ARCHITECTURE, rule 2: a failover that loses the last claim gives its epoch out again.
#[test]
fn an_epoch_that_is_given_to_another_fences_the_one_that_had_it() {
    gate();
    let server = Server::start(&[]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let calls = Calls(redis.store());
    let old = calls.own(claim("a")).fence;
    let key = key_of(&server, &redis.config, "m", "a");
    server.cli(&["hincrby", &key, "e", "-1"]);
    let new = calls.own(claim("a")).fence;
    assert_eq!((&new.session, new.epoch), (&old.session, old.epoch));
    assert!(matches!(calls.acknowledge(&old, 1), Err(StoreError::Fenced)));
    calls.acknowledge(&new, 1).expect("acknowledged");
}

#[test]
fn a_wrong_password_is_named_and_not_shown() {
    gate();
    let server = Server::start(&["--requirepass", "right-one"]);
    let url = format!("redis://:wrong-one@127.0.0.1:{}", server.port);
    let config = config_for(vec![url]);
    assert!(!format!("{config:?}").contains("wrong-one"));
    let Err(error) = runtime().block_on(RedisStore::connect(config.clone())) else { panic!("connected") };
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong-one"));
    let without = config_for(vec![server.url()]);
    let Err(error) = runtime().block_on(RedisStore::connect(without)) else { panic!("connected") };
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    let right = RedisConfig { password: Some(Secret::new("right-one")), ..config };
    runtime().block_on(RedisStore::connect(right)).expect("connected");
}

#[test]
fn settings_that_lose_what_is_stored_are_refused_by_name() {
    gate();
    let evicting = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let Err(error) = runtime().block_on(RedisStore::connect(config_for(vec![evicting.url()]))) else {
        panic!("connected")
    };
    assert!(matches!(error, ConnectError::Setting { setting: "maxmemory-policy", .. }), "{error}");
    let forgetful = Server::start(&["--appendonly", "no"]);
    let config = config_for(vec![forgetful.url()]);
    runtime().block_on(RedisStore::connect(config.clone())).expect("a warning is enough");
    let strict = RedisConfig { strict_settings: true, ..config };
    let Err(error) = runtime().block_on(RedisStore::connect(strict)) else { panic!("connected") };
    assert!(error.to_string().contains("appendonly"), "{error}");
}

#[test]
fn another_format_is_refused() {
    gate();
    let server = Server::start(&[]);
    let config = config_for(vec![server.url()]);
    server.cli(&["set", &format!("{}{{meta}}format", config.key_prefix), "99"]);
    let Err(error) = runtime().block_on(RedisStore::connect(config)) else { panic!("connected") };
    assert!(matches!(&error, ConnectError::UnknownFormat { found } if found == "99"), "{error}");
}

#[test]
fn nobody_at_home_is_said_in_one_line() {
    gate();
    let config = config_for(vec![format!("redis://127.0.0.1:{}", crate::servers::free_port())]);
    let Err(error) = runtime().block_on(RedisStore::connect(config)) else { panic!("connected") };
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn a_session_that_an_earlier_version_stored_is_the_first_ones_who_comes() {
    gate();
    let server = Server::start(&[]);
    let config = config_for(vec![server.url()]);
    let redis = InRedis::open(config.clone());
    let calls = Calls(redis.store());
    let of = |name| Claim { principal: principal(name), ..claim("dev") };
    calls.release(&calls.own(of("alice")).fence, 60, false, START).expect("released");
    let key = key_of(&server, &config, "m", "dev");
    assert_eq!(server.cli(&["hdel", &key, "u"]), "1", "as it was stored then");
    assert!(calls.own(of("bob")).present);
    assert_eq!(calls.claim(of("alice")).expect("an answer").refusal, Some(ResumeRefusal::Foreign));
}

// ARCHITECTURE, rule 33: what was sent before the device was refused is carried out when the server goes on.
#[test]
fn a_claim_that_a_server_carries_out_late_has_no_effect() {
    gate();
    let server = Server::start(&[]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let other = InRedis::open(RedisConfig { worker: "other".to_owned(), ..redis.config.clone() });
    let claim = |client_id| Claim { valid_ms: Some(1000), ..claim(client_id) };
    for client_id in ["a", "b", "c"] {
        let claimed = wait(|done| redis.store().claim(claim(client_id), done)).expect("a claim in time");
        assert!(claimed.session.is_some(), "{client_id}");
    }
    server.pause();
    let late = begin(|done| redis.store().claim(claim("late"), done));
    let taken = begin(|done| redis.store().claim(claim("a"), done));
    std::thread::sleep(Duration::from_millis(2500));
    server.go_on();
    assert!(matches!(take(&late), Err(StoreError::TooLate)));
    assert!(matches!(take(&taken), Err(StoreError::TooLate)));
    let claimed = wait(|done| other.store().claim(claim("late"), done)).expect("a claim in time");
    assert!(claimed.previous.is_none() && !claimed.session.expect("a session").present);
}

// The clock of a server may be another than the one that it had, or than that of the server before it.
#[test]
fn a_claim_finds_out_what_the_clock_of_its_server_shows() {
    gate();
    let server = Server::start(&[]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let calls = Calls(redis.store());
    let owner = calls.own(Claim { valid_ms: Some(60_000), ..claim("a") });
    redis.store().mistake_clocks(-3_600_000);
    let next = calls.own(Claim { valid_ms: Some(1000), ..claim("a") });
    assert!(next.fence.epoch > owner.fence.epoch);
    redis.store().mistake_clocks(3_600_000);
    let next = calls.own(Claim { valid_ms: Some(1000), ..claim("a") });
    // And with the right time none is refused as older than the one before it.
    let answer = calls.claim(Claim { age_ms: 500, valid_ms: Some(1000), ..claim("a") }).expect("an answer");
    assert!(answer.session.is_some_and(|owned| owned.fence.epoch > next.fence.epoch));
}
