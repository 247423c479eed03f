//! Gives disk space back when most of it is dead: ordinary compaction only looks at levels that overflow, and a queue that
//! was drained overflows nothing. The database deletes the files that this replaces when it next makes a table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::layout::Keyspace;
use super::stall;

/// Between looks at the size of the queues on disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// With more live bytes than this a full compaction would take long (and closing waits for it); ordinary compaction,
/// driven by what comes in, has to do.
const LIVE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Compacts in a thread of its own, one at a time.
#[derive(Debug)]
pub(super) struct Sweeper {
    look_at: Instant,
    thread: Option<JoinHandle<()>>,
    /// The thread is to begin nothing more.
    is_stopped: Arc<AtomicBool>,
    /// Dead bytes that are let be.
    dead_bytes_max: u64,
}

impl Sweeper {
    pub(super) fn new(dead_bytes_max: u64) -> Self {
        let look_at = Instant::now() + LOOK_INTERVAL;
        Self { look_at, thread: None, is_stopped: Arc::default(), dead_bytes_max }
    }

    /// Whether it is time for [`Sweeper::look`].
    pub(super) fn is_due(&self) -> bool {
        self.look_at <= Instant::now()
    }

    /// Begins a compaction if much of what the queues take on disk is dead.
    pub(super) fn look(&mut self, disk: &Disk, live_bytes: u64) {
        self.look_at = Instant::now() + LOOK_INTERVAL;
        let keyspaces = [Keyspace::Queue, Keyspace::Marks, Keyspace::Bodies]
            .map(|keyspace| disk.keyspace(keyspace).clone());
        let disk_bytes: u64 = keyspaces.iter().map(fjall::Keyspace::disk_space).sum();
        let dead_bytes = disk_bytes.saturating_sub(live_bytes);
        let is_worth_it = dead_bytes > live_bytes.max(self.dead_bytes_max) && live_bytes <= LIVE_BYTES_MAX;
        if !is_worth_it || self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.stop();
        self.is_stopped = Arc::default();
        let (database, is_stopped) = (disk.database().clone(), Arc::clone(&self.is_stopped));
        let spawned = std::thread::Builder::new().name("store-sweeper".to_owned()).spawn(move || {
            let swept = keyspaces.iter().try_for_each(|keyspace| sweep(&database, keyspace, &is_stopped));
            if let Err(error) = swept {
                tracing::warn!(%error, "cannot give disk space of drained queues back");
            }
        });
        match spawned {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start a thread to sweep drained queues"),
        }
    }

    /// Ends a compaction under way as soon as it can: the database must not be closed before.
    pub(super) fn stop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("sweeping drained queues panicked");
        }
    }
}

/// Compacts all of a keyspace, unless it is stopped before.
fn sweep(
    database: &fjall::Database,
    keyspace: &fjall::Keyspace,
    is_stopped: &AtomicBool,
) -> fjall::Result<()> {
    // Deletions that are not in tables yet delete nothing.
    if stall::write_tables(database, keyspace, is_stopped)? { keyspace.major_compact() } else { Ok(()) }
}
