//! Message bodies that several queue records share, counted by reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::BodyKey;
use crate::Message;

#[derive(Debug)]
struct Body {
    references: u32,
    /// `None`: on disk only.
    message: Option<Arc<Message>>,
}

/// The shared bodies, by age.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    by_key: BTreeMap<BodyKey, Body>,
    resident_bytes: u64,
    /// No body below is resident.
    resident_from: u64,
}

impl Bodies {
    /// Adds a body with as many references as records will hold.
    pub(super) fn add(&mut self, key: BodyKey, message: Arc<Message>, references: u32) {
        self.resident_bytes += message.size() as u64;
        self.by_key.insert(key, Body { references, message: Some(message) });
    }

    /// Adds a reference to a body that is on disk.
    pub(super) fn restore(&mut self, key: BodyKey) {
        self.by_key.entry(key).or_insert(Body { references: 0, message: None }).references += 1;
    }

    /// Drops a reference. True if it was the last.
    pub(super) fn release(&mut self, key: BodyKey) -> bool {
        let Some(body) = self.by_key.get_mut(&key) else { return false };
        body.references = body.references.saturating_sub(1);
        if body.references > 0 {
            return false;
        }
        if let Some(message) = &body.message {
            self.resident_bytes -= message.size() as u64;
        }
        self.by_key.remove(&key);
        true
    }

    /// The message, if it is in memory.
    pub(super) fn find(&self, key: BodyKey) -> Option<Arc<Message>> {
        self.by_key.get(&key)?.message.clone()
    }

    pub(super) fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Forgets the oldest resident body, of those below `below`. Answers its size, `None` if there is none.
    pub(super) fn evict_one(&mut self, below: u64) -> Option<u64> {
        for (key, body) in self.by_key.range_mut(BodyKey(self.resident_from)..BodyKey(below)) {
            self.resident_from = key.0 + 1;
            if let Some(message) = body.message.take() {
                let size = message.size() as u64;
                self.resident_bytes -= size;
                return Some(size);
            }
        }
        None
    }

    /// References by body, for the invariants.
    #[cfg(all(feature = "testing", debug_assertions))]
    pub(super) fn references(&self) -> BTreeMap<BodyKey, u32> {
        self.by_key.iter().map(|(key, body)| (*key, body.references)).collect()
    }
}
