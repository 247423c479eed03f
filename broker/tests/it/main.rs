//! The worker as an edge calls it, over a store in memory: what needs several sessions, timers or a store that fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected should stop at once")]

mod ask;
mod cluster;
mod device;
mod edge;
mod handoff;
mod link;
mod moody;
mod passport;
mod principal;
mod retained;
mod session;
mod shared;
mod store_away;
mod succession;
mod takeover;
mod will;
