//! The way of work to the store: asked at once, or held and tried again in its place. Its order is kept by [`super::line`].

use std::sync::Arc;

use mqtt::PacketId;
use state::Message;

use super::Hub;
use super::line::{TrackOf, Waits};
use super::work::latch::Part;
use super::work::{Ticket, Work};
use crate::directory::{Attachment, SessionHandle};

impl Hub {
    /// Asks the store, unless something older waits for it that this must not overtake.
    pub(crate) fn submit(self: &Arc<Self>, work: Work) {
        let asked = self.line.lock().submit(work);
        if let Some((ticket, work)) = asked {
            self.run(ticket, work);
        }
    }

    /// Whether the store was not given an older message of this publisher yet.
    pub(crate) fn holds_older(&self, publisher: u64, ticket: Ticket) -> bool {
        self.line.lock().holds_older(publisher, ticket)
    }

    /// The store was given this message, or will not be: the next ones of its publisher may follow. Unless it was refused.
    pub(crate) fn leave_line(&self, publisher: Option<u64>, ticket: Ticket) {
        if let Some(publisher) = publisher {
            self.line.lock().leave(publisher, ticket);
        }
    }

    /// The store could not take this: it is tried again, in its place. Without a ticket it was not asked in any order.
    pub(crate) fn hold(&self, ticket: Option<Ticket>, work: Work) {
        self.line.lock().refused(ticket, work);
    }

    /// Retains a message that nobody waits for in its place behind an older one that waits to be retained for its topic. Answers
    /// whether there is an older one.
    pub(crate) fn retain_behind_held(
        self: &Arc<Self>,
        message: &Arc<Message>,
        publisher: Option<(&Arc<SessionHandle>, Attachment)>,
    ) -> bool {
        let mut line = self.line.lock();
        let Some(Work::Retain(held, part)) = line.retained_mut(message.topic()) else { return false };
        let is_its = |(session, by, _): &(Arc<SessionHandle>, Attachment, PacketId)| {
            publisher.is_some_and(|(its, attachment)| Arc::ptr_eq(session, its) && *by == attachment)
        };
        // So no more wait than are waited for, and one behind each. What another client waits for goes when that goes.
        if part.publisher.as_ref().is_none_or(is_its) {
            held.clone_from(message);
            return true;
        }
        drop(line);
        self.submit(Work::Retain(Arc::clone(message), Part::of_nobody(message.qos(), None)));
        true
    }

    /// The place of a message that the store is asked about at once; none if it has to wait behind others.
    pub(crate) fn place(&self) -> Option<Ticket> {
        self.line.lock().place()
    }

    /// Whether a message waits for the store, or what has a place among messages.
    pub(crate) fn holds_work(&self) -> bool {
        !self.line.lock().is_idle()
    }

    /// Pieces of work that wait for the store.
    pub(crate) fn held(&self) -> usize {
        self.line.lock().len()
    }

    /// A release has its answer, or was held: what was asked for the session after it may be asked now, or lines up behind it.
    pub(crate) fn release_answered(self: &Arc<Self>, client_id: &Arc<str>) {
        let mut line = self.line.lock();
        line.release_answered(client_id);
        while let Some((ticket, work)) = line.pop_behind(client_id) {
            drop(line);
            self.run(ticket, work);
            line = self.line.lock();
            line.passed_on(client_id);
        }
    }

    /// Asks the store with the oldest that waits; unless it refuses that, the rest follows at the next call.
    pub(crate) fn retry_held(self: &Arc<Self>) {
        self.retry(TrackOf::Messages);
        self.retry(TrackOf::Sessions);
    }

    fn retry(self: &Arc<Self>, of: TrackOf) {
        let mut line = self.line.lock();
        let count = line.begin_retry(of);
        if count == 0 {
            return;
        }
        for _ in 0..count {
            let Some((ticket, work)) = line.pop(of) else { break };
            drop(line);
            let enqueued = if let Work::Enqueue(..) = &work { work.publisher() } else { None };
            let client = work.session().map(|(client, _)| Arc::clone(client));
            self.run(ticket, work);
            self.leave_line(enqueued, ticket);
            line = self.line.lock();
            if !line.handed_on(of, client.as_ref()) {
                break;
            }
        }
        line.end_retry(of);
    }

    fn run(self: &Arc<Self>, ticket: Ticket, work: Work) {
        match work {
            Work::Retain(message, part) => self.run_retain(ticket, message, part),
            Work::Enqueue(message, origin, routed, part) => {
                self.run_enqueue(ticket, message, origin, routed, part);
            }
            Work::Page(read) => self.run_page(ticket, read),
            Work::Call(call) => self.call(ticket, call),
            Work::Claim(claim) => self.run_claim(&claim),
            Work::Match(unmatched) => self.run_match(ticket, unmatched),
            Work::Confirm(part) => self.run_confirm(ticket, part),
        }
    }
}
