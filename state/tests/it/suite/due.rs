//! Wills and expiries. v5 3.1.2.11.2, v5 3.1.3.2.2

use state::{Claim, ConnectionId, Due, DueWill, EXPIRY_NEVER, Number};

use crate::harness::{Backend, Calls, START, claim, wait, will};

fn away<B: Backend>(backend: &B, client_id: &str, expiry_s: u32, delay_s: u32) {
    let calls = Calls(backend.store());
    let owned = calls.own(Claim { will: Some(will("w", delay_s)), ..claim(client_id) });
    calls.release(&owned.fence, expiry_s, true, START).expect("released");
}

fn finish<B: Backend>(backend: &B, will: &DueWill) {
    wait(|done| backend.store().finish_will(will, done)).expect("finished");
}

// v5 [MQTT-3.1.2-8]
pub(crate) fn a_will_is_due_after_its_delay<B: Backend>() {
    let backend = B::fresh();
    away(&backend, "a", 60, 5);
    let calls = Calls(backend.store());
    assert!(calls.due(START + 4999).is_empty());
    assert_eq!(calls.due(START + 5000), ["will a w"]);
    backend.check();
}

pub(crate) fn a_will_is_due_no_later_than_the_session_ends<B: Backend>() {
    let backend = B::fresh();
    away(&backend, "a", 5, 60);
    let calls = Calls(backend.store());
    assert!(calls.due(START + 4999).is_empty());
    assert_eq!(calls.due(START + 5000), ["will a w", "expired a"]);
    backend.check();
}

pub(crate) fn a_will_comes_again_until_it_is_finished<B: Backend>() {
    let backend = B::fresh();
    away(&backend, "a", EXPIRY_NEVER, 5);
    let calls = Calls(backend.store());
    assert_eq!(calls.due(START + 5000), ["will a w"]);
    assert!(calls.due(START + 5001).is_empty(), "somebody is publishing it");
    assert_eq!(calls.due(START + 600_000), ["will a w"]);
    let due = wait(|done| backend.store().claim_due(START + 1_200_000, 1, done)).expect("due");
    let [Due::Will(will)] = due.as_slice() else { panic!("a will") };
    finish(&backend, will);
    finish(&backend, will);
    assert!(calls.due(START + 9_000_000).is_empty());
    assert!(calls.own(claim("a")).present);
    backend.check();
}

pub(crate) fn an_expired_session_is_deleted_and_told<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    calls.subscribe(&owned.fence, &["x"]).expect("subscribed");
    calls.enqueue(&owned.fence.session, "1");
    calls.release(&owned.fence, 10, false, START).expect("released");
    assert!(calls.due(START + 9999).is_empty());
    assert_eq!(calls.due(START + 10_000), ["expired a"]);
    assert_eq!(backend.store().stats(), state::StoreStats::default());
    assert!(calls.due(START + 99_000).is_empty());
    backend.check();
}

pub(crate) fn an_expired_session_is_not_found_before_it_is_swept<B: Backend>() {
    let backend = B::fresh();
    away(&backend, "a", 10, 20);
    let calls = Calls(backend.store());
    let answer = calls.claim(Claim { now: START + 10_000, ..claim("a") }).expect("a claim");
    assert!(!answer.session.expect("a session").present);
    let expired = answer.discarded.expect("the expired one");
    assert_eq!(&*expired.client_id, "a");
    let will = answer.will_due.expect("its will");
    assert_eq!((&will.session, will.message.topic()), (&expired, "w"));
    finish(&backend, &will);
    assert!(calls.due(START + 1_000_000).is_empty());
    backend.check();
}

pub(crate) fn a_session_that_never_expires_is_never_due<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    calls.release(&owned.fence, EXPIRY_NEVER, false, START).expect("released");
    assert!(calls.due(u64::MAX / 2).is_empty());
    assert!(calls.own(Claim { now: u64::MAX / 2, ..claim("a") }).present);
}

// v5 [MQTT-3.1.3-9]
pub(crate) fn a_new_claim_stops_the_timers<B: Backend>() {
    let backend = B::fresh();
    away(&backend, "a", 10, 5);
    let calls = Calls(backend.store());
    let answer = calls.claim(Claim { now: START + 1000, ..claim("a") }).expect("a claim");
    assert!(answer.session.expect("a session").present && answer.will_due.is_none());
    assert!(calls.due(START + 1_000_000).is_empty());
    backend.check();
}

pub(crate) fn a_will_that_was_due_is_not_cancelled_by_a_claim<B: Backend>() {
    let backend = B::fresh();
    away(&backend, "a", 60, 5);
    let calls = Calls(backend.store());
    let answer = calls.claim(Claim { now: START + 5000, ..claim("a") }).expect("a claim");
    let owned = answer.session.expect("a session");
    assert!(owned.present);
    let will = answer.will_due.expect("the will");
    assert_eq!((&will.session, will.message.topic()), (&owned.fence.session, "w"));
    finish(&backend, &will);
    assert!(calls.due(START + 1_000_000).is_empty());
    backend.check();
}

// Who is told to publish it may die first, and the answer that says so may be lost.
pub(crate) fn a_will_that_a_claim_makes_due_comes_again_until_it_is_finished<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    for clean_start in [false, true] {
        let old = calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
        let answer = calls.claim(Claim { clean_start, now: START, ..claim("a") }).expect("a claim");
        let will = answer.will_due.expect("the will");
        assert_eq!((&will.session, will.message.topic()), (&old.fence.session, "w"));
        assert!(calls.due(START + 1000).is_empty(), "it is being published");
        assert_eq!(calls.due(START + 100_000), ["will a w"]);
        assert_eq!(calls.due(START + 200_000), ["will a w"]);
        finish(&backend, &will);
        assert!(calls.due(START + 1_000_000).is_empty());
        backend.check();
    }
}

pub(crate) fn a_will_that_is_being_published_outlives_its_session<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    for (client_id, expiry_s) in [("expires", 6), ("claimed", 600), ("discarded", 600)] {
        away(&backend, client_id, expiry_s, 5);
    }
    let due = wait(|done| backend.store().claim_due(START + 5000, 10, done)).expect("due");
    assert_eq!(due.len(), 3);
    assert_eq!(calls.due(START + 6000), ["expired expires"]);
    let answer = calls.claim(Claim { now: START + 6000, ..claim("claimed") }).expect("a claim");
    assert!(answer.will_due.is_none(), "it is being published");
    let gone = calls.discard("discarded");
    assert!(gone.discarded.is_some() && gone.will_due.is_none(), "it is being published");
    backend.check();
    let mut again = calls.due(START + 600_000);
    again.sort_unstable();
    assert_eq!(again, ["will claimed w", "will discarded w", "will expires w"]);
    for item in &due {
        let Due::Will(will) = item else { panic!("a will") };
        finish(&backend, will);
    }
    assert!(calls.due(START + 9_000_000).is_empty());
    backend.check();
}

pub(crate) fn a_session_may_leave_several_wills<B: Backend>() {
    let mut backend = B::fresh();
    away(&backend, "a", 600, 5);
    assert_eq!(Calls(backend.store()).due(START + 5000), ["will a w"]);
    // Whoever publishes it is slow; meanwhile the device comes and goes again.
    away(&backend, "a", 6, 5);
    assert_eq!(Calls(backend.store()).due(START + 6000), ["will a w", "expired a"]);
    backend.check();
    backend.restart(START + 7000);
    let due = wait(|done| backend.store().claim_due(START + 7000, 9, done)).expect("due");
    assert_eq!(due.len(), 2, "neither was finished");
    for item in &due {
        let Due::Will(will) = item else { panic!("a will") };
        finish(&backend, will);
    }
    backend.restart(START + 8000);
    assert!(Calls(backend.store()).due(START + 9_000_000).is_empty());
}

// Each worker says so of the Will that it was told to publish, and the answer that says so to another may be lost.
pub(crate) fn a_will_that_was_published_ends_no_other_of_its_session<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let connect = |n: u128, topic: &str| {
        let will = Some(will(topic, 0));
        let claimed = calls.claim(Claim { connection_id: ConnectionId(n), will, ..claim("a") });
        claimed.expect("a claim")
    };
    assert!(connect(1, "first").will_due.is_none());
    let first = connect(2, "second").will_due.expect("the first one");
    let second = connect(3, "third").will_due.expect("the second one");
    finish(&backend, &first);
    assert_eq!(calls.due(START + 100_000), ["will a second"]);
    finish(&backend, &first);
    backend.check();
    assert_eq!(calls.due(START + 200_000), ["will a second"]);
    finish(&backend, &second);
    assert!(calls.due(START + 300_000).is_empty());
    // One that waits at its session, and one that has left it.
    let third = calls.claim(Claim { will: Some(will("fourth", 0)), now: START + 300_000, ..claim("a") });
    let third = third.expect("a claim");
    let owned = third.session.expect("the session");
    calls.release(&owned.fence, 600, true, START + 300_000).expect("released");
    assert_eq!(calls.due(START + 300_000), ["will a fourth"]);
    finish(&backend, &third.will_due.expect("the third one"));
    backend.check();
    assert_eq!(calls.due(START + 400_000), ["will a fourth"]);
}

pub(crate) fn a_dropped_will_is_never_due<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
    calls.release(&owned.fence, 60, false, START).expect("released");
    assert_eq!(calls.due(START + 600_000), ["expired a"]);
}

pub(crate) fn what_is_due_is_taken_in_portions<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    for n in 0..10 {
        let owned = calls.own(claim(&n.to_string()));
        calls.release(&owned.fence, 1 + n, false, START).expect("released");
    }
    let mut seen = 0;
    for _ in 0..4 {
        let due = wait(|done| backend.store().claim_due(START + 60_000, 3, done)).expect("due");
        assert!(due.len() <= 3);
        seen += due.len();
    }
    assert_eq!(seen, 10);
}

pub(crate) fn a_will_of_a_session_that_ends_at_its_release_is_due_at_once<B: Backend>() {
    let mut backend = B::fresh();
    away(&backend, "a", 0, 60);
    assert_eq!(backend.store().stats().sessions, 0);
    backend.check();
    // The worker that let it go may be dead before it publishes.
    backend.restart(START);
    let due = wait(|done| backend.store().claim_due(START, 9, done)).expect("due");
    let [Due::Will(will)] = due.as_slice() else { panic!("its will: {due:?}") };
    assert_eq!((&*will.session.client_id, will.message.topic()), ("a", "w"));
    assert!(Calls(backend.store()).due(START + 1).is_empty(), "somebody is publishing it");
    finish(&backend, will);
    assert!(Calls(backend.store()).due(START + 9_000_000).is_empty());
    backend.check();
}

pub(crate) fn tails_are_told_for_sessions_that_are_there<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let sessions: Vec<_> = (0..10).map(|n| calls.own(claim(&n.to_string())).fence.session).collect();
    for n in 0..3 {
        calls.enqueue(&sessions[1], &n.to_string());
    }
    calls.discard("2");
    let tails = wait(|done| backend.store().tails(sessions[..4].to_vec(), done)).expect("tails");
    assert_eq!(tails, [Some(Number(1)), Some(Number(4)), None, Some(Number(1))]);
    calls.own(claim("2"));
    let tails = wait(|done| backend.store().tails(sessions[2..3].to_vec(), done)).expect("tails");
    assert_eq!(tails, [None], "another session of the client");
}
