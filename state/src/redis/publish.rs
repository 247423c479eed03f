//! Puts messages into queues: one change per bucket, with the body once. A QoS 2 message from a client is remembered in
//! its publisher's bucket first, with an identity that the receiving buckets remember too, so that when it comes again
//! after a crash in between, what is missing is added and nothing twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use redis::Value;
use smallvec::SmallVec;

use super::change::{Enqueue, Outcome, Outcomes, QueueChange};
use super::engine::{Engine, random};
use super::keys::Bucket;
use super::op::{ReadAnswer, Result};
use super::operations::{ReceiveOp, ReceivedOp};
use super::order::{Gate, Pending, Ticket};
use super::received::{DAMAGED, Identity, Known};
use crate::{Done, Enqueued, Origin, PART_TARGETS_MAX, Publish, Published, StoreError, Target};

/// The state of a received message, before its identity: not all queues have it yet.
const PENDING: u8 = b'P';
/// All queues have it.
pub(super) const ROUTED: u8 = b'R';

/// A change, and which of the targets it serves.
struct BucketChange {
    bucket: Bucket,
    change: QueueChange,
    targets: SmallVec<[usize; 1]>,
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
        let Publish { origin, targets, identity, .. } = publish;
        match origin {
            Some(origin) => self.receive(origin, targets, done),
            None if targets.is_empty() => done(Ok(Published::default())),
            None => self.enqueue(&targets, identity, None, move |result| {
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
        let op =
            ReceiveOp { fence: &origin.fence, packet_id: origin.packet_id, known: known.with_state(state) }
                .on(&self.keys.of_client(client_id));
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
        self.submit(Vec::new(), |_| vec![(bucket, Pending::Op(op, then))]);
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
        let op = ReceivedOp {
            incarnation: origin.fence.session.incarnation,
            packet_id: origin.packet_id,
            pending: known.with_state(PENDING),
            routed: known.with_state(ROUTED),
        }
        .on(&self.keys.of_client(client_id));
        let then = Box::new(|answer: Result<Value>| {
            if let Err(error) = answer {
                tracing::debug!(%error, "cannot note that a message was routed");
            }
        });
        self.submit(Vec::new(), |_| vec![(Bucket::of_client(client_id), Pending::Op(op, then))]);
    }

    /// Puts a message into queues, and calls `finish` in the order of the answers.
    fn enqueue(
        self: &Arc<Self>,
        targets: &[Target],
        identity: Option<Identity>,
        origin: Option<Gate>,
        finish: impl FnOnce(Result<Vec<Enqueued>>) + Send + 'static,
    ) {
        let parts = parts(targets, identity);
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

    fn pending(
        self: &Arc<Self>,
        part: BucketChange,
        ticket: Ticket,
        joint: &Arc<Mutex<Joint>>,
    ) -> (Bucket, Pending) {
        let BucketChange { bucket, change, targets } = part;
        let (engine, joint) = (Arc::clone(self), Arc::clone(joint));
        let then = Box::new(move |outcomes: Result<Outcomes>| {
            let is_last = {
                let mut joint = joint.lock();
                match outcomes {
                    Ok(outcomes) => joint.note(&targets, &outcomes),
                    Err(error) => joint.error = Some(error),
                }
                joint.missing -= 1;
                joint.missing == 0
            };
            if is_last {
                engine.finish(ticket, &joint);
            }
        });
        (bucket, Pending::Change(change, then))
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
}

impl Joint {
    /// Takes what became of the targets of one part.
    fn note(&mut self, targets: &[usize], outcomes: &[Outcome]) {
        for (at, outcome) in targets.iter().zip(outcomes) {
            let enqueued = match *outcome {
                Outcome::Queued(number, None) => Enqueued::At(number),
                Outcome::Queued(number, Some(worker)) => Enqueued::Elsewhere(number, worker),
                Outcome::Full => Enqueued::Full,
                _ => Enqueued::Gone,
            };
            if let Some(place) = self.targets.get_mut(*at) {
                *place = enqueued;
            }
        }
    }
}

/// Changes for all targets, by bucket.
fn parts(targets: &[Target], identity: Option<Identity>) -> Vec<BucketChange> {
    let copies = if identity.is_some() { number_copies(targets) } else { Vec::new() };
    let bucket_of = |target: &Target| Bucket::of_client(&target.session.client_id);
    if let [target] = targets {
        return vec![part(bucket_of(target), &[0], targets, identity, &copies)];
    }
    let mut by_bucket: BTreeMap<Bucket, Vec<usize>> = BTreeMap::new();
    for (at, target) in targets.iter().enumerate() {
        by_bucket.entry(bucket_of(target)).or_default().push(at);
    }
    let chunks = by_bucket.iter().flat_map(|(bucket, members)| {
        let chunks = members.chunks(PART_TARGETS_MAX);
        chunks.map(|some| part(*bucket, some, targets, identity, &copies))
    });
    chunks.collect()
}

fn part(
    bucket: Bucket,
    some: &[usize],
    targets: &[Target],
    identity: Option<Identity>,
    copies: &[u64],
) -> BucketChange {
    let members = some.iter().filter_map(|at| Some((*at, targets.get(*at)?)));
    let enqueue = |(at, target): (usize, &Target)| Enqueue {
        session: Arc::clone(&target.session),
        copy: copies.get(at).copied().unwrap_or(0),
        delivery: target.delivery.clone(),
    };
    let change = QueueChange::Enqueue { identity, targets: members.map(enqueue).collect() };
    BucketChange { bucket, change, targets: some.into() }
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
