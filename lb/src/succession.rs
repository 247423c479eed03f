//! Connections of one client at this edge, one after the other: before the next one asks for the session, the one before it has
//! handed over what its socket had received, a DISCONNECT above all, and if that ended it, its worker knows.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::Poll;

use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::{Duration, timeout};

use crate::shared::Shared;

/// How long a connection waits for the one before it. A worker that has lost its store, or is dead, takes that long.
const PATIENCE: Duration = Duration::from_secs(5);

/// No relay yet.
const NO_SLOT: u32 = u32::MAX;

const ASKED: u8 = 1;
const READ_OUT: u8 = 2;
const OVER: u8 = 4;
const DISMISSED: u8 = 8;

/// Who came last, by Client Identifier.
#[derive(Default)]
pub(crate) struct Successions(Mutex<HashMap<Arc<str>, Arc<Place>, RandomState>>);

/// One connection's place among those of its client.
pub(crate) struct Place {
    client_id: Arc<str>,
    flags: AtomicU8,
    /// Where its relay is woken.
    slot: AtomicU32,
    /// The one that comes next.
    next: AtomicWaker,
}

impl Place {
    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    fn set(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.next.wake();
    }

    fn ask(&self, flag: u8, shared: &Shared) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        shared.wake_relay(self.slot.load(Ordering::Acquire));
    }

    /// Waits until it has handed over what it had received and goes on, or is over; not for ever. One that has no CONNACK by
    /// then is dismissed.
    pub(crate) async fn give_way(&self, shared: &Shared) {
        self.ask(ASKED, shared);
        let given = poll_fn(|cx| {
            self.next.register(cx.waker());
            if self.has(READ_OUT | OVER) { Poll::Ready(()) } else { Poll::Pending }
        });
        if timeout(PATIENCE, given).await.is_err() {
            self.ask(DISMISSED, shared);
        }
    }
}

/// A connection in its place, from before it asks for its session until its end.
pub(crate) struct Tenancy {
    place: Arc<Place>,
    shared: Arc<Shared>,
}

impl Tenancy {
    /// Takes the place of whoever came last, which is answered.
    pub(crate) fn begin(shared: &Arc<Shared>, client_id: &Arc<str>) -> (Self, Option<Arc<Place>>) {
        let place = Arc::new(Place {
            client_id: Arc::clone(client_id),
            flags: AtomicU8::new(0),
            slot: AtomicU32::new(NO_SLOT),
            next: AtomicWaker::new(),
        });
        let before = shared.successions.0.lock().insert(Arc::clone(client_id), Arc::clone(&place));
        let tenancy = Self { place, shared: Arc::clone(shared) };
        (tenancy, before.filter(|before| !before.has(OVER)))
    }

    /// Its relay is woken by this slot from now on.
    pub(crate) fn settle(&self, slot: u32) {
        self.place.slot.store(slot, Ordering::Release);
    }

    /// Whether another one waits for what it has received.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.place.flags.load(Ordering::Acquire) & (ASKED | READ_OUT) == ASKED
    }

    /// Whether another one has waited long enough.
    pub(crate) fn is_dismissed(&self) -> bool {
        self.place.has(DISMISSED)
    }

    /// All that it had received was handed over, and it is there still.
    pub(crate) fn has_read_out(&self) {
        self.place.set(READ_OUT);
    }

    /// To be dropped when its worker knows that it is over.
    pub(crate) fn into_end(self) -> Box<dyn Any + Send + Sync> {
        Box::new(self)
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        {
            let mut last = self.shared.successions.0.lock();
            if last.get(&self.place.client_id).is_some_and(|place| Arc::ptr_eq(place, &self.place)) {
                last.remove(&self.place.client_id);
            }
        }
        self.place.set(OVER);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::time::Instant;

    use super::*;
    use crate::config::EdgeConfig;
    use crate::metrics::Metrics;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(EdgeConfig::default(), Metrics::register(&mut Registry::default())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_the_one_before_it_and_no_other() {
        let shared = shared();
        let (first, none) = Tenancy::begin(&shared, &"a".into());
        assert!(none.is_none());
        let (_stranger, none) = Tenancy::begin(&shared, &"b".into());
        assert!(none.is_none());
        let (second, before) = Tenancy::begin(&shared, &"a".into());
        let before = before.expect("the first");
        let began = Instant::now();
        let (_, end) = tokio::join!(before.give_way(&shared), async {
            assert!(!second.is_asked());
            first.has_read_out();
            first.into_end()
        });
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(end);
        let (third, before) = Tenancy::begin(&shared, &"a".into());
        assert!(Arc::ptr_eq(&before.expect("the second"), &second.place), "the first has not taken it along");
        drop((second, third));
        assert!(Tenancy::begin(&shared, &"a".into()).1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_answer_is_waited_for_no_longer_than_that() {
        let shared = shared();
        let (silent, _) = Tenancy::begin(&shared, &"a".into());
        let (_next, before) = Tenancy::begin(&shared, &"a".into());
        let began = Instant::now();
        before.expect("the first").give_way(&shared).await;
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(silent.is_asked() && silent.is_dismissed());
    }
}
