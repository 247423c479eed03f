//! Seats that a worker left behind which died between two steps: they are found, and nobody is refused for them for long.

use std::time::Duration;

use state::{Claim, RedisConfig, Store, StoreError};

use crate::harness::{Calls, START, begin, claim, owned, principal, take, wait};
use crate::servers::{Server, gate, until};
use crate::stores::{config_for, connect_at};

fn of_two(client_id: &str) -> Claim {
    Claim { principal: principal("alice"), principal_sessions_max: Some(2), ..claim(client_id) }
}

fn start() -> (Server, RedisConfig) {
    gate();
    let server = Server::start(&[]);
    let config = RedisConfig { timer_sweep_ms: 100, ..config_for(vec![server.url()]) };
    (server, config)
}

/// The keys that end like this.
fn keys(server: &Server, end: &str) -> Vec<String> {
    server.cli(&["KEYS", &format!("*{end}")]).lines().map(str::to_owned).collect()
}

/// A session has gone, and whoever was to say so has died.
fn lose_session(server: &Server, client_id: &str) {
    let keys = keys(server, &format!("m:{client_id}"));
    assert_eq!(keys.len(), 1);
    server.cli(&["DEL", &keys[0]]);
}

/// All seats that are taken.
fn seats(server: &Server) -> u64 {
    let count = |key: &String| server.cli(&["ZCARD", key]).trim().parse::<u64>().expect("a number");
    // One entry of each bucket is no seat.
    keys(server, "}z").iter().map(|key| count(key) - 1).sum()
}

#[test]
fn who_would_be_refused_for_what_has_gone_is_let_in() {
    let (server, config) = start();
    let store = connect_at(config, START);
    let calls = Calls(&store);
    for client_id in ["a", "b"] {
        calls.own(of_two(client_id));
        calls.retain_as("alice", 2, client_id, "x").expect("retained");
    }
    lose_session(&server, "a");
    let topics = keys(&server, "}v").into_iter().chain(keys(&server, "}u"));
    topics.for_each(|key| drop(server.cli(&["HDEL", &key, "a"])));
    // What is still to be stored must not lose its seat: the youngest are not looked for.
    assert!(matches!(calls.claim(of_two("c")), Err(StoreError::PrincipalQuota)));
    assert!(matches!(calls.retain_as("alice", 2, "c", "x"), Err(StoreError::RetainedQuota)));
    until("a session is let in", || calls.claim(of_two("c")).is_ok());
    until("a message is retained", || calls.retain_as("alice", 2, "c", "x").is_ok());
    for _ in 0..3 {
        assert!(matches!(calls.claim(of_two("d")), Err(StoreError::PrincipalQuota)));
        assert!(matches!(calls.retain_as("alice", 2, "d", "x"), Err(StoreError::RetainedQuota)));
        std::thread::sleep(Duration::from_millis(600));
    }
    assert!(calls.own(of_two("b")).present && calls.own(of_two("c")).present);
    assert_eq!(seats(&server), 4);
}

#[test]
fn seats_of_what_has_gone_are_swept_though_nobody_asks() {
    let (server, config) = start();
    let store = connect_at(config, START);
    let calls = Calls(&store);
    for client_id in ["a", "b"] {
        calls.own(of_two(client_id));
    }
    assert_eq!(seats(&server), 2);
    lose_session(&server, "a");
    until("the seat is left", || {
        assert!(calls.due(START).is_empty());
        seats(&server) == 1
    });
    lose_session(&server, "b");
    until("the other too", || {
        assert!(calls.due(START).is_empty());
        seats(&server) == 0
    });
}

/// Calls of functions that the server has carried out since `CONFIG RESETSTAT`.
fn function_calls(server: &Server) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_fcall:calls="));
    calls.filter_map(|rest| rest.split(',').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn who_retains_faster_than_redis_answers_has_a_few_calls_for_all_of_it() {
    const MESSAGES: usize = 5_000;
    let (server, config) = start();
    let store = connect_at(config, START);
    server.cli(&["CONFIG", "RESETSTAT"]);
    let began: Vec<_> = (0..MESSAGES)
        .map(|n| begin(|done| store.retain(owned("alice", 1, "t", &n.to_string()), done)))
        .collect();
    for retained in &began {
        take(retained).expect("retained");
    }
    let calls = function_calls(&server);
    // The library is looked for, and others look at what is due, meanwhile.
    assert!((1..500).contains(&calls), "{calls} calls");
    let calls = Calls(&store);
    let page = wait(|done| store.retained("t", None, 10, START, done)).expect("a page");
    let said: Vec<_> = page.messages.iter().map(|message| message.payload_slice()).collect();
    assert_eq!(said, [b"4999"]);
    assert_eq!(seats(&server), 1);
    assert!(matches!(calls.retain_as("alice", 1, "u", "x"), Err(StoreError::RetainedQuota)));
}
