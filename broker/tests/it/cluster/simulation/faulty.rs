//! A worker's store whose answers are lost now and then: the call has had its effect, and nobody knows. And one part of the store
//! can be slow: what was asked of publishers' sessions is answered late then, though in order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use mqtt::PacketId;
use parking_lot::Mutex;
use state::{
    Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, Fence, MemoryStore, Message, Number, Publish,
    Published, QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession,
    Subscription, UnixMs,
};

use super::dice::Dice;
use super::world::is_publisher;

pub(crate) struct Faulty {
    pub(crate) inner: MemoryStore,
    /// `None`: no answer is lost.
    pub(crate) dice: Option<Mutex<Dice>>,
    pub(crate) slow: Arc<Slow>,
}

/// Answers about publishers' sessions that wait, while they do.
#[derive(Default)]
pub(crate) struct Slow(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    is_slow: bool,
    answers: VecDeque<Box<dyn FnOnce() + Send>>,
}

impl Slow {
    pub(crate) fn set(&self, is_slow: bool) {
        self.0.lock().is_slow = is_slow;
    }

    /// Gives so many of the answers that wait, unless it is slow.
    pub(crate) fn give(&self, count: usize) {
        for _ in 0..count {
            let mut waiting = self.0.lock();
            let next = if waiting.is_slow { None } else { waiting.answers.pop_front() };
            drop(waiting);
            let Some(answer) = next else { return };
            answer();
        }
    }

    fn give_or_keep(&self, answer: Box<dyn FnOnce() + Send>) {
        let mut waiting = self.0.lock();
        if waiting.is_slow || !waiting.answers.is_empty() {
            return waiting.answers.push_back(answer);
        }
        drop(waiting);
        answer();
    }
}

pub(super) fn away() -> StoreError {
    StoreError::Unavailable(Arc::new(io::Error::other("away")))
}

impl Faulty {
    fn lose<T: 'static>(&self, done: Done<T>) -> Done<T> {
        if !self.dice.as_ref().is_some_and(|dice| dice.lock().one_in(40)) {
            return done;
        }
        Box::new(move |answer| done(answer.and(Err(away()))))
    }

    /// The same for a call about one session.
    fn lose_of<T: Send + 'static>(&self, client_id: &str, done: Done<T>) -> Done<T> {
        let done = self.lose(done);
        if !is_publisher(client_id) {
            return done;
        }
        let slow = Arc::clone(&self.slow);
        Box::new(move |answer| slow.give_or_keep(Box::new(move || done(answer))))
    }
}

impl Store for Faulty {
    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.inner.publish(publish, self.lose(done));
    }

    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        let done = self.lose_of(&claim.client_id, done);
        self.inner.claim(claim, done);
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.inner.release(fence, release, self.lose_of(&fence.session.client_id, done));
    }

    fn drop_will(&self, fence: &Fence, done: Done<()>) {
        self.inner.drop_will(fence, self.lose_of(&fence.session.client_id, done));
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.inner.subscribe(fence, subscriptions, self.lose_of(&fence.session.client_id, done));
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.inner.unsubscribe(fence, filters, self.lose_of(&fence.session.client_id, done));
    }

    fn confirm(&self, fence: &Fence, done: Done<()>) {
        self.inner.confirm(fence, self.lose_of(&fence.session.client_id, done));
    }

    fn read_queue(&self, fence: &Fence, from: Number, count: usize, bytes: usize, done: Done<QueuePage>) {
        self.inner.read_queue(fence, from, count, bytes, self.lose_of(&fence.session.client_id, done));
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.inner.acknowledge(fence, number, self.lose_of(&fence.session.client_id, done));
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.inner.mark_released(fence, number, self.lose_of(&fence.session.client_id, done));
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        self.inner.forget_received(fence, packet_id, self.lose_of(&fence.session.client_id, done));
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

    fn finish_left(&self, left: &DueLeft, done: Done<()>) {
        self.inner.finish_left(left, done);
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    fn close(&self, done: Done<()>) {
        self.inner.close(done);
    }
}
