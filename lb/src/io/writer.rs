//! Who waits to write. Bytes that wait in a stream are also driven by its reader, or a task that only reads would leave
//! them lying; but the transport has one place for a write waker, which must not be taken from another task.

use std::task::{Context, Waker};

/// The task whose write, flush or shutdown returned `Pending` last.
#[derive(Default)]
pub(crate) struct AwaitingWriter(Option<Waker>);

impl AwaitingWriter {
    /// Notes that the task of `cx` waits.
    pub(crate) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.0 {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
    }

    /// Nobody waits any more.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Whether the task of `cx` may write what waits: nobody else is waiting to do it.
    pub(crate) fn yields_to(&self, cx: &Context<'_>) -> bool {
        self.0.as_ref().is_none_or(|waker| waker.will_wake(cx.waker()))
    }

    /// What waited has left: the writer, which may have been polled before the reader, can go on.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}
