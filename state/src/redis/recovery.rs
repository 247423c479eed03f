//! What a starting worker finds: it counts what there is, and lets go of what its earlier run owned, unless other
//! workers do that.

use std::sync::Arc;

use super::engine::{Asked, Engine, add};
use super::keys::{Bucket, RETAINED_BUCKETS, SESSION_BUCKETS};
use super::op::{ReadAnswer, Result};
use super::operations::{AbandonOp, AgeIdentitiesOp, InspectOp, RearmOp};
use super::routes::{SESSIONS_MAX, on_buckets, read_clients};
use crate::UnixMs;

impl Engine {
    /// Walks all buckets, a page at a time.
    pub(super) async fn recover(self: &Arc<Self>, now: UnixMs) -> Result<()> {
        on_buckets(0..SESSION_BUCKETS, |bucket| {
            let engine = Arc::clone(self);
            async move { engine.recover_bucket(bucket, now).await }
        })
        .await?;
        let asked: Vec<Asked> =
            (0..RETAINED_BUCKETS).map(|bucket| self.ask_retained_counts(Bucket::Retained(bucket))).collect();
        for asked in asked {
            self.add_retained_counts(asked).await?;
        }
        Ok(())
    }

    async fn recover_bucket(self: &Arc<Self>, bucket: Bucket, now: UnixMs) -> Result<()> {
        let mut listed = Some(self.ask_clients(bucket, "", SESSIONS_MAX));
        // Earlier versions let them lie where no more came.
        let aged = self.ask(bucket, AgeIdentitiesOp {}.on(&self.keys.of_bucket(bucket)));
        let mut has_orphans = false;
        while let Some(asked) = listed.take() {
            let (clients, orphans) = read_clients(asked.answer().await?)?;
            has_orphans |= orphans > 0;
            let inspected: Vec<Asked> = clients
                .iter()
                .map(|client| self.ask(bucket, InspectOp {}.on(&self.keys.of_client(client))))
                .collect();
            let mut abandoned = Vec::new();
            for (client, asked) in clients.iter().zip(inspected) {
                abandoned
                    .extend(self.inspect(bucket, client, asked, now).await?.map(|asked| (client, asked)));
            }
            for (client, asked) in abandoned {
                if let Some(left) = asked.answer().await?.maybe() {
                    self.read_left(client, left, now)?;
                }
            }
            if let Some(last) = clients.last().filter(|_| clients.len() >= SESSIONS_MAX) {
                listed = Some(self.ask_clients(bucket, last, SESSIONS_MAX));
            }
        }
        aged.answer().await?;
        if has_orphans && !self.config.is_shared {
            let op = RearmOp { worker: &self.config.worker, now: self.now_arg(now) };
            self.ask(bucket, op.on(&self.keys.of_bucket(bucket))).answer().await?;
        }
        Ok(())
    }

    /// Counts a session. Begins to let it go if this worker's earlier run had to do with it.
    async fn inspect(
        self: &Arc<Self>,
        bucket: Bucket,
        client: &str,
        asked: Asked,
        now: UnixMs,
    ) -> Result<Option<Asked>> {
        let Some(found) = asked.answer().await?.maybe() else { return Ok(None) };
        let [incarnation, owner, run, records, bytes, subscriptions, claimant] = found.tuple()?;
        add(&self.counts.sessions, 1);
        add(&self.counts.queued_messages, records.number()?);
        add(&self.counts.queued_bytes, bytes.number()?);
        add(&self.counts.subscriptions, subscriptions.number()?);
        let worker = self.config.worker.as_bytes();
        let is_mine = owner.bytes()? == worker && run.bytes()? != self.run.as_bytes();
        let is_claimed = claimant.maybe().is_some_and(|name| name.bytes().is_ok_and(|name| name == worker));
        if self.config.is_shared || (!is_mine && !is_claimed) {
            return Ok(None);
        }
        let op = AbandonOp {
            client_id: client,
            incarnation: incarnation.bytes()?,
            run: &self.run,
            now: self.now_arg(now),
            worker: &self.config.worker,
        }
        .on(&self.keys.of_client(client));
        Ok(Some(self.ask(bucket, op)))
    }
}
