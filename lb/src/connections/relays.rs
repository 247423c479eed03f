//! Relays of connected devices, by slot: who is woken, and who of them has to go or is asked about anew.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;

use super::incomplete::Incomplete;
use super::round::Round;
use super::unread::Unread;

/// Devices that are asked about in a second, at one edge.
const CALLED_PER_S: usize = 2_000;

/// Between two groups of them.
const CALL_INTERVAL: Duration = Duration::from_millis(20);

/// Edges hear of other rules at once; they begin within this time.
const BEGIN_WITHIN: Duration = Duration::from_millis(500);

/// All relays of an edge.
#[derive(Default)]
pub(crate) struct Relays {
    wakers: Mutex<Wakers>,
    /// While draining, relays with a slot below this have to go.
    dismissed: AtomicU32,
    /// Whom other rules reach, and when.
    pub(crate) round: Round,
    /// Whose devices leave much unread.
    pub(crate) unread: Unread,
    /// What they hold of packets that are not complete.
    pub(crate) incomplete: Incomplete,
}

impl Relays {
    /// Relays that there are.
    pub(crate) fn count(&self) -> usize {
        let wakers = self.wakers.lock();
        wakers.slots.len() - wakers.free.len()
    }

    /// Has `waker` woken when its relay is to look; the answer is for [`Relays::remove`].
    pub(crate) fn insert(&self, waker: Waker) -> u32 {
        self.wakers.lock().insert(waker)
    }

    /// The relay in this slot is over.
    pub(crate) fn remove(&self, slot: u32) {
        // Dropped after the lock is: it may be the last reference to the task.
        let waker = self.wakers.lock().remove(slot);
        drop(waker);
    }

    /// Has the relay in this slot woken, if there is one.
    pub(crate) fn wake(&self, slot: u32) {
        self.wakers.lock().wake(slot as usize, (slot as usize).saturating_add(1));
    }

    /// Has those end that hold most of incomplete packets, if all hold more than `bytes_max`.
    pub(crate) fn bound_incomplete(&self, bytes_max: usize) {
        for slot in self.incomplete.condemn_beyond(bytes_max) {
            self.wake(slot);
        }
    }

    /// Has all relays woken.
    pub(crate) fn wake_all(&self) {
        self.wakers.lock().wake(0, usize::MAX);
    }

    /// Has `count` more relays go while draining. `false` when there are no more; those that are still on their way here go as
    /// soon as they have come.
    pub(crate) fn dismiss(&self, count: usize) -> bool {
        let wakers = self.wakers.lock();
        let from = self.dismissed.load(Ordering::SeqCst);
        let through = wakers.skip(from as usize, count);
        // Told before they are woken, so that they see it.
        self.dismissed.store(through.unwrap_or(u32::MAX), Ordering::SeqCst);
        wakers.wake(from as usize, through.map_or(usize::MAX, |through| through as usize));
        through.is_some()
    }

    /// Whether the relay in this slot has to go.
    pub(crate) fn is_dismissed(&self, slot: u32) -> bool {
        slot < self.dismissed.load(Ordering::SeqCst)
    }

    /// Has `count` more relays called by the round. `false` when there are no more.
    fn call(&self, count: usize) -> bool {
        let wakers = self.wakers.lock();
        let from = self.round.reached();
        let through = wakers.skip(from as usize, count);
        // Told before they are woken, so that they see it.
        self.round.reach(through.unwrap_or(u32::MAX));
        wakers.wake(from as usize, through.map_or(usize::MAX, |through| through as usize));
        through.is_some()
    }

    /// Has all devices asked about anew, unless another round begins meanwhile. Must be called in a runtime.
    pub(crate) fn begin_round(self: &Arc<Self>) {
        let round = self.round.begin();
        tracing::info!(devices = self.count(), "rules have become others, devices are asked about anew");
        tokio::spawn(call_all(Arc::downgrade(self), round));
    }
}

async fn call_all(relays: Weak<Relays>, round: u16) {
    let wait = rand::rng().random_range(Duration::ZERO..BEGIN_WITHIN);
    tokio::time::sleep(wait).await;
    let at_once = CALLED_PER_S * CALL_INTERVAL.as_millis() as usize / 1_000;
    let mut ticks = tokio::time::interval(CALL_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(relays) = relays.upgrade() else { return };
        if relays.round.number() != round || !relays.call(at_once) {
            return;
        }
    }
}

/// What an edge does when its process has too much memory.
#[derive(Clone)]
pub struct Relief(pub(crate) Arc<Relays>);

impl Relief {
    /// Says whether the process has more memory than it may have. As long as it does, nobody new is let in.
    pub fn set_short_of_memory(&self, is_short: bool) {
        self.0.unread.set_short_of_memory(is_short);
    }

    /// Bytes that devices leave unread, those included whose connections end.
    pub fn unread_bytes(&self) -> usize {
        self.0.unread.bytes()
    }

    /// Ends connections whose devices leave about so many bytes unread together, those that leave most first. Answers how
    /// many bytes that are.
    pub fn relieve(&self, bytes: usize) -> usize {
        let (slots, freed) = self.0.unread.condemn(bytes);
        for slot in &slots {
            self.0.wake(*slot);
        }
        if freed > 0 {
            let connections = slots.len();
            tracing::warn!(
                connections,
                freed_bytes = freed,
                "too much memory: connections end whose devices leave most unread"
            );
        }
        freed
    }
}

/// Wakers of all relays, by slot.
#[derive(Default)]
pub(super) struct Wakers {
    slots: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Wakers {
    pub(super) fn insert(&mut self, waker: Waker) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(waker);
            return slot;
        }
        self.slots.push(Some(waker));
        // Bounded by the descriptors of one process, far below 32 bits.
        (self.slots.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Waker> {
        let waker = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(waker)
    }

    /// The slot behind the next `count` relays from slot `from` on; `None` if there are no more than these.
    fn skip(&self, from: usize, count: usize) -> Option<u32> {
        let mut left = count;
        for (slot, waker) in self.slots.iter().enumerate().skip(from) {
            if waker.is_some() {
                if left == 0 {
                    return Some(slot as u32);
                }
                left -= 1;
            }
        }
        None
    }

    /// Those from slot `from` up to `to`.
    pub(super) fn wake(&self, from: usize, to: usize) {
        let to = to.min(self.slots.len());
        for waker in self.slots.get(from.min(to)..to).into_iter().flatten().flatten() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_after_its_relay_is_gone() {
        let mut wakers = Wakers::default();
        let first = wakers.insert(Waker::noop().clone());
        let second = wakers.insert(Waker::noop().clone());
        assert!(wakers.remove(first).is_some());
        assert!(wakers.remove(first).is_none());
        assert_eq!(wakers.insert(Waker::noop().clone()), first);
        assert_ne!(first, second);
        assert_eq!(wakers.slots.len(), 2);
    }

    #[test]
    fn so_many_relays_are_dismissed_at_a_time_whatever_slots_are_empty() {
        let relays = Relays::default();
        let slots: Vec<_> = (0..10).map(|_| relays.insert(Waker::noop().clone())).collect();
        for empty in [1, 2, 5] {
            relays.remove(slots[empty]);
        }
        let gone = |relays: &Relays| {
            slots.iter().filter(|slot| ![1, 2, 5].contains(*slot) && relays.is_dismissed(**slot)).count()
        };
        assert_eq!((relays.count(), gone(&relays)), (7, 0));
        assert!(relays.dismiss(3) && gone(&relays) == 3);
        assert!(relays.dismiss(3) && gone(&relays) == 6);
        assert!(!relays.dismiss(3) && gone(&relays) == 7);
        assert!(relays.is_dismissed(relays.insert(Waker::noop().clone())), "who comes late goes at once");
    }
}
