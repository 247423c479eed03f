//! What the edge counts. Message-path counters are gathered by each relay and added here every so often, so that
//! connections do not contend.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::admission::{AdmissionMetrics, Gauges, Line};

link::metrics! {
    /// The edge's metrics, registered once.
    pub(crate) struct Metrics in "edge" {
        /// Connected devices.
        pub(crate) connections: Gauge[listener: String];
        /// Connections accepted.
        pub(crate) accepted: Counter[listener: String];
        /// Connections turned away when accepted.
        pub(crate) shed: Counter[reason: &'static str];
        /// CONNECT packets refused.
        pub(crate) refused: Counter[reason: &'static str];
        /// Handshakes that came to nothing.
        pub(crate) handshake_failures: Counter[stage: &'static str, reason: &'static str];
        /// Ends of device connections.
        pub(crate) closes: Counter[reason: &'static str];
        /// Answers to renewals of passports: renewed, denied, unavailable.
        pub(crate) passport_renewals: Counter[result: &'static str];
        /// Devices held back or refused beyond a limit.
        pub(crate) limited: Counter[limit: &'static str];
        /// From accept until the session is opened.
        handshake_seconds: Histogram = Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        /// Handshakes under way.
        pub(crate) handshakes: Gauge;
        /// Sessions that may be asked for at once, from how long answers take.
        openings_at_once: Gauge;
        /// Connections that wait until their session may be asked for.
        openings_waiting: Gauge[line: &'static str];
        /// MQTT bytes from devices.
        pub(crate) received_bytes: Counter;
        /// Control Packets from devices.
        pub(crate) received_packets: Counter;
        /// MQTT bytes to devices.
        pub(crate) sent_bytes: Counter;
        /// Bytes of incomplete packets kept.
        pub(crate) receive_buffer_bytes: Gauge;
    }
}

impl Metrics {
    /// Of admission.
    pub(crate) fn admission(&self) -> AdmissionMetrics {
        let waiting = |line: Line| self.openings_waiting.of((line.label(),)).clone();
        let at_once = self.openings_at_once.clone();
        let openings = Gauges { at_once, returning: waiting(Line::Returning), new: waiting(Line::New) };
        AdmissionMetrics {
            openings,
            handshakes: self.handshakes.clone(),
            handshake_seconds: self.handshake_seconds.clone(),
        }
    }
}
