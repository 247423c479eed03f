//! A store in front of another one: whoever makes it decides what becomes of each call, and when.

use std::io;
use std::sync::Arc;

use mqtt::PacketId;
use state::{
    Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, Fence, Message, Number, Publish, Published,
    QueuePage, Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession, Subscription,
    UnixMs,
};

/// What a call is about, as far as a front tells calls apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A session, by a connection.
    Claim,
    /// The end of a connection's ownership.
    Release,
    /// A message for stored queues.
    Publish,
    /// That a QoS 2 message of a client was released.
    Forget,
    /// A retained message to be written.
    Retain,
    /// A page of retained messages.
    Retained,
    /// Anything else.
    Other,
}

/// What becomes of calls. Those that a front may change have a method of their own, which hands them on unless it is replaced.
pub trait Way: Send + Sync + 'static {
    /// The store behind it.
    type Behind: Store;

    /// A call, about the session of this client if it is about one: it is to be carried out, now or later, with `done` or something
    /// that comes before it, or to be answered without.
    fn call<T: Send + 'static>(
        &self,
        asked: Asked,
        client_id: Option<&str>,
        done: Done<T>,
        carry_out: impl FnOnce(&Self::Behind, Done<T>) + Send + 'static,
    );

    /// Counts of the store behind it.
    fn stats(&self) -> StoreStats;

    /// See [`Store::part_of`].
    fn part_of(&self, _client_id: &str) -> Option<u16> {
        None
    }

    /// See [`Store::claim`].
    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        let client_id = Arc::clone(&claim.client_id);
        self.call(Asked::Claim, Some(&client_id), done, |store, done| store.claim(claim, done));
    }

    /// See [`Store::publish`].
    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.call(Asked::Publish, None, done, |store, done| store.publish(publish, done));
    }

    /// See [`Store::claim_due`].
    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        self.call(Asked::Other, None, done, move |store, done| store.claim_due(now, max, done));
    }
}

/// The error of a store that cannot be asked now.
pub fn unavailable() -> StoreError {
    StoreError::Unavailable(Arc::new(io::Error::other("not now")))
}

/// A store whose calls go the way `W`. Clones go the same if those of `W` do.
#[derive(Clone)]
pub struct Front<W>(pub W);

impl<W: Way> Front<W> {
    fn owner<T: Send + 'static>(
        &self,
        asked: Asked,
        fence: &Fence,
        done: Done<T>,
        carry_out: impl FnOnce(&W::Behind, &Fence, Done<T>) + Send + 'static,
    ) {
        let fence = fence.clone();
        let client_id = Arc::clone(&fence.session.client_id);
        self.0.call(asked, Some(&client_id), done, move |store, done| carry_out(store, &fence, done));
    }
}

impl<W: Way> Store for Front<W> {
    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        self.0.claim(claim, done);
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.owner(Asked::Release, fence, done, |store, fence, done| store.release(fence, release, done));
    }

    fn drop_will(&self, fence: &Fence, done: Done<()>) {
        self.owner(Asked::Other, fence, done, Store::drop_will);
    }

    fn subscribe(&self, fence: &Fence, wanted: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.owner(Asked::Other, fence, done, |store, fence, done| store.subscribe(fence, wanted, done));
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.owner(Asked::Other, fence, done, |store, fence, done| store.unsubscribe(fence, filters, done));
    }

    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.0.publish(publish, done);
    }

    fn part_of(&self, client_id: &str) -> Option<u16> {
        self.0.part_of(client_id)
    }

    fn confirm(&self, fence: &Fence, done: Done<()>) {
        self.owner(Asked::Other, fence, done, Store::confirm);
    }

    fn read_queue(&self, fence: &Fence, from: Number, count: usize, bytes: usize, done: Done<QueuePage>) {
        self.owner(Asked::Other, fence, done, move |store, fence, done| {
            store.read_queue(fence, from, count, bytes, done);
        });
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.owner(Asked::Other, fence, done, move |store, fence, done| {
            store.acknowledge(fence, number, done);
        });
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.owner(Asked::Other, fence, done, move |store, fence, done| {
            store.mark_released(fence, number, done);
        });
    }

    fn forget_received(&self, fence: &Fence, id: PacketId, done: Done<()>) {
        self.owner(Asked::Forget, fence, done, move |store, fence, done| {
            store.forget_received(fence, id, done);
        });
    }

    fn retain(&self, message: Arc<Message>, done: Done<()>) {
        self.0.call(Asked::Retain, None, done, |store, done| store.retain(message, done));
    }

    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        count: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        let filter = filter.to_owned();
        self.0.call(Asked::Retained, None, done, move |store, done| {
            store.retained(&filter, cursor, count, now, done);
        });
    }

    fn routes(&self, cursor: Option<Cursor>, count: usize, done: Done<RoutePage>) {
        self.0.call(Asked::Other, None, done, move |store, done| store.routes(cursor, count, done));
    }

    fn tails(&self, sessions: Vec<Arc<StoredSession>>, done: Done<Vec<Option<Number>>>) {
        self.0.call(Asked::Other, None, done, |store, done| store.tails(sessions, done));
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        self.0.claim_due(now, max, done);
    }

    fn finish_will(&self, will: &DueWill, done: Done<()>) {
        let will = will.clone();
        self.0.call(Asked::Other, None, done, move |store, done| store.finish_will(&will, done));
    }

    fn finish_left(&self, left: &DueLeft, done: Done<()>) {
        let left = left.clone();
        self.0.call(Asked::Other, None, done, move |store, done| store.finish_left(&left, done));
    }

    fn stats(&self) -> StoreStats {
        self.0.stats()
    }

    fn close(&self, done: Done<()>) {
        self.0.call(Asked::Other, None, done, Store::close);
    }
}
