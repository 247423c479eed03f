//! Fills a Redis of the caller's and measures it: memory for each item, time to load the routes, a wildcard read among many
//! retained messages, QoS 1 enqueueing beside raw pipelined XADD, and the slowest commands. Everything it writes stays.
//!
//! `cargo run --release -p tidegate-state --example redis_scale redis://127.0.0.1:6379 [sessions] [retained messages]`

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use mqtt::QoS;
use state::testing::publish_to;
use state::{
    Claim, ConnectionId, Done, Message, QueueLimits, RedisConfig, RedisStore, Secret, Store, StoreError,
    StoredSession, Subscription, SubscriptionOptions, testing,
};

type Failure = Box<dyn std::error::Error>;

const SUBSCRIPTIONS_PER_SESSION: usize = 10;
const QUEUED_PER_SESSION: usize = 1;
const PAYLOAD_BYTES: usize = 128;
/// Calls that wait for their answer at the same time.
const WINDOW: usize = 2000;
const ENQUEUES: usize = 100_000;

/// Answers in the order of the calls, at most [`WINDOW`] of them outstanding.
struct Answers<T> {
    waiting: std::collections::VecDeque<Receiver<Result<T, StoreError>>>,
    found: Vec<T>,
}

impl<T: Send + 'static> Answers<T> {
    fn new() -> Self {
        Self { waiting: std::collections::VecDeque::new(), found: Vec::new() }
    }

    fn call(&mut self, call: impl FnOnce(Done<T>)) -> Result<(), Failure> {
        let (sender, receiver) = channel();
        call(Box::new(move |result| {
            sender.send(result).ok();
        }));
        self.waiting.push_back(receiver);
        if self.waiting.len() >= WINDOW { self.take() } else { Ok(()) }
    }

    fn take(&mut self) -> Result<(), Failure> {
        if let Some(answer) = self.waiting.pop_front() {
            self.found.push(answer.recv()??);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<T>, Failure> {
        while !self.waiting.is_empty() {
            self.take()?;
        }
        Ok(self.found)
    }
}

fn message(topic: &str) -> Arc<Message> {
    Arc::new(Message::new(topic, &[], &[7; PAYLOAD_BYTES], QoS::AtLeastOnce, true, 1))
}

fn claim(n: usize) -> Claim {
    let limits = QueueLimits { messages_max: 1_000_000, bytes_max: u64::MAX };
    Claim { connection_id: ConnectionId(n as u128), limits, ..testing::claim(&format!("device-{n:08}")) }
}

fn subscriptions(n: usize) -> Vec<Subscription> {
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
    };
    (0..SUBSCRIPTIONS_PER_SESSION)
        .map(|m| Subscription { filter: Arc::from(format!("fleet/{n:08}/command/{m}/#")), options })
        .collect()
}

/// A connection that asks the server about itself.
struct Server(redis::Connection);

impl Server {
    fn memory(&mut self) -> Result<u64, Failure> {
        let info: String = redis::cmd("INFO").arg("memory").query(&mut self.0)?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(line.unwrap_or("0").trim().parse()?)
    }

    /// Runs a step and says what it took.
    fn step(
        &mut self,
        what: &str,
        items: usize,
        run: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (before, start) = (self.memory()?, Instant::now());
        run()?;
        let seconds = start.elapsed().as_secs_f64();
        let bytes = self.memory()?.saturating_sub(before) / items.max(1) as u64;
        println!("{what}: {items} in {seconds:.2} s, {:.0}/s, {bytes} B each", items as f64 / seconds);
        Ok(())
    }
}

fn fill(
    store: &RedisStore,
    server: &mut Server,
    sessions: usize,
) -> Result<Vec<Arc<StoredSession>>, Failure> {
    let mut owners = Vec::new();
    server.step("sessions", sessions, || {
        let mut answers = Answers::new();
        for n in 0..sessions {
            answers.call(|done| store.claim(claim(n), done))?;
        }
        owners = answers.finish()?;
        Ok(())
    })?;
    let fences: Vec<_> =
        owners.into_iter().filter_map(|claimed| claimed.session).map(|owned| owned.fence).collect();
    server.step("subscriptions", sessions * SUBSCRIPTIONS_PER_SESSION, || {
        let mut answers = Answers::new();
        for (n, fence) in fences.iter().enumerate() {
            answers.call(|done| store.subscribe(fence, subscriptions(n), done))?;
        }
        answers.finish().map(drop)
    })?;
    server.step("queued messages", sessions * QUEUED_PER_SESSION, || {
        let mut answers = Answers::new();
        for fence in &fences {
            for _ in 0..QUEUED_PER_SESSION {
                answers.call(|done| {
                    store.publish(publish_to(&[&fence.session], &message("fleet/command")), done);
                })?;
            }
        }
        answers.finish().map(drop)
    })?;
    Ok(fences.into_iter().map(|fence| fence.session).collect())
}

fn read_routes(store: &RedisStore) -> Result<(), Failure> {
    let (start, mut found, mut cursor) = (Instant::now(), 0, None);
    loop {
        let (sender, receiver) = channel();
        store.routes(cursor.take(), 10_000, Box::new(move |page| drop(sender.send(page))));
        let page = receiver.recv()??;
        found += page.sessions.iter().map(|routes| routes.subscriptions.len()).sum::<usize>();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    println!("routes: {found} loaded in {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn read_wildcard(store: &RedisStore, filter: &str) -> Result<(), Failure> {
    let (start, mut found, mut cursor) = (Instant::now(), 0, None);
    loop {
        let (sender, receiver) = channel();
        store.retained(filter, cursor.take(), 1000, 2, Box::new(move |page| drop(sender.send(page))));
        let page = receiver.recv()??;
        found += page.messages.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    println!("retained {filter}: {found} read in {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn enqueue(store: &RedisStore, server: &mut Server, sessions: &[Arc<StoredSession>]) -> Result<(), Failure> {
    let body = message("fleet/command");
    let start = Instant::now();
    let mut pipeline = redis::pipe();
    for n in 0..ENQUEUES {
        pipeline
            .cmd("XADD")
            .arg(format!("raw:{}", n % 1000))
            .arg("*")
            .arg("d")
            .arg(body.payload_slice())
            .ignore();
        if n % 100 == 99 {
            pipeline.query::<()>(&mut server.0)?;
            pipeline.clear();
        }
    }
    let raw = ENQUEUES as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut answers = Answers::new();
    for session in sessions.iter().cycle().take(ENQUEUES) {
        answers.call(|done| store.publish(publish_to(&[session], &body), done))?;
    }
    answers.finish()?;
    let enqueued = ENQUEUES as f64 / start.elapsed().as_secs_f64();
    println!(
        "raw XADD, 100 in a pipeline: {raw:.0}/s; enqueued at QoS 1: {enqueued:.0}/s, {:.2} of it",
        enqueued / raw
    );
    Ok(())
}

fn run() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let url = args.next().ok_or("a URL is needed")?;
    let sessions: usize = args.next().as_deref().unwrap_or("100000").parse()?;
    let retained: usize = args.next().as_deref().unwrap_or("1000000").parse()?;
    let mut server = Server(redis::Client::open(url.as_str())?.get_connection()?);
    redis::cmd("SLOWLOG").arg("RESET").query::<()>(&mut server.0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let config = RedisConfig { nodes: vec![Secret::new(url.as_str())], ..RedisConfig::default() };
    let store = runtime.block_on(RedisStore::connect(config.clone()))?;
    let owners = fill(&store, &mut server, sessions)?;
    server.step("retained messages", retained, || {
        let mut answers = Answers::new();
        for n in 0..retained {
            let site = n * 100 / retained.max(1);
            let topic = format!("site/{site}/sensor/{n:08}");
            answers.call(|done| store.retain(message(&topic), done))?;
        }
        answers.finish().map(drop)
    })?;
    read_routes(&store)?;
    read_wildcard(&store, "site/7/sensor/+")?;
    read_wildcard(&store, "+/+/sensor/00000001")?;
    enqueue(&store, &mut server, &owners)?;
    let start = Instant::now();
    let other = RedisConfig { worker: "another".to_owned(), is_shared: true, ..config };
    drop(runtime.block_on(RedisStore::connect(other))?);
    println!("another worker starts in {:.2} s", start.elapsed().as_secs_f64());
    let slow: Vec<redis::Value> = redis::cmd("SLOWLOG").arg("GET").arg(3).query(&mut server.0)?;
    println!("commands over slowlog-log-slower-than: {}", slow.len());
    for entry in slow {
        let text: String = format!("{entry:?}").chars().take(160).collect();
        println!("  {text}");
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
