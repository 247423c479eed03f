//! The answer to a publisher, when all that must be durable is.

use std::sync::Arc;

use mqtt::ReasonCode;
use state::StoreError;

use crate::hub::Hub;
use crate::hub::work::latch::{Latch, Part};
use crate::session::Input;

impl Hub {
    /// Notes that one part of the work for a message is done, or has failed, and answers when it was the last one.
    pub(crate) fn part_done(&self, part: Part, result: Result<(), StoreError>) {
        if let Some((latch, failed)) = part.done(result) {
            self.answer(&latch, failed);
        }
    }

    fn answer(&self, latch: &Arc<Latch>, failed: Option<StoreError>) {
        if matches!(failed, Some(StoreError::RetainedQuota)) {
            self.tell_not_retained(latch.publisher.as_ref().map(|(session, ..)| &*session.client_id));
        }
        // Not only if it went well: a Will that cannot be retained would be published again for ever. What a store that is
        // closed could not take comes again when it is open.
        if let Some(then) = latch.take_then()
            && !matches!(failed, Some(StoreError::Closed))
        {
            then();
        }
        let Some((session, attachment, _)) = &latch.publisher else { return };
        if let Some(cluster) = self.cluster.shared()
            && latch.fence.is_some()
            && let Some(StoreError::Fenced | StoreError::NoSession) = failed
        {
            return cluster.doubt(session, *attachment);
        }
        let answer = match failed {
            None if latch.has_matched() => Ok(ReasonCode::Success),
            None => Ok(ReasonCode::NoMatchingSubscribers),
            Some(StoreError::RetainedQuota) => Ok(ReasonCode::QuotaExceeded),
            Some(StoreError::Fenced) => {
                session.answer(*attachment, Input::End(ReasonCode::SessionTakenOver).into());
                return;
            }
            Some(error) => Err(error),
        };
        latch.tell(answer);
    }
}
