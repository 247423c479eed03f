//! Connections whose devices leave much unread, by slot: so that those which leave most can be ended when the process has too much
//! memory, and nobody walks over all connections for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Changes smaller than this are not told.
pub(crate) const STEP_BYTES: usize = 64 * 1024;

/// What devices leave unread, by the slots of their relays.
#[derive(Default)]
pub(crate) struct Unread {
    by_slot: Mutex<HashMap<u32, Left, RandomState>>,
    /// Some connection is to go, or was.
    has_condemned: AtomicBool,
    /// The process has more memory than it may have.
    is_short_of_memory: AtomicBool,
}

/// What one device leaves unread.
struct Left {
    bytes: usize,
    is_condemned: bool,
}

impl Unread {
    /// The connection in this slot has so many bytes that its device does not take; 0 when it is over.
    pub(crate) fn note(&self, slot: u32, bytes: usize) {
        let mut by_slot = self.by_slot.lock();
        if bytes == 0 {
            by_slot.remove(&slot);
        } else {
            by_slot.entry(slot).or_insert(Left { bytes, is_condemned: false }).bytes = bytes;
        }
    }

    /// What all of them leave unread.
    pub(crate) fn bytes(&self) -> usize {
        self.by_slot.lock().values().map(|left| left.bytes).sum()
    }

    /// Whether the connection in this slot is to go.
    pub(crate) fn is_condemned(&self, slot: u32) -> bool {
        self.has_condemned.load(Ordering::Relaxed)
            && self.by_slot.lock().get(&slot).is_some_and(|left| left.is_condemned)
    }

    /// Condemns connections that have about so many bytes together, those with most first. Answers their slots and bytes.
    pub(crate) fn condemn(&self, bytes: usize) -> (Vec<u32>, usize) {
        let mut by_slot = self.by_slot.lock();
        let mut largest: Vec<_> = by_slot.iter_mut().filter(|(_, left)| !left.is_condemned).collect();
        largest.sort_unstable_by_key(|(_, left)| std::cmp::Reverse(left.bytes));
        let (mut slots, mut freed) = (Vec::new(), 0);
        for (slot, left) in largest {
            if freed >= bytes {
                break;
            }
            left.is_condemned = true;
            freed += left.bytes;
            slots.push(*slot);
        }
        if !slots.is_empty() {
            self.has_condemned.store(true, Ordering::Relaxed);
        }
        (slots, freed)
    }

    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.is_short_of_memory.load(Ordering::Relaxed)
    }

    pub(crate) fn set_short_of_memory(&self, is_short: bool) {
        self.is_short_of_memory.store(is_short, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_leave_most_go_first() {
        let unread = Unread::default();
        for (slot, bytes) in [(1, 10), (2, 30), (3, 20), (4, 40)] {
            unread.note(slot, bytes);
        }
        unread.note(4, 0);
        assert_eq!(unread.bytes(), 60);
        assert_eq!(unread.condemn(31), (vec![2, 3], 50));
        assert!(unread.is_condemned(2) && !unread.is_condemned(1) && !unread.is_condemned(4));
        // A slot that is used again is another connection's.
        unread.note(2, 0);
        unread.note(2, 5);
        assert!(!unread.is_condemned(2));
        assert_eq!(unread.condemn(100), (vec![1, 2], 15));
    }
}
