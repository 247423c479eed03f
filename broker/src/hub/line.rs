//! Work that the store could not take, or that waits for the route lease: kept in order and tried again, so that a store
//! that is away holds devices up and closes none. Its length is bounded by what devices may have in flight; QoS 0 is not
//! kept. Messages, and what sessions ask while they are served, are one track, since their order is that of publishers and
//! subscribers; who takes a session or lets it go waits for nothing but what was asked so for the same session before. Nothing is
//! asked in here.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

/// Pieces of work handed on in one go.
const RETRIED_MAX: usize = 50_000;

/// The place of a piece of work in the order in which it was to be done, and of a part among those that it became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64, u32);

impl Ticket {
    const FIRST: Self = Self(0, 0);

    /// The places of parts that this piece of work becomes.
    pub(crate) fn parts(self) -> impl Iterator<Item = Self> {
        (self.1..).map(move |part| Self(self.0, part))
    }

    /// The place of its retained message, which is set beside them.
    pub(crate) fn of_retained(self) -> Self {
        Self(self.0, u32::MAX)
    }
}

/// What work does with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionStep {
    /// It takes the session.
    Claim,
    /// It takes the session for a connection that was at another worker before.
    Resume,
    /// It lets the session go.
    Release,
}

/// What a line has to know of a piece of work.
pub(super) trait Waits {
    /// The number of the session whose message it is, if that has a place among its others.
    fn publisher(&self) -> Option<u64>;

    /// Whether newer messages of its publisher wait also while it is being asked about.
    fn keeps_place(&self) -> bool;

    /// The topic for which it sets the retained message.
    fn retains(&self) -> Option<&str>;

    /// The client whose session it takes or lets go.
    fn session(&self) -> Option<(&Arc<str>, SessionStep)>;
}

/// Which work a track has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrackOf {
    /// Messages, and what is asked for sessions that are served.
    Messages,
    /// Who takes a session or lets it go.
    Sessions,
}

/// Whether the store takes work, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Breaker {
    /// What comes is asked at once, unless something waits.
    #[default]
    Closed,
    /// The store has been asked with the oldest one alone, and has not refused anything since.
    Probing,
    /// Somebody hands on what waits: whatever comes meanwhile lines up behind it.
    Draining,
}

/// Work in the order in which it is to be tried again.
struct Track<W> {
    work: BTreeMap<Ticket, W>,
    breaker: Breaker,
}

impl<W> Default for Track<W> {
    fn default() -> Self {
        Self { work: BTreeMap::new(), breaker: Breaker::default() }
    }
}

impl<W> Track<W> {
    fn is_idle(&self) -> bool {
        self.work.is_empty() && self.breaker == Breaker::Closed
    }
}

/// What waits of one client's session.
struct Client<W> {
    /// So many pieces are in the track, or are being handed on.
    in_line: usize,
    /// Releases among those in the track.
    held_releases: usize,
    /// Releases that have no answer yet.
    releases: usize,
    /// Claims that wait for that answer, in order.
    behind: VecDeque<(Ticket, W)>,
}

impl<W> Default for Client<W> {
    fn default() -> Self {
        Self { in_line: 0, held_releases: 0, releases: 0, behind: VecDeque::new() }
    }
}

impl<W> Client<W> {
    fn is_idle(&self) -> bool {
        self.in_line == 0 && self.releases == 0 && self.behind.is_empty()
    }
}

/// What waits for the store.
pub(super) struct Line<W> {
    messages: Track<W>,
    sessions: Track<W>,
    /// By Client Identifier, those of which something waits.
    clients: HashMap<Arc<str>, Client<W>, RandomState>,
    /// Messages that the store was not given yet, by the session that publishes them: those among `messages`, and those whose
    /// publisher it is being asked about before they are matched.
    in_line: BTreeSet<(u64, Ticket)>,
    /// The last message that is to be retained for each topic, of those among `messages`.
    retained: HashMap<Arc<str>, Ticket>,
    next: u64,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self {
            messages: Track::default(),
            sessions: Track::default(),
            clients: HashMap::default(),
            in_line: BTreeSet::new(),
            retained: HashMap::new(),
            next: 0,
        }
    }
}

impl<W: Waits> Line<W> {
    /// Pieces of work that wait.
    pub(super) fn len(&self) -> usize {
        self.messages.work.len() + self.sessions.work.len()
    }

    /// Whether no message waits for the store, nor what has a place among messages.
    pub(super) fn is_idle(&self) -> bool {
        self.messages.is_idle()
    }

    /// Gives a piece of work its place. Answers it if it may be asked now; otherwise something older waits that it must not
    /// overtake.
    pub(super) fn submit(&mut self, work: W) -> Option<(Ticket, W)> {
        let ticket = self.take_ticket();
        if work.session().is_some() {
            let work = self.line_up(ticket, work)?;
            self.begin(&work);
            return Some((ticket, work));
        }
        if !self.messages.is_idle() {
            self.insert(ticket, work);
            return None;
        }
        if work.keeps_place() {
            self.in_line.extend(work.publisher().map(|publisher| (publisher, ticket)));
        }
        Some((ticket, work))
    }

    /// The place of a message that is asked about now; none if something older waits that it must not overtake.
    pub(super) fn place(&mut self) -> Option<Ticket> {
        self.is_idle().then(|| self.take_ticket())
    }

    /// Takes back what the store could not take: it is tried again, in its place. Without a ticket it was not asked in any order.
    pub(super) fn refused(&mut self, ticket: Option<Ticket>, work: W) {
        let ticket = ticket.unwrap_or_else(|| self.take_ticket());
        let track = if work.session().is_some() { TrackOf::Sessions } else { TrackOf::Messages };
        self.track(track).breaker = Breaker::Closed;
        self.insert(ticket, work);
    }

    /// Whether the store was not given an older message of this publisher yet.
    pub(super) fn holds_older(&self, publisher: u64, ticket: Ticket) -> bool {
        self.in_line.range((publisher, Ticket::FIRST)..(publisher, ticket)).next().is_some()
    }

    /// Notes that the store was given this message, or will not be: the next ones of its publisher may follow. Unless it was
    /// refused.
    pub(super) fn leave(&mut self, publisher: u64, ticket: Ticket) {
        if !self.messages.work.contains_key(&ticket) {
            self.in_line.remove(&(publisher, ticket));
        }
    }

    /// The last message that waits to be retained for a topic.
    pub(super) fn retained_mut(&mut self, topic: &str) -> Option<&mut W> {
        self.messages.work.get_mut(self.retained.get(topic)?)
    }

    /// Begins to try a track again. Answers how many pieces may be handed on: one alone, unless the last one was taken, or is still
    /// being answered; then the rest is in order behind it.
    pub(super) fn begin_retry(&mut self, of: TrackOf) -> usize {
        let track = self.track(of);
        match track.breaker {
            Breaker::Draining => 0,
            Breaker::Probing => {
                track.breaker = Breaker::Draining;
                RETRIED_MAX
            }
            Breaker::Closed if track.work.is_empty() => 0,
            Breaker::Closed => {
                track.breaker = Breaker::Probing;
                1
            }
        }
    }

    /// Notes that a piece of work was handed on, which takes this client's session or lets it go, if one's. Answers whether the next
    /// one may follow: what follows one that was refused must not overtake it.
    pub(super) fn handed_on(&mut self, of: TrackOf, client: Option<&Arc<str>>) -> bool {
        if let Some(client) = client {
            self.passed_on(client);
            self.tidy(client);
        }
        self.track(of).breaker != Breaker::Closed
    }

    /// Ends what [`Line::begin_retry`] has begun.
    pub(super) fn end_retry(&mut self, of: TrackOf) {
        let track = self.track(of);
        if track.breaker == Breaker::Draining {
            track.breaker = if track.work.is_empty() { Breaker::Closed } else { Breaker::Probing };
        }
    }

    /// Takes the next piece of work of a track that may be asked now.
    pub(super) fn pop(&mut self, of: TrackOf) -> Option<(Ticket, W)> {
        while let Some((ticket, work)) = self.track(of).work.pop_first() {
            if let Some((client, step)) = work.session()
                && let Some(client) = self.clients.get_mut(client)
            {
                if step == SessionStep::Release {
                    client.held_releases = client.held_releases.saturating_sub(1);
                } else if client.releases > 0 {
                    client.in_line = client.in_line.saturating_sub(1);
                    client.behind.push_back((ticket, work));
                    continue;
                }
            }
            if let Some(topic) = work.retains()
                && self.retained.get(topic) == Some(&ticket)
            {
                self.retained.remove(topic);
            }
            self.begin(&work);
            return Some((ticket, work));
        }
        None
    }

    /// Notes that a release has its answer, or was held.
    pub(super) fn release_answered(&mut self, client_id: &Arc<str>) {
        if let Some(client) = self.clients.get_mut(client_id) {
            client.releases = client.releases.saturating_sub(1);
        }
    }

    /// Takes what was asked for a session after its release, if that is answered: it may be asked now, or lines up behind what was
    /// held. As long as it is being asked, which ends with [`Line::passed_on`], nothing overtakes it.
    pub(super) fn pop_behind(&mut self, client_id: &Arc<str>) -> Option<(Ticket, W)> {
        while let Some(client) = self.clients.get_mut(client_id)
            && client.releases == 0
            && let Some((ticket, work)) = client.behind.pop_front()
        {
            if client.held_releases == 0 {
                client.in_line += 1;
                self.begin(&work);
                return Some((ticket, work));
            }
            self.insert(ticket, work);
        }
        self.tidy(client_id);
        None
    }

    /// Notes that a piece of work from the track, or from behind a release, has been asked.
    pub(super) fn passed_on(&mut self, client: &Arc<str>) {
        if let Some(client) = self.clients.get_mut(client) {
            client.in_line = client.in_line.saturating_sub(1);
        }
    }

    fn take_ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next, 0)
    }

    fn track(&mut self, of: TrackOf) -> &mut Track<W> {
        match of {
            TrackOf::Messages => &mut self.messages,
            TrackOf::Sessions => &mut self.sessions,
        }
    }

    fn insert(&mut self, ticket: Ticket, work: W) {
        if let Some((client, step)) = work.session() {
            let client = self.clients.entry(Arc::clone(client)).or_default();
            client.in_line += 1;
            client.held_releases += usize::from(step == SessionStep::Release);
            self.sessions.work.insert(ticket, work);
            return;
        }
        if let Some(topic) = work.retains() {
            let last = self.retained.entry(topic.into()).or_insert(ticket);
            *last = ticket.max(*last);
        }
        self.in_line.extend(work.publisher().map(|publisher| (publisher, ticket)));
        self.messages.work.insert(ticket, work);
    }

    /// A piece of work is about to be asked. What comes for its session behind a release waits for the answer.
    fn begin(&mut self, work: &W) {
        if let Some((client, SessionStep::Release)) = work.session() {
            self.clients.entry(Arc::clone(client)).or_default().releases += 1;
        }
    }

    /// Has a release wait for what was asked for its session before, and a claim for the release by another connection; else it
    /// is handed back, to be asked.
    fn line_up(&mut self, ticket: Ticket, work: W) -> Option<W> {
        let Some((client, step)) = work.session() else { return Some(work) };
        let Some(client) = self.clients.get_mut(client) else { return Some(work) };
        let waits = match step {
            SessionStep::Resume => false,
            SessionStep::Claim if client.releases > 0 || !client.behind.is_empty() => {
                client.behind.push_back((ticket, work));
                return None;
            }
            SessionStep::Claim => client.held_releases > 0,
            SessionStep::Release => client.in_line > 0,
        };
        if waits {
            self.insert(ticket, work);
            return None;
        }
        Some(work)
    }

    /// Forgets a client of which nothing waits.
    fn tidy(&mut self, client: &Arc<str>) {
        if self.clients.get(client).is_some_and(Client::is_idle) {
            self.clients.remove(client);
        }
    }
}
