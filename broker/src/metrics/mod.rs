//! What a worker counts. `$SYS` and the metrics endpoint read the same counters.

pub(crate) mod by_qos;
pub(crate) mod latency;
pub(crate) mod tally;
pub(crate) mod timed_store;

use mqtt::QoS;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use self::by_qos::ByQos;
use crate::authorize::bounds::Bound;
use crate::metrics::latency::Latency;
use crate::session::DropReason;

/// Upper bounds of how long questions about actions take, in seconds.
const ASK_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

link::metrics! {
    /// Counters and gauges of one worker.
    pub(crate) struct Metrics in "tidegate_broker" {
        /// PUBLISH packets from clients.
        pub(crate) messages_received: ByQos;
        /// PUBLISH packets to clients.
        pub(crate) messages_sent: ByQos;
        /// From a QoS 1 or 2 PUBLISH until it is acknowledged.
        pub(crate) acknowledge_seconds: Latency;
        /// Payload bytes from clients.
        pub(crate) payload_bytes_received: Counter;
        /// Payload bytes to clients.
        pub(crate) payload_bytes_sent: Counter;
        /// Sessions with a connection.
        pub(crate) sessions_connected: Gauge;
        /// Sessions opened or resumed.
        pub(crate) sessions_opened: Counter;
        /// Connections refused since the session is another principal's.
        pub(crate) sessions_foreign: Counter;
        /// Connections ended by a newer one.
        pub(crate) sessions_taken_over: Counter;
        /// Stored sessions expired.
        pub(crate) sessions_expired: Counter;
        /// Will Messages published.
        pub(crate) wills_published: Counter;
        /// Messages that did not reach a session.
        messages_dropped: Counter[reason: DropReason, qos: u8];
        /// Actions that are asked about, and whose answer was remembered.
        pub(crate) asks_known: Counter;
        /// Actions that were asked about, by outcome.
        pub(crate) asks: Counter[action: &'static str, outcome: &'static str];
        /// Seconds until an action was decided.
        pub(crate) ask_seconds: Histogram = Histogram::new(ASK_SECONDS);
        /// What clients were refused beyond a bound.
        limited: Counter[limit: &'static str];
    }
}

impl Metrics {
    /// Counts a dropped message.
    pub(crate) fn drop_message(&self, reason: DropReason, qos: QoS) {
        self.messages_dropped.count((reason, qos as u8));
    }

    /// Counts what was refused since it is beyond a bound.
    pub(crate) fn limit(&self, bound: Bound) {
        self.limited.count((bound.label(),));
    }

    /// Messages dropped in all.
    pub(crate) fn dropped_total(&self) -> u64 {
        let of = |reason| (0..3).map(move |qos| self.messages_dropped.get((reason, qos))).sum::<u64>();
        DropReason::ALL.into_iter().map(of).sum()
    }
}
