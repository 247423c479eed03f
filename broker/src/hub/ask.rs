//! The way of work to the store: asked at once, or held and tried again in its place. Its order is kept by [`super::held`].

use std::sync::Arc;

use state::Message;

use super::Hub;
use super::work::{Ticket, Work};

/// Pieces of work handed on in one go.
const RETRIED_MAX: usize = 50_000;

impl Hub {
    /// Asks the store, unless something older waits for it that this must not overtake.
    pub(crate) fn submit(self: &Arc<Self>, work: Work) {
        let mut held = self.held.lock();
        let ticket = held.take_ticket();
        if work.client().is_some() {
            let Some(work) = held.line_up(ticket, work) else { return };
            held.begin(&work);
            drop(held);
            return self.run(ticket, work);
        }
        if held.messages.is_idle() {
            if let Work::Match(unmatched) = &work {
                held.in_line.extend(unmatched.publisher().map(|publisher| (publisher, ticket)));
            }
            drop(held);
            self.run(ticket, work);
        } else {
            held.insert(ticket, work);
        }
    }

    /// Whether the store was not given an older message of this publisher yet.
    pub(crate) fn holds_older(&self, publisher: u64, ticket: Ticket) -> bool {
        self.held.lock().in_line.range((publisher, Ticket::FIRST)..(publisher, ticket)).next().is_some()
    }

    /// The store was given this message, or will not be: the next ones of its publisher may follow. Unless it was refused.
    pub(crate) fn leave_line(&self, publisher: Option<u64>, ticket: Ticket) {
        let Some(publisher) = publisher else { return };
        let mut held = self.held.lock();
        if !held.messages.work.contains_key(&ticket) {
            held.in_line.remove(&(publisher, ticket));
        }
    }

    /// The store could not take this: it is tried again, in its place. Without a ticket it was not asked in any order.
    pub(crate) fn hold(&self, ticket: Option<Ticket>, work: Work) {
        let mut held = self.held.lock();
        let ticket = ticket.unwrap_or_else(|| held.take_ticket());
        held.line(work.client().is_some()).was_refused = true;
        held.insert(ticket, work);
    }

    /// Whether an older message waits to be retained for the topic of this one: then this one is in its place.
    pub(crate) fn replace_held(&self, message: &Arc<Message>) -> bool {
        let mut held = self.held.lock();
        let Some(ticket) = held.retained.get(message.topic()).copied() else { return false };
        if let Some(Work::Retain(held, _)) = held.messages.work.get_mut(&ticket) {
            held.clone_from(message);
        }
        true
    }

    /// Whether a message waits for the store, or what has a place among messages.
    pub(crate) fn holds_work(&self) -> bool {
        !self.held.lock().messages.is_idle()
    }

    /// A release has its answer, or was held: what was asked for the session after it may be asked now, or lines up behind it.
    pub(crate) fn release_answered(self: &Arc<Self>, client_id: &Arc<str>) {
        let mut held = self.held.lock();
        let Some(client) = held.clients.get_mut(client_id) else { return };
        client.releases = client.releases.saturating_sub(1);
        while let Some(client) = held.clients.get_mut(client_id)
            && client.releases == 0
            && let Some((ticket, work)) = client.behind.pop_front()
        {
            if client.held_releases > 0 {
                held.insert(ticket, work);
                continue;
            }
            // As long as it is being asked nothing overtakes it.
            client.in_line += 1;
            held.begin(&work);
            drop(held);
            self.run(ticket, work);
            held = self.held.lock();
            held.passed_on(client_id);
        }
        held.tidy(client_id);
    }

    /// Asks the store with the oldest that waits; unless it refuses that, the rest follows at the next call.
    pub(crate) fn retry_held(self: &Arc<Self>) {
        self.retry(false);
        self.retry(true);
    }

    fn retry(self: &Arc<Self>, of_sessions: bool) {
        let mut held = self.held.lock();
        let line = held.line(of_sessions);
        if line.is_draining {
            return;
        }
        let was_probing = std::mem::take(&mut line.is_probing);
        let was_refused = std::mem::take(&mut line.was_refused);
        let is_taken = was_probing && !was_refused;
        // The last probe was taken, or it is still being answered: then the rest is in order behind it.
        line.is_draining = is_taken;
        line.is_probing = !is_taken && !line.work.is_empty();
        for _ in 0..if is_taken { RETRIED_MAX } else { 1 } {
            let Some((ticket, work)) = held.pop(of_sessions) else { break };
            drop(held);
            let enqueued = if let Work::Enqueue(..) = &work { work.publisher() } else { None };
            let client = work.client().cloned();
            self.run(ticket, work);
            self.leave_line(enqueued, ticket);
            held = self.held.lock();
            if let Some(client) = client {
                held.passed_on(&client);
                held.tidy(&client);
            }
            if held.line(of_sessions).was_refused {
                // What follows the one that was refused must not overtake it.
                break;
            }
        }
        let line = held.line(of_sessions);
        if std::mem::take(&mut line.is_draining) && !line.was_refused {
            line.is_probing = !line.work.is_empty();
        }
    }

    fn run(self: &Arc<Self>, ticket: Ticket, work: Work) {
        match work {
            Work::Retain(message, part) => self.retain(Some(ticket), message, part),
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
