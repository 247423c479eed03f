//! Slow tests of the whole system: crashes, bad input, other people's clients. `cargo test --features system-tests --test system`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected stops at once")]

#[allow(dead_code, reason = "shared with the quick tests, which use more of it")]
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../../state/tests/servers/mod.rs"]
mod servers;

mod acl_file;
mod asked_actions;
mod authsvc;
mod authsvc_faults;
mod budgets;
mod certificates;
mod clock;
mod crash;
mod cut_off;
mod descriptors;
mod edge_death;
mod edge_drain;
mod fleet;
mod greedy;
mod guessing;
mod hostile;
mod interop;
mod kill_matrix;
mod memory;
mod metrics;
mod monitoring;
mod moving_many;
mod one_write;
mod openapi;
mod operator;
mod passport;
mod principal;
mod protocol;
mod proxy;
mod read_your_subscription;
mod retained;
mod revocation;
mod shares;
mod sources;
mod stack;
mod stalled;
mod store_away;
mod storm;
mod succession;
mod takeover;
mod tickets;
mod tiers;
mod two_owners;
mod upgrade;
mod worked_examples;
mod worker_start;
