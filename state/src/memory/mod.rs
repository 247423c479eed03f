//! A store without a disk, for tests and simulations: the same tables as the embedded store; answers come at once or when
//! they are let go, and failures can be made. Nothing in it is bounded and nothing survives the process.

mod answers;
mod cluster;
mod registry;

use std::sync::Arc;

use mqtt::PacketId;
use parking_lot::Mutex;

use crate::tables::journal::Journal;
use crate::tables::retained::{Retained, RetainedLimits};
use crate::tables::{SOLE_WORKER, TableLimits, Tables};
use crate::{
    Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, Fence, Message, Number, Publish, Published,
    QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession, Subscription,
    UnixMs, WorkerId,
};
use answers::Answers;
pub use cluster::{MemoryCluster, MemoryWorker};
use registry::{AnsweredRead, Registry};

/// A store in memory, as one worker sees it. Clones share everything.
#[derive(Clone)]
pub struct MemoryStore {
    content: Arc<Mutex<Content>>,
    answers: Answers,
    worker: WorkerId,
}

/// What all workers share.
struct Content {
    tables: Tables,
    retained: Retained,
    registry: Registry,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store that answers at once, on the caller's thread; a call from within an answer is answered after it.
    pub fn new() -> Self {
        Self::with_limits(u64::MAX, usize::MAX, u64::MAX, u64::MAX)
    }

    /// An empty store with bounds on sessions, subscriptions of one session, and retained messages and their bytes.
    pub fn with_limits(
        sessions_max: u64,
        subscriptions_per_session_max: usize,
        retained_messages_max: u64,
        retained_bytes_max: u64,
    ) -> Self {
        let limits = TableLimits { sessions_max, subscriptions_per_session_max, ..TableLimits::NONE };
        let retained = RetainedLimits { messages_max: retained_messages_max, bytes_max: retained_bytes_max };
        let content = Content {
            tables: Tables::new(limits, Journal::off()),
            retained: Retained::new(retained),
            registry: Registry::default(),
        };
        Self { content: Arc::new(Mutex::new(content)), answers: Answers::default(), worker: SOLE_WORKER }
    }

    /// The same content for another worker, whose answers are its own.
    fn of_worker(&self, worker: WorkerId) -> Self {
        Self { content: Arc::clone(&self.content), answers: Answers::default(), worker }
    }

    /// From now on answers wait for [`MemoryStore::step`] (the effect of a call is there at once).
    pub fn hold(&self) {
        self.answers.hold();
    }

    /// Gives the oldest held answer. False if there was none.
    pub fn step(&self) -> bool {
        self.answers.step()
    }

    /// How many answers are held.
    pub fn held(&self) -> usize {
        self.answers.held()
    }

    /// Gives all held answers, and holds none from now on.
    pub fn let_go(&self) {
        self.answers.let_go();
    }

    /// From now on calls have no effect and are answered with `error`, reads that wait too; `None` ends that.
    pub fn fail_with(&self, error: Option<StoreError>) {
        let is_failing = error.is_some();
        self.answers.fail_with(error);
        if is_failing {
            let waiting = self.content.lock().registry.take_reads_of(self.worker);
            waiting.into_iter().for_each(AnsweredRead::give);
        }
    }

    /// What the store's clock shows: see [`MemoryCluster::tick`].
    pub fn clock(&self) -> UnixMs {
        self.content.lock().registry.now()
    }

    /// What a restart of the process at `now` does to the sessions: owners are gone, timers start. Held answers are lost.
    pub fn restart(&self, now: UnixMs) {
        self.answers.reset();
        let mut content = self.content.lock();
        content.tables.restart(now);
        #[cfg(debug_assertions)]
        content.tables.check_invariants();
    }

    /// Stops if the tables contradict themselves: for tests and simulations.
    ///
    /// # Panics
    /// When an invariant does not hold.
    #[cfg(debug_assertions)]
    pub fn check_invariants(&self) {
        self.content.lock().tables.check_invariants();
    }

    /// Applies a call and answers it, or holds the answer.
    fn call<T: Send + 'static>(
        &self,
        done: Done<T>,
        apply: impl FnOnce(&mut Content) -> Result<T, StoreError>,
    ) {
        self.answers.call(done, || apply(&mut self.content.lock()));
    }
}

impl Content {
    fn forget_expired(&mut self, expired: &[Arc<Message>], now: UnixMs) {
        for message in expired {
            self.retained.remove_expired(message.topic(), now);
        }
    }
}

impl Store for MemoryStore {
    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        self.call(done, |content| {
            // The only one has no other clock than the caller's.
            let clock = if self.worker == SOLE_WORKER { claim.now } else { content.registry.now() };
            content.tables.claim(claim, self.worker, clock)
        });
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.call(done, |content| content.tables.release(fence, &release));
    }

    fn drop_will(&self, fence: &Fence, done: Done<()>) {
        self.call(done, |content| content.tables.drop_will(fence));
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.call(done, |content| content.tables.subscribe(fence, subscriptions));
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.call(done, |content| content.tables.unsubscribe(fence, filters));
    }

    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.call(done, |content| content.tables.publish(&publish, self.worker));
    }

    fn confirm(&self, fence: &Fence, done: Done<()>) {
        self.call(done, |content| content.tables.confirm(fence));
    }

    fn read_queue(
        &self,
        fence: &Fence,
        from: Number,
        messages_max: usize,
        bytes_max: usize,
        done: Done<QueuePage>,
    ) {
        self.call(done, |content| {
            content
                .tables
                .read_queue(fence, from, messages_max, bytes_max)
                .map(crate::tables::Page::into_ready)
        });
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.call(done, |content| content.tables.acknowledge(fence, number));
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.call(done, |content| content.tables.mark_released(fence, number));
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        self.call(done, |content| content.tables.forget_received(fence, packet_id));
    }

    fn retain(&self, message: Arc<Message>, done: Done<()>) {
        self.call(done, |content| content.retained.retain(&message).0.map(drop));
    }

    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        messages_max: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        self.call(done, |content| {
            let (page, expired) = content.retained.read(filter, cursor.as_ref(), messages_max, now);
            content.forget_expired(&expired, now);
            Ok(page)
        });
    }

    fn routes(&self, cursor: Option<Cursor>, sessions_max: usize, done: Done<RoutePage>) {
        self.call(done, |content| content.tables.routes(cursor.as_ref(), sessions_max));
    }

    fn tails(&self, sessions: Vec<Arc<StoredSession>>, done: Done<Vec<Option<Number>>>) {
        self.call(done, |content| Ok(content.tables.tails(&sessions)));
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        self.call(done, |content| {
            content.retained.take_expired(now);
            Ok(content.tables.claim_due(now, max))
        });
    }

    fn finish_will(&self, will: &DueWill, done: Done<()>) {
        self.call(done, |content| {
            content.tables.finish_will(will);
            Ok(())
        });
    }

    fn finish_left(&self, left: &DueLeft, done: Done<()>) {
        self.call(done, |content| {
            content.tables.finish_left(left);
            Ok(())
        });
    }

    fn stats(&self) -> StoreStats {
        let content = self.content.lock();
        StoreStats {
            retained_messages: content.retained.len(),
            retained_bytes: content.retained.bytes(),
            ..content.tables.stats()
        }
    }

    fn close(&self, done: Done<()>) {
        self.call(done, |_| Ok(()));
        self.answers.close();
    }
}
