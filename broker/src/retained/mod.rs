//! Retained messages: set in their place among what waits for the store, and read for new subscriptions.

pub(crate) mod due;
pub(crate) mod read;
pub(crate) mod write;
