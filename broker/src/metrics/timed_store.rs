//! A store whose answers are timed, by operation; otherwise the store that it wraps.

use std::sync::Arc;

use mqtt::PacketId;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use state::clock::TimeSource;
use state::{
    Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, Fence, Message, Number, Publish, Published,
    QueuePage, Release, RetainedPage, RoutePage, Store, StoreStats, StoredSession, Subscription, UnixMs,
};
use tokio::time::Instant;

use crate::metrics::latency::Latency;

/// What is asked of a store. Variants are the label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "variants are the label values")]
enum Operation {
    claim,
    release,
    subscribe,
    unsubscribe,
    publish,
    read_queue,
    acknowledge,
    retain,
    read_retained,
    timers,
    read_routes,
}

const OPERATIONS: [Operation; 11] = [
    Operation::claim,
    Operation::release,
    Operation::subscribe,
    Operation::unsubscribe,
    Operation::publish,
    Operation::read_queue,
    Operation::acknowledge,
    Operation::retain,
    Operation::read_retained,
    Operation::timers,
    Operation::read_routes,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    operation: Operation,
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
    /// In the order of [`OPERATIONS`].
    measures: Vec<Measure>,
}

impl TimedStore {
    /// Wraps `store` and registers what it measures.
    pub(crate) fn new(store: Arc<dyn Store>, registry: &mut Registry) -> Self {
        let seconds = Family::<CallLabels, Latency>::default();
        let failures = Family::<CallLabels, Counter>::default();
        let registry = registry.sub_registry_with_prefix("tidegate_store");
        let measures = OPERATIONS.map(|operation| {
            let labels = CallLabels { operation };
            let seconds = seconds.get_or_create_owned(&labels);
            Measure { seconds, failures: failures.get_or_create_owned(&labels) }
        });
        let help = "From what is asked of the store to its answer, by operation";
        registry.register("operation_seconds", help, seconds);
        let help = "Answers of the store that something failed which may go well later, by operation";
        registry.register("operation_failures", help, failures);
        Self { store, measures: measures.into() }
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

impl Store for TimedStore {
    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        self.store.claim(claim, self.timed(Operation::claim, done));
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.store.release(fence, release, self.timed(Operation::release, done));
    }

    fn drop_will(&self, fence: &Fence, done: Done<()>) {
        self.store.drop_will(fence, self.timed(Operation::release, done));
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.store.subscribe(fence, subscriptions, self.timed(Operation::subscribe, done));
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.store.unsubscribe(fence, filters, self.timed(Operation::unsubscribe, done));
    }

    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.store.publish(publish, self.timed(Operation::publish, done));
    }

    fn part_of(&self, client_id: &str) -> Option<u16> {
        self.store.part_of(client_id)
    }

    fn confirm(&self, fence: &Fence, done: Done<()>) {
        self.store.confirm(fence, self.timed(Operation::read_queue, done));
    }

    fn read_queue(
        &self,
        fence: &Fence,
        from: Number,
        messages_max: usize,
        bytes_max: usize,
        done: Done<QueuePage>,
    ) {
        let done = self.timed(Operation::read_queue, done);
        self.store.read_queue(fence, from, messages_max, bytes_max, done);
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.store.acknowledge(fence, number, self.timed(Operation::acknowledge, done));
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.store.mark_released(fence, number, self.timed(Operation::acknowledge, done));
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        self.store.forget_received(fence, packet_id, self.timed(Operation::acknowledge, done));
    }

    fn retain(&self, message: Arc<Message>, done: Done<()>) {
        self.store.retain(message, self.timed(Operation::retain, done));
    }

    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        messages_max: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        let done = self.timed(Operation::read_retained, done);
        self.store.retained(filter, cursor, messages_max, now, done);
    }

    fn routes(&self, cursor: Option<Cursor>, sessions_max: usize, done: Done<RoutePage>) {
        self.store.routes(cursor, sessions_max, self.timed(Operation::read_routes, done));
    }

    fn tails(&self, sessions: Vec<Arc<StoredSession>>, done: Done<Vec<Option<Number>>>) {
        self.store.tails(sessions, self.timed(Operation::read_queue, done));
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        self.store.claim_due(now, max, self.timed(Operation::timers, done));
    }

    fn finish_will(&self, will: &DueWill, done: Done<()>) {
        self.store.finish_will(will, self.timed(Operation::timers, done));
    }

    fn finish_left(&self, left: &DueLeft, done: Done<()>) {
        self.store.finish_left(left, self.timed(Operation::timers, done));
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
