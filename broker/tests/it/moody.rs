//! A store that refuses some calls among others that it takes, as one does that is overloaded; and something may happen just
//! before a call has its effect.

use std::io;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use broker::BrokerConfig;
use mqtt::{PacketId, QoS};
use state::{
    Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, Fence, MemoryStore, Message, Number, Publish,
    Published, QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession,
    Subscription, UnixMs,
};

use crate::device::{Got, How, World};

/// A call that the mood decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Publish,
    Forget,
    Retain,
    Release,
    Claim,
}

pub(crate) struct Moody {
    inner: MemoryStore,
    /// Whether a call is taken; asked before it has its effect.
    takes: Box<dyn Fn(Asked) -> bool + Send + Sync>,
    /// Pages of retained messages are kept back.
    pages: Option<(Pages, Kept)>,
    /// The part that takes no message, whatever others do.
    full: Arc<AtomicU16>,
    /// A Will is handed out twice, as one is that was not finished in time.
    repeats_wills: bool,
}

/// Nothing is full.
const NOWHERE: u16 = u16::MAX;

fn unavailable() -> StoreError {
    StoreError::Unavailable(Arc::new(io::Error::other("not now")))
}

/// What is kept back of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is read at once, and on its way.
    Answer,
    /// It is still to be read.
    Call,
}

type Page = Box<dyn FnOnce() + Send>;

/// Pages of retained messages that are kept back.
#[derive(Clone, Default)]
pub(crate) struct Pages {
    kept: Arc<Mutex<Vec<Page>>>,
}

impl Pages {
    /// Lets go of those that are kept back; others may follow. Answers how many there were.
    pub(crate) fn let_go(&self) -> usize {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        let count = kept.len();
        kept.into_iter().for_each(|page| page());
        count
    }

    fn keep(&self, page: impl FnOnce() + Send + 'static) {
        self.kept.lock().unwrap().push(Box::new(page));
    }
}

impl Moody {
    pub(crate) fn new(inner: MemoryStore, takes: impl Fn(Asked) -> bool + Send + Sync + 'static) -> Self {
        let full = Arc::new(AtomicU16::new(NOWHERE));
        Self { inner, takes: Box::new(takes), pages: None, full, repeats_wills: false }
    }

    /// One that takes everything, and keeps pages of retained messages back.
    pub(crate) fn keeping(inner: MemoryStore, kept: Kept) -> (Self, Pages) {
        let pages = Pages::default();
        (Self { pages: Some((pages.clone(), kept)), ..Self::new(inner, |_| true) }, pages)
    }

    /// The way to answer a call that is taken.
    fn admit<T>(&self, asked: Asked, done: Done<T>) -> Option<Done<T>> {
        if (self.takes)(asked) {
            return Some(done);
        }
        done(Err(unavailable()));
        None
    }
}

impl Store for Moody {
    fn publish(&self, mut publish: Publish, done: Done<Published>) {
        let Some(done) = self.admit(Asked::Publish, done) else { return };
        let full = self.full.load(Ordering::Relaxed);
        let wanted = publish.targets.len();
        publish.targets.retain(|target| self.part_of(&target.session.client_id) != Some(full));
        if publish.targets.len() == wanted {
            self.inner.publish(publish, done);
        } else {
            // Other parts have it then, and whoever asks does not learn which.
            self.inner.publish(publish, Box::new(|_| done(Err(unavailable()))));
        }
    }

    /// Each last letter is a part.
    fn part_of(&self, client_id: &str) -> Option<u16> {
        client_id.bytes().last().map(u16::from)
    }

    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        if let Some(done) = self.admit(Asked::Claim, done) {
            self.inner.claim(claim, done);
        }
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        if let Some(done) = self.admit(Asked::Release, done) {
            self.inner.release(fence, release, done);
        }
    }

    fn drop_will(&self, fence: &Fence, done: Done<()>) {
        self.inner.drop_will(fence, done);
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.inner.subscribe(fence, subscriptions, done);
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.inner.unsubscribe(fence, filters, done);
    }

    fn confirm(&self, fence: &Fence, done: Done<()>) {
        self.inner.confirm(fence, done);
    }

    fn read_queue(&self, fence: &Fence, from: Number, count: usize, bytes: usize, done: Done<QueuePage>) {
        self.inner.read_queue(fence, from, count, bytes, done);
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.inner.acknowledge(fence, number, done);
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.inner.mark_released(fence, number, done);
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        if let Some(done) = self.admit(Asked::Forget, done) {
            self.inner.forget_received(fence, packet_id, done);
        }
    }

    fn retain(&self, message: Arc<Message>, done: Done<()>) {
        if let Some(done) = self.admit(Asked::Retain, done) {
            self.inner.retain(message, done);
        }
    }

    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        count: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        let done: Done<RetainedPage> = match self.pages.clone() {
            None => done,
            Some((pages, Kept::Answer)) => Box::new(move |page| pages.keep(move || done(page))),
            Some((pages, Kept::Call)) => {
                let (inner, filter) = (self.inner.clone(), filter.to_owned());
                return pages.keep(move || inner.retained(&filter, cursor, count, now, done));
            }
        };
        self.inner.retained(filter, cursor, count, now, done);
    }

    fn routes(&self, cursor: Option<Cursor>, count: usize, done: Done<RoutePage>) {
        self.inner.routes(cursor, count, done);
    }

    fn tails(&self, sessions: Vec<Arc<StoredSession>>, done: Done<Vec<Option<Number>>>) {
        self.inner.tails(sessions, done);
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        let times = if self.repeats_wills { 2 } else { 1 };
        let repeated = move |due: Result<Vec<Due>, StoreError>| {
            done(due.map(|due| due.into_iter().flat_map(|one| std::iter::repeat_n(one, times)).collect()));
        };
        self.inner.claim_due(now, max, Box::new(repeated));
    }

    fn finish_will(&self, will: &DueWill, done: Done<()>) {
        self.inner.finish_will(will, done);
    }

    fn finish_left(&self, left: &DueLeft, done: Done<()>) {
        self.inner.finish_left(left, done);
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    fn close(&self, done: Done<()>) {
        self.inner.close(done);
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
    let full = Arc::clone(&store.full);
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
    let store = Moody { repeats_wills: true, ..Moody::new(inner.clone(), |_| true) };
    let full = Arc::clone(&store.full);
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
