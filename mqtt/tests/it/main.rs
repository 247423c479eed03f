//! Behaviour of the codec through its public interface: byte-level case tables, round trips, streams, sizes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected should stop at once")]

mod cases;
mod encode;
mod noise;
mod properties;
mod roundtrip;
mod size;
mod strategy;
mod stream;
mod topics;
mod vector;
