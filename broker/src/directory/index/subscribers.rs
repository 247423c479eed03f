//! The subscribers of one filter: walked in a row for each message, found by their numbers for each change.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Subscriber;

/// From this many on, positions are looked up in a map; below, a scan is quicker and smaller.
const SCAN_MAX: usize = 32;

/// A set of subscribers, each at most once.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "there may be a million leaves, and few of them are large")]
pub(crate) struct Subscribers {
    entries: Vec<Subscriber>,
    positions: Option<Box<HashMap<u64, usize, RandomState>>>,
}

impl Subscribers {
    /// Adds or replaces; answers what was there before.
    pub(crate) fn insert(&mut self, subscriber: Subscriber) -> Option<Subscriber> {
        if let Some(position) = self.position(subscriber.id()) {
            return Some(std::mem::replace(&mut self.entries[position], subscriber));
        }
        if let Some(positions) = &mut self.positions {
            positions.insert(subscriber.id(), self.entries.len());
        }
        if self.entries.is_empty() {
            self.entries.reserve_exact(1);
        }
        self.entries.push(subscriber);
        if self.positions.is_none() && self.entries.len() > SCAN_MAX {
            let positions = self.entries.iter().enumerate().map(|(i, e)| (e.id(), i)).collect();
            self.positions = Some(Box::new(positions));
        }
        None
    }

    /// Removes; answers what was there before.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Subscriber> {
        let position = self.position(id)?;
        let removed = self.entries.swap_remove(position);
        if let Some(positions) = &mut self.positions {
            positions.remove(&id);
            if let Some(moved) = self.entries.get(position) {
                positions.insert(moved.id(), position);
            }
        }
        if self.entries.is_empty() {
            *self = Self::default();
        }
        Some(removed)
    }

    /// The subscriber with this number.
    pub(crate) fn find(&self, id: u64) -> Option<&Subscriber> {
        self.entries.get(self.position(id)?)
    }

    /// All, in no significant order.
    pub(crate) fn as_slice(&self) -> &[Subscriber] {
        &self.entries
    }

    fn position(&self, id: u64) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(&id).copied(),
            None => self.entries.iter().position(|e| e.id() == id),
        }
    }
}
