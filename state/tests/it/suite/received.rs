//! QoS 2 messages from clients.

use state::{Enqueued, Number, Origin, Publish, StoreError};

use crate::harness::{Backend, Calls, claim, message, packet_id, publish_to, wait};

pub(crate) fn a_repeated_qos_2_message_is_a_duplicate<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let publisher = calls.own(claim("p")).fence;
    let subscriber = calls.own(claim("s")).fence;
    let publish = Publish {
        origin: Some(Origin { fence: publisher.clone(), packet_id: packet_id(7) }),
        ..publish_to(&[&subscriber.session], &message("t", "x"))
    };
    let first = calls.publish(publish.clone());
    assert!(!first.duplicate);
    assert_eq!(first.targets, [Enqueued::At(Number(1))]);
    let second = calls.publish(publish);
    assert!(second.duplicate);
    assert!(second.targets.is_empty());
    assert_eq!(calls.queue(&subscriber).len(), 1);
}

pub(crate) fn a_forgotten_identifier_may_be_used_again<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owner = calls.own(claim("p")).fence;
    assert!(!calls.receive(&owner, 7).expect("received").duplicate);
    assert!(calls.receive(&owner, 7).expect("received").duplicate);
    assert!(!calls.receive(&owner, 8).expect("received").duplicate);
    calls.forget_received(&owner, 7).expect("forgotten");
    calls.forget_received(&owner, 7).expect("forgotten twice");
    assert!(!calls.receive(&owner, 7).expect("received").duplicate);
    assert!(calls.receive(&owner, 8).expect("received").duplicate);
}

pub(crate) fn a_fenced_origin_enqueues_nothing<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let old = calls.own(claim("p")).fence;
    calls.own(claim("p"));
    let subscriber = calls.own(claim("s")).fence;
    let publish = Publish {
        origin: Some(Origin { fence: old, packet_id: packet_id(7) }),
        ..publish_to(&[&subscriber.session], &message("t", "x"))
    };
    let answer = wait(|done| backend.store().publish(publish, done));
    assert!(matches!(answer, Err(StoreError::Fenced)));
    assert!(calls.queue(&subscriber).is_empty());
}

pub(crate) fn received_identifiers_come_with_the_claim<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owner = calls.own(claim("p")).fence;
    for id in [9, 1, 65_535, 4] {
        calls.receive(&owner, id).expect("received");
    }
    calls.forget_received(&owner, 4).expect("forgotten");
    let mut received = calls.own(claim("p")).received;
    received.sort_unstable();
    assert_eq!(received, [1, 9, 65_535].map(packet_id));
}
