//! Sets retained messages, in their place among what waits for the store. Who reads them is in [`super::read`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use state::{Message, StoreError};

use crate::authorize::bounds::Bound;
use crate::directory::SessionHandle;
use crate::hub::Hub;
use crate::hub::work::latch::Part;
use crate::hub::work::{Ticket, Work};

/// Between two lines in the log about messages that were not retained.
const TELL_INTERVAL_MS: u64 = 1_000;

impl Hub {
    /// Sets the retained message of a topic without anybody who waits for it.
    pub(crate) fn retain_aside(
        self: &Arc<Self>,
        message: &Arc<Message>,
        publisher: Option<&Arc<SessionHandle>>,
    ) {
        let (hub, publisher) = (Arc::clone(self), publisher.cloned());
        let done = move |result| {
            if matches!(result, Err(StoreError::RetainedQuota)) {
                hub.tell_not_retained(publisher.as_ref().map(|session| &*session.client_id));
            }
        };
        self.store.retain(Arc::clone(message), Box::new(done));
    }

    /// A message was delivered and is not retained, since there are too many: MQTT 3 has no code that could tell its publisher,
    /// and QoS 0 no acknowledgement.
    pub(crate) fn tell_not_retained(&self, client_id: Option<&str>) {
        self.metrics.limit(Bound::RetainedMessages);
        let (now, told) = (self.now(), self.told_not_retained.load(Ordering::Relaxed));
        let is_due = now.saturating_sub(told) >= TELL_INTERVAL_MS;
        if is_due
            && self
                .told_not_retained
                .compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::warn!(client_id, "a message is not retained: too many are, of its user or in all");
        }
    }

    /// Sets the retained message in its place. One that waited may have come again elsewhere, and newer ones after it: so it is set
    /// only while its publisher is connected here, and the store is asked first whose the session is if that is not certain.
    pub(crate) fn run_retain(self: &Arc<Self>, ticket: Ticket, message: Arc<Message>, part: Part) {
        let Some((session, attachment, _)) = part.publisher.clone() else {
            return self.retain(ticket, message, part);
        };
        if !session.is_attached(attachment) {
            return self.part_done(part, Ok(()));
        }
        let Some(fence) = part.fence.clone().filter(|_| !self.cluster.is_certainly_ours(&session)) else {
            return self.retain(ticket, message, part);
        };
        let hub = Arc::clone(self);
        self.confirm_ours(&fence, Some(session), move |answer| match answer {
            Ok(()) => hub.retain(ticket, message, part),
            Err(error) if error.is_retryable() => hub.hold(Some(ticket), Work::Retain(message, part)),
            Err(error) => hub.part_done(part, Err(error)),
        });
    }

    /// Sets the retained message; the answer is one part of what is waited for.
    pub(crate) fn retain(self: &Arc<Self>, ticket: Ticket, message: Arc<Message>, part: Part) {
        let (hub, retained) = (Arc::clone(self), Arc::clone(&message));
        let done = move |result| hub.retain_done(ticket, retained, part, result);
        self.store.retain(message, Box::new(done));
    }

    /// Sets the retained message, and learns only later who waits for the answer.
    pub(crate) fn retain_begun(self: &Arc<Self>, message: &Arc<Message>) -> RetainBegun {
        let Some(ticket) = self.place() else { return RetainBegun { slot: None } };
        let slot = Arc::new(Mutex::new(RetainSlot::Open));
        let filled = Arc::clone(&slot);
        let hub = Arc::clone(self);
        let retained = Arc::clone(message);
        self.store.retain(
            Arc::clone(message),
            Box::new(move |result| {
                let mut slot = filled.lock();
                match std::mem::replace(&mut *slot, RetainSlot::Done(Ok(()))) {
                    RetainSlot::Waited(part) => {
                        drop(slot);
                        hub.retain_done(ticket, retained, part, result);
                    }
                    _ => *slot = RetainSlot::Done(result),
                }
            }),
        );
        RetainBegun { slot: Some((ticket, slot)) }
    }

    fn retain_done(&self, ticket: Ticket, message: Arc<Message>, part: Part, result: Result<(), StoreError>) {
        match result {
            Err(error) if error.is_retryable() => {
                self.hold(Some(ticket), Work::Retain(message, part));
            }
            result => self.part_done(part, result),
        }
    }
}

/// A write of the retained store that began before matching; who waits for it is known only after.
pub(crate) struct RetainBegun {
    /// `None`: it has to queue behind work that is held.
    slot: Option<(Ticket, Arc<Mutex<RetainSlot>>)>,
}

enum RetainSlot {
    Open,
    Done(Result<(), StoreError>),
    Waited(Part),
}

impl RetainBegun {
    pub(crate) fn continue_with(self, hub: &Arc<Hub>, message: &Arc<Message>, part: Part) {
        let Some((ticket, slot)) = self.slot else {
            hub.submit(Work::Retain(Arc::clone(message), part));
            return;
        };
        let mut slot = slot.lock();
        match std::mem::replace(&mut *slot, RetainSlot::Open) {
            RetainSlot::Done(result) => {
                drop(slot);
                hub.retain_done(ticket, Arc::clone(message), part, result);
            }
            _ => *slot = RetainSlot::Waited(part),
        }
    }
}
