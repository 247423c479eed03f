//! Tells whoever waits that a session was let go, and that this is durable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

/// The end of a session's connection, on its way to the store.
#[derive(Debug)]
pub(crate) struct Departure {
    is_done: AtomicBool,
    waker: Waker,
}

impl Departure {
    /// One that wakes `waker` when it is done.
    pub(crate) fn new(waker: Waker) -> Self {
        Self { is_done: AtomicBool::new(false), waker }
    }

    /// The store has let the session go, or somebody else has it.
    pub(crate) fn finish(&self) {
        self.is_done.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }

    /// Whether it is done.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }
}
