//! What replicas have, and what an outage without an end leaves of the order of writes.

use std::time::{Duration, Instant};

use state::{RedisConfig, Store, WhenShort};

use crate::faults::{fragile_cluster, urls};
use crate::harness::{Calls, START, begin, claim, take, wait};
use crate::load::Load;
use crate::servers::{Server, gate, until};
use crate::stores::{InRedis, config_for};

const KILLS: usize = 3;

fn with_replicas(urls: Vec<String>, when_short: WhenShort) -> RedisConfig {
    RedisConfig { replicas: 1, when_short, ..config_for(urls) }
}

/// Masters die while they write as fast as they can, and their replicas do not have the last of it. Without confirmation this fails.
#[test]
fn what_a_replica_confirmed_survives_its_master() {
    let cluster = fragile_cluster();
    for kill in 0..KILLS {
        let redis = InRedis::open(with_replicas(urls(&cluster), WhenShort::Hold));
        let load = Load::new(redis.store(), 24);
        load.run(redis.store(), |more| {
            more(200);
            let victim = cluster.masters()[kill % 3].port;
            let victim = cluster.servers.iter().find(|server| server.port == victim).expect("a master");
            // What the master takes from here on does not reach its replica before it dies.
            let replica = cluster.replica_of(victim);
            replica.kill();
            std::thread::sleep(Duration::from_millis(400));
            victim.kill();
            replica.run();
            // It may take the place although its data is as old as can be.
            replica.cli(&["config", "set", "cluster-replica-validity-factor", "0"]);
            // Past the failover, or it would come back as what it was.
            until("another has its place", || cluster.masters().len() == 3);
            victim.run();
            more(300);
        });
        load.check(redis.store(), "master killed, replicas confirm");
        assert_eq!((load.failed(), load.lost()), (0, 0));
        cluster.settle();
    }
}

#[test]
fn writes_wait_for_a_replica_or_go_on_without_as_configured() {
    let cluster = fragile_cluster();
    let hold = InRedis::open(with_replicas(urls(&cluster), WhenShort::Hold));
    let degrade = InRedis::open(with_replicas(urls(&cluster), WhenShort::Degrade));
    let owners = [&hold, &degrade].map(|redis| Calls(redis.store()).own(claim("a")).fence);
    assert_eq!(degrade.store().degraded_batches(), 0);
    let masters = cluster.masters();
    let replicas: Vec<&Server> = masters.iter().map(|master| cluster.replica_of(master)).collect();
    replicas.iter().for_each(|replica| replica.pause());
    let held = begin(|done| hold.store().acknowledge(&owners[0], state::Number(1), done));
    for n in 0..50 {
        Calls(degrade.store()).acknowledge(&owners[1], n).expect("it goes on");
    }
    assert!(degrade.store().degraded_batches() > 0);
    assert!(!degrade.store().is_failing());
    until("it is said that writes are held", || hold.store().is_failing());
    assert!(held.try_recv().is_err(), "it waits for a replica");
    // ARCHITECTURE, rule 23: on another connection the repeat finds it done, and proves as much.
    for master in &masters {
        master.cli(&["client", "kill", "type", "normal"]);
    }
    assert!(held.recv_timeout(Duration::from_secs(2)).is_err(), "it still waits");
    // What is only read goes on.
    assert!(Calls(hold.store()).retained("a/b/c", 10, START).is_empty());
    replicas.iter().for_each(|replica| replica.go_on());
    take(&held).expect("acknowledged");
    until("it is well", || !hold.store().is_failing());
    until("copies are counted again", || {
        let before = degrade.store().degraded_batches();
        Calls(degrade.store()).acknowledge(&owners[1], 1).expect("acknowledged");
        degrade.store().degraded_batches() == before
    });
    cluster.settle();
}

#[test]
fn the_order_of_writes_survives_an_outage_without_end() {
    gate();
    let server = Server::start(&["--appendfsync", "always"]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    assert_eq!(redis.config.retry_budget_ms, 0);
    let load = Load::new(redis.store(), 8);
    load.run(redis.store(), |more| {
        more(200);
        server.kill();
        let since = Instant::now();
        until("it is said", || redis.store().is_failing());
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        std::thread::sleep(Duration::from_secs(3));
        assert!(redis.store().is_failing());
        server.run();
        more(200);
        until("it is well", || !redis.store().is_failing());
    });
    load.check(redis.store(), "server away");
    assert_eq!(load.failed(), 0);
}

#[test]
fn a_silent_server_is_noticed_without_calls_and_does_not_hold_up_the_close() {
    gate();
    let server = Server::start(&[]);
    let redis = InRedis::open(config_for(vec![server.url()]));
    let owner = Calls(redis.store()).own(claim("a")).fence;
    server.pause();
    until("it is said", || redis.store().is_failing());
    let waiting = begin(|done| redis.store().acknowledge(&owner, state::Number(1), done));
    let since = Instant::now();
    wait(|done| redis.store().close(done)).expect("closed");
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    assert!(take(&waiting).is_err());
    server.go_on();
}
