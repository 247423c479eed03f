//! What the index has of a session, and how far other workers are known to have it too.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use state::Position;

use super::SessionHandle;

/// That of one session.
#[derive(Default)]
pub(super) struct Routes {
    /// Its Topic Filters, to take it out of the index; and whether the log has them.
    filters: HashMap<Arc<str>, bool, RandomState>,
    /// The epoch of the owner that changed them last.
    epoch: u64,
    /// That owner was a connection here.
    is_own: bool,
    /// They count among those that this worker listens to.
    listens: bool,
    /// Changes of a connection here that the log does not have yet.
    unwritten: u32,
    /// The log had all others by this place.
    logged_by: Position,
}

impl Routes {
    /// The epoch of the last change, if there is no filter and no change under way.
    pub(super) fn blank_since(&self) -> Option<u64> {
        (self.filters.is_empty() && self.unwritten == 0).then_some(self.epoch)
    }
}

impl SessionHandle {
    /// Notes a Topic Filter as this session's.
    pub(crate) fn add_filter(&self, filter: Arc<str>) {
        self.routes.lock().filters.insert(filter, false);
    }

    /// Forgets a Topic Filter.
    pub(crate) fn remove_filter(&self, filter: &str) {
        let filters = &mut self.routes.lock().filters;
        filters.remove(filter);
        if filters.is_empty() {
            *filters = HashMap::default();
        }
    }

    /// Its Topic Filters, in any order.
    pub(crate) fn filters(&self) -> Vec<Arc<str>> {
        self.routes.lock().filters.keys().cloned().collect()
    }

    /// Takes all its Topic Filters.
    pub(crate) fn take_filters(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.routes.lock().filters).into_keys().collect()
    }

    /// A change of a connection here is to be written to the log of routes.
    pub(crate) fn begin_log(&self) {
        self.routes.lock().unwritten += 1;
    }

    /// It was, by [`SessionHandle::note_logged`].
    pub(crate) fn end_log(&self) {
        let mut routes = self.routes.lock();
        routes.unwritten = routes.unwritten.saturating_sub(1);
    }

    /// The log of routes has these filters of the session by this place.
    pub(crate) fn note_logged<'a>(&self, logged: impl Iterator<Item = &'a str>, by: Position) {
        let mut routes = self.routes.lock();
        routes.logged_by = routes.logged_by.max(by);
        for filter in logged {
            if let Some(is_logged) = routes.filters.get_mut(filter) {
                *is_logged = true;
            }
        }
    }

    /// Whether whoever has applied the log through this place has all changes of the session that are logged, and no other is
    /// under way.
    pub(crate) fn is_told_through(&self, position: Position) -> bool {
        let routes = self.routes.lock();
        routes.unwritten == 0 && routes.logged_by <= position
    }

    /// Whether the log of routes has this filter of the session.
    pub(crate) fn is_logged(&self, filter: &str) -> bool {
        self.routes.lock().filters.get(filter).copied().unwrap_or(false)
    }

    /// A connection here owns the session with this epoch: what earlier owners changed came with it, and what it changes
    /// itself is in the index before it is in the log.
    pub(crate) fn own_routes(&self, epoch: u64) {
        let mut routes = self.routes.lock();
        (routes.epoch, routes.is_own) = (epoch, true);
    }

    /// Whether a connection here owns the session with this epoch, as far as is known.
    pub(crate) fn owns_routes(&self, epoch: u64) -> bool {
        let routes = self.routes.lock();
        routes.is_own && routes.epoch == epoch
    }

    /// Whether a change that an owner with this epoch made says something new.
    pub(crate) fn admits_change(&self, epoch: u64) -> bool {
        let mut routes = self.routes.lock();
        if epoch < routes.epoch || (epoch == routes.epoch && routes.is_own) {
            return false;
        }
        routes.is_own &= epoch == routes.epoch;
        routes.epoch = epoch;
        true
    }

    /// Whether its filters count among those that this worker listens to.
    pub(crate) fn listens(&self) -> bool {
        self.routes.lock().listens
    }

    /// From now on they count, or not. Answers whether they did before.
    pub(crate) fn set_listens(&self, listens: bool) -> bool {
        std::mem::replace(&mut self.routes.lock().listens, listens)
    }
}
