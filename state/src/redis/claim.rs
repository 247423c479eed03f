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
use super::order::{Gate, Pending, Ticket, give_guarded};
use super::seat::{Seat, Seating};
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
    ineffective: Option<Ineffective>,
    /// The session was there without a seat, which it ought to have.
    is_unseated: bool,
    /// The subscriptions and received messages of a session that was there, unless they are too many to come along.
    contents: Option<Value>,
}

/// Why a claim has had no effect: it came too late, by the clock that was thought to be the server's, or it needs a seat.
enum Ineffective {
    /// It was valid no longer.
    Past,
    /// The connection that has the session, or had it last, asked for it later.
    Overtaken,
    /// The session that it would make needs a seat of its principal's.
    Unseated,
}

/// How a claim is made.
#[derive(Clone, Copy)]
struct Attempt {
    /// When the connection asked for the session.
    asked: Instant,
    tries: u32,
    /// Of the session that is made, if one is; and the token of its seat.
    incarnation: u64,
    seating: Seating,
}

impl From<Claimed> for ClaimAnswer {
    fn from(claimed: Claimed) -> Self {
        Self { claimed, ..Self::default() }
    }
}

impl ClaimAnswer {
    fn claimed(self) -> Result<Claimed> {
        match self.ineffective {
            None => complete(self.claimed, self.contents),
            Some(Ineffective::Past) => Err(StoreError::TooLate),
            Some(Ineffective::Overtaken) => {
                Ok(Claimed { refusal: Some(ResumeRefusal::TakenOver), ..Claimed::default() })
            }
            Some(Ineffective::Unseated) => Err(StoreError::PrincipalQuota),
        }
    }
}

impl Engine {
    /// See [`crate::Store::claim`].
    pub(super) fn claim(self: &Arc<Self>, claim: Claim, done: Done<Claimed>) {
        let Some(done) = self.admit(done) else { return };
        let age = Duration::from_millis(claim.age_ms);
        let now = Instant::now();
        let asked = now.checked_sub(age).unwrap_or(now);
        let is_counted = claim.principal_sessions_max.is_some() && !claim.principal.0.is_empty();
        let seating = if is_counted { Seating::Needed } else { Seating::NotNeeded };
        let attempt = Attempt { asked, tries: TRIES, incarnation: random(), seating };
        self.try_claim(claim, attempt, done);
    }

    /// When the clock of the server was not known as it is, or a seat has to be taken, the claim is made once more.
    fn try_claim(self: &Arc<Self>, claim: Claim, attempt: Attempt, done: Done<Claimed>) {
        let Attempt { asked, tries, .. } = attempt;
        let bucket = Bucket::of_client(&claim.client_id);
        let nonce = random();
        // Counted before it is made, so that claims under way together keep the bound.
        let reserved = i64::from(claim.create);
        let before = self.counts.sessions.fetch_add(reserved, std::sync::atomic::Ordering::Relaxed);
        let may_create = u64::try_from(before).unwrap_or(0) < self.config.sessions_max;
        let term = self.clocks.term(bucket, asked, claim.valid_ms);
        let op = self.claim_op(&claim, &attempt, nonce, may_create, term);
        self.submit(vec![Gate::Bucket(bucket)], |ticket| {
            let engine = Arc::clone(self);
            let then = Box::new(move |answer: Result<Value>| {
                let answered =
                    answer.and_then(|answer| answer.accepted(StoreError::SessionQuota)).and_then(|answer| {
                        engine.read_claimed(bucket, answer, &claim.client_id, nonce, reserved)
                    });
                engine.note_claimed(bucket, &claim, reserved, &answered);
                let ineffective = answered.as_ref().ok().and_then(|answered| answered.ineffective.as_ref());
                let is_unseated = matches!(ineffective, Some(Ineffective::Unseated));
                let is_late = ineffective.is_some() && !is_unseated;
                // By the clock as it is known now.
                let right = engine.clocks.term(bucket, asked, claim.valid_ms);
                let is_wrong = right.asked.abs_diff(term.asked) > CLAIM_SLACK_MS / 2;
                let is_over =
                    claim.valid_ms.is_some_and(|valid_ms| asked.elapsed() > Duration::from_millis(valid_ms));
                if is_late && is_wrong && !is_over && tries > 1 {
                    engine.try_claim(claim, Attempt { tries: tries - 1, ..attempt }, done);
                    return engine.order.complete(ticket, Box::new(|| ()));
                }
                if is_unseated && attempt.seating == Seating::Needed {
                    engine.seat_and_claim(claim, attempt, done);
                    return engine.order.complete(ticket, Box::new(|| ()));
                }
                engine.note_seat(&claim, attempt, &answered);
                engine.tell_claimed(bucket, &claim.client_id, ticket, answered, done);
            });
            vec![(bucket, Pending::Op(op, then))]
        });
    }

    /// Takes a seat for the session that a claim will make, then makes it. A seat that comes to nothing is found to be in use no more.
    fn seat_and_claim(self: &Arc<Self>, claim: Claim, attempt: Attempt, done: Done<Claimed>) {
        let seat = Seat::of_session(&claim.principal, &claim.client_id, attempt.incarnation);
        let seats_max = claim.principal_sessions_max.unwrap_or(u64::MAX);
        let engine = Arc::clone(self);
        let asked_at = Instant::now();
        let then = move |taken: Result<bool>| match taken {
            Ok(true) => {
                engine.try_claim(claim, Attempt { seating: Seating::Taken(asked_at), ..attempt }, done);
            }
            refused => {
                let error = refused.err().unwrap_or(StoreError::PrincipalQuota);
                give_guarded(|| done(Err(error)));
            }
        };
        self.take_seat(seat, seats_max, Box::new(then));
    }

    /// A session that was there without a seat gets one, beyond any bound. So does one that was made so late that its seat may
    /// have been looked for.
    fn note_seat(self: &Arc<Self>, claim: &Claim, attempt: Attempt, answered: &Result<ClaimAnswer>) {
        let Ok(ClaimAnswer { claimed: Claimed { session: Some(owned), .. }, is_unseated, .. }) = answered
        else {
            return;
        };
        if *is_unseated || attempt.seating.is_late() {
            let token = owned.fence.session.incarnation;
            let seat = Seat::of_session(&claim.principal, &claim.client_id, token);
            self.take_seat(seat, u64::MAX, Box::new(|_| ()));
        }
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

    fn claim_op(&self, claim: &Claim, attempt: &Attempt, nonce: u64, may_create: bool, term: Term) -> Op {
        let (will, will_delay_s) =
            claim.will.as_ref().map_or((Vec::new(), 0), |will| (codec::will(&will.message), will.delay_s));
        ClaimOp {
            client_id: &claim.client_id,
            incarnation: attempt.incarnation,
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
            seat: attempt.seating,
        }
        .on(&self.keys.of_client(&claim.client_id))
    }

    fn read_claimed(
        self: &Arc<Self>,
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
            let why = match name {
                Value::BulkString(said) if *said == [word::TOO_LATE] => Ineffective::Past,
                Value::BulkString(said) if *said == [word::UNSEATED] => Ineffective::Unseated,
                _ => Ineffective::Overtaken,
            };
            return Ok(ClaimAnswer { ineffective: Some(why), ..ClaimAnswer::default() });
        }
        let answer = Value::Array(parts);
        let identity =
            |incarnation| Arc::new(StoredSession { client_id: Arc::clone(client_id), incarnation });
        let [will, discarded, freed, session, previous, contents] = answer.tuple()?;
        let previous = previous.maybe().map(read_previous).transpose()?;
        let discarded = discarded.maybe_count()?.map(identity);
        if discarded.is_some() {
            self.session_gone(client_id, freed)?;
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
        let [present, incarnation, epoch, head, tail, sent, expiry_s, repeats, is_seated] =
            session.tuple()?;
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
        let is_unseated = is_seated.count()? == 0;
        let contents = contents.maybe();
        Ok(ClaimAnswer { claimed, is_will_waiting, is_unseated, contents, ineffective: None })
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
        let (now, keeps_will, left) = (release.now, release.keep_will, Arc::clone(client_id));
        self.one(bucket, op, done, move |engine, answer| {
            let answer = answer.accepted(StoreError::NoSession).inspect_err(|_| {
                if keeps_will {
                    // Its Will may have waited for this word.
                    engine.hints.armed(bucket, now);
                }
            });
            engine.read_left(&left, answer?, now)
        });
    }

    /// What a client's session held that is gone, or how long after `now` its first timer goes off.
    pub(super) fn read_left(self: &Arc<Self>, client_id: &str, answer: Value, now: UnixMs) -> Result<()> {
        let [freed, first] = answer.tuple()?;
        if let Some(freed) = freed.maybe() {
            self.session_gone(client_id, freed)?;
        }
        if let Some(left) = first.maybe_count()? {
            self.hints.armed(Bucket::of_client(client_id), now.saturating_add(left));
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
