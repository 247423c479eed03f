//! Streams of a link that wait for room, and in which order they get it.

use std::collections::BTreeMap;

use link::wire::StreamId;

/// Streams that wait for room, perhaps for that of the link: who has waited longest comes first. Whoever gets some goes behind all
/// others; else those that always have more would take all room of the link.
#[derive(Default)]
pub(super) struct Blocked {
    places: BTreeMap<u64, StreamId>,
    next: u64,
}

/// A stream's place among them, if it has one.
#[derive(Default)]
pub(super) struct BlockedAt(Option<u64>);

impl Blocked {
    /// Notes whether a stream waits for room after its turn, in which it may have sent something.
    pub(super) fn note(&mut self, stream: StreamId, at: &mut BlockedAt, is_blocked: bool, has_sent: bool) {
        if is_blocked && at.0.is_some() && !has_sent {
            return;
        }
        self.forget(at);
        if is_blocked {
            self.places.insert(self.next, stream);
            at.0 = Some(self.next);
            self.next += 1;
        }
    }

    /// The stream waits no more.
    pub(super) fn forget(&mut self, at: &mut BlockedAt) {
        if let Some(place) = at.0.take() {
            self.places.remove(&place);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// In the order in which they get room.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.places.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_always_have_more_leave_room_to_all_others() {
        const STREAMS: u32 = 300;
        const ROOM: usize = 16;
        let mut blocked = Blocked::default();
        let mut at: Vec<_> = (0..STREAMS).map(|_| BlockedAt::default()).collect();
        let mut served = vec![0; at.len()];
        for stream in 0..STREAMS {
            blocked.note(StreamId(stream), &mut at[stream as usize], true, false);
        }
        for _ in 0..2 * at.len().div_ceil(ROOM) {
            for (turn, stream) in blocked.streams().collect::<Vec<_>>().into_iter().enumerate() {
                let has_sent = turn < ROOM;
                served[stream.0 as usize] += u32::from(has_sent);
                blocked.note(stream, &mut at[stream.0 as usize], true, has_sent);
            }
        }
        assert!(served.iter().all(|times| (2..=3).contains(times)), "{served:?}");
        for (stream, at) in (0..STREAMS).zip(&mut at) {
            blocked.note(StreamId(stream), at, false, true);
        }
        assert!(blocked.is_empty());
    }
}
