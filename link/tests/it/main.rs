//! The link as a peer sees it: bytes on the wire, and two ends with links between them that
//! cut, stop and die.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected stops at once"
)]

mod answer;
mod ends;
mod frame;
mod simulation;
mod wire;
