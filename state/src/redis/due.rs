//! Timers: what is due is looked for in the buckets where something can be, then taken one by one, each by one worker. The
//! worker knows of timers that it set; those that others set are found by looking at its share of all buckets from time to time.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::Value;
use tokio::sync::mpsc;

use super::codec;
use super::engine::Engine;
use super::keys::Bucket;
use super::looks;
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
    /// What a session left to its shares, which may be much, comes behind everything else.
    is_left: bool,
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
        let mut due = self.looks.take_late(max);
        let mut failed = None;
        let mut is_complete = true;
        for some in candidates.chunks(usize::from(BUCKETS_AT_ONCE)) {
            if due.len() >= max {
                is_complete = false;
                break;
            }
            let room = max - due.len();
            let found = answered(self.due_in(some, now, room).await, &mut failed);
            let mut timers: Vec<Timer> = found.into_iter().flatten().collect();
            timers.sort_unstable();
            for timer in timers.split_off(timers.len().min(room)) {
                self.hints.armed(Bucket::Sessions(timer.bucket), now);
            }
            let mut taken = answered(self.take_all(timers, now).await, &mut failed);
            taken.sort_unstable_by_key(|(place, _)| *place);
            due.extend(taken.into_iter().map(|(_, due)| due));
        }
        if is_sweep && is_complete {
            self.hints.swept();
            self.sweep_retained(now);
            self.sweep_seats();
        }
        match failed {
            Some(error) if due.is_empty() => Err(error),
            // What was taken must reach the caller; the rest comes with the next call.
            _ => Ok(due),
        }
    }

    /// What is due in some buckets, at most `max` in each. A bucket that does not answer in time, or was not asked since an answer
    /// is owed there, is looked at again.
    async fn due_in(self: &Arc<Self>, buckets: &[u16], now: UnixMs, max: usize) -> Vec<Result<Vec<Timer>>> {
        let (found, answers) = mpsc::unbounded_channel();
        let owing = self.looks.owing();
        for number in buckets.iter().copied() {
            let bucket = Bucket::Sessions(number);
            let server = self.server_of(bucket);
            if owing.has(bucket, server.as_ref()) {
                self.hints.armed(bucket, 0);
                continue;
            }
            self.hints.forget(number);
            let op = DueOp { now: self.now_arg(now), entries_max: max as u64 };
            let asked = self.ask(bucket, op.on(&self.keys.of_bucket(bucket)));
            let (look, engine) = (self.looks.begin(bucket, server), Arc::clone(self));
            let found = found.clone();
            self.runtime.spawn(async move {
                let _look = look;
                let timers =
                    asked.answer().await.and_then(|answer| engine.read_due(number, answer, now, max));
                let is_failed = timers.is_err();
                if looks::send(&found, timers).is_some() || is_failed {
                    engine.hints.armed(bucket, 0);
                }
            });
        }
        drop(found);
        looks::gather(answers).await
    }

    /// Takes timers, those of a bucket one after the other; answers what came of each that was due, with its place.
    async fn take_all(self: &Arc<Self>, timers: Vec<Timer>, now: UnixMs) -> Vec<Result<(usize, Due)>> {
        let mut by_bucket: BTreeMap<u16, Vec<(usize, Timer)>> = BTreeMap::new();
        for (place, timer) in timers.into_iter().enumerate() {
            by_bucket.entry(timer.bucket).or_default().push((place, timer));
        }
        let (taken, answers) = mpsc::unbounded_channel();
        for (bucket, timers) in by_bucket {
            let (engine, taken) = (Arc::clone(self), taken.clone());
            self.runtime.spawn(async move { engine.take_in(bucket, timers, now, &taken).await });
        }
        drop(taken);
        looks::gather(answers).await
    }

    async fn take_in(
        self: &Arc<Self>,
        bucket: u16,
        timers: Vec<(usize, Timer)>,
        now: UnixMs,
        taken: &mpsc::UnboundedSender<Result<(usize, Due)>>,
    ) {
        let bucket = Bucket::Sessions(bucket);
        let look = self.looks.begin(bucket, self.server_of(bucket));
        for (place, timer) in timers {
            let due = self.take(&timer, now).await;
            look.heard();
            let is_failed = due.is_err();
            let due = due.map(|due| due.map(|due| (place, due))).transpose();
            if let Some(Ok((_, due))) = due.and_then(|due| looks::send(taken, due)) {
                self.looks.add_late(due);
            }
            // The rest is found again.
            if is_failed || taken.is_closed() {
                return self.hints.armed(bucket, now);
            }
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
            let member = member.text()?;
            timers.push(Timer { is_left: member.starts_with("s:"), at: at.count()?, member, bucket });
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

/// What was answered; the last failure is kept.
fn answered<T>(answers: Vec<Result<T>>, failed: &mut Option<StoreError>) -> Vec<T> {
    let keep = |answer: Result<T>| answer.map_err(|error| *failed = Some(error)).ok();
    answers.into_iter().filter_map(keep).collect()
}
