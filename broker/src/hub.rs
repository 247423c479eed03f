//! What all sessions of a worker share: the index, the registry, the store, the counters.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mqtt::ReasonCode;
use parking_lot::{Mutex, RwLock};
use state::{Message, Store, StoredSession, Subscription, UnixMs};

use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::held::Held;
use crate::index::{Entry, Index};
use crate::metrics::Metrics;
use crate::session_handle::SessionHandle;
use crate::sessions::Sessions;

/// One worker's shared state.
pub(crate) struct Hub {
    pub config: Arc<BrokerConfig>,
    pub store: Arc<dyn Store>,
    pub index: RwLock<Index>,
    pub sessions: Sessions,
    pub metrics: Metrics,
    /// `$SYS` messages by topic: retained, but only in memory.
    pub sys: RwLock<HashMap<Arc<str>, Arc<Message>>>,
    /// Publishes that the store could not take, in order, to be tried again.
    pub held: Mutex<Held>,
    pub clock: Clock,
    next_session: AtomicU64,
}

impl Hub {
    pub(crate) fn new(config: BrokerConfig, store: Arc<dyn Store>, metrics: Metrics) -> Self {
        Self {
            config: Arc::new(config),
            store,
            index: RwLock::default(),
            sessions: Sessions::new(),
            metrics,
            sys: RwLock::default(),
            held: Mutex::default(),
            clock: Clock::new(),
            next_session: AtomicU64::new(1),
        }
    }

    /// The time of this turn.
    pub(crate) fn now(&self) -> UnixMs {
        self.clock.now()
    }

    /// A new session that nobody is connected to.
    pub(crate) fn make_session(
        &self,
        client_id: &Arc<str>,
        stored: Option<Arc<StoredSession>>,
    ) -> Arc<SessionHandle> {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        Arc::new(SessionHandle::new(id, Arc::clone(client_id), stored))
    }

    /// The session as others see it, made if this worker does not know it.
    pub(crate) fn stored_session(&self, stored: &Arc<StoredSession>) -> Arc<SessionHandle> {
        let known = self.sessions.find(&stored.client_id);
        if let Some(known) = known.filter(|known| known.stored.as_ref() == Some(stored)) {
            return known;
        }
        let session = self.make_session(&stored.client_id, Some(Arc::clone(stored)));
        if let Some(old) = self.sessions.insert(&session) {
            self.forget(&old);
        }
        session
    }

    /// Adds or replaces a subscription. Answers whether it was there.
    pub(crate) fn subscribe(&self, session: &Arc<SessionHandle>, subscription: &Subscription) -> bool {
        let entry = Entry { session: Arc::clone(session), options: subscription.options };
        let existed = self.index.write().insert(&subscription.filter, entry);
        if !existed {
            session.add_filter(Arc::clone(&subscription.filter));
        }
        existed
    }

    /// Removes a subscription. Answers whether it was there.
    pub(crate) fn unsubscribe(&self, session: &SessionHandle, filter: &str) -> bool {
        let existed = self.index.write().remove(filter, session.id);
        if existed {
            session.remove_filter(filter);
        }
        existed
    }

    /// Sees that the index has the subscriptions of a stored session and no others.
    pub(crate) fn restore_filters(&self, session: &Arc<SessionHandle>, subscriptions: &[Subscription]) {
        let mut stale = session.filters();
        let wanted: HashSet<&str> = subscriptions.iter().map(|wanted| &*wanted.filter).collect();
        stale.retain(|filter| !wanted.contains(&**filter));
        for filter in &stale {
            self.unsubscribe(session, filter);
        }
        let is_known = {
            let index = self.index.read();
            subscriptions
                .iter()
                .all(|wanted| index.options(&wanted.filter, session.id) == Some(wanted.options))
        };
        if !is_known {
            for subscription in subscriptions {
                self.subscribe(session, subscription);
            }
        }
    }

    /// Drops a session that has been discarded from the store, whoever is connected to it.
    pub(crate) fn drop_stored(&self, stored: &StoredSession) {
        let known = self.sessions.find(&stored.client_id);
        if let Some(known) = known.filter(|known| known.stored.as_deref() == Some(stored)) {
            self.sessions.remove(&known);
            self.forget(&known);
        }
    }

    /// Ends a session that is no longer in the registry: its connection is closed as taken over, its subscriptions go.
    pub(crate) fn forget(&self, session: &SessionHandle) {
        session.evict();
        self.remove_filters(session);
    }

    /// Takes all subscriptions of a session out of the index.
    pub(crate) fn remove_filters(&self, session: &SessionHandle) {
        let filters = session.take_filters();
        if filters.is_empty() {
            return;
        }
        let mut index = self.index.write();
        for filter in filters {
            index.remove(&filter, session.id);
        }
    }

    /// Asks all connections to end, for `reason`.
    pub(crate) fn end_all(&self, reason: ReasonCode) {
        self.sessions.for_each(|session| session.end(reason));
    }
}
