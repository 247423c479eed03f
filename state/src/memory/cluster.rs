//! Several workers over one store in memory, for tests and simulations: each has its own handle of the store, whose
//! controls ([`MemoryStore::hold`], [`MemoryStore::fail_with`]) hold for its calls of [`Cluster`] too. Time passes
//! only as it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::registry::AnsweredRead;
use super::{Content, MemoryStore};
use crate::{
    Burial, Cluster, Cursor, Done, Heard, InboxPage, Joined, Lease, LeftInInbox, ListeningPage, LogPage,
    Noted, Placed, Position, RouteChange, StoreError, UnixMs, WorkerId,
};

/// A store that several workers share. Clones are the same.
#[derive(Clone)]
pub struct MemoryCluster {
    store: MemoryStore,
    runs: Arc<AtomicU64>,
}

/// One run of one worker.
pub struct MemoryWorker {
    store: MemoryStore,
    name: Arc<str>,
}

impl Default for MemoryCluster {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryCluster {
    /// An empty store, nobody in the registry, and the clock at 0.
    pub fn new() -> Self {
        Self { store: MemoryStore::new(), runs: Arc::default() }
    }

    /// A new run of a worker: the first is 1, the second 2.
    pub fn worker(&self, name: &str) -> Arc<MemoryWorker> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(MemoryWorker { store: self.store.of_worker(WorkerId(run)), name: Arc::from(name) })
    }

    /// The store's clock, by which leases end, shows `now`, unless it is past that. Reads that have waited long enough are
    /// answered.
    pub fn tick(&self, now: UnixMs) {
        change(&self.store, |content| content.registry.set_clock(now));
    }

    /// An inbox takes so many bytes of messages, and 64 for each note, from now on; without this, any number.
    pub fn set_inbox_bytes_max(&self, bytes: usize) {
        self.store.content.lock().registry.inbox_bytes_max = Some(bytes);
    }

    /// The log keeps so many entries from now on; without this, any number.
    pub fn set_log_entries_max(&self, entries: usize) {
        self.store.content.lock().registry.log_entries_max = Some(entries);
    }

    /// Forgets the log so far, as if it had grown too long.
    pub fn trim_log(&self) {
        change(&self.store, |content| content.registry.trim_log());
    }

    /// The last `entries` of the log are lost and their positions are given out again; of every inbox the notes that were thrown
    /// away last are there again; every member's next read of either tells that something may be missing.
    pub fn fail_over(&self, entries: usize) {
        change(&self.store, |content| content.registry.fail_over(entries));
    }
}

/// Changes something, and answers the reads that waited for it.
fn change(store: &MemoryStore, apply: impl FnOnce(&mut Content)) {
    let answered = {
        let mut content = store.content.lock();
        apply(&mut content);
        content.registry.take_answered()
    };
    answered.into_iter().for_each(AnsweredRead::give);
}

impl MemoryWorker {
    /// The store as this worker sees it.
    pub fn store(&self) -> MemoryStore {
        self.store.clone()
    }

    /// A call that may be what reads wait for.
    fn call<T: Send + 'static>(
        &self,
        done: Done<T>,
        apply: impl FnOnce(&mut Content) -> Result<T, StoreError>,
    ) {
        self.store.call(done, apply);
        change(&self.store, |_| ());
    }
}

impl Cluster for MemoryWorker {
    fn id(&self) -> WorkerId {
        self.store.worker
    }

    fn join(&self, done: Done<Joined>) {
        self.call(done, |content| content.registry.join(self.store.worker, &self.name));
    }

    fn renew(&self, applied: Option<Position>, lease_ms: u64, done: Done<Lease>) {
        self.call(done, |content| Ok(content.registry.renew(self.store.worker, applied, lease_ms)));
    }

    fn leave(&self, done: Done<()>) {
        self.call(done, |content| content.registry.leave(self.store.worker));
    }

    fn append(&self, changes: Vec<RouteChange>, done: Done<Position>) {
        self.call(done, |content| Ok(content.registry.append(self.store.worker, changes)));
    }

    fn read_log(&self, after: Position, wait_ms: u64, done: Done<LogPage>) {
        let MemoryStore { content, answers, worker } = &self.store;
        answers.call_later(done, |done| {
            content.lock().registry.read_log((*worker, answers), after, wait_ms, done)
        });
        change(&self.store, |_| ());
    }

    fn listening(&self, cursor: Option<Cursor>, routes_max: usize, done: Done<ListeningPage>) {
        self.call(done, |content| content.registry.listening(cursor.as_ref(), routes_max));
    }

    fn post(&self, to: WorkerId, notes: Vec<Noted>, done: Done<Heard>) {
        self.call(done, |content| Ok(content.registry.post(to, notes)));
    }

    fn read_inbox(&self, after: Position, wait_ms: u64, done: Done<InboxPage>) {
        let MemoryStore { content, answers, worker } = &self.store;
        answers.call_later(done, |done| {
            content.lock().registry.read_inbox((*worker, answers), after, wait_ms, done)
        });
        change(&self.store, |_| ());
    }

    fn shut_inbox(&self, done: Done<Position>) {
        self.call(done, |content| Ok(content.registry.shut_inbox(self.store.worker)));
    }

    fn bury(&self, burial: Burial, done: Done<Vec<Placed<LeftInInbox>>>) {
        self.call(done, |content| {
            if !content.registry.begin_burial(burial.worker, burial.silent_ms) {
                return Ok(Vec::new());
            }
            content.tables.bury(burial.worker, burial.grace_ms, burial.now);
            let left = content.registry.left_in_inbox(burial.worker, burial.handed_on);
            if left.is_empty() {
                content.registry.strike(burial.worker);
            }
            Ok(left)
        });
    }
}
