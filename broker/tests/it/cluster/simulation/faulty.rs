//! A worker's store whose answers are lost now and then: the call has had its effect, and nobody knows.

use std::io;
use std::sync::Arc;

use mqtt::PacketId;
use parking_lot::Mutex;
use state::{
    Claim, Claimed, Cursor, Discarded, Done, Due, Fence, MemoryStore, Message, Number, Publish, Published,
    QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession, Subscription,
    UnixMs,
};

use super::dice::Dice;

pub(super) struct Faulty {
    pub(super) inner: MemoryStore,
    pub(super) dice: Mutex<Dice>,
}

pub(super) fn away() -> StoreError {
    StoreError::Unavailable(Arc::new(io::Error::other("away")))
}

impl Faulty {
    fn lose<T: 'static>(&self, done: Done<T>) -> Done<T> {
        if !self.dice.lock().one_in(40) {
            return done;
        }
        Box::new(move |answer| done(answer.and(Err(away()))))
    }
}

impl Store for Faulty {
    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.inner.publish(publish, self.lose(done));
    }

    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        self.inner.claim(claim, self.lose(done));
    }

    fn discard(&self, client_id: Arc<str>, done: Done<Option<Discarded>>) {
        self.inner.discard(client_id, done);
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.inner.release(fence, release, self.lose(done));
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.inner.subscribe(fence, subscriptions, self.lose(done));
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.inner.unsubscribe(fence, filters, self.lose(done));
    }

    fn read_queue(&self, fence: &Fence, from: Number, count: usize, bytes: usize, done: Done<QueuePage>) {
        self.inner.read_queue(fence, from, count, bytes, self.lose(done));
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.inner.acknowledge(fence, number, self.lose(done));
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.inner.mark_released(fence, number, self.lose(done));
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        self.inner.forget_received(fence, packet_id, self.lose(done));
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

    fn finish_will(&self, session: &Arc<StoredSession>, done: Done<()>) {
        self.inner.finish_will(session, done);
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    fn close(&self, done: Done<()>) {
        self.inner.close(done);
    }
}
