//! A connection that ends: what becomes of its session and its Will Message.

use std::sync::Arc;

use state::{Delivery, Fence, Number, Release, StoredSession, Will};

use crate::directory::{Attachment, SessionHandle};
use crate::hub::Hub;
use crate::hub::housekeeping::claim_due;
use crate::hub::work::Work;
use crate::hub::work::call::{Call, Op};
use crate::hub::work::departure::Departure;
use crate::routing::share::left_to_others;
use crate::serving::Rare;
use crate::session::{Closing, WillFate};

/// How a connection leaves its session.
pub(crate) struct Leaving<'a> {
    /// As which it had the session.
    pub attachment: Attachment,
    /// Why and how.
    pub closing: &'a Closing,
    /// Messages below this number may have been sent.
    pub sent: Number,
    /// The connection may go on at another worker: for so many milliseconds the session stays as it is.
    pub grace_ms: u64,
    /// To be told when it is durable.
    pub departure: Option<Arc<Departure>>,
    /// What the session had of shares and did not get, or did not acknowledge, if its queue is in memory.
    pub shared: Vec<Delivery>,
}

impl Hub {
    /// Lets a session go that was served, and then the next connection begin that has it.
    pub(crate) fn leave(
        self: &Arc<Self>,
        handle: &Arc<SessionHandle>,
        rare: Option<Box<Rare>>,
        leaving: Leaving<'_>,
    ) {
        let attachment = leaving.attachment;
        self.leave_session(handle, rare, leaving);
        self.let_next_begin(handle, attachment);
    }

    fn leave_session(
        self: &Arc<Self>,
        handle: &Arc<SessionHandle>,
        rare: Option<Box<Rare>>,
        leaving: Leaving<'_>,
    ) {
        let Leaving { attachment, closing, sent, grace_ms, departure, mut shared } = leaving;
        let Rare { fence, will, backlog, .. } = rare.map(|rare| *rare).unwrap_or_default();
        let untaken = self.directory.detach(handle, attachment);
        let finish = |departure: Option<Arc<Departure>>| {
            if let Some(departure) = departure {
                departure.finish();
            }
        };
        if handle.stored.is_none() {
            self.directory.drop_in_memory(handle);
            shared.extend(left_to_others(backlog.0));
            shared.extend(left_to_others(untaken));
            self.share_again(shared);
        }
        let Some(fence) = fence else {
            if let Some(will) = will.filter(|_| closing.will != WillFate::Drop) {
                self.publish_will(&handle.client_id, &will.message, None);
            }
            return finish(departure);
        };
        if closing.will == WillFate::TakenOver && (will.is_none() || !self.cluster.is_shared()) {
            return finish(departure);
        }
        // A newer connection may have the session by now: so the store is asked first, and what follows is done when it has let
        // the session go. What was taken over has its Will waiting there for this, its last word.
        let will = will.filter(|_| closing.will != WillFate::Drop);
        let release = Release {
            expiry_s: closing.expiry_s,
            keep_will: will.is_some(),
            sent,
            grace_ms,
            now: self.now(),
        };
        self.release(fence, release, will, departure);
    }

    /// Lets go of a stored session. `will` is due now or after its delay.
    pub(crate) fn release(
        self: &Arc<Self>,
        fence: Fence,
        release: Release,
        will: Option<Will>,
        departure: Option<Arc<Departure>>,
    ) {
        let op = Op::Release(release, will, departure);
        self.submit(Work::Call(Call { fence, asker: None, frame: 0, op }));
    }

    /// The store has let a session go. It hands the Will out when that is due.
    pub(crate) fn released(self: &Arc<Self>, session: &StoredSession, release: &Release, will: Option<Will>) {
        let ends = release.expiry_s == 0 && release.grace_ms == 0;
        let mut had_shares = false;
        if ends {
            let had = |filter: &Arc<str>| filter.starts_with("$share/");
            had_shares =
                self.directory.find_stored(session).is_some_and(|known| known.filters().iter().any(had));
            self.directory.drop_stored(session);
        }
        if had_shares || will.is_some_and(|will| ends || (will.delay_s == 0 && release.grace_ms == 0)) {
            // The store keeps it, and what is for others of its shares, so that it is not lost if this process dies now.
            claim_due(self, release.now.max(self.now()));
        }
    }
}
