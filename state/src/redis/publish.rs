//! Puts messages into queues: one operation per bucket, with the body once. A QoS 2 message from a client is remembered in
//! its publisher's bucket first, with an identity that the receiving buckets remember too, so that when it comes again
//! after a crash in between, what is missing is added and nothing twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use redis::Value;

use super::claim::read_run;
use super::codec;
use super::engine::{Engine, add, random};
use super::keys::Bucket;
use super::op::{Answer, Kind, Op, Result};
use super::order::{Gate, Pending, Ticket};
use super::received::{DAMAGED, Identity, Known};
use crate::{Done, Enqueued, Message, Number, Origin, Publish, Published, StoreError, Target};

/// The state of a received message, before its identity: not all queues have it yet.
const PENDING: u8 = b'P';
/// All queues have it.
pub(super) const ROUTED: u8 = b'R';

/// Targets of one operation.
const TARGETS_MAX: usize = 64;

/// An operation, and which of the targets it serves.
struct Part {
    bucket: Bucket,
    op: Op,
    targets: Vec<usize>,
    size: i64,
}

type Finish = Box<dyn FnOnce(Result<Vec<Enqueued>>) + Send>;

/// What the parts have answered.
struct Joint {
    missing: usize,
    targets: Vec<Enqueued>,
    error: Option<StoreError>,
    finish: Option<Finish>,
}

impl Engine {
    /// See [`crate::Store::publish`].
    pub(super) fn publish(self: &Arc<Self>, publish: Publish, done: Done<Published>) {
        let Some(done) = self.admit(done) else { return };
        let Publish { origin, targets, .. } = publish;
        match origin {
            Some(origin) => self.receive(origin, targets, done),
            None if targets.is_empty() => done(Ok(Published::default())),
            None => self.enqueue(&targets, None, None, move |result| {
                done(result.map(|targets| Published { targets, ..Published::default() }));
            }),
        }
    }

    /// Remembers a QoS 2 message, then routes it, unless it was routed before.
    fn receive(self: &Arc<Self>, origin: Origin, targets: Vec<Target>, done: Done<Published>) {
        let client_id = &origin.fence.session.client_id;
        let bucket = Bucket::of_client(client_id);
        let state = if targets.is_empty() { ROUTED } else { PENDING };
        let identity = (u128::from(random()) << 64 | u128::from(random())).to_le_bytes();
        let known = Known::new(identity, &targets);
        let keys = vec![self.keys.session(client_id), self.keys.received(client_id)];
        let op = Op::new("receive", Kind::Write, keys)
            .fence(&origin.fence)
            .arg(u64::from(origin.packet_id.as_u16()))
            .arg(known.with_state(state));
        let engine = Arc::clone(self);
        let then = Box::new(move |answer: Result<Value>| {
            let gate = Gate::Origin(bucket);
            match answer.and_then(|answer| read_received(answer, state, known)) {
                Ok((PENDING, found)) => engine.route(origin, targets, found, done),
                // Routed before, or there is nowhere to route it to.
                Ok((_, found)) => {
                    let duplicate = found.identity() != identity;
                    engine.line_up(gate, move || done(Ok(Published { duplicate, ..Published::default() })));
                }
                Err(error) => engine.line_up(gate, move || done(Err(error))),
            }
        });
        self.submit(Vec::new(), |_| vec![(bucket, Pending { op, then })]);
    }

    /// Gives an answer after those that took their place before.
    fn line_up(self: &Arc<Self>, gate: Gate, give: impl FnOnce() + Send + 'static) {
        let mut taken = None;
        self.submit(vec![gate], |ticket| {
            taken = Some(ticket);
            Vec::new()
        });
        if let Some(ticket) = taken {
            self.order.complete(ticket, Box::new(give));
        }
    }

    fn route(
        self: &Arc<Self>,
        origin: Origin,
        mut targets: Vec<Target>,
        known: Known,
        done: Done<Published>,
    ) {
        let instead = known.choose_again(&mut targets);
        let bucket = Bucket::of_client(&origin.fence.session.client_id);
        let engine = Arc::clone(self);
        self.enqueue(&targets, Some(known.identity()), Some(Gate::Origin(bucket)), move |result| {
            if result.is_ok() {
                engine.mark_routed(&origin, &known);
            }
            done(result.map(|targets| Published { duplicate: false, targets, instead }));
        });
    }

    /// Notes that all queues have a message. Nobody waits for it: until it is noted, a repeat is routed again, and the
    /// queues refuse what they know.
    fn mark_routed(self: &Arc<Self>, origin: &Origin, known: &Known) {
        let client_id = &origin.fence.session.client_id;
        let keys = vec![self.keys.session(client_id), self.keys.received(client_id)];
        let op = Op::new("received", Kind::Write, keys)
            .arg(origin.fence.session.incarnation)
            .arg(u64::from(origin.packet_id.as_u16()))
            .arg(known.with_state(PENDING))
            .arg(known.with_state(ROUTED));
        let then = Box::new(|answer: Result<Value>| {
            if let Err(error) = answer {
                tracing::debug!(%error, "cannot note that a message was routed");
            }
        });
        self.submit(Vec::new(), |_| vec![(Bucket::of_client(client_id), Pending { op, then })]);
    }

    /// Puts a message into queues, and calls `finish` in the order of the answers.
    fn enqueue(
        self: &Arc<Self>,
        targets: &[Target],
        identity: Option<Identity>,
        origin: Option<Gate>,
        finish: impl FnOnce(Result<Vec<Enqueued>>) + Send + 'static,
    ) {
        let parts = self.parts(targets, identity);
        let mut gates: Vec<Gate> = parts.iter().map(|part| Gate::Bucket(part.bucket)).collect();
        gates.dedup();
        gates.extend(origin);
        let joint = Joint {
            missing: parts.len(),
            targets: vec![Enqueued::Gone; targets.len()],
            error: None,
            finish: Some(Box::new(finish)),
        };
        let joint = Arc::new(Mutex::new(joint));
        let mut lone = None;
        self.submit(gates, |ticket| {
            if parts.is_empty() {
                lone = Some(ticket);
            }
            parts.into_iter().map(|part| self.pending(part, ticket, &joint)).collect()
        });
        if let Some(ticket) = lone {
            self.finish(ticket, &joint);
        }
    }

    fn pending(self: &Arc<Self>, part: Part, ticket: Ticket, joint: &Arc<Mutex<Joint>>) -> (Bucket, Pending) {
        let Part { bucket, op, targets, size } = part;
        let (engine, joint) = (Arc::clone(self), Arc::clone(joint));
        let then = Box::new(move |answer: Result<Value>| {
            let is_last = {
                let mut joint = joint.lock();
                if let Err(error) = answer.and_then(|answer| engine.note(&mut joint, answer, &targets, size))
                {
                    joint.error = Some(error);
                }
                joint.missing -= 1;
                joint.missing == 0
            };
            if is_last {
                engine.finish(ticket, &joint);
            }
        });
        (bucket, Pending { op, then })
    }

    fn finish(&self, ticket: Ticket, joint: &Mutex<Joint>) {
        let (finish, result) = {
            let mut joint = joint.lock();
            let targets = std::mem::take(&mut joint.targets);
            (joint.finish.take(), joint.error.take().map_or(Ok(targets), Err))
        };
        if let Some(finish) = finish {
            self.order.complete(ticket, Box::new(move || finish(result)));
        }
    }

    /// Reads what became of the targets of one part.
    fn note(&self, joint: &mut Joint, answer: Value, targets: &[usize], size: i64) -> Result<()> {
        for (answer, at) in answer.list()?.into_iter().zip(targets) {
            let enqueued = match answer {
                Value::BulkString(name) if name == b"G" => Enqueued::Gone,
                Value::BulkString(name) if name == b"F" => Enqueued::Full,
                found => {
                    let [number, is_new, elsewhere] = found.tuple()?;
                    if is_new.count()? == 1 {
                        add(&self.counts.queued_messages, 1);
                        add(&self.counts.queued_bytes, size);
                    }
                    let number = Number(number.count()?);
                    match elsewhere.maybe() {
                        None => Enqueued::At(number),
                        Some(run) => Enqueued::Elsewhere(number, read_run(run)?),
                    }
                }
            };
            if let Some(place) = joint.targets.get_mut(*at) {
                *place = enqueued;
            }
        }
        Ok(())
    }

    /// Operations for all targets, by bucket; targets of a bucket that get the same message share the body.
    fn parts(&self, targets: &[Target], identity: Option<Identity>) -> Vec<Part> {
        let copies = if identity.is_some() { number_copies(targets) } else { Vec::new() };
        let mut by_bucket: BTreeMap<Bucket, Vec<usize>> = BTreeMap::new();
        for (at, target) in targets.iter().enumerate() {
            by_bucket.entry(Bucket::of_client(&target.session.client_id)).or_default().push(at);
        }
        let mut parts = Vec::with_capacity(by_bucket.len());
        for (bucket, members) in by_bucket {
            let message = |at: &usize| targets.get(*at).map(|target| Arc::as_ptr(&target.delivery.message));
            for alike in members.chunk_by(|a, b| message(a) == message(b)) {
                for some in alike.chunks(TARGETS_MAX) {
                    let some: Vec<(usize, &Target)> =
                        some.iter().filter_map(|at| Some((*at, targets.get(*at)?))).collect();
                    if let Some((_, first)) = some.first() {
                        parts.push(self.part(bucket, &first.delivery.message, &some, identity, &copies));
                    }
                }
            }
        }
        parts
    }

    fn part(
        &self,
        bucket: Bucket,
        message: &Message,
        targets: &[(usize, &Target)],
        identity: Option<Identity>,
        copies: &[u64],
    ) -> Part {
        let mut keys = Vec::with_capacity(2 * targets.len() + 2);
        if identity.is_some() {
            keys.extend([self.keys.identities(bucket), self.keys.identity_times(bucket)]);
        }
        for (_, target) in targets {
            let client_id = &target.session.client_id;
            keys.extend([self.keys.session(client_id), self.keys.queue(client_id)]);
        }
        let mut op = Op::new("publish", Kind::Write, keys)
            .arg(identity.as_ref().map_or(&[][..], |identity| identity))
            .arg(message.size() as u64)
            .arg(codec::body(message))
            .arg(self.run.as_str());
        for (at, target) in targets {
            let copy = copies.get(*at).copied().unwrap_or(0);
            op = op.arg(target.session.incarnation).arg(copy).arg(codec::record_head(&target.delivery));
        }
        Part {
            bucket,
            op,
            targets: targets.iter().map(|(at, _)| *at).collect(),
            size: i64::try_from(message.size()).unwrap_or(i64::MAX),
        }
    }
}

/// For each target, how many of the same session come before it: overlapping subscriptions may give one session several
/// copies, which are not repeats of each other.
fn number_copies(targets: &[Target]) -> Vec<u64> {
    let mut next: HashMap<u64, u64> = HashMap::with_capacity(targets.len());
    let mut number = |target: &Target| {
        let count = next.entry(target.session.incarnation).or_default();
        let copy = *count;
        *count += 1;
        copy
    };
    targets.iter().map(&mut number).collect()
}

/// What a received message's state is and what is remembered of it: as it came before, or as it comes now.
fn read_received(answer: Value, state: u8, now: Known) -> Result<(u8, Known)> {
    let [have] = answer.accepted(StoreError::NoSession)?.tuple()?;
    let Some(have) = have.maybe() else { return Ok((state, now)) };
    let have = have.bytes()?;
    let (state, known) = have.split_first().ok_or(DAMAGED)?;
    Ok((*state, Known::read(known)?))
}
