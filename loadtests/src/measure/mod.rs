//! What is measured: stamps in payloads, sequence numbers, the closed loop, latencies, processes.

pub(crate) mod latency;
pub(crate) mod payload;
pub(crate) mod process;
pub(crate) mod sequence;
pub(crate) mod window;
