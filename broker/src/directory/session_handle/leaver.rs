//! Connections that have lost a session while what they said last may still be with their edges, and who waits for them.

use link::ConnectionId;

use super::{Attachment, Mailbox, SessionHandle};
use crate::directory::succession::Successor;

/// Those of one session, in the order in which they had it.
#[derive(Default)]
pub(super) struct Leavers {
    all: Vec<Leaver>,
}

struct Leaver {
    attachment: Attachment,
    waiting: Vec<Successor>,
}

impl Mailbox {
    /// Whoever has the session loses it, unless it is `next` that had it.
    pub(super) fn lose(&mut self, next: Option<ConnectionId>) {
        let connection = self.connection.take().filter(|connection| Some(*connection) != next);
        if connection.is_some() && self.yields {
            let leaver = Leaver { attachment: self.attachment, waiting: Vec::new() };
            self.leavers.get_or_insert_default().all.push(leaver);
        }
    }
}

impl SessionHandle {
    /// Has a connection wait for the one that had the session before it. If there is none, it is given back.
    pub(crate) fn wait_for_leaver(&self, successor: Successor) -> Option<Successor> {
        let mut mailbox = self.mailbox.lock();
        let Some(leavers) = &mut mailbox.leavers else { return Some(successor) };
        // It may have lost the session by now, too.
        let own = successor.granted.attachment;
        match leavers.all.iter_mut().take_while(|leaver| leaver.attachment != own).last() {
            Some(before) => before.waiting.push(successor),
            None => return Some(successor),
        }
        None
    }

    /// A connection that has lost the session is waited for no more. Answers who did.
    pub(crate) fn take_successors(&self, attachment: Attachment) -> Vec<Successor> {
        let mut mailbox = self.mailbox.lock();
        let Some(leavers) = &mut mailbox.leavers else { return Vec::new() };
        let Some(at) = leavers.all.iter().position(|leaver| leaver.attachment == attachment) else {
            return Vec::new();
        };
        let leaver = leavers.all.remove(at);
        if leavers.all.is_empty() {
            mailbox.leavers = None;
        }
        leaver.waiting
    }
}
