//! Follows a log or an inbox on a connection of its own, on which it waits. Places are dense, so what was trimmed shows; and
//! when another server answers than before, its last entries may be others than those that were read.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::Mutex;

use super::super::engine::Engine;
use super::super::fault::Fault;
use super::super::node::{Node, describe};
use super::super::op::{ReadAnswer, Result};
use super::super::operations::TrimOp;
use crate::StoreError;

/// Entries of a page.
const ENTRIES_MAX: usize = 64;
/// How much longer than asked for a read may take while the server cannot be reached.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// What was read of an inbox is thrown away when it is so many bytes, or has lain there for so long.
const TRIM_BYTES: u64 = 1024 * 1024;
const TRIM_AFTER: Duration = Duration::from_secs(1);

const DAMAGED: StoreError = StoreError::Damaged { what: "stream" };

/// Entries with their places.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) entries: Vec<(u64, Vec<u8>)>,
    /// Something may be missing, or come twice.
    pub(super) has_gap: bool,
}

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// After a gap everything is loaded anew: there is nothing to read.
    Log,
    /// After a gap, what is there is read.
    Inbox,
}

/// Reads a stream, one read at a time.
pub(super) struct Follower {
    source: Source,
    slot: u16,
    key: String,
    /// Asks where the stream ends.
    end: Cmd,
    state: Mutex<State>,
    /// The run of the server with whose entries the caller is done, as far as it has read them.
    followed: parking_lot::Mutex<Option<String>>,
}

#[derive(Default)]
struct State {
    stream: Option<StreamConnection>,
    /// The run of the server that answered last.
    server: Option<String>,
    has_gap: bool,
    /// The caller is at `told`, but the stream has gone back: it is read from `real`.
    rewound: Option<Rewound>,
    /// What was read and not thrown away: bytes, and since when.
    read: u64,
    trimmed_at: Option<Instant>,
}

impl State {
    /// Whether what was read is to be thrown away now.
    fn is_trim_due(&self, bytes_max: u64) -> bool {
        // A small inbox would be full of what was read.
        self.read >= TRIM_BYTES.min(bytes_max / 8)
            || (self.read > 0 && self.trimmed_at.is_none_or(|at| at.elapsed() >= TRIM_AFTER))
    }
}

#[derive(Clone, Copy)]
struct Rewound {
    told: u64,
    real: u64,
}

/// The connection on which a stream is read, to the server that has it.
struct StreamConnection {
    node: std::sync::Arc<Node>,
    connection: MultiplexedConnection,
    /// Where the stream ended when the connection was made, until that was looked at.
    end: Option<u64>,
}

impl Follower {
    pub(super) fn new(source: Source, slot: u16, key: String, end: Cmd) -> Self {
        Self { source, slot, key, end, state: Mutex::default(), followed: parking_lot::Mutex::default() }
    }

    /// Connects, so that what happens to the server from here on shows as a gap.
    pub(super) async fn prepare(&self, engine: &Engine) -> Result<()> {
        let mut state = self.state.lock().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connect(engine, &mut state).await {
                Ok(()) => {
                    // The stream goes on before the first read: that place says nothing then.
                    if let Some(stream) = &mut state.stream {
                        stream.end = None;
                    }
                    self.note_followed(&state);
                    return Ok(());
                }
                Err(fault) => self.pause(engine, &mut state, deadline, fault).await?,
            }
        }
    }

    /// What comes after a place; waits for it.
    pub(super) async fn read(&self, engine: &Engine, after: u64, wait: Duration) -> Result<Entries> {
        let mut state = self.state.lock().await;
        self.note_followed(&state);
        let deadline = Instant::now() + wait + PATIENCE;
        loop {
            match self.try_read(engine, &mut state, after, wait).await {
                Ok(answer) => return answer,
                Err(fault) => self.pause(engine, &mut state, deadline, fault).await?,
            }
        }
    }

    /// The caller has done what the last answer said, if that told of a gap.
    fn note_followed(&self, state: &State) {
        if !state.has_gap {
            self.followed.lock().clone_from(&state.server);
        }
    }

    /// The run of the server whose entries the caller has followed, and no other's; empty before it has begun.
    pub(super) fn server(&self) -> String {
        self.followed.lock().clone().unwrap_or_default()
    }

    async fn pause(&self, engine: &Engine, state: &mut State, deadline: Instant, fault: Fault) -> Result<()> {
        state.stream = None;
        if Instant::now() >= deadline {
            return Err(fault.into());
        }
        tokio::time::sleep(PAUSE).await;
        // It fails while no server answers, which the next round finds out too.
        engine.router.topology.refresh().await.ok();
        Ok(())
    }

    async fn connect(&self, engine: &Engine, state: &mut State) -> std::result::Result<(), Fault> {
        if state.stream.is_some() {
            return Ok(());
        }
        let (node, connection) = engine.router.topology.connect_apart(self.slot).await?;
        let mut stream = StreamConnection { node, connection, end: None };
        let timeout = Duration::from_millis(engine.config.response_timeout_ms);
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let info =
            self.ask(engine, &mut stream, vec![info], timeout).await?.text().map_err(|_| Fault::Form)?;
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).ok_or(Fault::Form)?.to_owned();
        let end = self.ask(engine, &mut stream, vec![self.end.clone()], timeout).await?;
        stream.end = Some(end.maybe_count().map_err(|_| Fault::Form)?.unwrap_or(0));
        state.has_gap |= state.server.as_ref().is_some_and(|before| *before != run);
        state.server = Some(run);
        state.stream = Some(stream);
        Ok(())
    }

    /// Sends commands and answers what the last one did.
    async fn ask(
        &self,
        engine: &Engine,
        stream: &mut StreamConnection,
        commands: Vec<Cmd>,
        timeout: Duration,
    ) -> std::result::Result<Value, Fault> {
        let count = commands.len();
        let mut pipeline = Pipeline::with_capacity(count);
        for command in commands {
            pipeline.add_command(command);
        }
        let lost = |detail: String| Fault::Lost { node: stream.node.address.to_string(), detail };
        let answers =
            tokio::time::timeout(timeout, stream.connection.send_packed_commands(&pipeline, 0, count)).await;
        let answer = match answers {
            Err(_) => return Err(lost("no answer in time".to_owned())),
            Ok(Err(error)) => return Err(lost(describe(&error))),
            Ok(Ok(mut answers)) => answers.pop().ok_or(Fault::Form)?,
        };
        match answer {
            Value::ServerError(error) => Err(engine.router.heed(self.slot, &stream.node, &error)),
            answer => Ok(answer),
        }
    }

    async fn try_read(
        &self,
        engine: &Engine,
        state: &mut State,
        after: u64,
        wait: Duration,
    ) -> std::result::Result<Result<Entries>, Fault> {
        self.connect(engine, state).await?;
        let is_trim_due = state.is_trim_due(engine.config.inbox_bytes_max);
        let State { stream, has_gap, rewound, read, trimmed_at, .. } = state;
        let stream = stream.as_mut().ok_or(Fault::Form)?;
        *rewound = rewound.filter(|rewound| rewound.told == after);
        if let Some(end) = stream.end.take()
            && rewound.map_or(after, |rewound| rewound.real) > end
        {
            let real = if self.source == Source::Log { end } else { 0 };
            *rewound = Some(Rewound { told: after, real });
            *has_gap = true;
        }
        let from = rewound.map_or(after, |rewound| rewound.real);
        if *has_gap && self.source == Source::Log {
            *has_gap = false;
            return Ok(Ok(Entries { entries: Vec::new(), has_gap: true }));
        }
        let mut commands = Vec::with_capacity(2);
        if self.source == Source::Inbox && from > 0 && rewound.is_none() && is_trim_due {
            (*read, *trimmed_at) = (0, Some(Instant::now()));
            // On this connection, so that it is this server's entry. If it fails, the next one throws more away.
            let op = TrimOp { through: from }.on(&engine.keys.of_inbox(engine.worker.0));
            commands.push(engine.unnumbered_command(&op));
        }
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(ENTRIES_MAX);
        let wait_ms = wait.as_millis() as u64;
        if !*has_gap && wait_ms > 0 {
            command.arg("BLOCK").arg(wait_ms);
        }
        command.arg("STREAMS").arg(&self.key).arg(format!("{from}-0"));
        let timeout = wait + Duration::from_millis(engine.config.response_timeout_ms);
        commands.push(command);
        let answer = self.ask(engine, stream, commands, timeout).await?;
        let has_gap = std::mem::take(has_gap);
        Ok(read_entries(answer).map(|entries| {
            *read += entries.iter().map(|(_, entry)| entry.len() as u64 + 1).sum::<u64>();
            let is_trimmed = entries.first().is_some_and(|(first, _)| *first > from + 1);
            match self.source {
                Source::Log if is_trimmed => Entries { entries: Vec::new(), has_gap: true },
                _ => Entries { entries, has_gap: has_gap || is_trimmed },
            }
        }))
    }
}

/// `[[key, [[id, [field, value, ...]], ...]]]`, or nothing. The entry is in field `d`.
fn read_entries(answer: Value) -> Result<Vec<(u64, Vec<u8>)>> {
    let Some(answer) = answer.maybe() else { return Ok(Vec::new()) };
    let [stream] = answer.tuple()?;
    let [_, entries] = stream.tuple()?;
    read_list(entries)
}

/// `[[id, [field, value, ...]], ...]`.
pub(super) fn read_list(entries: Value) -> Result<Vec<(u64, Vec<u8>)>> {
    let read = |entry: Value| {
        let [id, fields] = entry.tuple()?;
        let id = id.text()?;
        let place = id.split('-').next().and_then(|place| place.parse().ok()).ok_or(DAMAGED)?;
        let mut fields = fields.list()?.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            if name.bytes()? == b"d" {
                return Ok((place, value.bytes()?));
            }
        }
        Err(DAMAGED)
    };
    entries.list()?.into_iter().map(read).collect()
}
