//! What a worker knows of sessions: which there are, how their connections are reached, and to which filters they are
//! subscribed. Nothing of a store or of a clock is in here.

pub(crate) mod index;
pub(crate) mod session_handle;
pub(crate) mod sessions;
