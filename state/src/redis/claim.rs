//! Who owns a session, and what it is subscribed to.

use std::sync::Arc;

use mqtt::PacketId;
use parking_lot::Mutex;
use redis::Value;

use super::codec;
use super::due::WILL_RETRY_MS;
use super::engine::{Engine, add, pairs, random};
use super::keys::Bucket;
use super::op::{Answer, Kind, Op, Result};
use super::order::{Gate, Pending};
use crate::{
    Claim, Claimed, ConnectionId, Done, DueWill, Fence, Number, Owned, Previous, Principal, Release,
    ResumeRefusal, StoreError, StoredSession, Subscription, UnixMs, WorkerId,
};

const DAMAGED: StoreError = StoreError::Damaged { what: "session" };

impl Engine {
    /// See [`crate::Store::claim`]. Two operations in a row: the second reads what a new owner is told.
    pub(super) fn claim(self: &Arc<Self>, claim: &Claim, done: Done<Claimed>) {
        let Some(done) = self.admit(done) else { return };
        let bucket = Bucket::of_client(&claim.client_id);
        let nonce = random();
        // Counted before it is made, so that claims under way together keep the bound.
        let reserved = i64::from(claim.create);
        let before = self.counts.sessions.fetch_add(reserved, std::sync::atomic::Ordering::Relaxed);
        let may_create = u64::try_from(before).unwrap_or(0) < self.config.sessions_max;
        let op = self.claim_op(claim, nonce, may_create);
        let keys = vec![self.keys.subscriptions(&claim.client_id), self.keys.received(&claim.client_id)];
        let contents = Op::new("contents", Kind::Read, keys);
        self.submit(vec![Gate::Bucket(bucket)], |ticket| {
            let claimed = Arc::new(Mutex::new(None));
            let (engine, slot, client_id) =
                (Arc::clone(self), Arc::clone(&claimed), Arc::clone(&claim.client_id));
            let again_at = claim.now.saturating_add(WILL_RETRY_MS);
            let first = Box::new(move |answer: Result<Value>| {
                let result = answer
                    .and_then(|answer| answer.accepted(StoreError::SessionQuota))
                    .and_then(|answer| engine.read_claimed(answer, &client_id, nonce, reserved));
                if result.as_ref().is_ok_and(|claimed| claimed.will_due.is_some()) {
                    engine.hints.armed(bucket, again_at);
                }
                if result.is_err() {
                    add(&engine.counts.sessions, -reserved);
                }
                *slot.lock() = Some(result);
            });
            let engine = Arc::clone(self);
            let second = Box::new(move |contents: Result<Value>| {
                let claimed = claimed.lock().take().unwrap_or(Err(StoreError::Closed));
                let result = claimed.and_then(|claimed| complete(claimed, contents));
                engine.order.complete(ticket, Box::new(move || done(result)));
            });
            vec![(bucket, Pending::Op(op, first)), (bucket, Pending::Op(contents, second))]
        });
    }

    fn claim_op(&self, claim: &Claim, nonce: u64, may_create: bool) -> Op {
        let (will, delay_s) = claim
            .will
            .as_ref()
            .map_or((Vec::new(), 0), |will| (codec::message(&will.message), u64::from(will.delay_s)));
        Op::new("claim", Kind::Alone, self.keys.whole_session(&claim.client_id))
            .arg(&*claim.client_id)
            .arg(random())
            .arg(nonce)
            .arg(format!("{:032x}", claim.connection_id.0))
            .arg(claim.clean_start)
            .arg(claim.create)
            .arg(u64::from(claim.expiry_s))
            .arg(will)
            .arg(delay_s)
            .arg(claim.limits.messages_max)
            .arg(claim.limits.bytes_max)
            .arg(u64::from(claim.protocol.level()))
            .arg(u64::from(claim.receive_maximum))
            .arg(self.now_arg(claim.now))
            .arg(self.config.worker.as_str())
            .arg(self.run.as_str())
            .arg(may_create)
            .arg(claim.memory_queue)
            .arg(claim.resume)
            .arg(u64::from(claim.attempt))
            .arg(WILL_RETRY_MS)
            .arg(&*claim.principal.0)
    }

    fn read_claimed(
        &self,
        answer: Value,
        client_id: &Arc<str>,
        nonce: u64,
        reserved: i64,
    ) -> Result<Claimed> {
        if let Value::BulkString(name) = &answer {
            add(&self.counts.sessions, -reserved);
            let refusal = match name.as_slice() {
                b"T" => ResumeRefusal::TakenOver,
                b"P" => ResumeRefusal::Foreign,
                _ => ResumeRefusal::Gone,
            };
            return Ok(Claimed { refusal: Some(refusal), ..Claimed::default() });
        }
        let identity =
            |incarnation| Arc::new(StoredSession { client_id: Arc::clone(client_id), incarnation });
        let [will, discarded, freed, session, previous] = answer.tuple()?;
        let previous = previous.maybe().map(read_previous).transpose()?;
        let discarded = discarded.maybe_count()?.map(identity);
        if discarded.is_some() {
            self.counts.session_gone(freed)?;
            // What it left to the members of its shares.
            self.hints.armed(Bucket::of_client(client_id), 0);
        }
        let will = will.maybe();
        let due = |of: Arc<StoredSession>| will.map(|will| read_due_will(of, will)).transpose();
        let Some(session) = session.maybe() else {
            add(&self.counts.sessions, -reserved);
            let will_due = discarded.clone().map(due).transpose()?.flatten();
            return Ok(Claimed { will_due, discarded, previous, ..Claimed::default() });
        };
        let [present, incarnation, epoch, head, tail, sent, expiry_s, repeats] = session.tuple()?;
        let present = present.count()? == 1;
        if present {
            add(&self.counts.sessions, -reserved);
        }
        let fence = Fence { session: identity(incarnation.count()?), epoch: epoch.count()?, nonce };
        let will_due = due(discarded.as_ref().unwrap_or(&fence.session).clone())?;
        let owned = Owned {
            fence,
            present,
            subscriptions: Vec::new(),
            head: Number(head.count()?),
            tail: Number(tail.count()?),
            sent: Number(sent.count()?),
            repeats: Number(repeats.count()?),
            received: Vec::new(),
            expiry_s: u32::try_from(expiry_s.count()?).map_err(|_| DAMAGED)?,
        };
        Ok(Claimed { session: Some(owned), will_due, discarded, previous, refusal: None })
    }

    /// See [`crate::Store::drop_will`].
    pub(super) fn drop_will(self: &Arc<Self>, fence: &Fence, done: Done<()>) {
        let client_id = &fence.session.client_id;
        let op = Op::new("drop_will", Kind::Write, vec![self.keys.session(client_id)]).fence(fence);
        self.one(Bucket::of_client(client_id), op, done, |_, answer| {
            answer.accepted(StoreError::NoSession).map(drop)
        });
    }

    /// See [`crate::Store::release`].
    pub(super) fn release(self: &Arc<Self>, fence: &Fence, release: &Release, done: Done<()>) {
        let client_id = &fence.session.client_id;
        let bucket = Bucket::of_client(client_id);
        let op = Op::new("release", Kind::Alone, self.keys.whole_session(client_id))
            .arg(&**client_id)
            .fence(fence)
            .arg(u64::from(release.expiry_s))
            .arg(release.keep_will)
            .arg(release.sent.0)
            .arg(self.now_arg(release.now))
            .arg(release.grace_ms);
        let now = release.now;
        self.one(bucket, op, done, move |engine, answer| {
            engine.read_left(bucket, answer.accepted(StoreError::NoSession)?, now)
        });
    }

    /// What a session held that is gone, or how long after `now` its first timer goes off.
    pub(super) fn read_left(&self, bucket: Bucket, answer: Value, now: UnixMs) -> Result<()> {
        let [freed, first] = answer.tuple()?;
        if let Some(freed) = freed.maybe() {
            self.counts.session_gone(freed)?;
        }
        if let Some(left) = first.maybe_count()? {
            self.hints.armed(bucket, now.saturating_add(left));
        }
        Ok(())
    }

    /// See [`crate::Store::subscribe`].
    pub(super) fn subscribe(
        self: &Arc<Self>,
        fence: &Fence,
        subscriptions: &[Subscription],
        done: Done<Vec<bool>>,
    ) {
        let client_id = &fence.session.client_id;
        let keys = vec![self.keys.session(client_id), self.keys.subscriptions(client_id)];
        let mut op = Op::new("subscribe", Kind::Write, keys)
            .fence(fence)
            .arg(self.config.subscriptions_per_session_max as u64);
        for subscription in subscriptions {
            op = op.arg(&*subscription.filter).arg(codec::options(&subscription.options));
        }
        self.one(Bucket::of_client(client_id), op, done, |engine, answer| {
            let [new, flags] = answer.accepted(StoreError::SubscriptionQuota)?.tuple()?;
            add(&engine.counts.subscriptions, new.number()?);
            read_flags(flags)
        });
    }

    /// See [`crate::Store::unsubscribe`].
    pub(super) fn unsubscribe(self: &Arc<Self>, fence: &Fence, filters: &[Arc<str>], done: Done<Vec<bool>>) {
        let client_id = &fence.session.client_id;
        let keys = vec![self.keys.session(client_id), self.keys.subscriptions(client_id)];
        let mut op = Op::new("unsubscribe", Kind::Write, keys).fence(fence);
        for filter in filters {
            op = op.arg(&**filter);
        }
        self.one(Bucket::of_client(client_id), op, done, |engine, answer| {
            let [gone, flags] = answer.accepted(StoreError::SubscriptionQuota)?.tuple()?;
            add(&engine.counts.subscriptions, -gone.number()?);
            read_flags(flags)
        });
    }
}

fn read_previous(previous: Value) -> Result<Previous> {
    let [run, connection] = previous.tuple()?;
    let connection = u128::from_str_radix(&connection.text()?, 16).map_err(|_| DAMAGED)?;
    Ok(Previous { worker: read_run(run)?, connection_id: ConnectionId(connection) })
}

/// The run of a worker, as it is stored.
pub(super) fn read_run(run: Value) -> Result<WorkerId> {
    u64::from_str_radix(&run.text()?, 16).map(WorkerId).map_err(|_| DAMAGED)
}

fn read_flags(flags: Value) -> Result<Vec<bool>> {
    flags.list()?.iter().map(|flag| Ok(flag.count()? == 1)).collect()
}

/// A Will with its number, and whose it is.
pub(super) fn read_due_will(session: Arc<StoredSession>, will: Value) -> Result<DueWill> {
    let [message, number, principal] = will.tuple()?;
    let message = codec::read_message(&message.bytes()?)?;
    let principal = principal.maybe().map(Answer::text).transpose()?.map(|name| Principal(name.into()));
    Ok(DueWill { session, principal, message, number: number.count()? })
}

/// Subscriptions as they are stored, by filter; the field with the empty name is none.
pub(super) fn read_subscriptions(flat: Value) -> Result<Vec<Subscription>> {
    let mut found = Vec::new();
    for (filter, options) in pairs(flat)? {
        if !filter.is_empty() {
            let filter = Arc::from(String::from_utf8(filter).map_err(|_| DAMAGED)?);
            found.push(Subscription { filter, options: codec::read_options(&options)? });
        }
    }
    found.sort_unstable_by(|a, b| a.filter.cmp(&b.filter));
    Ok(found)
}

fn complete(mut claimed: Claimed, contents: Result<Value>) -> Result<Claimed> {
    let Some(owned) = &mut claimed.session else { return Ok(claimed) };
    let [subscriptions, received] = contents?.tuple()?;
    owned.subscriptions = read_subscriptions(subscriptions)?;
    for (id, state) in pairs(received)? {
        // One that was not routed to the end is not listed: when it comes again, it is.
        if !id.is_empty() && state.first() == Some(&super::publish::ROUTED) {
            let id = std::str::from_utf8(&id).ok().and_then(|id| id.parse().ok()).and_then(PacketId::new);
            owned.received.push(id.ok_or(DAMAGED)?);
        }
    }
    owned.received.sort_unstable();
    Ok(claimed)
}
