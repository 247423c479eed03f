//! Slow whole-system tests.
