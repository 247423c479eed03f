//! The writer: the only thread that touches the database. It takes what gathered, writes it as one batch, makes it
//! durable, gives the answers in order, and begins again. When the disk fails it reopens the database and repeats the
//! batch until that works: nothing is answered meanwhile, and what comes is refused once too much waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::batch::{BatchBuilder, Put, QueueMoves};
use super::clocks::Clocks;
use super::config::{EmbeddedConfig, Fsync};
use super::core::{Batch, Shared};
use super::damage::OnDamage;
use super::directory::Directory;
use super::disk::{Disk, unavailable};
use super::garbage::LiveQueues;
use super::recovery::DiskError;
use super::sweep::Sweeper;
use crate::answer::Answer;
use crate::tables::journal::Change;
use crate::tables::{Bequest, SessionKey};
use crate::{DueLeft, StoreError};

/// Before the first attempt to reopen a database that failed; doubles from attempt to attempt.
const REOPEN_DELAY_MIN: Duration = Duration::from_millis(50);

/// Between later attempts.
const REOPEN_DELAY_MAX: Duration = Duration::from_secs(2);

/// Dead queue records are let be up to this many times `write_buffer_bytes`.
const DEAD_WRITE_BUFFERS_MAX: u64 = 4;

/// The state of the writing thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    config: EmbeddedConfig,
    directory: Arc<Directory>,
    live: Arc<LiveQueues>,
    /// `None` while it cannot be opened.
    disk: Option<Disk>,
    builder: BatchBuilder,
    sweeper: Sweeper,
    clocks: Clocks,
    /// When batches that are written have to be safe from power loss.
    sync_at: Option<Instant>,
    spare_changes: Vec<Change>,
    spare_answers: Vec<Answer>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        config: EmbeddedConfig,
        directory: Arc<Directory>,
        live: Arc<LiveQueues>,
        disk: Disk,
        clocks: Clocks,
    ) -> Self {
        let sweeper = Sweeper::new(config.write_buffer_bytes.saturating_mul(DEAD_WRITE_BUFFERS_MAX));
        Self {
            shared,
            config,
            directory,
            live,
            disk: Some(disk),
            builder: BatchBuilder::default(),
            sweeper,
            clocks,
            sync_at: None,
            spare_changes: Vec::new(),
            spare_answers: Vec::new(),
        }
    }

    /// Works until the store is closed and everything is written.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            self.handle(batch);
        }
        self.sweeper.stop();
        if let Some(disk) = &mut self.disk
            && let Err(error) = disk.commit(&[self.clocks.put()], true)
        {
            tracing::error!(%error, "cannot make the store durable while closing");
        }
        let Self { shared, disk, directory, .. } = self;
        drop(disk);
        drop(directory);
        let waiting = shared.core.lock().finish_close();
        for done in waiting {
            done(Ok(()));
        }
    }

    /// Waits for work. `None` when the store is closing and nothing is left.
    fn next_batch(&mut self) -> Option<Batch> {
        loop {
            let mut core = self.shared.core.lock();
            while !core.has_work() {
                core.is_writer_idle = true;
                let alone_at = self.clocks.alone_at();
                let at = self.sync_at.map_or(alone_at, |at| at.min(alone_at));
                if self.shared.work.wait_until(&mut core, at).timed_out() {
                    break;
                }
            }
            core.is_writer_idle = false;
            let has_batch = core.has_work();
            let batch = has_batch.then(|| {
                let changes = std::mem::take(&mut self.spare_changes);
                core.take_batch(changes, std::mem::take(&mut self.spare_answers))
            });
            let is_closing = core.is_closing();
            drop(core);
            match batch {
                Some(batch) if is_closing && batch.is_empty() => return None,
                Some(batch) => return Some(batch),
                None => {
                    self.sync_if_due();
                    self.note_if_due();
                }
            }
        }
    }

    /// Writes what the clocks show when nothing else was written for long.
    fn note_if_due(&mut self) {
        if self.clocks.alone_at() <= Instant::now() {
            let put = self.clocks.put();
            // When that fails the store is closing.
            let _ = self.commit(&[put]);
        }
    }

    fn handle(&mut self, batch: Batch) {
        let Batch { number, mut changes, images, mut answers, bequests, unique, keys_below } = batch;
        let bequest_bytes = bequests.iter().map(Bequest::bytes).sum();
        let left = self.read_bequests(bequests);
        changes.extend(left.iter().cloned().map(|left| Change::Left { left }));
        let moves = QueueMoves::of(&changes, &images);
        let mut puts = self.builder.build(&changes, &images, unique);
        self.clocks.join(&mut puts);
        self.live.add(moves.claimed.iter().copied());
        let outcome = self.commit(&puts);
        if bequest_bytes > 0 && outcome.is_ok() {
            let mut core = self.shared.core.lock();
            core.tables.settle_bequests(bequest_bytes);
            left.into_iter().for_each(|left| core.tables.keep_left(left, 0));
        }
        self.shared.gate.wait(number);
        for answer in answers.drain(..) {
            self.answer(answer, &outcome);
        }
        self.live.update(&moves.moved, &moves.gone);
        changes.clear();
        self.spare_changes = changes;
        self.spare_answers = answers;
        self.finish(number, keys_below, outcome.is_ok());
    }

    /// Reads what sessions leave, as long as it is there.
    fn read_bequests(&mut self, bequests: Vec<Bequest>) -> Vec<DueLeft> {
        let mut left = Vec::new();
        for mut bequest in bequests {
            // Without a database it waits until there is one again, as the batch does.
            let Some(disk) = self.commit(&[]).ok().and(self.disk.as_ref()) else { return left };
            let session = Arc::clone(&bequest.session);
            match disk.complete(SessionKey(session.incarnation), bequest.take_page()) {
                Ok(page) => left.extend(bequest.complete(page)),
                Err(error) => {
                    let client_id = &*session.client_id;
                    tracing::error!(client_id, %error, "messages for other members of a share cannot be read");
                }
            }
        }
        left
    }

    /// Lets answers about these sessions be given at once again, and forgets bodies beyond the bound.
    fn finish(&mut self, number: u64, keys_below: u64, is_written: bool) {
        let mut core = self.shared.core.lock();
        core.finish_batch(number);
        while is_written && core.tables.evict(number, keys_below) {
            parking_lot::MutexGuard::bump(&mut core);
        }
        if self.sweeper.is_due()
            && let Some(disk) = &self.disk
        {
            let live_bytes = core.tables.stats().queued_bytes;
            drop(core);
            self.sweeper.look(disk, live_bytes);
        }
    }

    /// Gives an answer. A receiver that panics is a fault of its own, not of those that come after it.
    fn answer(&self, answer: Answer, outcome: &Result<(), StoreError>) {
        let given = catch_unwind(AssertUnwindSafe(|| match (outcome, &self.disk) {
            (Ok(()), Some(disk)) => answer.run(|session, page| disk.complete(session, page)),
            (Ok(()), None) => answer.fail(&StoreError::Closed),
            (Err(error), _) => answer.fail(error),
        }));
        if given.is_err() {
            tracing::error!("a receiver of a store's answer panicked");
        }
    }

    /// Writes a batch, again and again until it is written, or the store is closed meanwhile.
    fn commit(&mut self, puts: &[Put]) -> Result<(), StoreError> {
        if puts.is_empty() && self.disk.is_some() {
            self.sync_if_due();
            return Ok(());
        }
        let mut delay = REOPEN_DELAY_MIN;
        loop {
            let outcome = self.try_commit(puts);
            self.shared.is_failing.store(outcome.is_err(), Ordering::Relaxed);
            let error = match outcome {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tracing::error!(%error, "cannot write to the store, holding back what comes");
            // The database refuses everything after a failed write; what it has written is read back from its journal.
            self.sweeper.stop();
            self.disk = None;
            if self.wait_for_close(delay) {
                return Err(unavailable(error));
            }
            delay = (delay * 2).min(REOPEN_DELAY_MAX);
        }
    }

    fn try_commit(&mut self, puts: &[Put]) -> Result<(), DiskError> {
        let disk = match self.disk.take() {
            Some(disk) => disk,
            // What is lost while the process lives is in its memory: it is not gone on without.
            None => Disk::open(&self.directory, &self.config, &self.live, OnDamage::Refuse)?,
        };
        let disk = self.disk.insert(disk);
        let sync = self.config.fsync == Fsync::Always;
        #[cfg(test)]
        self.shared.faults.before_commit()?;
        disk.commit(puts, sync)?;
        #[cfg(test)]
        self.shared.faults.after_commit()?;
        if !sync {
            let interval = Duration::from_millis(self.config.fsync_interval_ms);
            self.sync_at.get_or_insert_with(|| Instant::now() + interval);
            self.sync_if_due();
        }
        Ok(())
    }

    fn sync_if_due(&mut self) {
        if self.sync_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.sync_at = None;
        if let Some(disk) = &mut self.disk
            && let Err(error) = disk.sync()
        {
            tracing::error!(%error, "cannot make the store durable");
        }
    }

    /// Waits. True if the store is to be closed.
    fn wait_for_close(&self, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        let mut core = self.shared.core.lock();
        while !core.is_closing() {
            core.is_writer_idle = true;
            if self.shared.work.wait_until(&mut core, until).timed_out() {
                break;
            }
        }
        core.is_writer_idle = false;
        core.is_closing()
    }
}
