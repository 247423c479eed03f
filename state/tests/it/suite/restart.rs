//! What a new process finds.

use std::sync::Arc;

use state::{Claim, EXPIRY_NEVER, Enqueued, Number, StoreError};

use crate::harness::{Backend, Calls, START, claim, message, packet_id, publish_to, wait, will};

pub(crate) fn everything_is_there_after_a_restart<B: Backend>() {
    let mut backend = B::fresh();
    {
        let calls = Calls(backend.store());
        let owner = calls.own(claim("a")).fence;
        let other = calls.own(claim("b")).fence;
        calls.subscribe(&owner, &["x", "y"]).expect("subscribed");
        calls.unsubscribe(&owner, &["x"]).expect("unsubscribed");
        for n in 1..=6 {
            let payload = n.to_string().repeat(if n == 6 { 40_000 } else { 1 });
            calls.publish(publish_to(&[&owner.session, &other.session], &message("t", &payload)));
        }
        for n in [1, 2, 4] {
            calls.acknowledge(&owner, n).expect("acknowledged");
        }
        calls.mark_released(&owner, 5).expect("released");
        calls.receive(&owner, 9).expect("received");
        calls.receive(&owner, 10).expect("received");
        calls.forget_received(&owner, 9).expect("forgotten");
    }
    let stats = backend.store().stats();
    for _ in 0..2 {
        backend.restart(START);
        assert_eq!(backend.store().stats(), stats);
        let calls = Calls(backend.store());
        let owned = calls.own(claim("a"));
        assert!(owned.present);
        assert_eq!((owned.head, owned.tail), (Number(3), Number(7)));
        assert_eq!(owned.received, [packet_id(10)]);
        assert_eq!(owned.subscriptions.len(), 1);
        let queue = calls.queue(&owned.fence);
        let last = Some("6".repeat(40_000));
        assert_eq!(queue, [(3, Some("3".to_owned())), (5, None), (6, last.clone())]);
        assert!(calls.receive(&owned.fence, 10).expect("received").duplicate);
        let other = calls.own(claim("b"));
        let queue = calls.queue(&other.fence);
        assert_eq!(queue.len(), 6);
        assert_eq!(queue[5].1, last);
    }
}

pub(crate) fn numbers_go_on_after_a_restart<B: Backend>() {
    let mut backend = B::fresh();
    for round in 0..4 {
        let calls = Calls(backend.store());
        let owned = calls.own(claim("a"));
        for n in 1..=3 {
            let expected = Enqueued::At(Number(3 * round + n));
            assert_eq!(calls.enqueue(&owned.fence.session, "x"), expected);
        }
        // The newest first: were it deleted, its number would be given out again.
        for n in [3, 2, 1] {
            if round != 2 {
                calls.acknowledge(&owned.fence, 3 * round + n).expect("acknowledged");
            }
        }
        if round == 2 {
            calls.acknowledge(&owned.fence, 9).expect("acknowledged");
        }
        backend.restart(START);
    }
    let owned = Calls(backend.store()).own(claim("a"));
    assert_eq!((owned.head, owned.tail), (Number(7), Number(13)));
}

pub(crate) fn owners_are_gone_after_a_restart<B: Backend>() {
    let mut backend = B::fresh();
    let old = Calls(backend.store()).own(claim("a")).fence;
    backend.restart(START);
    let calls = Calls(backend.store());
    assert!(matches!(calls.acknowledge(&old, 1), Err(StoreError::Fenced)));
    let new = calls.own(claim("a")).fence;
    assert!(new.epoch > old.epoch);
    assert!(matches!(calls.acknowledge(&old, 1), Err(StoreError::Fenced)));
}

pub(crate) fn sessions_without_expiry_end_with_the_process<B: Backend>() {
    let mut backend = B::fresh();
    {
        let calls = Calls(backend.store());
        let owned = calls.own(Claim { expiry_s: 0, will: Some(will("w", 30)), ..claim("a") });
        calls.subscribe(&owned.fence, &["x"]).expect("subscribed");
        calls.enqueue(&owned.fence.session, "1");
        calls.own(Claim { expiry_s: 0, ..claim("b") });
    }
    backend.restart(START + 1000);
    let calls = Calls(backend.store());
    assert_eq!(backend.store().stats(), state::StoreStats::default());
    assert_eq!(calls.due(START + 1000), ["will a w"]);
    assert!(calls.routes(10).is_empty());
    assert!(!calls.own(claim("a")).present);
    backend.check();
}

pub(crate) fn timers_start_when_the_process_does<B: Backend>() {
    let mut backend = B::fresh();
    Calls(backend.store()).own(Claim { expiry_s: 20, will: Some(will("w", 5)), ..claim("a") });
    backend.restart(START + 100_000);
    let calls = Calls(backend.store());
    assert!(calls.due(START + 104_999).is_empty());
    assert_eq!(calls.due(START + 105_000), ["will a w"]);
    assert_eq!(calls.due(START + 120_000), ["expired a"]);
    backend.check();
}

pub(crate) fn timers_of_released_sessions_go_on<B: Backend>() {
    let mut backend = B::fresh();
    {
        let calls = Calls(backend.store());
        let owned = calls.own(Claim { will: Some(will("w", 50)), ..claim("a") });
        calls.release(&owned.fence, 100, true, START).expect("released");
    }
    backend.restart(START + 40_000);
    backend.restart(START + 45_000);
    let calls = Calls(backend.store());
    assert!(calls.due(START + 49_999).is_empty());
    assert_eq!(calls.due(START + 50_000), ["will a w"]);
    assert!(calls.due(START + 60_000).is_empty());
    assert!(calls.due(START + 100_000).contains(&"expired a".to_owned()));
    backend.check();
}

pub(crate) fn what_may_have_been_sent_is_bounded_by_receive_maximum<B: Backend>() {
    let mut backend = B::fresh();
    {
        let calls = Calls(backend.store());
        let owned = calls.own(Claim { receive_maximum: 3, ..claim("a") });
        for _ in 0..10 {
            calls.enqueue(&owned.fence.session, "x");
        }
        calls.acknowledge(&owned.fence, 1).expect("acknowledged");
        calls.acknowledge(&owned.fence, 3).expect("acknowledged");
        let few = calls.own(Claim { receive_maximum: 3, ..claim("b") });
        calls.enqueue(&few.fence.session, "x");
    }
    backend.restart(START);
    let calls = Calls(backend.store());
    // 2, 4 and 5 may be out; 3 was acknowledged.
    assert_eq!(calls.own(claim("a")).sent, Number(6));
    assert_eq!(calls.own(claim("b")).sent, Number(2));
}

pub(crate) fn an_unfinished_will_is_due_again<B: Backend>() {
    let mut backend = B::fresh();
    {
        let calls = Calls(backend.store());
        let owned = calls.own(Claim { will: Some(will("w", 5)), ..claim("a") });
        calls.release(&owned.fence, 6, true, START).expect("released");
        assert_eq!(calls.due(START + 6000), ["will a w", "expired a"]);
    }
    backend.restart(START + 7000);
    let due = wait(|done| backend.store().claim_due(START + 7000, 9, done)).expect("due");
    let [state::Due::Will(will)] = due.as_slice() else { panic!("a will") };
    assert_eq!((&*will.session.client_id, will.message.topic()), ("a", "w"));
    wait(|done| backend.store().finish_will(will, done)).expect("finished");
    backend.restart(START + 8000);
    assert!(Calls(backend.store()).due(START + 900_000).is_empty());
}

pub(crate) fn discarded_sessions_stay_gone<B: Backend>() {
    let mut backend = B::fresh();
    {
        let calls = Calls(backend.store());
        for client_id in ["discarded", "cleaned", "released", "expired"] {
            let owned = calls.own(claim(client_id));
            calls.subscribe(&owned.fence, &["x"]).expect("subscribed");
            calls.enqueue(&owned.fence.session, "1");
            match client_id {
                "released" => calls.release(&owned.fence, 0, false, START).expect("released"),
                "expired" => calls.release(&owned.fence, 1, false, START).expect("released"),
                _ => {}
            }
        }
        calls.discard("discarded");
        let again = Claim { clean_start: true, create: false, ..claim("cleaned") };
        calls.claim(again).expect("cleaned");
        assert_eq!(calls.due(START + 1000), ["expired expired"]);
    }
    backend.restart(START);
    assert_eq!(backend.store().stats(), state::StoreStats::default());
}

pub(crate) fn incarnations_are_never_used_again<B: Backend>() {
    let mut backend = B::fresh();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        for _ in 0..3 {
            let calls = Calls(backend.store());
            let owned = calls.own(Claim { clean_start: true, expiry_s: EXPIRY_NEVER, ..claim("a") });
            assert!(seen.insert(owned.fence.session.incarnation));
            calls.enqueue(&Arc::clone(&owned.fence.session), "x");
            assert_eq!(calls.queue(&owned.fence).len(), 1, "nothing of an earlier session");
        }
        Calls(backend.store()).discard("a");
        backend.restart(START);
    }
}
