//! Work that the store could not take, or that waits for the route lease: kept in order and tried again, so that a store
//! that is away holds devices up and closes none. Its length is bounded by what devices may have in flight; QoS 0 is not
//! kept. Messages, and what sessions ask while they are served, are one line, since their order is that of publishers and subscribers;
//! who takes a session or lets it go waits for nothing but what was asked so for the same session before.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use state::{Message, Origin};

use crate::hub::Hub;
use crate::hub::call::{Call, Op};
use crate::retained::read::PageRead;
use crate::routing::publish::{Unmatched, Waiting};
use crate::routing::route::Routed;
use crate::serving::connect::Asking;

/// Something to ask of the store.
pub(crate) enum Work {
    Retain(Arc<Message>, Arc<Waiting>),
    Enqueue(Arc<Message>, Option<Origin>, Vec<Routed>, Arc<Waiting>),
    Page(PageRead),
    Call(Call),
    Claim(Box<Asking>),
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
    /// Messages, and what is asked for sessions that are served.
    messages: Line,
    /// Who takes a session or lets it go.
    sessions: Line,
    /// By Client Identifier, those of which something waits.
    clients: HashMap<Arc<str>, Client, RandomState>,
    /// Messages that the store was not given yet, by the session that publishes them: those among `messages`, and those whose
    /// publisher it is being asked about before they are matched.
    in_line: BTreeSet<(u64, Ticket)>,
    /// The last message that is to be retained for each topic, of those among `messages`.
    retained: HashMap<Arc<str>, Ticket>,
    next: u64,
}

/// Work in the order in which it is to be tried again.
#[derive(Default)]
struct Line {
    work: BTreeMap<Ticket, Work>,
    /// The store has been asked with the oldest one alone.
    is_probing: bool,
    /// Somebody hands on what waits: whatever comes meanwhile lines up behind it.
    is_draining: bool,
    /// The store could not take something since the last look.
    was_refused: bool,
}

impl Line {
    fn is_idle(&self) -> bool {
        self.work.is_empty() && !self.is_probing && !self.is_draining
    }
}

/// What waits of one client's session.
#[derive(Default)]
struct Client {
    /// So many pieces are in the line, or are being handed on.
    in_line: usize,
    /// Releases among those in the line.
    held_releases: usize,
    /// Releases that have no answer yet.
    releases: usize,
    /// Claims that wait for that answer, in order.
    behind: VecDeque<(Ticket, Work)>,
}

impl Client {
    fn is_idle(&self) -> bool {
        self.in_line == 0 && self.releases == 0 && self.behind.is_empty()
    }
}

impl Work {
    /// The session whose message it is, if that has a place among its others.
    fn publisher(&self) -> Option<u64> {
        match self {
            Self::Match(unmatched) => unmatched.publisher(),
            Self::Enqueue(.., waiting) => waiting.publisher(),
            Self::Retain(..) | Self::Page(_) | Self::Call(_) | Self::Claim(_) | Self::Confirm(_) => None,
        }
    }

    /// The client whose session it takes or lets go.
    fn client(&self) -> Option<&Arc<str>> {
        match self {
            Self::Call(call) if self.is_release() => Some(&call.fence.session.client_id),
            Self::Claim(asking) => Some(asking.client_id()),
            _ => None,
        }
    }

    fn is_release(&self) -> bool {
        matches!(self, Self::Call(Call { op: Op::Release(..), .. }))
    }
}

impl Held {
    /// Pieces of work that wait.
    pub(crate) fn len(&self) -> usize {
        self.messages.work.len() + self.sessions.work.len()
    }

    fn take_ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next, 0)
    }

    fn line(&mut self, of_sessions: bool) -> &mut Line {
        if of_sessions { &mut self.sessions } else { &mut self.messages }
    }

    fn insert(&mut self, ticket: Ticket, work: Work) {
        match work.client().cloned() {
            Some(client) => {
                let client = self.clients.entry(client).or_default();
                client.in_line += 1;
                client.held_releases += usize::from(work.is_release());
                self.sessions.work.insert(ticket, work);
            }
            None => {
                if let Work::Retain(message, _) = &work {
                    let last = self.retained.entry(message.topic().into()).or_insert(ticket);
                    *last = ticket.max(*last);
                }
                self.in_line.extend(work.publisher().map(|publisher| (publisher, ticket)));
                self.messages.work.insert(ticket, work);
            }
        }
    }

    /// A piece of work is about to be asked. What comes for its session behind a release waits for the answer.
    fn begin(&mut self, work: &Work) {
        if let Some(client) = work.client().filter(|_| work.is_release()) {
            self.clients.entry(Arc::clone(client)).or_default().releases += 1;
        }
    }

    /// Has a release wait for what was asked for its session before, and a claim for the release by another connection; else it
    /// is handed back, to be asked.
    fn line_up(&mut self, ticket: Ticket, work: Work) -> Option<Work> {
        let Some(client) = work.client().and_then(|client| self.clients.get_mut(client)) else {
            return Some(work);
        };
        let waits = match &work {
            Work::Claim(asking) if asking.is_resume() => false,
            Work::Claim(_) if client.releases > 0 || !client.behind.is_empty() => {
                client.behind.push_back((ticket, work));
                return None;
            }
            Work::Claim(_) => client.held_releases > 0,
            _ => client.in_line > 0,
        };
        if waits {
            self.insert(ticket, work);
            return None;
        }
        Some(work)
    }

    /// A piece of work from the line, or from behind a release, has been asked.
    fn passed_on(&mut self, client: &Arc<str>) {
        if let Some(client) = self.clients.get_mut(client) {
            client.in_line = client.in_line.saturating_sub(1);
        }
    }

    /// Forgets a client of which nothing waits.
    fn tidy(&mut self, client: &Arc<str>) {
        if self.clients.get(client).is_some_and(Client::is_idle) {
            self.clients.remove(client);
        }
    }

    /// The next piece of work of a line that may be asked now.
    fn pop(&mut self, of_sessions: bool) -> Option<(Ticket, Work)> {
        while let Some((ticket, work)) = self.line(of_sessions).work.pop_first() {
            let client = work.client().and_then(|client| self.clients.get_mut(client));
            match client {
                Some(client) if client.releases > 0 && matches!(work, Work::Claim(_)) => {
                    client.in_line = client.in_line.saturating_sub(1);
                    client.behind.push_back((ticket, work));
                    continue;
                }
                Some(client) if work.is_release() => {
                    client.held_releases = client.held_releases.saturating_sub(1);
                }
                _ => {}
            }
            if let Work::Retain(message, _) = &work
                && self.retained.get(message.topic()) == Some(&ticket)
            {
                self.retained.remove(message.topic());
            }
            self.begin(&work);
            return Some((ticket, work));
        }
        None
    }
}

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
            Work::Retain(message, waiting) => self.retain(Some(ticket), message, waiting),
            Work::Enqueue(message, origin, routed, waiting) => {
                self.run_enqueue(ticket, message, origin, routed, waiting);
            }
            Work::Page(read) => self.run_page(ticket, read),
            Work::Call(call) => self.call(ticket, call),
            Work::Claim(asking) => self.run_claim(&asking),
            Work::Match(unmatched) => self.run_match(ticket, unmatched),
            Work::Confirm(waiting) => self.run_confirm(ticket, waiting),
        }
    }
}
