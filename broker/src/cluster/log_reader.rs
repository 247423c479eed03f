//! The log of routes as it comes in: the index follows it, and follows nothing else as far as other workers' sessions are
//! concerned. What a connection here changes is in the index before it is in the log.

use std::collections::HashSet;
use std::sync::Arc;

use state::{LogPage, Placed, Position, RouteChange, StoreError, Subscription};
use tokio::time::sleep;

use crate::directory::{Directory, SessionHandle};

use super::Cluster;
use super::ask::{RETRY_AFTER, WAIT_MS, ask};

/// Sessions and filters read from the store at once.
const ROUTE_PAGE_SESSIONS: usize = 1000;
const LISTENING_PAGE: usize = 1000;

/// Follows the log until it is dropped. What is known was loaded already.
pub(super) async fn follow(cluster: Arc<Cluster>) {
    let mut joined = cluster.joined();
    loop {
        if cluster.joined() != joined {
            joined = cluster.joined();
            reload(&cluster).await;
        }
        let after = cluster.lease.applied();
        match ask(|done| cluster.api.read_log(after, WAIT_MS, done)).await {
            Ok(LogPage { has_gap: true, .. }) => reload(&cluster).await,
            Ok(page) => apply_page(&cluster, page.changes),
            Err(_) => sleep(RETRY_AFTER).await,
        }
        tokio::task::yield_now().await;
    }
}

fn apply_page(cluster: &Arc<Cluster>, changes: Vec<Placed<RouteChange>>) {
    let Some(end) = changes.last().map(|last| last.position) else { return };
    let mut is_waited_for = false;
    for Placed { position, what } in changes {
        is_waited_for |= cluster.apply_change(position, what);
    }
    cluster.lease.set_applied(end);
    if is_waited_for {
        cluster.renew_soon.notify_one();
    }
}

/// Reads all routes anew, because the log lacks something. Meanwhile nothing is matched.
async fn reload(cluster: &Arc<Cluster>) {
    cluster.metrics.route_reloads.inc();
    cluster.lease.begin_loading();
    cluster.forget_passed();
    // The log is followed from here on, so what it says later is not missed.
    while let Err(error) = load_from_end(cluster).await {
        tracing::warn!(%error, "the routes could not be loaded");
        sleep(RETRY_AFTER).await;
    }
    cluster.lease.end_loading();
    cluster.renew_soon.notify_one();
    cluster.listened.lock().say_again();
}

async fn load_from_end(cluster: &Arc<Cluster>) -> Result<(), StoreError> {
    let lease_ms = u64::from(cluster.settings.lease_ms);
    let lease = ask(|done| cluster.api.renew(None, lease_ms, done)).await?;
    cluster.lease.set_applied(lease.log_end);
    load(cluster).await
}

/// Loads the routes of all sessions and of all workers, and drops those that are there no more.
pub(super) async fn load(cluster: &Arc<Cluster>) -> Result<(), StoreError> {
    let mut stale = Stale::of(&cluster.directory);
    let mut cursor = None;
    loop {
        let page = ask(|done| cluster.host.store.routes(cursor.take(), ROUTE_PAGE_SESSIONS, done)).await?;
        for routes in page.sessions {
            let session = cluster.directory.routed_session(&routes.session);
            if session.admits_change(routes.epoch) {
                cluster.put_routes(&session, &routes.subscriptions);
            }
            stale.forget(&session, &routes.subscriptions);
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    stale.drop_from(&cluster.directory);
    cluster.directory.forget_workers();
    loop {
        let page = ask(|done| cluster.api.listening(cursor.take(), LISTENING_PAGE, done)).await?;
        for listener in page.listeners {
            if listener.worker != cluster.id {
                cluster.peer_listens(&listener);
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

/// What this worker has of sessions that are connected elsewhere or not at all, until the store has said it too.
struct Stale {
    known: Vec<Arc<SessionHandle>>,
    routes: HashSet<(u64, Arc<str>)>,
}

impl Stale {
    fn of(directory: &Directory) -> Self {
        let mut known = Vec::new();
        directory.for_each_stored(|session| {
            if !session.is_connected() {
                known.push(Arc::clone(session));
            }
        });
        let mut routes = HashSet::new();
        for session in &known {
            routes.extend(session.filters().into_iter().map(|filter| (session.id, filter)));
        }
        Self { known, routes }
    }

    fn forget(&mut self, session: &SessionHandle, subscriptions: &[Subscription]) {
        if self.routes.is_empty() {
            return;
        }
        for subscription in subscriptions {
            self.routes.remove(&(session.id, Arc::clone(&subscription.filter)));
        }
    }

    fn drop_from(self, directory: &Directory) {
        for session in self.known.iter().filter(|session| !session.is_connected()) {
            for filter in session.filters() {
                if self.routes.contains(&(session.id, Arc::clone(&filter))) {
                    directory.unsubscribe(session, &filter);
                }
            }
        }
    }
}

impl Cluster {
    /// Does what one entry of the log says. Answers whether somebody may wait for that.
    fn apply_change(self: &Arc<Self>, position: Position, change: RouteChange) -> bool {
        match change {
            RouteChange::Subscribed { session: stored, epoch, subscriptions } => {
                let session = self.directory.routed_session(&stored);
                session.set_away(false);
                let is_news = session.admits_change(epoch);
                if is_news {
                    self.put_routes(&session, &subscriptions);
                    let filters = subscriptions.iter().map(|subscription| &*subscription.filter);
                    session.note_logged(filters, position);
                }
                return is_news;
            }
            RouteChange::Unsubscribed { session: stored, epoch, filters } => {
                let Some(session) = self.directory.find_stored(&stored) else { return true };
                let is_news = session.admits_change(epoch);
                if is_news {
                    for filter in &filters {
                        self.directory.unsubscribe(&session, filter);
                    }
                }
                return is_news;
            }
            RouteChange::Gone(stored) => {
                self.directory.drop_routes(&stored);
            }
            RouteChange::Listening(listener) if listener.worker != self.id => {
                self.peer_listens(&listener);
                return true;
            }
            RouteChange::Deaf { worker, filter } if worker != self.id => {
                self.directory.worker_is_deaf(worker, &filter);
            }
            RouteChange::Left(worker) if worker != self.id => self.peer_left(worker),
            RouteChange::Listening(_) | RouteChange::Deaf { .. } | RouteChange::Left(_) => {}
        }
        false
    }

    fn put_routes(&self, session: &Arc<SessionHandle>, subscriptions: &[Subscription]) {
        for subscription in subscriptions {
            self.directory.put_route(session, subscription);
        }
    }
}
