//! Changes of routes on their way into the log: what comes while one call is under way goes with the next.

use std::sync::Arc;

use parking_lot::Mutex;
use state::{Position, RouteChange};

use super::lease::RouteLease;
use crate::directory::RouteSink;

/// Runs when the log has everything that was noted before.
pub(super) type Written = Box<dyn FnOnce(Position) + Send>;

/// Changes of one call.
const CHANGES_MAX: usize = 1000;

/// The writing end of the log of routes.
pub(super) struct LogWriter {
    api: Arc<dyn state::Cluster>,
    lease: Arc<RouteLease>,
    unwritten: Mutex<Unwritten>,
}

#[derive(Default)]
struct Unwritten {
    changes: Vec<RouteChange>,
    /// Who waits, and how many of `changes` must be written before.
    waiting: Vec<(usize, Written)>,
    /// How many of `changes` are with the store now; `None` when it has not been asked.
    asked: Option<usize>,
    /// The store could not take them.
    is_refused: bool,
    end: Position,
}

impl LogWriter {
    /// Nothing was noted yet.
    pub(super) fn new(api: Arc<dyn state::Cluster>, lease: Arc<RouteLease>) -> Self {
        Self { api, lease, unwritten: Mutex::default() }
    }

    /// Writes changes, in order, and runs `then` when all that was noted up to here is written.
    pub(super) fn append(self: &Arc<Self>, changes: Vec<RouteChange>, then: Option<Written>) {
        {
            let mut log = self.unwritten.lock();
            log.changes.extend(changes);
            if let Some(then) = then {
                let before = log.changes.len();
                log.waiting.push((before, then));
            }
        }
        self.write_log();
    }

    /// Writes what was noted, unless a call is under way.
    fn write_log(self: &Arc<Self>) {
        let mut log = self.unwritten.lock();
        if log.asked.is_some() || log.is_refused {
            return;
        }
        if log.changes.is_empty() {
            let end = log.end.max(self.lease.applied());
            let waiting = std::mem::take(&mut log.waiting);
            drop(log);
            waiting.into_iter().for_each(|(_, then)| then(end));
            return;
        }
        let count = log.changes.len().min(CHANGES_MAX);
        let changes = log.changes[..count].to_vec();
        log.asked = Some(count);
        drop(log);
        let writer = Arc::clone(self);
        self.api.append(changes, Box::new(move |result| writer.log_written(count, result)));
    }

    /// Tries again what the store could not take.
    pub(super) fn write_again(self: &Arc<Self>) {
        let was_refused = std::mem::take(&mut self.unwritten.lock().is_refused);
        if was_refused {
            self.write_log();
        }
    }

    fn log_written(self: &Arc<Self>, count: usize, result: Result<Position, state::StoreError>) {
        let mut log = self.unwritten.lock();
        log.asked = None;
        let end = match result {
            Ok(end) => end,
            Err(error) => {
                // Also what is not worth trying again: whoever waits must not be told that others know.
                tracing::debug!(%error, "the log of routes could not be written");
                log.is_refused = true;
                return;
            }
        };
        log.end = log.end.max(end);
        log.changes.drain(..count);
        let waiting = std::mem::take(&mut log.waiting);
        let mut written = Vec::new();
        for (before, then) in waiting {
            if before <= count {
                written.push(then);
            } else {
                log.waiting.push((before - count, then));
            }
        }
        drop(log);
        written.into_iter().for_each(|then| then(end));
        self.write_log();
    }
}

impl RouteSink for LogWriter {
    fn note(&self, changes: Vec<RouteChange>) {
        self.unwritten.lock().changes.extend(changes);
    }

    fn write(self: Arc<Self>) {
        self.write_log();
    }
}
