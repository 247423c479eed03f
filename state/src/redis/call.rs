//! One call: its operations as one command of Redis, and the answer to that as theirs. Changes of queues that stand side by side
//! become one operation, in which each session comes once.

use std::collections::HashMap;
use std::io::Write;

use foldhash::fast::RandomState;
use redis::{Cmd, Value};

use super::change::{Enqueue, Outcome, Outcomes, QueueChange, Settled};
use super::codec;
use super::fault::Fault;
use super::functions::Library;
use super::keys::{Bucket, Keys};
use super::op::{Args, ReadAnswer, Rest, Result};
use super::operations::{ChangeQueuesOp, word};
use super::order::{OperationAnswer, Pending};
use super::received::Identity;
use super::stored::read_run;
use crate::{Fence, Number, StoreError, Via, WorkerId};

const DAMAGED: StoreError = StoreError::Damaged { what: "answer about queues" };

/// What all of a call is about.
pub(super) struct Frame<'a> {
    pub(super) keys: &'a Keys,
    pub(super) library: &'a Library,
    pub(super) bucket: Bucket,
    /// Who calls.
    pub(super) run: &'a str,
    /// Of a write.
    pub(super) number: Option<u64>,
}

/// What changes of queues have added.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) records: i64,
    pub(super) bytes: i64,
}

impl Frame<'_> {
    /// The command for operations.
    pub(super) fn command(&self, operations: &[Pending]) -> Cmd {
        let mut keys = Vec::new();
        let mut args = Args::default();
        for alike in alike(operations) {
            match alike {
                [Pending::Op(op, _)] => {
                    keys.extend(op.keys.iter().cloned());
                    args.operation(op.name, op.keys.len(), &op.args);
                }
                changes => self.change_queues(changes, &mut keys, &mut args),
            }
        }
        let mut command = Cmd::with_capacity(keys.len() + args.len() + 8, args.size() + 64 * keys.len());
        command.arg("FCALL");
        if self.number.is_some() {
            command
                .arg(&self.library.write)
                .arg(keys.len() + 1)
                .arg(self.keys.outcome(self.bucket, self.run));
        } else {
            command.arg(&self.library.read).arg(keys.len());
        }
        for key in &keys {
            command.arg(key);
        }
        if let Some(number) = self.number {
            command.arg(format!("{number:016}"));
        }
        args.each(|arg| {
            command.arg(arg);
        });
        command
    }

    fn change_queues(&self, changes: &[Pending], keys: &mut Vec<String>, args: &mut Args) {
        let by_session = BySession::of(changes);
        let mut own = Args::default();
        let bodies = shared_bodies(changes);
        let (has_identities, bodies_count) = (by_session.has_identities, bodies.len() as u64);
        ChangeQueuesOp { run: self.run, has_identities, bodies_count, bodies: Rest }.put(&mut own);
        bodies.iter().for_each(|change| own.push(&body_of(change)));
        for parts in &by_session.parts {
            parts.write(&bodies, &mut own);
        }
        let first_key = keys.len();
        if by_session.has_identities {
            let bucket = self.keys.of_bucket(self.bucket);
            keys.extend([bucket.identities(), bucket.identity_times()]);
        }
        for parts in &by_session.parts {
            let client = self.keys.of_client(parts.client_id);
            keys.extend([client.session(), client.queue()]);
        }
        args.operation(ChangeQueuesOp::SIGNATURE.name, keys.len() - first_key, &own);
    }
}

/// Reads what a call answered: for each operation, and what that adds to what is queued.
pub(super) fn read(operations: &[Pending], answer: Value) -> Result<(Vec<OperationAnswer>, Added)> {
    let mut answers = answer.list()?.into_iter();
    let mut found = Vec::with_capacity(operations.len());
    let mut added = Added::default();
    for alike in alike(operations) {
        let answer = answers.next().ok_or(StoreError::from(Fault::Form))?;
        match alike {
            [Pending::Op(..)] => found.push(OperationAnswer::Value(answer)),
            changes => read_changes(changes, answer, &mut found, &mut added)?,
        }
    }
    match answers.next() {
        None => Ok((found, added)),
        Some(_) => Err(Fault::Form.into()),
    }
}

/// Operations one by one, and changes of queues with those beside them.
fn alike(operations: &[Pending]) -> impl Iterator<Item = &[Pending]> {
    operations.chunk_by(|a, b| matches!((a, b), (Pending::Change(..), Pending::Change(..))))
}

/// Part of a change that concerns one session.
enum SessionChange<'a> {
    Enqueue { change: &'a QueueChange, identity: Option<&'a [u8]>, target: &'a Enqueue },
    Settle { fence: &'a Fence, number: Number, to: Settled },
}

/// Parts of one session, in order.
struct SessionChanges<'a> {
    client_id: &'a str,
    parts: Vec<SessionChange<'a>>,
}

/// All parts of changes.
struct BySession<'a> {
    parts: Vec<SessionChanges<'a>>,
    /// For each part of each change in order, whose it is.
    whose: Vec<usize>,
    has_identities: bool,
}

impl<'a> BySession<'a> {
    fn of(changes: &'a [Pending]) -> Self {
        let mut all =
            Self { parts: Vec::new(), whose: Vec::with_capacity(changes.len()), has_identities: false };
        let mut places: HashMap<&str, usize, RandomState> = HashMap::default();
        let mut add = |client_id: &'a str, part: SessionChange<'a>| {
            // Nearly always the one before.
            let place = match all.parts.last() {
                Some(last) if last.client_id == client_id => all.parts.len() - 1,
                _ => *places.entry(client_id).or_insert_with(|| {
                    all.parts.push(SessionChanges { client_id, parts: Vec::new() });
                    all.parts.len() - 1
                }),
            };
            all.whose.push(place);
            if let Some(parts) = all.parts.get_mut(place) {
                parts.parts.push(part);
            }
        };
        let mut has_identities = false;
        for pending in changes {
            match pending {
                Pending::Op(..) => {}
                Pending::Change(change @ QueueChange::Enqueue { identity, targets }, _) => {
                    has_identities |= identity.is_some();
                    for target in targets {
                        let identity = identity.as_ref().map(Identity::as_slice);
                        add(&target.session.client_id, SessionChange::Enqueue { change, identity, target });
                    }
                }
                Pending::Change(QueueChange::Settle { fence, number, to }, _) => {
                    add(&fence.session.client_id, SessionChange::Settle { fence, number: *number, to: *to });
                }
            }
        }
        all.has_identities = has_identities;
        all
    }
}

impl SessionChanges<'_> {
    /// As the function expects it.
    fn write(&self, bodies: &[&QueueChange], args: &mut Args) {
        let settled = self.parts.iter().filter_map(|part| match part {
            SessionChange::Settle { number, .. } => Some(number.0),
            SessionChange::Enqueue { .. } => None,
        });
        let settled_count = settled.clone().count();
        args.push(&[match settled_count {
            0 => word::ENQUEUE,
            count if count == self.parts.len() => word::ACKNOWLEDGE,
            _ => word::BOTH,
        }]);
        args.number(settled_count as u64);
        settled.for_each(|number| args.number(number));
        let runs = || self.parts.chunk_by(SessionChange::goes_with);
        args.number(runs().count() as u64);
        for run in runs() {
            match run.first() {
                Some(SessionChange::Enqueue { identity, target, .. }) => {
                    args.push(&[if identity.is_some() { word::ENQUEUE_NAMED } else { word::ENQUEUE }]);
                    args.number(target.session.incarnation);
                }
                Some(SessionChange::Settle { fence, to, .. }) => {
                    args.push(&[if *to == Settled::Gone { word::ACKNOWLEDGE } else { word::RELEASE }]);
                    args.number(fence.session.incarnation);
                    args.number(fence.epoch);
                    args.number(fence.nonce);
                }
                None => {}
            }
            args.number(run.len() as u64);
            if let Some(share) = run.first().and_then(SessionChange::share) {
                args.push(share.as_bytes());
            }
            run.iter().for_each(|part| part.write(bodies, args));
        }
    }
}

impl SessionChange<'_> {
    /// The share by which a message comes, `""` for none; `None` for what is settled.
    fn share(&self) -> Option<&str> {
        match self {
            Self::Enqueue { target, .. } => match &target.delivery.via {
                Via::Share(share) => Some(share),
                Via::Subscription | Via::Retained => Some(""),
            },
            Self::Settle { .. } => None,
        }
    }

    /// Whether what is said of one before its own is the same.
    fn goes_with(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Enqueue { identity: a, target: one, .. },
                Self::Enqueue { identity: b, target: two, .. },
            ) => {
                a.is_some() == b.is_some()
                    && one.session.incarnation == two.session.incarnation
                    && self.share() == other.share()
            }
            (Self::Settle { fence: a, to: x, .. }, Self::Settle { fence: b, to: y, .. }) => x == y && a == b,
            _ => false,
        }
    }

    fn write(&self, bodies: &[&QueueChange], args: &mut Args) {
        let Self::Enqueue { change, identity, target } = self else { return };
        let place = bodies.iter().position(|known| std::ptr::eq(*known, *change));
        match place.filter(|_| has_body_of(change, target)) {
            // Counted from one, behind those that come first.
            Some(place) => {
                args.push(&codec::record_head(&target.delivery));
                args.number((place + ChangeQueuesOp::SIGNATURE.args.len()) as u64);
            }
            None => {
                args.end(|bytes| codec::write_record(bytes, &target.delivery));
                args.push(b"");
            }
        }
        if let Some(identity) = identity {
            let incarnation = target.session.incarnation;
            args.end(|bytes| {
                bytes.extend_from_slice(identity);
                write!(bytes, "{incarnation}:{}", target.copy).unwrap_or_default();
            });
        }
    }
}

/// The message of its first target is that of this one.
fn has_body_of(change: &QueueChange, target: &Enqueue) -> bool {
    let QueueChange::Enqueue { targets, .. } = change else { return false };
    targets.first().is_some_and(|first| std::ptr::eq(&*first.delivery.message, &*target.delivery.message))
}

/// Changes whose message is for several sessions: it is sent once.
fn shared_bodies(changes: &[Pending]) -> Vec<&QueueChange> {
    let shared = changes.iter().filter_map(|pending| match pending {
        Pending::Change(change, _) if change.weight() > 1 => Some(change),
        _ => None,
    });
    shared.collect()
}

fn body_of(change: &QueueChange) -> Vec<u8> {
    let QueueChange::Enqueue { targets, .. } = change else { return Vec::new() };
    targets.first().map(|first| codec::body(&first.delivery.message)).unwrap_or_default()
}

fn read_changes(
    changes: &[Pending],
    answer: Value,
    found: &mut Vec<OperationAnswer>,
    added: &mut Added,
) -> Result<()> {
    let by_session = BySession::of(changes);
    let mut read = answer.list()?.into_iter().map(QueueAnswer::read).collect::<Result<Vec<QueueAnswer>>>()?;
    if read.len() != by_session.parts.len() {
        return Err(DAMAGED);
    }
    for told in &read {
        added.records -= told.freed;
        added.bytes -= told.freed_bytes;
    }
    let mut whose = by_session.whose.iter();
    for pending in changes {
        let Pending::Change(change, _) = pending else { continue };
        let mut outcomes = Outcomes::new();
        for part in 0..change.weight() {
            let told = whose.next().and_then(|place| read.get_mut(*place)).ok_or(DAMAGED)?;
            let (outcome, is_new) = told.next()?;
            outcomes.push(outcome);
            if is_new && let QueueChange::Enqueue { targets, .. } = change {
                let size = targets.get(part).map_or(0, |target| target.delivery.message.size());
                added.records += 1;
                added.bytes += i64::try_from(size).unwrap_or(i64::MAX);
            }
        }
        found.push(OperationAnswer::Outcomes(outcomes));
    }
    Ok(())
}

/// What the function says of one session.
struct QueueAnswer {
    /// The next new number.
    next: u64,
    elsewhere: Option<WorkerId>,
    freed: i64,
    freed_bytes: i64,
    marks: std::vec::IntoIter<u8>,
    /// Numbers of what was there before.
    known: std::vec::IntoIter<Value>,
}

impl QueueAnswer {
    fn read(answer: Value) -> Result<Self> {
        let [next, elsewhere, freed, freed_bytes, marks, known] = answer.tuple()?;
        Ok(Self {
            next: next.count()?,
            elsewhere: elsewhere.maybe().map(read_run).transpose()?,
            freed: freed.number()?,
            freed_bytes: freed_bytes.number()?,
            marks: marks.bytes()?.into_iter(),
            known: known.list()?.into_iter(),
        })
    }

    /// What became of the next part, and whether it is in the queue only now.
    fn next(&mut self) -> Result<(Outcome, bool)> {
        let mark = self.marks.next().ok_or(DAMAGED)?;
        let outcome = match mark {
            word::QUEUED => {
                self.next += 1;
                return Ok((Outcome::Queued(Number(self.next - 1), self.elsewhere), true));
            }
            word::KNOWN => {
                Outcome::Queued(Number(self.known.next().ok_or(DAMAGED)?.count()?), self.elsewhere)
            }
            word::KNOWN_ELSEWHERE => {
                Outcome::Queued(Number(self.known.next().ok_or(DAMAGED)?.count()?), None)
            }
            word::FULL => Outcome::Full,
            word::GONE => Outcome::Gone,
            word::SETTLED => Outcome::Settled,
            word::FENCED => Outcome::Fenced,
            word::NO_SESSION => Outcome::NoSession,
            _ => return Err(DAMAGED),
        };
        Ok((outcome, false))
    }
}
