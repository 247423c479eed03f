//! What the workers of a [`super::MemoryCluster`] have in common: registry, log, inboxes, and the reads that wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::answers::Answers;
use crate::{
    Cursor, Done, Heard, InboxPage, Joined, Lease, LeftInInbox, Listener, ListeningPage, LogPage, Member,
    Noted, Placed, Position, RouteChange, StoreError, UnixMs, Wants, WorkerId,
};

/// Entries of a page.
const PAGE_MAX: usize = 256;
/// Entries of an inbox in one answer to who buries its worker.
const LEFT_MAX: usize = 8;
/// Entries of an inbox that may come back after they were thrown away.
const THROWN_MAX: usize = 8;

/// Everything.
#[derive(Default)]
pub(super) struct Registry {
    now: UnixMs,
    members: BTreeMap<WorkerId, Registration>,
    log: VecDeque<(Position, Vec<RouteChange>)>,
    log_end: Position,
    listening: BTreeMap<(WorkerId, Arc<str>), Wants>,
    inboxes: BTreeMap<WorkerId, Inbox>,
    /// Who is being buried.
    burials: BTreeSet<WorkerId>,
    pub(super) inbox_bytes_max: Option<usize>,
    pub(super) log_entries_max: Option<usize>,
    reads: Vec<Read>,
    /// Whose next read of the log, and of the inbox, is to tell of a gap.
    log_gaps: Vec<WorkerId>,
    /// Who has not read the log again since its last entries were lost.
    elsewhere: BTreeSet<WorkerId>,
    inbox_gaps: Vec<WorkerId>,
}

/// A worker in the registry.
struct Registration {
    name: Arc<str>,
    applied: Option<Position>,
    lease_until: UnixMs,
    renewed_at: UnixMs,
}

/// Its counter outlives its notes.
#[derive(Default)]
struct Inbox {
    is_open: bool,
    end: Position,
    notes: VecDeque<(Position, Vec<Noted>)>,
    /// What was thrown away last.
    thrown: VecDeque<(Position, Vec<Noted>)>,
}

/// A read that waits.
struct Read {
    worker: WorkerId,
    after: Position,
    until: UnixMs,
    answers: Answers,
    what: What,
}

enum What {
    Log(Done<LogPage>),
    Inbox(Done<InboxPage>),
}

/// An answer for a read that has waited, to be given without a lock.
pub(super) struct AnsweredRead {
    answers: Answers,
    page: FoundPage,
}

enum FoundPage {
    Log(Done<LogPage>, LogPage),
    Inbox(Done<InboxPage>, InboxPage),
}

impl AnsweredRead {
    pub(super) fn give(self) {
        match self.page {
            FoundPage::Log(done, page) => self.answers.answer(done, page),
            FoundPage::Inbox(done, page) => self.answers.answer(done, page),
        }
    }
}

fn size(notes: &[Noted]) -> usize {
    let size = |note: &Noted| match note {
        Noted::Message { message, .. } => 64 + message.size(),
        Noted::Queued { delivery, .. } => 64 + delivery.message.size(),
        Noted::TakenOver { .. } => 64,
    };
    notes.iter().map(size).sum()
}

fn placed<T: Clone>(position: Position, what: &[T]) -> impl Iterator<Item = Placed<T>> {
    what.iter().map(move |what| Placed { position, what: what.clone() })
}

fn buried() -> StoreError {
    StoreError::Unavailable(Arc::new(std::fmt::Error))
}

impl Registry {
    pub(super) fn join(&mut self, id: WorkerId, name: &Arc<str>) -> Result<Joined, StoreError> {
        if self.burials.contains(&id) {
            return Err(buried());
        }
        let entry = Registration {
            name: Arc::clone(name),
            applied: Some(Position(0)),
            lease_until: self.now,
            renewed_at: self.now,
        };
        self.members.insert(id, entry);
        self.elsewhere.remove(&id);
        self.inboxes.entry(id).or_default().is_open = true;
        Ok(Joined { log_end: self.log_end })
    }

    pub(super) fn renew(&mut self, id: WorkerId, applied: Option<Position>, lease_ms: u64) -> Lease {
        let now = self.now;
        let is_elsewhere = self.elsewhere.contains(&id);
        let is_expelled = match self.members.get_mut(&id) {
            Some(entry) if !self.burials.contains(&id) => {
                entry.applied = if is_elsewhere { Some(Position(0)) } else { applied };
                entry.lease_until = now + lease_ms;
                entry.renewed_at = now;
                false
            }
            _ => true,
        };
        let members = self.members.iter().map(|(id, entry)| Member {
            id: *id,
            name: Arc::clone(&entry.name),
            applied: entry.applied,
            is_live: entry.lease_until > now,
            silent_ms: now.saturating_sub(entry.renewed_at),
        });
        let (members, log_end) = (members.collect(), self.log_end);
        Lease { members, log_end, is_expelled, is_elsewhere, now_us: now * 1000 }
    }

    pub(super) fn leave(&mut self, id: WorkerId) -> Result<(), StoreError> {
        if self.burials.contains(&id) {
            return Err(buried());
        }
        self.strike(id);
        Ok(())
    }

    /// Takes a worker out, with all that it has here.
    pub(super) fn strike(&mut self, id: WorkerId) {
        self.burials.remove(&id);
        if self.members.remove(&id).is_some() {
            self.listening.retain(|(worker, _), _| *worker != id);
            self.push(vec![RouteChange::Left(id)]);
        }
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            inbox.is_open = false;
            inbox.notes.clear();
            inbox.thrown.clear();
        }
    }

    /// Answers where the last note is that is in the inbox.
    pub(super) fn shut_inbox(&mut self, id: WorkerId) -> Position {
        let inbox = self.inboxes.entry(id).or_default();
        inbox.is_open = false;
        inbox.notes.back().map(|(at, _)| *at).unwrap_or_default()
    }

    /// Answers whether the worker is to be buried, or is being buried already.
    pub(super) fn begin_burial(&mut self, id: WorkerId, silent_ms: u64) -> bool {
        let Some(entry) = self.members.get(&id) else { return false };
        let is_silent = self.now.saturating_sub(entry.renewed_at) >= silent_ms;
        (is_silent && self.burials.insert(id)) || self.burials.contains(&id)
    }

    /// Shuts an inbox, throws away what was handed on of it, and answers what is next.
    pub(super) fn left_in_inbox(&mut self, id: WorkerId, handed_on: Position) -> Vec<Placed<LeftInInbox>> {
        self.shut_inbox(id);
        let Some(inbox) = self.inboxes.get_mut(&id) else { return Vec::new() };
        inbox.notes.retain(|(at, _)| *at > handed_on);
        let left = |(at, notes): &(Position, Vec<Noted>)| {
            let position = *at;
            notes.clone().into_iter().filter_map(Noted::left).map(move |what| Placed { position, what })
        };
        let pages = inbox.notes.iter().map(|entry| left(entry).collect::<Vec<_>>());
        pages.filter(|page| !page.is_empty()).take(LEFT_MAX).flatten().collect()
    }

    pub(super) fn append(&mut self, id: WorkerId, mut changes: Vec<RouteChange>) -> Position {
        let is_member = self.members.contains_key(&id);
        changes.retain(|change| match change {
            RouteChange::Listening(_) | RouteChange::Deaf { .. } => is_member,
            _ => true,
        });
        for change in &changes {
            match change {
                RouteChange::Listening(Listener { worker, filter, wants }) => {
                    self.listening.insert((*worker, Arc::clone(filter)), *wants);
                }
                RouteChange::Deaf { worker, filter } => {
                    self.listening.remove(&(*worker, Arc::clone(filter)));
                }
                _ => {}
            }
        }
        if !changes.is_empty() {
            self.push(changes);
        }
        self.log_end
    }

    fn push(&mut self, changes: Vec<RouteChange>) {
        self.log_end.0 += 1;
        self.log.push_back((self.log_end, changes));
        while self.log_entries_max.is_some_and(|max| self.log.len() > max) {
            self.log.pop_front();
        }
    }

    /// Forgets the whole log, as if it were too long.
    pub(super) fn trim_log(&mut self) {
        self.log.clear();
    }

    /// What a failover does: the last entries of the log are gone, what was thrown away last of inboxes is there again, and
    /// everybody is told that something may be missing.
    pub(super) fn fail_over(&mut self, entries: usize) {
        for _ in 0..entries {
            if self.log.pop_back().is_some() {
                self.log_end.0 -= 1;
            }
        }
        for inbox in self.inboxes.values_mut().filter(|inbox| inbox.is_open) {
            let notes = std::mem::take(&mut inbox.notes);
            inbox.notes = std::mem::take(&mut inbox.thrown);
            inbox.notes.extend(notes);
        }
        self.log_gaps = self.members.keys().copied().collect();
        self.elsewhere = self.members.keys().copied().collect();
        self.members.values_mut().for_each(|entry| entry.applied = Some(Position(0)));
        self.inbox_gaps.clone_from(&self.log_gaps);
    }

    fn log_page(&mut self, id: WorkerId, after: Position) -> Option<LogPage> {
        let told = self.log_gaps.iter().position(|waiting| *waiting == id);
        let first = self.log.front().map_or(self.log_end.0 + 1, |(first, _)| first.0);
        if told.map(|at| self.log_gaps.remove(at)).is_some() || after > self.log_end || after.0 + 1 < first {
            return Some(LogPage { changes: Vec::new(), has_gap: true });
        }
        let rest = self.log.iter().filter(|(at, _)| *at > after).take(PAGE_MAX);
        let changes: Vec<_> = rest.flat_map(|(at, changes)| placed(*at, changes)).collect();
        (!changes.is_empty()).then_some(LogPage { changes, has_gap: false })
    }

    pub(super) fn read_log(
        &mut self,
        (id, answers): (WorkerId, &Answers),
        after: Position,
        wait_ms: u64,
        done: Done<LogPage>,
    ) -> Option<(Done<LogPage>, LogPage)> {
        if !self.log_gaps.contains(&id) {
            // It was told, and has done what it has to.
            self.elsewhere.remove(&id);
        }
        if let Some(page) = self.log_page(id, after) {
            return Some((done, page));
        }
        self.wait((id, answers), after, wait_ms, What::Log(done));
        None
    }

    fn wait(&mut self, (worker, answers): (WorkerId, &Answers), after: Position, wait_ms: u64, what: What) {
        let until = self.now.saturating_add(wait_ms);
        self.reads.push(Read { worker, after, until, answers: answers.clone(), what });
    }

    pub(super) fn listening(
        &self,
        cursor: Option<&Cursor>,
        routes_max: usize,
    ) -> Result<ListeningPage, StoreError> {
        let after = match cursor {
            None => Bound::Unbounded,
            Some(cursor) => {
                let damaged = || StoreError::Damaged { what: "cursor" };
                let (worker, filter) = cursor.0.split_first_chunk().ok_or_else(damaged)?;
                let filter = std::str::from_utf8(filter).map_err(|_| damaged())?;
                Bound::Excluded((WorkerId(u64::from_be_bytes(*worker)), Arc::from(filter)))
            }
        };
        let mut rest = self.listening.range((after, Bound::Unbounded));
        let mut page = ListeningPage::default();
        for ((worker, filter), wants) in rest.by_ref().take(routes_max.max(1)) {
            page.listeners.push(Listener { worker: *worker, filter: Arc::clone(filter), wants: *wants });
        }
        if let (Some(_), Some(Listener { worker, filter, .. })) = (rest.next(), page.listeners.last()) {
            page.next = Some(Cursor([&worker.0.to_be_bytes(), filter.as_bytes()].concat().into()));
        }
        Ok(page)
    }

    pub(super) fn post(&mut self, to: WorkerId, notes: Vec<Noted>) -> Heard {
        let Some(inbox) = self.inboxes.get_mut(&to).filter(|inbox| inbox.is_open) else { return Heard::Gone };
        let waiting: usize = inbox.notes.iter().map(|(_, notes)| size(notes)).sum();
        if self.inbox_bytes_max.is_some_and(|max| waiting > 0 && waiting + size(&notes) > max) {
            return Heard::Full;
        }
        if !notes.is_empty() {
            inbox.end.0 += 1;
            inbox.notes.push_back((inbox.end, notes));
        }
        Heard::Yes
    }

    fn inbox_page(&mut self, id: WorkerId, after: Position) -> Option<InboxPage> {
        let told = self.inbox_gaps.iter().position(|waiting| *waiting == id);
        let inbox = self.inboxes.entry(id).or_default();
        let is_ahead = after > inbox.end;
        let has_gap = told.map(|at| self.inbox_gaps.remove(at)).is_some() || is_ahead;
        while let Some(thrown) = inbox.notes.pop_front_if(|(at, _)| !has_gap && *at <= after) {
            inbox.thrown.push_back(thrown);
            if inbox.thrown.len() > THROWN_MAX {
                inbox.thrown.pop_front();
            }
        }
        let notes: Vec<_> =
            inbox.notes.iter().take(PAGE_MAX).flat_map(|(at, notes)| placed(*at, notes)).collect();
        (has_gap || !notes.is_empty()).then_some(InboxPage { notes, has_gap })
    }

    pub(super) fn read_inbox(
        &mut self,
        (id, answers): (WorkerId, &Answers),
        after: Position,
        wait_ms: u64,
        done: Done<InboxPage>,
    ) -> Option<(Done<InboxPage>, InboxPage)> {
        if let Some(page) = self.inbox_page(id, after) {
            return Some((done, page));
        }
        self.wait((id, answers), after, wait_ms, What::Inbox(done));
        None
    }

    /// Sets the clock.
    pub(super) fn now(&self) -> UnixMs {
        self.now
    }

    /// The clock goes on.
    pub(super) fn set_clock(&mut self, now: UnixMs) {
        self.now = now.max(self.now);
    }

    /// The reads whose page is there, or whose time is over.
    pub(super) fn take_answered(&mut self) -> Vec<AnsweredRead> {
        let mut answered = Vec::new();
        for read in std::mem::take(&mut self.reads) {
            let is_over = read.until <= self.now;
            let Read { worker, after, until, answers, what } = read;
            let page = match what {
                What::Log(done) => match self.log_page(worker, after) {
                    None if !is_over => Err(What::Log(done)),
                    page => Ok(FoundPage::Log(done, page.unwrap_or_default())),
                },
                What::Inbox(done) => match self.inbox_page(worker, after) {
                    None if !is_over => Err(What::Inbox(done)),
                    page => Ok(FoundPage::Inbox(done, page.unwrap_or_default())),
                },
            };
            match page {
                Ok(page) => answered.push(AnsweredRead { answers, page }),
                Err(what) => self.reads.push(Read { worker, after, until, answers, what }),
            }
        }
        answered
    }

    /// Ends a worker's reads without a page.
    pub(super) fn take_reads_of(&mut self, id: WorkerId) -> Vec<AnsweredRead> {
        let (ended, rest) = std::mem::take(&mut self.reads).into_iter().partition(|read| read.worker == id);
        self.reads = rest;
        let end = |Read { answers, what, .. }: Read| {
            let page = match what {
                What::Log(done) => FoundPage::Log(done, LogPage::default()),
                What::Inbox(done) => FoundPage::Inbox(done, InboxPage::default()),
            };
            AnsweredRead { answers, page }
        };
        let ended: Vec<Read> = ended;
        ended.into_iter().map(end).collect()
    }
}
