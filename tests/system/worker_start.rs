//! A worker that starts while Redis stands still, is dead or is full waits for it; one that Redis refuses ends at once.

use std::time::Duration;

use crate::harness::let_pass;
use crate::servers::Server as RedisServer;
use crate::tiers::{Shape, Tiers, wait_until_ready};

/// Longer than a worker that cannot go on takes to end.
const A_WHILE: Duration = Duration::from_secs(4);
const AT_ONCE: Duration = Duration::from_secs(15);

/// Starts the worker again while Redis is away.
fn start_beside(tiers: &mut Tiers, what: &str, away: fn(&RedisServer), back: fn(&RedisServer)) {
    tiers.kill_worker(0);
    away(&tiers.redis.servers()[0]);
    tiers.workers[0].run();
    let_pass(A_WHILE);
    assert!(tiers.workers[0].is_alive(), "{what}: {}", tiers.workers[0].log());
    back(&tiers.redis.servers()[0]);
    tiers.workers[0].wait_until_up();
    wait_until_ready(&tiers.workers[0]);
    wait_until_ready(&tiers.edges[0]);
}

#[test]
fn a_worker_waits_for_redis_and_not_for_whoever_is_to_set_it_right() {
    let mut tiers = Tiers::start_single(&Shape::new(1, 1));
    start_beside(&mut tiers, "stopped", RedisServer::pause, RedisServer::go_on);
    start_beside(&mut tiers, "dead", RedisServer::kill, RedisServer::run);
    let set = |redis: &RedisServer, setting: &str, value: &str| {
        assert_eq!(redis.cli(&["config", "set", setting, value]), "OK");
    };
    start_beside(
        &mut tiers,
        "full",
        |redis| assert_eq!(redis.cli(&["config", "set", "maxmemory", "1"]), "OK"),
        |redis| assert_eq!(redis.cli(&["config", "set", "maxmemory", "0"]), "OK"),
    );
    assert!(tiers.workers[0].log().contains("waiting for redis"), "{}", tiers.workers[0].log());
    tiers.kill_worker(0);
    set(&tiers.redis.servers()[0], "requirepass", "secret");
    tiers.workers[0].run();
    assert_eq!(tiers.workers[0].wait_for_end(AT_ONCE), 69);
    let log = tiers.workers[0].log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("tidegate: redis: Redis refuses: ") && last.contains("NOAUTH"), "{last}");
}
