//! Retained messages that have expired and that nobody asks for: all of them are looked through, slowly, and the expired go.

use std::sync::Arc;

use super::engine::Engine;
use super::keys::{Bucket, RETAINED_BUCKETS};
use super::op::{ReadAnswer, Result};
use super::operations::ForgetAllExpiredOp;
use crate::UnixMs;

/// Topics of one call.
const TOPICS_MAX: u64 = 200;
/// Calls of one look.
const CALLS_MAX: usize = 32;
/// Buckets of one look, so that a few messages are looked through in a few minutes.
const BUCKETS_MAX: usize = 16;

impl Engine {
    /// Looks at the next ones, unless it is at that already. A worker that shares its store looks at its share of them.
    pub(super) fn sweep_retained(self: &Arc<Self>, now: UnixMs) {
        let Some((bucket, after)) = self.retained_sweep.0.lock().take() else { return };
        let engine = Arc::clone(self);
        self.runtime.spawn(async move {
            let next = engine.look_through(bucket, after, now).await;
            *engine.retained_sweep.0.lock() = Some(next);
        });
    }

    async fn look_through(
        self: &Arc<Self>,
        mut number: u16,
        mut after: Vec<u8>,
        now: UnixMs,
    ) -> (u16, Vec<u8>) {
        let mut ended = 0;
        for _ in 0..CALLS_MAX {
            if ended >= BUCKETS_MAX || self.is_refusing() {
                break;
            }
            let mut next = None;
            if self.hints.is_ours(number) {
                let bucket = Bucket::Retained(number);
                let (engine, behind) = (Arc::clone(self), std::mem::take(&mut after));
                let work = async move { engine.forget_expired_in(bucket, &behind, now).await };
                // A bucket that is not answered for waits until its turn comes again.
                match self.in_time(bucket, self.server_of(bucket), work).await {
                    Some(Ok(last)) => next = last,
                    Some(Err(error)) => tracing::debug!(%error, "retained messages were not looked through"),
                    None => {}
                }
            }
            ended += usize::from(next.is_none());
            match next {
                Some(last) => after = last,
                None => (number, after) = ((number + 1) % RETAINED_BUCKETS, Vec::new()),
            }
        }
        (number, after)
    }

    async fn forget_expired_in(
        self: &Arc<Self>,
        bucket: Bucket,
        after: &[u8],
        now: UnixMs,
    ) -> Result<Option<Vec<u8>>> {
        let op = ForgetAllExpiredOp { after, topics_max: TOPICS_MAX, now }.on(&self.keys.of_retained(bucket));
        let [last, messages, bytes, owned] = self.ask(bucket, op).answer().await?.tuple()?;
        self.add_retained(messages.number()?, bytes.number()?);
        let mut flat = owned.list()?.into_iter();
        while let (Some(topic), Some(owner)) = (flat.next(), flat.next()) {
            self.leave_retained(&topic.bytes()?, owner)?;
        }
        last.maybe().map(ReadAnswer::bytes).transpose()
    }
}
