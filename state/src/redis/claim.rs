//! Who owns a session, and what it is subscribed to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt::PacketId;
use redis::Value;

use super::clock::Term;
use super::codec;
use super::due::WILL_RETRY_MS;
use super::engine::{Engine, add, random};
use super::keys::Bucket;
use super::op::{Op, ReadAnswer, Result, pairs};
use super::operations::{ClaimOp, ContentsOp, DropWillOp, ReleaseOp, SubscribeOp, UnsubscribeOp, word};
use super::order::{Gate, Pending, Ticket};
use super::stored::{DAMAGED, read_due_will, read_run, read_subscriptions};
use crate::{
    CLAIM_SLACK_MS, Claim, Claimed, ConnectionId, Done, Fence, Number, Owned, Previous, Release,
    ResumeRefusal, StoreError, StoredSession, Subscription, UnixMs,
};

/// How often a claim is made whose server's clock turns out to be another than was thought.
const TRIES: u32 = 3;

/// What a claim was answered.
#[derive(Default)]
struct ClaimAnswer {
    claimed: Claimed,
    /// The Will of the connection before waits for its last word.
    is_will_waiting: bool,
    /// It has had no effect.
    late: Option<Late>,
    /// The subscriptions and received messages of a session that was there, unless they are too many to come along.
    contents: Option<Value>,
}

/// Why a claim came too late, by the clock that was thought to be the server's.
enum Late {
    /// It was valid no longer.
    Past,
    /// The connection that has the session, or had it last, asked for it later.
    Overtaken,
}

impl From<Claimed> for ClaimAnswer {
    fn from(claimed: Claimed) -> Self {
        Self { claimed, ..Self::default() }
    }
}

impl ClaimAnswer {
    fn claimed(self) -> Result<Claimed> {
        match self.late {
            None => complete(self.claimed, self.contents),
            Some(Late::Past) => Err(StoreError::TooLate),
            Some(Late::Overtaken) => {
                Ok(Claimed { refusal: Some(ResumeRefusal::TakenOver), ..Claimed::default() })
            }
        }
    }
}

impl Engine {
    /// See [`crate::Store::claim`].
    pub(super) fn claim(self: &Arc<Self>, claim: Claim, done: Done<Claimed>) {
        let Some(done) = self.admit(done) else { return };
        let age = Duration::from_millis(claim.age_ms);
        let now = Instant::now();
        self.try_claim(claim, now.checked_sub(age).unwrap_or(now), TRIES, done);
    }

    /// When the clock of the server was not known as it is, the claim is made once more.
    fn try_claim(self: &Arc<Self>, claim: Claim, asked: Instant, tries: u32, done: Done<Claimed>) {
        let bucket = Bucket::of_client(&claim.client_id);
        let nonce = random();
        // Counted before it is made, so that claims under way together keep the bound.
        let reserved = i64::from(claim.create);
        let before = self.counts.sessions.fetch_add(reserved, std::sync::atomic::Ordering::Relaxed);
        let may_create = u64::try_from(before).unwrap_or(0) < self.config.sessions_max;
        let term = self.clocks.term(bucket, asked, claim.valid_ms);
        let op = self.claim_op(&claim, nonce, may_create, term);
        self.submit(vec![Gate::Bucket(bucket)], |ticket| {
            let engine = Arc::clone(self);
            let then = Box::new(move |answer: Result<Value>| {
                let answered =
                    answer.and_then(|answer| answer.accepted(StoreError::SessionQuota)).and_then(|answer| {
                        engine.read_claimed(bucket, answer, &claim.client_id, nonce, reserved)
                    });
                engine.note_claimed(bucket, &claim, reserved, &answered);
                let is_late = answered.as_ref().is_ok_and(|answered| answered.late.is_some());
                // By the clock as it is known now.
                let right = engine.clocks.term(bucket, asked, claim.valid_ms);
                let is_wrong = right.asked.abs_diff(term.asked) > CLAIM_SLACK_MS / 2;
                let is_over =
                    claim.valid_ms.is_some_and(|valid_ms| asked.elapsed() > Duration::from_millis(valid_ms));
                if is_late && is_wrong && !is_over && tries > 1 {
                    engine.try_claim(claim, asked, tries - 1, done);
                    return engine.order.complete(ticket, Box::new(|| ()));
                }
                engine.tell_claimed(bucket, &claim.client_id, ticket, answered, done);
            });
            vec![(bucket, Pending::Op(op, then))]
        });
    }

    /// What a claim leaves to be done later, and what it does not add after all.
    fn note_claimed(&self, bucket: Bucket, claim: &Claim, reserved: i64, answered: &Result<ClaimAnswer>) {
        match answered.as_ref().map(|answered| (&answered.claimed.will_due, answered.is_will_waiting)) {
            Ok((Some(_), _)) => self.hints.armed(bucket, claim.now.saturating_add(WILL_RETRY_MS)),
            Ok((None, true)) => self.hints.armed(bucket, claim.now.saturating_add(claim.will_wait_ms)),
            Ok((None, false)) => {}
            Err(_) => add(&self.counts.sessions, -reserved),
        }
    }

    /// Completes the answer to a claim: with what came along, or with what the next call of its lane reads.
    fn tell_claimed(
        self: &Arc<Self>,
        bucket: Bucket,
        client_id: &str,
        ticket: Ticket,
        answered: Result<ClaimAnswer>,
        done: Done<Claimed>,
    ) {
        let is_incomplete = answered.as_ref().is_ok_and(|answered| {
            answered.contents.is_none()
                && answered.claimed.session.as_ref().is_some_and(|owned| owned.present)
        });
        if !is_incomplete {
            let result = answered.and_then(ClaimAnswer::claimed);
            return self.order.complete(ticket, Box::new(move || done(result)));
        }
        let op = ContentsOp {}.on(&self.keys.of_client(client_id));
        let engine = Arc::clone(self);
        let then = Box::new(move |contents: Result<Value>| {
            let result =
                answered.and_then(|answered| ClaimAnswer { contents: Some(contents?), ..answered }.claimed());
            engine.order.complete(ticket, Box::new(move || done(result)));
        });
        self.follow(bucket, Pending::Op(op, then));
    }

    fn claim_op(&self, claim: &Claim, nonce: u64, may_create: bool, term: Term) -> Op {
        let (will, will_delay_s) =
            claim.will.as_ref().map_or((Vec::new(), 0), |will| (codec::message(&will.message), will.delay_s));
        ClaimOp {
            client_id: &claim.client_id,
            incarnation: random(),
            nonce,
            connection_id: claim.connection_id,
            clean_start: claim.clean_start,
            create: claim.create,
            expiry_s: claim.expiry_s,
            will,
            will_delay_s,
            messages_max: claim.limits.messages_max,
            bytes_max: claim.limits.bytes_max,
            protocol: claim.protocol.level(),
            receive_maximum: claim.receive_maximum,
            now: self.now_arg(claim.now),
            worker: &self.config.worker,
            run: &self.run,
            may_create,
            memory_queue: claim.memory_queue,
            resume: claim.resume,
            attempt: claim.attempt,
            again_ms: WILL_RETRY_MS,
            principal: &claim.principal.0,
            asked_at: term.asked,
            valid_until: term.until,
            will_wait_ms: claim.will_wait_ms,
        }
        .on(&self.keys.of_client(&claim.client_id))
    }

    fn read_claimed(
        &self,
        bucket: Bucket,
        answer: Value,
        client_id: &Arc<str>,
        nonce: u64,
        reserved: i64,
    ) -> Result<ClaimAnswer> {
        if let Value::BulkString(name) = &answer {
            add(&self.counts.sessions, -reserved);
            let refusal = match name.as_slice() {
                [word::TAKEN_OVER] => ResumeRefusal::TakenOver,
                [word::FOREIGN] => ResumeRefusal::Foreign,
                _ => ResumeRefusal::Gone,
            };
            return Ok(Claimed { refusal: Some(refusal), ..Claimed::default() }.into());
        }
        let mut parts = answer.list()?;
        self.clocks.learn(bucket, parts.pop().ok_or(DAMAGED)?.count()?);
        if let [name] = parts.as_slice() {
            add(&self.counts.sessions, -reserved);
            let late = match name {
                Value::BulkString(said) if *said == [word::TOO_LATE] => Late::Past,
                _ => Late::Overtaken,
            };
            return Ok(ClaimAnswer { late: Some(late), ..ClaimAnswer::default() });
        }
        let answer = Value::Array(parts);
        let identity =
            |incarnation| Arc::new(StoredSession { client_id: Arc::clone(client_id), incarnation });
        let [will, discarded, freed, session, previous, contents] = answer.tuple()?;
        let previous = previous.maybe().map(read_previous).transpose()?;
        let discarded = discarded.maybe_count()?.map(identity);
        if discarded.is_some() {
            self.counts.session_gone(freed)?;
            // What it left to the members of its shares.
            self.hints.armed(Bucket::of_client(client_id), 0);
        }
        let is_will_waiting = will == Value::Int(1);
        let will = if is_will_waiting { None } else { will.maybe() };
        let due = |of: Arc<StoredSession>| will.map(|will| read_due_will(of, will)).transpose();
        let Some(session) = session.maybe() else {
            add(&self.counts.sessions, -reserved);
            let will_due = discarded.clone().map(due).transpose()?.flatten();
            let claimed = Claimed { will_due, discarded, previous, ..Claimed::default() };
            return Ok(ClaimAnswer { claimed, is_will_waiting, ..ClaimAnswer::default() });
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
        let claimed = Claimed { session: Some(owned), will_due, discarded, previous, refusal: None };
        Ok(ClaimAnswer { claimed, is_will_waiting, late: None, contents: contents.maybe() })
    }

    /// See [`crate::Store::drop_will`].
    pub(super) fn drop_will(self: &Arc<Self>, fence: &Fence, done: Done<()>) {
        let client_id = &fence.session.client_id;
        let op = DropWillOp { fence }.on(&self.keys.of_client(client_id));
        self.one(Bucket::of_client(client_id), op, done, |_, answer| {
            answer.accepted(StoreError::NoSession).map(drop)
        });
    }

    /// See [`crate::Store::release`].
    pub(super) fn release(self: &Arc<Self>, fence: &Fence, release: &Release, done: Done<()>) {
        let client_id = &fence.session.client_id;
        let bucket = Bucket::of_client(client_id);
        let op = ReleaseOp {
            client_id,
            fence,
            expiry_s: release.expiry_s,
            keep_will: release.keep_will,
            sent: release.sent,
            now: self.now_arg(release.now),
            grace_ms: release.grace_ms,
        }
        .on(&self.keys.of_client(client_id));
        let (now, keeps_will) = (release.now, release.keep_will);
        self.one(bucket, op, done, move |engine, answer| {
            let answer = answer.accepted(StoreError::NoSession).inspect_err(|_| {
                if keeps_will {
                    // Its Will may have waited for this word.
                    engine.hints.armed(bucket, now);
                }
            });
            engine.read_left(bucket, answer?, now)
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
        let written =
            subscriptions.iter().flat_map(|it| [it.filter.as_bytes().to_vec(), codec::options(&it.options)]);
        let op = SubscribeOp {
            fence,
            subscriptions_max: self.config.subscriptions_per_session_max as u64,
            subscriptions: written.collect(),
        }
        .on(&self.keys.of_client(client_id));
        self.one(Bucket::of_client(client_id), op, done, |engine, answer| {
            let [new, flags] = answer.accepted(StoreError::SubscriptionQuota)?.tuple()?;
            add(&engine.counts.subscriptions, new.number()?);
            read_flags(flags)
        });
    }

    /// See [`crate::Store::unsubscribe`].
    pub(super) fn unsubscribe(self: &Arc<Self>, fence: &Fence, filters: &[Arc<str>], done: Done<Vec<bool>>) {
        let client_id = &fence.session.client_id;
        let filters = filters.iter().map(|filter| filter.as_bytes().to_vec()).collect();
        let op = UnsubscribeOp { fence, filters }.on(&self.keys.of_client(client_id));
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

fn read_flags(flags: Value) -> Result<Vec<bool>> {
    flags.list()?.iter().map(|flag| Ok(flag.count()? == 1)).collect()
}

/// A claim with what its session holds; nothing if it is new.
fn complete(mut claimed: Claimed, contents: Option<Value>) -> Result<Claimed> {
    let (Some(owned), Some(contents)) = (&mut claimed.session, contents) else { return Ok(claimed) };
    let [subscriptions, received] = contents.tuple()?;
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
