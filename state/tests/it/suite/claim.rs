//! Who owns a session.

use std::sync::Arc;

use state::{Claim, ConnectionId, Number, Release, ResumeRefusal, StoreError};

use crate::harness::{Backend, Bounds, Calls, START, claim, wait, will};

pub(crate) fn a_new_session_is_empty_and_not_present<B: Backend>() {
    let backend = B::fresh();
    let owned = Calls(backend.store()).own(claim("a"));
    assert!(!owned.present);
    assert_eq!((owned.head, owned.tail, owned.sent), (Number(1), Number(1), Number(1)));
    assert!(owned.subscriptions.is_empty() && owned.received.is_empty());
    assert_eq!(&*owned.fence.session.client_id, "a");
}

pub(crate) fn a_claim_without_create_makes_no_session<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let answer = calls.claim(Claim { create: false, ..claim("a") }).expect("an answer");
    assert!(answer.session.is_none() && answer.discarded.is_none() && answer.will_due.is_none());
    assert_eq!(backend.store().stats().sessions, 0);
    calls.own(claim("a"));
    let answer = calls.claim(Claim { create: false, clean_start: true, ..claim("a") }).expect("an answer");
    assert!(answer.session.is_none() && answer.discarded.is_some());
    assert_eq!(backend.store().stats().sessions, 0);
}

pub(crate) fn a_session_is_found_again<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let first = calls.own(claim("a"));
    calls.release(&first.fence, 60, false, START).expect("released");
    let second = calls.own(claim("a"));
    assert!(second.present);
    assert_eq!(first.fence.session, second.fence.session);
    assert!(second.fence.epoch > first.fence.epoch);
    backend.check();
}

pub(crate) fn an_old_owner_is_fenced_after_a_takeover<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let old = calls.own(claim("a")).fence;
    let new = calls.own(claim("a")).fence;
    assert_ne!(old, new);
    assert!(matches!(calls.confirm(&old), Err(StoreError::Fenced)));
    assert!(matches!(calls.acknowledge(&old, 1), Err(StoreError::Fenced)));
    assert!(matches!(calls.mark_released(&old, 1), Err(StoreError::Fenced)));
    assert!(matches!(calls.forget_received(&old, 1), Err(StoreError::Fenced)));
    assert!(matches!(calls.subscribe(&old, &["x"]), Err(StoreError::Fenced)));
    assert!(matches!(calls.unsubscribe(&old, &["x"]), Err(StoreError::Fenced)));
    assert!(matches!(calls.read(&old, 1, 1), Err(StoreError::Fenced)));
    assert!(matches!(calls.receive(&old, 1), Err(StoreError::Fenced)));
    assert!(matches!(calls.release(&old, 0, false, START), Err(StoreError::Fenced)));
    // ARCHITECTURE, rule 2: what a failover lost may have given the same epoch to another, or a later one.
    let same = state::Fence { nonce: new.nonce ^ 1, ..new.clone() };
    let later = state::Fence { epoch: new.epoch + 1, ..new.clone() };
    for forged in [same, later] {
        assert!(matches!(calls.acknowledge(&forged, 1), Err(StoreError::Fenced)), "{forged:?}");
    }
    calls.acknowledge(&new, 1).expect("the new owner goes on");
    calls.confirm(&new).expect("it has the session");
    calls.discard("a");
    assert!(matches!(calls.confirm(&new), Err(StoreError::NoSession)));
}

pub(crate) fn clean_start_discards_the_session<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let old = calls.own(Claim { will: Some(will("w", 30)), ..claim("a") }).fence;
    calls.subscribe(&old, &["x"]).expect("subscribed");
    calls.enqueue(&old.session, "1");
    let answer = calls.claim(Claim { clean_start: true, ..claim("a") }).expect("a claim");
    assert_eq!(answer.discarded, Some(Arc::clone(&old.session)));
    assert_eq!(answer.will_due.expect("its will").message.topic(), "w");
    let new = answer.session.expect("a session");
    assert!(!new.present && new.subscriptions.is_empty());
    assert_eq!((new.head, new.tail), (Number(1), Number(1)));
    assert!(matches!(calls.acknowledge(&old, 1), Err(StoreError::Fenced)));
    assert_eq!(backend.store().stats().queued_messages, 0);
    backend.check();
}

pub(crate) fn discard_answers_the_session_and_its_will<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    assert!(calls.discard("a").discarded.is_none());
    let owned = calls.own(Claim { will: Some(will("w", 30)), ..claim("a") });
    let gone = calls.discard("a");
    assert_eq!(gone.discarded, Some(Arc::clone(&owned.fence.session)));
    assert_eq!(gone.will_due.expect("its will").message.topic(), "w");
    assert!(matches!(calls.acknowledge(&owned.fence, 1), Err(StoreError::NoSession)));
    // Armed, not yet due.
    let owned = calls.own(Claim { will: Some(will("w", 30)), ..claim("b") });
    calls.release(&owned.fence, 60, true, START).expect("released");
    assert!(calls.discard("b").will_due.is_some());
    // Dropped at the release.
    let owned = calls.own(Claim { will: Some(will("w", 30)), ..claim("c") });
    calls.release(&owned.fence, 60, false, START).expect("released");
    let gone = calls.discard("c");
    assert!(gone.discarded.is_some() && gone.will_due.is_none());
    assert_eq!(calls.due(START + 1_000_000), ["will a w", "will b w"], "nobody has published them");
    backend.check();
}

pub(crate) fn a_takeover_publishes_a_will_without_delay<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
    let answer = calls.claim(claim("a")).expect("a claim");
    assert_eq!(answer.will_due.expect("the old will").message.topic(), "w");
    assert!(answer.discarded.is_none());
    assert!(answer.session.expect("a session").present);
    let answer = calls.claim(claim("a")).expect("a claim");
    assert!(answer.will_due.is_none(), "it was answered once");
}

pub(crate) fn a_takeover_cancels_a_will_with_delay<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    calls.own(Claim { will: Some(will("w", 5)), ..claim("a") });
    let answer = calls.claim(claim("a")).expect("a claim");
    assert!(answer.will_due.is_none());
    // The same when it was armed already.
    let owned = calls.own(Claim { will: Some(will("w", 5)), ..claim("b") });
    calls.release(&owned.fence, 60, true, START).expect("released");
    let answer = calls.claim(Claim { now: START + 4999, ..claim("b") }).expect("a claim");
    assert!(answer.will_due.is_none());
    assert!(calls.due(START + 1_000_000).is_empty());
    backend.check();
}

pub(crate) fn a_resumed_connection_keeps_its_will<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let same = Claim { will: Some(will("w", 0)), expiry_s: 0, ..claim("a") };
    let first = calls.own(same.clone());
    let answer = calls.claim(same).expect("a claim");
    assert!(answer.will_due.is_none() && answer.discarded.is_none());
    let second = answer.session.expect("a session");
    assert!(second.present);
    assert_eq!(second.fence.session, first.fence.session);
    assert!(calls.discard("a").will_due.is_some());
}

pub(crate) fn a_takeover_ends_a_session_without_expiry<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let old = calls.own(Claim { will: Some(will("w", 9)), expiry_s: 0, ..claim("a") });
    let answer = calls.claim(claim("a")).expect("a claim");
    assert_eq!(answer.discarded, Some(old.fence.session));
    assert!(answer.will_due.is_some(), "the session ended before the delay");
    assert!(!answer.session.expect("a session").present);
}

pub(crate) fn a_released_session_refuses_its_old_owner<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    calls.release(&owned.fence, 60, false, START).expect("released");
    assert!(matches!(calls.acknowledge(&owned.fence, 1), Err(StoreError::Fenced)));
    calls.release(&owned.fence, 30, false, START).expect("it may let go as it wants while nobody came since");
    assert_eq!(calls.due(START + 30_000), ["expired a"]);
    let next = calls.own(claim("a"));
    calls.release(&next.fence, 60, false, START).expect("released");
    let _newer = calls.own(claim("a"));
    assert!(matches!(calls.release(&next.fence, 60, false, START), Err(StoreError::Fenced)));
    backend.check();
}

pub(crate) fn release_without_expiry_discards_the_session<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
    calls.release(&owned.fence, 0, true, START).expect("released");
    assert_eq!(backend.store().stats().sessions, 0);
    assert!(!calls.own(claim("a")).present);
    backend.check();
}

pub(crate) fn sessions_have_a_bound<B: Backend>() {
    let backend = B::start(Bounds { sessions_max: 2, ..Bounds::default() });
    let calls = Calls(backend.store());
    calls.own(claim("a"));
    calls.own(claim("b"));
    assert!(matches!(calls.claim(claim("c")), Err(StoreError::SessionQuota)));
    assert!(calls.own(claim("a")).present, "what is there may be claimed");
    assert!(!calls.own(Claim { clean_start: true, ..claim("a") }).present);
    calls.discard("b");
    calls.own(claim("c"));
}

pub(crate) fn a_session_that_was_made_anew_is_another<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let old = calls.own(claim("a")).fence;
    calls.discard("a");
    let new = calls.own(claim("a")).fence;
    assert_ne!(old.session.incarnation, new.session.incarnation);
    assert!(matches!(calls.acknowledge(&old, 1), Err(StoreError::Fenced)));
    assert_eq!(calls.enqueue(&old.session, "x"), state::Enqueued::Gone);
}

// ARCHITECTURE, rule 33.
pub(crate) fn a_claim_that_comes_too_late_has_no_effect<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let late = || Claim { age_ms: 6000, valid_ms: Some(5000), will: Some(will("late", 0)), ..claim("a") };
    assert!(matches!(calls.claim(late()), Err(StoreError::TooLate)));
    assert_eq!(backend.store().stats().sessions, 0);
    let owner = calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
    for clean_start in [false, true] {
        assert!(matches!(calls.claim(Claim { clean_start, ..late() }), Err(StoreError::TooLate)));
    }
    calls.acknowledge(&owner.fence, 1).expect("the owner goes on");
    assert!(calls.due(START + 1_000_000).is_empty());
    assert!(
        calls
            .own(Claim { age_ms: 4000, valid_ms: Some(5000), connection_id: ConnectionId(1), ..claim("b") })
            .tail
            > Number(0)
    );
    backend.check();
}

// ARCHITECTURE, rule 33: two workers may carry out what one device asked of them in another order.
pub(crate) fn a_claim_takes_nothing_from_one_that_was_asked_for_later<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owner = calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
    for clean_start in [false, true] {
        let earlier = Claim { clean_start, age_ms: 3000, will: Some(will("early", 0)), ..claim("a") };
        let answer = calls.claim(earlier).expect("an answer");
        assert_eq!(answer.refusal, Some(ResumeRefusal::TakenOver));
        assert!(answer.session.is_none() && answer.discarded.is_none() && answer.will_due.is_none());
    }
    calls.acknowledge(&owner.fence, 1).expect("the owner goes on");
    // Nor when that one has left again.
    calls.release(&owner.fence, 60, false, START).expect("released");
    let answer = calls.claim(Claim { age_ms: 3000, ..claim("a") }).expect("an answer");
    assert_eq!(answer.refusal, Some(ResumeRefusal::TakenOver));
    assert_eq!(calls.due(START + 60_000), ["expired a"]);
    backend.check();
}

// ARCHITECTURE, rule 32: its edge may still hold its DISCONNECT.
pub(crate) fn a_will_waits_for_the_last_word_of_its_connection<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let last_word = |owned: &state::Owned, keep_will| {
        let release = Release { expiry_s: 60, keep_will, sent: owned.tail, grace_ms: 0, now: START + 100 };
        wait(|done| backend.store().release(&owned.fence, release, done))
    };
    for (n, clean_start, says) in [
        ("a", false, Some(false)),
        ("b", true, Some(false)),
        ("c", false, Some(true)),
        ("d", true, Some(true)),
        ("e", false, None),
        ("f", true, None),
    ] {
        let old = calls.own(Claim { will: Some(will("w", 0)), ..claim(n) });
        let taken = Claim { clean_start, will_wait_ms: 2000, now: START, ..claim(n) };
        let answer = calls.claim(taken).expect("a claim");
        assert!(answer.will_due.is_none() && answer.session.is_some(), "{n}");
        assert!(calls.due(START + 1999).is_empty(), "{n}: it waits");
        if let Some(keep_will) = says {
            assert!(matches!(last_word(&old, keep_will), Err(StoreError::Fenced)), "{n}");
            assert!(matches!(last_word(&old, false), Err(StoreError::Fenced)), "{n}: it was said");
        }
        let due = match says {
            Some(true) => calls.due(START + 100),
            Some(false) => calls.due(START + 1_000_000),
            None => calls.due(START + 2000),
        };
        assert_eq!(due.len(), usize::from(says != Some(false)), "{n}: {due:?}");
        assert!(due.iter().all(|due| *due == format!("will {n} w")), "{n}: {due:?}");
        backend.check();
    }
}
