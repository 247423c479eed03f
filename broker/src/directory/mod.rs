//! What a worker knows of sessions: which there are, by whom they are had, to which filters they and other workers are
//! subscribed, and so to what this worker listens. Nothing of a store is in here, and no message. Start reading at
//! [`Directory`]; which lock is taken before which is in ARCHITECTURE, *Locks*.

mod index;
mod listening;
mod session_handle;
mod sessions;
pub(crate) mod succession;
mod sweep;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use link::ConnectionId;
use mqtt::ReasonCode;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use state::{Listener, Principal, RouteChange, StoredSession, Subscription, SubscriptionOptions, WorkerId};

pub(crate) use self::index::{Group, Index, Matches, OtherWorker, Subscriber};
pub(crate) use self::listening::{Listened, RouteSink};
pub(crate) use self::session_handle::{
    Attachment, HEAVY_BYTES, Item, Posted, Readiness, SessionHandle, recycle, thin_out,
};

use self::listening::ListeningGuard;
use self::sessions::Sessions;
use self::sweep::Sweep;

/// The sessions and the subscriptions that one worker knows.
pub(crate) struct Directory {
    /// What this worker listens to, if others share its store.
    listened: Option<Arc<Listened>>,
    index: RwLock<Index>,
    sessions: Sessions,
    /// Stored sessions whose Client Identifier belongs to another session here; none while nobody shares the store.
    strays: Mutex<HashMap<Arc<StoredSession>, Arc<SessionHandle>>>,
    /// Held from the look for a session until one that was made has its place: made twice, it would get every message twice.
    /// Only the registry and the strays are locked meanwhile.
    naming: Mutex<()>,
    /// Other workers that listen to something.
    workers: Mutex<BTreeMap<WorkerId, WorkerRoutes>>,
    /// Sessions of which much waits.
    heavy: Mutex<Vec<Weak<SessionHandle>>>,
    /// Taken before the registry and the strays.
    sweep: Mutex<Sweep>,
    /// The number of the next session, or of the next other worker.
    next_id: AtomicU64,
}

/// What another worker listens to.
struct WorkerRoutes {
    /// As in [`OtherWorker`].
    id: u64,
    /// Those that stand in the index, one for each of what the worker gets of its filters.
    others: Vec<Arc<OtherWorker>>,
    filters: HashSet<Arc<str>, RandomState>,
}

/// How a connection comes to its session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrival {
    /// Who has come.
    pub principal: Principal,
    /// How often the route lease had lapsed when the store was asked for the session.
    pub lapses: u64,
    /// As in [`SessionHandle::listens_since`].
    pub listens_since: u64,
    /// As for [`SessionHandle::attach`].
    pub yields: bool,
}

/// A session is another principal's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign;

impl Directory {
    /// Knows nobody yet. Without `listened` no other worker shares the store.
    pub(crate) fn new(listened: Option<Arc<Listened>>) -> Self {
        Self {
            listened,
            index: RwLock::default(),
            sessions: Sessions::new(),
            strays: Mutex::default(),
            naming: Mutex::default(),
            workers: Mutex::default(),
            heavy: Mutex::default(),
            sweep: Mutex::default(),
            next_id: AtomicU64::new(1),
        }
    }

    /// The index, to be read; what changes it is in this file.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read()
    }

    /// The registry, by Client Identifier.
    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn listening(&self) -> Option<ListeningGuard<'_>> {
        self.listened.as_ref().map(|listened| listened.lock())
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// Which sessions there are.
impl Directory {
    /// A new session that nobody is connected to.
    pub(crate) fn make_session(
        &self,
        client_id: &Arc<str>,
        stored: Option<Arc<StoredSession>>,
    ) -> Arc<SessionHandle> {
        Arc::new(SessionHandle::new(self.next_id(), Arc::clone(client_id), stored))
    }

    /// The session as others see it, made if this worker does not know it. It has the Client Identifier from now on.
    pub(crate) fn stored_session(&self, stored: &Arc<StoredSession>) -> Arc<SessionHandle> {
        let (session, old) = self.name_stored(&self.naming.lock(), stored);
        if let Some(old) = old {
            self.displace(&old);
        }
        session
    }

    /// As [`Directory::stored_session`], for the connection that has claimed the session.
    ///
    /// # Errors
    /// Another principal is connected with the Client Identifier.
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
        naming: &MutexGuard<'_, ()>,
        stored: &Arc<StoredSession>,
    ) -> (Arc<SessionHandle>, Option<Arc<SessionHandle>>) {
        let known = self.sessions.find(&stored.client_id);
        if let Some(known) = known.filter(|known| known.stored.as_ref() == Some(stored)) {
            return (known, None);
        }
        let stray = self.strays.lock().remove(stored);
        let session = stray.unwrap_or_else(|| self.make_session(&stored.client_id, Some(Arc::clone(stored))));
        let old = self.name(naming, &session);
        (session, old)
    }

    /// A stored session that the log speaks of, made if this worker does not know it.
    pub(crate) fn routed_session(&self, stored: &Arc<StoredSession>) -> Arc<SessionHandle> {
        let _naming = self.naming.lock();
        if let Some(known) = self.find_stored(stored) {
            return known;
        }
        let session = self.make_session(&stored.client_id, Some(Arc::clone(stored)));
        if !self.sessions.insert_if_vacant(&session) {
            // Which of the two is the newer one, nobody knows: the other one keeps its connection.
            self.keep_stray(&session);
        }
        session
    }

    /// Gives a session its Client Identifier. Answers the one that had it, which is to be displaced.
    fn name(&self, _naming: &MutexGuard<'_, ()>, session: &Arc<SessionHandle>) -> Option<Arc<SessionHandle>> {
        let old = self.sessions.insert(session)?;
        // It may be the newer one of the two: the log says which of them is gone.
        self.keep_stray(&old);
        Some(old)
    }

    /// Gives a session in memory its Client Identifier. Answers the one that had it, which is to be displaced.
    ///
    /// # Errors
    /// Another principal is connected with the Client Identifier.
    pub(crate) fn name_in_memory(
        &self,
        session: &Arc<SessionHandle>,
        principal: &Principal,
    ) -> Result<Option<Arc<SessionHandle>>, Foreign> {
        let naming = self.naming.lock();
        self.check_principal(&session.client_id, principal)?;
        Ok(self.name(&naming, session))
    }

    /// Whether somebody else is connected with a Client Identifier. The store says that of its sessions, and shared with
    /// others it has them all; of those in memory, and of two that come at once, only the registry knows.
    ///
    /// # Errors
    /// Another principal is.
    pub(crate) fn check_principal(&self, client_id: &str, principal: &Principal) -> Result<(), Foreign> {
        if self.listened.is_some() {
            return Ok(());
        }
        match self.sessions.find(client_id) {
            Some(session) if session.is_foreign_to(principal) => Err(Foreign),
            _ => Ok(()),
        }
    }

    /// Ends a session whose Client Identifier another session has now.
    pub(crate) fn displace(&self, old: &Arc<SessionHandle>) {
        match &self.listened {
            Some(_) if old.stored.is_some() => self.evict(old),
            _ => self.forget(old),
        }
    }

    /// A session that is in the store, if this worker knows it.
    pub(crate) fn find_stored(&self, stored: &StoredSession) -> Option<Arc<SessionHandle>> {
        let known = self.sessions.find(&stored.client_id);
        known
            .filter(|known| known.stored.as_deref() == Some(stored))
            .or_else(|| self.strays.lock().get(stored).cloned())
    }

    /// Calls `visit` for every session in the store that this worker knows.
    pub(crate) fn for_each_stored(&self, mut visit: impl FnMut(&Arc<SessionHandle>)) {
        self.sessions.for_each(|session| {
            if session.stored.is_some() {
                visit(session);
            }
        });
        let strays: Vec<_> = self.strays.lock().values().cloned().collect();
        strays.iter().for_each(visit);
    }

    /// Remembers a session that has subscriptions, but no longer (or not yet) its Client Identifier.
    fn keep_stray(&self, session: &Arc<SessionHandle>) {
        if let Some(stored) = session.stored.as_ref().filter(|_| self.listened.is_some()) {
            self.strays.lock().insert(Arc::clone(stored), Arc::clone(session));
        }
    }

    /// Drops a session that has been discarded from the store, whoever is connected to it, and tells other workers.
    pub(crate) fn drop_stored(&self, stored: &StoredSession) {
        let had_routes = self.drop_routes(stored);
        if let Some(listened) = self.listened.as_ref().filter(|_| had_routes) {
            listened.tell(RouteChange::Gone(Arc::new(stored.clone())));
        }
    }

    /// Drops a session that is gone. Answers whether it had subscriptions.
    pub(crate) fn drop_routes(&self, stored: &StoredSession) -> bool {
        let Some(known) = self.find_stored(stored) else { return false };
        if !self.sessions.remove(&known) {
            self.strays.lock().remove(stored);
        }
        let had_routes = !known.filters().is_empty();
        self.forget(&known);
        had_routes
    }

    /// Drops a session whose queue was in memory, when its connection is over.
    pub(crate) fn drop_in_memory(&self, session: &SessionHandle) {
        self.sessions.remove(session);
        self.remove_filters(session);
    }

    /// Ends a session that is no longer in the registry: its connection is closed as taken over, its subscriptions go.
    fn forget(&self, session: &SessionHandle) {
        self.evict(session);
        self.remove_filters(session);
    }
}

/// Who has a session.
impl Directory {
    /// Makes `connection` the owner of a session.
    pub(crate) fn attach(
        &self,
        session: &SessionHandle,
        connection: ConnectionId,
        arrival: &Arrival,
    ) -> Attachment {
        let mut listening = self.listening();
        session.set_owned_since(arrival.lapses);
        session.set_listens_since(arrival.listens_since);
        let attachment = session.attach(connection, arrival.yields);
        if let Some(listening) = &mut listening
            && !session.set_listens(true)
        {
            listening.add_all(session, &self.index.read());
        }
        attachment
    }

    /// Ends an attachment, unless there is another by now. Answers what nobody has taken.
    pub(crate) fn detach(&self, session: &SessionHandle, attachment: Attachment) -> VecDeque<Item> {
        let mut listening = self.listening();
        let (was_owner, items) = session.detach(attachment);
        if was_owner {
            self.stop_listening(&mut listening, session);
        }
        items
    }

    /// Takes a session away from this connection, unless another has it by now. Whether it had it.
    pub(crate) fn evict_connection(&self, session: &SessionHandle, connection: ConnectionId) -> bool {
        self.evict_if(session, || session.is_owned_by(connection))
    }

    /// The same for one attachment: the connection may have come back since.
    pub(crate) fn evict_attached(&self, session: &SessionHandle, attachment: Attachment) -> bool {
        self.evict_if(session, || session.is_attached(attachment))
    }

    fn evict_if(&self, session: &SessionHandle, is_meant: impl FnOnce() -> bool) -> bool {
        // Attaching holds it too: nobody comes between the look and what follows.
        let mut listening = self.listening();
        if !is_meant() {
            return false;
        }
        session.evict();
        self.stop_listening(&mut listening, session);
        true
    }

    /// Takes a session away from whoever has it.
    pub(crate) fn evict(&self, session: &SessionHandle) {
        let mut listening = self.listening();
        session.evict();
        self.stop_listening(&mut listening, session);
    }

    fn stop_listening(&self, listening: &mut Option<ListeningGuard<'_>>, session: &SessionHandle) {
        if let Some(listening) = listening
            && session.set_listens(false)
        {
            listening.remove_all(session, &self.index.read());
        }
    }

    /// Asks all connections to end, for `reason`.
    pub(crate) fn end_all(&self, reason: ReasonCode) {
        self.sessions.for_each(|session| {
            session.end(reason);
        });
    }

    /// Lists a session of which much waits.
    pub(crate) fn list_heavy(&self, session: &Arc<SessionHandle>) {
        self.heavy.lock().push(Arc::downgrade(session));
    }

    /// The sessions of which much waits, each with its bytes. Others are listed no more.
    pub(crate) fn heavy_sessions(&self) -> Vec<(usize, Arc<SessionHandle>)> {
        let mut heavy = Vec::new();
        let mut seen = HashSet::new();
        self.heavy.lock().retain(|session| {
            let Some(session) = session.upgrade().filter(|session| seen.insert(session.id)) else {
                return false;
            };
            let bytes = session.unread_bytes();
            if bytes <= HEAVY_BYTES / 2 {
                session.set_light();
                return false;
            }
            heavy.push((bytes, session));
            true
        });
        heavy
    }

    /// Bytes that wait for devices of which much does.
    pub(crate) fn unread_bytes(&self) -> usize {
        self.heavy_sessions().iter().map(|(bytes, _)| bytes).sum()
    }
}

/// What sessions and other workers are subscribed to.
impl Directory {
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
        let mut listening = self.listening();
        let subscriber = Subscriber::Session(Arc::clone(session), subscription.options);
        let old = self.index.write().insert(&subscription.filter, subscriber);
        let old = old.and_then(|old| old.options());
        if old.is_none() {
            session.add_filter(Arc::clone(&subscription.filter));
        }
        if let Some(listening) = listening.as_mut().filter(|_| session.listens()) {
            listening.replace(session, &subscription.filter, old, Some(subscription.options));
        }
        old
    }

    /// How a session is subscribed to a filter, if it is.
    pub(crate) fn options(&self, session: &SessionHandle, filter: &str) -> Option<SubscriptionOptions> {
        self.index.read().options(filter, session.id)
    }

    /// Removes a subscription. Answers whether it was there.
    pub(crate) fn unsubscribe(&self, session: &SessionHandle, filter: &str) -> bool {
        let mut listening = self.listening();
        let old = self.index.write().remove(filter, session.id).and_then(|old| old.options());
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

    /// Takes all subscriptions of a session out of the index.
    fn remove_filters(&self, session: &SessionHandle) {
        let mut listening = self.listening();
        let filters = session.take_filters();
        if filters.is_empty() {
            return;
        }
        let listens = session.listens();
        let mut index = self.index.write();
        for filter in filters {
            let old = index.remove(&filter, session.id).and_then(|old| old.options());
            if let Some(listening) = listening.as_mut().filter(|_| listens) {
                listening.replace(session, &filter, old, None);
            }
        }
    }

    /// Notes that another worker listens to a filter.
    pub(crate) fn worker_listens(&self, listener: &Listener) {
        let Listener { worker, filter, wants } = listener;
        let (worker, wants) = (*worker, *wants);
        let other = {
            let mut workers = self.workers.lock();
            let none =
                || WorkerRoutes { id: self.next_id(), others: Vec::new(), filters: HashSet::default() };
            let routes = workers.entry(worker).or_insert_with(none);
            routes.filters.insert(Arc::clone(filter));
            let same = routes.others.iter().find(|other| other.wants == wants).cloned();
            same.unwrap_or_else(|| {
                let is_silent = AtomicBool::new(false);
                let other = Arc::new(OtherWorker { id: routes.id, worker, wants, is_silent });
                routes.others.push(Arc::clone(&other));
                other
            })
        };
        self.index.write().insert(filter, Subscriber::Worker(other));
    }

    /// Notes that another worker does not listen to a filter any more.
    pub(crate) fn worker_is_deaf(&self, worker: WorkerId, filter: &str) {
        let id = {
            let mut workers = self.workers.lock();
            let Some(routes) = workers.get_mut(&worker) else { return };
            routes.filters.remove(filter);
            routes.id
        };
        self.index.write().remove(filter, id);
    }

    /// Notes which other workers are silent.
    pub(crate) fn note_silent(&self, is_silent: impl Fn(WorkerId) -> bool) {
        for (worker, routes) in self.workers.lock().iter() {
            let is_silent = is_silent(*worker);
            routes.others.iter().for_each(|other| other.is_silent.store(is_silent, Ordering::Relaxed));
        }
    }

    /// Forgets a worker that is gone, with all that it listened to.
    pub(crate) fn forget_worker(&self, worker: WorkerId) {
        if let Some(routes) = self.workers.lock().remove(&worker) {
            self.remove_routes(routes.id, routes.filters);
        }
    }

    /// Forgets what all other workers listen to, since it is read anew.
    pub(crate) fn forget_workers(&self) {
        let mut workers = self.workers.lock();
        for routes in workers.values_mut() {
            self.remove_routes(routes.id, std::mem::take(&mut routes.filters));
        }
    }

    fn remove_routes(&self, worker: u64, filters: impl IntoIterator<Item = Arc<str>>) {
        let mut index = self.index.write();
        for filter in filters {
            index.remove(&filter, worker);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    struct Nobody;

    impl RouteSink for Nobody {
        fn note(&self, _changes: Vec<RouteChange>) {}
        fn write(self: Arc<Self>) {}
    }

    /// That of a worker which shares its store with others.
    pub(crate) fn shared() -> Directory {
        Directory::new(Some(Arc::new(Listened::new(WorkerId(1), Arc::new(Nobody)))))
    }

    // The log may speak of a session while a connection here gets it.
    #[test]
    fn a_session_is_made_once_whoever_speaks_of_it_first() {
        let directory = shared();
        for is_claimed in [false, true] {
            let name = if is_claimed { "claimed" } else { "routed" };
            let stored = Arc::new(StoredSession { client_id: name.into(), incarnation: 1 });
            let (told, heard) = mpsc::channel();
            let naming = directory.naming.lock();
            std::thread::scope(|scope| {
                let asked = Arc::clone(&stored);
                let directory = &directory;
                scope.spawn(move || {
                    told.send(match is_claimed {
                        true => directory.stored_session(&asked),
                        false => directory.routed_session(&asked),
                    })
                });
                assert!(
                    heard.recv_timeout(Duration::from_millis(50)).is_err(),
                    "{name}: not while another is made"
                );
                let made = directory.make_session(&stored.client_id, Some(Arc::clone(&stored)));
                directory.name(&naming, &made);
                drop(naming);
                assert_eq!(heard.recv().map(|session| session.id), Ok(made.id), "{name}");
            });
        }
    }
}
