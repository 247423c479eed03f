//! Messages counted per thread and turn, so that the shared counters are touched once per turn and not per message.

use std::cell::Cell;

use mqtt::QoS;

use crate::metrics::Metrics;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    received: [u32; 3],
    sent: [u32; 3],
    acknowledged: u32,
    bytes_received: u64,
    bytes_sent: u64,
}

thread_local! {
    static TALLY: Cell<Tally> = Cell::default();
}

/// A PUBLISH came from a client.
pub(crate) fn received(qos: QoS, payload_bytes: usize) {
    let mut tally = TALLY.get();
    tally.received[qos as usize] += 1;
    tally.bytes_received += payload_bytes as u64;
    TALLY.set(tally);
}

/// A PUBLISH was acknowledged in the turn in which it came.
pub(crate) fn acknowledged() {
    let mut tally = TALLY.get();
    tally.acknowledged += 1;
    TALLY.set(tally);
}

/// A PUBLISH was written for a client.
pub(crate) fn sent(qos: QoS, payload_bytes: usize) {
    let mut tally = TALLY.get();
    tally.sent[qos as usize] += 1;
    tally.bytes_sent += payload_bytes as u64;
    TALLY.set(tally);
}

/// Adds what this thread has counted to the shared counters.
pub(crate) fn flush(metrics: &Metrics) {
    let tally = TALLY.take();
    if tally == Tally::default() {
        return;
    }
    let counters = metrics
        .messages_received
        .iter()
        .zip(tally.received)
        .chain(metrics.messages_sent.iter().zip(tally.sent));
    for (counter, count) in counters.filter(|(_, count)| *count > 0) {
        counter.inc_by(u64::from(count));
    }
    if tally.acknowledged > 0 {
        metrics.acknowledge_seconds.observe_at_once(u64::from(tally.acknowledged));
    }
    metrics.payload_bytes_received.inc_by(tally.bytes_received);
    metrics.payload_bytes_sent.inc_by(tally.bytes_sent);
}
