//! A connection that ends: what becomes of its session and its Will Message.

use std::sync::Arc;

use link::ConnectionId;
use state::{Fence, Number, Release, StoredSession, Will};

use crate::call::{Call, Op};
use crate::held::Work;
use crate::housekeeping::claim_due;
use crate::hub::Hub;
use crate::serving::Rare;
use crate::session::{Closing, WillFate};
use crate::session_handle::SessionHandle;

impl Hub {
    /// Lets a session go that was served. `sent` is the number below which messages may have been sent.
    pub(crate) fn leave(
        self: &Arc<Self>,
        connection: ConnectionId,
        handle: &Arc<SessionHandle>,
        rare: Option<Box<Rare>>,
        closing: &Closing,
        sent: Number,
    ) {
        let Rare { fence, will, .. } = rare.map(|rare| *rare).unwrap_or_default();
        handle.detach(connection);
        let Some(fence) = fence else {
            self.sessions.remove(handle);
            self.remove_filters(handle);
            if let Some(will) = will.filter(|_| closing.will != WillFate::Drop) {
                self.publish_will(&handle.client_id, &will.message, None);
            }
            return;
        };
        if closing.will == WillFate::TakenOver {
            // What becomes of the Will was decided by the claim that took the session.
            return;
        }
        // A newer connection may have the session by now, and then its claim has decided about the Will: so the store is
        // asked first, and what follows is done when it has let the session go.
        let will = will.filter(|_| closing.will == WillFate::Publish);
        let release = Release {
            expiry_s: closing.expiry_s,
            keep_will: will.is_some(),
            sent,
            grace_ms: 0,
            now: self.now(),
        };
        self.release(fence, release, will);
    }

    /// Lets go of a stored session. `will` is due now or after its delay.
    pub(crate) fn release(self: &Arc<Self>, fence: Fence, release: Release, will: Option<Will>) {
        self.submit(Work::Call(Call { fence, asker: None, op: Op::Release(release, will) }));
    }

    /// The store has let a session go. It hands the Will out when that is due.
    pub(crate) fn released(self: &Arc<Self>, session: &StoredSession, release: &Release, will: Option<Will>) {
        let ends = release.expiry_s == 0 && release.grace_ms == 0;
        if ends {
            self.drop_stored(session);
        }
        if will.is_some_and(|will| ends || (will.delay_s == 0 && release.grace_ms == 0)) {
            // The store keeps it, so that it is not lost if this process dies now.
            claim_due(self, release.now.max(self.now()));
        }
    }
}
