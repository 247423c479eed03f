//! Drives the lanes: builds calls of waiting operations, sends them through the router, hands the answers back. Keeps the
//! counts and the bound of what waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::call::{self, Frame};
use super::change::{Outcomes, QueueChange};
use super::clock::ServerClocks;
use super::config::RedisConfig;
use super::fault::Fault;
use super::hints::{Hints, Sweep};
use super::keys::{Bucket, Keys};
use super::life::OVERDUE;
use super::lines::RetainLines;
use super::looks::Looks;
use super::node::Kept;
use super::op::{Op, ReadAnswer, Result};
use super::order::{Gate, Order, Pending, Ticket};
use super::replica::Replicas;
use super::router::Router;
use super::seat::Seat;
use crate::{Done, Principal, StoreError, StoreStats, UnixMs, WorkerId};

/// How often [`Engine::settled`] looks.
const SETTLE_INTERVAL: Duration = Duration::from_millis(2);

/// Counts of what this worker knows to be stored.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) sessions: AtomicI64,
    pub(super) queued_messages: AtomicI64,
    pub(super) queued_bytes: AtomicI64,
    pub(super) subscriptions: AtomicI64,
    pub(super) retained_messages: AtomicI64,
    pub(super) retained_bytes: AtomicI64,
}

/// Adds to a count.
pub(super) fn add(count: &AtomicI64, change: i64) {
    count.fetch_add(change, Ordering::Relaxed);
}

/// Reads a count.
pub(super) fn read(count: &AtomicI64) -> u64 {
    u64::try_from(count.load(Ordering::Relaxed)).unwrap_or(0)
}

/// Whose clock decides what is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timed {
    /// That of the server that has it, asked in its function: what one server made due it finds due, whatever the clocks of
    /// workers and of other servers show.
    ByServer,
    /// The caller's.
    #[cfg(feature = "testing")]
    ByCaller,
}

/// The store behind its handle.
pub(super) struct Engine {
    pub(super) config: RedisConfig,
    pub(super) keys: Keys,
    pub(super) router: Router,
    pub(super) order: Order,
    pub(super) counts: Counts,
    pub(super) hints: Hints,
    pub(super) looks: Arc<Looks>,
    timed: Timed,
    pub(super) retained_sweep: Sweep,
    pub(super) seat_sweep: Sweep,
    pub(super) retain_lines: RetainLines,
    pub(super) clocks: ServerClocks,
    pub(super) replicas: Replicas,
    pub(super) runtime: Handle,
    /// This run of this worker.
    pub(super) worker: WorkerId,
    /// Its name.
    pub(super) run: String,
    /// Bytes of operations that wait or are under way.
    pub(super) waiting_bytes: AtomicU64,
    /// Public calls that have no answer yet.
    unanswered: AtomicU64,
    is_closed: AtomicBool,
}

impl Engine {
    /// Connects to nothing yet. To be called on a runtime.
    pub(super) fn new(
        config: RedisConfig,
        timed: Timed,
        keys: Keys,
        router: Router,
        worker: WorkerId,
    ) -> Self {
        Self {
            keys,
            router,
            order: Order::default(),
            counts: Counts::default(),
            clocks: ServerClocks::new(),
            replicas: Replicas::default(),
            hints: Hints::new(Duration::from_millis(config.timer_sweep_ms)),
            looks: Arc::default(),
            timed,
            retained_sweep: Sweep::default(),
            seat_sweep: Sweep::default(),
            retain_lines: RetainLines::default(),
            runtime: Handle::current(),
            worker,
            run: format!("{:016x}", worker.0),
            waiting_bytes: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            config,
        }
    }

    /// Now, as a function is told it: nothing, when it is to ask its server.
    pub(super) fn now_arg(&self, now: UnixMs) -> Option<UnixMs> {
        (self.timed != Timed::ByServer).then_some(now)
    }

    /// What a client's session that is gone held: records, bytes, subscriptions, and its seat.
    pub(super) fn session_gone(self: &Arc<Self>, client_id: &str, freed: Value) -> Result<()> {
        let [records, bytes, subscriptions, token, principal] = freed.tuple()?;
        let counts = &self.counts;
        add(&counts.sessions, -1);
        add(&counts.queued_messages, -records.number()?);
        add(&counts.queued_bytes, -bytes.number()?);
        add(&counts.subscriptions, -subscriptions.number()?);
        if let (Some(token), Some(principal)) = (token.maybe_count()?, principal.maybe()) {
            let principal = Principal(principal.text()?.into());
            self.leave_seat(&Seat::of_session(&principal, client_id, token));
        }
        Ok(())
    }

    /// Refuses public calls from now on. True if it did before.
    pub(super) fn refuse_from_now(&self) -> bool {
        self.router.life.close();
        self.is_closed.swap(true, Ordering::SeqCst)
    }

    /// Whether public calls are refused.
    pub(super) fn is_refusing(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Waits until everything that was called is answered and nothing is under way.
    pub(super) async fn settled(&self) {
        while self.unanswered.load(Ordering::SeqCst) > 0 || self.waiting_bytes.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(SETTLE_INTERVAL).await;
        }
    }

    /// Lets a public call in: `None` if it was refused and is answered. The answer is to be given to what this returns.
    pub(super) fn admit<T: Send + 'static>(self: &Arc<Self>, done: Done<T>) -> Option<Done<T>> {
        self.admit_call(done, true)
    }

    /// The same for a call that goes on however much waits, since it is small and others depend on it.
    pub(super) fn admit_always<T: Send + 'static>(self: &Arc<Self>, done: Done<T>) -> Option<Done<T>> {
        self.admit_call(done, false)
    }

    fn admit_call<T: Send + 'static>(self: &Arc<Self>, done: Done<T>, is_bounded: bool) -> Option<Done<T>> {
        self.unanswered.fetch_add(1, Ordering::SeqCst);
        let refusal = if self.is_closed.load(Ordering::SeqCst) {
            Some(StoreError::Closed)
        } else if is_bounded && self.waiting_bytes.load(Ordering::Relaxed) > self.config.call_bytes_max {
            Some(Fault::Backlog.into())
        } else {
            None
        };
        if let Some(error) = refusal {
            self.unanswered.fetch_sub(1, Ordering::SeqCst);
            done(Err(error));
            return None;
        }
        let engine = Arc::clone(self);
        Some(Box::new(move |result| {
            // Counted down even if the receiver panics.
            let _counted = Counted(&engine.unanswered);
            done(result);
        }))
    }

    /// Puts operations into lanes; see [`Order::submit`].
    pub(super) fn submit(
        self: &Arc<Self>,
        gates: Vec<Gate>,
        make: impl FnOnce(Ticket) -> Vec<(Bucket, Pending)>,
    ) {
        let idle = self.order.submit(gates, |ticket| {
            let operations = make(ticket);
            let bytes: usize = operations.iter().map(|(_, pending)| pending.bytes()).sum();
            self.waiting_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
            operations
        });
        for bucket in idle {
            let engine = Arc::clone(self);
            self.runtime.spawn(async move { engine.drive(bucket).await });
        }
    }

    /// An operation that follows from an answer, which is being read; see [`Order::follow`].
    pub(super) fn follow(&self, bucket: Bucket, pending: Pending) {
        self.waiting_bytes.fetch_add(pending.bytes() as u64, Ordering::SeqCst);
        self.order.follow(bucket, pending);
    }

    /// One operation, whose answer lines up with the others of its bucket.
    pub(super) fn one<T: Send + 'static>(
        self: &Arc<Self>,
        bucket: Bucket,
        op: Op,
        done: Done<T>,
        read: impl FnOnce(&Arc<Self>, Value) -> Result<T> + Send + 'static,
    ) {
        if let Some(done) = self.admit(done) {
            self.one_admitted(bucket, op, done, read);
        }
    }

    /// The same for a call that was let in.
    pub(super) fn one_admitted<T: Send + 'static>(
        self: &Arc<Self>,
        bucket: Bucket,
        op: Op,
        done: Done<T>,
        read: impl FnOnce(&Arc<Self>, Value) -> Result<T> + Send + 'static,
    ) {
        self.submit(vec![Gate::Bucket(bucket)], |ticket| {
            let engine = Arc::clone(self);
            let then = Box::new(move |answer: Result<Value>| {
                let result = answer.and_then(|answer| read(&engine, answer));
                engine.order.complete(ticket, Box::new(move || done(result)));
            });
            vec![(bucket, Pending::Op(op, then))]
        });
    }

    /// A change of queues, whose answer lines up with the others of its bucket.
    pub(super) fn change(
        self: &Arc<Self>,
        bucket: Bucket,
        change: QueueChange,
        done: impl FnOnce(Result<Outcomes>) + Send + 'static,
    ) {
        self.submit(vec![Gate::Bucket(bucket)], |ticket| {
            let engine = Arc::clone(self);
            let then = Box::new(move |outcomes: Result<Outcomes>| {
                engine.order.complete(ticket, Box::new(move || done(outcomes)));
            });
            vec![(bucket, Pending::Change(change, then))]
        });
    }

    /// One operation in its lane, whose answer is for a task.
    pub(super) fn ask(self: &Arc<Self>, bucket: Bucket, op: Op) -> Asked {
        let (sender, receiver) = oneshot::channel();
        let then = Box::new(move |answer| {
            sender.send(answer).ok();
        });
        self.submit(Vec::new(), |_| vec![(bucket, Pending::Op(op, then))]);
        Asked(receiver)
    }

    async fn drive(self: Arc<Self>, bucket: Bucket) {
        let slot = bucket.slot();
        while let Some(call) = self.order.next_call(bucket) {
            let bytes: usize = call.operations.iter().map(Pending::bytes).sum();
            let frame = Frame {
                keys: &self.keys,
                library: &self.router.library,
                bucket,
                run: &self.run,
                number: call.is_numbered.then_some(call.number),
            };
            let command = Arc::new(frame.command(&call.operations));
            let must_be_known = call.operations.iter().any(Pending::adds);
            let answers = match self.carry_out(slot, command, call.is_numbered, must_be_known).await {
                Ok(answer) => call::read(&call.operations, answer),
                Err(fault) => Err(fault.into()),
            };
            self.router.life.ended(answers.is_ok());
            if answers.is_ok() {
                self.router.topology.found();
            }
            match answers {
                Ok((answers, added)) => {
                    add(&self.counts.queued_messages, added.records);
                    add(&self.counts.queued_bytes, added.bytes);
                    for (pending, answer) in call.operations.into_iter().zip(answers) {
                        pending.answer(answer);
                    }
                }
                Err(error) => {
                    for pending in call.operations {
                        pending.fail(error.clone());
                    }
                }
            }
            self.waiting_bytes.fetch_sub(bytes as u64, Ordering::SeqCst);
        }
    }

    async fn carry_out(
        &self,
        slot: u16,
        command: Arc<Cmd>,
        is_numbered: bool,
        must_be_known: bool,
    ) -> std::result::Result<Value, Fault> {
        let kept = if is_numbered { Kept::Yes } else { Kept::No };
        let mut call = std::pin::pin!(self.router.call(slot, command, kept, must_be_known));
        tokio::select! {
            biased;
            answer = &mut call => answer,
            () = tokio::time::sleep(OVERDUE) => {
                let _overdue = self.router.life.overdue();
                call.await
            }
        }
    }

    /// A call without a number, with one operation, outside of the lanes.
    pub(super) fn unnumbered_command(&self, op: &Op) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(&self.router.library.read).arg(op.keys.len());
        for key in &op.keys {
            command.arg(key);
        }
        command.arg(op.name).arg(op.keys.len()).arg(op.args.len());
        op.args.each(|arg| {
            command.arg(arg);
        });
        command
    }

    pub(super) fn stats(&self) -> StoreStats {
        let counts = &self.counts;
        StoreStats {
            sessions: read(&counts.sessions),
            queued_messages: read(&counts.queued_messages),
            queued_bytes: read(&counts.queued_bytes),
            retained_messages: read(&counts.retained_messages),
            retained_bytes: read(&counts.retained_bytes),
            subscriptions: read(&counts.subscriptions),
        }
    }
}

struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An answer that is on its way.
pub(super) struct Asked(oneshot::Receiver<Result<Value>>);

impl Asked {
    pub(super) async fn answer(self) -> Result<Value> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Differs from call to call and from process to process.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8)
}
