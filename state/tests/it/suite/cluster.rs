//! What workers have in common.

use std::sync::Arc;

use mqtt::QoS;
use state::{
    Burial, Claim, Cluster, ConnectionId, Due, Enqueued, Heard, InboxPage, Joined, LeftInInbox, Listener,
    LogPage, Message, Noted, Number, Placed, Position, Previous, PublishingSession, RouteChange, Stamp,
    Store, StoreError, StoredSession, Wants,
};

use crate::harness::{
    Calls, START, begin, claim, delivery, message, owned, principal, publish_to, subscription, take, wait,
    will,
};

/// One run of one worker.
pub(crate) struct Worker {
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) store: Arc<dyn Store>,
}

/// A kind of cluster that the suite runs over.
pub(crate) trait Workers {
    /// Nobody is there. Inboxes are as small, and the log as short, as they can be.
    fn start() -> Self;

    /// A new run of a worker, which has not joined.
    fn worker(&mut self, name: &str) -> Worker;

    /// Lets time pass by the store's clock.
    fn pass(&mut self, ms: u64);
}

impl Worker {
    fn join(&self) -> Position {
        wait(|done| self.cluster.join(done)).expect("joined").log_end
    }

    fn append(&self, changes: Vec<RouteChange>) -> Position {
        wait(|done| self.cluster.append(changes, done)).expect("appended")
    }

    fn read_log(&self, after: Position) -> LogPage {
        wait(|done| self.cluster.read_log(after, 0, done)).expect("a page")
    }

    fn post(&self, to: &Self, notes: Vec<Noted>) -> Heard {
        wait(|done| self.cluster.post(to.cluster.id(), notes, done)).expect("posted")
    }

    fn read_inbox(&self, after: u64) -> InboxPage {
        wait(|done| self.cluster.read_inbox(Position(after), 0, done)).expect("a page")
    }

    fn listening(&self, page: usize) -> Vec<Listener> {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page = wait(|done| self.cluster.listening(cursor.take(), page, done)).expect("a page");
            found.extend(page.listeners);
            cursor = page.next;
            if cursor.is_none() {
                return found;
            }
        }
    }

    fn bury(&self, dead: &Self, grace_ms: u64) {
        assert!(self.bury_on(dead, grace_ms, 0).is_empty());
    }

    /// What comes next of what was left in its inbox.
    fn bury_on(&self, dead: &Self, grace_ms: u64, handed_on: u64) -> Vec<Placed<LeftInInbox>> {
        let (worker, handed_on) = (dead.cluster.id(), Position(handed_on));
        let burial = Burial { worker, silent_ms: 0, grace_ms, now: START, handed_on };
        wait(|done| self.cluster.bury(burial, done)).expect("an answer")
    }

    fn try_leave(&self) -> Result<(), StoreError> {
        wait(|done| self.cluster.leave(done))
    }

    fn try_join(&self) -> Result<Joined, StoreError> {
        wait(|done| self.cluster.join(done))
    }

    fn lease(&self, applied: u64, lease_ms: u64) -> state::Lease {
        wait(|done| self.cluster.renew(Some(Position(applied)), lease_ms, done)).expect("a lease")
    }

    fn hears(&self, filter: &str) -> RouteChange {
        RouteChange::Listening(self.listens(filter, Wants::UpTo(QoS::AtMostOnce)))
    }

    fn listens(&self, filter: &str, wants: Wants) -> Listener {
        Listener { worker: self.cluster.id(), filter: Arc::from(filter), wants }
    }

    fn is_deaf(&self, filter: &str) -> RouteChange {
        RouteChange::Deaf { worker: self.cluster.id(), filter: Arc::from(filter) }
    }
}

pub(crate) fn placed(position: u64, what: RouteChange) -> Placed<RouteChange> {
    Placed { position: Position(position), what }
}

fn gone(client_id: &str) -> RouteChange {
    RouteChange::Gone(Arc::new(StoredSession { client_id: Arc::from(client_id), incarnation: 1 }))
}

fn taken_over(connection: u128) -> Noted {
    Noted::TakenOver { client_id: Arc::from("c"), connection_id: ConnectionId(connection) }
}

fn stamp_of(sender: &Worker) -> Stamp {
    Stamp {
        sender: sender.cluster.id(),
        number: 7,
        publisher: Some(PublishingSession { incarnation: 5, epoch: 6 }),
        at_us: START * 1000,
    }
}

fn connections(page: &InboxPage) -> Vec<u128> {
    let connection = |note: &Placed<Noted>| match &note.what {
        Noted::TakenOver { connection_id, .. } => connection_id.0,
        other => panic!("{other:?}"),
    };
    page.notes.iter().map(connection).collect()
}

pub(crate) fn members_are_listed_with_their_leases<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    assert_ne!(a.cluster.id(), b.cluster.id());
    assert!(a.lease(0, 500).is_expelled, "it has not joined");
    a.join();
    b.join();
    let found = a.lease(7, 60_000);
    assert!(!found.is_expelled);
    let mut names: Vec<_> = found.members.iter().map(|m| (&*m.name, m.is_live, m.applied)).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [("a", true, Some(Position(7))), ("b", false, Some(Position(0)))],
        "without a renewal there is no lease"
    );
    let first = b.lease(9, 200);
    workers.pass(400);
    let found = a.lease(8, 60_000);
    assert!(found.now_us >= first.now_us + 400_000, "all see one clock: {found:?}");
    let b_is = found.members.iter().find(|member| member.id == b.cluster.id()).expect("listed");
    assert!(!b_is.is_live && b_is.silent_ms >= 400 && b_is.applied == Some(Position(9)), "{b_is:?}");
    assert!(!b.lease(10, 200).is_expelled, "silence alone expels nobody");
    let loading = wait(|done| b.cluster.renew(None, 60_000, done)).expect("a lease");
    let b_is = loading.members.iter().find(|member| member.id == b.cluster.id()).expect("listed");
    assert!(b_is.is_live && b_is.applied.is_none(), "{b_is:?}");
}

pub(crate) fn all_read_the_log_in_one_order<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    assert_eq!((a.join(), b.join()), (Position(0), Position(0)));
    let changes = vec![
        RouteChange::Subscribed {
            session: Arc::new(StoredSession { client_id: Arc::from("x"), incarnation: 3 }),
            epoch: 7,
            subscriptions: vec![subscription("t/#", QoS::AtLeastOnce)],
        },
        a.hears("f"),
        gone("y"),
    ];
    let first = a.append(changes.clone());
    let last = b.append(vec![gone("z")]);
    assert_eq!(last.0, first.0 + 1, "places are dense");
    for worker in [&a, &b] {
        let page = worker.read_log(Position(0));
        assert!(!page.has_gap);
        let read: Vec<RouteChange> = page.changes.iter().map(|placed| placed.what.clone()).collect();
        assert_eq!(read, [changes.clone(), vec![gone("z")]].concat());
        assert_eq!(page.changes.last().expect("the last").position, last);
        assert!(page.changes.is_sorted_by_key(|placed| placed.position));
        assert_eq!(worker.read_log(first).changes, [placed(last.0, gone("z"))]);
        assert_eq!(worker.lease(0, 1).log_end, last);
    }
    assert_eq!(workers.worker("c").join(), last);
}

pub(crate) fn a_read_waits_for_what_comes<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    a.join();
    b.join();
    let log = begin(|done| a.cluster.read_log(Position(0), 20_000, done));
    let inbox = begin(|done| a.cluster.read_inbox(Position(0), 20_000, done));
    assert_eq!(b.append(vec![gone("y")]), Position(1));
    assert_eq!(take(&log).expect("a page").changes, [placed(1, gone("y"))]);
    assert!(inbox.try_recv().is_err());
    assert_eq!(b.post(&a, vec![taken_over(1)]), Heard::Yes);
    assert_eq!(connections(&take(&inbox).expect("a page")), [1]);
    let (log, inbox) = (
        begin(|done| a.cluster.read_log(Position(1), 100, done)),
        begin(|done| a.cluster.read_inbox(Position(1), 100, done)),
    );
    workers.pass(200);
    assert_eq!(take(&log).expect("a page"), LogPage::default());
    let page = take(&inbox).expect("a page");
    assert!(page.notes.is_empty() && !page.has_gap);
}

pub(crate) fn what_workers_listen_to_is_kept_until_they_leave<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    a.join();
    b.join();
    let mut filters: Vec<String> = (0..25).map(|n| format!("f/{n:02}/é")).collect();
    a.append(filters.iter().map(|filter| a.hears(filter)).collect());
    let changed = RouteChange::Listening(b.listens("$share/g/f", Wants::Qos0Only));
    b.append(vec![b.hears("$share/g/f"), changed, b.hears("gone")]);
    b.append(vec![b.is_deaf("gone")]);
    a.append(vec![a.is_deaf("f/07/é")]);
    filters.remove(7);
    let mut expected: Vec<_> =
        filters.iter().map(|filter| a.listens(filter, Wants::UpTo(QoS::AtMostOnce))).collect();
    expected.push(b.listens("$share/g/f", Wants::Qos0Only));
    expected.sort();
    for page in [1, 7, 1000] {
        let mut found = b.listening(page);
        found.sort();
        assert_eq!(found, expected, "in pages of {page}");
    }
    let end = a.lease(0, 1).log_end;
    wait(|done| a.cluster.leave(done)).expect("left");
    assert_eq!(b.listening(1000).len(), 1);
    let page = b.read_log(end);
    assert_eq!(page.changes, [placed(end.0 + 1, RouteChange::Left(a.cluster.id()))]);
    assert_eq!(b.lease(0, 1).members.len(), 1);
    // What a worker listens to that is not there is of no use, all else is.
    a.append(vec![a.hears("late"), gone("late")]);
    assert_eq!(b.listening(1000).len(), 1);
    let page = b.read_log(Position(end.0 + 1));
    assert_eq!(page.changes, [placed(end.0 + 2, gone("late"))]);
}

pub(crate) fn an_inbox_keeps_its_notes_until_they_were_read<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    assert_eq!(b.post(&a, vec![taken_over(0)]), Heard::Gone, "it has not joined");
    a.join();
    b.join();
    let posted: Vec<_> = (1..=20)
        .map(|n| begin(|done| b.cluster.post(a.cluster.id(), vec![taken_over(n), taken_over(100 + n)], done)))
        .collect();
    for answer in posted {
        assert_eq!(take(&answer).expect("posted"), Heard::Yes);
    }
    let expected: Vec<u128> = (1..=20).flat_map(|n| [n, 100 + n]).collect();
    for _ in 0..2 {
        let page = a.read_inbox(0);
        assert_eq!(connections(&page), expected, "nothing goes before it was read past");
        assert_eq!(page.notes.last().expect("the last").position, Position(20));
        assert!(!page.has_gap);
    }
    assert_eq!(connections(&a.read_inbox(18)), expected[36..]);
    let (message, session) =
        (message("t", "x"), Arc::new(StoredSession { client_id: Arc::from("s"), incarnation: 5 }));
    let shares = vec![Arc::from("$share/g/t")];
    let stamp = stamp_of(&b);
    b.post(
        &a,
        vec![
            Noted::Queued { session, number: Number(4), delivery: delivery(&message) },
            Noted::Message { stamp, message: Arc::clone(&message), is_plain: false, shares },
        ],
    );
    let page = a.read_inbox(20);
    let [
        Placed { what: Noted::Queued { session, number, delivery: found }, .. },
        Placed { position, what: Noted::Message { stamp: found_stamp, is_plain, shares, .. } },
    ] = page.notes.as_slice()
    else {
        panic!("{page:?}")
    };
    assert_eq!((&*session.client_id, session.incarnation, number.0, *position), ("s", 5, 4, Position(21)));
    assert_eq!(*found, delivery(&message));
    assert_eq!((*found_stamp, *is_plain, &*shares[0]), (stamp, false, "$share/g/t"));
    wait(|done| a.cluster.leave(done)).expect("left");
    assert_eq!(b.post(&a, vec![taken_over(0)]), Heard::Gone);
}

pub(crate) fn an_inbox_has_a_bound<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    a.join();
    b.join();
    let large = message("t", &"x".repeat(200_000));
    let note = || {
        let (stamp, message) = (stamp_of(&b), Arc::clone(&large));
        vec![Noted::Message { stamp, message, is_plain: true, shares: Vec::new() }]
    };
    let mut taken = 0;
    while b.post(&a, note()) == Heard::Yes {
        taken += 1;
        assert!(taken < 20, "it is full some time");
    }
    assert!(taken >= 2);
    assert_eq!(b.post(&a, note()), Heard::Full);
    let mut at = 0;
    let mut read = 0;
    loop {
        let page = a.read_inbox(at);
        let Some(last) = page.notes.last() else { break };
        read += page.notes.len();
        at = last.position.0;
    }
    assert_eq!(read, taken, "what was refused is not there in part");
    assert_eq!(b.post(&a, note()), Heard::Yes, "there is room again");
}

pub(crate) fn a_reader_that_is_too_far_behind_is_told<W: Workers>() {
    let mut workers = W::start();
    let a = workers.worker("a");
    a.join();
    let mut end = Position(0);
    for n in 0..30 {
        let many: Vec<_> =
            (0..50).map(|m| begin(|done| a.cluster.append(vec![gone(&format!("{n} {m}"))], done))).collect();
        for answer in many {
            end = take(&answer).expect("appended");
        }
    }
    assert_eq!(end, Position(1500));
    let page = a.read_log(Position(0));
    assert!(page.has_gap && page.changes.is_empty(), "{} changes", page.changes.len());
    let page = a.read_log(Position(1498));
    assert_eq!((page.has_gap, page.changes.len()), (false, 2));
}

pub(crate) fn a_session_at_another_worker_is_named<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    let (at_a, at_b) = (Calls(&*a.store), Calls(&*b.store));
    let old = at_a.own(Claim { connection_id: ConnectionId(5), ..claim("c") });
    let session = Arc::clone(&old.fence.session);
    assert_eq!(at_a.enqueue(&session, "1"), Enqueued::At(Number(1)));
    assert_eq!(at_b.enqueue(&session, "2"), Enqueued::Elsewhere(Number(2), a.cluster.id()));
    let resume = Claim { connection_id: ConnectionId(5), resume: true, ..claim("c") };
    let answer = at_b.claim(resume).expect("an answer");
    let previous = Previous { worker: a.cluster.id(), connection_id: ConnectionId(5) };
    assert_eq!(answer.previous, Some(previous));
    assert_eq!(at_b.enqueue(&session, "3"), Enqueued::At(Number(3)));
    assert_eq!(at_a.enqueue(&session, "4"), Enqueued::Elsewhere(Number(4), b.cluster.id()));
    assert!(matches!(at_a.acknowledge(&old.fence, 1), Err(StoreError::Fenced)));
    let answer = at_a.claim(Claim { clean_start: true, ..claim("c") }).expect("an answer");
    assert_eq!(answer.previous.map(|previous| previous.worker), Some(b.cluster.id()));
    let fence = answer.session.expect("another session").fence;
    at_a.release(&fence, 60, false, START).expect("released");
    assert_eq!(at_b.enqueue(&fence.session, "1"), Enqueued::At(Number(1)), "nobody is to be told");
    assert!(at_b.claim(claim("c")).expect("an answer").previous.is_none());
}

pub(crate) fn what_a_dead_worker_owned_waits_for_its_connections<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    a.join();
    b.join();
    a.append(vec![a.hears("f")]);
    let (at_a, at_b) = (Calls(&*a.store), Calls(&*b.store));
    let own = |name: &str, connection: u128, expiry_s: u32| {
        let connection_id = ConnectionId(connection);
        at_a.own(Claim { connection_id, expiry_s, will: Some(will("w", 0)), ..claim(name) }).fence
    };
    let (resumed, lost, clean) = (own("resumed", 1, 60), own("lost", 2, 60), own("clean", 3, 0));
    let other = at_b.own(claim("other")).fence;
    let released = at_a.own(claim("released")).fence;
    at_a.release(&released, 600, false, START).expect("released");
    at_b.publish(publish_to(&[&resumed.session, &lost.session], &message("t", "1")));
    let end = b.lease(0, 1).log_end;
    b.bury(&a, 5000);
    b.bury(&a, 5000);
    assert!(a.lease(0, 1000).is_expelled);
    assert_eq!(b.post(&a, vec![taken_over(0)]), Heard::Gone);
    assert!(b.listening(10).is_empty());
    assert_eq!(b.read_log(end).changes, [placed(end.0 + 1, RouteChange::Left(a.cluster.id()))]);
    for fence in [&resumed, &lost, &clean] {
        assert!(matches!(at_a.acknowledge(fence, 1), Err(StoreError::Fenced)));
    }
    at_b.acknowledge(&other, 1).expect("it lives");
    let resume = |name, connection| Claim {
        connection_id: ConnectionId(connection),
        resume: true,
        now: START + 1000,
        ..claim(name)
    };
    let answer = at_b.claim(resume("resumed", 1)).expect("an answer");
    assert!(answer.previous.is_none(), "it is known to be dead");
    assert_eq!(answer.session.expect("the session").tail, Number(2));
    assert!(at_b.due(START + 4999).is_empty());
    let mut due = at_b.due(START + 5000);
    due.sort_unstable();
    assert_eq!(due, ["expired clean", "will clean w", "will lost w"]);
    assert!(at_b.due(START + 64_999).iter().all(|due| due.starts_with("will")), "not yet");
    assert!(at_b.due(START + 65_000).contains(&"expired lost".to_owned()));
    assert_eq!(a.join(), Position(end.0 + 1), "it may join again");
    assert!(!a.lease(0, 1000).is_expelled);
    assert_eq!(b.post(&a, vec![taken_over(9)]), Heard::Yes);
    assert_eq!(connections(&a.read_inbox(0)), [9]);
}

// Who buries it may die, too, or another one may do the same.
pub(crate) fn what_is_in_the_inbox_of_a_dead_worker_is_answered_until_it_was_handed_on<W: Workers>() {
    let mut workers = W::start();
    let (a, b, c) = (workers.worker("a"), workers.worker("b"), workers.worker("c"));
    a.join();
    b.join();
    c.join();
    let note = |payload: &str, qos: QoS, shares: &[&str]| Noted::Message {
        stamp: stamp_of(&b),
        message: Arc::new(Message::new("t", &[], payload.as_bytes(), qos, false, START)),
        is_plain: true,
        shares: shares.iter().map(|share| Arc::from(*share)).collect(),
    };
    for number in 1..=200 {
        let mut notes = vec![
            note("plain", QoS::AtLeastOnce, &[]),
            note("twice", QoS::ExactlyOnce, &["$share/g/t"]),
            note("zero", QoS::AtMostOnce, &["$share/g/t"]),
            taken_over(number),
        ];
        // Whoever reads some at a time finds pages with nothing in them.
        if number % 100 < 3 {
            notes.push(note(&number.to_string(), QoS::AtLeastOnce, &["$share/g/t", "$share/h/t"]));
        }
        assert_eq!(b.post(&a, notes), Heard::Yes);
    }
    let end = b.lease(0, 1).log_end;
    let (mut found, mut handed_on) = (Vec::new(), 0);
    loop {
        let left = b.bury_on(&a, 5000, handed_on);
        let Some(last) = left.last() else { break };
        assert!(last.position.0 > handed_on);
        handed_on = last.position.0;
        let before = found.len();
        for Placed { what, .. } in &left {
            assert_eq!(what.shares, [Arc::from("$share/g/t"), Arc::from("$share/h/t")]);
            found.push(String::from_utf8(what.message.payload().to_vec()).expect("text"));
        }
        assert!(a.lease(0, 1000).is_expelled);
        assert!(matches!(a.try_join(), Err(error) if error.is_retryable()), "it is being buried");
        assert!(matches!(a.try_leave(), Err(error) if error.is_retryable()), "others do that");
        assert_eq!(b.post(&a, vec![taken_over(0)]), Heard::Gone);
        assert!(b.read_log(end).changes.is_empty(), "its entry stays");
        workers.pass(6000);
        let again: Vec<_> = c.bury_on(&a, 5000, 0).iter().map(|left| left.what.message.payload()).collect();
        let expected: Vec<_> = found[before..].iter().map(|text| text.clone().into_bytes()).collect();
        assert_eq!(again, expected, "nobody has handed that on");
        workers.pass(6000);
    }
    assert_eq!(found, ["1", "2", "100", "101", "102", "200"]);
    assert_eq!(b.read_log(end).changes, [placed(end.0 + 1, RouteChange::Left(a.cluster.id()))]);
    assert!(c.bury_on(&a, 5000, 0).is_empty());
    a.join();
    assert!(a.read_inbox(0).notes.is_empty(), "nothing of it is left");
    assert_eq!(b.post(&a, vec![taken_over(9)]), Heard::Yes);
    assert_eq!(connections(&a.read_inbox(0)), [9]);
}

// It joins anew as soon as its burial is over; another worker may have waited for the end of the same.
pub(crate) fn who_has_a_lease_again_is_not_buried<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    a.join();
    b.join();
    workers.pass(3000);
    a.lease(0, 1000);
    let bury = |silent_ms: u64| {
        let (worker, handed_on) = (a.cluster.id(), Position::default());
        let burial = Burial { worker, silent_ms, grace_ms: 0, now: START, handed_on };
        assert!(wait(|done| b.cluster.bury(burial, done)).expect("an answer").is_empty());
    };
    bury(2000);
    assert!(!a.lease(0, 1000).is_expelled);
    assert_eq!(b.post(&a, vec![taken_over(1)]), Heard::Yes);
    workers.pass(3000);
    bury(2000);
    assert!(a.lease(0, 1000).is_expelled);
}

pub(crate) fn an_inbox_that_is_shut_may_still_be_read<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    a.join();
    b.join();
    let shut = || wait(|done| a.cluster.shut_inbox(done)).expect("shut");
    assert_eq!(shut(), Position(0));
    a.join();
    b.post(&a, vec![taken_over(1)]);
    b.post(&a, vec![taken_over(2)]);
    assert_eq!(shut(), Position(2));
    assert_eq!(b.post(&a, vec![taken_over(3)]), Heard::Gone);
    assert_eq!(shut(), Position(2));
    assert_eq!(connections(&a.read_inbox(0)), [1, 2]);
    assert_eq!(connections(&a.read_inbox(1)), [2]);
    a.join();
    assert_eq!(b.post(&a, vec![taken_over(4)]), Heard::Yes);
    assert_eq!(connections(&a.read_inbox(2)), [4]);
    b.bury(&a, 0);
    a.join();
    assert_eq!(shut(), Position(0), "what was in it is gone");
}

// It may hold the DISCONNECT of a device that has not come back.
pub(crate) fn who_was_taken_for_dead_has_a_last_word<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    a.join();
    b.join();
    let (at_a, at_b) = (Calls(&*a.store), Calls(&*b.store));
    let own = |name: &str, expiry_s: u32| {
        at_a.own(Claim { expiry_s, will: Some(will("w", 0)), ..claim(name) }).fence
    };
    let (stays, clean, lost) = (own("stays", 60), own("clean", 0), own("lost", 60));
    let found = at_a.own(claim("found")).fence;
    at_b.publish(publish_to(&[&stays.session], &message("t", "1")));
    b.bury(&a, 5000);
    at_a.release(&stays, 600, false, START).expect("a last word");
    at_a.release(&clean, 0, false, START).expect("a last word");
    at_a.release(&lost, 60, true, START + 1000).expect("a last word");
    let next = at_b.own(claim("found"));
    assert!(matches!(at_a.release(&found, 0, false, START), Err(StoreError::Fenced)));
    assert_eq!(next.tail, Number(1));
    assert_eq!(at_b.due(START + 5000), ["will lost w"]);
    assert!(matches!(at_a.release(&clean, 0, false, START), Err(StoreError::NoSession)), "it has ended");
    // What is being published is not taken back.
    at_a.release(&lost, 60, false, START + 5000).expect("once more");
    assert_eq!(at_b.due(START + 35_000), ["will lost w"], "who was told of it has not finished");
    assert!(at_b.due(START + 64_999).iter().all(|due| due.starts_with("will")), "not yet");
    assert!(at_b.due(START + 65_000).contains(&"expired lost".to_owned()));
    assert!(at_b.due(START + 599_999).iter().all(|due| due.starts_with("will")), "not yet");
    assert!(at_b.due(START + 600_000).contains(&"expired stays".to_owned()));
    at_b.acknowledge(&next.fence, 1).expect("the device that came back");
}

pub(crate) fn a_session_without_time_left_ends_with_its_worker<W: Workers>() {
    let mut workers = W::start();
    let (a, b) = (workers.worker("a"), workers.worker("b"));
    a.join();
    b.join();
    Calls(&*a.store).own(Claim { expiry_s: 0, will: Some(will("w", 9)), ..claim("c") });
    b.bury(&a, 0);
    let due = wait(|done| b.store.claim_due(START, 9, done)).expect("due");
    assert!(matches!(due.as_slice(), [Due::Will(..)]), "{due:?}");
    assert!(!Calls(&*b.store).own(claim("c")).present);
}

pub(crate) fn what_a_principal_has_is_counted_over_all_workers<W: Workers>() {
    let mut workers = W::start();
    let both = ["one", "two"].map(|name| workers.worker(name));
    for worker in &both {
        worker.join();
    }
    let of_five = |client_id: &str| Claim {
        principal: principal("alice"),
        principal_sessions_max: Some(5),
        expiry_s: 0,
        ..claim(client_id)
    };
    let (mut claims, mut retained) = (Vec::new(), Vec::new());
    for number in 0..10 {
        for (at, worker) in both.iter().enumerate() {
            let name = format!("{at}-{number}");
            claims.push((at, begin(|done| worker.store.claim(of_five(&name), done))));
            retained.push(begin(|done| worker.store.retain(owned("alice", 5, &name, "x"), done)));
        }
    }
    let mut made = Vec::new();
    for (at, answer) in &claims {
        match take(answer) {
            Ok(claimed) => made.push((*at, claimed.session.expect("a session").fence)),
            Err(error) => assert!(matches!(error, StoreError::PrincipalQuota), "{error}"),
        }
    }
    assert_eq!(made.len(), 5);
    assert_eq!(retained.iter().filter(|answer| take(answer).is_ok()).count(), 5);
    for worker in &both {
        let calls = Calls(&*worker.store);
        assert!(matches!(calls.claim(of_five("more")), Err(StoreError::PrincipalQuota)));
        assert!(matches!(calls.retain_as("alice", 5, "more", "x"), Err(StoreError::RetainedQuota)));
        assert_eq!(calls.retained("#", 100, START).len(), 5);
    }

    // What one worker owned and ends with it makes room at the other.
    let [one, two] = &both;
    let at_one = made.iter().filter(|(at, _)| *at == 0).count();
    two.bury(one, 0);
    let calls = Calls(&*two.store);
    let again = (0..10).filter(|number| calls.claim(of_five(&format!("again-{number}"))).is_ok()).count();
    assert_eq!(again, at_one);
}

/// Makes a test of every behaviour, over one kind of cluster.
macro_rules! cluster_behaviours {
    ($workers:ty) => {
        $crate::suite::cluster::cluster_behaviours!(@ $workers:
            members_are_listed_with_their_leases
            all_read_the_log_in_one_order
            a_read_waits_for_what_comes
            what_workers_listen_to_is_kept_until_they_leave
            an_inbox_keeps_its_notes_until_they_were_read
            an_inbox_has_a_bound
            a_reader_that_is_too_far_behind_is_told
            a_session_at_another_worker_is_named
            what_a_dead_worker_owned_waits_for_its_connections
            what_is_in_the_inbox_of_a_dead_worker_is_answered_until_it_was_handed_on
            who_has_a_lease_again_is_not_buried
            an_inbox_that_is_shut_may_still_be_read
            who_was_taken_for_dead_has_a_last_word
            a_session_without_time_left_ends_with_its_worker
            what_a_principal_has_is_counted_over_all_workers
        );
    };
    (@ $workers:ty: $($name:ident)*) => {
        $(#[test]
        fn $name() {
            $crate::suite::cluster::$name::<$workers>();
        })*
    };
}

pub(crate) use cluster_behaviours;
