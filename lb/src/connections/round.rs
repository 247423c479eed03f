//! Rules have become others: connected devices are asked about anew, one after the other in the order of their slots, so many in a
//! second that whoever answers can.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// How far a round has come.
#[derive(Default)]
pub(crate) struct Round {
    /// Which round it is; wraps, so that only whether it is the same means something.
    number: AtomicU16,
    /// Relays with a slot below this are called.
    reached: AtomicU32,
}

impl Round {
    /// The round that is on, or was last.
    pub(crate) fn number(&self) -> u16 {
        self.number.load(Ordering::SeqCst)
    }

    /// Whether the device in this slot, last asked about in the round `asked`, is to be asked about anew.
    pub(crate) fn calls(&self, slot: u32, asked: u16) -> bool {
        asked != self.number() && slot < self.reached.load(Ordering::SeqCst)
    }

    /// Begins the next round: those whom the one before has not called wait for it.
    pub(super) fn begin(&self) -> u16 {
        // First, so that nobody is called before its turn.
        self.reached.store(0, Ordering::SeqCst);
        self.number.fetch_add(1, Ordering::SeqCst).wrapping_add(1)
    }

    /// Where the round goes on.
    pub(crate) fn reached(&self) -> u32 {
        self.reached.load(Ordering::SeqCst)
    }

    pub(crate) fn reach(&self, slot: u32) {
        self.reached.store(slot, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_calls_whom_it_has_reached_once() {
        let round = Round::default();
        assert!(!round.calls(0, round.number()));
        let before = round.number();
        round.reach(10);
        let number = round.begin();
        assert!(!round.calls(0, before), "the next begins with the first");
        round.reach(10);
        assert!(round.calls(9, before) && !round.calls(10, before) && !round.calls(9, number));
        round.reach(u32::MAX);
        assert!(round.calls(u32::MAX - 1, before), "who asked before and came late, too");
    }
}
