//! Worker threads and the thread that watches them: phases, counters, progress lines, CPU and memory over the measured span.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::measure::process::{self, Reading, Usage};
use crate::report::Cost;

const WATCH_INTERVAL: Duration = Duration::from_millis(5);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What the workers do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Connecting and subscribing.
    Prepare,
    /// Under load, not measured.
    WarmUp,
    /// Under load and measured.
    Measure,
    /// No new load; what is under way may finish.
    Finish,
}

/// Counters of one worker, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// Things begun: messages that left, connections opened.
    pub(crate) begun: AtomicU64,
    /// Things done: messages delivered, connections accepted.
    pub(crate) done: AtomicU64,
    ready: AtomicBool,
    finished: AtomicBool,
}

impl Counters {
    /// Says that this worker is ready for load.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

/// What workers and watcher share.
#[derive(Debug)]
pub(crate) struct Board {
    started: Instant,
    phase: AtomicU8,
    failed: AtomicBool,
    workers: Vec<Counters>,
}

/// Sums over the workers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// See [`Counters::begun`].
    pub(crate) begun: u64,
    /// See [`Counters::done`].
    pub(crate) done: u64,
}

impl Board {
    fn new(workers: u32) -> Self {
        Self {
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Prepare as u8),
            failed: AtomicBool::new(false),
            workers: (0..workers).map(|_| Counters::default()).collect(),
        }
    }

    /// Start of everybody's clock.
    #[must_use]
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The phase that the watcher set last.
    #[must_use]
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Prepare,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            _ => Phase::Finish,
        }
    }

    /// Moves on to `phase`.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Counters of worker number `worker`.
    #[must_use]
    pub(crate) fn counters(&self, worker: u32) -> &Counters {
        &self.workers[worker as usize]
    }

    /// Sums over the workers.
    #[must_use]
    pub(crate) fn totals(&self) -> Totals {
        self.workers.iter().fold(Totals::default(), |sum, worker| Totals {
            begun: sum.begun + worker.begun.load(Ordering::Relaxed),
            done: sum.done + worker.done.load(Ordering::Relaxed),
        })
    }

    fn all(&self, flag: impl Fn(&Counters) -> &AtomicBool) -> bool {
        self.workers.iter().all(|worker| flag(worker).load(Ordering::Acquire))
    }

    /// Waits until every worker is ready.
    ///
    /// # Errors
    /// When a worker failed.
    pub(crate) fn wait_ready(&self, label: &str) -> Result<()> {
        self.watch(label, |_| self.all(|worker| &worker.ready))
    }

    /// Waits until every worker has returned.
    ///
    /// # Errors
    /// When a worker failed.
    pub(crate) fn wait_finished(&self, label: &str) -> Result<()> {
        self.watch(label, |_| self.all(|worker| &worker.finished))
    }

    /// Waits until `done`, with a line on standard error each second.
    ///
    /// # Errors
    /// When a worker failed.
    pub(crate) fn watch(&self, label: &str, mut done: impl FnMut(Totals) -> bool) -> Result<()> {
        let (mut before, mut printed) = (self.totals(), Instant::now());
        loop {
            let totals = self.totals();
            if self.failed.load(Ordering::Acquire) {
                bail!("stopped: a worker failed");
            }
            if done(totals) {
                return Ok(());
            }
            let span = printed.elapsed();
            if span >= PROGRESS_INTERVAL {
                let rate = (totals.done - before.done) as f64 / span.as_secs_f64();
                eprintln!(
                    "{:7.1} s  {label:<10} begun {:>11}  done {:>11}  {rate:>11.0}/s",
                    self.started.elapsed().as_secs_f64(),
                    totals.begun,
                    totals.done
                );
                (before, printed) = (totals, Instant::now());
            }
            std::thread::sleep(WATCH_INTERVAL);
        }
    }
}

/// Runs `work` on `threads` threads and `conduct` on this one. Returns what the workers and the conductor return.
///
/// # Errors
/// The first worker's error, or the conductor's.
pub(crate) fn run<W: Send, C>(
    threads: u32,
    work: impl Fn(u32, &Board) -> Result<W> + Sync,
    conduct: impl FnOnce(&Board) -> Result<C>,
) -> Result<(Vec<W>, C)> {
    let board = Board::new(threads);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let (board, work) = (&board, &work);
                scope.spawn(move || {
                    let result = work(worker, board);
                    board.failed.fetch_or(result.is_err(), Ordering::AcqRel);
                    board.counters(worker).finished.store(true, Ordering::Release);
                    result
                })
            })
            .collect();
        let conducted = conduct(&board);
        board.enter(Phase::Finish);
        let results: Result<Vec<W>> =
            workers.into_iter().map(|worker| worker.join().ok().context("a worker panicked")?).collect();
        Ok((results?, conducted?))
    })
}

/// Measures CPU and memory from its start to its stop.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    pids: &'a [u32],
    started: Instant,
    broker: Reading,
    generator: Reading,
}

impl<'a> Meter<'a> {
    /// Begins a span.
    ///
    /// # Errors
    /// When an accounted process does not exist.
    pub(crate) fn start(pids: &'a [u32]) -> Result<Self> {
        Ok(Self {
            pids,
            broker: process::read_all(pids)?,
            generator: process::read_self()?,
            started: Instant::now(),
        })
    }

    /// Ends the span.
    ///
    /// # Errors
    /// When an accounted process has gone.
    pub(crate) fn stop(&self) -> Result<Cost> {
        let elapsed_s = self.started.elapsed().as_secs_f64();
        let broker = Usage::between(self.broker, process::read_all(self.pids)?);
        Ok(Cost {
            elapsed_s,
            broker: (!self.pids.is_empty()).then_some(broker),
            generator: Usage::between(self.generator, process::read_self()?),
        })
    }
}
