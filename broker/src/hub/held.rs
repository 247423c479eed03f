//! Work that the store could not take, or that waits for the route lease: kept in order and tried again, so that a store
//! that is away holds devices up and closes none. Its length is bounded by what devices may have in flight; QoS 0 is not
//! kept. Messages, and what sessions ask while they are served, are one line, since their order is that of publishers and subscribers;
//! who takes a session or lets it go waits for nothing but what was asked so for the same session before.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::work::{Ticket, Work};

/// What waits for the store.
#[derive(Default)]
pub(crate) struct Held {
    /// Messages, and what is asked for sessions that are served.
    pub(super) messages: Line,
    /// Who takes a session or lets it go.
    pub(super) sessions: Line,
    /// By Client Identifier, those of which something waits.
    pub(super) clients: HashMap<Arc<str>, Client, RandomState>,
    /// Messages that the store was not given yet, by the session that publishes them: those among `messages`, and those whose
    /// publisher it is being asked about before they are matched.
    pub(super) in_line: BTreeSet<(u64, Ticket)>,
    /// The last message that is to be retained for each topic, of those among `messages`.
    pub(super) retained: HashMap<Arc<str>, Ticket>,
    next: u64,
}

/// Work in the order in which it is to be tried again.
#[derive(Default)]
pub(super) struct Line {
    pub(super) work: BTreeMap<Ticket, Work>,
    /// The store has been asked with the oldest one alone.
    pub(super) is_probing: bool,
    /// Somebody hands on what waits: whatever comes meanwhile lines up behind it.
    pub(super) is_draining: bool,
    /// The store could not take something since the last look.
    pub(super) was_refused: bool,
}

impl Line {
    pub(super) fn is_idle(&self) -> bool {
        self.work.is_empty() && !self.is_probing && !self.is_draining
    }
}

/// What waits of one client's session.
#[derive(Default)]
pub(super) struct Client {
    /// So many pieces are in the line, or are being handed on.
    pub(super) in_line: usize,
    /// Releases among those in the line.
    pub(super) held_releases: usize,
    /// Releases that have no answer yet.
    pub(super) releases: usize,
    /// Claims that wait for that answer, in order.
    pub(super) behind: VecDeque<(Ticket, Work)>,
}

impl Client {
    pub(super) fn is_idle(&self) -> bool {
        self.in_line == 0 && self.releases == 0 && self.behind.is_empty()
    }
}

impl Held {
    /// Pieces of work that wait.
    pub(crate) fn len(&self) -> usize {
        self.messages.work.len() + self.sessions.work.len()
    }

    pub(super) fn take_ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next, 0)
    }

    pub(super) fn line(&mut self, of_sessions: bool) -> &mut Line {
        if of_sessions { &mut self.sessions } else { &mut self.messages }
    }

    pub(super) fn insert(&mut self, ticket: Ticket, work: Work) {
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
    pub(super) fn begin(&mut self, work: &Work) {
        if let Some(client) = work.client().filter(|_| work.is_release()) {
            self.clients.entry(Arc::clone(client)).or_default().releases += 1;
        }
    }

    /// Has a release wait for what was asked for its session before, and a claim for the release by another connection; else it
    /// is handed back, to be asked.
    pub(super) fn line_up(&mut self, ticket: Ticket, work: Work) -> Option<Work> {
        let Some(client) = work.client().and_then(|client| self.clients.get_mut(client)) else {
            return Some(work);
        };
        let waits = match &work {
            Work::Claim(claim) if claim.is_resume() => false,
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
    pub(super) fn passed_on(&mut self, client: &Arc<str>) {
        if let Some(client) = self.clients.get_mut(client) {
            client.in_line = client.in_line.saturating_sub(1);
        }
    }

    /// Forgets a client of which nothing waits.
    pub(super) fn tidy(&mut self, client: &Arc<str>) {
        if self.clients.get(client).is_some_and(Client::is_idle) {
            self.clients.remove(client);
        }
    }

    /// The next piece of work of a line that may be asked now.
    pub(super) fn pop(&mut self, of_sessions: bool) -> Option<(Ticket, Work)> {
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
