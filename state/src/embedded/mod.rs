//! The store of a single process: everything but message bodies in memory, all of it durable on disk.
//!
//! A call changes the tables at once, under a lock that is held for microseconds, on the caller's thread. Its answer waits
//! until the [`writer`] has made the change durable together with all others that came meanwhile. What only reads is
//! answered at once, unless that could overtake an answer about the same session.

mod batch;
mod clocks;
mod codec;
mod config;
mod core;
mod damage;
mod directory;
mod disk;
mod garbage;
mod gate;
mod journal_file;
mod layout;
mod load;
mod mark;
mod recovery;
mod stall;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use mqtt::PacketId;
use parking_lot::{Condvar, Mutex, RwLock};

pub use config::{EmbeddedConfig, Fsync, OpenError};
pub use damage::{Damage, OnDamage};

use self::core::{CALL_BYTES, Core, Load, Shared};
use crate::answer::{Answer, Ready};
use crate::clock::{self, TimeSource};
use crate::tables::journal::{Change, Journal};
use crate::tables::retained::{RetainChange, Retained};
use crate::tables::{SOLE_WORKER, SessionKey, Tables};
use crate::{
    Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, Fence, Message, Number, Publish, Published,
    QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession, Subscription,
    UnixMs,
};
use clocks::Clocks;
use directory::Directory;
use disk::Disk;
use garbage::LiveQueues;
use load::LoadError;
use recovery::DiskError;
use writer::Writer;

/// A durable store in a directory. See the module.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    time: TimeSource,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What was read.
struct Opened {
    disk: Disk,
    tables: Tables,
    retained: Retained,
    now: UnixMs,
}

impl EmbeddedStore {
    /// Opens or makes the store in a directory. Sessions whose owners were connected when the last process ended have
    /// their timers started now. Now is what the store has seen last and what has passed on the wall clock since; see
    /// [`Store::time`].
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is changed then.
    pub fn open(config: EmbeddedConfig) -> Result<Self, OpenError> {
        Self::open_from(config, None, Arc::new(clock::wall))
    }

    /// As [`EmbeddedStore::open`], by another wall clock than that of this machine: for tests.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    #[cfg(feature = "testing")]
    pub fn open_by(config: EmbeddedConfig, wall: TimeSource) -> Result<Self, OpenError> {
        Self::open_from(config, None, wall)
    }

    /// As [`EmbeddedStore::open`], at a given time, whatever the store has seen.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    #[cfg(feature = "testing")]
    pub fn open_at(config: EmbeddedConfig, now: UnixMs) -> Result<Self, OpenError> {
        Self::open_from(config, Some(now), Arc::new(clock::wall))
    }

    fn open_from(config: EmbeddedConfig, at: Option<UnixMs>, wall: TimeSource) -> Result<Self, OpenError> {
        config.validate()?;
        let directory = Arc::new(Directory::take(&config.dir)?);
        let live = Arc::new(LiveQueues::default());
        let read = match Self::read(&directory, &config, &live, at, &wall) {
            Err(DiskError::Damaged(damage))
                if damage.is_total() && config.on_damage == OnDamage::SetAside =>
            {
                let kept = directory.set_aside().map_err(|source| OpenError::Io {
                    action: "set aside",
                    path: directory.database.clone(),
                    source,
                })?;
                let cause = std::error::Error::source(&damage).map(ToString::to_string);
                tracing::error!(%damage, cause, kept = %kept.display(), "the store is damaged, and begins anew");
                Self::read(&directory, &config, &live, at, &wall)
            }
            read => read,
        };
        let Opened { disk, mut tables, retained, now } = read.map_err(|error| error.of_store(&config.dir))?;
        live.load(tables.heads());
        tables.restart(now);
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(tables, config.commit_queue_bytes_max)),
            work: Condvar::new(),
            retained: RwLock::new(retained),
            gate: gate::AnswerGate::default(),
            is_failing: AtomicBool::new(false),
            #[cfg(test)]
            faults: tests::Faults::default(),
        });
        let dir = config.dir.clone();
        let time = clock::running_from(now);
        let clocks = Clocks::new(Arc::clone(&time), wall);
        let writer = Writer::new(Arc::clone(&shared), config, directory, live, disk, clocks);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io { action: "start a thread for", path: dir, source })?;
        Ok(Self { shared, time, writer: Mutex::new(Some(thread)) })
    }

    /// Opens the database and reads everything that is kept in memory.
    fn read(
        directory: &Arc<Directory>,
        config: &EmbeddedConfig,
        live: &Arc<LiveQueues>,
        at: Option<UnixMs>,
        wall: &TimeSource,
    ) -> Result<Opened, DiskError> {
        let disk = Disk::open(directory, config, live, config.on_damage)?;
        let now = match at {
            Some(now) => now,
            None => start(&disk, wall())?,
        };
        let mut tables = Tables::new(config.table_limits(), Journal::on());
        let mut retained = Retained::new(config.retained_limits());
        load::load(&disk, &mut tables, &mut retained, now)?;
        Ok(Opened { disk, tables, retained, now })
    }

    /// Whether the last attempt to write has failed, so that answers are held back until one succeeds.
    pub fn is_failing(&self) -> bool {
        self.shared.is_failing.load(Ordering::Relaxed)
    }

    fn call<T>(
        &self,
        load: Load,
        done: Done<T>,
        wrap: impl FnOnce(Ready<T>) -> Answer,
        apply: impl FnOnce(&mut Tables) -> Result<T, StoreError>,
    ) {
        self.shared.call(load, done, wrap, apply);
    }

    /// Stops if the tables contradict themselves: for tests and simulations.
    ///
    /// # Panics
    /// When an invariant does not hold.
    #[cfg(all(feature = "testing", debug_assertions))]
    pub fn check_invariants(&self) {
        self.shared.core.lock().tables.check_invariants();
    }

    /// Whether the client has no session, here or on disk: nothing need be written to end it.
    fn has_none(&self, client_id: &str) -> bool {
        let core = self.shared.core.lock();
        core.is_open() && !core.tables.may_have_had(client_id)
    }

    /// Forgets messages that have expired and that nobody reads.
    fn sweep_expired(&self, now: UnixMs) {
        if !self.shared.retained.read().has_expired(now) {
            return;
        }
        let mut retained = self.shared.retained.write();
        let mut core = self.shared.core.lock();
        if !core.is_open() {
            return;
        }
        for message in retained.take_expired(now) {
            core.tables.journal().note(Change::RetainedGone { topic: message.topic().into() });
        }
        self.shared.wake(&mut core);
    }

    /// Forgets messages that a reader met after they had expired.
    fn forget_expired(&self, expired: &[Arc<Message>], now: UnixMs) {
        let mut retained = self.shared.retained.write();
        let mut core = self.shared.core.lock();
        if !core.is_open() {
            return;
        }
        for message in expired {
            if retained.remove_expired(message.topic(), now) {
                core.tables.journal().note(Change::RetainedGone { topic: message.topic().into() });
            }
        }
        self.shared.wake(&mut core);
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        let mut core = self.shared.core.lock();
        // It may be closed already; then nobody waits.
        let _ = core.begin_close(None);
        self.shared.wake(&mut core);
        drop(core);
        if let Some(thread) = self.writer.lock().take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

/// What a delivery takes while it waits.
fn publish_load(publish: &Publish) -> Load {
    let message = publish.message.size() as u64;
    let targets = publish.targets.len() as u64;
    let shares = publish.targets.len() > 1 && publish.message.size() >= crate::tables::SHARED_BODY_BYTES_MIN;
    Load::Adds(targets * CALL_BYTES + if shares { message } else { message * targets })
}

/// The time that a process starts at, when the wall clock shows `wall`.
fn start(disk: &Disk, wall: UnixMs) -> Result<UnixMs, LoadError> {
    let Some(last) = Clocks::read(disk)? else { return Ok(wall) };
    let last = last.map_err(|codec::Malformed| LoadError::Damaged("clocks"))?;
    Ok(last.resume(wall))
}

impl Store for EmbeddedStore {
    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        let wants_none = claim.clean_start && !claim.create && !claim.resume;
        if wants_none && self.has_none(&claim.client_id) {
            return done(Ok(Claimed::default()));
        }
        let will = claim.will.as_ref().map_or(0, |will| will.message.size());
        let load = Load::Adds((will + claim.client_id.len()) as u64);
        self.call(load, done, Answer::Claimed, |tables| {
            let clock = claim.now;
            tables.claim(claim, SOLE_WORKER, clock)
        });
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.call(Load::Frees, done, Answer::Unit, |tables| tables.release(fence, &release));
    }

    fn drop_will(&self, fence: &Fence, done: Done<()>) {
        self.call(Load::Frees, done, Answer::Unit, |tables| tables.drop_will(fence));
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        let bytes: usize = subscriptions.iter().map(|wanted| 2 * wanted.filter.len() + 64).sum();
        self.call(Load::Adds(bytes as u64), done, Answer::Flags, |tables| {
            tables.subscribe(fence, subscriptions)
        });
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.call(Load::Frees, done, Answer::Flags, |tables| tables.unsubscribe(fence, filters));
    }

    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.call(publish_load(&publish), done, Answer::Published, |tables| {
            tables.publish(&publish, SOLE_WORKER)
        });
    }

    fn confirm(&self, fence: &Fence, done: Done<()>) {
        self.call(Load::Frees, done, Answer::Unit, |tables| tables.confirm(fence));
    }

    fn read_queue(
        &self,
        fence: &Fence,
        from: Number,
        messages_max: usize,
        bytes_max: usize,
        done: Done<QueuePage>,
    ) {
        let mut core = self.shared.core.lock();
        if let Err(error) = core.permit(Load::Frees) {
            drop(core);
            return done(Err(error));
        }
        let page = core.tables.read_queue(fence, from, messages_max, bytes_max);
        let is_ready = page.as_ref().map_or(true, crate::tables::Page::is_ready);
        if is_ready && core.is_answered(core.tables.last_batch(fence)) {
            let passage = self.shared.gate.enter(core.generation());
            drop(core);
            done(page.map(crate::tables::Page::into_ready));
            drop(passage);
            return;
        }
        core.tables.touch(fence);
        core.push(Load::Frees, Answer::Queue(done, SessionKey(fence.session.incarnation), page));
        self.shared.wake(&mut core);
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.call(Load::Frees, done, Answer::Unit, |tables| tables.acknowledge(fence, number));
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.call(Load::Frees, done, Answer::Unit, |tables| tables.mark_released(fence, number));
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        self.call(Load::Frees, done, Answer::Unit, |tables| tables.forget_received(fence, packet_id));
    }

    fn retain(&self, message: Arc<Message>, done: Done<()>) {
        let mut retained = self.shared.retained.write();
        let mut core = self.shared.core.lock();
        let load = match message.payload_slice() {
            [] => Load::Frees,
            _ => Load::Adds(message.size() as u64),
        };
        if let Err(error) = core.permit(load) {
            drop(core);
            drop(retained);
            return done(Err(error));
        }
        let (outcome, expired) = retained.retain(&message);
        for message in expired {
            core.tables.journal().note(Change::RetainedGone { topic: message.topic().into() });
        }
        let result = outcome.map(|change| match change {
            RetainChange::Nothing => {}
            RetainChange::Set => core.tables.journal().note(Change::Retained { message }),
            RetainChange::Removed => {
                core.tables.journal().note(Change::RetainedGone { topic: message.topic().into() });
            }
        });
        core.push(load, Answer::Unit(Ready::new(done, result)));
        self.shared.wake(&mut core);
    }

    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        messages_max: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        if !self.shared.core.lock().is_open() {
            return done(Err(StoreError::Closed));
        }
        let (page, expired) = self.shared.retained.read().read(filter, cursor.as_ref(), messages_max, now);
        if !expired.is_empty() {
            self.forget_expired(&expired, now);
        }
        done(Ok(page));
    }

    fn routes(&self, cursor: Option<Cursor>, sessions_max: usize, done: Done<RoutePage>) {
        self.call(Load::Frees, done, Answer::Routes, |tables| tables.routes(cursor.as_ref(), sessions_max));
    }

    fn tails(&self, sessions: Vec<Arc<StoredSession>>, done: Done<Vec<Option<Number>>>) {
        self.call(Load::Frees, done, Answer::Tails, |tables| Ok(tables.tails(&sessions)));
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        self.sweep_expired(now);
        let core = self.shared.core.lock();
        if core.is_open() && !core.tables.is_due(now) {
            drop(core);
            return done(Ok(Vec::new()));
        }
        drop(core);
        self.call(Load::Frees, done, Answer::Due, |tables| Ok(tables.claim_due(now, max)));
    }

    fn finish_will(&self, will: &DueWill, done: Done<()>) {
        self.call(Load::Frees, done, Answer::Unit, |tables| {
            tables.finish_will(will);
            Ok(())
        });
    }

    fn finish_left(&self, left: &DueLeft, done: Done<()>) {
        self.call(Load::Frees, done, Answer::Unit, |tables| {
            tables.finish_left(left);
            Ok(())
        });
    }

    fn time(&self) -> TimeSource {
        Arc::clone(&self.time)
    }

    fn stats(&self) -> StoreStats {
        let (retained_messages, retained_bytes) = {
            let retained = self.shared.retained.read();
            (retained.len(), retained.bytes())
        };
        StoreStats { retained_messages, retained_bytes, ..self.shared.core.lock().tables.stats() }
    }

    fn close(&self, done: Done<()>) {
        let mut core = self.shared.core.lock();
        let refused = core.begin_close(Some(done));
        self.shared.wake(&mut core);
        drop(core);
        if let Err(Some(done)) = refused {
            done(Err(StoreError::Closed));
        }
    }
}
