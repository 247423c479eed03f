//! What is stored of a session, as several functions answer it: who has it, its Will, its subscriptions.

use std::sync::Arc;

use redis::Value;

use super::codec;
use super::op::{ReadAnswer, Result, pairs};
use crate::{DueWill, Principal, StoreError, StoredSession, Subscription, WorkerId};

pub(super) const DAMAGED: StoreError = StoreError::Damaged { what: "session" };

/// The run of a worker, as it is stored.
pub(super) fn read_run(run: Value) -> Result<WorkerId> {
    u64::from_str_radix(&run.text()?, 16).map(WorkerId).map_err(|_| DAMAGED)
}

/// A Will with its number, and whose it is.
pub(super) fn read_due_will(session: Arc<StoredSession>, will: Value) -> Result<DueWill> {
    let [message, number, principal] = will.tuple()?;
    let principal = principal.maybe().map(ReadAnswer::text).transpose()?.map(|name| Principal(name.into()));
    let message = codec::read_will(&message.bytes()?, principal.as_ref())?;
    Ok(DueWill { session, principal, message, number: number.count()? })
}

/// Subscriptions as they are stored, by filter; the field with the empty name is none.
pub(super) fn read_subscriptions(flat: Value) -> Result<Vec<Subscription>> {
    let mut found = Vec::new();
    for (filter, options) in pairs(flat)? {
        if !filter.is_empty() {
            let filter = Arc::from(String::from_utf8(filter).map_err(|_| DAMAGED)?);
            found.push(Subscription { filter, options: codec::read_options(&options)? });
        }
    }
    found.sort_unstable_by(|a, b| a.filter.cmp(&b.filter));
    Ok(found)
}
