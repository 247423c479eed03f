//! Behaviour of the real binary over real sockets, by topic. Quick: one shared server, run by `cargo test`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected stops at once")]

#[allow(dead_code, reason = "shared with the slow tests, which use more of it")]
#[path = "../harness/mod.rs"]
mod harness;

pub(crate) use harness::over_every_transport;

mod connect;
mod enhanced_auth;
mod keep_alive;
mod limit;
mod malformed;
mod process;
mod publish;
mod retained;
mod session;
mod settings;
mod shared;
mod subscribe;
mod version3;
mod websocket;
mod will;
