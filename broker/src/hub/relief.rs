//! What a worker does when its process has too much memory: it lets go of what waits for the devices that read least, the largest
//! first, and then of their connections. Sessions of which much waits are listed, so that nobody walks over all of them.

use std::sync::atomic::Ordering;

use mqtt::ReasonCode;

use crate::Broker;
use crate::authorize::bounds::Bound;
use crate::directory::HEAVY_BYTES;
use crate::hub::Hub;
use crate::session::DropReason;

/// Between two lines in the log that say so, unless connections were ended.
const TELL_INTERVAL_MS: u64 = 1_000;

impl Hub {
    /// Whether the process has more memory than it may have.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.is_short_of_memory.load(Ordering::Relaxed)
    }

    /// Lets go of about so many bytes that wait for devices. Answers how many.
    fn relieve(&self, bytes: usize) -> usize {
        let mut heavy = self.directory.heavy_sessions();
        heavy.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let (mut freed, mut dropped, mut ended) = (0, Vec::new(), 0);
        for (_, session) in &heavy {
            if freed >= bytes {
                break;
            }
            freed += session.shed(&mut dropped);
        }
        for delivery in &dropped {
            self.metrics.drop_message(DropReason::OutOfMemory, delivery.qos);
        }
        let messages = dropped.len();
        for (_, session) in &heavy {
            // What is left now, QoS 1 and 2 above all.
            let unread = session.unread_bytes();
            if freed >= bytes {
                break;
            }
            if unread > HEAVY_BYTES && session.end(ReasonCode::QuotaExceeded) {
                self.metrics.limit(Bound::Memory);
                (freed, ended) = (freed + unread, ended + 1);
            }
        }
        // It may be needed at every look.
        let (now, told) = (self.now(), self.told_relief.load(Ordering::Relaxed));
        let is_told = freed > 0 && (ended > 0 || now.saturating_sub(told) >= TELL_INTERVAL_MS);
        if let Some((largest, session)) = heavy.first().filter(|_| is_told) {
            self.told_relief.store(now, Ordering::Relaxed);
            let client_id = &*session.client_id;
            tracing::warn!(
                client_id,
                unread_bytes = largest,
                messages,
                connections = ended,
                freed_bytes = freed,
                "too much memory: what waits for devices that do not read is dropped, or they are ended; the largest is named"
            );
        }
        freed
    }
}

/// For whoever sees to the memory of the process.
impl Broker {
    /// Says whether the process has more memory than it may have. As long as it does, nobody new is served over links, and sessions
    /// that hold much get no more subscriptions.
    pub fn set_short_of_memory(&self, is_short: bool) {
        self.hub.is_short_of_memory.store(is_short, Ordering::Relaxed);
    }

    /// Bytes that wait for devices of which much does, those included that are let go of at the moment.
    pub fn unread_bytes(&self) -> usize {
        self.hub.directory.unread_bytes()
    }

    /// Lets go of about so many bytes that wait for devices which do not read them: first messages that need not be kept, then
    /// connections, the largest first. Answers how many that are.
    pub fn relieve(&self, bytes: usize) -> usize {
        self.hub.relieve(bytes)
    }
}
