//! One behaviour suite, run over every store; then what only one of them can show.

#![allow(clippy::panic, reason = "a test that meets the unexpected should stop at once")]

mod crash;
mod embedded;
mod harness;
mod left;
mod memory;
mod model;
mod suite;
mod workers;
