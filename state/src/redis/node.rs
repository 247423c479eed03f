//! One Redis node: its connection, made when needed and again with back-off, and the batches that go over it. It never
//! repeats a command; who sent it is told what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, Value};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::fault::Fault;
use super::replication::{Confirmed, Replication};

/// A batch is sent when it has this many commands,
const BATCH_COMMANDS_MAX: usize = 100;
/// or this many bytes, or nothing more waits.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// While this many batches are under way, what comes gathers into the next.
pub(super) const BATCHES_UNDER_WAY_MAX: usize = 4;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Whether a command is a write that replicas must have before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Yes,
    No,
}

struct Request {
    command: Arc<Cmd>,
    /// Send ASKING before it.
    asking: bool,
    answer: oneshot::Sender<Result<Value, Fault>>,
}

/// A node. Dropping the last reference ends its task and its connection.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Address,
    requests: mpsc::UnboundedSender<Request>,
    /// For writes that replicas must have: they have a connection to themselves.
    kept_requests: Option<mpsc::UnboundedSender<Request>>,
    is_connected: Arc<AtomicBool>,
}

/// How to connect.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) client: Client,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
}

impl Dial {
    /// Connects. An answer that takes longer than `response_timeout` breaks the connection.
    pub(super) async fn connect(
        &self,
        response_timeout: Option<Duration>,
    ) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(response_timeout);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        // The time-out of the library covers the connection; this one also the commands that it begins with.
        match tokio::time::timeout(self.connect_timeout + self.response_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

impl Node {
    pub(super) fn new(address: Address, dial: &Dial, replication: Arc<Replication>) -> Self {
        let is_connected = Arc::new(AtomicBool::new(false));
        let copies = replication.is_on().then(|| Copies { replication, seen: Confirmed::default() });
        let begin = |is_connected, copies: Option<Copies>| {
            let (requests, queue) = mpsc::unbounded_channel();
            let driver = NodeDriver {
                name: address.to_string(),
                dial: dial.clone(),
                connection: None,
                retry_at: Instant::now(),
                backoff: BACKOFF_MIN,
                last_fault: Fault::Unreachable {
                    node: address.to_string(),
                    detail: "not connected yet".to_owned(),
                },
                is_connected,
                under_way: Arc::new(Semaphore::new(BATCHES_UNDER_WAY_MAX)),
                copies: copies.map(Arc::new),
            };
            tokio::spawn(driver.run(queue));
            requests
        };
        let requests = begin(Arc::clone(&is_connected), None);
        let kept_requests = copies.map(|copies| begin(Arc::default(), Some(copies)));
        Self { address, requests, kept_requests, is_connected }
    }

    /// Whether its connection was good when last used.
    pub(super) fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Sends a command and waits for its answer, which may be an error that the server gave.
    pub(super) async fn send(&self, command: Arc<Cmd>, asking: bool, kept: Kept) -> Result<Value, Fault> {
        let lost =
            || Fault::Lost { node: self.address.to_string(), detail: "the connection ended".to_owned() };
        let (answer, answered) = oneshot::channel();
        let requests = match (kept, &self.kept_requests) {
            (Kept::Yes, Some(requests)) => requests,
            _ => &self.requests,
        };
        requests.send(Request { command, asking, answer }).map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }
}

/// A connection that batches share; the first that fails breaks it for all.
struct SharedConnection {
    connection: MultiplexedConnection,
    broken: Mutex<Option<String>>,
}

/// Gathers requests for a node into batches, and sends them.
struct NodeDriver {
    name: String,
    dial: Dial,
    connection: Option<Arc<SharedConnection>>,
    /// Not before.
    retry_at: Instant,
    backoff: Duration,
    last_fault: Fault,
    is_connected: Arc<AtomicBool>,
    under_way: Arc<Semaphore>,
    copies: Option<Arc<Copies>>,
}

/// How many replicas a batch must reach, and what was seen of them.
struct Copies {
    replication: Arc<Replication>,
    seen: Confirmed,
}

impl NodeDriver {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Request>) {
        while let Some(first) = queue.recv().await {
            let Ok(permit) = Arc::clone(&self.under_way).acquire_owned().await else { return };
            let batch = gather(first, &mut queue);
            let Some(shared) = self.connection().await else {
                fail(batch, &self.last_fault);
                continue;
            };
            let (name, copies) = (self.name.clone(), self.copies.clone());
            tokio::spawn(async move {
                carry_out(&shared, &name, batch, copies.as_deref()).await;
                drop(permit);
            });
        }
    }

    async fn connection(&mut self) -> Option<Arc<SharedConnection>> {
        if let Some(shared) = &self.connection {
            let broken = shared.broken.lock().take();
            let Some(error) = broken else { return Some(Arc::clone(shared)) };
            tracing::warn!(node = %self.name, %error, "lost the connection to redis");
            self.connection = None;
            self.is_connected.store(false, Ordering::Relaxed);
        }
        if Instant::now() < self.retry_at {
            return None;
        }
        match self.dial.connect(Some(self.dial.response_timeout)).await {
            Ok(connection) => {
                self.backoff = BACKOFF_MIN;
                self.is_connected.store(true, Ordering::Relaxed);
                let shared = Arc::new(SharedConnection { connection, broken: Mutex::new(None) });
                self.connection = Some(Arc::clone(&shared));
                Some(shared)
            }
            Err(error) => {
                let (node, detail) = (self.name.clone(), describe(&error));
                self.last_fault = if error.kind() == ErrorKind::AuthenticationFailed {
                    Fault::Refused { node, detail }
                } else {
                    Fault::Unreachable { node, detail }
                };
                self.retry_at = Instant::now() + self.backoff;
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                None
            }
        }
    }
}

/// What an error says, which never holds what was sent.
pub(super) fn describe(error: &redis::RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, Some(detail)) => format!("{}: {detail}", error.category()),
        (None, None) => error.category().to_owned(),
    }
}

fn gather(first: Request, queue: &mut mpsc::UnboundedReceiver<Request>) -> Vec<Request> {
    let mut bytes = first.command.get_packed_command().len();
    let mut batch = vec![first];
    while batch.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.command.get_packed_command().len();
        batch.push(next);
    }
    batch
}

fn fail(batch: Vec<Request>, fault: &Fault) {
    for request in batch {
        request.answer.send(Err(fault.clone())).ok();
    }
}

async fn carry_out(shared: &SharedConnection, name: &str, batch: Vec<Request>, copies: Option<&Copies>) {
    let mut pipeline = Pipeline::with_capacity(batch.len() + 1);
    for request in &batch {
        if request.asking {
            pipeline.add_command(redis::cmd("ASKING"));
        }
        pipeline.add_command(Cmd::clone(&request.command));
    }
    if let Some(Copies { replication, seen }) = copies {
        let mut wait = redis::cmd("WAIT");
        wait.arg(replication.replicas).arg(replication.patience(seen).as_millis() as u64);
        pipeline.add_command(wait);
    }
    let mut connection = shared.connection.clone();
    let sent = Instant::now();
    let answers = match connection.send_packed_commands(&pipeline, 0, pipeline.len()).await {
        Ok(answers) if answers.len() == pipeline.len() => answers,
        Ok(_) => {
            *shared.broken.lock() = Some("answers are missing".to_owned());
            return fail(batch, &Fault::Form);
        }
        Err(error) => {
            let detail = describe(&error);
            *shared.broken.lock() = Some(detail.clone());
            return fail(batch, &Fault::Lost { node: name.to_owned(), detail });
        }
    };
    let mut answers = answers.into_iter();
    let mut short = None;
    if let Some(Copies { replication, seen }) = copies {
        replication.batches.observe(sent.elapsed());
        let have = match answers.next_back() {
            Some(Value::Int(have)) => u32::try_from(have).unwrap_or(0),
            // It is no master any more.
            _ => 0,
        };
        if !replication.confirmed(seen, name, have) {
            short = Some(Fault::Short { node: name.to_owned(), have, need: replication.replicas });
        }
    }
    for request in batch {
        if request.asking {
            answers.next();
        }
        let answer = match (answers.next(), &short) {
            (None, _) => Err(Fault::Form),
            (Some(error @ Value::ServerError(_)), _) => Ok(error),
            // It is sent again under its number, which writes what it did once more, and counts copies of that.
            (Some(_), Some(short)) => Err(short.clone()),
            (Some(answer), None) => Ok(answer),
        };
        request.answer.send(answer).ok();
    }
}
