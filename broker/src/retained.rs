//! Retained messages for new subscriptions: read in pages, only as fast as the device takes them.

use std::collections::VecDeque;
use std::sync::Arc;

use link::ConnectionId;
use mqtt::QoS;
use parking_lot::Mutex;
use state::{
    Cursor, Delivery, Message, RetainedPage, StoreError, Subscription, SubscriptionIds, SubscriptionOptions,
    UnixMs,
};

use crate::hub::Hub;
use crate::session_handle::{Item, SessionHandle};

/// Messages asked of the store at once.
const PAGE_MESSAGES_MAX: usize = 256;

/// The retained messages that a session is still to get.
#[derive(Debug, Default)]
pub(crate) struct RetainedReader {
    waiting: VecDeque<Reading>,
    page: VecDeque<Arc<Message>>,
    under_way: bool,
}

#[derive(Debug)]
struct Reading {
    filter: Arc<str>,
    options: SubscriptionOptions,
    cursor: Option<Cursor>,
    begun: bool,
}

/// What asking for more gave.
pub(crate) enum More {
    /// One to hand to the session.
    Message(Delivery),
    /// The store will answer with an [`Item::Retained`].
    Later,
    /// There are none.
    End,
}

impl RetainedReader {
    /// Lines up the retained messages of a new subscription.
    pub(crate) fn begin(&mut self, subscription: &Subscription) {
        let Subscription { filter, options } = subscription.clone();
        self.waiting.push_back(Reading { filter, options, cursor: None, begun: false });
    }

    /// The next one, read from the store when needed. The store is asked only when the session has room, so what it gets
    /// is never older than a live message that it was given before.
    pub(crate) fn next(
        &mut self,
        hub: &Hub,
        session: &Arc<SessionHandle>,
        connection: ConnectionId,
        now: UnixMs,
    ) -> More {
        loop {
            let Some(reading) = self.waiting.front_mut() else { return More::End };
            if let Some(message) = self.page.pop_front() {
                return More::Message(delivery(message, &reading.options));
            }
            if reading.begun && reading.cursor.is_none() {
                self.waiting.pop_front();
                continue;
            }
            if self.under_way {
                return More::Later;
            }
            if !std::mem::replace(&mut reading.begun, true) && reading.filter.starts_with("$SYS") {
                self.page.extend(hub.sys_matching(&reading.filter));
            }
            let cursor = reading.cursor.take();
            let filter = Arc::clone(&reading.filter);
            match read_page(hub, session, connection, &filter, cursor, now) {
                Some(page) => self.take_page(page),
                None => self.under_way = true,
            }
        }
    }

    /// Takes a page that came later.
    pub(crate) fn take_page(&mut self, page: Result<RetainedPage, StoreError>) {
        self.under_way = false;
        let Some(reading) = self.waiting.front_mut() else { return };
        match page {
            Ok(page) => {
                self.page.extend(page.messages);
                reading.cursor = page.next;
            }
            Err(error) => {
                tracing::warn!(%error, filter = &*reading.filter, "retained messages could not be read");
                reading.cursor = None;
            }
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn delivery(message: Arc<Message>, options: &SubscriptionOptions) -> Delivery {
    let qos = message.qos().min(options.qos);
    let id = options.subscription_id;
    let subscription_ids = if id == 0 { SubscriptionIds::NONE } else { SubscriptionIds::from_slice(&[id]) };
    Delivery { qos, retain: true, subscription_ids, message }
}

/// Where a page arrives: on the spot for a store that answers at once, in the mailbox otherwise.
enum PageSlot {
    Asking,
    Here(Result<RetainedPage, StoreError>),
    Later,
}

fn read_page(
    hub: &Hub,
    session: &Arc<SessionHandle>,
    connection: ConnectionId,
    filter: &str,
    cursor: Option<Cursor>,
    now: UnixMs,
) -> Option<Result<RetainedPage, StoreError>> {
    let slot = Arc::new(Mutex::new(PageSlot::Asking));
    let filled = Arc::clone(&slot);
    let session = Arc::clone(session);
    hub.store.retained(
        filter,
        cursor,
        PAGE_MESSAGES_MAX,
        now,
        Box::new(move |page| {
            let mut slot = filled.lock();
            if matches!(*slot, PageSlot::Later) {
                drop(slot);
                session.answer(connection, Item::Retained(page));
            } else {
                *slot = PageSlot::Here(page);
            }
        }),
    );
    let mut slot = slot.lock();
    match std::mem::replace(&mut *slot, PageSlot::Later) {
        PageSlot::Here(page) => Some(page),
        _ => None,
    }
}

impl Hub {
    /// The `$SYS` messages that match a filter.
    pub(crate) fn sys_matching(&self, filter: &str) -> Vec<Arc<Message>> {
        let sys = self.sys.read();
        sys.values().filter(|message| mqtt::topic::matches(filter, message.topic())).cloned().collect()
    }

    /// Enqueues a retained message in a stored session's own queue; it comes back as an [`Item::DeliverStored`].
    pub(crate) fn enqueue_retained(self: &Arc<Self>, session: &Arc<SessionHandle>, delivery: Delivery) {
        debug_assert!(delivery.qos != QoS::AtMostOnce);
        let Some(stored) = &session.stored else { return };
        let target = state::Target { session: Arc::clone(stored), delivery: delivery.clone() };
        let publish =
            state::Publish { message: Arc::clone(&delivery.message), origin: None, targets: vec![target] };
        let (hub, session) = (Arc::clone(self), Arc::clone(session));
        self.store.publish(
            publish,
            Box::new(move |result| match result.map(|published| published.targets.first().copied()) {
                Ok(Some(state::Enqueued::At(number))) => {
                    session.deliver_stored(number, delivery, hub.config.queue_bytes_max);
                }
                Ok(Some(state::Enqueued::Full)) => {
                    hub.metrics.drop_message(crate::session::DropReason::QueueFull, delivery.qos);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a retained message could not be queued"),
            }),
        );
    }
}
