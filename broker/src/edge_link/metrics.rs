//! What the worker's end of links counts.

use link::wire::RefuseReason;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

link::metrics! {
    /// Counters and gauges of all links of a worker.
    pub(super) struct LinkMetrics in "tidegate_link" {
        /// When the certificate of links ends, and the last authority of the other end's.
        pub(super) tls_expiry_timestamp_seconds: Gauge[what: &'static str];
        /// Links from edges.
        pub(super) links: Gauge;
        /// Devices served over links.
        pub(super) streams: Gauge;
        /// Links that ended by a fault, a silence or a lost connection.
        pub(super) links_failed: Counter;
        /// Connections that were not taken as links.
        pub(super) links_refused: Counter;
        /// Devices whose link was lost.
        pub(super) streams_lost: Counter;
        /// Devices that were not taken.
        pub(super) opens_refused: Counter[reason: RefuseReason];
    }
}
