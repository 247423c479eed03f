//! Rules have become others: connected devices are asked about anew, one after the other in the order of their slots, so many in a
//! second that whoever answers can.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rand::Rng as _;

use crate::shared::Shared;

/// Devices that are asked about in a second, at one edge.
const CALLED_PER_S: usize = 2_000;

/// Between two groups of them.
const CALL_INTERVAL: Duration = Duration::from_millis(20);

/// Edges hear of other rules at once; they begin within this time.
const BEGIN_WITHIN: Duration = Duration::from_millis(500);

/// How far it has come.
#[derive(Default)]
pub(crate) struct Round {
    /// Which; it wraps, so that only whether it is the same means something.
    number: AtomicU16,
    /// Relays with a slot below this are called.
    reached: AtomicU32,
}

impl Round {
    /// The one that is on, or was last.
    pub(crate) fn number(&self) -> u16 {
        self.number.load(Ordering::SeqCst)
    }

    /// Whether the device in this slot, last asked about in the round `asked`, is to be asked about anew.
    pub(crate) fn calls(&self, slot: u32, asked: u16) -> bool {
        asked != self.number() && slot < self.reached.load(Ordering::SeqCst)
    }

    /// Begins the next: those whom the one before has not called wait for it.
    fn begin(&self) -> u16 {
        // First, so that nobody is called before its turn.
        self.reached.store(0, Ordering::SeqCst);
        self.number.fetch_add(1, Ordering::SeqCst).wrapping_add(1)
    }

    /// Where it goes on.
    pub(crate) fn reached(&self) -> u32 {
        self.reached.load(Ordering::SeqCst)
    }

    pub(crate) fn reach(&self, slot: u32) {
        self.reached.store(slot, Ordering::SeqCst);
    }
}

/// Has all devices asked about anew, unless another round begins meanwhile. Must be called in a runtime.
pub(crate) fn begin(shared: &Arc<Shared>) {
    let round = shared.round.begin();
    tracing::info!(devices = shared.relays(), "rules have become others, devices are asked about anew");
    tokio::spawn(call_all(Arc::downgrade(shared), round));
}

async fn call_all(shared: Weak<Shared>, round: u16) {
    let wait = rand::rng().random_range(Duration::ZERO..BEGIN_WITHIN);
    tokio::time::sleep(wait).await;
    let at_once = CALLED_PER_S * CALL_INTERVAL.as_millis() as usize / 1_000;
    let mut ticks = tokio::time::interval(CALL_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.round.number() != round || !shared.call(at_once) {
            return;
        }
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
