//! Which streams of a link have something to do. Each has a waker that puts it on this list and wakes the link's task: so a
//! device that is idle costs no task, no timer and no look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use link::wire::StreamId;
use parking_lot::Mutex;

/// What is to be done on one link.
#[derive(Default)]
pub(super) struct Ready(Mutex<List>);

#[derive(Default)]
struct List {
    streams: Vec<Arc<StreamWaker>>,
    orders: Orders,
    task: Option<Waker>,
}

/// What a link is told, once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Its devices are to go elsewhere within this time.
    pub drain: Option<Duration>,
    /// It is to end.
    pub is_cut: bool,
}

/// The waker of one stream.
pub(super) struct StreamWaker {
    id: StreamId,
    is_listed: AtomicBool,
    ready: Arc<Ready>,
}

impl StreamWaker {
    pub(super) fn new(id: StreamId, ready: &Arc<Ready>) -> Arc<Self> {
        Arc::new(Self { id, is_listed: AtomicBool::new(false), ready: Arc::clone(ready) })
    }

    /// Puts the stream on the list, unless it is there.
    pub(super) fn list(self: &Arc<Self>) {
        if !self.is_listed.swap(true, Ordering::AcqRel) {
            self.ready.add(Arc::clone(self));
        }
    }
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.list();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.list();
    }
}

impl Ready {
    fn add(&self, stream: Arc<StreamWaker>) {
        let mut list = self.0.lock();
        list.streams.push(stream);
        let task = list.task.take();
        drop(list);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Asks the link to send its devices elsewhere.
    pub(super) fn drain(&self, within: Duration) {
        self.order(|orders| orders.drain = Some(within));
    }

    /// Ends the link.
    pub(super) fn cut(&self) {
        self.order(|orders| orders.is_cut = true);
    }

    fn order(&self, order: impl FnOnce(&mut Orders)) {
        let mut list = self.0.lock();
        order(&mut list.orders);
        let task = list.task.take();
        drop(list);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// What the link was told since this was asked last.
    pub(super) fn take_orders(&self) -> Orders {
        std::mem::take(&mut self.0.lock().orders)
    }

    /// Moves those that have something to do to `streams`. What wakes a stream from here on lists it again.
    pub(super) fn take(&self, streams: &mut Vec<StreamId>) {
        let mut list = self.0.lock();
        for stream in list.streams.drain(..) {
            stream.is_listed.store(false, Ordering::Release);
            streams.push(stream.id);
        }
    }

    /// Has the task woken by what is listed from here on, and at once if something is.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut list = self.0.lock();
        if list.streams.is_empty() && list.orders == Orders::default() {
            match &mut list.task {
                Some(task) => task.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        } else {
            drop(list);
            cx.waker().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_listed_once_however_often_it_is_woken() {
        let ready = Arc::new(Ready::default());
        let (first, second) = (StreamWaker::new(StreamId(1), &ready), StreamWaker::new(StreamId(2), &ready));
        let waker = Waker::from(Arc::clone(&second));
        waker.wake_by_ref();
        first.list();
        waker.wake();
        let mut streams = Vec::new();
        ready.take(&mut streams);
        assert_eq!(streams, [StreamId(2), StreamId(1)]);
        first.list();
        streams.clear();
        ready.take(&mut streams);
        assert_eq!(streams, [StreamId(1)]);
    }
}
