//! What an edge says of itself: how many connections there are and end, and why, and a line about each that is worth one.

pub(crate) mod metrics;
pub(crate) mod report;
