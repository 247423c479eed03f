//! What waits until every part of the work for one message is durable, and is answered then. A part is a value that whoever does
//! it gives back, so none can be forgotten or done twice.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mqtt::{PacketId, QoS, ReasonCode};
use parking_lot::Mutex;
use state::{Fence, StoreError};
use tokio::time::Instant;

use crate::directory::{Attachment, Item, SessionHandle};
use crate::session::Input;

/// Who waits for the answer about one message, and how far the work for it is.
pub(crate) struct Latch {
    /// `None`: nobody (QoS 0, the server's own messages).
    pub(crate) publisher: Option<(Arc<SessionHandle>, Attachment, PacketId)>,
    /// When the message came.
    pub(crate) since: Instant,
    /// The publisher's, if another worker can have its session.
    pub(crate) fence: Option<Fence>,
    pub(crate) qos: QoS,
    /// As in [`state::Publish::identity`].
    pub(crate) identity: Option<[u8; 16]>,
    matched: AtomicBool,
    parts: AtomicUsize,
    failed: Mutex<Option<StoreError>>,
    /// Runs once all of it is durable.
    then: Mutex<Option<Then>>,
}

/// What is done when a message is durable wherever it must be.
pub(crate) type Then = Box<dyn FnOnce() + Send>;

/// One part of the work for a message: the latch opens when all of its parts are done. One that is dropped undone, as by a store that
/// ends, has failed.
#[must_use = "a message is answered when each part is done"]
pub(crate) struct Part {
    latch: Arc<Latch>,
    is_done: bool,
}

impl Latch {
    /// Of a message that `publisher` waits for; nothing has matched yet, and nothing runs when it is durable.
    pub(crate) fn new(publisher: Option<(Arc<SessionHandle>, Attachment, PacketId)>, qos: QoS) -> Self {
        Self {
            publisher,
            since: Instant::now(),
            fence: None,
            qos,
            identity: None,
            matched: AtomicBool::new(false),
            parts: AtomicUsize::new(0),
            failed: Mutex::default(),
            then: Mutex::default(),
        }
    }

    /// The same, and then `then`.
    pub(crate) fn and_then(mut self, then: Option<Then>) -> Self {
        self.then = Mutex::new(then);
        self
    }

    /// The first part of it.
    pub(crate) fn begin(self) -> Part {
        self.parts.store(1, Ordering::Release);
        Part { latch: Arc::new(self), is_done: false }
    }

    /// Tells the publisher, if one waits.
    pub(crate) fn tell(&self, answer: Result<ReasonCode, StoreError>) {
        if let Some((session, attachment, packet_id)) = &self.publisher {
            let answer = Input::Published(*packet_id, self.qos, answer);
            session.answer(*attachment, Item::Published(self.since, answer));
        }
    }

    /// The number of the session that publishes the message.
    pub(crate) fn publisher(&self) -> Option<u64> {
        self.publisher.as_ref().map(|(session, ..)| session.id)
    }

    /// Whether a subscription has matched.
    pub(crate) fn has_matched(&self) -> bool {
        self.matched.load(Ordering::Acquire)
    }

    /// Says whether a subscription has matched.
    pub(crate) fn set_matched(&self, matched: bool) {
        self.matched.store(matched, Ordering::Release);
    }

    /// What runs once all of it is durable; once.
    pub(crate) fn take_then(&self) -> Option<Then> {
        self.then.lock().take()
    }
}

impl Part {
    /// Of a message that no client waits for; then `then`.
    pub(crate) fn of_nobody(qos: QoS, then: Option<Then>) -> Self {
        let latch = Latch::new(None, qos).and_then(then);
        latch.set_matched(true);
        latch.begin()
    }

    /// One part more.
    pub(crate) fn another(&self) -> Self {
        self.latch.parts.fetch_add(1, Ordering::AcqRel);
        Self { latch: Arc::clone(&self.latch), is_done: false }
    }

    /// The part is done, or has failed. If it was the last one, the answer: what failed, if anything did.
    pub(crate) fn done(mut self, result: Result<(), StoreError>) -> Option<(Arc<Latch>, Option<StoreError>)> {
        self.end(result).then(|| (Arc::clone(&self.latch), self.latch.failed.lock().take()))
    }

    /// Whether it was the last one.
    fn end(&mut self, result: Result<(), StoreError>) -> bool {
        self.is_done = true;
        if let Err(error) = result {
            *self.latch.failed.lock() = Some(error);
        }
        self.latch.parts.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_done && self.end(Err(StoreError::Closed)) {
            self.latch.tell(Err(StoreError::Closed));
        }
    }
}

impl Deref for Part {
    type Target = Latch;

    fn deref(&self) -> &Latch {
        &self.latch
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use link::ConnectionId;

    use super::*;

    #[test]
    fn the_last_part_that_is_done_tells_what_failed() {
        let first = Part::of_nobody(QoS::AtLeastOnce, None);
        let (second, third) = (first.another(), first.another());
        assert!(second.done(Err(StoreError::Closed)).is_none());
        assert!(first.done(Ok(())).is_none());
        let fourth = third.another();
        assert!(third.done(Ok(())).is_none(), "another has begun meanwhile");
        assert!(matches!(fourth.done(Ok(())), Some((_, Some(StoreError::Closed)))));
    }

    #[test]
    fn a_part_that_nobody_does_has_failed() {
        let session = Arc::new(SessionHandle::new(1, "c".into(), None));
        let attachment = session.attach(ConnectionId(1), false);
        let publisher = Some((Arc::clone(&session), attachment, PacketId::MIN));
        let first = Latch::new(publisher, QoS::AtLeastOnce).begin();
        drop(first.another());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(session.poll_take(attachment, &mut cx), Ok(None)), "there is another");
        drop(first);
        let (items, _) = session.poll_take(attachment, &mut cx).unwrap().unwrap();
        let refused = |item: &Item| matches!(item, Item::Published(_, Input::Published(_, _, Err(_))));
        assert!(items.len() == 1 && refused(&items[0]));
    }
}
