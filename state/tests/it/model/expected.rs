//! What a store is expected to do, as plain as can be.

use std::collections::{BTreeMap, BTreeSet};

use state::{Fence, ResumeRefusal, UnixMs};

use super::{CLIENTS, COUNTED, COUNTED_MAX};

/// What a connection asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) client: usize,
    /// It is the connection that had the session last, and asks once more.
    pub(super) again: bool,
    pub(super) principal: usize,
    pub(super) clean_start: bool,
    pub(super) create: bool,
    pub(super) expiry_s: u32,
    pub(super) will_delay_s: Option<u32>,
    pub(super) will_wait_ms: u64,
    pub(super) memory_queue: bool,
}

/// A queue record of the model: its payload, or that it was released.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Message(String),
    Released,
}

#[derive(Clone, Debug)]
pub(super) struct ModelSession {
    pub(super) principal: usize,
    /// Who has it, or had it last, and by which claim of its.
    pub(super) connection: u64,
    pub(super) attempt: u32,
    pub(super) connected: bool,
    /// Of its owner, or its last one.
    pub(super) fence: Option<Fence>,
    pub(super) memory_queue: bool,
    pub(super) expiry_s: u32,
    pub(super) expires_at: Option<UnixMs>,
    /// Delay, when it is due, whether it was handed out.
    pub(super) will: Option<(u32, Option<UnixMs>, bool)>,
    pub(super) queue: BTreeMap<u64, Item>,
    pub(super) tail: u64,
    pub(super) subscriptions: BTreeSet<u8>,
    pub(super) received: BTreeSet<u16>,
}

/// A Will whose session is gone, or another connection's.
pub(super) struct Orphan {
    pub(super) client: usize,
    pub(super) due_at: UnixMs,
    /// The owner for whose last word it waits.
    pub(super) left_by: Option<Fence>,
}

/// What the store is expected to hold.
#[derive(Default)]
pub(super) struct Model {
    pub(super) sessions: BTreeMap<usize, ModelSession>,
    /// By a serial of their own.
    pub(super) orphans: BTreeMap<u64, Orphan>,
    next_serial: u64,
    /// What the last call handed out: orphans, and Wills of clients' sessions.
    pub(super) handed_out: (BTreeSet<u64>, BTreeSet<usize>),
}

const WILL_RETRY_MS: u64 = 30_000;

impl Model {
    pub(super) fn adopt(&mut self, client: usize, due_at: UnixMs) {
        self.keep_for(client, due_at, None);
    }

    fn keep_for(&mut self, client: usize, due_at: UnixMs, left_by: Option<Fence>) {
        self.next_serial += 1;
        self.orphans.insert(self.next_serial, Orphan { client, due_at, left_by });
    }

    /// The last word of an owner that lost its session.
    pub(super) fn last_word(&mut self, of: &Fence, keep_will: bool, now: UnixMs) {
        let Some((serial, orphan)) = self.orphans.iter_mut().find(|(_, it)| it.left_by.as_ref() == Some(of))
        else {
            return;
        };
        (orphan.due_at, orphan.left_by) = (now, None);
        let serial = *serial;
        if !keep_will {
            self.orphans.remove(&serial);
        }
    }

    /// Whether the last one who had a session is this owner, who may let go of it, even if it has done so before.
    pub(super) fn take_back(&mut self, client: usize, of: &Fence) -> bool {
        let Some(session) = self.sessions.get_mut(&client).filter(|it| it.fence.as_ref() == Some(of)) else {
            return false;
        };
        if let Some((_, Some(due_at), true)) = session.will {
            session.will = None;
            self.adopt(client, due_at);
        }
        true
    }

    /// Removes a session; true if its Will is to be published by the caller.
    pub(super) fn end(&mut self, client: usize) -> Option<bool> {
        let gone = self.sessions.remove(&client)?;
        Some(match gone.will {
            None => false,
            Some((_, Some(due_at), true)) => {
                self.adopt(client, due_at);
                false
            }
            Some(_) => true,
        })
    }

    /// Whether the client's session is somebody else's.
    pub(super) fn is_foreign(&self, wanted: &Wanted, now: UnixMs) -> bool {
        self.sessions.get(&wanted.client).is_some_and(|found| {
            let is_there = found.connected || found.expires_at.is_none_or(|at| at > now);
            is_there && found.principal != wanted.principal
        })
    }

    /// Whether a claim would make one session more of a principal than it may have.
    pub(super) fn is_beyond(&self, wanted: &Wanted) -> bool {
        let of_counted = |session: &&ModelSession| session.principal == COUNTED;
        let is_one_more = !self.sessions.get(&wanted.client).is_some_and(|found| of_counted(&found));
        let count = self.sessions.values().filter(of_counted).count();
        wanted.principal == COUNTED && wanted.create && is_one_more && count >= COUNTED_MAX
    }

    /// Whether a connection would go on with a session that is over and was another principal's, and one of the two is counted:
    /// where workers share a store, such a session stays uncounted.
    pub(super) fn is_inherited(&self, client: usize, principal: usize, now: UnixMs) -> bool {
        self.sessions.get(&client).is_some_and(|found| {
            let is_over = !found.connected && found.expires_at.is_some_and(|at| at <= now);
            is_over && found.principal != principal && [found.principal, principal].contains(&COUNTED)
        })
    }

    /// The connection that asks, and which of its claims this is. `fresh`: one that never was.
    pub(super) fn asks(&self, client: usize, again: bool, fresh: u64) -> (u64, u32) {
        match self.sessions.get(&client).filter(|_| again) {
            Some(found) => (found.connection, found.attempt + 1),
            None => (fresh, 1),
        }
    }

    /// Answers (present, will due, discarded), or `None` for no session.
    pub(super) fn claim(
        &mut self,
        wanted: &Wanted,
        asks: (u64, u32),
        now: UnixMs,
    ) -> (Option<bool>, bool, bool) {
        let Wanted { client, principal, clean_start, create, expiry_s, will_delay_s, .. } = wanted;
        let left_by =
            self.sessions.get(client).filter(|found| found.connected).and_then(|it| it.fence.clone());
        let goes_on = self.sessions.get(client).is_some_and(|found| found.connection == asks.0);
        let survives = self.sessions.get(client).is_some_and(|found| {
            let is_there = found.connected || found.expires_at.is_none_or(|at| at > now);
            !clean_start && is_there && (found.expiry_s > 0 || goes_on)
        });
        let mut will_due = false;
        let mut discarded = false;
        if survives {
            if let Some(found) = self.sessions.get_mut(client)
                && let Some((delay_s, due_at, handed_out)) = found.will.take()
            {
                match due_at {
                    None => will_due = delay_s == 0,
                    Some(at) if handed_out => {
                        self.adopt(*client, at);
                    }
                    // Without a delay it waits only because the connection might have gone on elsewhere.
                    Some(at) => will_due = at <= now || delay_s == 0,
                }
            }
        } else if let Some(will) = self.end(*client) {
            will_due = will;
            discarded = true;
        }
        // A Will goes with its connection.
        will_due &= !goes_on;
        if will_due && left_by.is_some() && wanted.will_wait_ms > 0 {
            self.keep_for(*client, now + wanted.will_wait_ms, left_by);
            will_due = false;
        } else if will_due {
            // It comes again until somebody says that it was published.
            self.adopt(*client, now + WILL_RETRY_MS);
        }
        if !survives && !create {
            return (None, will_due, discarded);
        }
        let session = self.sessions.entry(*client).or_insert_with(|| ModelSession {
            principal: *principal,
            connection: asks.0,
            attempt: asks.1,
            connected: true,
            fence: None,
            memory_queue: false,
            expiry_s: *expiry_s,
            expires_at: None,
            will: None,
            queue: BTreeMap::new(),
            tail: 1,
            subscriptions: BTreeSet::new(),
            received: BTreeSet::new(),
        });
        (session.connection, session.attempt) = asks;
        session.connected = true;
        session.expires_at = None;
        session.expiry_s = *expiry_s;
        session.memory_queue = wanted.memory_queue;
        session.will = will_delay_s.map(|delay_s| (delay_s, None, false));
        (Some(survives), will_due, discarded)
    }

    /// Whether a connection goes on with the client's session, or why not.
    pub(super) fn resume(
        &mut self,
        client: usize,
        principal: usize,
        asks: (u64, u32),
        memory_queue: bool,
        now: UnixMs,
    ) -> Option<ResumeRefusal> {
        let Some(session) = self.sessions.get_mut(&client) else { return Some(ResumeRefusal::Gone) };
        if session.connection != asks.0 || asks.1 < session.attempt {
            return Some(ResumeRefusal::TakenOver);
        }
        let is_there = session.connected || session.expires_at.is_none_or(|at| at > now);
        if is_there && session.principal != principal {
            return Some(ResumeRefusal::Foreign);
        }
        session.principal = principal;
        session.memory_queue = memory_queue;
        session.attempt = asks.1;
        session.connected = true;
        session.expires_at = None;
        match &mut session.will {
            Some((_, Some(at), true)) => {
                let at = *at;
                session.will = None;
                self.adopt(client, at);
            }
            Some((_, due_at, false)) => *due_at = None,
            Some((_, None, true)) | None => {}
        }
        None
    }

    pub(super) fn leave(session: &mut ModelSession, now: UnixMs) {
        session.connected = false;
        session.expires_at = (session.expiry_s != u32::MAX).then(|| now + u64::from(session.expiry_s) * 1000);
        if let Some((delay_s, due_at, _)) = &mut session.will {
            *due_at = Some(now + u64::from((*delay_s).min(session.expiry_s)) * 1000);
        }
    }

    /// What is due, sorted: Wills before the expiry of their session.
    pub(super) fn due(&mut self, now: UnixMs) -> Vec<String> {
        let mut due = Vec::new();
        let (orphans, clients) = &mut self.handed_out;
        orphans.clear();
        clients.clear();
        for (serial, orphan) in &mut self.orphans {
            if orphan.due_at <= now {
                due.push(format!("will {}", CLIENTS[orphan.client]));
                (orphan.due_at, orphan.left_by) = (now + WILL_RETRY_MS, None);
                orphans.insert(*serial);
            }
        }
        for (client, session) in &mut self.sessions {
            if let Some((_, Some(at), handed_out)) = &mut session.will
                && *at <= now
            {
                due.push(format!("will {}", CLIENTS[*client]));
                *handed_out = true;
                *at = now + WILL_RETRY_MS;
                clients.insert(*client);
            }
        }
        let expired: Vec<usize> = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.connected && session.expires_at.is_some_and(|at| at <= now))
            .map(|(client, _)| *client)
            .collect();
        for client in expired {
            due.push(format!("expired {}", CLIENTS[client]));
            assert_ne!(self.end(client), Some(true), "a will is handed out before its session expires");
            if self.handed_out.1.remove(&client) {
                self.handed_out.0.insert(self.next_serial);
            }
        }
        due.sort();
        due
    }

    pub(super) fn restart(&mut self, now: UnixMs) {
        for orphan in self.orphans.values_mut() {
            (orphan.due_at, orphan.left_by) = (now, None);
        }
        for client in 0..CLIENTS.len() {
            let Some(session) = self.sessions.get_mut(&client) else { continue };
            if !session.connected {
                if let Some((_, Some(at), handed_out)) = &mut session.will
                    && std::mem::take(handed_out)
                {
                    // It was due before now, and is due again.
                    *at = now;
                }
            } else if session.expiry_s > 0 {
                Self::leave(session, now);
            } else {
                if self.end(client) == Some(true) {
                    self.adopt(client, now);
                }
            }
        }
    }
}
