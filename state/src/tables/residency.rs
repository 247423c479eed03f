//! Which bodies stay in memory: a bounded number of bytes, from sessions in the order in which they began to have some.

use super::Tables;

/// Slots visited in one go, so that nobody waits long for the lock.
const EVICT_SLOTS_MAX: usize = 2048;

/// Sessions visited in one go.
const EVICT_SESSIONS_MAX: usize = 256;

impl Tables {
    /// Whether more bytes of bodies are in memory than there should be.
    pub(crate) fn is_over_resident_max(&self) -> bool {
        self.resident_bytes + self.bodies.resident_bytes() > self.limits.resident_bytes_max
    }

    /// Forgets some bodies that can be read from disk: those that came in batches up to `committed_batch`, and shared ones
    /// with keys below `committed_key`. Answers whether it is worth going on.
    pub(crate) fn evict(&mut self, committed_batch: u64, committed_key: u64) -> bool {
        let mut visits_left = self.resident.len().min(EVICT_SESSIONS_MAX);
        let mut slots_left = EVICT_SLOTS_MAX;
        let mut freed_any = false;
        while self.is_over_resident_max() && slots_left > 0 {
            if self.bodies.resident_bytes() > self.resident_bytes {
                if self.bodies.evict_one(committed_key).is_none() {
                    break;
                }
                freed_any = true;
                slots_left -= 1;
                continue;
            }
            if visits_left == 0 {
                break;
            }
            visits_left -= 1;
            let Some(key) = self.resident.pop_front() else { break };
            let Some(session) = self.sessions.get_mut(&key) else { continue };
            let (visited, freed) = session.queue.evict(slots_left, committed_batch);
            self.resident_bytes -= freed;
            slots_left -= visited.min(slots_left);
            freed_any |= freed > 0;
            session.is_listed_resident = session.queue.resident_bytes() > 0;
            if session.is_listed_resident {
                self.resident.push_back(key);
            }
        }
        freed_any && self.is_over_resident_max()
    }
}
