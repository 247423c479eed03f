//! Which filters this worker listens to for others: those with a connected subscriber here. Counted by filter, so that
//! the log hears only of the first and the last.

use std::collections::{HashMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use mqtt::QoS;
use parking_lot::{Mutex, MutexGuard};
use state::{Listener, RouteChange, SubscriptionOptions, Wants, WorkerId};
use tokio::time::Instant;

use super::index::Index;
use super::session_handle::SessionHandle;

/// A filter that nobody listens to any more is kept as long, so that a device that comes back at once costs nothing.
const LINGER: Duration = Duration::from_secs(1);

/// All filters with connected subscribers.
pub(crate) struct Listening {
    worker: WorkerId,
    filters: HashMap<Arc<str>, Heard, RandomState>,
    /// Filters of which less may be wanted, and since when.
    lowered: VecDeque<(Instant, Arc<str>)>,
    /// For the log, in order.
    changes: Vec<RouteChange>,
}

#[derive(Default)]
struct Heard {
    /// Subscribers by what they want: only what is published with QoS 0, or everything up to QoS 0, 1, 2.
    counts: [u32; 4],
    /// What the log says, or will.
    said: Option<Wants>,
    /// All workers are known to have applied it.
    is_known: bool,
}

impl Heard {
    fn wanted(&self) -> Option<Wants> {
        const BY_CLASS: [Wants; 4] = [
            Wants::Qos0Only,
            Wants::UpTo(QoS::AtMostOnce),
            Wants::UpTo(QoS::AtLeastOnce),
            Wants::UpTo(QoS::ExactlyOnce),
        ];
        let classes = self.counts.iter().zip(BY_CLASS).rev();
        classes.filter(|(count, _)| **count > 0).map(|(_, wanted)| wanted).next()
    }
}

impl Listening {
    pub(crate) fn new(worker: WorkerId) -> Self {
        Self { worker, filters: HashMap::default(), lowered: VecDeque::new(), changes: Vec::new() }
    }

    /// A session is connected now.
    pub(crate) fn add_all(&mut self, session: &SessionHandle, index: &Index) {
        for filter in session.filters() {
            let options = index.options(&filter, session.id);
            self.replace(session, &filter, None, options);
        }
    }

    /// A session is no longer connected.
    pub(crate) fn remove_all(&mut self, session: &SessionHandle, index: &Index) {
        for filter in session.filters() {
            let options = index.options(&filter, session.id);
            self.replace(session, &filter, options, None);
        }
    }

    /// A connected session has one subscription instead of another.
    pub(crate) fn replace(
        &mut self,
        session: &SessionHandle,
        filter: &str,
        old: Option<SubscriptionOptions>,
        new: Option<SubscriptionOptions>,
    ) {
        if old.is_none() && new.is_none() {
            return;
        }
        if !self.filters.contains_key(filter) {
            self.filters.insert(filter.into(), Heard::default());
        }
        let Some(heard) = self.filters.get_mut(filter) else { return };
        if let Some(new) = new {
            heard.counts[class(session, &new)] += 1;
        }
        if let Some(old) = old {
            let count = &mut heard.counts[class(session, &old)];
            debug_assert!(*count > 0, "counted when it came");
            *count = count.saturating_sub(1);
        }
        let wanted = heard.wanted();
        if wanted > heard.said {
            (heard.said, heard.is_known) = (wanted, false);
            if let Some(wants) = wanted {
                let listener = Listener { worker: self.worker, filter: filter.into(), wants };
                self.changes.push(RouteChange::Listening(listener));
            }
        } else if wanted < heard.said {
            self.lowered.push_back((Instant::now(), filter.into()));
        }
    }

    /// Says of which filters less is wanted, and has been for a while.
    pub(crate) fn lower(&mut self) {
        let now = Instant::now();
        while let Some((since, _)) = self.lowered.front()
            && now.duration_since(*since) >= LINGER
            && let Some((_, filter)) = self.lowered.pop_front()
        {
            let Some(heard) = self.filters.get_mut(&filter) else { continue };
            let wanted = heard.wanted();
            if wanted >= heard.said {
                continue;
            }
            heard.said = wanted;
            let worker = self.worker;
            self.changes.push(match wanted {
                Some(wants) => RouteChange::Listening(Listener { worker, filter, wants }),
                None => {
                    self.filters.remove(&filter);
                    RouteChange::Deaf { worker, filter }
                }
            });
        }
    }

    /// Says everything again: the log has lost some of it.
    pub(crate) fn say_again(&mut self) {
        for (filter, heard) in &mut self.filters {
            if let Some(wants) = heard.said {
                heard.is_known = false;
                let (worker, filter) = (self.worker, Arc::clone(filter));
                self.changes.push(RouteChange::Listening(Listener { worker, filter, wants }));
            }
        }
    }

    /// Whether all workers know that this one listens to these.
    pub(crate) fn are_known<'a>(&self, mut filters: impl Iterator<Item = &'a str>) -> bool {
        filters.all(|filter| self.filters.get(filter).is_some_and(|heard| heard.is_known))
    }

    /// All workers have applied the log as far as it said these with what is wanted now, or more.
    pub(crate) fn set_known(&mut self, filters: &[(Arc<str>, Option<Wants>)]) {
        for (filter, said) in filters {
            if let Some(heard) = self.filters.get_mut(filter) {
                heard.is_known |= heard.said.is_some() && heard.said == *said;
            }
        }
    }

    /// What the log says of these, or will.
    pub(crate) fn said<'a>(
        &self,
        filters: impl Iterator<Item = &'a Arc<str>>,
    ) -> Vec<(Arc<str>, Option<Wants>)> {
        filters
            .map(|filter| (Arc::clone(filter), self.filters.get(filter).and_then(|heard| heard.said)))
            .collect()
    }
}

/// Sessions whose queue is stored get what is published with QoS 1 and 2 from there, unless they want it with QoS 0.
fn class(session: &SessionHandle, options: &SubscriptionOptions) -> usize {
    match options.qos {
        QoS::AtLeastOnce | QoS::ExactlyOnce if session.stored.is_some() => 0,
        qos => 1 + qos as usize,
    }
}

/// The log of routes, as far as it hears what changes here.
pub(crate) trait RouteSink: Send + Sync {
    /// Notes changes for the next [`RouteSink::write`], in order. Called while what is listened to is locked.
    fn note(&self, changes: Vec<RouteChange>);

    /// Writes what was noted. Called while nothing is locked.
    fn write(self: Arc<Self>);
}

/// What this worker listens to, and the log that is told of it. The first of the locks, see ARCHITECTURE, *Locks*.
pub(crate) struct Listened {
    listening: Mutex<Listening>,
    log: Arc<dyn RouteSink>,
}

impl Listened {
    /// Nothing is listened to by `worker` yet.
    pub(crate) fn new(worker: WorkerId, log: Arc<dyn RouteSink>) -> Self {
        Self { listening: Mutex::new(Listening::new(worker)), log }
    }

    /// Locks it. No other lock may be held but those that are taken after it: the index, then what a session handle has.
    pub(crate) fn lock(&self) -> ListeningGuard<'_> {
        ListeningGuard { guard: self.listening.lock(), written: WrittenAfter(&self.log) }
    }

    /// Tells the log what has become of a session.
    pub(super) fn tell(&self, change: RouteChange) {
        self.log.note(vec![change]);
        Arc::clone(&self.log).write();
    }
}

/// The locked [`Listening`]; what changes goes to the log, in order.
pub(crate) struct ListeningGuard<'a> {
    guard: MutexGuard<'a, Listening>,
    /// Dropped after the lock.
    written: WrittenAfter<'a>,
}

struct WrittenAfter<'a>(&'a Arc<dyn RouteSink>);

impl Drop for WrittenAfter<'_> {
    fn drop(&mut self) {
        Arc::clone(self.0).write();
    }
}

impl Deref for ListeningGuard<'_> {
    type Target = Listening;

    fn deref(&self) -> &Listening {
        &self.guard
    }
}

impl DerefMut for ListeningGuard<'_> {
    fn deref_mut(&mut self) -> &mut Listening {
        &mut self.guard
    }
}

impl Drop for ListeningGuard<'_> {
    fn drop(&mut self) {
        if !self.guard.changes.is_empty() {
            let changes = std::mem::take(&mut self.guard.changes);
            self.written.0.note(changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use state::StoredSession;

    use super::*;

    fn options(qos: QoS) -> SubscriptionOptions {
        SubscriptionOptions { qos, no_local: false, retain_as_published: false, subscription_id: 0 }
    }

    fn stored() -> SessionHandle {
        let session = Arc::new(StoredSession { client_id: "s".into(), incarnation: 1 });
        SessionHandle::new(1, "s".into(), Some(session))
    }

    fn said(listening: &mut Listening) -> Vec<Option<Wants>> {
        std::mem::take(&mut listening.changes)
            .into_iter()
            .map(|change| match change {
                RouteChange::Listening(listener) => Some(listener.wants),
                _ => None,
            })
            .collect()
    }

    // ARCHITECTURE, rule 20.
    #[tokio::test(start_paused = true)]
    async fn only_the_first_and_the_last_subscriber_are_told() {
        let mut listening = Listening::new(WorkerId(1));
        let (stored, memory) = (stored(), SessionHandle::new(2, "m".into(), None));
        let (once, twice) = (Some(options(QoS::AtLeastOnce)), Some(options(QoS::ExactlyOnce)));
        for _ in 0..3 {
            listening.replace(&stored, "a", None, twice);
        }
        assert_eq!(said(&mut listening), [Some(Wants::Qos0Only)], "messages of QoS 0 alone");
        for _ in 0..3 {
            listening.replace(&memory, "a", None, once);
        }
        listening.replace(&memory, "a", once, twice);
        assert_eq!(
            said(&mut listening),
            [Some(Wants::UpTo(QoS::AtLeastOnce)), Some(Wants::UpTo(QoS::ExactlyOnce))]
        );
        listening.replace(&memory, "a", twice, None);
        listening.lower();
        assert_eq!(said(&mut listening), [], "not at once");
        tokio::time::advance(LINGER).await;
        listening.lower();
        assert_eq!(said(&mut listening), [Some(Wants::UpTo(QoS::AtLeastOnce))]);
        for _ in 0..2 {
            listening.replace(&memory, "a", once, None);
        }
        for _ in 0..3 {
            listening.replace(&stored, "a", twice, None);
        }
        tokio::time::advance(LINGER).await;
        listening.lower();
        assert_eq!(said(&mut listening), [None], "nothing any more");
        assert!(listening.filters.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_comes_back_at_once_costs_nothing() {
        let mut listening = Listening::new(WorkerId(1));
        let session = stored();
        let once = Some(options(QoS::AtLeastOnce));
        listening.replace(&session, "a", None, once);
        assert_eq!(said(&mut listening), [Some(Wants::Qos0Only)]);
        for _ in 0..5 {
            listening.replace(&session, "a", once, None);
            listening.replace(&session, "a", None, once);
        }
        tokio::time::advance(LINGER).await;
        listening.lower();
        assert_eq!(said(&mut listening), []);
    }
}
