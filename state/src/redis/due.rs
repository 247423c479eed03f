//! Timers: what is due is looked for in the buckets where something can be, then taken one by one, each by one worker. The
//! worker knows of timers that it set; those that others set are found by looking at its share of all buckets from time to time.

use std::sync::Arc;

use redis::Value;

use super::codec;
use super::engine::{Asked, Engine};
use super::keys::Bucket;
use super::op::{Op, ReadAnswer, Result};
use super::operations::{
    DueOp, FinishLeftOp, FinishWillOp, TakeExpiryOp, TakeLeftOp, TakeOrphanOp, TakeWillOp,
};
use super::routes::BUCKETS_AT_ONCE;
use super::stored::read_due_will;
use crate::{Done, Due, DueLeft, DueWill, StoreError, StoredSession, UnixMs};

/// A Will that was handed out comes again after this long, unless it was finished.
pub(super) const WILL_RETRY_MS: u64 = 30_000;

const DAMAGED: StoreError = StoreError::Damaged { what: "timer" };

/// An entry of a bucket's timers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    /// By the clock of whoever has the bucket.
    at: UnixMs,
    /// `o:` or `s:` and a name, `w:` or `x:` and a client: a Will goes before the expiry of its session.
    member: String,
    bucket: u16,
}

impl Engine {
    /// See [`crate::Store::claim_due`].
    pub(super) fn claim_due(self: &Arc<Self>, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        let Some(done) = self.admit(done) else { return };
        let engine = Arc::clone(self);
        self.runtime.spawn(async move { done(engine.take_due(now, max).await) });
    }

    async fn take_due(self: &Arc<Self>, now: UnixMs, max: usize) -> Result<Vec<Due>> {
        let (candidates, is_sweep) = self.hints.candidates(now);
        let mut due = Vec::new();
        let mut is_complete = true;
        for some in candidates.chunks(usize::from(BUCKETS_AT_ONCE)) {
            if due.len() >= max {
                is_complete = false;
                break;
            }
            let mut timers = self.due_in(some, now, max - due.len()).await?;
            timers.sort_unstable();
            let rest = timers.split_off(timers.len().min(max - due.len()));
            for timer in rest {
                self.hints.armed(Bucket::Sessions(timer.bucket), now);
            }
            let mut left = timers.into_iter();
            while let Some(timer) = left.next() {
                match self.take(&timer, now).await {
                    Ok(taken) => due.extend(taken),
                    Err(error) => {
                        for timer in std::iter::once(timer).chain(left) {
                            self.hints.armed(Bucket::Sessions(timer.bucket), now);
                        }
                        // What was taken must reach the caller; the rest comes with the next call.
                        return if due.is_empty() { Err(error) } else { Ok(due) };
                    }
                }
            }
        }
        if is_sweep && is_complete {
            self.hints.swept();
            self.sweep_retained(now);
            self.sweep_seats();
        }
        Ok(due)
    }

    /// What is due in some buckets, at most `max` in each.
    async fn due_in(self: &Arc<Self>, buckets: &[u16], now: UnixMs, max: usize) -> Result<Vec<Timer>> {
        let asked: Vec<Asked> = buckets
            .iter()
            .map(|bucket| {
                self.hints.forget(*bucket);
                let bucket = Bucket::Sessions(*bucket);
                let op = DueOp { now: self.now_arg(now), entries_max: max as u64 };
                self.ask(bucket, op.on(&self.keys.of_bucket(bucket)))
            })
            .collect();
        let mut timers = Vec::new();
        let mut failed = None;
        for (bucket, asked) in buckets.iter().zip(asked) {
            match asked.answer().await.and_then(|answer| self.read_due(*bucket, answer, now, max)) {
                Ok(found) => timers.extend(found),
                Err(error) => {
                    self.hints.armed(Bucket::Sessions(*bucket), 0);
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) => {
                for timer in &timers {
                    self.hints.armed(Bucket::Sessions(timer.bucket), now);
                }
                Err(error)
            }
            None => Ok(timers),
        }
    }

    fn read_due(&self, bucket: u16, answer: Value, now: UnixMs, max: usize) -> Result<Vec<Timer>> {
        let [due, later] = answer.tuple()?;
        if let Some(score) = later.maybe() {
            // A set that was ever used holds an entry that is due never.
            let text = score.text()?;
            if text != "inf" {
                let left = text.parse::<f64>().map_err(|_| DAMAGED)?;
                self.hints.armed(Bucket::Sessions(bucket), now.saturating_add(left as u64));
            }
        }
        let mut flat = due.list()?.into_iter();
        let mut timers = Vec::new();
        while let (Some(member), Some(at)) = (flat.next(), flat.next()) {
            timers.push(Timer { at: at.count()?, member: member.text()?, bucket });
        }
        if timers.len() >= max {
            self.hints.armed(Bucket::Sessions(bucket), 0);
        }
        Ok(timers)
    }

    async fn take(self: &Arc<Self>, timer: &Timer, now: UnixMs) -> Result<Option<Due>> {
        let bucket = Bucket::Sessions(timer.bucket);
        let (kind, name) = timer.member.split_at_checked(2).ok_or(DAMAGED)?;
        let again_at = now.saturating_add(WILL_RETRY_MS);
        let op = self.take_op(bucket, kind, name, now)?;
        let Some(taken) = self.ask(bucket, op).answer().await?.maybe() else { return Ok(None) };
        let [client_id, incarnation, what] = taken.tuple()?;
        let client_id = Arc::from(client_id.text()?);
        let session = Arc::new(StoredSession { client_id, incarnation: incarnation.count()? });
        if kind == "x:" {
            self.session_gone(&session.client_id, what)?;
            // A Will that it left has its own timer.
            self.hints.armed(bucket, now);
            return Ok(Some(Due::Expired(session)));
        }
        self.hints.armed(bucket, again_at);
        if kind == "s:" {
            let [number, share, record] = what.tuple()?;
            let share = Arc::from(share.text()?);
            let message = codec::read_message(&record.bytes()?)?;
            return Ok(Some(Due::Left(DueLeft { session, share, message, number: number.count()? })));
        }
        Ok(Some(Due::Will(read_due_will(session, what)?)))
    }

    fn take_op(&self, bucket: Bucket, kind: &str, name: &str, now: UnixMs) -> Result<Op> {
        let (now, again_ms, worker) = (self.now_arg(now), WILL_RETRY_MS, &*self.config.worker);
        let of_bucket = self.keys.of_bucket(bucket);
        let of_client = || self.keys.of_client(name);
        Ok(match kind {
            "o:" => TakeOrphanOp { name, now, again_ms, worker }.on(&of_bucket),
            "w:" => TakeWillOp { client_id: name, now, again_ms, worker }.on(&of_client()),
            "s:" => TakeLeftOp { name, now, again_ms }.on(&of_bucket),
            "x:" => TakeExpiryOp { client_id: name, now }.on(&of_client()),
            _ => return Err(DAMAGED),
        })
    }

    /// See [`crate::Store::finish_will`].
    pub(super) fn finish_will(self: &Arc<Self>, will: &DueWill, done: Done<()>) {
        let session = &will.session;
        let bucket = Bucket::of_client(&session.client_id);
        let client_id = &*session.client_id;
        let op = FinishWillOp { client_id, incarnation: session.incarnation, number: will.number }
            .on(&self.keys.of_client(client_id));
        self.one(bucket, op, done, |_, _| Ok(()));
    }

    /// See [`crate::Store::finish_left`].
    pub(super) fn finish_left(self: &Arc<Self>, left: &DueLeft, done: Done<()>) {
        let bucket = Bucket::of_client(&left.session.client_id);
        let op = FinishLeftOp { incarnation: left.session.incarnation, number: left.number }
            .on(&self.keys.of_bucket(bucket));
        self.one(bucket, op, done, |_, _| Ok(()));
    }
}
