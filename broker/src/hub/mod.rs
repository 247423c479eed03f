//! What all sessions of a worker share: the index, the registry, the store, the counters.

pub(crate) mod call;
pub(crate) mod gauges;
pub(crate) mod held;
pub(crate) mod housekeeping;
mod relief;
pub(crate) mod sys;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use link::ConnectionId;
use mqtt::ReasonCode;
use parking_lot::{Mutex, MutexGuard, RwLock};
use state::{
    Message, Principal, RouteChange, Store, StoredSession, Subscription, SubscriptionOptions, UnixMs,
};

use crate::authorize::authorizer::Authorizer;
use crate::authorize::principal::Rules;
use crate::clock::{Clock, TimeSource};
use crate::cluster::Cluster;
use crate::config::BrokerConfig;
use crate::directory::index::{Entry, Index};
use crate::directory::session_handle::{Item, SessionHandle};
use crate::directory::sessions::Sessions;
use crate::hub::held::Held;
use crate::metrics::Metrics;

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
    /// Wills that are being published, by their session and number.
    pub wills: Mutex<HashSet<(Arc<StoredSession>, u64)>>,
    pub clock: Clock,
    /// Set when other workers share the store.
    pub cluster: Option<Arc<Cluster>>,
    /// The rules in force, where this process knows them without a passport.
    pub rules: Option<Rules>,
    /// Who is asked about single actions.
    pub authorizer: OnceLock<Arc<dyn Authorizer>>,
    /// Sessions of which much waits.
    pub heavy: Mutex<Vec<Weak<SessionHandle>>>,
    /// The process has more memory than it may have.
    pub is_short_of_memory: AtomicBool,
    /// When it was said last that a message is not retained, by the clock of the hub.
    pub told_not_retained: AtomicU64,
    /// Held from the look for a session until one that was made has its place: made twice, it would get every message twice.
    /// Only the registry and the strays are locked meanwhile.
    naming: Mutex<()>,
    next_session: AtomicU64,
}

/// How a connection comes to its session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrival {
    /// Who has come.
    pub principal: Principal,
    /// What [`Hub::lapses`] was when the store was asked for it.
    pub lapses: u64,
    /// It was at another worker before.
    pub moves: bool,
    /// As for [`SessionHandle::attach`].
    pub yields: bool,
}

/// A session is another principal's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign;

impl Hub {
    pub(crate) fn new(
        config: BrokerConfig,
        store: Arc<dyn Store>,
        metrics: Metrics,
        cluster: Option<Arc<Cluster>>,
        time: TimeSource,
    ) -> Self {
        Self {
            config: Arc::new(config),
            store,
            index: RwLock::default(),
            sessions: Sessions::new(),
            metrics,
            sys: RwLock::default(),
            held: Mutex::default(),
            wills: Mutex::default(),
            clock: Clock::new(time),
            cluster,
            rules: None,
            authorizer: OnceLock::new(),
            heavy: Mutex::default(),
            is_short_of_memory: AtomicBool::new(false),
            told_not_retained: AtomicU64::new(0),
            naming: Mutex::default(),
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

    /// The session as others see it, made if this worker does not know it. It has the Client Identifier from now on.
    pub(crate) fn stored_session(&self, stored: &Arc<StoredSession>) -> Arc<SessionHandle> {
        let (session, old) = self.name_stored(&self.naming.lock(), stored);
        if let Some(old) = old {
            self.displace(&old);
        }
        session
    }

    /// The same for who has claimed it.
    ///
    /// # Errors
    /// Another principal is connected with its Client Identifier.
    pub(crate) fn claimed_session(
        &self,
        stored: &Arc<StoredSession>,
        principal: &Principal,
    ) -> Result<Arc<SessionHandle>, Foreign> {
        let (session, old) = {
            let naming = self.naming.lock();
            self.check_principal(&stored.client_id, principal)?;
            let named = self.name_stored(&naming, stored);
            named.0.belongs_to(principal);
            named
        };
        if let Some(old) = old {
            self.displace(&old);
        }
        Ok(session)
    }

    /// Answers the session that had the Client Identifier, too, which is to be displaced.
    fn name_stored(
        &self,
        _naming: &MutexGuard<'_, ()>,
        stored: &Arc<StoredSession>,
    ) -> (Arc<SessionHandle>, Option<Arc<SessionHandle>>) {
        let known = self.sessions.find(&stored.client_id);
        if let Some(known) = known.filter(|known| known.stored.as_ref() == Some(stored)) {
            return (known, None);
        }
        let stray = self.cluster.as_ref().and_then(|cluster| cluster.take_stray(stored));
        let session = stray.unwrap_or_else(|| self.make_session(&stored.client_id, Some(Arc::clone(stored))));
        let old = self.name(&session);
        (session, old)
    }

    /// A stored session that the log speaks of, made if this worker does not know it.
    pub(crate) fn routed_session(
        &self,
        cluster: &Cluster,
        stored: &Arc<StoredSession>,
    ) -> Arc<SessionHandle> {
        let _naming = self.naming.lock();
        if let Some(known) = self.find_stored(stored) {
            return known;
        }
        let session = self.make_session(&stored.client_id, Some(Arc::clone(stored)));
        if !self.sessions.insert_if_vacant(&session) {
            // Which of the two is the newer one, nobody knows: the other one keeps its connection.
            cluster.keep_stray(&session);
        }
        session
    }

    /// Gives a session its Client Identifier. Answers the one that had it, which is to be displaced.
    fn name(&self, session: &Arc<SessionHandle>) -> Option<Arc<SessionHandle>> {
        let old = self.sessions.insert(session)?;
        if let Some(cluster) = &self.cluster {
            // It may be the newer one of the two: the log says which of them is gone.
            cluster.keep_stray(&old);
        }
        Some(old)
    }

    /// As [`Hub::stored_session`] for a session in memory.
    ///
    /// # Errors
    /// Another principal is connected with its Client Identifier.
    pub(crate) fn name_in_memory(
        &self,
        session: &Arc<SessionHandle>,
        principal: &Principal,
    ) -> Result<Option<Arc<SessionHandle>>, Foreign> {
        let _naming = self.naming.lock();
        self.check_principal(&session.client_id, principal)?;
        Ok(self.name(session))
    }

    /// Whether somebody else is connected with a Client Identifier. The store says that of its sessions, and shared with
    /// others it has them all; of those in memory, and of two that come at once, only the registry knows.
    ///
    /// # Errors
    /// Another principal is.
    pub(crate) fn check_principal(&self, client_id: &str, principal: &Principal) -> Result<(), Foreign> {
        if self.cluster.is_some() {
            return Ok(());
        }
        match self.sessions.find(client_id) {
            Some(session) if session.is_foreign_to(principal) => Err(Foreign),
            _ => Ok(()),
        }
    }

    /// Another session has the Client Identifier now.
    pub(crate) fn displace(&self, old: &Arc<SessionHandle>) {
        match &self.cluster {
            Some(_) if old.stored.is_some() => self.evict(old),
            _ => self.forget(old),
        }
    }

    /// How often the route lease has lapsed: after each time a session may be another worker's.
    pub(crate) fn lapses(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.lease.lapses())
    }

    /// Makes `connection` the owner of a session.
    pub(crate) fn attach(&self, session: &SessionHandle, connection: ConnectionId, arrival: &Arrival) {
        let Some(cluster) = &self.cluster else {
            return session.attach(connection, arrival.yields);
        };
        let mut listening = cluster.listening();
        session.set_owned_since(arrival.lapses);
        session.set_listens_since(cluster.begin_to_listen(arrival.moves));
        session.attach(connection, arrival.yields);
        if !session.set_listens(true) {
            listening.add_all(session, &self.index.read());
        }
    }

    /// Ends the ownership of `connection`, unless somebody else has the session by now. Answers what nobody has taken.
    pub(crate) fn detach(&self, session: &SessionHandle, connection: ConnectionId) -> VecDeque<Item> {
        let Some(cluster) = &self.cluster else { return session.detach(connection).1 };
        let mut listening = cluster.listening();
        let (was_owner, items) = session.detach(connection);
        if was_owner && session.set_listens(false) {
            listening.remove_all(session, &self.index.read());
        }
        items
    }

    /// Takes a session away from this connection, unless another has it by now, or the same one came back to it since it had
    /// it with `epoch`. Whether it had it.
    pub(crate) fn evict_connection(
        &self,
        session: &SessionHandle,
        connection: ConnectionId,
        epoch: Option<u64>,
    ) -> bool {
        // Attaching holds it too: nobody comes between the look and what follows.
        let mut listening = self.cluster.as_ref().map(|cluster| cluster.listening());
        let came_back = epoch.is_some_and(|epoch| session.came_back_since(epoch));
        if came_back || !session.is_owned_by(connection) {
            return false;
        }
        session.evict();
        if let Some(listening) = &mut listening
            && session.set_listens(false)
        {
            listening.remove_all(session, &self.index.read());
        }
        true
    }

    /// Takes a session away from whoever has it.
    pub(crate) fn evict(&self, session: &SessionHandle) {
        let Some(cluster) = &self.cluster else { return session.evict() };
        let mut listening = cluster.listening();
        session.evict();
        if session.set_listens(false) {
            listening.remove_all(session, &self.index.read());
        }
    }

    /// Adds or replaces a subscription. Answers whether it was there.
    pub(crate) fn subscribe(&self, session: &Arc<SessionHandle>, subscription: &Subscription) -> bool {
        self.put_route(session, subscription).is_some()
    }

    /// Adds or replaces a subscription. Answers the one that was there.
    pub(crate) fn put_route(
        &self,
        session: &Arc<SessionHandle>,
        subscription: &Subscription,
    ) -> Option<SubscriptionOptions> {
        let mut listening = self.cluster.as_ref().map(|cluster| cluster.listening());
        let entry = Entry { session: Arc::clone(session), options: subscription.options };
        let old = self.index.write().insert(&subscription.filter, entry);
        if old.is_none() {
            session.add_filter(Arc::clone(&subscription.filter));
        }
        if let Some(listening) = listening.as_mut().filter(|_| session.listens()) {
            listening.replace(session, &subscription.filter, old, Some(subscription.options));
        }
        old
    }

    /// Removes a subscription. Answers whether it was there.
    pub(crate) fn unsubscribe(&self, session: &SessionHandle, filter: &str) -> bool {
        let mut listening = self.cluster.as_ref().map(|cluster| cluster.listening());
        let old = self.index.write().remove(filter, session.id);
        if old.is_some() {
            session.remove_filter(filter);
        }
        if let Some(listening) = listening.as_mut().filter(|_| session.listens()) {
            listening.replace(session, filter, old, None);
        }
        old.is_some()
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

    /// Drops a session that has been discarded from the store, whoever is connected to it, and tells other workers.
    pub(crate) fn drop_stored(&self, stored: &StoredSession) {
        let had_routes = self.drop_routes(stored);
        if let Some(cluster) = self.cluster.as_ref().filter(|_| had_routes) {
            cluster.append(vec![RouteChange::Gone(Arc::new(stored.clone()))], None);
        }
    }

    /// Drops a session that is gone. Answers whether it had subscriptions.
    pub(crate) fn drop_routes(&self, stored: &StoredSession) -> bool {
        let Some(known) = self.find_stored(stored) else { return false };
        if !self.sessions.remove(&known)
            && let Some(cluster) = &self.cluster
        {
            cluster.take_stray(stored);
        }
        let had_routes = !known.filters().is_empty();
        self.forget(&known);
        had_routes
    }

    /// A session that is in the store, if this worker knows it.
    pub(crate) fn find_stored(&self, stored: &StoredSession) -> Option<Arc<SessionHandle>> {
        let known = self.sessions.find(&stored.client_id);
        known
            .filter(|known| known.stored.as_deref() == Some(stored))
            .or_else(|| self.cluster.as_ref().and_then(|cluster| cluster.find_stray(stored)))
    }

    /// Ends a session that is no longer in the registry: its connection is closed as taken over, its subscriptions go.
    pub(crate) fn forget(&self, session: &SessionHandle) {
        self.evict(session);
        self.remove_filters(session);
    }

    /// Takes all subscriptions of a session out of the index.
    pub(crate) fn remove_filters(&self, session: &SessionHandle) {
        let mut listening = self.cluster.as_ref().map(|cluster| cluster.listening());
        let filters = session.take_filters();
        if filters.is_empty() {
            return;
        }
        let listens = session.listens();
        let mut index = self.index.write();
        for filter in filters {
            let old = index.remove(&filter, session.id);
            if let Some(listening) = listening.as_mut().filter(|_| listens) {
                listening.replace(session, &filter, old, None);
            }
        }
    }

    /// Asks all connections to end, for `reason`.
    pub(crate) fn end_all(&self, reason: ReasonCode) {
        self.sessions.for_each(|session| session.end(reason));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use prometheus_client::registry::Registry;
    use state::MemoryCluster;

    use super::*;
    use crate::cluster::ClusterSettings;

    // The log may speak of a session while a connection here gets it.
    #[test]
    fn a_session_is_made_once_whoever_speaks_of_it_first() {
        let api = MemoryCluster::new().worker("one");
        let store = Arc::new(api.store());
        let mut registry = Registry::default();
        let cluster = Arc::new(Cluster::new(api, ClusterSettings::default(), &mut registry));
        let metrics = Metrics::register(&mut registry);
        let hub = Hub::new(
            BrokerConfig::default(),
            store,
            metrics,
            Some(Arc::clone(&cluster)),
            state::clock::running_from(state::clock::wall()),
        );
        for is_claimed in [false, true] {
            let name = if is_claimed { "claimed" } else { "routed" };
            let stored = Arc::new(StoredSession { client_id: name.into(), incarnation: 1 });
            let (told, heard) = mpsc::channel();
            let naming = hub.naming.lock();
            std::thread::scope(|scope| {
                let asked = Arc::clone(&stored);
                let (hub, cluster) = (&hub, &cluster);
                scope.spawn(move || {
                    told.send(match is_claimed {
                        true => hub.stored_session(&asked),
                        false => hub.routed_session(cluster, &asked),
                    })
                });
                assert!(
                    heard.recv_timeout(Duration::from_millis(50)).is_err(),
                    "{name}: not while another is made"
                );
                let made = hub.make_session(&stored.client_id, Some(Arc::clone(&stored)));
                hub.name(&made);
                drop(naming);
                assert_eq!(heard.recv().map(|session| session.id), Ok(made.id), "{name}");
            });
        }
    }
}
