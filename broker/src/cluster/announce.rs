//! The way of a SUBSCRIBE and an UNSUBSCRIBE to all workers: into the index here, into the log, and behind the barrier.

use std::sync::Arc;

use state::{Owned, RouteChange, StoredSession, Subscription};

use crate::directory::SessionHandle;

use super::Cluster;
use super::barrier::passed;

impl Cluster {
    /// The store has these subscriptions of a session, changed by its owner of this epoch. Runs `then` when every worker matches
    /// with them.
    pub(crate) fn announce(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        epoch: u64,
        subscriptions: &[Subscription],
        then: Box<dyn FnOnce() + Send>,
    ) {
        let filters = || subscriptions.iter().map(|subscription| &subscription.filter);
        let is_ours = session.stored.is_none() || session.owns_routes(epoch);
        let mut fresh = Vec::new();
        for subscription in subscriptions {
            // Somebody else has the session by now, and what it is subscribed to.
            let old = is_ours.then(|| self.directory.put_route(session, subscription)).flatten();
            if old != Some(subscription.options) || !session.is_logged(&subscription.filter) {
                fresh.push(subscription.clone());
            }
        }
        let (known, said) = {
            let listening = self.listened.lock();
            (listening.are_known(filters().map(|filter| &**filter)), listening.said(filters()))
        };
        let mut changes = Vec::new();
        match &session.stored {
            Some(stored) if !fresh.is_empty() => {
                changes.push(RouteChange::Subscribed {
                    session: Arc::clone(stored),
                    epoch,
                    subscriptions: fresh,
                });
            }
            // Nothing is new to anybody.
            Some(_) if known && session.is_told_through(self.passed_through()) => return then(),
            // Every worker sends messages for these here already.
            None if known => return then(),
            _ => {}
        }
        let is_logged = !changes.is_empty();
        if is_logged {
            session.begin_log();
        }
        let session = Arc::clone(session);
        let filters: Vec<_> = filters().cloned().collect();
        let all_know = {
            let listened = Arc::clone(&self.listened);
            move || {
                listened.lock().set_known(&said);
                then();
            }
        };
        let wait = passed(self, Box::new(all_know));
        let written = move |position| {
            if is_logged {
                session.note_logged(filters.iter().map(|filter| &**filter), position);
                session.end_log();
            }
            wait(position);
        };
        self.log.append(changes, Some(Box::new(written)));
    }

    /// The store has removed these subscriptions of a session. Runs `then` when no worker matches with them any more.
    pub(crate) fn withdraw(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        epoch: u64,
        filters: Vec<Arc<str>>,
        then: Box<dyn FnOnce() + Send>,
    ) {
        if session.stored.is_none() || session.owns_routes(epoch) {
            for filter in &filters {
                self.directory.unsubscribe(session, filter);
            }
        }
        match &session.stored {
            Some(stored) => {
                let change = RouteChange::Unsubscribed { session: Arc::clone(stored), epoch, filters };
                self.log.append(vec![change], Some(passed(self, then)));
            }
            // What comes from other workers is matched here, with what is subscribed now.
            None => then(),
        }
    }

    /// The store has removed subscriptions that their passport does not cover: nobody waits for it.
    pub(crate) fn tell_revoked(&self, stored: Arc<StoredSession>, epoch: u64, filters: Vec<Arc<str>>) {
        if self.directory.find_stored(&stored).is_some() {
            self.log.append(vec![RouteChange::Unsubscribed { session: stored, epoch, filters }], None);
        }
    }

    /// A connection here owns a stored session from now on, with the subscriptions that it has.
    pub(crate) fn own_routes(&self, session: &SessionHandle, owned: &Owned) {
        session.own_routes(owned.fence.epoch);
        // Other workers take it for one that is away, and would leave it out of its shares.
        let mut shares = owned.subscriptions.clone();
        shares.retain(|subscription| subscription.filter.starts_with("$share/"));
        if let Some(stored) = session.stored.as_ref().filter(|_| !shares.is_empty()) {
            let (session, epoch) = (Arc::clone(stored), owned.fence.epoch);
            let change = RouteChange::Subscribed { session, epoch, subscriptions: shares };
            self.log.append(vec![change], None);
        }
    }
}
