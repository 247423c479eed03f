//! What one session asks of the store. All of it may be asked again without harm, so it is while the store is away.

use std::sync::Arc;

use state::{Done, StoreError, Subscription};

use super::Hub;
use super::housekeeping::claim_due;
use super::work::call::{Call, Op};
use super::work::{Ticket, Work};
use crate::directory::Item;
use crate::session::{Input, Request, StoreOp, SubscribeItem};

/// Bytes of a page of the stored queue.
const PAGE_BYTES_MAX: usize = 1 << 20;

impl Call {
    /// Its effect is in the store: so is that of the frame that caused it.
    fn report(&self) {
        if self.frame != 0 {
            self.answer(Item::Durable(self.frame));
        }
    }

    /// The store says that the session is not the asker's any more.
    fn refused(&self, hub: &Hub) {
        if let (Some(cluster), Some((session, attachment))) = (hub.cluster.shared(), &self.asker) {
            cluster.doubt(session, *attachment);
        }
    }

    fn answer(&self, item: Item) {
        if let Some((session, attachment)) = &self.asker {
            session.answer(*attachment, item);
        }
    }
}

/// The subscriptions that the store is asked for.
fn accepted(items: &[SubscribeItem]) -> Vec<Subscription> {
    items.iter().filter_map(|item| item.subscription.clone().ok()).collect()
}

impl Hub {
    /// Asks the store, and again later if it is away.
    pub(crate) fn call(self: &Arc<Self>, ticket: Ticket, call: Call) {
        let store = Arc::clone(&self.store);
        let fence = call.fence.clone();
        match call.op.clone() {
            Op::Session(StoreOp::ReadQueue(from, count)) => {
                store.read_queue(&fence, from, count, PAGE_BYTES_MAX, self.tell(ticket, call, Input::Queue));
            }
            Op::Session(StoreOp::Acknowledge(number)) => {
                store.acknowledge(&fence, number, self.ask_silently(ticket, call, |_, call| call.report()));
            }
            Op::Session(StoreOp::MarkReleased(number)) => {
                let done = self.tell(ticket, call, move |result| Input::Released(number, result));
                store.mark_released(&fence, number, done);
            }
            Op::Session(StoreOp::ForgetReceived(id)) => {
                let done = self.tell(ticket, call, move |result| Input::Forgotten(id, result));
                store.forget_received(&fence, id, done);
            }
            Op::Request(id, request) => {
                let kind = request.kind();
                let done = self.tell(ticket, call, move |result| Item::Request(id, kind, result));
                match &*request {
                    Request::Subscribe(items) => store.subscribe(&fence, accepted(items), done),
                    Request::Unsubscribe { filters, .. } => store.unsubscribe(&fence, filters.clone(), done),
                }
            }
            Op::Revoke(filters) => {
                let (stored, revoked) = (Arc::clone(&fence.session), filters.clone());
                let epoch = fence.epoch;
                let told = move |hub: &Arc<Self>, _: &Call| {
                    if let Some(cluster) = hub.cluster.shared() {
                        cluster.tell_revoked(stored, epoch, revoked);
                    }
                };
                store.unsubscribe(&fence, filters, self.ask_silently(ticket, call, told));
            }
            Op::DropWill => store.drop_will(&fence, self.ask_silently(ticket, call, |_, _| ())),
            Op::Release(release, will, departure) => {
                let (session, asked) = (Arc::clone(&fence.session), release.clone());
                let released = move |hub: &Arc<Self>, _: &Call| {
                    hub.released(&session, &asked, will);
                    if let Some(departure) = departure {
                        departure.finish();
                    }
                };
                let (hub, client_id) = (Arc::clone(self), Arc::clone(&fence.session.client_id));
                let done = self.ask_silently(ticket, call, released);
                let done: Done<()> = Box::new(move |result| {
                    done(result);
                    hub.release_answered(&client_id);
                });
                store.release(&fence, release, done);
            }
        }
    }

    /// The store has done it: what that changes for matching, here and at other workers, then `then`. It is part of the answer
    /// and not left to the connection that asked, so that the index has what the store has whatever becomes of that
    /// connection meanwhile.
    fn follow_in_index(self: &Arc<Self>, call: Call, then: impl FnOnce(&Call) + Send + 'static) {
        let Some((session, _)) = call.asker.clone() else { return then(&call) };
        let Op::Request(_, request) = call.op.clone() else { return then(&call) };
        let (epoch, then) = (call.fence.epoch, Box::new(move || then(&call)));
        match &*request {
            Request::Subscribe(items) => self.cluster.announce(&session, epoch, &accepted(items), then),
            Request::Unsubscribe { filters, .. } => {
                self.cluster.withdraw(&session, epoch, filters.clone(), then);
            }
        }
    }

    fn tell<T: Send + 'static, I: Into<Item>>(
        self: &Arc<Self>,
        ticket: Ticket,
        call: Call,
        item: impl FnOnce(Result<T, StoreError>) -> I + Send + 'static,
    ) -> Done<T> {
        let hub = Arc::clone(self);
        Box::new(move |result| match result {
            Err(error) if error.is_retryable() => hub.hold(Some(ticket), Work::Call(call)),
            Ok(answer) => hub.follow_in_index(call, move |call| {
                call.report();
                call.answer(item(Ok(answer)).into());
            }),
            Err(StoreError::Fenced | StoreError::NoSession) if hub.cluster.is_shared() => call.refused(&hub),
            Err(error) => call.answer(item(Err(error)).into()),
        })
    }

    /// Nobody waits for the answer. A session that has a newer owner, or is gone, needs none of it.
    fn ask_silently<T: 'static>(
        self: &Arc<Self>,
        ticket: Ticket,
        call: Call,
        then: impl FnOnce(&Arc<Self>, &Call) + Send + 'static,
    ) -> Done<T> {
        let hub = Arc::clone(self);
        Box::new(move |result| match result {
            Err(error) if error.is_retryable() => hub.hold(Some(ticket), Work::Call(call)),
            Ok(_) => then(&hub, &call),
            Err(StoreError::Fenced | StoreError::NoSession) => {
                if let Op::Release(release, will, departure) = &call.op {
                    if let Some(departure) = departure {
                        departure.finish();
                    }
                    if will.is_some() {
                        // It may have waited for this last word.
                        claim_due(&hub, release.now.max(hub.now()));
                    }
                }
                call.refused(&hub);
            }
            Err(error) => {
                let client_id = &*call.fence.session.client_id;
                tracing::warn!(client_id, %error, "the store refused a change of a session");
            }
        })
    }
}
