//! The log of routes as it comes in: the index follows it, and follows nothing else as far as other workers' sessions are
//! concerned. What a connection here changes is in the index before it is in the log.

use std::collections::HashSet;
use std::sync::Arc;

use state::{LogPage, Placed, Position, RouteChange, StoreError, Subscription};
use tokio::time::sleep;

use crate::directory::session_handle::SessionHandle;
use crate::hub::Hub;

use super::Cluster;
use super::membership::{RETRY_AFTER, WAIT_MS, ask};

/// Sessions and filters read from the store at once.
const ROUTE_PAGE_SESSIONS: usize = 1000;
const LISTENING_PAGE: usize = 1000;

/// Follows the log until it is dropped. What is known was loaded already.
pub(super) async fn follow(hub: Arc<Hub>, cluster: Arc<Cluster>) {
    let mut joined = cluster.joined();
    loop {
        if cluster.joined() != joined {
            joined = cluster.joined();
            reload(&hub, &cluster).await;
        }
        let after = cluster.lease.applied();
        match ask(|done| cluster.api.read_log(after, WAIT_MS, done)).await {
            Ok(LogPage { has_gap: true, .. }) => reload(&hub, &cluster).await,
            Ok(page) => apply_page(&hub, &cluster, page.changes),
            Err(_) => sleep(RETRY_AFTER).await,
        }
        tokio::task::yield_now().await;
    }
}

fn apply_page(hub: &Arc<Hub>, cluster: &Arc<Cluster>, changes: Vec<Placed<RouteChange>>) {
    let Some(end) = changes.last().map(|last| last.position) else { return };
    let mut is_waited_for = false;
    for Placed { position, what } in changes {
        is_waited_for |= hub.apply_change(cluster, position, what);
    }
    cluster.lease.set_applied(end);
    if is_waited_for {
        cluster.renew_soon.notify_one();
    }
}

/// Reads all routes anew, because the log lacks something. Meanwhile nothing is matched.
async fn reload(hub: &Arc<Hub>, cluster: &Arc<Cluster>) {
    cluster.metrics.reloads.inc();
    cluster.lease.begin_loading();
    cluster.forget_passed();
    // The log is followed from here on, so what it says later is not missed.
    while let Err(error) = load_from_end(hub, cluster).await {
        tracing::warn!(%error, "the routes could not be loaded");
        sleep(RETRY_AFTER).await;
    }
    cluster.lease.end_loading();
    cluster.renew_soon.notify_one();
    cluster.say_again();
}

async fn load_from_end(hub: &Arc<Hub>, cluster: &Arc<Cluster>) -> Result<(), StoreError> {
    let lease_ms = u64::from(cluster.settings.lease_ms);
    let lease = ask(|done| cluster.api.renew(None, lease_ms, done)).await?;
    cluster.lease.set_applied(lease.log_end);
    load(hub, cluster).await
}

/// Loads the routes of all sessions and of all workers, and drops those that are there no more.
pub(super) async fn load(hub: &Arc<Hub>, cluster: &Arc<Cluster>) -> Result<(), StoreError> {
    let mut stale = Stale::of(hub);
    let mut cursor = None;
    loop {
        let page = ask(|done| hub.store.routes(cursor.take(), ROUTE_PAGE_SESSIONS, done)).await?;
        for routes in page.sessions {
            let session = hub.routed_session(cluster, &routes.session);
            if session.admits_change(routes.epoch) {
                hub.put_routes(&session, &routes.subscriptions);
            }
            stale.forget(&session, &routes.subscriptions);
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    stale.drop_from(hub);
    hub.forget_peers(cluster);
    loop {
        let page = ask(|done| cluster.api.listening(cursor.take(), LISTENING_PAGE, done)).await?;
        for listener in page.listeners {
            if listener.worker != cluster.id {
                hub.peer_listens(cluster, &listener);
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
    fn of(hub: &Hub) -> Self {
        let mut known = Vec::new();
        hub.for_each_stored(|session| {
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

    fn drop_from(self, hub: &Hub) {
        for session in self.known.iter().filter(|session| !session.is_connected()) {
            for filter in session.filters() {
                if self.routes.contains(&(session.id, Arc::clone(&filter))) {
                    hub.unsubscribe(session, &filter);
                }
            }
        }
    }
}

impl Hub {
    /// Does what one entry of the log says. Answers whether somebody may wait for that.
    fn apply_change(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        position: Position,
        change: RouteChange,
    ) -> bool {
        match change {
            RouteChange::Subscribed { session: stored, epoch, subscriptions } => {
                let session = self.routed_session(cluster, &stored);
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
                let Some(session) = self.find_stored(&stored) else { return true };
                let is_news = session.admits_change(epoch);
                if is_news {
                    for filter in &filters {
                        self.unsubscribe(&session, filter);
                    }
                }
                return is_news;
            }
            RouteChange::Gone(stored) => {
                self.drop_routes(&stored);
            }
            RouteChange::Listening(listener) if listener.worker != cluster.id => {
                self.peer_listens(cluster, &listener);
                return true;
            }
            RouteChange::Deaf { worker, filter } if worker != cluster.id => {
                self.peer_is_deaf(cluster, worker, &filter);
            }
            RouteChange::Left(worker) if worker != cluster.id => self.peer_left(cluster, worker),
            RouteChange::Listening(_) | RouteChange::Deaf { .. } | RouteChange::Left(_) => {}
        }
        false
    }

    fn put_routes(&self, session: &Arc<SessionHandle>, subscriptions: &[Subscription]) {
        for subscription in subscriptions {
            self.put_route(session, subscription);
        }
    }

    fn for_each_stored(&self, mut visit: impl FnMut(&Arc<SessionHandle>)) {
        self.sessions.for_each(|session| {
            if session.stored.is_some() {
                visit(session);
            }
        });
        if let Some(cluster) = &self.cluster {
            cluster.all_strays().iter().for_each(visit);
        }
    }
}
