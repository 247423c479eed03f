//! Work that the store could not take, or that waits for the route lease: kept in order and tried again, so that a store
//! that is away holds devices up and closes none. Its length is bounded by what devices may have in flight; QoS 0 is not
//! kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use state::{Message, Origin};

use crate::call::Call;
use crate::hub::Hub;
use crate::publish::{Unmatched, Waiting};
use crate::retained::PageRead;
use crate::route::Routed;

/// Something to ask of the store.
pub(crate) enum Work {
    Retain(Arc<Message>, Arc<Waiting>),
    Enqueue(Arc<Message>, Option<Origin>, Vec<Routed>, Arc<Waiting>),
    Page(PageRead),
    Call(Call),
    Match(Unmatched),
    /// Whose the publisher's session is, before the last is said of its message.
    Confirm(Arc<Waiting>),
}

/// The place of a piece of work in the order in which it was to be done, and of a part among those that it became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64, u32);

impl Ticket {
    const FIRST: Self = Self(0, 0);

    /// The places of parts that this piece of work becomes.
    pub(crate) fn parts(self) -> impl Iterator<Item = Self> {
        (self.1..).map(move |part| Self(self.0, part))
    }
}

/// Pieces of work handed on in one go.
const RETRIED_MAX: usize = 50_000;

/// What waits for the store.
#[derive(Default)]
pub(crate) struct Held {
    work: BTreeMap<Ticket, Work>,
    /// Messages that the store was not given yet, by the session that publishes them: those among `work`, and those whose
    /// publisher it is being asked about before they are matched.
    in_line: BTreeSet<(u64, Ticket)>,
    /// The last message that is to be retained for each topic, of those among `work`.
    retained: HashMap<Arc<str>, Ticket>,
    next: u64,
    /// The store has been asked with the oldest one alone.
    is_probing: bool,
    /// Somebody hands on what waits: whatever comes meanwhile lines up behind it.
    is_draining: bool,
    /// The store could not take something since the last look.
    was_refused: bool,
}

impl Work {
    /// The session whose message it is, if that has a place among its others.
    fn publisher(&self) -> Option<u64> {
        match self {
            Self::Match(unmatched) => unmatched.publisher(),
            Self::Enqueue(.., waiting) => waiting.publisher(),
            Self::Retain(..) | Self::Page(_) | Self::Call(_) | Self::Confirm(_) => None,
        }
    }
}

impl Held {
    fn take_ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next, 0)
    }

    fn insert(&mut self, ticket: Ticket, work: Work) {
        if let Work::Retain(message, _) = &work {
            let last = self.retained.entry(message.topic().into()).or_insert(ticket);
            *last = ticket.max(*last);
        }
        self.in_line.extend(work.publisher().map(|publisher| (publisher, ticket)));
        self.work.insert(ticket, work);
    }

    fn pop_first(&mut self) -> Option<(Ticket, Work)> {
        let (ticket, work) = self.work.pop_first()?;
        if let Work::Retain(message, _) = &work
            && self.retained.get(message.topic()) == Some(&ticket)
        {
            self.retained.remove(message.topic());
        }
        Some((ticket, work))
    }

    fn is_idle(&self) -> bool {
        self.work.is_empty() && !self.is_probing && !self.is_draining
    }
}

impl Hub {
    /// Asks the store, unless something older waits for it: overtaking that would break the order of a publisher.
    pub(crate) fn submit(self: &Arc<Self>, work: Work) {
        let mut held = self.held.lock();
        let ticket = held.take_ticket();
        if held.is_idle() {
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
        if !held.work.contains_key(&ticket) {
            held.in_line.remove(&(publisher, ticket));
        }
    }

    /// The store could not take this: it is tried again, in its place. Without a ticket it was not asked in any order.
    pub(crate) fn hold(&self, ticket: Option<Ticket>, work: Work) {
        let mut held = self.held.lock();
        let ticket = ticket.unwrap_or_else(|| held.take_ticket());
        held.was_refused = true;
        held.insert(ticket, work);
    }

    /// Whether an older message waits to be retained for the topic of this one: then this one is in its place.
    pub(crate) fn replace_held(&self, message: &Arc<Message>) -> bool {
        let mut held = self.held.lock();
        let Some(ticket) = held.retained.get(message.topic()).copied() else { return false };
        if let Some(Work::Retain(held, _)) = held.work.get_mut(&ticket) {
            held.clone_from(message);
        }
        true
    }

    /// Whether anything waits for the store.
    pub(crate) fn holds_work(&self) -> bool {
        !self.held.lock().is_idle()
    }

    /// Asks the store with the oldest that waits; unless it refuses that, the rest follows at the next call.
    pub(crate) fn retry_held(self: &Arc<Self>) {
        let mut held = self.held.lock();
        if held.is_draining {
            return;
        }
        let was_probing = std::mem::take(&mut held.is_probing);
        let was_refused = std::mem::take(&mut held.was_refused);
        let is_taken = was_probing && !was_refused;
        // The last probe was taken, or it is still being answered: then the rest is in order behind it.
        held.is_draining = is_taken;
        held.is_probing = !is_taken && !held.work.is_empty();
        for _ in 0..if is_taken { RETRIED_MAX } else { 1 } {
            let Some((ticket, work)) = held.pop_first() else { break };
            drop(held);
            let enqueued = if let Work::Enqueue(..) = &work { work.publisher() } else { None };
            self.run(ticket, work);
            self.leave_line(enqueued, ticket);
            held = self.held.lock();
            if held.was_refused {
                // What follows the one that was refused must not overtake it.
                break;
            }
        }
        if std::mem::take(&mut held.is_draining) && !held.was_refused {
            held.is_probing = !held.work.is_empty();
        }
    }

    fn run(self: &Arc<Self>, ticket: Ticket, work: Work) {
        match work {
            Work::Retain(message, waiting) => self.retain(Some(ticket), message, waiting),
            Work::Enqueue(message, origin, routed, waiting) => {
                self.run_enqueue(ticket, message, origin, routed, waiting);
            }
            Work::Page(read) => self.run_page(ticket, read),
            Work::Call(call) => self.call(ticket, call),
            Work::Match(unmatched) => self.run_match(ticket, unmatched),
            Work::Confirm(waiting) => self.run_confirm(ticket, waiting),
        }
    }
}
