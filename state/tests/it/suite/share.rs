//! What a member of a share leaves to the others when its session ends. v5 section 4.8.2

use std::sync::Arc;

use mqtt::QoS;
use state::{
    Claim, Delivery, Due, DueLeft, Fence, Message, Number, Publish, Release, StoreStats, SubscriptionIds,
    Target, Via,
};

use crate::harness::{Backend, Calls, START, claim, wait};

const SHARE: &str = "$share/g/t";

/// Large enough to be kept apart, or shared with other queues.
const LARGE: usize = 20_000;

fn enqueue<B: Backend>(backend: &B, owner: &Fence, name: &str, (qos, size): (QoS, usize), via: &Via) {
    let payload = format!("{name:x<size$}");
    let message = Arc::new(Message::new("t", &[], payload.as_bytes(), qos, false, START));
    let subscription_ids = SubscriptionIds::NONE;
    let delivery =
        Delivery { message: Arc::clone(&message), qos, retain: false, subscription_ids, via: via.clone() };
    let target = Target { session: Arc::clone(&owner.session), delivery, share: None };
    Calls(backend.store()).publish(Publish { message, origin: None, identity: None, targets: vec![target] });
}

/// A session with ten messages, of which two are acknowledged: 1 to 5 may have been sent.
fn fill<B: Backend>(backend: &B, expiry_s: u32) -> Fence {
    let owned = Calls(backend.store()).own(Claim { expiry_s, receive_maximum: 3, ..claim("a") });
    let (share, plain) = (Via::Share(SHARE.into()), Via::Subscription);
    let another = Via::Share("$share/h/+".into());
    let (one, two) = ((QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 1));
    let all = [
        ("acked", one, &share),
        ("sent", one, &share),
        ("acked", one, &plain),
        ("begun", two, &share),
        ("plain", one, &plain),
        ("waits", one, &share),
        ("unsent", two, &share),
        ("other", one, &another),
        ("large", (QoS::AtLeastOnce, LARGE), &share),
        ("plain", two, &plain),
    ];
    for (name, kind, via) in all {
        enqueue(backend, &owned.fence, name, kind, via);
    }
    for number in [1, 3] {
        Calls(backend.store()).acknowledge(&owned.fence, number).expect("acknowledged");
    }
    owned.fence
}

const LEFT: [(&str, &str); 5] =
    [(SHARE, "sent"), (SHARE, "waits"), (SHARE, "unsent"), ("$share/h/+", "other"), (SHARE, "large")];

fn due<B: Backend>(backend: &B, now: u64) -> Vec<DueLeft> {
    let mut all = Vec::new();
    loop {
        let due = wait(|done| backend.store().claim_due(now, 2, done)).expect("due");
        if due.is_empty() {
            return all;
        }
        all.extend(
            due.into_iter().filter_map(|due| if let Due::Left(left) = due { Some(left) } else { None }),
        );
    }
}

/// All of it is due, in order, until each is finished.
fn check_left<B: Backend>(backend: &B, from: u64) {
    let mut left = due(backend, from);
    left.sort_by_key(|left| left.number);
    let names: Vec<(&str, String)> = left
        .iter()
        .map(|left| {
            let name = String::from_utf8_lossy(left.message.payload_slice());
            (&*left.share, name.trim_end_matches('x').to_owned())
        })
        .collect();
    assert_eq!(names, LEFT.map(|(share, name)| (share, name.to_owned())));
    assert!(left.iter().all(|left| &*left.session.client_id == "a"));
    assert!(due(backend, from + 1).is_empty(), "somebody is at it");
    let again = due(backend, from + 100_000);
    assert_eq!(again.len(), LEFT.len());
    for left in &left[1..] {
        for _ in 0..2 {
            wait(|done| backend.store().finish_left(left, done)).expect("finished");
        }
    }
    assert_eq!(due(backend, from + 200_000), left[..1]);
    wait(|done| backend.store().finish_left(&left[0], done)).expect("finished");
    assert!(due(backend, from + 10_000_000).is_empty());
    assert_eq!(backend.store().stats(), StoreStats::default());
    backend.check();
}

// v5 [MQTT-4.8.2-5]: what was begun with QoS 2 is left to nobody.
pub(crate) fn what_a_member_leaves_at_its_release_is_for_others<B: Backend>() {
    let backend = B::fresh();
    let fence = fill(&backend, 10);
    let release = Release { expiry_s: 0, keep_will: false, sent: Number(6), grace_ms: 0, now: START };
    wait(|done| backend.store().release(&fence, release, done)).expect("released");
    check_left(&backend, START);
}

pub(crate) fn what_a_member_leaves_when_it_expires_is_for_others<B: Backend>() {
    let mut backend = B::fresh();
    let fence = fill(&backend, 10);
    let release = Release { expiry_s: 10, keep_will: false, sent: Number(6), grace_ms: 0, now: START };
    wait(|done| backend.store().release(&fence, release, done)).expect("released");
    // Now it is on disk, where there is one.
    backend.restart(START + 1);
    assert!(due(&backend, START + 9_999).is_empty());
    check_left(&backend, START + 10_000);
}

pub(crate) fn what_a_member_leaves_when_it_is_discarded_is_for_others<B: Backend>() {
    let backend = B::fresh();
    fill(&backend, 10);
    let calls = Calls(backend.store());
    let claim = Claim { clean_start: true, create: false, ..claim("a") };
    assert!(calls.claim(claim).expect("a claim").discarded.is_some());
    check_left(&backend, START);
}

pub(crate) fn what_a_member_left_is_there_after_a_restart<B: Backend>() {
    let mut backend = B::fresh();
    let fence = fill(&backend, 10);
    let release = Release { expiry_s: 0, keep_will: false, sent: Number(6), grace_ms: 0, now: START };
    wait(|done| backend.store().release(&fence, release, done)).expect("released");
    assert_eq!(due(&backend, START).len(), LEFT.len());
    backend.restart(START + 1);
    check_left(&backend, START + 40_000);
}

pub(crate) fn a_session_that_lives_on_leaves_nothing<B: Backend>() {
    let backend = B::fresh();
    let fence = fill(&backend, 10);
    let release = Release { expiry_s: 10, keep_will: false, sent: Number(6), grace_ms: 0, now: START };
    wait(|done| backend.store().release(&fence, release, done)).expect("released");
    let owned = Calls(backend.store()).own(Claim { receive_maximum: 3, ..claim("a") });
    assert!(owned.present && due(&backend, START + 1_000_000).is_empty());
    // A session that the client has later knows nothing of it.
    let calls = Calls(backend.store());
    let fresh = calls.own(Claim { clean_start: true, expiry_s: 10, ..claim("a") });
    assert_eq!(due(&backend, START + 1_000_000).len(), LEFT.len());
    calls.release(&fresh.fence, 0, false, START).expect("released");
    assert!(due(&backend, START + 1_000_001).is_empty());
}
