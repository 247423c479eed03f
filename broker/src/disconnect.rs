//! A connection that ends: what becomes of its session and its Will Message.

use std::sync::Arc;

use link::ConnectionId;
use state::{Number, Release, Will};

use crate::call::{Call, Op};
use crate::held::Work;
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
                self.publish_will(&will.message, None);
            }
            return;
        };
        if closing.will == WillFate::TakenOver {
            // What becomes of the Will was decided by the claim that took the session.
            return;
        }
        let ends = closing.expiry_s == 0;
        let will = will.filter(|_| closing.will == WillFate::Publish);
        let (now_due, later): (Option<Will>, bool) = match will {
            Some(will) if ends || will.delay_s == 0 => (Some(will), false),
            Some(_) => (None, true),
            None => (None, false),
        };
        if ends {
            self.sessions.remove(handle);
            self.remove_filters(handle);
        }
        if let Some(will) = now_due {
            self.publish_will(&will.message, None);
        }
        let release = Release { expiry_s: closing.expiry_s, keep_will: later, sent, now: self.now() };
        self.submit(Work::Call(Call { fence, asker: None, op: Op::Release(release) }));
    }
}
