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

impl Store for RedisStore {
    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        self.engine.claim(claim, done);
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.engine.release(fence, &release, done);
    }

    fn drop_will(&self, fence: &Fence, done: Done<()>) {
        self.engine.drop_will(fence, done);
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.engine.subscribe(fence, &subscriptions, done);
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.engine.unsubscribe(fence, &filters, done);
    }

    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.engine.publish(publish, done);
    }

    fn part_of(&self, client_id: &str) -> Option<u16> {
        Some(keys::Bucket::part_of_client(client_id))
    }

    fn confirm(&self, fence: &Fence, done: Done<()>) {
        self.engine.confirm(fence, done);
    }

    fn read_queue(
        &self,
        fence: &Fence,
        from: Number,
        messages_max: usize,
        bytes_max: usize,
        done: Done<QueuePage>,
    ) {
        self.engine.read_queue(fence, from, messages_max, bytes_max, done);
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.engine.settle(fence, number, Settled::Gone, done);
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.engine.settle(fence, number, Settled::Released, done);
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        self.engine.forget_received(fence, packet_id, done);
    }

    fn retain(&self, message: Arc<Message>, done: Done<()>) {
        self.engine.retain(message, done);
    }

    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        messages_max: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        self.engine.retained(filter, cursor, messages_max, now, done);
    }

    fn routes(&self, cursor: Option<Cursor>, sessions_max: usize, done: Done<RoutePage>) {
        self.engine.routes(cursor, sessions_max, done);
    }

    fn tails(&self, sessions: Vec<Arc<StoredSession>>, done: Done<Vec<Option<Number>>>) {
        self.engine.tails(sessions, done);
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        self.engine.claim_due(now, max, done);
    }

    fn finish_will(&self, will: &DueWill, done: Done<()>) {
        self.engine.finish_will(will, done);
    }

    fn finish_left(&self, left: &DueLeft, done: Done<()>) {
        self.engine.finish_left(left, done);
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
