//! The subscribers of one filter: walked in a row for each message, found by session for each change.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Entry;

/// From this many on, positions are looked up in a map; below, a scan is quicker and smaller.
const SCAN_MAX: usize = 32;

/// A set of entries, at most one per session.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "there may be a million leaves, and few of them are large")]
pub(crate) struct Subscribers {
    entries: Vec<Entry>,
    positions: Option<Box<HashMap<u64, usize, RandomState>>>,
}

impl Subscribers {
    /// Adds or replaces; answers the entry that the session had.
    pub(crate) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        if let Some(position) = self.position(entry.session.id) {
            return Some(std::mem::replace(&mut self.entries[position], entry));
        }
        if let Some(positions) = &mut self.positions {
            positions.insert(entry.session.id, self.entries.len());
        }
        if self.entries.is_empty() {
            self.entries.reserve_exact(1);
        }
        self.entries.push(entry);
        if self.positions.is_none() && self.entries.len() > SCAN_MAX {
            let positions = self.entries.iter().enumerate().map(|(i, e)| (e.session.id, i)).collect();
            self.positions = Some(Box::new(positions));
        }
        None
    }

    /// Removes; answers the entry that the session had.
    pub(crate) fn remove(&mut self, session: u64) -> Option<Entry> {
        let position = self.position(session)?;
        let removed = self.entries.swap_remove(position);
        if let Some(positions) = &mut self.positions {
            positions.remove(&session);
            if let Some(moved) = self.entries.get(position) {
                positions.insert(moved.session.id, position);
            }
        }
        if self.entries.is_empty() {
            *self = Self::default();
        }
        Some(removed)
    }

    /// The entry of a session.
    pub(crate) fn find(&self, session: u64) -> Option<&Entry> {
        self.entries.get(self.position(session)?)
    }

    /// All, in no significant order.
    pub(crate) fn as_slice(&self) -> &[Entry] {
        &self.entries
    }

    fn position(&self, session: u64) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(&session).copied(),
            None => self.entries.iter().position(|e| e.session.id == session),
        }
    }
}
