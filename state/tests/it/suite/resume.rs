//! A device's connection that goes on at another worker, and sessions whose queue is not in the store.

use state::{Claim, ConnectionId, EXPIRY_NEVER, Enqueued, Number, Owned, Release, ResumeRefusal, StoreError};

use crate::harness::{Backend, Calls, START, claim, wait, will};

const CONNECTION: ConnectionId = ConnectionId(77);
const GRACE_MS: u64 = 5000;

fn resume(client_id: &str) -> Claim {
    Claim { connection_id: CONNECTION, resume: true, expiry_s: 9, clean_start: true, ..claim(client_id) }
}

fn connect<B: Backend>(backend: &B, expiry_s: u32, delay_s: u32) -> Owned {
    let wanted = Claim { connection_id: CONNECTION, expiry_s, will: Some(will("w", delay_s)), ..claim("a") };
    Calls(backend.store()).own(wanted)
}

/// The worker lets it go, since the connection may go on elsewhere.
fn part<B: Backend>(backend: &B, owned: &Owned, expiry_s: u32) {
    let release = Release { expiry_s, keep_will: true, sent: owned.tail, grace_ms: GRACE_MS, now: START };
    wait(|done| backend.store().release(&owned.fence, release, done)).expect("released");
}

pub(crate) fn the_last_connection_resumes_its_session_as_it_is<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = connect(&backend, 60, 5);
    calls.subscribe(&owned.fence, &["x"]).expect("subscribed");
    calls.enqueue(&owned.fence.session, "1");
    part(&backend, &owned, 60);
    backend.check();
    let answer = calls.claim(Claim { now: START + GRACE_MS, ..resume("a") }).expect("an answer");
    assert!(answer.will_due.is_none() && answer.discarded.is_none() && answer.refusal.is_none());
    let again = answer.session.expect("the session");
    assert!(again.present);
    assert_eq!(again.fence.session, owned.fence.session);
    assert_eq!((again.subscriptions.len(), again.tail, again.expiry_s), (1, Number(2), 60));
    assert!(calls.due(START + 1_000_000).is_empty(), "its timers stand still");
    backend.check();
    calls.release(&again.fence, 60, true, START).expect("released");
    assert_eq!(calls.due(START + 5000), ["will a w"], "the will went with it");
    assert_eq!(calls.due(START + 60_000), ["will a w", "expired a"]);
}

pub(crate) fn a_connection_resumes_a_session_that_it_still_owns<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = connect(&backend, 0, 0);
    let answer = calls.claim(resume("a")).expect("an answer");
    assert!(answer.will_due.is_none() && answer.discarded.is_none());
    assert!(answer.previous.is_none(), "it was this worker's");
    let again = answer.session.expect("the session");
    assert_eq!(again.fence.session, owned.fence.session);
    assert!(matches!(calls.acknowledge(&owned.fence, 1), Err(StoreError::Fenced)));
    calls.release(&again.fence, 0, true, START).expect("released");
    assert_eq!(calls.due(START), ["will a w"]);
}

pub(crate) fn another_connection_cannot_resume<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    connect(&backend, 60, 5);
    let newer = calls.own(claim("a"));
    let answer = calls.claim(resume("a")).expect("an answer");
    assert_eq!(answer.refusal, Some(ResumeRefusal::TakenOver));
    assert!(answer.session.is_none() && answer.discarded.is_none() && answer.previous.is_none());
    calls.acknowledge(&newer.fence, 1).expect("the newer one goes on");
    backend.check();
}

pub(crate) fn a_session_that_is_gone_cannot_be_resumed<B: Backend>() {
    let backend = B::fresh();
    let answer = Calls(backend.store()).claim(resume("a")).expect("an answer");
    assert_eq!(answer.refusal, Some(ResumeRefusal::Gone));
    assert!(answer.session.is_none());
    assert_eq!(backend.store().stats().sessions, 0, "none is made");
}

pub(crate) fn a_session_waits_for_its_connection_before_its_timers_start<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = connect(&backend, 10, 2);
    part(&backend, &owned, 10);
    assert!(calls.due(START + GRACE_MS + 1999).is_empty());
    assert_eq!(calls.due(START + GRACE_MS + 2000), ["will a w"]);
    assert!(calls.due(START + GRACE_MS + 9999).is_empty());
    assert_eq!(calls.due(START + GRACE_MS + 10_000), ["expired a"]);
    backend.check();
}

pub(crate) fn a_session_without_expiry_waits_for_its_connection<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = connect(&backend, 0, 60);
    part(&backend, &owned, 0);
    assert!(calls.due(START + GRACE_MS - 1).is_empty());
    let again = calls.own(Claim { now: START + GRACE_MS - 1, ..resume("a") });
    assert_eq!((again.present, again.expiry_s), (true, 0));
    part(&backend, &again, 0);
    assert_eq!(calls.due(START + GRACE_MS), ["will a w", "expired a"]);
    let answer = calls.claim(resume("a")).expect("an answer");
    assert_eq!(answer.refusal, Some(ResumeRefusal::Gone));
    backend.check();
}

// v5 3.1.2.11.2: it ended with its connection.
pub(crate) fn a_new_connection_ends_a_session_that_waited<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = connect(&backend, 0, 60);
    part(&backend, &owned, 0);
    let answer = calls.claim(Claim { now: START + 1, ..claim("a") }).expect("an answer");
    assert_eq!(answer.discarded.as_ref(), Some(&owned.fence.session));
    assert!(!answer.session.expect("another session").present);
    let will = answer.will_due.expect("its will");
    wait(|done| backend.store().finish_will(&will, done)).expect("finished");
    assert!(calls.due(START + 1_000_000).is_empty());
    backend.check();
}

// v5 3.1.3.2.2
pub(crate) fn a_will_without_delay_is_sent_when_the_connection_did_not_go_on<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = connect(&backend, 60, 0);
    part(&backend, &owned, 60);
    let answer = calls.claim(Claim { now: START + 1, ..claim("a") }).expect("an answer");
    assert!(answer.session.expect("the session").present);
    let will = answer.will_due.expect("its will");
    assert_eq!(will.message.topic(), "w");
    wait(|done| backend.store().finish_will(&will, done)).expect("finished");
    assert!(calls.due(START + 1_000_000).is_empty());
    backend.check();
}

// A worker dies between its claim and CONNACK: the edge asks for the same connection at another.
pub(crate) fn a_connect_that_is_repeated_publishes_no_will_of_its_own<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    for clean_start in [false, true] {
        for is_away in [false, true] {
            let first =
                Claim { clean_start, will: Some(will("w", 0)), connection_id: CONNECTION, ..claim("a") };
            let owned = calls.own(Claim { attempt: 1, ..first.clone() });
            if is_away {
                part(&backend, &owned, 60);
            }
            let answer = calls.claim(Claim { attempt: 2, now: START + 1, ..first }).expect("an answer");
            assert!(answer.will_due.is_none(), "the connection goes on");
            let fence = answer.session.expect("the session").fence;
            assert!(calls.due(START + 1_000_000).is_empty());
            calls.release(&fence, 0, false, START).expect("released");
            backend.check();
        }
    }
}

pub(crate) fn a_will_that_is_being_published_is_not_resumed<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = connect(&backend, 60, 0);
    part(&backend, &owned, 60);
    assert_eq!(calls.due(START + GRACE_MS), ["will a w"]);
    let again = calls.own(Claim { now: START + GRACE_MS, ..resume("a") });
    backend.check();
    calls.release(&again.fence, EXPIRY_NEVER, true, START + GRACE_MS).expect("released");
    assert!(calls.due(START + GRACE_MS + 1000).is_empty(), "it was handed out once");
    assert_eq!(calls.due(START + 600_000), ["will a w"], "until it is finished");
    backend.check();
}

pub(crate) fn a_session_that_waited_for_its_connection_survives_a_restart<B: Backend>() {
    let mut backend = B::fresh();
    let owned = connect(&backend, 0, 0);
    Calls(backend.store()).subscribe(&owned.fence, &["x"]).expect("subscribed");
    part(&backend, &owned, 0);
    backend.restart(START + 1000);
    let again = Calls(backend.store()).own(Claim { now: START + 2000, ..resume("a") });
    assert_eq!((again.present, again.subscriptions.len(), again.expiry_s), (true, 1, 0));
    assert!(Calls(backend.store()).due(START + 1_000_000).is_empty());
    backend.check();
}

pub(crate) fn a_session_with_its_queue_in_memory_has_no_routes_and_no_queue<B: Backend>() {
    let mut backend = B::fresh();
    let owned = Calls(backend.store()).own(Claim { memory_queue: true, ..claim("a") });
    Calls(backend.store()).subscribe(&owned.fence, &["x"]).expect("subscribed");
    for _ in 0..2 {
        let calls = Calls(backend.store());
        assert!(calls.routes(10).is_empty());
        assert_eq!(calls.enqueue(&owned.fence.session, "1"), Enqueued::Gone);
        backend.restart(START);
    }
    let calls = Calls(backend.store());
    let stored = calls.own(claim("a"));
    assert_eq!(stored.subscriptions.len(), 1);
    assert_eq!(calls.routes(10).len(), 1);
    assert_eq!(calls.enqueue(&stored.fence.session, "1"), Enqueued::At(Number(1)));
    backend.check();
}

// An edge that gets no answer asks another worker; the store may carry out the first claim after the second.
pub(crate) fn a_claim_that_comes_late_takes_nothing<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    connect(&backend, 60, 0);
    let owned = calls.own(Claim { attempt: 3, ..resume("a") });
    let connect = Claim { connection_id: CONNECTION, clean_start: true, ..claim("a") };
    for late in [Claim { attempt: 2, ..resume("a") }, Claim { attempt: 2, ..connect }] {
        let answer = calls.claim(late).expect("an answer");
        assert_eq!(answer.refusal, Some(ResumeRefusal::TakenOver));
        assert!(answer.session.is_none() && answer.will_due.is_none() && answer.discarded.is_none());
    }
    calls.acknowledge(&owned.fence, 1).expect("it is still the owner");
    backend.check();
}

// v5 [MQTT-3.3.1-1]: what an earlier connection may have got is sent with DUP, wherever its successor goes on.
pub(crate) fn who_resumes_knows_what_earlier_connections_may_have_got<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let first = calls.own(claim("a"));
    for payload in ["1", "2", "3"] {
        calls.enqueue(&first.fence.session, payload);
    }
    let release = Release { expiry_s: 60, keep_will: false, sent: Number(3), grace_ms: 0, now: START };
    wait(|done| backend.store().release(&first.fence, release, done)).expect("released");
    let wanted = Claim { connection_id: CONNECTION, clean_start: false, ..claim("a") };
    let owned = calls.own(wanted);
    assert_eq!((owned.sent, owned.repeats), (Number(3), Number(3)));
    calls.enqueue(&owned.fence.session, "4");
    let resumed = calls.own(resume("a"));
    assert_eq!((resumed.sent, resumed.repeats), (Number(5), Number(3)), "the connection did not break");
    part(&backend, &resumed, 60);
    assert_eq!(calls.own(resume("a")).repeats, Number(3));
    calls.acknowledge(&calls.own(resume("a")).fence, 1).expect("acknowledged");
    // Acknowledgements may have been lost with the worker: nobody knows how far it has sent.
    let small = calls.own(Claim { receive_maximum: 1, ..claim("b") });
    for payload in ["1", "2", "3"] {
        calls.enqueue(&small.fence.session, payload);
    }
    let last = calls.own(claim("b"));
    assert_eq!((last.sent, last.repeats), (Number(2), Number(4)));
    // Nor do those who go on with its connection, and say only what they have sent themselves.
    let small = calls.own(Claim { receive_maximum: 1, connection_id: CONNECTION, ..claim("c") });
    for payload in ["1", "2", "3"] {
        calls.enqueue(&small.fence.session, payload);
    }
    for payload in ["4", "5"] {
        let resumed = calls.own(Claim { receive_maximum: 1, ..resume("c") });
        assert_eq!((resumed.sent, resumed.repeats), (Number(2), Number(1)));
        calls.enqueue(&small.fence.session, payload);
        let release =
            Release { expiry_s: 60, keep_will: false, sent: resumed.sent, grace_ms: GRACE_MS, now: START };
        wait(|done| backend.store().release(&resumed.fence, release, done)).expect("released");
    }
    let next = calls.own(claim("c"));
    assert_eq!((next.sent, next.repeats), (Number(2), Number(4)));
    backend.check();
}
