//! Lets go of what a dead worker owned, bucket after bucket. Where a burial is stands in the registry, with who is at it
//! for how long: another worker goes on from there.

use std::sync::Arc;
use std::time::Duration;

use super::super::engine::{Asked, Engine};
use super::super::keys::{Bucket, SESSION_BUCKETS};
use super::super::op::{ReadAnswer, Result};
use super::super::operations::{BuryOp, BuryTurnOp, CloseInboxOp, InspectOp, LeaveOp, UnlistenOp};
use super::super::routes::{SESSIONS_MAX, on_buckets, read_clients};
use super::wire;
use crate::{RouteChange, StoreError, UnixMs, WorkerId};

/// Buckets between two notes of where the burial is.
const BUCKETS_PER_TURN: u16 = 64;
/// How long nobody else goes on with it, from each note on.
const TURN_MS: u64 = 5000;
/// How long to wait at the most before asking again.
const WAIT_MS_MAX: u64 = 200;

/// What is done with each session of the dead worker.
#[derive(Clone, Copy)]
struct Burial {
    worker: WorkerId,
    grace_ms: u64,
    now: UnixMs,
}

impl Engine {
    /// See [`crate::Cluster::bury`].
    pub(super) async fn bury(self: &Arc<Self>, worker: WorkerId, grace_ms: u64, now: UnixMs) -> Result<()> {
        let burial = Burial { worker, grace_ms, now };
        let mut at = 0;
        loop {
            let Some((wait_ms, bucket)) = self.bury_turn(worker, at).await? else { return Ok(()) };
            if wait_ms > 0 {
                if self.is_refusing() {
                    return Err(StoreError::Closed);
                }
                tokio::time::sleep(Duration::from_millis(wait_ms.min(WAIT_MS_MAX))).await;
                continue;
            }
            at = bucket;
            if at >= SESSION_BUCKETS {
                return self.strike(worker).await;
            }
            let last = at.saturating_add(BUCKETS_PER_TURN).min(SESSION_BUCKETS);
            on_buckets(at..last, |bucket| {
                let engine = Arc::clone(self);
                async move { engine.bury_bucket(burial, bucket).await }
            })
            .await?;
            at = last;
        }
    }

    /// Notes where the burial is. Answers how long somebody else is at it, and where to go on; `None` when it is over.
    async fn bury_turn(self: &Arc<Self>, worker: WorkerId, at: u16) -> Result<Option<(u64, u16)>> {
        let op = BuryTurnOp { run: &run_of(worker), by: &self.run, turn_ms: TURN_MS, bucket: at }
            .on(&self.keys.of_cluster());
        let answer = self.ask(Bucket::Cluster, op).answer().await?;
        if matches!(&answer, redis::Value::BulkString(_)) {
            return Ok(None);
        }
        let [wait_ms, bucket] = answer.tuple()?;
        let bucket = u16::try_from(bucket.count()?).unwrap_or(SESSION_BUCKETS);
        Ok(Some((wait_ms.count()?, bucket)))
    }

    async fn bury_bucket(self: &Arc<Self>, burial: Burial, bucket: Bucket) -> Result<()> {
        let mut listed = Some(self.ask_clients(bucket, "", SESSIONS_MAX));
        while let Some(asked) = listed.take() {
            let (clients, _) = read_clients(asked.answer().await?)?;
            self.bury_clients(burial, bucket, &clients).await?;
            if let Some(last) = clients.last().filter(|_| clients.len() >= SESSIONS_MAX) {
                listed = Some(self.ask_clients(bucket, last, SESSIONS_MAX));
            }
        }
        Ok(())
    }

    async fn bury_clients(
        self: &Arc<Self>,
        burial: Burial,
        bucket: Bucket,
        clients: &[String],
    ) -> Result<()> {
        let dead = run_of(burial.worker);
        let asked: Vec<Asked> = clients
            .iter()
            .map(|client| self.ask(bucket, InspectOp {}.on(&self.keys.of_client(client))))
            .collect();
        let mut let_go = Vec::new();
        for (client, asked) in clients.iter().zip(asked) {
            let Some(found) = asked.answer().await?.maybe() else { continue };
            let [incarnation, owner, run, ..]: [redis::Value; 7] = found.tuple()?;
            if owner.bytes()?.is_empty() || run.bytes()? != dead.as_bytes() {
                continue;
            }
            let op = BuryOp {
                client_id: client,
                incarnation: incarnation.bytes()?,
                run: &dead,
                now: self.now_arg(burial.now),
                grace_ms: burial.grace_ms,
            }
            .on(&self.keys.of_client(client));
            let_go.push((client, self.ask(bucket, op)));
        }
        for (client, asked) in let_go {
            if let Some(left) = asked.answer().await?.maybe() {
                self.read_left(client, left, burial.now)?;
            }
        }
        Ok(())
    }

    /// Takes a worker that owns nothing any more out: what it listens to, its inbox, its entry.
    pub(super) async fn strike(self: &Arc<Self>, worker: WorkerId) -> Result<()> {
        let run = run_of(worker);
        loop {
            let op = UnlistenOp { run: &run }.on(&self.keys.of_cluster());
            if self.ask(Bucket::Cluster, op).answer().await?.count()? == 0 {
                break;
            }
        }
        let op = CloseInboxOp {}.on(&self.keys.of_inbox(worker.0));
        self.ask(Bucket::Inbox(worker.0), op).answer().await?;
        let entries_max = self.config.route_log_entries_max;
        let entry = wire::changes(&[RouteChange::Left(worker)]);
        let op = LeaveOp { run: &run, entries_max, entry }.on(&self.keys.of_cluster());
        self.ask(Bucket::Cluster, op).answer().await?;
        Ok(())
    }
}

/// How a run is written.
pub(super) fn run_of(worker: WorkerId) -> String {
    format!("{:016x}", worker.0)
}
