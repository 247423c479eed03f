//! What the clocks showed last, written down with what is stored: the next process goes on from there, so that time is never
//! before what the store has seen, and what the wall clock was set by while a process ran does not count.

use std::time::{Duration, Instant};

use fjall::Slice;

use super::batch::Put;
use super::codec::{self, Malformed, Reader};
use super::disk::Disk;
use super::layout::{self, Keyspace};
use crate::clock::{Reading, TimeSource};

/// Beside what is written anyway, so often at the most, after the first of it.
const WITH_BATCHES: Duration = Duration::from_millis(100);

/// While nothing is written. A board without a clock of its own goes on from so long before it lost its power.
const WHILE_IDLE: Duration = Duration::from_secs(60);

/// The clocks of a store.
pub(super) struct Clocks {
    /// The store's own.
    time: TimeSource,
    wall: TimeSource,
    opened_at: Instant,
    /// By this process. Before that a kill would leave what is written now to the reading of another, or to none.
    noted_at: Option<Instant>,
}

impl Clocks {
    pub(super) fn new(time: TimeSource, wall: TimeSource) -> Self {
        Self { time, wall, opened_at: Instant::now(), noted_at: None }
    }

    /// What is on disk.
    pub(super) fn read(disk: &Disk) -> fjall::Result<Option<Result<Reading, Malformed>>> {
        let found = disk.keyspace(Keyspace::Sessions).get(layout::clocks())?;
        Ok(found.map(|bytes| {
            let mut reader = Reader(&bytes);
            Ok(Reading { own: reader.u64()?, wall: reader.u64()? })
        }))
    }

    /// Adds them to a batch, unless they were written a moment ago.
    pub(super) fn join(&mut self, puts: &mut Vec<Put>) {
        let is_due = if puts.is_empty() {
            self.alone_at() <= Instant::now()
        } else {
            self.noted_at.is_none_or(|at| at.elapsed() >= WITH_BATCHES)
        };
        if is_due {
            puts.push(self.put());
        }
    }

    /// When they are to be written by themselves.
    pub(super) fn alone_at(&self) -> Instant {
        self.noted_at.unwrap_or(self.opened_at) + WHILE_IDLE
    }

    /// What they show now.
    pub(super) fn put(&mut self) -> Put {
        self.noted_at = Some(Instant::now());
        let mut value = Vec::with_capacity(16);
        codec::put_u64(&mut value, (self.time)());
        codec::put_u64(&mut value, (self.wall)());
        Put { keyspace: Keyspace::Sessions, key: Slice::from(layout::clocks()), value: Some(value.into()) }
    }
}
