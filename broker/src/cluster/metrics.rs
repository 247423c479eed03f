//! What a worker counts of its part in the cluster.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

link::labels! {
    /// Why a message was not delivered.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(super) enum LateReason {
        /// It had come before.
        Again = "Again",
        /// With QoS 0, and a newer one of its publisher may have been delivered.
        Overtaken = "Overtaken",
        /// With QoS 0, and its subscriber may have it from the worker where it was then.
        BeforeMove = "BeforeMove",
    }
}

link::metrics! {
    /// Counters and gauges.
    pub(crate) struct ClusterMetrics in "tidegate_cluster" {
        /// 1 while messages at QoS 1 and 2 may be matched.
        pub(super) route_lease: Gauge;
        /// Workers in the registry.
        pub(super) members: Gauge;
        /// Entries of the log of routes that this worker has not applied yet.
        pub(super) route_lag_entries: Gauge;
        /// Notes put into inboxes of others.
        pub(super) notes_sent: Counter;
        /// Notes from this worker's inbox.
        pub(super) notes_received: Counter;
        /// Notes for others that could not be sent and were not waited for.
        pub(super) notes_dropped: Counter[kind: &'static str];
        /// Messages from other workers that came again, or with QoS 0 too late to be delivered in order.
        pub(super) messages_late: Counter[reason: LateReason];
        /// Dead workers whose sessions were let go.
        pub(super) workers_buried: Counter;
        /// Messages for shares that were in the inbox of a dead worker, offered to other members.
        pub(super) messages_handed_on: Counter;
        /// Times that others buried this worker.
        pub(super) expelled: Counter;
        /// Times that all routes were read anew.
        pub(super) route_reloads: Counter;
        /// How long changes of subscriptions waited for other workers.
        pub(super) subscribe_wait_seconds: Histogram = Histogram::new(exponential_buckets(0.0005, 2.0, 14));
    }
}
