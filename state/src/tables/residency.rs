//! Which bodies stay in memory: a bounded number of bytes, from sessions in the order in which they began to have some.

use super::Tables;

/// Slots visited in one go, so that nobody waits long for the lock.
const EVICT_SLOTS_MAX: usize = 2048;

impl Tables {
    /// Whether more bytes of bodies are in memory than there should be.
    pub(crate) fn is_over_resident_max(&self) -> bool {
        self.resident_bytes + self.bodies.resident_bytes() > self.limits.resident_bytes_max
    }

    /// Forgets some bodies that can be read from disk: of sessions whose last batch is at most `committed_batch`, and
    /// shared ones with keys below `committed_key`. Answers whether it is worth going on.
    pub(crate) fn evict(&mut self, committed_batch: u64, committed_key: u64) -> bool {
        let mut visits_left = self.resident.len();
        let mut slots_left = EVICT_SLOTS_MAX;
        while self.is_over_resident_max() && slots_left > 0 {
            slots_left = slots_left.saturating_sub(64);
            if self.bodies.resident_bytes() > self.resident_bytes {
                if self.bodies.evict_one(committed_key).is_none() {
                    return false;
                }
                continue;
            }
            if visits_left == 0 {
                return false;
            }
            visits_left -= 1;
            let Some(key) = self.resident.pop_front() else { return false };
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            if session.last_batch > committed_batch {
                self.resident.push_back(key);
                continue;
            }
            let (freed, has_more) = session.queue.evict(EVICT_SLOTS_MAX / 4);
            self.resident_bytes -= freed;
            slots_left = slots_left.saturating_sub(EVICT_SLOTS_MAX / 4);
            session.is_listed_resident = has_more;
            if has_more {
                self.resident.push_back(key);
            }
        }
        self.is_over_resident_max()
    }
}
