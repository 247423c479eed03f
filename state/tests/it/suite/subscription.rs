//! Subscriptions and routes.

use mqtt::QoS;
use state::{StoreError, SubscriptionOptions};

use crate::harness::{Backend, Bounds, Calls, START, claim, packet_id, subscription, wait};

pub(crate) fn subscribe_and_unsubscribe_say_what_was_there<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owner = calls.own(claim("a")).fence;
    assert_eq!(calls.subscribe(&owner, &["x", "y", "x"]).expect("subscribed"), [false, false, true]);
    assert_eq!(calls.subscribe(&owner, &["y", "z"]).expect("subscribed"), [true, false]);
    assert_eq!(calls.unsubscribe(&owner, &["x", "x", "?"]).expect("unsubscribed"), [true, false, false]);
    assert_eq!(backend.store().stats().subscriptions, 2);
    backend.check();
}

pub(crate) fn subscriptions_come_with_the_claim<B: Backend>() {
    let mut backend = B::fresh();
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        subscription_id: 268_435_455,
    };
    let shared = state::Subscription { filter: "$share/g/+/é".into(), options };
    let plain = subscription("b/#", QoS::AtMostOnce);
    {
        let calls = Calls(backend.store());
        let owner = calls.own(claim("a")).fence;
        calls.subscribe(&owner, &["$share/g/+/é"]).expect("subscribed");
        let both = vec![shared.clone(), plain.clone()];
        wait(|done| backend.store().subscribe(&owner, both, done)).expect("replaced");
    }
    for _ in 0..2 {
        let mut found = Calls(backend.store()).own(claim("a")).subscriptions;
        found.sort_by(|a, b| a.filter.cmp(&b.filter));
        assert_eq!(found, [shared.clone(), plain.clone()]);
        backend.restart(START);
    }
}

pub(crate) fn however_much_a_session_holds_its_owner_is_told_all<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let few = |count: usize| (0..count).map(|at| format!("few/{at}")).collect::<Vec<_>>();
    let long = |count: usize| (0..count).map(|at| format!("{at}/{}", "x".repeat(3000))).collect();
    let ids: Vec<_> = (1..=100).collect();
    for (name, filters, received) in
        [("few", few(3), 2), ("many", few(100), 2), ("long", long(3), 2), ("ids", few(3), 100)]
    {
        let owner = calls.own(claim(name)).fence;
        let filters: Vec<_> = filters.iter().map(String::as_str).collect();
        calls.subscribe(&owner, &filters).expect("subscribed");
        ids.iter().take(received).for_each(|id| {
            calls.receive(&owner, *id).expect("received");
        });
        let mut again = calls.own(claim(name));
        again.received.sort_unstable();
        assert_eq!(again.subscriptions.len(), filters.len(), "{name}");
        assert_eq!(
            again.received,
            ids.iter().take(received).copied().map(packet_id).collect::<Vec<_>>(),
            "{name}"
        );
        assert!(calls.own(claim(name)).fence.epoch > again.fence.epoch);
    }
}

pub(crate) fn subscriptions_have_a_bound<B: Backend>() {
    let backend = B::start(Bounds { subscriptions_per_session_max: 3, ..Bounds::default() });
    let calls = Calls(backend.store());
    let owner = calls.own(claim("a")).fence;
    calls.subscribe(&owner, &["a", "b"]).expect("subscribed");
    assert!(matches!(calls.subscribe(&owner, &["c", "d"]), Err(StoreError::SubscriptionQuota)));
    assert_eq!(backend.store().stats().subscriptions, 2, "all or none");
    calls.subscribe(&owner, &["a", "c", "c", "b"]).expect("only one is new");
    assert!(matches!(calls.subscribe(&owner, &["d"]), Err(StoreError::SubscriptionQuota)));
    calls.unsubscribe(&owner, &["a"]).expect("unsubscribed");
    calls.subscribe(&owner, &["d"]).expect("there is room again");
}

pub(crate) fn routes_are_listed_in_pages<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let mut expected = Vec::new();
    for n in 0..25 {
        let client_id = format!("c{n:02}");
        let owner = calls.own(claim(&client_id)).fence;
        if n % 5 != 0 {
            calls.subscribe(&owner, &["x", &client_id]).expect("subscribed");
            expected.push((client_id.clone(), vec![client_id, "x".to_owned()]));
        }
        if n % 2 == 0 {
            calls.release(&owner, 60, false, START).expect("released");
        }
    }
    for page in [1, 7, 25, 1000] {
        let mut routes = calls.routes(page);
        routes.sort();
        assert_eq!(routes, expected, "pages of {page}");
    }
}

pub(crate) fn only_the_owner_subscribes<B: Backend>() {
    let backend = B::fresh();
    let calls = Calls(backend.store());
    let owner = calls.own(claim("a")).fence;
    calls.release(&owner, 60, false, START).expect("released");
    assert!(matches!(calls.subscribe(&owner, &["x"]), Err(StoreError::Fenced)));
    assert!(calls.routes(10).is_empty());
}
