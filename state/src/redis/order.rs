//! Lanes and gates. Every bucket has a lane: its operations are carried out in the order in which they came, one call at a
//! time, so that no repeat is overtaken. Every bucket also has a gate: an answer that depends on several lanes is given
//! when it is complete and all answers that entered its gates before it were given.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use redis::Value;

use super::change::{Outcomes, QueueChange};
use super::fault::Fault;
use super::keys::Bucket;
use super::op::{Kind, Op, Result};
use crate::StoreError;

/// Operations of one call; of changes of queues, their sessions.
const CALL_WRITES_MAX: usize = 128;
const CALL_READS_MAX: usize = 16;
const CALL_BYTES_MAX: usize = 256 * 1024;

/// Names an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// Where answers line up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Gate {
    /// Answers about a bucket's sessions or topics.
    Bucket(Bucket),
    /// Answers to the QoS 2 messages that a bucket's sessions publish.
    Origin(Bucket),
}

/// Receives what an operation answered, on the lane's task.
pub(super) type Then<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// Gives an answer.
pub(super) type Give = Box<dyn FnOnce() + Send>;

/// Something that waits for its call.
pub(super) enum Pending {
    /// An operation of the library.
    Op(Op, Then<Value>),
    /// A change of queues, which is carried out together with others.
    Change(QueueChange, Then<Outcomes>),
}

/// What the call answered to it.
pub(super) enum OperationAnswer {
    Value(Value),
    Outcomes(Outcomes),
}

impl Pending {
    fn kind(&self) -> Kind {
        match self {
            Self::Op(op, _) => op.kind,
            Self::Change(..) => Kind::Write,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Op(..) => 1,
            Self::Change(change, _) => change.weight(),
        }
    }

    /// Whether it must not be done twice, and Redis does not tell the second time from the first.
    pub(super) fn adds(&self) -> bool {
        matches!(self, Self::Change(QueueChange::Enqueue { identity: None, .. }, _))
    }

    /// Bytes that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Op(op, _) => op.bytes(),
            Self::Change(change, _) => change.bytes(),
        }
    }

    /// Hands its answer on.
    pub(super) fn answer(self, answer: OperationAnswer) {
        match (self, answer) {
            (Self::Op(_, then), OperationAnswer::Value(value)) => then(Ok(value)),
            (Self::Change(_, then), OperationAnswer::Outcomes(outcomes)) => then(Ok(outcomes)),
            (pending, _) => pending.fail(Fault::Form.into()),
        }
    }

    /// It has no answer.
    pub(super) fn fail(self, error: StoreError) {
        match self {
            Self::Op(_, then) => then(Err(error)),
            Self::Change(_, then) => then(Err(error)),
        }
    }
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Pending>,
    /// Number of the last call.
    calls: u64,
    is_busy: bool,
}

struct Entry {
    gates: Vec<Gate>,
    /// Gates at which others are before it.
    blocked: usize,
    give: Option<Give>,
}

#[derive(Default)]
struct State {
    lanes: HashMap<Bucket, Lane, RandomState>,
    gates: HashMap<Gate, VecDeque<Ticket>, RandomState>,
    entries: HashMap<Ticket, Entry, RandomState>,
    next: u64,
}

/// All lanes and gates.
#[derive(Default)]
pub(super) struct Order {
    state: Mutex<State>,
}

/// A call to be made.
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) is_numbered: bool,
    pub(super) operations: Vec<Pending>,
}

impl Order {
    /// Takes a place at the gates, and puts operations into lanes, in one step. `make` gets the ticket for which the answer
    /// is to be completed. Answers the lanes that need a task to drive them.
    pub(super) fn submit(
        &self,
        gates: Vec<Gate>,
        make: impl FnOnce(Ticket) -> Vec<(Bucket, Pending)>,
    ) -> Vec<Bucket> {
        let mut state = self.state.lock();
        let ticket = Ticket(state.next);
        state.next += 1;
        if !gates.is_empty() {
            let mut blocked = 0;
            for gate in &gates {
                let line = state.gates.entry(*gate).or_default();
                blocked += usize::from(!line.is_empty());
                line.push_back(ticket);
            }
            state.entries.insert(ticket, Entry { gates, blocked, give: None });
        }
        let mut idle = Vec::new();
        for (bucket, pending) in make(ticket) {
            let lane = state.lanes.entry(bucket).or_default();
            lane.queue.push_back(pending);
            if !std::mem::replace(&mut lane.is_busy, true) {
                idle.push(bucket);
            }
        }
        idle
    }

    /// Puts an operation before all others of a lane, while an answer of that lane is read: nothing comes between the two.
    pub(super) fn follow(&self, bucket: Bucket, pending: Pending) {
        self.state.lock().lanes.entry(bucket).or_default().queue.push_front(pending);
    }

    /// The next call of a lane; `None` when it is idle from here on.
    pub(super) fn next_call(&self, bucket: Bucket) -> Option<Call> {
        let mut state = self.state.lock();
        let lane = state.lanes.get_mut(&bucket)?;
        let Some(first) = lane.queue.pop_front() else {
            lane.is_busy = false;
            return None;
        };
        let kind = first.kind();
        let operations_max = match kind {
            Kind::Read | Kind::Unnumbered => CALL_READS_MAX,
            Kind::Write => CALL_WRITES_MAX,
            Kind::Alone => 1,
        };
        let (mut bytes, mut weight) = (first.bytes(), first.weight());
        let mut operations = vec![first];
        while weight < operations_max
            && bytes < CALL_BYTES_MAX
            && let Some(next) = lane.queue.pop_front_if(|next| next.kind().goes_with(kind))
        {
            bytes += next.bytes();
            weight += next.weight();
            operations.push(next);
        }
        lane.calls += 1;
        Some(Call { number: lane.calls, is_numbered: kind.is_numbered(), operations })
    }

    /// An answer is complete: gives it, and those that waited for it, when it is their turn.
    pub(super) fn complete(&self, ticket: Ticket, give: Give) {
        let mut ready = Vec::new();
        {
            let mut state = self.state.lock();
            let Some(entry) = state.entries.get_mut(&ticket) else {
                drop(state);
                return give_guarded(give);
            };
            if entry.blocked > 0 {
                entry.give = Some(give);
                return;
            }
            ready.push((ticket, give));
        }
        while let Some((ticket, give)) = ready.pop() {
            // It keeps its place while it is given, so that nothing overtakes it.
            give_guarded(give);
            self.state.lock().leave(ticket, &mut ready);
        }
    }
}

/// Gives an answer to a receiver whose panic is its own: what comes after it, here and behind it, is done all the same.
pub(super) fn give_guarded(give: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(give)).is_err() {
        tracing::error!("a receiver of a store's answer panicked");
    }
}

impl State {
    fn leave(&mut self, ticket: Ticket, ready: &mut Vec<(Ticket, Give)>) {
        let Some(entry) = self.entries.remove(&ticket) else { return };
        for gate in entry.gates {
            let Some(line) = self.gates.get_mut(&gate) else { continue };
            line.pop_front();
            let Some(first) = line.front().copied() else {
                self.gates.remove(&gate);
                continue;
            };
            let Some(next) = self.entries.get_mut(&first) else { continue };
            next.blocked -= 1;
            if next.blocked == 0
                && let Some(give) = next.give.take()
            {
                ready.push((first, give));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_answer_waits_for_those_before_it_at_all_its_gates() {
        let order = Order::default();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (a, b) = (Gate::Bucket(Bucket::Sessions(1)), Gate::Bucket(Bucket::Sessions(2)));
        let enter = |gates: &[Gate]| {
            let mut taken = None;
            order.submit(gates.to_vec(), |ticket| {
                taken = Some(ticket);
                Vec::new()
            });
            taken.expect("a ticket")
        };
        let give = |name: &'static str| -> Give {
            let log = Arc::clone(&log);
            Box::new(move || log.lock().push(name))
        };
        let (both, only_a, only_b, last) = (enter(&[a, b]), enter(&[a]), enter(&[b]), enter(&[a, b]));
        order.complete(only_b, give("b"));
        order.complete(last, give("last"));
        assert!(log.lock().is_empty());
        order.complete(both, give("both"));
        assert_eq!(*log.lock(), ["both", "b"]);
        order.complete(only_a, give("a"));
        assert_eq!(*log.lock(), ["both", "b", "a", "last"]);
        assert!(order.state.lock().gates.is_empty() && order.state.lock().entries.is_empty());
    }

    #[test]
    fn what_follows_from_an_answer_comes_before_what_waits() {
        let order = Order::default();
        let bucket = Bucket::Sessions(1);
        let op = |name, kind| Pending::Op(Op::new(name, kind, Vec::new()), Box::new(|_| ()));
        let named = |call: &Call| match call.operations.as_slice() {
            [Pending::Op(op, _)] => op.name,
            _ => "",
        };
        order.submit(Vec::new(), |_| {
            vec![(bucket, op("first", Kind::Alone)), (bucket, op("last", Kind::Alone))]
        });
        assert_eq!(order.next_call(bucket).as_ref().map(named), Some("first"));
        order.follow(bucket, op("followed", Kind::Read));
        assert_eq!(order.next_call(bucket).as_ref().map(named), Some("followed"));
        assert_eq!(order.next_call(bucket).as_ref().map(named), Some("last"));
    }

    #[test]
    fn what_may_delete_keys_is_alone_in_its_call() {
        let order = Order::default();
        let bucket = Bucket::Sessions(1);
        let kinds = [Kind::Write, Kind::Write, Kind::Alone, Kind::Alone, Kind::Read, Kind::Read, Kind::Write];
        for kind in kinds {
            order.submit(Vec::new(), |_| {
                vec![(bucket, Pending::Op(Op::new("x", kind, Vec::new()), Box::new(|_| ())))]
            });
        }
        let calls: Vec<_> = std::iter::from_fn(|| order.next_call(bucket)).collect();
        let shapes: Vec<_> = calls.iter().map(|call| (call.number, call.operations.len())).collect();
        assert_eq!(shapes, [(1, 2), (2, 1), (3, 1), (4, 2), (5, 1)]);
    }
}
