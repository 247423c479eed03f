//! A store whose answers are timed, by operation; otherwise the store that it wraps.

use std::sync::Arc;

use mqtt::PacketId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use state::clock::TimeSource;
use state::{
    Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, Fence, Message, Number, Publish, Published,
    QueuePage, Release, RetainedPage, RoutePage, Store, StoreStats, StoredSession, Subscription, UnixMs,
};
use tokio::time::Instant;

use crate::metrics::latency::Latency;

link::labels! {
    /// What is asked of a store.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Operation {
        Claim = "claim",
        Release = "release",
        Subscribe = "subscribe",
        Unsubscribe = "unsubscribe",
        Publish = "publish",
        ReadQueue = "read_queue",
        Acknowledge = "acknowledge",
        Retain = "retain",
        ReadRetained = "read_retained",
        Timers = "timers",
        ReadRoutes = "read_routes",
    }
}

link::metrics! {
    /// What is measured of a store.
    struct StoreMetrics in "tidegate_store" {
        /// From what is asked of the store to its answer, by operation.
        operation_seconds: Latency[operation: Operation];
        /// Answers of the store that something failed which may go well later, by operation.
        operation_failures: Counter[operation: Operation];
    }
}

/// Of one operation.
#[derive(Clone)]
struct Measure {
    seconds: Latency,
    failures: Counter,
}

/// Times the answers of a store.
pub(crate) struct TimedStore {
    store: Arc<dyn Store>,
    /// In the order of [`Operation::ALL`].
    measures: [Measure; Operation::ALL.len()],
}

impl TimedStore {
    /// Wraps `store` and registers what it measures.
    pub(crate) fn new(store: Arc<dyn Store>, registry: &mut Registry) -> Self {
        let metrics = StoreMetrics::register(registry);
        let measures = Operation::ALL.map(|operation| Measure {
            seconds: metrics.operation_seconds.of((operation,)).clone(),
            failures: metrics.operation_failures.of((operation,)).clone(),
        });
        Self { store, measures }
    }

    fn timed<T: 'static>(&self, operation: Operation, done: Done<T>) -> Done<T> {
        let Some(measure) = self.measures.get(operation as usize).cloned() else { return done };
        let asked = Instant::now();
        Box::new(move |answer| {
            measure.seconds.observe(asked.elapsed());
            if answer.as_ref().is_err_and(state::StoreError::is_retryable) {
                measure.failures.inc();
            }
            done(answer);
        })
    }
}

/// Calls of a store, each timed as one operation.
macro_rules! timed {
    ($($call:ident($($argument:ident: $type:ty),*) -> $answer:ty, as $operation:ident;)*) => {$(
        fn $call(&self, $($argument: $type,)* done: Done<$answer>) {
            self.store.$call($($argument,)* self.timed(Operation::$operation, done));
        }
    )*};
}

impl Store for TimedStore {
    timed! {
        claim(claim: Claim) -> Claimed, as Claim;
        release(fence: &Fence, release: Release) -> (), as Release;
        drop_will(fence: &Fence) -> (), as Release;
        subscribe(fence: &Fence, subscriptions: Vec<Subscription>) -> Vec<bool>, as Subscribe;
        unsubscribe(fence: &Fence, filters: Vec<Arc<str>>) -> Vec<bool>, as Unsubscribe;
        publish(publish: Publish) -> Published, as Publish;
        confirm(fence: &Fence) -> (), as ReadQueue;
        read_queue(fence: &Fence, from: Number, count: usize, bytes: usize) -> QueuePage, as ReadQueue;
        tails(sessions: Vec<Arc<StoredSession>>) -> Vec<Option<Number>>, as ReadQueue;
        acknowledge(fence: &Fence, number: Number) -> (), as Acknowledge;
        mark_released(fence: &Fence, number: Number) -> (), as Acknowledge;
        forget_received(fence: &Fence, packet_id: PacketId) -> (), as Acknowledge;
        retain(message: Arc<Message>) -> (), as Retain;
        retained(filter: &str, cursor: Option<Cursor>, count: usize, now: UnixMs) -> RetainedPage, as ReadRetained;
        claim_due(now: UnixMs, max: usize) -> Vec<Due>, as Timers;
        finish_will(will: &DueWill) -> (), as Timers;
        finish_left(left: &DueLeft) -> (), as Timers;
        routes(cursor: Option<Cursor>, count: usize) -> RoutePage, as ReadRoutes;
    }

    fn part_of(&self, client_id: &str) -> Option<u16> {
        self.store.part_of(client_id)
    }

    fn time(&self) -> TimeSource {
        self.store.time()
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    fn close(&self, done: Done<()>) {
        self.store.close(done);
    }
}
