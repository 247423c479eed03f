//! Workers die, hang and leave in turn, a Redis master dies, the whole worker tier is restarted, under 200 devices that publish
//! and subscribe at QoS 0, 1 and 2. Their edges live, so no device may notice more than a pause.
//! `TIDEGATE_ROUNDS=n` repeats the whole n times, `TIDEGATE_DEVICES=n` has so many devices, `TIDEGATE_FAULTS` names those of workers that are wanted (`killed,stopped,drained,restart`).

use std::time::Duration;

use crate::fleet::{mixed, watcher};
use crate::harness::fleet::{Fleet, Phase, Totals};
use crate::harness::let_pass;
use crate::servers::{Cluster, Server as RedisServer};
use crate::tiers::{Redis, Shape, Tiers};

const DEVICES: u32 = 200;
/// Longer than a route lease and than a link is given until it is dead.
const PAST_THE_LEASE: Duration = Duration::from_secs(4);
/// How long a master is full.
const FULL: Duration = Duration::from_secs(6);
/// Between two faults.
const CALM: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(90);

/// What happens to a worker.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Stopped,
    Drained,
}

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Whether a kind of fault is wanted.
fn wants(name: &str) -> bool {
    std::env::var("TIDEGATE_FAULTS").map_or(true, |faults| faults.split(',').any(|fault| fault == name))
}

fn befall(tiers: &mut Tiers, worker: usize, fault: Fault) {
    println!("worker {worker}: {fault:?}");
    match fault {
        Fault::Killed => {
            tiers.kill_worker(worker);
            let_pass(CALM);
            tiers.run_worker(worker);
        }
        Fault::Stopped => {
            tiers.workers[worker].signal("STOP");
            let_pass(PAST_THE_LEASE);
            tiers.workers[worker].signal("CONT");
        }
        Fault::Drained => {
            tiers.drain_worker(worker);
            let_pass(CALM);
            tiers.run_worker(worker);
        }
    }
    let_pass(CALM);
}

/// `kill -9` of a master; it comes back as a replica.
fn kill_a_master(cluster: &Cluster, number: usize) {
    let port = cluster.masters()[number % 3].port;
    let master = cluster.servers.iter().find(|server| server.port == port).expect("a master");
    println!("Redis master on port {port}: killed");
    RedisServer::kill(master);
    let_pass(Duration::from_secs(6));
    master.run();
    cluster.settle();
    let_pass(CALM);
}

/// `kill -9` of a master, and while its replica takes over, of a worker.
fn kill_a_master_and_a_worker(tiers: &mut Tiers, round: usize) {
    let Redis::Cluster(cluster) = &tiers.redis else { return };
    let port = cluster.masters()[(round + 1) % 3].port;
    let master = cluster.servers.iter().position(|server| server.port == port).expect("a master");
    println!("Redis master on port {port} and worker 0: killed");
    RedisServer::kill(&cluster.servers[master]);
    tiers.kill_worker(0);
    let_pass(Duration::from_secs(6));
    if let Redis::Cluster(cluster) = &tiers.redis {
        cluster.servers[master].run();
        cluster.settle();
    }
    tiers.run_worker(0);
    let_pass(CALM);
}

/// Each master in turn has no memory left for a while, and takes nothing that others take.
fn fill_each_master(cluster: &Cluster) {
    for master in cluster.masters() {
        println!("Redis master on port {}: full", master.port);
        assert_eq!(master.cli(&["config", "set", "maxmemory", "1"]), "OK");
        let_pass(FULL);
        assert_eq!(master.cli(&["config", "set", "maxmemory", "0"]), "OK");
        let_pass(CALM);
    }
}

/// `kill -9` of a master and of a worker, which is started again at once: it waits for whoever takes over from the master.
fn start_a_worker_beside_a_dead_master(tiers: &mut Tiers, number: usize) {
    let Redis::Cluster(cluster) = &tiers.redis else { return };
    let port = cluster.masters()[number % 3].port;
    let master = cluster.servers.iter().position(|server| server.port == port).expect("a master");
    println!("Redis master on port {port}: killed, and worker 1 started beside it");
    tiers.kill_worker(1);
    if let Redis::Cluster(cluster) = &tiers.redis {
        RedisServer::kill(&cluster.servers[master]);
    }
    tiers.run_worker(1);
    if let Redis::Cluster(cluster) = &tiers.redis {
        cluster.servers[master].run();
        cluster.settle();
    }
    let_pass(CALM);
}

fn restart_all_workers(tiers: &mut Tiers) {
    println!("all workers: killed and started again");
    for number in 0..tiers.workers.len() {
        tiers.kill_worker(number);
    }
    for number in 0..tiers.workers.len() {
        tiers.run_worker(number);
    }
    let_pass(CALM);
}

/// 200 devices, and somebody who watches for their Wills, under load from here on.
fn begin() -> (Tiers, Fleet) {
    let mut shape = Shape::new(3, 2);
    shape.worker_extra = "durability.clean_sessions = \"store\"\ndurability.replicas = 1\n".to_owned();
    let tiers = Tiers::start(&shape);
    let mut fleet = Fleet::new(&tiers.edges());
    for plan in mixed(setting("TIDEGATE_DEVICES", DEVICES) as usize, 2, Duration::from_millis(500)) {
        fleet.add(plan);
    }
    fleet.add(watcher(0));
    fleet.wait_until_ready(Duration::from_secs(60));
    fleet.enter(Phase::Load);
    let_pass(CALM);
    (tiers, fleet)
}

/// Lets everything arrive, and counts.
fn count(fleet: &mut Fleet, title: &str) -> Totals {
    let totals = fleet.settle(SETTLE);
    println!("{}", totals.table(&format!("{title}, {:.0?}", fleet.elapsed())));
    totals
}

fn expect_nothing_lost(totals: &Totals) {
    assert_eq!(totals.lost_clean[1..], [0, 0], "acknowledged messages for clean sessions lost");
    assert!(totals.acknowledged[1] > 500, "there was load");
}

#[test]
fn devices_outlive_their_workers() {
    let (mut tiers, mut fleet) = begin();
    let rounds = setting("TIDEGATE_ROUNDS", 1);
    for round in 0..rounds {
        println!("round {}", round + 1);
        let faults = [("killed", Fault::Killed), ("stopped", Fault::Stopped), ("drained", Fault::Drained)];
        for (_, fault) in faults.into_iter().filter(|(name, _)| wants(name)) {
            for worker in 0..tiers.workers.len() {
                befall(&mut tiers, worker, fault);
            }
        }
        if wants("restart") {
            restart_all_workers(&mut tiers);
        }
    }
    let totals = count(&mut fleet, &format!("workers, {rounds} rounds"));
    tiers.checked(|_| {
        totals.expect_clean();
        expect_nothing_lost(&totals);
    });
}

#[test]
fn devices_outlive_a_master_of_redis() {
    let (mut tiers, mut fleet) = begin();
    let rounds = setting("TIDEGATE_ROUNDS", 1);
    for round in 0..rounds as usize {
        println!("round {}", round + 1);
        if let Redis::Cluster(cluster) = &tiers.redis {
            kill_a_master(cluster, round);
        }
        kill_a_master_and_a_worker(&mut tiers, round);
        start_a_worker_beside_a_dead_master(&mut tiers, round + 2);
        restart_all_workers(&mut tiers);
    }
    let totals = count(&mut fleet, &format!("masters of Redis, {rounds} rounds"));
    tiers.checked(|_| {
        totals.expect_clean();
        expect_nothing_lost(&totals);
    });
}

// ARCHITECTURE, rule 34: nobody's worker had a fault, so nothing comes twice.
#[test]
fn devices_outlive_a_full_master_and_get_nothing_twice() {
    let (tiers, mut fleet) = begin();
    for _ in 0..setting("TIDEGATE_ROUNDS", 1) {
        if let Redis::Cluster(cluster) = &tiers.redis {
            fill_each_master(cluster);
        }
    }
    let totals = count(&mut fleet, "full masters of Redis");
    tiers.checked(|_| {
        totals.expect_clean();
        expect_nothing_lost(&totals);
        assert_eq!(totals.repeated[1], 0, "QoS 1 copies on connections that did not break");
    });
}
