//! What workers that share a store in Redis have in common. The registry and the log are in one slot, each inbox in its
//! own; what is stored: `docs/state.md`. Writes go through the lanes like those of the store; a lease has a lane of its
//! own; reads that wait have a connection of their own ([`follower`]).

mod burial;
mod follower;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Value;

use super::RedisStore;
use super::engine::Engine;
use super::fault::Fault;
use super::keys::Bucket;
use super::op::{Op, ReadAnswer, Result};
use super::operations::{AppendOp, JoinOp, ListeningOp, OpenInboxOp, PostOp, RenewOp, ShutInboxOp, word};
use super::stored::read_run;
use crate::{
    Burial, Cluster, Cursor, Done, Heard, InboxPage, Joined, Lease, LeftInInbox, Listener, ListeningPage,
    LogPage, Member, Noted, Placed, Position, RouteChange, StoreError, WorkerId,
};
use burial::run_of;
use follower::{Follower, Source};

/// An entry of the log is closed when it has this many changes.
const CHANGES_MAX: usize = 256;
/// Routes of one page, at the most.
const ROUTES_MAX: usize = 1000;
/// In place of how far a worker has applied the log, while it is reading all routes: behind everything.
const LOADING: u64 = (1 << 53) - 1;
/// The longest wait of one read.
const WAIT_MS_MAX: u64 = 60_000;

const DAMAGED: StoreError = StoreError::Damaged { what: "registry of workers" };

/// What the worker of a [`RedisStore`] has in common with others.
pub struct RedisCluster {
    engine: Arc<Engine>,
    log: Arc<Follower>,
    inbox: Arc<Follower>,
    /// When it joined last, as its entry in the registry says.
    joined_us: Arc<AtomicU64>,
}

impl RedisStore {
    /// What this worker has in common with others. Its store is to be configured as shared
    /// ([`super::RedisConfig::is_shared`]).
    pub fn cluster(&self) -> Arc<RedisCluster> {
        let engine = Arc::clone(&self.engine);
        let run = engine.worker.0;
        let mut log_end = redis::cmd("GET");
        log_end.arg(engine.keys.of_cluster().log_end());
        let mut inbox_end = redis::cmd("HGET");
        inbox_end.arg(engine.keys.of_inbox(run).counters()).arg("n");
        let log = Follower::new(Source::Log, Bucket::Cluster.slot(), engine.keys.of_cluster().log(), log_end);
        let inbox = Follower::new(
            Source::Inbox,
            Bucket::Inbox(run).slot(),
            engine.keys.of_inbox(run).inbox(),
            inbox_end,
        );
        Arc::new(RedisCluster {
            engine,
            log: Arc::new(log),
            inbox: Arc::new(inbox),
            joined_us: Arc::default(),
        })
    }
}

impl RedisCluster {
    /// Runs a call of several steps.
    fn run<T: Send + 'static>(&self, done: Done<T>, call: impl Future<Output = Result<T>> + Send + 'static) {
        let Some(done) = self.engine.admit_always(done) else { return };
        self.engine.runtime.spawn(async move { done(call.await) });
    }

    fn append_op(&self, changes: &[RouteChange]) -> Op {
        let entries: Vec<&[RouteChange]> = changes
            .chunk_by(|a, b| is_of_worker(a) == is_of_worker(b))
            .flat_map(|alike| alike.chunks(CHANGES_MAX))
            .collect();
        let mut written = Vec::new();
        for entry in &entries {
            let is_of_worker = entry.iter().any(is_of_worker);
            written.extend([vec![if is_of_worker { b'1' } else { b'0' }], wire::changes(entry)]);
        }
        for change in changes {
            let (worker, filter, gets) = match change {
                RouteChange::Listening(Listener { worker, filter, wants }) => {
                    (worker, filter, vec![wire::wants(*wants)])
                }
                RouteChange::Deaf { worker, filter } => (worker, filter, Vec::new()),
                _ => continue,
            };
            written.extend([format!("{}{filter}", run_of(*worker)).into_bytes(), gets]);
        }
        AppendOp {
            run: &self.engine.run,
            entries_max: self.engine.config.route_log_entries_max,
            entries_count: entries.len() as u64,
            entries: written,
        }
        .on(&self.engine.keys.of_cluster())
    }
}

/// Whether a change is of what a worker listens to.
fn is_of_worker(change: &RouteChange) -> bool {
    matches!(change, RouteChange::Listening(_) | RouteChange::Deaf { .. })
}

impl Cluster for RedisCluster {
    fn id(&self) -> WorkerId {
        self.engine.worker
    }

    fn join(&self, done: Done<Joined>) {
        let (engine, log, inbox) = (Arc::clone(&self.engine), Arc::clone(&self.log), Arc::clone(&self.inbox));
        let op = JoinOp { run: &engine.run, name: &engine.config.worker }.on(&engine.keys.of_cluster());
        let joined = Arc::clone(&self.joined_us);
        self.run(done, async move {
            log.prepare(&engine).await?;
            inbox.prepare(&engine).await?;
            let answer = engine.ask(Bucket::Cluster, op).answer().await?;
            if said(&answer, word::BURIED) {
                return Err(Fault::Buried.into());
            }
            let [log_end, joined_us] = answer.tuple()?;
            let joined_us = joined_us.count()?;
            joined.store(joined_us, Ordering::Relaxed);
            // Only now: while it is buried, its inbox is to stay shut.
            let run = engine.worker.0;
            let open = OpenInboxOp { joined_us }.on(&engine.keys.of_inbox(run));
            engine.ask(Bucket::Inbox(run), open).answer().await?;
            Ok(Joined { log_end: Position(log_end.count()?) })
        });
    }

    fn renew(&self, applied: Option<Position>, lease_ms: u64, done: Done<Lease>) {
        let Some(done) = self.engine.admit_always(done) else { return };
        let applied = applied.map_or(LOADING, |applied| applied.0);
        let server = self.log.server();
        let op = RenewOp { run: &self.engine.run, applied, lease_ms, server: &server }
            .on(&self.engine.keys.of_cluster());
        self.engine.one_admitted(Bucket::Lease, op, done, |engine, answer| {
            let lease = read_lease(answer)?;
            let live = lease.members.iter().filter(|member| member.is_live).map(|member| member.id);
            engine.hints.live(engine.worker, live);
            Ok(lease)
        });
    }

    fn leave(&self, done: Done<()>) {
        let engine = Arc::clone(&self.engine);
        let joined_us = self.joined_us.load(Ordering::Relaxed);
        self.run(done, async move { engine.leave(joined_us).await });
    }

    fn append(&self, changes: Vec<RouteChange>, done: Done<Position>) {
        let op = self.append_op(&changes);
        self.engine.one(Bucket::Cluster, op, done, |_, answer| Ok(Position(answer.count()?)));
    }

    fn read_log(&self, after: Position, wait_ms: u64, done: Done<LogPage>) {
        let (engine, log) = (Arc::clone(&self.engine), Arc::clone(&self.log));
        let wait = Duration::from_millis(wait_ms.min(WAIT_MS_MAX));
        self.run(done, async move {
            let found = log.read(&engine, after.0, wait).await?;
            let mut page = LogPage { changes: Vec::new(), has_gap: found.has_gap };
            for (place, entry) in found.entries {
                let changes = wire::read_changes(&entry)?;
                let position = Position(place);
                page.changes.extend(changes.into_iter().map(|what| Placed { position, what }));
            }
            Ok(page)
        });
    }

    fn listening(&self, cursor: Option<Cursor>, routes_max: usize, done: Done<ListeningPage>) {
        let routes_max = routes_max.clamp(1, ROUTES_MAX);
        let after = cursor.map_or_else(Vec::new, |cursor| cursor.0.into_vec());
        let op = ListeningOp { after, routes_max: routes_max as u64 }.on(&self.engine.keys.of_cluster());
        self.engine.one(Bucket::Cluster, op, done, move |_, answer| read_listening(answer, routes_max));
    }

    fn post(&self, to: WorkerId, notes: Vec<Noted>, done: Done<Heard>) {
        let op = PostOp { bytes_max: self.engine.config.inbox_bytes_max, entry: wire::notes(&notes) }
            .on(&self.engine.keys.of_inbox(to.0));
        self.engine.one(Bucket::Inbox(to.0), op, done, |_, answer| match answer {
            Value::BulkString(said) if said == [word::GONE] => Ok(Heard::Gone),
            Value::BulkString(said) if said == [word::FULL] => Ok(Heard::Full),
            _ => Ok(Heard::Yes),
        });
    }

    fn read_inbox(&self, after: Position, wait_ms: u64, done: Done<InboxPage>) {
        let (engine, inbox) = (Arc::clone(&self.engine), Arc::clone(&self.inbox));
        let wait = Duration::from_millis(wait_ms.min(WAIT_MS_MAX));
        self.run(done, async move {
            let found = inbox.read(&engine, after.0, wait).await?;
            let mut page = InboxPage { notes: Vec::new(), has_gap: found.has_gap };
            for (place, entry) in found.entries {
                let notes = wire::read_notes(&entry)?;
                let position = Position(place);
                page.notes.extend(notes.into_iter().map(|what| Placed { position, what }));
            }
            Ok(page)
        });
    }

    fn shut_inbox(&self, done: Done<Position>) {
        let run = self.engine.worker.0;
        let joined_us = self.joined_us.load(Ordering::Relaxed);
        let op = ShutInboxOp { joined_us }.on(&self.engine.keys.of_inbox(run));
        self.engine.one(Bucket::Inbox(run), op, done, |_, answer| Ok(Position(answer.count()?)));
    }

    fn bury(&self, burial: Burial, done: Done<Vec<Placed<LeftInInbox>>>) {
        let engine = Arc::clone(&self.engine);
        self.run(done, async move { engine.bury(burial).await });
    }
}

/// Whether the answer is this letter.
fn said(answer: &Value, letter: u8) -> bool {
    matches!(answer, Value::BulkString(said) if said == &[letter])
}

fn read_lease(answer: Value) -> Result<Lease> {
    let [is_expelled, log_end, members, now_us, is_elsewhere] = answer.tuple()?;
    let read = |member: Value| {
        let [run, name, applied, is_live, silent_ms] = member.tuple()?;
        Ok(Member {
            id: read_run(run)?,
            name: Arc::from(name.text()?),
            applied: Some(applied.count()?).filter(|applied| *applied < LOADING).map(Position),
            is_live: is_live.count()? == 1,
            silent_ms: silent_ms.count()?,
        })
    };
    Ok(Lease {
        members: members.list()?.into_iter().map(read).collect::<Result<_>>()?,
        log_end: Position(log_end.count()?),
        is_expelled: is_expelled.count()? == 1,
        is_elsewhere: is_elsewhere.count()? == 1,
        now_us: now_us.count()?,
    })
}

fn read_listening(answer: Value, routes_max: usize) -> Result<ListeningPage> {
    let mut values = answer.list()?.into_iter();
    let mut page = ListeningPage::default();
    let mut last = None;
    while let (Some(name), Some(gets)) = (values.next(), values.next()) {
        let name = name.text()?;
        let (run, filter) = name.split_at_checked(16).ok_or(DAMAGED)?;
        let worker = u64::from_str_radix(run, 16).map(WorkerId).map_err(|_| DAMAGED)?;
        let gets = gets.bytes()?;
        let wants = gets.first().and_then(|&wants| wire::read_wants(wants)).ok_or(DAMAGED)?;
        page.listeners.push(Listener { worker, filter: Arc::from(filter), wants });
        last = Some(name);
    }
    if page.listeners.len() >= routes_max {
        page.next = last.map(|name| Cursor(name.into_bytes().into()));
    }
    Ok(page)
}
