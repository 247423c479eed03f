//! The store in Redis: a cluster, or a single server. All state is there; a worker keeps counts, hints about timers, and
//! calls under way. What is stored: `docs/state.md`. How calls are ordered: [`order`]; how they are repeated: [`router`].

mod call;
mod change;
mod claim;
mod clock;
mod cluster;
mod codec;
mod config;
mod crc16;
mod due;
mod engine;
mod expired;
mod fault;
mod functions;
mod hints;
mod keys;
mod life;
mod lines;
mod looks;
mod node;
mod op;
mod operations;
mod order;
mod publish;
mod queue;
mod received;
mod recovery;
mod replica;
mod replication;
mod retained;
mod router;
mod routes;
mod run;
mod seat;
mod seats;
mod settings;
mod stored;
mod topology;

use std::sync::{Arc, Weak};
use std::time::Duration;

use mqtt::PacketId;

pub use cluster::RedisCluster;
pub use config::{ConnectError, RedisConfig, Secret, WhenShort};
pub use replica::ReplicaLag;

use crate::{
    Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, DurationCounts, Fence, Message, Number, Publish,
    Published, QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession,
    Subscription, UnixMs,
};
use change::Settled;
use engine::{Engine, Timed};
use keys::Keys;
use life::Life;
use router::Router;
use topology::Topology;

/// A store in Redis. Answers are given on tasks of the runtime that it was connected on.
pub struct RedisStore {
    engine: Arc<Engine>,
}

impl RedisStore {
    /// Connects, loads the functions, checks Redis's settings, and lets go of the sessions that an earlier run of this
    /// worker owned. What is due is decided by Redis's clocks: the `now` of calls says nothing, but when to look.
    ///
    /// # Errors
    /// See [`ConnectError`]. Not cancel safe: what was taken over stays so.
    pub async fn connect(config: RedisConfig) -> Result<Self, ConnectError> {
        Self::connect_by(Timed::ByServer, config, 0).await
    }

    /// As [`RedisStore::connect`], by the clock of the caller: sessions of the earlier run are let go as of `now`, and what is
    /// due is decided by the `now` of each call. For tests.
    ///
    /// # Errors
    /// See [`ConnectError`].
    #[cfg(feature = "testing")]
    pub async fn connect_at(config: RedisConfig, now: UnixMs) -> Result<Self, ConnectError> {
        Self::connect_by(Timed::ByCaller, config, now).await
    }

    async fn connect_by(timed: Timed, config: RedisConfig, now: UnixMs) -> Result<Self, ConnectError> {
        config.validate()?;
        let keys = Keys::new(&config.key_prefix);
        let router = Router::new(Topology::new(&config)?, Life::new(config.retry_budget_ms));
        settings::prepare(&router, &keys, &config).await?;
        let worker = run::choose(&router.topology, &keys).await;
        let engine = Arc::new(Engine::new(config, timed, keys, router, worker));
        engine.recover(now).await.map_err(ConnectError::Recovery)?;
        engine.router.life.start();
        let weak = Arc::downgrade(&engine);
        let interval = Duration::from_millis(engine.config.topology_interval_ms);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(engine) = weak.upgrade() else { return };
                if let Err(error) = engine.router.topology.refresh().await {
                    tracing::debug!(%error, "cannot see which redis node has which slots");
                }
            }
        });
        tokio::spawn(follow_replicas(Arc::downgrade(&engine)));
        Ok(Self { engine })
    }

    /// Batches of writes that were accepted although fewer replicas than wanted had them ([`WhenShort::Degrade`]).
    pub fn degraded_batches(&self) -> u64 {
        self.engine.router.topology.replication().degraded()
    }

    /// How long batches of writes took, from when they were sent until as many replicas as are wanted have them; `None` if copies
    /// are not counted.
    pub fn batches(&self) -> Option<DurationCounts> {
        let replication = self.engine.router.topology.replication();
        replication.is_on().then(|| replication.batches.read())
    }

    /// How far the replicas of each master are behind it, as of a few seconds ago.
    pub fn replica_lags(&self) -> Vec<ReplicaLag> {
        self.engine.replicas.heard()
    }

    /// Has the store take the clocks of all servers for others, by so many milliseconds: for tests.
    #[cfg(feature = "testing")]
    pub fn mistake_clocks(&self, by_ms: i64) {
        self.engine.clocks.mistake(by_ms);
    }

    /// Whether calls get no answer from Redis: some have waited for one and a half seconds, the last one that ended had none,
    /// or no node answers at all.
    pub fn is_failing(&self) -> bool {
        self.engine.router.life.is_failing() || self.engine.router.topology.is_lost()
    }
}

/// Asks masters for their replicas as long as the store is there.
async fn follow_replicas(engine: Weak<Engine>) {
    while let Some(engine) = engine.upgrade() {
        engine.replicas.ask_all(&engine.router.topology).await;
        drop(engine);
        tokio::time::sleep(replica::ASK_INTERVAL).await;
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.engine.refuse_from_now();
    }
}

/// Calls of a store that the engine carries out.
macro_rules! by_engine {
    ($($call:ident($($argument:ident: $type:ty),*) -> $answer:ty => $how:ident($($given:expr),*);)*) => {$(
        fn $call(&self, $($argument: $type,)* done: Done<$answer>) {
            self.engine.$how($($given,)* done);
        }
    )*};
}

impl Store for RedisStore {
    by_engine! {
        claim(claim: Claim) -> Claimed => claim(claim);
        release(fence: &Fence, release: Release) -> () => release(fence, &release);
        drop_will(fence: &Fence) -> () => drop_will(fence);
        subscribe(fence: &Fence, wanted: Vec<Subscription>) -> Vec<bool> => subscribe(fence, &wanted);
        unsubscribe(fence: &Fence, filters: Vec<Arc<str>>) -> Vec<bool> => unsubscribe(fence, &filters);
        publish(publish: Publish) -> Published => publish(publish);
        confirm(fence: &Fence) -> () => confirm(fence);
        read_queue(fence: &Fence, from: Number, count: usize, bytes: usize) -> QueuePage
            => read_queue(fence, from, count, bytes);
        acknowledge(fence: &Fence, number: Number) -> () => settle(fence, number, Settled::Gone);
        mark_released(fence: &Fence, number: Number) -> () => settle(fence, number, Settled::Released);
        forget_received(fence: &Fence, packet_id: PacketId) -> () => forget_received(fence, packet_id);
        retain(message: Arc<Message>) -> () => retain(message);
        retained(filter: &str, cursor: Option<Cursor>, count: usize, now: UnixMs) -> RetainedPage
            => retained(filter, cursor, count, now);
        routes(cursor: Option<Cursor>, count: usize) -> RoutePage => routes(cursor, count);
        tails(sessions: Vec<Arc<StoredSession>>) -> Vec<Option<Number>> => tails(sessions);
        claim_due(now: UnixMs, max: usize) -> Vec<Due> => claim_due(now, max);
        finish_will(will: &DueWill) -> () => finish_will(will);
        finish_left(left: &DueLeft) -> () => finish_left(left);
    }

    fn part_of(&self, client_id: &str) -> Option<u16> {
        Some(keys::Bucket::part_of_client(client_id))
    }

    fn stats(&self) -> StoreStats {
        self.engine.stats()
    }

    fn close(&self, done: Done<()>) {
        if self.engine.refuse_from_now() {
            return done(Err(StoreError::Closed));
        }
        let engine = Arc::clone(&self.engine);
        self.engine.runtime.spawn(async move {
            engine.settled().await;
            done(Ok(()));
        });
    }
}
