//! The behaviour suite over a real Redis Cluster and a single Redis, and what only they can show. Runs with
//! `TIDEGATE_SYSTEM_TESTS=1`.

#![allow(clippy::panic, reason = "a test that meets the unexpected should stop at once")]

#[path = "../it/harness.rs"]
mod harness;
#[path = "../it/model/mod.rs"]
mod model;
#[path = "../servers/mod.rs"]
mod servers;
#[path = "../it/suite/mod.rs"]
mod suite;

mod cluster_faults;
mod crash;
mod durability;
mod faults;
mod load;
mod retained;
mod seats;
mod stores;
mod timers;
mod tls;
mod workers;
