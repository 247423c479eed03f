//! A publisher that does not stop, and what must hold of everything that it was answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use state::{Enqueued, Fence, Number, Record, Store, StoreError, StoredSession};

use crate::harness::{Calls, claim, message, publish_to};

/// Publishes that wait for their answer at the same time.
const WINDOW: u64 = 64;

/// What was answered.
#[derive(Default)]
pub(crate) struct Heard {
    /// By session: number to value.
    pub(crate) numbers: Vec<BTreeMap<u64, u64>>,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// Numbers that were answered twice: what had them first is lost.
    pub(crate) reused: u64,
    /// The longest time to an answer.
    pub(crate) slowest: Duration,
    last: u64,
}

/// Runs while a test breaks something.
pub(crate) struct Load {
    pub(crate) owners: Vec<Fence>,
    heard: Arc<Mutex<Heard>>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Makes sessions; their names decide about their buckets.
    pub(crate) fn new(store: &dyn Store, sessions: usize) -> Self {
        let owners: Vec<Fence> =
            (0..sessions).map(|n| Calls(store).own(claim(&format!("s{n}"))).fence).collect();
        let heard = Heard { numbers: vec![BTreeMap::new(); sessions], ..Heard::default() };
        Self { owners, heard: Arc::new(Mutex::new(heard)), answered: Arc::default(), stop: Arc::default() }
    }

    /// Publishes to all sessions, and calls `meanwhile` with a function that waits for so many more answers.
    pub(crate) fn run(&self, store: &dyn Store, meanwhile: impl FnOnce(&dyn Fn(u64))) {
        let more = |count: u64| {
            let target = self.answered.load(Ordering::SeqCst) + count;
            let deadline = Instant::now() + Duration::from_secs(40);
            while self.answered.load(Ordering::SeqCst) < target {
                assert!(Instant::now() < deadline, "the publisher goes on");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| self.publish_until_stopped(store));
            let stopper = Stopper(&self.stop);
            meanwhile(&more);
            drop(stopper);
        });
    }

    fn publish_until_stopped(&self, store: &dyn Store) {
        let sessions: Vec<&Arc<StoredSession>> = self.owners.iter().map(|owner| &owner.session).collect();
        let mut sent = 0;
        while !self.stop.load(Ordering::SeqCst) {
            if sent - self.answered.load(Ordering::SeqCst) >= WINDOW {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            sent += 1;
            let value = sent;
            let (heard, answered, at) = (Arc::clone(&self.heard), Arc::clone(&self.answered), Instant::now());
            store.publish(
                publish_to(&sessions, &message("t", &value.to_string())),
                Box::new(move |answer| {
                    let mut heard = heard.lock().expect("heard");
                    assert!(heard.last < value, "answers come in the order of the calls");
                    heard.last = value;
                    heard.slowest = heard.slowest.max(at.elapsed());
                    match answer {
                        Ok(published) => {
                            heard.answered += 1;
                            let heard = &mut *heard;
                            for (numbers, target) in heard.numbers.iter_mut().zip(published.targets) {
                                let Enqueued::At(Number(number)) = target else { panic!("{target:?}") };
                                heard.reused += u64::from(numbers.insert(number, value).is_some());
                            }
                        }
                        Err(StoreError::Unavailable(_)) => heard.failed += 1,
                        Err(error) => panic!("{error}"),
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }),
            );
        }
        while self.answered.load(Ordering::SeqCst) < sent {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Everything that was answered is in the queues, which have no gap, nothing twice, and the order of the calls.
    pub(crate) fn check(&self, store: &dyn Store, what: &str) {
        let heard = self.heard.lock().expect("heard");
        println!(
            "{what}: {} publishes to {} sessions answered, {} failed, slowest {:?}",
            heard.answered,
            self.owners.len(),
            heard.failed,
            heard.slowest
        );
        for (owner, numbers) in self.owners.iter().zip(&heard.numbers) {
            let name = &owner.session.client_id;
            let values = read_values(store, owner);
            let expected: Vec<u64> = (1..=values.len() as u64).collect();
            assert_eq!(values.keys().copied().collect::<Vec<_>>(), expected, "{name}: no gap");
            for (number, value) in numbers {
                assert_eq!(values.get(number), Some(value), "{name}: what was answered is there");
            }
            let values: Vec<u64> = values.into_values().collect();
            assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "{name}: in order, nothing twice");
            assert!(values.len() as u64 <= heard.answered + heard.failed);
        }
    }

    /// Messages that were lost after they were answered.
    pub(crate) fn lost(&self) -> u64 {
        self.heard.lock().expect("heard").reused
    }

    pub(crate) fn failed(&self) -> u64 {
        self.heard.lock().expect("heard").failed
    }
}

/// Also when the test fails.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The values in a queue by number.
pub(crate) fn read_values(store: &dyn Store, owner: &Fence) -> BTreeMap<u64, u64> {
    let mut values = BTreeMap::new();
    let mut from = 1;
    loop {
        let page = Calls(store).read(owner, from, 1000).expect("a page");
        if page.records.is_empty() {
            return values;
        }
        from = page.next.0;
        for queued in page.records {
            let Record::Message(delivery) = queued.record else { panic!("no PUBREL was sent") };
            let value = String::from_utf8_lossy(delivery.message.payload_slice()).parse().expect("a value");
            values.insert(queued.number.0, value);
        }
    }
}
