//! Notes for other workers on their way into their inboxes, in order, one call under way for each: what comes meanwhile
//! goes with the next.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use link::mux::DEAD_AFTER;
use mqtt::QoS;
use state::{
    Delivery, Heard, Message, Noted, Number, Previous, PublishingSession, Stamp, StoreError, StoredSession,
    WorkerId,
};
use tokio::time::{Instant, sleep};

use super::Cluster;
use super::peer::Peer;

/// Learns what became of a note: that it is in the inbox (`true`), or that the worker is gone.
pub(crate) type NoteDone = Box<dyn FnOnce(Result<bool, StoreError>) + Send>;

/// Notes and bytes of one call.
const NOTES_MAX: usize = 256;
const BYTES_MAX: usize = 256 << 10;

/// For so long a worker that leaves tries to get rid of what it has for others, and so often it looks.
const REST_WITHIN: Duration = Duration::from_secs(5);
const REST_LOOK: Duration = Duration::from_millis(10);

/// What waits for one worker.
#[derive(Default)]
pub(super) struct Outbox {
    notes: VecDeque<Note>,
    bytes: usize,
    /// A call is under way, with so many of `notes`.
    asked: Option<usize>,
    /// The last call was refused, or the inbox was full.
    is_stuck: bool,
    /// The worker is gone, and nobody tries again for it.
    is_gone: bool,
    /// Hints at queues that came since those before were thinned out.
    hints: usize,
}

impl Outbox {
    fn is_owed(&self) -> bool {
        !self.is_gone && self.notes.iter().any(|note| note.told.is_some())
    }

    /// Lets go of what need not wait, and answers it: hints at a queue that a later one comes after, which says how far the queue goes;
    /// and of the first `count` notes messages that nobody waits for.
    fn thin(&mut self, count: usize) -> Vec<Note> {
        let (mut left, mut dropped) = (VecDeque::with_capacity(self.notes.len()), Vec::new());
        let mut hinted = HashSet::new();
        for (at, note) in std::mem::take(&mut self.notes).into_iter().enumerate().rev() {
            let stays = match &note.noted {
                Noted::Queued { session, .. } => hinted.insert(Arc::clone(session)),
                Noted::Message { .. } | Noted::TakenOver { .. } => at >= count || note.told.is_some(),
            };
            if stays { left.push_front(note) } else { dropped.push(note) }
        }
        (self.notes, self.hints) = (left, 0);
        self.bytes -= dropped.iter().map(|note| note.bytes).sum::<usize>();
        dropped
    }
}

struct Note {
    noted: Noted,
    bytes: usize,
    /// Nobody waits for it: it may be left out.
    told: Option<NoteDone>,
}

/// Bytes of a note without a message.
const NOTE_BYTES: usize = 128;

impl Cluster {
    /// Sends a message to a worker. Without `told` the message is dropped when it cannot be sent now. `publisher` is as in [`Stamp`].
    pub(crate) fn note_message(
        self: &Arc<Self>,
        worker: WorkerId,
        message: &Arc<Message>,
        publisher: Option<PublishingSession>,
        (is_plain, shares): (bool, Vec<Arc<str>>),
        told: Option<NoteDone>,
    ) {
        let Some(peer) = self.find_peer(worker) else {
            if let Some(told) = told {
                told(Ok(false));
            }
            return;
        };
        let bytes = message.size() + NOTE_BYTES;
        // Its number is that of its place among those that wait.
        let stamp = Stamp { sender: self.id, number: 0, publisher, at_us: self.clock.earliest() };
        let noted = Noted::Message { stamp, message: Arc::clone(message), is_plain, shares };
        self.send(&peer, Note { noted, bytes, told });
    }

    /// Tells a worker that a message is in the stored queue of a session that is connected there.
    pub(crate) fn note_queued(
        self: &Arc<Self>,
        worker: WorkerId,
        session: Arc<StoredSession>,
        number: Number,
        delivery: Delivery,
    ) {
        let bytes = delivery.message.size() + NOTE_BYTES;
        let noted = Noted::Queued { session, number, delivery };
        self.send(&self.peer(worker), Note { noted, bytes, told: None });
    }

    /// A connection at another worker has lost its session to one here.
    pub(crate) fn tell_taken_over(self: &Arc<Self>, client_id: &Arc<str>, previous: Previous) {
        let Previous { worker, connection_id } = previous;
        let noted = Noted::TakenOver { client_id: Arc::clone(client_id), connection_id };
        // Somebody waits for it: the device, which has two connections.
        let told: NoteDone = Box::new(|_| ());
        self.send(&self.peer(worker), Note { noted, bytes: NOTE_BYTES, told: Some(told) });
    }

    fn send(self: &Arc<Self>, peer: &Arc<Peer>, mut note: Note) {
        let mut outbox = peer.outbox.lock();
        if outbox.is_gone {
            drop(outbox);
            return match note.told {
                Some(told) => told(Ok(false)),
                None => self.count_dropped(&note),
            };
        }
        let bytes_max = self.settings.notes_bytes_max;
        if outbox.bytes + note.bytes > bytes_max
            && outbox.asked.is_none()
            && outbox.hints * 2 > outbox.notes.len()
        {
            outbox.thin(0).iter().for_each(|note| self.count_dropped(note));
        }
        let is_full = outbox.bytes + note.bytes > bytes_max;
        // A worker that has stood still for so long may have lost its publishers to others: what nobody holds back would
        // come late, behind newer messages.
        let is_late = outbox.is_stuck || self.lease.lapsed_for() + self.settings.lease() > DEAD_AFTER;
        if note.told.is_none() && (is_full || (is_late && note.is_lost_without_harm())) {
            drop(outbox);
            self.count_dropped(&note);
            return;
        }
        if let Noted::Message { stamp, .. } = &mut note.noted {
            stamp.number = self.notes.fetch_add(1, Ordering::Relaxed) + 1;
        }
        outbox.bytes += note.bytes;
        outbox.hints += usize::from(matches!(note.noted, Noted::Queued { .. }));
        outbox.notes.push_back(note);
        drop(outbox);
        self.post(peer);
    }

    /// Posts what waits, unless a call is under way.
    fn post(self: &Arc<Self>, peer: &Arc<Peer>) {
        let mut outbox = peer.outbox.lock();
        if outbox.asked.is_some() || outbox.is_stuck || outbox.notes.is_empty() {
            return;
        }
        let mut bytes = 0;
        let notes: Vec<Noted> = outbox
            .notes
            .iter()
            .take(NOTES_MAX)
            .take_while(|note| {
                let fits = bytes < BYTES_MAX;
                bytes += note.bytes;
                fits
            })
            .map(|note| note.noted.clone())
            .collect();
        outbox.asked = Some(notes.len());
        drop(outbox);
        let (cluster, to) = (Arc::clone(self), Arc::clone(peer));
        self.api.post(peer.worker, notes, Box::new(move |heard| cluster.posted(&to, heard)));
    }

    fn posted(self: &Arc<Self>, peer: &Arc<Peer>, heard: Result<Heard, StoreError>) {
        let mut outbox = peer.outbox.lock();
        let count = outbox.asked.take().unwrap_or(0);
        let answer = match heard {
            Ok(Heard::Yes) => Ok(true),
            Ok(Heard::Gone) => Ok(false),
            _ if outbox.is_gone => Ok(false),
            Ok(Heard::Full) => return self.keep(outbox, count),
            Err(error) if error.is_retryable() => return self.keep(outbox, count),
            Err(error) => Err(error),
        };
        // A worker that is gone gets nothing of what waits either.
        let count = if matches!(answer, Ok(true)) { count } else { outbox.notes.len() };
        let notes: Vec<Note> = outbox.notes.drain(..count).collect();
        outbox.bytes -= notes.iter().map(|note| note.bytes).sum::<usize>();
        drop(outbox);
        if matches!(answer, Ok(true)) {
            self.metrics.notes_sent.inc_by(notes.len() as u64);
        }
        for note in notes {
            if let Some(told) = note.told {
                told(answer.clone());
            }
        }
        self.post(peer);
    }

    /// The inbox could not take the first `count` notes: what may be left out is, the rest waits.
    fn keep(&self, mut outbox: parking_lot::MutexGuard<'_, Outbox>, count: usize) {
        outbox.is_stuck = true;
        let dropped = outbox.thin(count);
        drop(outbox);
        dropped.iter().for_each(|note| self.count_dropped(note));
    }

    /// Tries again where notes could not be posted.
    pub(super) fn repost(self: &Arc<Self>) {
        for peer in self.all_peers() {
            let was_stuck = std::mem::take(&mut peer.outbox.lock().is_stuck);
            if was_stuck {
                self.post(&peer);
            }
        }
    }

    /// Returns when no note waits that somebody waits for, or after a while: who lost a session to this worker, which has no other
    /// way to tell it, is told before the worker leaves.
    pub(crate) async fn send_rest(&self) {
        let until = Instant::now() + REST_WITHIN;
        while self.all_peers().iter().any(|peer| peer.outbox.lock().is_owed()) && Instant::now() < until {
            sleep(REST_LOOK).await;
        }
    }

    /// The worker is gone: nothing that waits for it will be heard.
    pub(super) fn give_up(self: &Arc<Self>, peer: &Arc<Peer>) {
        let notes: Vec<Note> = {
            let mut outbox = peer.outbox.lock();
            outbox.is_gone = true;
            // The others are answered with the call that is under way, whatever becomes of it.
            let asked = outbox.asked.unwrap_or(0);
            let notes = outbox.notes.split_off(asked);
            outbox.bytes -= notes.iter().map(|note| note.bytes).sum::<usize>();
            notes.into()
        };
        for told in notes.into_iter().filter_map(|note| note.told) {
            told(Ok(false));
        }
    }

    fn count_dropped(&self, note: &Note) {
        let kind = match note.noted {
            Noted::Message { .. } => "Message",
            Noted::Queued { .. } => "Queued",
            Noted::TakenOver { .. } => "TakenOver",
        };
        self.metrics.notes_dropped.count((kind,));
    }
}

impl Note {
    /// Not a hint at a stored queue, which spares a worker reading it.
    fn is_lost_without_harm(&self) -> bool {
        matches!(&self.noted, Noted::Message { message, .. } if message.qos() == QoS::AtMostOnce)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use state::{MemoryCluster, Message};

    use super::*;
    use crate::cluster::ClusterSettings;
    use crate::session::testing::delivery;

    fn message() -> Arc<Message> {
        Arc::new(Message::new("t", &[], b"", QoS::AtLeastOnce, false, 0))
    }

    // The log may say that a worker has left while a call is under way that found its inbox full.
    #[test]
    fn nothing_waits_for_a_worker_that_is_gone() {
        let cluster = Cluster::for_tests(MemoryCluster::new().worker("one"));
        let gone = Arc::new(AtomicUsize::new(0));
        let told = || -> Option<NoteDone> {
            let gone = Arc::clone(&gone);
            Some(Box::new(move |heard| {
                assert!(matches!(heard, Ok(false)));
                gone.fetch_add(1, Ordering::Relaxed);
            }))
        };
        let away = StoreError::Unavailable(Arc::new(std::fmt::Error));
        for (worker, outcome) in [(7, Ok(Heard::Full)), (8, Err(away))] {
            let peer = cluster.peer(WorkerId(worker));
            peer.outbox.lock().asked = Some(1);
            cluster.note_message(peer.worker, &message(), None, (true, Vec::new()), told());
            cluster.note_message(peer.worker, &message(), None, (true, Vec::new()), told());
            cluster.give_up(&peer);
            assert_eq!(gone.swap(0, Ordering::Relaxed), 1, "what was not with the store");
            cluster.posted(&peer, outcome);
            cluster.note_message(peer.worker, &message(), None, (true, Vec::new()), told());
            assert_eq!(gone.swap(0, Ordering::Relaxed), 2, "what was, and what comes later");
            assert!(peer.outbox.lock().notes.is_empty());
        }
    }

    // A hint that is lost altogether leaves a message in its queue until all queues are looked at.
    #[test]
    fn while_an_inbox_cannot_be_reached_the_last_hint_at_each_queue_waits() {
        let settings = ClusterSettings { notes_bytes_max: 10_000, ..ClusterSettings::default() };
        let cluster = Cluster::for_tests_with(MemoryCluster::new().worker("one"), settings);
        let peer = cluster.peer(WorkerId(7));
        let session = |name: &str| Arc::new(StoredSession { client_id: name.into(), incarnation: 1 });
        let hint = |name: &str, number| {
            let delivery = delivery("t", b"", QoS::AtLeastOnce);
            cluster.note_queued(peer.worker, session(name), Number(number), delivery);
        };
        let hints = || -> Vec<(String, u64)> {
            let hint = |note: &Note| match &note.noted {
                Noted::Queued { session, number, .. } => (session.client_id.to_string(), number.0),
                _ => ("message".to_owned(), 0),
            };
            peer.outbox.lock().notes.iter().map(hint).collect()
        };
        peer.outbox.lock().is_stuck = true;
        cluster.note_message(peer.worker, &message(), None, (true, Vec::new()), Some(Box::new(|_| ())));
        for number in 0..100 {
            hint("a", number);
            hint("b", number);
        }
        assert!(peer.outbox.lock().bytes <= 10_000);
        let last = [("a", 99), ("b", 99)].map(|(name, number)| (name.to_owned(), number));
        assert_eq!(hints()[hints().len() - 2..], last);
        let count = peer.outbox.lock().notes.len();
        cluster.keep(peer.outbox.lock(), count);
        assert_eq!(hints(), [&[("message".to_owned(), 0)], &last[..]].concat());
    }
}
