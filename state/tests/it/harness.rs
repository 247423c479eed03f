//! Calls a store as a function would be called, and makes the values that tests need.

use std::sync::Arc;

use mqtt::{PacketId, QoS};
pub(crate) use state::testing::{begin, publish_to, take, wait};
use state::{
    Claim, Claimed, ConnectionId, Cursor, Delivery, Due, Enqueued, Fence, Message, Number, Origin, Owned,
    Owner, Principal, Publish, Published, QueueLimits, QueuePage, Record, Release, SessionRoutes, Store,
    StoreError, StoredSession, Subscription, SubscriptionOptions, UnixMs, Will, testing,
};

/// The time at which tests begin.
pub(crate) const START: UnixMs = 1_700_000_000_000;

/// Bounds that a test wants.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) sessions_max: u64,
    pub(crate) subscriptions_per_session_max: usize,
    pub(crate) retained_messages_max: u64,
    pub(crate) retained_bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sessions_max: 1_000_000,
            subscriptions_per_session_max: 1000,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1_000_000_000,
        }
    }
}

/// A kind of store that the suite runs over.
pub(crate) trait Backend: Sized {
    /// An empty store.
    fn start(bounds: Bounds) -> Self;

    /// The store as it is now.
    fn store(&self) -> &dyn Store;

    /// Ends the process that serves the store, and starts another at `now`.
    fn restart(&mut self, now: UnixMs);

    /// Checks what must always hold.
    fn check(&self) {}

    /// Whether that is cheap enough to be done after every call.
    const CHECK_IS_CHEAP: bool = true;

    /// An empty store with bounds that no test reaches.
    fn fresh() -> Self {
        Self::start(Bounds::default())
    }
}

/// A claim of a session that never expires and has room.
pub(crate) fn claim(client_id: &str) -> Claim {
    let connection_id = ConnectionId(u128::from(rand_id()));
    let limits = QueueLimits { messages_max: 1_000_000, bytes_max: u64::MAX };
    Claim { connection_id, limits, now: START, ..testing::claim(client_id) }
}

/// Who authenticated with a name.
pub(crate) fn principal(name: &str) -> Principal {
    Principal(Arc::from(name))
}

fn rand_id() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(1)
}

/// A message without properties.
pub(crate) fn message(topic: &str, payload: &str) -> Arc<Message> {
    Arc::new(Message::new(topic, &[], payload.as_bytes(), QoS::AtLeastOnce, false, START))
}

/// One that is to be retained, of a principal that may have so many.
pub(crate) fn owned(name: &str, messages_max: u64, topic: &str, payload: &str) -> Arc<Message> {
    let message = Message::new(topic, &[], payload.as_bytes(), QoS::AtLeastOnce, true, START);
    Arc::new(message.with_owner(Owner { principal: principal(name), messages_max: Some(messages_max) }))
}

pub(crate) fn will(topic: &str, delay_s: u32) -> Will {
    Will { message: message(topic, "gone"), delay_s }
}

pub(crate) fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}

/// A delivery of a message at QoS 1.
pub(crate) fn delivery(message: &Arc<Message>) -> Delivery {
    testing::delivery(message, QoS::AtLeastOnce)
}

pub(crate) fn subscription(filter: &str, qos: QoS) -> Subscription {
    let options =
        SubscriptionOptions { qos, no_local: false, retain_as_published: false, subscription_id: 0 };
    Subscription { filter: Arc::from(filter), options }
}

/// A store, called as functions.
pub(crate) struct Calls<'a>(pub(crate) &'a dyn Store);

impl Calls<'_> {
    pub(crate) fn claim(&self, claim: Claim) -> Result<Claimed, StoreError> {
        wait(|done| self.0.claim(claim, done))
    }

    /// Claims a session that there is, or is made.
    pub(crate) fn own(&self, claim: Claim) -> Owned {
        self.claim(claim).expect("a claim").session.expect("a session")
    }

    pub(crate) fn release(
        &self,
        fence: &Fence,
        expiry_s: u32,
        keep_will: bool,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let release = Release { expiry_s, keep_will, sent: Number(0), grace_ms: 0, now };
        wait(|done| self.0.release(fence, release, done))
    }

    pub(crate) fn publish(&self, publish: Publish) -> Published {
        wait(|done| self.0.publish(publish, done)).expect("a publish")
    }

    /// Enqueues one message for one session.
    pub(crate) fn enqueue(&self, session: &Arc<StoredSession>, payload: &str) -> Enqueued {
        self.publish(publish_to(&[session], &message("t", payload))).targets[0]
    }

    pub(crate) fn receive(&self, fence: &Fence, id: u16) -> Result<Published, StoreError> {
        let origin = Some(Origin { fence: fence.clone(), packet_id: packet_id(id) });
        let publish = Publish { message: message("t", "2"), origin, identity: None, targets: Vec::new() };
        wait(|done| self.0.publish(publish, done))
    }

    pub(crate) fn read(&self, fence: &Fence, from: u64, max: usize) -> Result<QueuePage, StoreError> {
        wait(|done| self.0.read_queue(fence, Number(from), max, usize::MAX, done))
    }

    /// All records from a number on: its number, and the payload, or `None` for a PUBREL.
    pub(crate) fn queue(&self, fence: &Fence) -> Vec<(u64, Option<String>)> {
        let mut records = Vec::new();
        let mut from = 1;
        loop {
            let page = self.read(fence, from, 7).expect("a page");
            if page.records.is_empty() {
                return records;
            }
            for queued in page.records {
                let payload = match queued.record {
                    Record::Message(delivery) => {
                        Some(String::from_utf8_lossy(delivery.message.payload_slice()).into_owned())
                    }
                    Record::Released => None,
                };
                records.push((queued.number.0, payload));
            }
            from = page.next.0;
        }
    }

    pub(crate) fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        wait(|done| self.0.confirm(fence, done))
    }

    pub(crate) fn acknowledge(&self, fence: &Fence, number: u64) -> Result<(), StoreError> {
        wait(|done| self.0.acknowledge(fence, Number(number), done))
    }

    pub(crate) fn mark_released(&self, fence: &Fence, number: u64) -> Result<(), StoreError> {
        wait(|done| self.0.mark_released(fence, Number(number), done))
    }

    pub(crate) fn forget_received(&self, fence: &Fence, id: u16) -> Result<(), StoreError> {
        wait(|done| self.0.forget_received(fence, packet_id(id), done))
    }

    pub(crate) fn subscribe(&self, fence: &Fence, filters: &[&str]) -> Result<Vec<bool>, StoreError> {
        let wanted = filters.iter().map(|filter| subscription(filter, QoS::AtLeastOnce)).collect();
        wait(|done| self.0.subscribe(fence, wanted, done))
    }

    pub(crate) fn unsubscribe(&self, fence: &Fence, filters: &[&str]) -> Result<Vec<bool>, StoreError> {
        let filters = filters.iter().map(|filter| Arc::from(*filter)).collect();
        wait(|done| self.0.unsubscribe(fence, filters, done))
    }

    /// Ends a session with everything that it has.
    pub(crate) fn discard(&self, client_id: &str) -> Claimed {
        self.discard_as("", client_id)
    }

    pub(crate) fn discard_as(&self, name: &str, client_id: &str) -> Claimed {
        let principal = principal(name);
        let claim = Claim { principal, clean_start: true, create: false, ..claim(client_id) };
        self.claim(claim).expect("a discard")
    }

    pub(crate) fn drop_will(&self, fence: &Fence) -> Result<(), StoreError> {
        wait(|done| self.0.drop_will(fence, done))
    }

    pub(crate) fn due(&self, now: UnixMs) -> Vec<String> {
        let due = wait(|done| self.0.claim_due(now, 100, done)).expect("what is due");
        due.iter()
            .map(|due| match due {
                Due::Will(will) => format!("will {} {}", will.session.client_id, will.message.topic()),
                Due::Expired(session) => format!("expired {}", session.client_id),
                Due::Left(left) => format!("left {} {}", left.session.client_id, left.share),
            })
            .collect()
    }

    pub(crate) fn retain(&self, topic: &str, payload: &str) -> Result<(), StoreError> {
        wait(|done| self.0.retain(message(topic, payload), done))
    }

    /// The same for a principal that may have so many.
    pub(crate) fn retain_as(
        &self,
        name: &str,
        messages_max: u64,
        topic: &str,
        payload: &str,
    ) -> Result<(), StoreError> {
        wait(|done| self.0.retain(owned(name, messages_max, topic, payload), done))
    }

    /// The topics of all retained messages that match, in pages of `page`.
    pub(crate) fn retained(&self, filter: &str, page: usize, now: UnixMs) -> Vec<String> {
        let mut topics = Vec::new();
        let mut cursor: Option<Cursor> = None;
        loop {
            let found =
                wait(|done| self.0.retained(filter, cursor.clone(), page, now, done)).expect("a page");
            assert!(found.messages.len() <= page);
            topics.extend(found.messages.iter().map(|message| message.topic().to_owned()));
            cursor = found.next;
            if cursor.is_none() {
                return topics;
            }
        }
    }

    /// All routes, in pages of `page`: client and filters.
    pub(crate) fn routes(&self, page: usize) -> Vec<(String, Vec<String>)> {
        let mut routes = Vec::new();
        let mut cursor: Option<Cursor> = None;
        loop {
            let found = wait(|done| self.0.routes(cursor.clone(), page, done)).expect("a page");
            for SessionRoutes { session, subscriptions, .. } in found.sessions {
                let filters = subscriptions.iter().map(|wanted| wanted.filter.to_string()).collect();
                routes.push((session.client_id.to_string(), filters));
            }
            cursor = found.next;
            if cursor.is_none() {
                return routes;
            }
        }
    }
}
