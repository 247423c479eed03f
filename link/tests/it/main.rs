//! The link as a peer sees it: bytes on the wire.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected stops at once")]

mod frame;
mod wire;
