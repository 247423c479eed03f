//! Slow whole-system tests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected stops at once")]
