//! What callers and the writer share: the tables, the batch that gathers, and the rules for when a call may be answered
//! at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Condvar, Mutex, RwLock};
use thiserror::Error;

use super::gate::AnswerGate;
use crate::answer::{Answer, Ready};
use crate::tables::journal::{Change, SessionImage};
use crate::tables::retained::Retained;
use crate::tables::{Bequest, Tables};
use crate::{Done, StoreError};

/// Calls that only free something are refused at this many times `commit_queue_bytes_max`.
const FREEING_HEADROOM: u64 = 2;

/// Bytes that a call costs beside what it carries, while it waits.
pub(super) const CALL_BYTES: u64 = 256;

/// Too much waits for the disk.
#[derive(Debug, Error)]
#[error("{waiting_bytes} bytes wait to be committed")]
struct Overloaded {
    waiting_bytes: u64,
}

/// What a call does to memory, for the bound on what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// It adds this many bytes.
    Adds(u64),
    /// It frees something: it goes on a while when others are refused.
    Frees,
}

/// Shared by callers and the writer.
pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    /// The writer waits here for work.
    pub(super) work: Condvar,
    /// Taken before `core` where both are needed.
    pub(super) retained: RwLock<Retained>,
    pub(super) gate: AnswerGate,
    /// The last attempt to write failed.
    pub(super) is_failing: AtomicBool,
    #[cfg(test)]
    pub(super) faults: super::tests::Faults,
}

/// Behind the lock.
pub(super) struct Core {
    pub(super) tables: Tables,
    /// Answers of the batch that gathers.
    answers: Vec<Answer>,
    /// The batch that gathers; batches count from 1.
    batch: u64,
    /// All answers up to this batch have been given.
    answered: u64,
    waiting_bytes: u64,
    waiting_bytes_max: u64,
    pub(super) is_writer_idle: bool,
    phase: ClosePhase,
}

/// How far closing is.
enum ClosePhase {
    Open,
    Closing(Vec<Done<()>>),
    Closed,
}

/// A batch that no longer gathers.
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) changes: Vec<Change>,
    pub(super) images: Vec<SessionImage>,
    pub(super) answers: Vec<Answer>,
    /// What sessions leave that are gone with this batch, as far as it is to be read from disk.
    pub(super) bequests: Vec<Bequest>,
    /// Never used before.
    pub(super) unique: u64,
    /// Keys from here on belong to later batches.
    pub(super) keys_below: u64,
}

impl Batch {
    /// Whether there is nothing to write and nobody to answer.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.images.is_empty() && self.answers.is_empty()
    }
}

impl Core {
    pub(super) fn new(tables: Tables, waiting_bytes_max: u64) -> Self {
        Self {
            tables,
            answers: Vec::new(),
            batch: 1,
            answered: 0,
            waiting_bytes: 0,
            waiting_bytes_max,
            is_writer_idle: false,
            phase: ClosePhase::Open,
        }
    }

    /// Whether a call may be made now.
    pub(super) fn permit(&self, load: Load) -> Result<(), StoreError> {
        if !matches!(self.phase, ClosePhase::Open) {
            return Err(StoreError::Closed);
        }
        let max = match load {
            Load::Adds(_) => self.waiting_bytes_max,
            Load::Frees => self.waiting_bytes_max.saturating_mul(FREEING_HEADROOM),
        };
        if self.waiting_bytes > max {
            let overloaded = Overloaded { waiting_bytes: self.waiting_bytes };
            return Err(StoreError::Unavailable(Arc::new(overloaded)));
        }
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, ClosePhase::Open)
    }

    /// Whether all answers that were decided on in this batch or before have been given.
    pub(super) fn is_answered(&self, batch: u64) -> bool {
        batch <= self.answered
    }

    /// The generation of answers given at once.
    pub(super) fn generation(&self) -> u64 {
        self.batch
    }

    /// An answer that goes out with the batch, of a call that was permitted.
    pub(super) fn push(&mut self, load: Load, answer: Answer) {
        let adds = match load {
            Load::Adds(bytes) => bytes,
            Load::Frees => 0,
        };
        self.waiting_bytes += adds + CALL_BYTES;
        self.answers.push(answer);
    }

    pub(super) fn has_work(&mut self) -> bool {
        !self.answers.is_empty()
            || !self.tables.journal().is_empty()
            || matches!(self.phase, ClosePhase::Closing(_))
    }

    /// Closes the batch that gathers and begins another, in the memory of one that is done.
    pub(super) fn take_batch(&mut self, spare_changes: Vec<Change>, spare_answers: Vec<Answer>) -> Batch {
        let unique = self.tables.unique_key();
        let images = self.tables.take_images();
        let batch = Batch {
            number: self.batch,
            changes: self.tables.journal().take_changes(spare_changes),
            images,
            answers: std::mem::replace(&mut self.answers, spare_answers),
            bequests: self.tables.take_bequests(),
            unique,
            keys_below: self.tables.next_key(),
        };
        self.batch += 1;
        self.tables.begin_batch(self.batch);
        self.waiting_bytes = 0;
        batch
    }

    /// All answers of a batch have been given.
    pub(super) fn finish_batch(&mut self, number: u64) {
        self.answered = number;
        self.tables.forget_departed(number);
    }

    /// No more calls. False if that was so before; then `done` is told at once, by the caller.
    pub(super) fn begin_close(&mut self, done: Option<Done<()>>) -> Result<(), Option<Done<()>>> {
        match &mut self.phase {
            ClosePhase::Open => self.phase = ClosePhase::Closing(done.into_iter().collect()),
            ClosePhase::Closing(waiting) => waiting.extend(done),
            ClosePhase::Closed => return Err(done),
        }
        Ok(())
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, ClosePhase::Closing(_))
    }

    /// Everything is written. Answers who waits for that.
    pub(super) fn finish_close(&mut self) -> Vec<Done<()>> {
        match std::mem::replace(&mut self.phase, ClosePhase::Closed) {
            ClosePhase::Closing(waiting) => waiting,
            ClosePhase::Open | ClosePhase::Closed => Vec::new(),
        }
    }
}

impl Shared {
    /// Applies a call now; its answer goes out with the batch.
    pub(super) fn call<T>(
        &self,
        load: Load,
        done: Done<T>,
        wrap: impl FnOnce(Ready<T>) -> Answer,
        apply: impl FnOnce(&mut Tables) -> Result<T, StoreError>,
    ) {
        let mut core = self.core.lock();
        if let Err(error) = core.permit(load) {
            drop(core);
            return done(Err(error));
        }
        let result = apply(&mut core.tables);
        core.push(load, wrap(Ready::new(done, result)));
        self.wake(&mut core);
    }

    /// Wakes the writer, if it waits.
    pub(super) fn wake(&self, core: &mut Core) {
        if core.is_writer_idle {
            core.is_writer_idle = false;
            self.work.notify_one();
        }
    }
}
