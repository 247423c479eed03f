//! A process: tasks of its own, and a clock that runs with the world's unless the process stands still.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{advance, sleep};

/// One process. Dropped, it is gone at once: nothing in it is run any more.
pub(super) struct Process {
    runtime: Runtime,
    /// How far its clock is behind, because it stood still.
    behind: Duration,
}

impl Process {
    pub(super) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        Self { runtime: runtime.unwrap(), behind: Duration::ZERO }
    }

    /// Within the process.
    pub(super) fn run<T>(&self, doing: impl Future<Output = T>) -> T {
        self.runtime.block_on(doing)
    }

    pub(super) fn spawn(&self, doing: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(doing);
    }

    /// Time passes, after `first` was done.
    pub(super) fn pass(&mut self, time: Duration, first: impl FnOnce()) {
        let behind = std::mem::take(&mut self.behind);
        self.runtime.block_on(async move {
            if !behind.is_zero() {
                advance(behind).await;
            }
            first();
            sleep(time).await;
        });
    }

    /// Time passes, and it does not know.
    pub(super) fn stand(&mut self, time: Duration) {
        self.behind += time;
    }
}
