//! Lets go of what a dead worker owned, bucket after bucket. Where a burial is stands in the registry, with who is at it
//! for how long: another worker goes on from there.

use std::sync::Arc;
use std::time::Duration;

use super::super::engine::{Asked, Engine};
use super::super::fault::Fault;
use super::super::keys::{Bucket, SESSION_BUCKETS};
use super::super::op::{ReadAnswer, Result};
use super::super::operations::{
    BuryOp, BuryTurnOp, CloseInboxOp, InspectOp, LeaveOp, LeftInInboxOp, ShutInboxOp, TrimOp, UnlistenOp,
    word,
};
use super::super::routes::{SESSIONS_MAX, on_buckets, read_clients};
use super::follower::read_list;
use super::{said, wire};
use crate::{Burial, LeftInInbox, Noted, Placed, Position, RouteChange, StoreError, WorkerId};

/// Buckets between two notes of where the burial is.
const BUCKETS_PER_TURN: u16 = 64;
/// How long nobody else goes on with it, from each note on.
const TURN_MS: u64 = 5000;
/// How long to wait at the most before asking again.
const WAIT_MS_MAX: u64 = 200;
/// Entries of an inbox that are read at once: each is what one call has posted, some notes or one large message.
const LEFT_MAX: u64 = 64;

/// A worker's turn at a burial.
struct Turn {
    /// Somebody else has it, for so long.
    wait_ms: u64,
    /// Where to go on.
    bucket: u16,
    /// Which entry of the dead worker is meant: when it was made.
    joined_us: u64,
}

impl Engine {
    /// See [`crate::Cluster::bury`].
    pub(super) async fn bury(self: &Arc<Self>, burial: Burial) -> Result<Vec<Placed<LeftInInbox>>> {
        let mut at = 0;
        while let Some(Turn { wait_ms, bucket, joined_us }) = self.bury_turn(&burial, at).await? {
            if wait_ms > 0 {
                if self.is_refusing() {
                    return Err(StoreError::Closed);
                }
                tokio::time::sleep(Duration::from_millis(wait_ms.min(WAIT_MS_MAX))).await;
                continue;
            }
            at = bucket;
            if at >= SESSION_BUCKETS {
                return self.bury_inbox(&burial, joined_us).await;
            }
            let last = at.saturating_add(BUCKETS_PER_TURN).min(SESSION_BUCKETS);
            on_buckets(at..last, |bucket| {
                let engine = Arc::clone(self);
                async move { engine.bury_bucket(burial, bucket).await }
            })
            .await?;
            at = last;
        }
        Ok(Vec::new())
    }

    /// Notes where the burial is. `None` when it is over, or was not to begin.
    async fn bury_turn(self: &Arc<Self>, burial: &Burial, at: u16) -> Result<Option<Turn>> {
        let op = BuryTurnOp {
            run: &run_of(burial.worker),
            by: &self.run,
            turn_ms: TURN_MS,
            bucket: at,
            silent_ms: burial.silent_ms,
        }
        .on(&self.keys.of_cluster());
        let answer = self.ask(Bucket::Cluster, op).answer().await?;
        if said(&answer, word::GONE) {
            return Ok(None);
        }
        let [wait_ms, bucket, joined_us] = answer.tuple()?;
        Ok(Some(Turn {
            wait_ms: wait_ms.count()?,
            bucket: u16::try_from(bucket.count()?).unwrap_or(SESSION_BUCKETS),
            joined_us: joined_us.count()?,
        }))
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

    /// Shuts the inbox, throws away what was handed on of it, and answers what is next; if that is nothing, the burial is over.
    async fn bury_inbox(
        self: &Arc<Self>,
        burial: &Burial,
        joined_us: u64,
    ) -> Result<Vec<Placed<LeftInInbox>>> {
        let worker = burial.worker;
        let (bucket, keys) = (Bucket::Inbox(worker.0), self.keys.of_inbox(worker.0));
        let shut = self.ask(bucket, ShutInboxOp { joined_us }.on(&keys)).answer().await?;
        if said(&shut, word::GONE) {
            return Ok(Vec::new());
        }
        let mut after = burial.handed_on;
        if after > Position::default() {
            self.ask(bucket, TrimOp { through: after.0 }.on(&keys)).answer().await?;
        }
        loop {
            let op = LeftInInboxOp { after: after.0, entries_max: LEFT_MAX }.on(&keys);
            let entries = read_list(self.ask(bucket, op).answer().await?)?;
            let Some((last, _)) = entries.last() else {
                self.bury_entry(worker, joined_us).await?;
                return Ok(Vec::new());
            };
            after = Position(*last);
            let left: Vec<_> =
                entries.into_iter().flat_map(|(place, entry)| read_left(place, &entry)).collect();
            // What is for nobody may be much.
            if !left.is_empty() || self.bury_turn(burial, SESSION_BUCKETS).await?.is_none() {
                return Ok(left);
            }
        }
    }

    /// Takes this worker, which owns nothing any more, out.
    pub(super) async fn leave(self: &Arc<Self>, joined_us: u64) -> Result<()> {
        self.strike(self.worker, joined_us, true).await
    }

    /// Takes a worker out of which nothing else is left.
    async fn bury_entry(self: &Arc<Self>, worker: WorkerId, joined_us: u64) -> Result<()> {
        self.strike(worker, joined_us, false).await
    }

    /// Takes a worker out: what it listens to, its inbox, its entry.
    async fn strike(self: &Arc<Self>, worker: WorkerId, joined_us: u64, is_own: bool) -> Result<()> {
        let run = run_of(worker);
        loop {
            let op = UnlistenOp { run: &run, joined_us, is_own }.on(&self.keys.of_cluster());
            let answer = self.ask(Bucket::Cluster, op).answer().await?;
            if said(&answer, word::GONE) {
                return Ok(());
            }
            if said(&answer, word::BURIED) {
                return Err(Fault::Buried.into());
            }
            if answer.count()? == 0 {
                break;
            }
        }
        let op = CloseInboxOp { joined_us }.on(&self.keys.of_inbox(worker.0));
        self.ask(Bucket::Inbox(worker.0), op).answer().await?;
        let entries_max = self.config.route_log_entries_max;
        let entry = wire::changes(&[RouteChange::Left(worker)]);
        let op = LeaveOp { run: &run, joined_us, is_own, entries_max, entry }.on(&self.keys.of_cluster());
        let answer = self.ask(Bucket::Cluster, op).answer().await?;
        if said(&answer, word::BURIED) { Err(Fault::Buried.into()) } else { Ok(()) }
    }
}

/// What of an entry is for others.
fn read_left(place: u64, entry: &[u8]) -> Vec<Placed<LeftInInbox>> {
    let notes = wire::read_notes(entry).unwrap_or_else(|error| {
        tracing::warn!(%error, "a note to a dead worker cannot be read");
        Vec::new()
    });
    let position = Position(place);
    notes.into_iter().filter_map(Noted::left).map(|what| Placed { position, what }).collect()
}

/// How a run is written.
pub(super) fn run_of(worker: WorkerId) -> String {
    format!("{:016x}", worker.0)
}
