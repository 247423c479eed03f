//! Windows: how much of a stream may be under way. One packet may exceed the credit, so that any packet fits any window.

use crate::wire::PACKET_OVERHEAD_BYTES;

/// What a PACKET with a Control Packet of `len` bytes takes from a window.
pub fn packet_cost(len: usize) -> u32 {
    u32::try_from(len + PACKET_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

/// The sender's side of a window.
#[derive(Debug)]
pub(super) struct Credit {
    left: i64,
    window: i64,
}

impl Credit {
    pub(super) fn new(window: u32) -> Self {
        Self { left: window.into(), window: window.into() }
    }

    /// Whether a packet may go, whatever its size.
    pub(super) fn is_some(&self) -> bool {
        self.left > 0
    }

    pub(super) fn spend(&mut self, cost: u32) {
        self.left -= i64::from(cost);
    }

    /// Adds what the other end gave back; `false` when that is more than it can have.
    #[must_use]
    pub(super) fn add(&mut self, credit: u32) -> bool {
        self.left += i64::from(credit);
        self.left <= self.window
    }
}

/// The receiver's side of a window.
#[derive(Debug)]
pub(super) struct Grant {
    window: i64,
    /// Taken and not given back to the sender.
    taken: i64,
    /// Of that, what has left this end.
    given_back: i64,
}

impl Grant {
    pub(super) fn new(window: u32) -> Self {
        Self { window: window.into(), taken: 0, given_back: 0 }
    }

    /// Counts a packet that came; `false` when the sender had no credit for it.
    #[must_use]
    pub(super) fn take(&mut self, cost: u32) -> bool {
        let had_credit = self.taken < self.window;
        self.taken += i64::from(cost);
        had_credit
    }

    /// Counts what has left this end, and answers whether there is enough now to tell the sender: half the window, so that
    /// small packets do not make a WINDOW each.
    pub(super) fn give_back(&mut self, cost: u32) -> bool {
        let was_due = self.is_due();
        self.given_back = (self.given_back + i64::from(cost)).min(self.taken);
        !was_due && self.is_due()
    }

    fn is_due(&self) -> bool {
        self.given_back >= (self.window / 2).max(1)
    }

    /// The credit to give back, if it is enough.
    pub(super) fn take_due(&mut self) -> Option<u32> {
        if !self.is_due() {
            return None;
        }
        let due = u32::try_from(self.given_back).unwrap_or(u32::MAX);
        self.taken -= i64::from(due);
        self.given_back -= i64::from(due);
        Some(due)
    }
}
