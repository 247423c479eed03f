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
    /// The task runs, and looks at this before it waits.
    is_in_turn: bool,
    task: Option<Waker>,
}

impl List {
    /// The task, if it is to be woken; once no lock is held.
    fn waiting_task(&mut self) -> Option<Waker> {
        self.task.take_if(|_| !self.is_in_turn)
    }
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
        let task = list.waiting_task();
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
        let task = list.waiting_task();
        drop(list);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// What the link was told since the turn before. Nothing wakes the task from here on until [`Ready::register`]: it looks anyway.
    pub(super) fn begin_turn(&self) -> Orders {
        let mut list = self.0.lock();
        list.is_in_turn = true;
        std::mem::take(&mut list.orders)
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
        list.is_in_turn = false;
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
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_by_what_comes_when_it_waits_and_by_nothing_in_its_turn() {
        let ready = Arc::new(Ready::default());
        let stream = StreamWaker::new(StreamId(1), &ready);
        let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&wakes));
        let cx = Context::from_waker(&waker);
        let woken = || wakes.0.load(Ordering::Relaxed);
        ready.register(&cx);
        stream.list();
        assert_eq!(woken(), 1);
        assert_eq!(ready.begin_turn(), Orders::default());
        ready.take(&mut Vec::new());
        stream.list();
        assert_eq!(woken(), 1, "it looks before it waits");
        ready.register(&cx);
        assert_eq!(woken(), 2, "and finds that it must not wait");
        // The same for an order.
        ready.begin_turn();
        ready.take(&mut Vec::new());
        ready.cut();
        assert_eq!(woken(), 2);
        ready.register(&cx);
        assert_eq!(woken(), 3);
        assert!(ready.begin_turn().is_cut);
        ready.register(&cx);
        ready.cut();
        assert_eq!(woken(), 4);
    }

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
