//! Bytes of incomplete packets, by slot. Where all together are more than they may be, those go that hold most, whoever's grow just
//! then: a client that sends half a packet and no more takes no room from those that go on.

use std::cmp::Reverse;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::relays::Wakers;

/// Room that is made at once, as a part of the bound: to look for who holds most costs a look at all slots.
const SPARE_PART: usize = 64;

/// Words in the first chunk; each further one has twice as many as the one before it.
const FIRST_WORDS: usize = 64;

/// Chunks for all slots that 32 bits can name.
const CHUNKS: usize = 27;

/// In the word of a slot, beside its bytes: it is to go.
const CONDEMNED: u32 = 1 << 31;

/// What connections hold of incomplete packets.
#[derive(Default)]
pub(crate) struct Incomplete {
    bytes: AtomicUsize,
    /// Of them, what those hold that are to go.
    condemned_bytes: AtomicUsize,
    words: Words,
    /// Held while it is looked for who is to go.
    choosing: Mutex<()>,
}

impl Incomplete {
    /// The connection in this slot holds so many bytes from now on; 0 when it is over. Answers whether these are more than before.
    pub(crate) fn hold(&self, slot: u32, bytes: usize) -> bool {
        let word = self.words.at(slot);
        // Below 2 to the 28th: as long as a Control Packet.
        let bytes = bytes.min((CONDEMNED - 1) as usize);
        let after = |before: u32| if bytes == 0 { 0 } else { (before & CONDEMNED) | bytes as u32 };
        // Nearly always it holds nothing, and other cores have the words beside this one in their caches.
        if word.load(Ordering::Acquire) == 0 && bytes == 0 {
            return false;
        }
        let set = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| Some(after(before)));
        let before = set.unwrap_or_else(|before| before);
        let held = (before & !CONDEMNED) as usize;
        change(&self.bytes, held, bytes);
        if before & CONDEMNED != 0 {
            change(&self.condemned_bytes, held, bytes);
        }
        bytes > held
    }

    /// What all of them hold.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the connection in this slot is to go.
    pub(crate) fn is_condemned(&self, slot: u32) -> bool {
        self.words.at(slot).load(Ordering::Acquire) & CONDEMNED != 0
    }

    /// Condemns those that hold most, if all hold more than `bytes_max`. Answers their slots, to be woken.
    pub(crate) fn condemn_beyond(&self, bytes_max: usize) -> Vec<u32> {
        // Who looks already finds the others, too.
        let Some(_choosing) = (self.excess(bytes_max) > 0).then(|| self.choosing.try_lock()).flatten() else {
            return Vec::new();
        };
        let mut excess = self.excess(bytes_max);
        if excess == 0 {
            return Vec::new();
        }
        excess += bytes_max / SPARE_PART;
        let mut largest: Vec<_> =
            self.words.all().filter(|&(_, word)| word & CONDEMNED == 0 && word > 0).collect();
        largest.sort_unstable_by_key(|&(_, word)| Reverse(word));
        let mut slots = Vec::new();
        for (slot, word) in largest {
            if excess == 0 {
                break;
            }
            let bytes = word as usize;
            // Counted before it can be let go of.
            self.condemned_bytes.fetch_add(bytes, Ordering::AcqRel);
            let set = self.words.at(slot).compare_exchange(
                word,
                word | CONDEMNED,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if set.is_ok() {
                excess = excess.saturating_sub(bytes);
                slots.push(slot);
            } else {
                self.condemned_bytes.fetch_sub(bytes, Ordering::AcqRel);
            }
        }
        slots
    }

    /// What is held beyond the bound by those that stay.
    fn excess(&self, bytes_max: usize) -> usize {
        let condemned_bytes = self.condemned_bytes.load(Ordering::Acquire);
        self.bytes().saturating_sub(condemned_bytes).saturating_sub(bytes_max)
    }
}

fn change(bytes: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        bytes.fetch_add(after - before, Ordering::AcqRel);
    } else {
        bytes.fetch_sub(before - after, Ordering::AcqRel);
    }
}

/// A word for each slot, in chunks that are there from when one of their slots is used: no lock for each packet.
struct Words([OnceLock<Box<[AtomicU32]>>; CHUNKS]);

impl Default for Words {
    fn default() -> Self {
        Self([const { OnceLock::new() }; CHUNKS])
    }
}

impl Words {
    fn at(&self, slot: u32) -> &AtomicU32 {
        let slot = slot as usize;
        let chunk = (slot / FIRST_WORDS + 1).ilog2() as usize;
        let words =
            self.0[chunk].get_or_init(|| (0..FIRST_WORDS << chunk).map(|_| AtomicU32::new(0)).collect());
        &words[slot - first_slot(chunk)]
    }

    /// All words that there are, with their slots.
    fn all(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().enumerate().flat_map(|(chunk, words)| {
            let words = words.get().into_iter().flatten().enumerate();
            words.map(move |(at, word)| ((first_slot(chunk) + at) as u32, word.load(Ordering::Acquire)))
        })
    }
}

/// The slot of the first word of a chunk.
fn first_slot(chunk: usize) -> usize {
    FIRST_WORDS * ((1 << chunk) - 1)
}

/// Handshakes that hold incomplete packets. They have a share of their own, so that nobody who has not authenticated takes room from
/// connected devices.
#[derive(Default)]
pub(crate) struct Arriving {
    incomplete: Incomplete,
    wakers: Mutex<Wakers>,
}

impl Arriving {
    /// Has `waker` woken when its handshake is to go; the answer is for [`Arriving::remove`].
    pub(crate) fn insert(&self, waker: Waker) -> u32 {
        self.wakers.lock().insert(waker)
    }

    /// The handshake in this slot holds nothing any more.
    pub(crate) fn remove(&self, slot: u32) {
        self.incomplete.hold(slot, 0);
        let waker = self.wakers.lock().remove(slot);
        drop(waker);
    }

    /// The handshake in this slot holds so many bytes. Where all hold more than `bytes_max`, those go that hold most.
    pub(crate) fn hold(&self, slot: u32, bytes: usize, bytes_max: usize) {
        if !self.incomplete.hold(slot, bytes) {
            return;
        }
        let wakers = self.wakers.lock();
        for slot in self.incomplete.condemn_beyond(bytes_max) {
            wakers.wake(slot as usize, slot as usize + 1);
        }
    }

    pub(crate) fn is_condemned(&self, slot: u32) -> bool {
        self.incomplete.is_condemned(slot)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.incomplete.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_hold_most_go_and_who_comes_late_stays() {
        let incomplete = Incomplete::default();
        for (slot, bytes) in [(0, 300), (70, 500), (5_000, 200)] {
            incomplete.hold(slot, bytes);
        }
        assert!(incomplete.condemn_beyond(1_000).is_empty());
        incomplete.hold(1, 10);
        assert_eq!(incomplete.condemn_beyond(1_000), [70]);
        assert!(incomplete.is_condemned(70) && !incomplete.is_condemned(1));
        // It has not gone yet, and makes room already.
        incomplete.hold(1, 20);
        assert!(incomplete.condemn_beyond(1_000).is_empty());
        incomplete.hold(70, 0);
        assert!(!incomplete.is_condemned(70), "the slot may be used again");
        assert_eq!((incomplete.bytes(), incomplete.excess(500)), (520, 20));
    }

    #[test]
    fn who_is_to_go_and_comes_to_an_end_leaves_nothing_behind() {
        let incomplete = Incomplete::default();
        incomplete.hold(3, 100);
        assert_eq!(incomplete.condemn_beyond(50), [3]);
        incomplete.hold(3, 120);
        assert!(incomplete.is_condemned(3) && incomplete.excess(0) == 0);
        incomplete.hold(3, 0);
        assert_eq!((incomplete.bytes(), incomplete.condemned_bytes.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn every_slot_has_a_word() {
        let words = Words::default();
        for slot in 0..1_000 {
            words.at(slot).store(slot + 1, Ordering::Relaxed);
        }
        let used = words.all().filter(|(_, word)| *word > 0);
        assert!(used.eq((0..1_000).map(|slot| (slot, slot + 1))));
        assert!(((u32::MAX as usize / FIRST_WORDS + 1).ilog2() as usize) < CHUNKS);
    }
}
