//! What can go wrong in a store, split by whose fault it is.

use std::sync::Arc;

use thiserror::Error;

/// A failed operation of a [`crate::Store`].
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// Another owner has claimed the session: stop serving it.
    #[error("the session has a newer owner")]
    Fenced,
    /// A claim was carried out later than it may take effect: nothing has changed.
    #[error("the claim came too late")]
    TooLate,
    /// There is no such session.
    #[error("no such session")]
    NoSession,
    /// One retained message too many.
    #[error("the bound on retained messages is reached")]
    RetainedQuota,
    /// One stored session too many.
    #[error("the bound on stored sessions is reached")]
    SessionQuota,
    /// One stored session too many for its principal.
    #[error("the bound on stored sessions of a principal is reached")]
    PrincipalQuota,
    /// One subscription too many for this session.
    #[error("the bound on subscriptions of a session is reached")]
    SubscriptionQuota,
    /// The store cannot be reached or written; the outcome may be unknown.
    #[error("the store is not available")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// What was read makes no sense.
    #[error("the store holds a damaged record: {what}")]
    Damaged {
        /// Which kind of record.
        what: &'static str,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
