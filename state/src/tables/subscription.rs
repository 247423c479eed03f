//! Subscriptions of stored sessions, and the paged listing that a starting worker loads.

use std::ops::Bound;
use std::sync::Arc;

use super::journal::Change;
use super::{SessionKey, Tables};
use crate::{Cursor, Fence, RoutePage, SessionRoutes, StoreError, Subscription};

impl Tables {
    /// See [`crate::Store::subscribe`]. All are refused if they would be too many.
    pub(crate) fn subscribe(
        &mut self,
        fence: &Fence,
        subscriptions: Vec<Subscription>,
    ) -> Result<Vec<bool>, StoreError> {
        let max = self.limits.subscriptions_per_session_max;
        let session = self.owned(fence)?;
        let mut new: Vec<&str> = subscriptions
            .iter()
            .map(|wanted| &*wanted.filter)
            .filter(|filter| session.find(filter).is_err())
            .collect();
        new.sort_unstable();
        new.dedup();
        if session.subscriptions.len() + new.len() > max {
            return Err(StoreError::SubscriptionQuota);
        }
        let key = session.key();
        let before = session.subscriptions.len();
        let mut answers = Vec::with_capacity(subscriptions.len());
        for subscription in &subscriptions {
            let place = session.find(&subscription.filter);
            answers.push(place.is_ok());
            match place {
                Ok(at) => session.subscriptions[at] = subscription.clone(),
                Err(at) => session.subscriptions.insert(at, subscription.clone()),
            }
        }
        let added = session.subscriptions.len() - before;
        self.totals.subscriptions += added as u64;
        for subscription in subscriptions {
            self.journal.note(Change::Subscribed { session: key, subscription });
        }
        Ok(answers)
    }

    /// See [`crate::Store::unsubscribe`].
    pub(crate) fn unsubscribe(
        &mut self,
        fence: &Fence,
        filters: Vec<Arc<str>>,
    ) -> Result<Vec<bool>, StoreError> {
        let session = self.owned(fence)?;
        let key = session.key();
        let answers: Vec<bool> = filters
            .iter()
            .map(|filter| {
                let place = session.find(filter);
                if let Ok(at) = place {
                    session.subscriptions.remove(at);
                }
                place.is_ok()
            })
            .collect();
        for (filter, was_there) in filters.into_iter().zip(&answers) {
            if *was_there {
                self.totals.subscriptions -= 1;
                self.journal.note(Change::Unsubscribed { session: key, filter });
            }
        }
        Ok(answers)
    }

    /// See [`crate::Store::routes`]. Sessions without subscriptions, or whose queue is elsewhere, count towards the page, but are left out.
    pub(crate) fn routes(
        &self,
        cursor: Option<&Cursor>,
        sessions_max: usize,
    ) -> Result<RoutePage, StoreError> {
        let after = match cursor {
            None => Bound::Unbounded,
            Some(cursor) => {
                let bytes =
                    cursor.0.as_ref().try_into().map_err(|_| StoreError::Damaged { what: "cursor" })?;
                Bound::Excluded(SessionKey(u64::from_be_bytes(bytes)))
            }
        };
        let mut page = RoutePage::default();
        let mut last = None;
        let mut rest = self.order.range((after, Bound::Unbounded));
        for key in rest.by_ref().take(sessions_max.max(1)) {
            last = Some(*key);
            if let Some(session) = self.sessions.get(key)
                && !session.is_memory_queue
                && !session.subscriptions.is_empty()
            {
                page.sessions.push(SessionRoutes {
                    session: Arc::clone(&session.identity),
                    epoch: session.epoch,
                    subscriptions: session.subscriptions.clone(),
                });
            }
        }
        if rest.next().is_some() {
            page.next = last.map(|key| Cursor(key.0.to_be_bytes().into()));
        }
        Ok(page)
    }
}

impl super::session::Session {
    /// The place of a filter, or where it belongs.
    pub(super) fn find(&self, filter: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|have| (*have.filter).cmp(filter))
    }
}
