//! A store that refuses some calls among others that it takes, as one does that is overloaded; and something may happen just
//! before a call has its effect.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use broker::BrokerConfig;
use mqtt::{PacketId, QoS};
use state::{
    Claim, Claimed, Cursor, Done, Due, DueWill, Fence, MemoryStore, Message, Number, Publish, Published,
    QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession, Subscription,
    UnixMs,
};

use crate::device::{Got, How, World};

/// A call that the mood decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Publish,
    Forget,
    Retain,
}

pub(crate) struct Moody {
    inner: MemoryStore,
    /// Whether a call is taken; asked before it has its effect.
    takes: Box<dyn Fn(Asked) -> bool + Send + Sync>,
    /// Pages of retained messages are kept back.
    pages: Option<(Pages, Kept)>,
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
        Self { inner, takes: Box::new(takes), pages: None }
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
        done(Err(StoreError::Unavailable(Arc::new(io::Error::other("not now")))));
        None
    }
}

impl Store for Moody {
    fn publish(&self, publish: Publish, done: Done<Published>) {
        if let Some(done) = self.admit(Asked::Publish, done) {
            self.inner.publish(publish, done);
        }
    }

    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        self.inner.claim(claim, done);
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.inner.release(fence, release, done);
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
        self.inner.claim_due(now, max, done);
    }

    fn finish_will(&self, will: &DueWill, done: Done<()>) {
        self.inner.finish_will(will, done);
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
