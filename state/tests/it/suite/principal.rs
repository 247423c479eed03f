//! Whose a session is.

use std::sync::Arc;

use state::{
    Claim, Claimed, ConnectionId, Due, EXPIRY_NEVER, Enqueued, Message, Number, Principal, Release,
    ResumeRefusal, StoreError, Will,
};

use crate::harness::{Backend, Calls, START, claim, owned, principal, wait, will};

fn of(name: &str) -> Claim {
    Claim { principal: principal(name), ..claim("dev") }
}

/// Every way in which a connection may ask.
fn ways(name: &str) -> [Claim; 4] {
    [(false, true), (true, true), (false, false), (true, false)].map(|(clean_start, create)| Claim {
        clean_start,
        create,
        expiry_s: 0,
        will: Some(will("other", 0)),
        ..of(name)
    })
}

pub(crate) fn another_principal_is_refused_and_changes_nothing<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let mut owned = calls.own(Claim { will: Some(will("w", 5)), ..of("alice") });
    calls.subscribe(&owned.fence, &["secret/#"]).expect("subscribed");
    for is_away in [false, true] {
        if is_away {
            calls.release(&owned.fence, 60, true, START).expect("released");
        }
        for foreign in ways("bob") {
            let answer = calls.claim(foreign).expect("an answer");
            assert_eq!(answer.refusal, Some(ResumeRefusal::Foreign));
            assert!(answer.session.is_none() && answer.discarded.is_none());
            assert!(answer.will_due.is_none() && answer.previous.is_none());
            backend.check();
        }
        let number = if is_away { 2 } else { 1 };
        assert_eq!(calls.enqueue(&owned.fence.session, "x"), Enqueued::At(Number(number)));
        if is_away {
            owned = calls.own(Claim { now: START + 1, ..of("alice") });
            assert!(owned.present);
            assert_eq!((owned.subscriptions.len(), owned.tail), (1, Number(3)));
            assert_eq!(calls.queue(&owned.fence).len(), 2);
        } else {
            calls.acknowledge(&owned.fence, 9).expect("the owner goes on");
        }
    }
    assert!(calls.due(START + 1_000_000).is_empty());
    assert_eq!(backend.store().stats().sessions, 1);
}

pub(crate) fn another_principal_cannot_resume<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let connection_id = ConnectionId(7);
    let owned = calls.own(Claim { connection_id, ..of("alice") });
    let resume = |name| Claim { connection_id, resume: true, ..of(name) };
    assert_eq!(calls.claim(resume("bob")).expect("an answer").refusal, Some(ResumeRefusal::Foreign));
    calls.acknowledge(&owned.fence, 1).expect("the owner goes on");
    assert!(calls.own(resume("alice")).present);
}

pub(crate) fn what_is_over_belongs_to_nobody<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(Claim { will: Some(will("w", 60)), ..of("alice") });
    calls.release(&owned.fence, 10, true, START).expect("released");
    let early = calls.claim(Claim { now: START + 9_999, ..of("bob") }).expect("an answer");
    assert_eq!(early.refusal, Some(ResumeRefusal::Foreign));
    let answer = calls.claim(Claim { now: START + 10_000, ..of("bob") }).expect("an answer");
    assert_eq!(answer.discarded, Some(owned.fence.session));
    assert_eq!(answer.will_due.expect("her will").principal, Some(principal("alice")));
    assert!(!answer.session.expect("a session").present);
    let late = calls.claim(Claim { now: START + 10_001, ..of("alice") }).expect("an answer");
    assert_eq!(late.refusal, Some(ResumeRefusal::Foreign), "it is his now");
    backend.check();
}

pub(crate) fn who_did_not_authenticate_is_a_principal_too<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    calls.own(claim("nobodys"));
    assert!(calls.own(claim("nobodys")).present, "all of them are one");
    let known = Claim { principal: principal("alice"), ..claim("nobodys") };
    assert_eq!(calls.claim(known).expect("an answer").refusal, Some(ResumeRefusal::Foreign));
    calls.own(of("alice"));
    assert_eq!(calls.claim(of("")).expect("an answer").refusal, Some(ResumeRefusal::Foreign));
}

pub(crate) fn a_will_says_whose_it_is<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let whose = |now| -> Vec<Option<Principal>> {
        let due = wait(|done| backend.store().claim_due(now, 100, done)).expect("what is due");
        let wills = due.into_iter().filter_map(|due| match due {
            Due::Will(will) => {
                wait(|done| backend.store().finish_will(&will, done)).expect("finished");
                Some(will.principal)
            }
            Due::Expired(_) | Due::Left(_) => None,
        });
        wills.collect()
    };
    let alice = vec![Some(principal("alice"))];
    let wanted = || Claim { will: Some(will("w", 0)), ..of("alice") };
    calls.release(&calls.own(wanted()).fence, 60, true, START).expect("released");
    assert_eq!(whose(START), alice, "of a session that is away");
    calls.release(&calls.own(wanted()).fence, 0, true, START).expect("released");
    assert_eq!(whose(START), alice, "of one that is gone");
    calls.own(wanted());
    let answer = calls.claim(Claim { clean_start: true, ..of("alice") }).expect("a claim");
    assert_eq!(answer.will_due.map(|will| will.principal), Some(Some(principal("alice"))));
    assert_eq!(whose(START + 60_000), alice, "of one that was told at once, when it comes again");
    backend.check();
}

/// The Will that is due; it is finished.
fn take_will<B: Backend>(backend: &B) -> Arc<Message> {
    let due = wait(|done| backend.store().claim_due(START, 100, done)).expect("what is due");
    let [Due::Will(will)] = due.as_slice() else { panic!("a will") };
    wait(|done| backend.store().finish_will(will, done)).expect("finished");
    Arc::clone(&will.message)
}

/// A claim with a Will that alice wants to be retained, who may have two such messages.
fn retaining(topic: &str) -> Claim {
    Claim { will: Some(Will { message: owned("alice", 2, topic, "gone"), delay_s: 0 }), ..of("alice") }
}

/// The Will is one message too many of its principal's, or takes the place of one that it has.
fn check_owned<B: Backend>(backend: &B, take: impl Fn(Claim) -> Arc<Message>) {
    let calls = Calls(backend.store());
    let retain = |message| wait(|done| backend.store().retain(message, done));
    let is_refused = |answer| matches!(answer, Err(StoreError::RetainedQuota));
    assert!(is_refused(retain(take(retaining("c")))), "one too many");
    retain(take(retaining("b"))).expect("replaced");
    assert!(is_refused(calls.retain_as("alice", 2, "c", "x")), "it is hers still");
}

fn with_two_retained<B: Backend>() -> B {
    let backend = B::fresh();
    for topic in ["a", "b"] {
        Calls(backend.store()).retain_as("alice", 2, topic, "x").expect("retained");
    }
    backend
}

pub(crate) fn a_will_is_retained_as_its_principals<B: Backend>() {
    let backend = with_two_retained::<B>();
    let calls = Calls(backend.store());
    for (expiry_s, what) in [(60, "away"), (0, "gone")] {
        check_owned(&backend, |claim| {
            calls.release(&calls.own(claim).fence, expiry_s, true, START).expect(what);
            take_will(&backend)
        });
    }
    check_owned(&backend, |claim| {
        calls.own(claim);
        let answer = calls.claim(Claim { clean_start: true, ..of("alice") }).expect("a claim");
        answer.will_due.expect("told at once").message
    });
    backend.check();
}

pub(crate) fn a_will_is_retained_as_its_principals_after_a_restart<B: Backend>() {
    for (expiry_s, topic) in [(Some(60), "c"), (Some(0), "c"), (None, "c"), (Some(60), "b"), (Some(0), "b")] {
        let mut backend = with_two_retained::<B>();
        let fence = Calls(backend.store()).own(retaining(topic)).fence;
        if let Some(expiry_s) = expiry_s {
            Calls(backend.store()).release(&fence, expiry_s, true, START).expect("released");
        }
        backend.restart(START);
        let (calls, will) = (Calls(backend.store()), take_will(&backend));
        let retained = wait(|done| backend.store().retain(will, done));
        assert_eq!(retained.is_ok(), topic == "b", "{expiry_s:?} {topic}");
        assert!(calls.retain_as("alice", 2, "c", "x").is_err(), "{expiry_s:?} {topic}");
        backend.check();
    }
}

pub(crate) fn a_will_that_was_dropped_is_published_by_nobody<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let wanted = || Claim { will: Some(will("w", 0)), ..of("alice") };
    let old = calls.own(wanted()).fence;
    let owned = calls.own(Claim { clean_start: true, ..wanted() });
    assert!(calls.drop_will(&old).is_err(), "another's Will");
    let release = Release { expiry_s: 60, keep_will: true, sent: Number(1), grace_ms: 0, now: START };
    wait(|done| backend.store().release(&owned.fence, release, done)).expect("released");
    assert_eq!(calls.due(START + 30_000), ["will dev w", "will dev w"]);

    let owned = calls.own(wanted());
    calls.drop_will(&owned.fence).expect("dropped");
    assert!(calls.claim(of("alice")).expect("a claim").will_due.is_none(), "by a takeover");
    let owned = calls.own(wanted());
    calls.drop_will(&owned.fence).expect("dropped");
    calls.drop_will(&owned.fence).expect("there is none");
    calls.release(&owned.fence, EXPIRY_NEVER, true, START).expect("released");
    backend.check();
}

pub(crate) fn a_session_has_its_principal_after_a_restart<B: Backend>() {
    let mut backend = B::fresh();
    let wanted = |name, client_id: &str| Claim { principal: principal(name), ..claim(client_id) };
    let calls = Calls(backend.store());
    let left = calls.own(wanted("alice", "away")).fence;
    calls.release(&left, 60, false, START).expect("released");
    calls.own(wanted("alice", "connected"));
    let gone = calls.own(Claim { will: Some(will("w", 0)), ..wanted("alice", "gone") }).fence;
    calls.release(&gone, 0, true, START).expect("released");
    backend.restart(START);
    let calls = Calls(backend.store());
    for client_id in ["away", "connected"] {
        let refusal = calls.claim(wanted("bob", client_id)).expect("an answer").refusal;
        assert_eq!(refusal, Some(ResumeRefusal::Foreign), "{client_id}");
        assert!(calls.own(wanted("alice", client_id)).present, "{client_id}");
    }
    let due = wait(|done| backend.store().claim_due(START, 100, done)).expect("what is due");
    let [Due::Will(will)] = due.as_slice() else { panic!("a will") };
    assert_eq!(will.principal, Some(principal("alice")));
}

/// Of a principal that may have two sessions.
fn of_two(name: &str, client_id: &str) -> Claim {
    Claim { principal: principal(name), principal_sessions_max: Some(2), ..claim(client_id) }
}

fn is_beyond(answer: &Result<Claimed, StoreError>) -> bool {
    matches!(answer, Err(StoreError::PrincipalQuota))
}

pub(crate) fn a_principal_has_so_many_sessions<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    calls.own(of_two("alice", "a"));
    calls.own(of_two("alice", "b"));
    let is_full = || is_beyond(&calls.claim(of_two("alice", "c")));
    assert!(is_full());
    assert_eq!(backend.store().stats().sessions, 2, "it has no effect");
    calls.own(of_two("bob", "d"));
    for client_id in ["e", "f", "g"] {
        // Those without a name are no principal that could be held to anything.
        calls.own(of_two("", client_id));
    }

    // What is there may be claimed, made anew, and let go.
    let first = calls.own(of_two("alice", "a"));
    assert!(first.present);
    assert!(!calls.own(Claim { clean_start: true, ..of_two("alice", "b") }).present);
    calls.release(&first.fence, 60, false, START).expect("released");
    assert!(is_full());

    // What ends makes room: by a claim, by its release, by its time.
    calls.discard_as("alice", "b");
    let third = calls.own(of_two("alice", "c")).fence;
    assert!(is_beyond(&calls.claim(of_two("alice", "b"))));
    calls.release(&third, 0, false, START).expect("released");
    calls.own(of_two("alice", "b"));
    assert!(is_full());
    assert_eq!(calls.due(START + 60_000), ["expired a"]);
    calls.own(of_two("alice", "c"));
    assert!(is_beyond(&calls.claim(of_two("alice", "a"))));
    backend.check();
}

pub(crate) fn what_a_principal_has_is_known_after_a_restart<B: Backend>() {
    let mut backend = B::fresh();
    let calls = Calls(backend.store());
    calls.own(of_two("alice", "a"));
    // It goes with its worker.
    calls.own(Claim { expiry_s: 0, ..of_two("alice", "b") });
    let away = calls.own(of_two("bob", "c")).fence;
    calls.own(of_two("bob", "d"));
    calls.release(&away, 60, false, START).expect("released");
    backend.restart(START);
    let calls = Calls(backend.store());
    calls.own(of_two("alice", "e"));
    assert!(is_beyond(&calls.claim(of_two("alice", "f"))));
    assert!(is_beyond(&calls.claim(of_two("bob", "e2"))));
    backend.check();
}

pub(crate) fn a_session_from_before_a_bound_counts_from_its_next_claim_on<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    for client_id in ["a", "b", "c"] {
        calls.own(Claim { principal_sessions_max: None, ..of_two("alice", client_id) });
    }
    // Beyond its bound already, it keeps what it has.
    for client_id in ["a", "b", "c"] {
        assert!(calls.own(of_two("alice", client_id)).present);
    }
    assert!(is_beyond(&calls.claim(of_two("alice", "d"))));
    backend.check();
}
