//! The order of answers, which callers rely on to deliver in the order of numbers.

use std::sync::{Arc, Mutex};

use state::{Enqueued, Number};

use crate::harness::{Backend, Calls, claim, message, publish_to, wait};

/// Waits until everything that was asked about a session before is answered.
fn settle<B: Backend>(backend: &B, fence: &state::Fence) {
    wait(|done| backend.store().acknowledge(fence, Number(0), done)).expect("an answer");
}

pub(crate) fn answers_come_in_the_order_of_the_calls<B: Backend>() {
    let backend = B::fresh();
    let store = backend.store();
    let owner = Calls(store).own(claim("a")).fence;
    let log = Arc::new(Mutex::new(Vec::new()));
    for n in 0..200 {
        let log = Arc::clone(&log);
        let push = move |n: u32| log.lock().expect("a log").push(n);
        match n % 4 {
            0 => {
                let publish = publish_to(&[&owner.session], &message("t", "x"));
                store.publish(publish, Box::new(move |_| push(n)));
            }
            1 => store.acknowledge(&owner, Number(u64::from(n / 4)), Box::new(move |_| push(n))),
            2 => store.read_queue(&owner, Number(1), 10, 1000, Box::new(move |_| push(n))),
            _ => store.subscribe(&owner, Vec::new(), Box::new(move |_| push(n))),
        }
    }
    settle(&backend, &owner);
    assert_eq!(*log.lock().expect("a log"), (0..200).collect::<Vec<_>>());
}

pub(crate) fn a_page_never_overtakes_an_earlier_publish<B: Backend>() {
    let backend = B::fresh();
    let owner = Calls(backend.store()).own(claim("a")).fence;
    // The tail as the answers so far show it, in the order in which they came; pages say the same.
    let tails = Arc::new(Mutex::new(Vec::new()));
    let store = backend.store();
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for _ in 0..500 {
                let tails = Arc::clone(&tails);
                let publish = publish_to(&[&owner.session], &message("t", "x"));
                store.publish(
                    publish,
                    Box::new(move |answer| {
                        if let Enqueued::At(Number(n)) = answer.expect("published").targets[0] {
                            tails.lock().expect("tails").push(("publish", n + 1));
                        }
                    }),
                );
            }
        });
        let mut pages = 0;
        while !publisher.is_finished() || pages < 10 {
            pages += 1;
            let tails = Arc::clone(&tails);
            store.read_queue(
                &owner,
                Number(1),
                10_000,
                usize::MAX,
                Box::new(move |page| {
                    let next = page.expect("a page").next.0;
                    tails.lock().expect("tails").push(("page", next));
                }),
            );
            std::thread::yield_now();
        }
    });
    settle(&backend, &owner);
    let mut tail = 1;
    for (what, seen) in tails.lock().expect("tails").iter() {
        match *what {
            "publish" => assert_eq!(*seen, tail + 1, "numbers come in order"),
            _ => assert_eq!(*seen, tail, "a page shows what was answered before it, no more, no less"),
        }
        tail = *seen;
    }
    assert_eq!(tail, 501);
}

pub(crate) fn publishers_on_many_threads_leave_no_gap<B: Backend>() {
    let backend = B::fresh();
    let owner = Calls(backend.store()).own(claim("a")).fence;
    let numbers = Arc::new(Mutex::new(Vec::new()));
    let store = backend.store();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let numbers = Arc::clone(&numbers);
            let session = &owner.session;
            scope.spawn(move || {
                for _ in 0..250 {
                    let numbers = Arc::clone(&numbers);
                    let publish = publish_to(&[session], &message("t", "x"));
                    store.publish(
                        publish,
                        Box::new(move |answer| {
                            numbers.lock().expect("numbers").push(answer.expect("published").targets[0]);
                        }),
                    );
                }
            });
        }
    });
    settle(&backend, &owner);
    let expected: Vec<_> = (1..=1000).map(|n| Enqueued::At(Number(n))).collect();
    assert_eq!(*numbers.lock().expect("numbers"), expected, "in the order of numbers");
    backend.check();
}
