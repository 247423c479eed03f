//! A store that refuses some publishes among others that it takes, as one does that is overloaded.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use broker::BrokerConfig;
use mqtt::{PacketId, QoS};
use state::{
    Claim, Claimed, Cursor, Discarded, Done, Due, DueWill, Fence, MemoryStore, Message, Number, Publish,
    Published, QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession,
    Subscription, UnixMs,
};

use crate::device::{Got, How, World};

struct Moody {
    inner: MemoryStore,
    publishes: AtomicUsize,
}

impl Store for Moody {
    fn publish(&self, publish: Publish, done: Done<Published>) {
        // One in three is taken.
        if !self.publishes.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            return done(Err(StoreError::Unavailable(Arc::new(io::Error::other("not now")))));
        }
        self.inner.publish(publish, done);
    }

    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        self.inner.claim(claim, done);
    }

    fn discard(&self, client_id: Arc<str>, done: Done<Option<Discarded>>) {
        self.inner.discard(client_id, done);
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.inner.release(fence, release, done);
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.inner.subscribe(fence, subscriptions, done);
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.inner.unsubscribe(fence, filters, done);
    }

    fn read_queue(&self, fence: &Fence, from: Number, count: usize, bytes: usize, done: Done<QueuePage>) {
        self.inner.read_queue(fence, from, count, bytes, done);
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.inner.acknowledge(fence, number, done);
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.inner.mark_released(fence, number, done);
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        self.inner.forget_received(fence, packet_id, done);
    }

    fn retain(&self, message: Arc<Message>, done: Done<()>) {
        self.inner.retain(message, done);
    }

    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        count: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        self.inner.retained(filter, cursor, count, now, done);
    }

    fn routes(&self, cursor: Option<Cursor>, count: usize, done: Done<RoutePage>) {
        self.inner.routes(cursor, count, done);
    }

    fn tails(&self, sessions: Vec<Arc<StoredSession>>, done: Done<Vec<Option<Number>>>) {
        self.inner.tails(sessions, done);
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        self.inner.claim_due(now, max, done);
    }

    fn finish_will(&self, will: &DueWill, done: Done<()>) {
        self.inner.finish_will(will, done);
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    fn close(&self, done: Done<()>) {
        self.inner.close(done);
    }
}

// P5: [MQTT-4.6.0-6].
#[tokio::test]
async fn what_an_overloaded_store_refuses_keeps_its_place() {
    let inner = MemoryStore::new();
    let store = Moody { inner: inner.clone(), publishes: AtomicUsize::new(0) };
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let mut subscriber = world.connect(&How::stored("subscriber"));
    subscriber.subscribe("t", 1);
    subscriber.drain();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    for n in 0..20_u8 {
        publisher.publish("t", &[n], QoS::AtLeastOnce, false);
    }
    for _ in 0..20 {
        assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, .. }));
    }
    assert_eq!(subscriber.payloads(), (0..20_u8).map(|n| vec![n]).collect::<Vec<_>>());
}
