//! Messages into queues and out of them.

use std::sync::Arc;

use mqtt::QoS;
use state::{
    Claim, Delivery, Enqueued, Message, Number, Publish, QueueLimits, Record, Release, StoreError,
    StoreStats, SubscriptionIds, Target, Via,
};

use crate::harness::{Backend, Calls, START, claim, message, publish_to, wait};

fn payloads(queue: &[(u64, Option<String>)]) -> Vec<(u64, &str)> {
    queue.iter().map(|(number, payload)| (*number, payload.as_deref().unwrap_or("PUBREL"))).collect()
}

pub(crate) fn numbers_are_dense_and_start_at_one<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    for n in 1..=30 {
        assert_eq!(calls.enqueue(&owned.fence.session, &n.to_string()), Enqueued::At(Number(n)));
    }
    let queue = calls.queue(&owned.fence);
    assert_eq!(queue, (1..=30).map(|n| (n, Some(n.to_string()))).collect::<Vec<_>>());
    let again = calls.own(claim("a"));
    assert_eq!((again.head, again.tail), (Number(1), Number(31)));
    backend.check();
}

pub(crate) fn pages_are_bounded_by_messages_and_bytes<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    for _ in 0..10 {
        calls.enqueue(&owned.fence.session, &"x".repeat(1000));
    }
    let page = calls.read(&owned.fence, 1, 4).expect("a page");
    assert_eq!((page.records.len(), page.next), (4, Number(5)));
    let page =
        wait(|done| backend.store().read_queue(&owned.fence, Number(5), 100, 3500, done)).expect("a page");
    assert_eq!((page.records.len(), page.next), (3, Number(8)));
    let page =
        wait(|done| backend.store().read_queue(&owned.fence, Number(8), 100, 1, done)).expect("a page");
    assert_eq!((page.records.len(), page.next), (1, Number(9)), "at least one");
    let page = calls.read(&owned.fence, 9, 100).expect("a page");
    assert_eq!((page.records.len(), page.next), (2, Number(11)));
    let page = calls.read(&owned.fence, 11, 100).expect("a page");
    assert_eq!((page.records.len(), page.next), (0, Number(11)));
}

pub(crate) fn acknowledged_records_are_left_out<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    for n in 1..=5 {
        calls.enqueue(&owned.fence.session, &n.to_string());
    }
    for n in [1, 3, 5] {
        calls.acknowledge(&owned.fence, n).expect("acknowledged");
    }
    assert_eq!(payloads(&calls.queue(&owned.fence)), [(2, "2"), (4, "4")]);
    let again = calls.own(claim("a"));
    assert_eq!((again.head, again.tail), (Number(2), Number(6)));
    calls.acknowledge(&again.fence, 2).expect("acknowledged");
    calls.acknowledge(&again.fence, 4).expect("acknowledged");
    let again = calls.own(claim("a"));
    assert_eq!((again.head, again.tail), (Number(6), Number(6)));
    assert_eq!(calls.enqueue(&again.fence.session, "6"), Enqueued::At(Number(6)));
    backend.check();
}

pub(crate) fn acknowledging_twice_is_no_error<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    calls.enqueue(&owned.fence.session, "1");
    calls.enqueue(&owned.fence.session, "2");
    for n in [2, 2, 1, 1, 2, 99] {
        calls.acknowledge(&owned.fence, n).expect("acknowledged");
    }
    calls.mark_released(&owned.fence, 1).expect("gone already");
    assert!(calls.queue(&owned.fence).is_empty());
    assert_eq!(backend.store().stats().queued_bytes, 0);
    backend.check();
}

// v5 [MQTT-4.3.3-6]
pub(crate) fn a_released_record_keeps_its_number_and_loses_its_body<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    for n in 1..=3 {
        calls.enqueue(&owned.fence.session, &n.to_string());
    }
    calls.mark_released(&owned.fence, 2).expect("released");
    calls.mark_released(&owned.fence, 2).expect("released twice");
    assert_eq!(payloads(&calls.queue(&owned.fence)), [(1, "1"), (2, "PUBREL"), (3, "3")]);
    assert_eq!(backend.store().stats().queued_messages, 3);
    assert_eq!(backend.store().stats().queued_bytes, 2 * message("t", "1").size() as u64);
    calls.acknowledge(&owned.fence, 2).expect("acknowledged");
    assert_eq!(payloads(&calls.queue(&owned.fence)), [(1, "1"), (3, "3")]);
    backend.check();
}

pub(crate) fn a_full_queue_refuses_by_count_and_by_bytes<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let limits = QueueLimits { messages_max: 2, bytes_max: u64::MAX };
    let owned = calls.own(Claim { limits, ..claim("a") });
    calls.enqueue(&owned.fence.session, "1");
    calls.enqueue(&owned.fence.session, "2");
    assert_eq!(calls.enqueue(&owned.fence.session, "3"), Enqueued::Full);
    calls.mark_released(&owned.fence, 1).expect("released");
    assert_eq!(calls.enqueue(&owned.fence.session, "3"), Enqueued::Full, "a PUBREL takes a place");
    calls.acknowledge(&owned.fence, 1).expect("acknowledged");
    assert_eq!(calls.enqueue(&owned.fence.session, "3"), Enqueued::At(Number(3)), "no number was lost");
    let limits = QueueLimits { messages_max: 100, bytes_max: 2 * message("t", "1").size() as u64 };
    let owned = calls.own(Claim { limits, ..claim("b") });
    calls.enqueue(&owned.fence.session, "1");
    assert_eq!(calls.enqueue(&owned.fence.session, "22"), Enqueued::Full);
    assert_eq!(calls.enqueue(&owned.fence.session, "2"), Enqueued::At(Number(2)));
}

pub(crate) fn a_session_that_is_gone_gets_nothing<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let gone = calls.own(claim("a")).fence.session;
    let here = calls.own(claim("b")).fence.session;
    calls.discard("a");
    let answer = calls.publish(publish_to(&[&gone, &here], &message("t", "x")));
    assert_eq!(answer.targets, [Enqueued::Gone, Enqueued::At(Number(1))]);
}

pub(crate) fn one_message_for_many_sessions_is_kept_for_each<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owners: Vec<_> = (0..20).map(|n| calls.own(claim(&format!("c{n}"))).fence).collect();
    let sessions: Vec<_> = owners.iter().map(|owner| &owner.session).collect();
    for size in [10, 5000, 50_000] {
        let payload = "x".repeat(size);
        let answer = calls.publish(publish_to(&sessions, &message("t", &payload)));
        assert!(answer.targets.iter().all(|target| matches!(target, Enqueued::At(_))));
    }
    backend.check();
    for owner in &owners {
        let queue = calls.queue(owner);
        let sizes: Vec<_> =
            queue.iter().map(|(_, payload)| payload.as_ref().map_or(0, String::len)).collect();
        assert_eq!(sizes, [10, 5000, 50_000]);
        for n in [2, 1, 3] {
            calls.acknowledge(owner, n).expect("acknowledged");
        }
        backend.check();
    }
    assert_eq!(backend.store().stats().queued_bytes, 0);
}

pub(crate) fn a_delivery_comes_back_as_it_was<B: Backend>() {
    let mut backend = B::fresh();
    let message = Arc::new(
        Message::new("a/b", &[0x01, 0x01], b"payload", QoS::ExactlyOnce, true, START).with_expiry(Some(60)),
    );
    let delivery = Delivery {
        message: Arc::clone(&message),
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: SubscriptionIds::from_slice(&[7, 268_435_455]),
        via: Via::Retained,
    };
    let session = Calls(backend.store()).own(claim("a")).fence.session;
    let target = Target { session, delivery: delivery.clone(), share: None };
    Calls(backend.store()).publish(Publish { message, origin: None, identity: None, targets: vec![target] });
    for _ in 0..2 {
        let calls = Calls(backend.store());
        let owned = calls.own(claim("a"));
        let page = calls.read(&owned.fence, 1, 10).expect("a page");
        let [record] = page.records.as_slice() else { panic!("one record") };
        let Record::Message(found) = &record.record else { panic!("a message") };
        assert_eq!(found, &delivery);
        backend.restart(START);
    }
}

pub(crate) fn only_the_owner_reads_and_acknowledges<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    calls.enqueue(&owned.fence.session, "1");
    calls.release(&owned.fence, 60, false, START).expect("released");
    assert!(matches!(calls.read(&owned.fence, 1, 1), Err(StoreError::Fenced)));
    assert!(matches!(calls.acknowledge(&owned.fence, 1), Err(StoreError::Fenced)));
    calls.discard("a");
    assert!(matches!(calls.read(&owned.fence, 1, 1), Err(StoreError::NoSession)));
}

pub(crate) fn stats_count_what_is_there<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    assert_eq!(backend.store().stats(), StoreStats::default());
    let owned = calls.own(claim("a"));
    calls.subscribe(&owned.fence, &["x", "y"]).expect("subscribed");
    calls.enqueue(&owned.fence.session, "1");
    calls.retain("t", "1").expect("retained");
    let size = message("t", "1").size() as u64;
    let expected = StoreStats {
        sessions: 1,
        queued_messages: 1,
        queued_bytes: size,
        retained_messages: 1,
        retained_bytes: size,
        subscriptions: 2,
    };
    assert_eq!(backend.store().stats(), expected);
    calls.discard("a");
    calls.retain("t", "").expect("cleared");
    assert_eq!(backend.store().stats(), StoreStats::default());
}

pub(crate) fn sent_is_what_the_release_said<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owned = calls.own(claim("a"));
    for _ in 0..5 {
        calls.enqueue(&owned.fence.session, "x");
    }
    let release = Release { expiry_s: 60, keep_will: false, sent: Number(3), grace_ms: 0, now: START };
    wait(|done| backend.store().release(&owned.fence, release, done)).expect("released");
    let owned = calls.own(claim("a"));
    assert_eq!(owned.sent, Number(3));
    let release = Release { expiry_s: 60, keep_will: false, sent: Number(99), grace_ms: 0, now: START };
    wait(|done| backend.store().release(&owned.fence, release, done)).expect("released");
    assert_eq!(calls.own(claim("a")).sent, Number(6), "never beyond the tail");
}
