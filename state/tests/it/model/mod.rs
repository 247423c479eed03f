//! Random calls, compared with a model that is as plain as can be; restarts included.

mod expected;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use state::{
    Claim, ConnectionId, Due, Enqueued, Fence, Number, Origin, Owned, Publish, QueueLimits, Record, Release,
    ResumeRefusal, StoreError, StoredSession, UnixMs,
};

use self::expected::{Item, Model, ModelSession, Wanted};
use crate::harness::{Backend, Calls, START, claim, message, packet_id, principal, publish_to, wait, will};

const CLIENTS: [&str; 3] = ["a", "b", "c"];
const PRINCIPALS: [&str; 3] = ["", "alice", "bob"];
/// Whose sessions are counted.
const COUNTED: usize = 2;
const COUNTED_MAX: usize = 1;
const QUEUE_MAX: usize = 6;
const RECEIVE_MAXIMUM: u16 = 3;

#[derive(Clone, Debug)]
enum Step {
    Claim(Wanted),
    DropWill { client: usize },
    Resume { client: usize, principal: usize, whose: Whose, memory_queue: bool },
    Release { client: usize, expiry_s: u32, keep_will: bool, grace_ms: u64 },
    LastWord { client: usize, keep_will: bool },
    Subscribe { client: usize, filter: u8 },
    Unsubscribe { client: usize, filter: u8 },
    Publish { clients: Vec<usize>, size: usize, origin: Option<(usize, u16)> },
    Acknowledge { client: usize, offset: u64 },
    MarkReleased { client: usize, offset: u64 },
    Forget { client: usize, id: u16 },
    Read { client: usize, offset: u64, max: usize },
    Routes,
    Due { finish: bool },
    Wait { seconds: u64 },
    Restart { seconds: u64 },
}

/// Which connection wants to go on with a session.
#[derive(Clone, Copy, Debug)]
enum Whose {
    /// The one that had it last.
    Last,
    /// The same, by a claim that an earlier one has overtaken.
    Late,
    /// Another.
    Another,
}

fn clients() -> std::ops::Range<usize> {
    0..CLIENTS.len()
}

fn expiries() -> impl Strategy<Value = u32> + Clone {
    prop_oneof![Just(0_u32), Just(10), Just(1000), Just(u32::MAX)]
}

fn claims() -> impl Strategy<Value = Step> {
    let will_delay_s =
        proptest::option::weighted(0.7, prop_oneof![3 => Just(0_u32), 1 => Just(5), 1 => Just(50)]);
    let who = (
        clients(),
        prop_oneof![4 => Just(0_usize), 1 => Just(1), 2 => Just(COUNTED)],
        prop::bool::weighted(0.15),
    );
    let what = (prop::bool::weighted(0.2), prop::bool::weighted(0.85), expiries(), prop::bool::weighted(0.2));
    let will = (will_delay_s, prop_oneof![Just(0_u64), Just(7_000)]);
    (who, what, will).prop_map(|(who, what, (will_delay_s, will_wait_ms))| {
        let (client, principal, again) = who;
        let (clean_start, create, expiry_s, memory_queue) = what;
        let wanted = Wanted {
            client,
            again,
            principal,
            clean_start,
            create,
            expiry_s,
            memory_queue,
            will_delay_s,
            will_wait_ms,
        };
        Step::Claim(wanted)
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = clients();
    let expiry_s = expiries();
    let origin = proptest::option::weighted(0.3, (client.clone(), 1_u16..4));
    let size = prop_oneof![6 => Just(1_usize), 1 => Just(2000), 1 => Just(20_000)];
    let whose = prop_oneof![6 => Just(Whose::Last), 1 => Just(Whose::Late), 1 => Just(Whose::Another)];
    let principal = prop_oneof![9 => Just(0_usize), 1 => Just(1), 3 => Just(COUNTED)];
    let resume = (client.clone(), principal, whose, prop::bool::weighted(0.2)).prop_map(
        |(client, principal, whose, memory_queue)| Step::Resume { client, principal, whose, memory_queue },
    );
    let grace_ms = prop_oneof![2 => Just(0_u64), 1 => Just(7_000)];
    let step = prop_oneof![
        8 => claims(),
        1 => client.clone().prop_map(|client| Step::DropWill { client }),
        3 => resume,
        5 => (client.clone(), any::<bool>())
            .prop_map(|(client, keep_will)| Step::LastWord { client, keep_will }),
        4 => (client.clone(), expiry_s, any::<bool>(), grace_ms).prop_map(
            |(client, expiry_s, keep_will, grace_ms)| Step::Release { client, expiry_s, keep_will, grace_ms }
        ),
        2 => (client.clone(), 0_u8..4).prop_map(|(client, filter)| Step::Subscribe { client, filter }),
        1 => (client.clone(), 0_u8..4).prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        10 => (prop::collection::vec(client.clone(), 0..4), size, origin)
            .prop_map(|(clients, size, origin)| Step::Publish { clients, size, origin }),
        6 => (client.clone(), 0_u64..5).prop_map(|(client, offset)| Step::Acknowledge { client, offset }),
        3 => (client.clone(), 0_u64..5).prop_map(|(client, offset)| Step::MarkReleased { client, offset }),
        2 => (client.clone(), 1_u16..4).prop_map(|(client, id)| Step::Forget { client, id }),
        4 => (client, 0_u64..5, 1_usize..5).prop_map(|(client, offset, max)| Step::Read { client, offset, max }),
        1 => Just(Step::Routes),
        3 => any::<bool>().prop_map(|finish| Step::Due { finish }),
        2 => (1_u64..20).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0_u64..20).prop_map(|seconds| Step::Restart { seconds }),
    ];
    prop::collection::vec(step, 1..80)
}

/// A store and its model, with what clients of the store remember.
struct Comparison<B> {
    backend: B,
    model: Model,
    now: UnixMs,
    /// By client: the last session, for publishers that lag behind.
    known: BTreeMap<usize, Arc<StoredSession>>,
    fences: BTreeMap<usize, Fence>,
    /// By client: the fence before that one.
    lost: BTreeMap<usize, Fence>,
    counter: u64,
}

impl<B: Backend> Comparison<B> {
    fn new() -> Self {
        Self {
            backend: B::fresh(),
            model: Model::default(),
            now: START,
            known: BTreeMap::new(),
            fences: BTreeMap::new(),
            lost: BTreeMap::new(),
            counter: 0,
        }
    }

    /// The fence of a client that owns its session, in the model too.
    fn owner(&self, client: usize) -> Option<Fence> {
        let fence = self.fences.get(&client)?.clone();
        self.model.sessions.get(&client).is_some_and(|session| session.connected).then_some(fence)
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Claim(wanted) => self.claim(wanted),
            Step::DropWill { client } => {
                if let Some(fence) = self.owner(*client) {
                    Calls(self.backend.store()).drop_will(&fence).expect("dropped");
                    self.model.sessions.get_mut(client).expect("owned").will = None;
                }
            }
            Step::Resume { client, principal, whose, memory_queue } => {
                self.resume(*client, *principal, *whose, *memory_queue);
            }
            Step::LastWord { client, keep_will } => {
                if let Some(lost) = self.lost.get(client).cloned() {
                    self.last_word(&lost, *keep_will);
                    // Nothing else shows what it did.
                    self.due(false);
                }
            }
            Step::Release { client, expiry_s, keep_will, grace_ms } => {
                self.release(*client, *expiry_s, *keep_will, *grace_ms);
            }
            Step::Subscribe { client, filter } => self.subscribe(*client, *filter),
            Step::Unsubscribe { client, filter } => self.unsubscribe(*client, *filter),
            Step::Publish { clients, size, origin } => self.publish(clients, *size, *origin),
            Step::Acknowledge { client, offset } => self.change(*client, *offset, None),
            Step::MarkReleased { client, offset } => self.change(*client, *offset, Some(Item::Released)),
            Step::Forget { client, id } => {
                if let Some(fence) = self.owner(*client) {
                    Calls(self.backend.store()).forget_received(&fence, *id).expect("forgotten");
                    self.model.sessions.get_mut(client).expect("owned").received.remove(id);
                }
            }
            Step::Read { client, offset, max } => self.read(*client, *offset, *max),
            Step::Routes => self.routes(),
            Step::Due { finish } => self.due(*finish),
            Step::Wait { seconds } => self.now += seconds * 1000,
            Step::Restart { seconds } => {
                self.now += seconds * 1000;
                self.backend.restart(self.now);
                self.model.restart(self.now);
                self.fences.clear();
            }
        }
        self.compare();
    }

    fn claim(&mut self, wanted: &Wanted) {
        let Wanted { client, clean_start, create, expiry_s, will_delay_s, .. } = wanted;
        self.counter += 1;
        let asks = self.model.asks(*client, wanted.again, self.counter);
        let asked = Claim {
            principal: principal(PRINCIPALS[wanted.principal]),
            principal_sessions_max: (wanted.principal == COUNTED).then_some(COUNTED_MAX as u64),
            clean_start: *clean_start,
            create: *create,
            expiry_s: *expiry_s,
            will: will_delay_s.map(|delay_s| will("w", delay_s)),
            limits: QueueLimits { messages_max: QUEUE_MAX as u64, bytes_max: u64::MAX },
            receive_maximum: RECEIVE_MAXIMUM,
            connection_id: ConnectionId(u128::from(asks.0)),
            attempt: asks.1,
            will_wait_ms: wanted.will_wait_ms,
            memory_queue: wanted.memory_queue,
            now: self.now,
            ..claim(CLIENTS[*client])
        };
        let is_foreign = self.model.is_foreign(wanted, self.now);
        if !is_foreign && self.model.is_beyond(wanted) {
            let refused = Calls(self.backend.store()).claim(asked);
            assert!(matches!(refused, Err(StoreError::PrincipalQuota)), "{refused:?}");
            return;
        }
        let (present, will_due, discarded) =
            if is_foreign { (None, false, false) } else { self.model.claim(wanted, asks, self.now) };
        let answer = Calls(self.backend.store()).claim(asked).expect("a claim");
        assert_eq!(answer.refusal, is_foreign.then_some(ResumeRefusal::Foreign));
        assert_eq!(answer.will_due.is_some(), will_due, "the will due");
        assert_eq!(answer.discarded.is_some(), discarded, "the session discarded");
        assert_eq!(answer.session.as_ref().map(|owned| owned.present), present, "session present");
        let Some(owned) = answer.session else { return };
        self.own(*client, owned);
    }

    fn resume(&mut self, client: usize, principal_of: usize, whose: Whose, memory_queue: bool) {
        if self.model.is_inherited(client, principal_of, self.now) {
            return;
        }
        self.counter += 1;
        let (connection, attempt) = self.model.asks(client, !matches!(whose, Whose::Another), self.counter);
        // Nobody counts claims of a connection that went with its process.
        let is_late = matches!(whose, Whose::Late) && self.fences.contains_key(&client);
        let attempt = if is_late { attempt.saturating_sub(2) } else { attempt };
        let asked = Claim {
            principal: principal(PRINCIPALS[principal_of]),
            resume: true,
            create: false,
            receive_maximum: RECEIVE_MAXIMUM,
            connection_id: ConnectionId(u128::from(connection)),
            attempt,
            memory_queue,
            now: self.now,
            ..claim(CLIENTS[client])
        };
        let refusal = self.model.resume(client, principal_of, (connection, attempt), memory_queue, self.now);
        let answer = Calls(self.backend.store()).claim(asked).expect("a claim");
        assert_eq!(answer.refusal, refusal);
        assert!(answer.will_due.is_none() && answer.discarded.is_none());
        assert_eq!(answer.session.as_ref().map(|owned| owned.present), refusal.is_none().then_some(true));
        let Some(owned) = answer.session else { return };
        assert_eq!(owned.expiry_s, self.model.sessions[&client].expiry_s);
        self.own(client, owned);
    }

    /// What the new owner of a session is told of it.
    fn own(&mut self, client: usize, owned: Owned) {
        let session = &self.model.sessions[&client];
        assert_eq!(owned.tail, Number(session.tail));
        assert_eq!(owned.head.0, session.queue.keys().next().copied().unwrap_or(session.tail));
        assert!(owned.head <= owned.sent && owned.sent <= owned.tail);
        let received: BTreeSet<u16> = owned.received.iter().map(|id| id.as_u16()).collect();
        assert_eq!(received, session.received);
        let filters: BTreeSet<u8> =
            owned.subscriptions.iter().map(|found| found.filter.parse().expect("a number")).collect();
        assert_eq!(filters, session.subscriptions);
        self.known.insert(client, Arc::clone(&owned.fence.session));
        self.model.sessions.get_mut(&client).expect("owned").fence = Some(owned.fence.clone());
        if let Some(lost) = self.fences.insert(client, owned.fence) {
            self.lost.insert(client, lost);
        }
    }

    fn last_word(&mut self, lost: &Fence, keep_will: bool) {
        let refused = Calls(self.backend.store()).release(lost, 10, keep_will, self.now);
        assert!(matches!(refused, Err(StoreError::Fenced | StoreError::NoSession)));
        self.model.last_word(lost, keep_will, self.now);
    }

    fn release(&mut self, client: usize, expiry_s: u32, keep_will: bool, grace_ms: u64) {
        let Some(fence) = self.fences.get(&client).cloned() else { return };
        if !self.model.take_back(client, &fence) {
            return self.last_word(&fence, keep_will);
        }
        let release = Release { expiry_s, keep_will, sent: Number(1), grace_ms, now: self.now };
        wait(|done| self.backend.store().release(&fence, release, done)).expect("released");
        if expiry_s == 0 && grace_ms == 0 {
            let gone = self.model.sessions.remove(&client).expect("owned");
            if keep_will && gone.will.is_some() {
                self.model.adopt(client, self.now);
            }
            return;
        }
        let session = self.model.sessions.get_mut(&client).expect("owned");
        session.expiry_s = expiry_s;
        session.will = session.will.filter(|_| keep_will);
        Model::leave(session, self.now + grace_ms);
    }

    fn subscribe(&mut self, client: usize, filter: u8) {
        let Some(fence) = self.owner(client) else { return };
        let calls = Calls(self.backend.store());
        let answer = calls.subscribe(&fence, &[&filter.to_string()]).expect("subscribed");
        let is_new = self.model.sessions.get_mut(&client).expect("owned").subscriptions.insert(filter);
        assert_eq!(answer, [!is_new]);
    }

    fn unsubscribe(&mut self, client: usize, filter: u8) {
        let Some(fence) = self.owner(client) else { return };
        let calls = Calls(self.backend.store());
        let answer = calls.unsubscribe(&fence, &[&filter.to_string()]).expect("unsubscribed");
        let was_there = self.model.sessions.get_mut(&client).expect("owned").subscriptions.remove(&filter);
        assert_eq!(answer, [was_there]);
    }

    fn publish(&mut self, clients: &[usize], size: usize, origin: Option<(usize, u16)>) {
        let targets: Vec<usize> =
            clients.iter().copied().filter(|client| self.known.contains_key(client)).collect();
        let sessions: Vec<_> = targets.iter().map(|client| &self.known[client]).collect();
        self.counter += 1;
        let payload = format!("{:0>size$}", self.counter);
        let mut publish = publish_to(&sessions, &message("t", &payload));
        if let Some((publisher, id)) = origin {
            let Some(fence) = self.owner(publisher) else { return };
            publish = Publish { origin: Some(Origin { fence, packet_id: packet_id(id) }), ..publish };
        }
        let answer = Calls(self.backend.store()).publish(publish);
        if let Some((publisher, id)) = origin {
            let is_new = self.model.sessions.get_mut(&publisher).expect("owned").received.insert(id);
            assert_eq!(answer.duplicate, !is_new);
            if !is_new {
                assert!(answer.targets.is_empty());
                return;
            }
        }
        let is_current = |client: &usize| {
            self.model.sessions.contains_key(client)
                && self.fences.get(client).is_none_or(|fence| fence.session == self.known[client])
        };
        let expected: Vec<Enqueued> = targets
            .iter()
            .map(|client| {
                if !is_current(client) {
                    return None;
                }
                Some(client)
            })
            .collect::<Vec<_>>()
            .into_iter()
            .map(|client| match client.and_then(|client| self.model.sessions.get_mut(client)) {
                None => Enqueued::Gone,
                Some(session) if session.memory_queue => Enqueued::Gone,
                Some(session) if session.queue.len() >= QUEUE_MAX => Enqueued::Full,
                Some(session) => {
                    session.queue.insert(session.tail, Item::Message(payload.clone()));
                    session.tail += 1;
                    Enqueued::At(Number(session.tail - 1))
                }
            })
            .collect();
        assert_eq!(answer.targets, expected);
    }

    /// Acknowledges, or releases, the record at an offset from the head.
    fn change(&mut self, client: usize, offset: u64, to: Option<Item>) {
        let Some(fence) = self.owner(client) else { return };
        let session = self.model.sessions.get_mut(&client).expect("owned");
        let number = session.queue.keys().next().copied().unwrap_or(session.tail) + offset;
        let calls = Calls(self.backend.store());
        match to {
            None => {
                calls.acknowledge(&fence, number).expect("acknowledged");
                session.queue.remove(&number);
            }
            Some(item) => {
                calls.mark_released(&fence, number).expect("released");
                session.queue.entry(number).and_modify(|found| *found = item);
            }
        }
    }

    fn read(&self, client: usize, offset: u64, max: usize) {
        let Some(fence) = self.owner(client) else { return };
        let session = &self.model.sessions[&client];
        let head = session.queue.keys().next().copied().unwrap_or(session.tail);
        let page = Calls(self.backend.store()).read(&fence, head + offset, max).expect("a page");
        let found: Vec<(u64, Item)> = page
            .records
            .into_iter()
            .map(|queued| match queued.record {
                Record::Released => (queued.number.0, Item::Released),
                Record::Message(delivery) => {
                    let text = String::from_utf8_lossy(delivery.message.payload_slice()).into_owned();
                    (queued.number.0, Item::Message(text))
                }
            })
            .collect();
        let rest = session.queue.range(head + offset..);
        let expected: Vec<(u64, Item)> =
            rest.map(|(number, item)| (*number, item.clone())).take(max).collect();
        assert_eq!(found, expected);
        if expected.len() < max {
            assert_eq!(page.next.0, session.tail);
        }
    }

    /// Of sessions whose queue is stored.
    fn routes(&self) {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (client, filters) in Calls(self.backend.store()).routes(2) {
            found.entry(client).or_default().extend(filters);
        }
        let is_routed = |session: &&ModelSession| !session.memory_queue && !session.subscriptions.is_empty();
        let expected: BTreeMap<String, BTreeSet<String>> = self
            .model
            .sessions
            .iter()
            .filter(|(_, session)| is_routed(session))
            .map(|(client, session)| {
                let filters = session.subscriptions.iter().map(u8::to_string).collect();
                (CLIENTS[*client].to_owned(), filters)
            })
            .collect();
        assert_eq!(found, expected);
    }

    fn due(&mut self, finish: bool) {
        let due = wait(|done| self.backend.store().claim_due(self.now, 100, done)).expect("due");
        let mut found: Vec<String> = due
            .iter()
            .map(|item| match item {
                Due::Will(will) => format!("will {}", will.session.client_id),
                Due::Expired(session) => format!("expired {}", session.client_id),
                Due::Left(left) => format!("left {}", left.session.client_id),
            })
            .collect();
        found.sort();
        assert_eq!(found, self.model.due(self.now));
        if !finish {
            return;
        }
        for item in &due {
            let Due::Will(will) = item else { continue };
            wait(|done| self.backend.store().finish_will(will, done)).expect("finished");
        }
        let Model { sessions, orphans, handed_out, .. } = &mut self.model;
        orphans.retain(|serial, _| !handed_out.0.contains(serial));
        for client in &handed_out.1 {
            if let Some(session) = sessions.get_mut(client) {
                session.will = None;
            }
        }
    }

    fn compare(&self) {
        if B::CHECK_IS_CHEAP {
            self.backend.check();
        }
        let stats = self.backend.store().stats();
        let sessions = self.model.sessions.values();
        assert_eq!(stats.sessions, sessions.len() as u64);
        assert_eq!(
            stats.queued_messages,
            sessions.clone().map(|session| session.queue.len() as u64).sum::<u64>()
        );
        assert_eq!(
            stats.subscriptions,
            sessions.map(|session| session.subscriptions.len() as u64).sum::<u64>()
        );
    }
}

/// Runs so many random sequences of calls over a kind of store, and over the model.
pub(crate) fn compare_with_model<B: Backend>(cases: u32) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            let mut comparison = Comparison::<B>::new();
            for step in &steps {
                comparison.run(step);
            }
            comparison.backend.check();
            Ok(())
        })
        .expect("the store does as the model does");
}
