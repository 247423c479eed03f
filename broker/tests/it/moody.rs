//! A store that refuses some calls among others that it takes, as one does that is overloaded, or keeps some back; and something may
//! happen just before a call has its effect.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use broker::BrokerConfig;
use mqtt::QoS;
use state::{Done, Due, MemoryStore, Publish, Published, Store, StoreError, StoreStats, UnixMs};
use testkit::front::{Asked, Front, Way, unavailable};

use crate::device::{Got, How, World};

type Keeps = dyn Fn(Asked, Option<&str>) -> Option<Kept> + Send + Sync;
type KeptBack = Box<dyn FnOnce() + Send>;

/// What becomes of calls to a store.
pub(crate) struct Moody {
    inner: MemoryStore,
    /// Whether a call is taken; asked before it has its effect.
    takes: Box<dyn Fn(Asked) -> bool + Send + Sync>,
    /// What is kept back of a call about this client, or nobody.
    keeps: Box<Keeps>,
    keeper: Keeper,
    /// The part that takes no message, whatever others do.
    full: Arc<AtomicU16>,
    /// A Will is handed out twice, as one is that was not finished in time.
    repeats_wills: bool,
}

/// Nothing is full.
const NOWHERE: u16 = u16::MAX;

/// What is kept back of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It has had its effect, and the answer is on its way.
    Answer,
    /// It is still to be carried out.
    Call,
}

/// What is kept back, oldest first. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Keeper {
    kept: Arc<Mutex<VecDeque<KeptBack>>>,
}

impl Keeper {
    /// Lets go of those that are kept back; others may follow. Answers how many there were.
    pub(crate) fn let_go(&self) -> usize {
        let count = self.kept.lock().unwrap().len();
        self.give(count);
        count
    }

    /// Lets go of so many.
    pub(crate) fn give(&self, count: usize) {
        let mut kept = self.kept.lock().unwrap();
        let count = count.min(kept.len());
        let given: Vec<_> = kept.drain(..count).collect();
        drop(kept);
        given.into_iter().for_each(|given| given());
    }

    fn keep(&self, kept: impl FnOnce() + Send + 'static) {
        self.kept.lock().unwrap().push_back(Box::new(kept));
    }
}

impl Moody {
    /// One that takes what `takes` says.
    pub(crate) fn new(
        inner: MemoryStore,
        takes: impl Fn(Asked) -> bool + Send + Sync + 'static,
    ) -> Front<Self> {
        Front(Self {
            inner,
            takes: Box::new(takes),
            keeps: Box::new(|_, _| None),
            keeper: Keeper::default(),
            full: Arc::new(AtomicU16::new(NOWHERE)),
            repeats_wills: false,
        })
    }

    /// One that takes everything, and keeps back what `keeps` says.
    pub(crate) fn keeping(
        inner: MemoryStore,
        keeps: impl Fn(Asked, Option<&str>) -> Option<Kept> + Send + Sync + 'static,
    ) -> (Front<Self>, Keeper) {
        let Front(moody) = Self::new(inner, |_| true);
        let keeper = moody.keeper.clone();
        (Front(Self { keeps: Box::new(keeps), ..moody }), keeper)
    }
}

impl Way for Moody {
    type Behind = MemoryStore;

    fn call<T: Send + 'static>(
        &self,
        asked: Asked,
        client_id: Option<&str>,
        done: Done<T>,
        carry_out: impl FnOnce(&MemoryStore, Done<T>) + Send + 'static,
    ) {
        if !(self.takes)(asked) {
            return done(Err(unavailable()));
        }
        let keeper = self.keeper.clone();
        match (self.keeps)(asked, client_id) {
            None => carry_out(&self.inner, done),
            Some(Kept::Answer) => {
                carry_out(&self.inner, Box::new(move |answer| keeper.keep(move || done(answer))));
            }
            Some(Kept::Call) => {
                let inner = self.inner.clone();
                self.keeper.keep(move || carry_out(&inner, done));
            }
        }
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    /// Each last letter is a part.
    fn part_of(&self, client_id: &str) -> Option<u16> {
        client_id.bytes().last().map(u16::from)
    }

    fn publish(&self, mut publish: Publish, done: Done<Published>) {
        let full = self.full.load(Ordering::Relaxed);
        let wanted = publish.targets.len();
        publish.targets.retain(|target| self.part_of(&target.session.client_id) != Some(full));
        // Other parts have it then, and whoever asks does not learn which.
        let is_whole = publish.targets.len() == wanted;
        self.call(Asked::Publish, None, done, move |store, done| match is_whole {
            true => store.publish(publish, done),
            false => store.publish(publish, Box::new(|_| done(Err(unavailable())))),
        });
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        let times = if self.repeats_wills { 2 } else { 1 };
        let repeated = move |due: Result<Vec<Due>, StoreError>| {
            done(due.map(|due| due.into_iter().flat_map(|one| std::iter::repeat_n(one, times)).collect()));
        };
        self.call(Asked::Other, None, Box::new(repeated), move |store, done| store.claim_due(now, max, done));
    }
}

// P5: [MQTT-4.6.0-6].
#[tokio::test]
async fn what_an_overloaded_store_refuses_keeps_its_place() {
    let inner = MemoryStore::new();
    let publishes = AtomicUsize::new(0);
    // One publish in three is taken.
    let store = Moody::new(inner.clone(), move |asked| {
        asked != Asked::Publish || publishes.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
    });
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let mut subscriber = world.connect(&How::stored("subscriber"));
    subscriber.subscribe("t", 1);
    subscriber.drain();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    for n in 0..20_u8 {
        publisher.publish("t", &[n], QoS::AtLeastOnce, false);
    }
    for _ in 0..20 {
        assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, .. }));
    }
    assert_eq!(subscriber.payloads(), (0..20_u8).map(|n| vec![n]).collect::<Vec<_>>());
}

// ARCHITECTURE, rule 34.
#[tokio::test]
async fn what_was_done_in_part_is_not_done_again() {
    let inner = MemoryStore::new();
    let publishes = Arc::new(AtomicUsize::new(0));
    let asked_for = Arc::clone(&publishes);
    let store = Moody::new(inner.clone(), move |asked| {
        asked_for.fetch_add(usize::from(asked == Asked::Publish), Ordering::Relaxed);
        true
    });
    let full = Arc::clone(&store.0.full);
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let mut subscribers: Vec<_> = (0..9).map(|n| world.connect(&How::stored(&format!("s{n}")))).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("t", 1);
        subscriber.drain();
    }
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    full.store(u16::from(b'4'), Ordering::Relaxed);
    for n in 0..3_u8 {
        publisher.publish("t", &[n], QoS::AtLeastOnce, false);
    }
    // It is tried again and again.
    let deadline = tokio::time::Instant::now() + crate::device::DEADLINE;
    while publishes.load(Ordering::Relaxed) < 40 {
        assert!(tokio::time::Instant::now() < deadline, "it is tried again");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(publisher.drain().is_empty(), "one is missing still");
    full.store(NOWHERE, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, .. }));
    }
    for (n, subscriber) in subscribers.iter_mut().enumerate() {
        assert_eq!(subscriber.payloads(), [[0], [1], [2]], "s{n}: each once, in order");
    }
}

#[tokio::test]
async fn a_will_that_is_handed_out_again_while_it_is_under_way_is_published_once() {
    let inner = MemoryStore::new();
    let mut store = Moody::new(inner.clone(), |_| true);
    store.0.repeats_wills = true;
    let full = Arc::clone(&store.0.full);
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let [mut there, mut full_one] = ["s1", "s4"].map(|name| world.connect(&How::stored(name)));
    for subscriber in [&mut there, &mut full_one] {
        subscriber.subscribe("will/#", 1);
        subscriber.drain();
    }
    full.store(u16::from(b'4'), Ordering::Relaxed);
    world.connect(&How { will: Some(("will/x", 0)), ..How::stored("c") }).lose();
    assert!(matches!(there.wait().await, Got::Publish { .. }));
    full.store(NOWHERE, Ordering::Relaxed);
    assert!(matches!(full_one.wait().await, Got::Publish { .. }));
    assert!(there.payloads().is_empty() && full_one.payloads().is_empty(), "each once");
}

/// What is retained for `t`, once the store takes everything again.
async fn retained_of(world: &World, takes: &AtomicBool) -> Vec<Vec<u8>> {
    takes.store(true, Ordering::Relaxed);
    let deadline = tokio::time::Instant::now() + crate::device::DEADLINE;
    loop {
        let mut late = world.connect(&How::clean("late"));
        late.subscribe("t", 0);
        let found = late.payloads();
        if !found.is_empty() || tokio::time::Instant::now() >= deadline {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

// Rule 17: a message that was delivered live is retained, whatever becomes of the publisher of the one that it follows.
#[tokio::test]
async fn a_message_that_follows_one_that_waits_to_be_retained_does_not_go_with_that_ones_publisher() {
    for (second, third) in [("b", "b"), ("b", "c")] {
        let inner = MemoryStore::new();
        let takes = Arc::new(AtomicBool::new(false));
        let taken = Arc::clone(&takes);
        let store =
            Moody::new(inner.clone(), move |asked| asked != Asked::Retain || taken.load(Ordering::Relaxed));
        let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
        let world = World::over(config, Arc::new(store), inner).await;
        let mut live = world.connect(&How::clean("live"));
        live.subscribe("t", 0);
        live.drain();
        let mut first = world.connect(&How::clean("a"));
        first.publish("t", b"1", QoS::AtLeastOnce, true);
        for (name, payload) in [(second, b"2"), (third, b"3")] {
            let mut other = world.connect(&How::clean(name));
            other.publish("t", payload, QoS::AtMostOnce, true);
            other.disconnect();
        }
        first.lose();
        assert_eq!(live.payloads(), [b"1", b"2", b"3"]);
        assert_eq!(retained_of(&world, &takes).await, [b"3"]);
    }
}

#[tokio::test]
async fn messages_that_nobody_waits_for_do_not_pile_up_behind_one_that_waits_to_be_retained() {
    let inner = MemoryStore::new();
    let takes = Arc::new(AtomicBool::new(false));
    let (taken, writes) = (Arc::clone(&takes), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&writes);
    let store = Moody::new(inner.clone(), move |asked| {
        let takes = taken.load(Ordering::Relaxed);
        counted.fetch_add(usize::from(asked == Asked::Retain && takes), Ordering::Relaxed);
        asked != Asked::Retain || takes
    });
    let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::over(config, Arc::new(store), inner).await;
    let mut first = world.connect(&How::clean("a"));
    first.publish("t", b"1", QoS::AtLeastOnce, true);
    let mut others = ["b", "c"].map(|name| world.connect(&How::clean(name)));
    for n in 0..100_u8 {
        others[usize::from(n % 2)].publish("t", &[n], QoS::AtMostOnce, true);
    }
    assert_eq!(retained_of(&world, &takes).await, [[99]]);
    assert_eq!(writes.load(Ordering::Relaxed), 2, "the first and the last");
}
