//! What sessions leave to the other members of the shares by which it came to them: kept until somebody says that those have it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqtt::QoS;

use super::journal::Change;
use super::session::Session;
use super::timer::{TimerKind, WILL_RETRY_MS};
use super::{Page, SessionKey, Tables};
use crate::{Due, DueLeft, QueuePage, Queued, Record, StoredSession, UnixMs, Via};

/// Bytes that sessions leave to others at once, when their time is over: a session that would leave more than that, with what others
/// have left and is not finished, waits. It ends in the end whatever it leaves.
const LEFT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// By session and number; when it comes again.
pub(super) type AllLeft = BTreeMap<(SessionKey, u64), (DueLeft, UnixMs)>;

/// What a session that is gone leaves, of which some is only on disk.
#[derive(Debug)]
pub(crate) struct Bequest {
    pub(crate) session: Arc<StoredSession>,
    page: Page,
    /// As [`crate::Owned::sent`] says.
    sent: u64,
    /// One for each record of the page.
    numbers: std::ops::Range<u64>,
    /// As they count until it is read.
    bytes: u64,
}

impl Bequest {
    fn divide(session: &Arc<StoredSession>, page: QueuePage, sent: u64, first: u64) -> Vec<DueLeft> {
        let left = |(number, Queued { number: place, record }): (u64, Queued)| {
            let Record::Message(delivery) = record else { return None };
            let Via::Share(share) = delivery.via else { return None };
            // v5 [MQTT-4.8.2-5]: what was begun with QoS 2 ends with its session.
            let is_begun = delivery.qos == QoS::ExactlyOnce && place.0 < sent;
            let (session, message) = (Arc::clone(session), delivery.message);
            (!is_begun).then_some(DueLeft { session, share, message, number })
        };
        (first..).zip(page.records).filter_map(left).collect()
    }

    /// Bytes, begun messages included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The page as far as it is known.
    pub(crate) fn take_page(&mut self) -> Page {
        std::mem::take(&mut self.page)
    }

    /// What is for others, when the page is complete.
    pub(crate) fn complete(self, page: QueuePage) -> Vec<DueLeft> {
        Self::divide(&self.session, page, self.sent, self.numbers.start)
    }
}

impl Tables {
    /// A session ends: what came to it by shares is kept for their other members.
    pub(super) fn bequeath(&mut self, session: &Session) {
        let Some(mut page) = session.queue.shared() else { return };
        page.fill(|body| self.bodies.find(body));
        let count = page.records.len() as u64;
        let first = self.new_keys(count);
        let bequest = Bequest {
            session: Arc::clone(&session.identity),
            page,
            sent: session.sent.max(session.sent_at_most),
            numbers: first..first + count,
            bytes: session.queue.shared_bytes(),
        };
        if !bequest.page.is_ready() {
            self.left_bytes += bequest.bytes;
            // Whoever writes this batch reads it before.
            self.bequests.push(bequest);
            return;
        }
        let Bequest { session, page, sent, .. } = bequest;
        for left in Bequest::divide(&session, page.into_ready(), sent, first) {
            self.journal.note(Change::Left { left: left.clone() });
            self.keep_left(left, 0);
        }
    }

    /// Whether a session has to wait for its end, until others have more of what was left before, or for those that came before it.
    pub(super) fn has_to_wait(&self, key: SessionKey) -> bool {
        let leaves_some = |session: &Session| session.queue.shared_bytes() > 0;
        let is_behind = || self.timers.has_waiting() && self.sessions.get(&key).is_some_and(leaves_some);
        self.leaves_too_much(key) || is_behind()
    }

    /// Whether what a session leaves is too much for now.
    pub(super) fn leaves_too_much(&self, key: SessionKey) -> bool {
        let bytes = self.sessions.get(&key).map_or(0, |session| session.queue.shared_bytes());
        bytes > 0 && self.left_bytes > 0 && self.left_bytes + bytes > LEFT_BYTES_MAX
    }

    /// What has to be read before the batch is written that says it is gone.
    pub(crate) fn take_bequests(&mut self) -> Vec<Bequest> {
        std::mem::take(&mut self.bequests)
    }

    /// Bequests of so many bytes have been read and are kept.
    pub(crate) fn settle_bequests(&mut self, bytes: u64) {
        self.left_bytes -= bytes;
    }

    /// Keeps what is left until it is finished.
    pub(crate) fn keep_left(&mut self, left: DueLeft, at: UnixMs) {
        self.left_bytes += left.message.size() as u64;
        let key = SessionKey(left.session.incarnation);
        self.timers.arm(at, key, TimerKind::Left(left.number));
        self.left.insert((key, left.number), (left, at));
    }

    pub(super) fn hand_out_left(&mut self, key: SessionKey, number: u64, now: UnixMs) -> Option<Due> {
        let (left, at) = self.left.get_mut(&(key, number))?;
        *at = now + WILL_RETRY_MS;
        self.timers.arm(*at, key, TimerKind::Left(number));
        Some(Due::Left(left.clone()))
    }

    /// See [`crate::Store::finish_left`].
    pub(crate) fn finish_left(&mut self, left: &DueLeft) {
        let key = SessionKey(left.session.incarnation);
        if let Some((left, at)) = self.left.remove(&(key, left.number)) {
            self.left_bytes -= left.message.size() as u64;
            self.timers.disarm(at, key, TimerKind::Left(left.number));
            self.journal.note(Change::LeftGone { session: key, own: left.number });
        }
    }

    /// Whoever had it is gone: all of it is due.
    pub(super) fn rearm_left(&mut self) {
        for ((key, number), (_, at)) in &mut self.left {
            self.timers.disarm(*at, *key, TimerKind::Left(*number));
            *at = 0;
            self.timers.arm(0, *key, TimerKind::Left(*number));
        }
    }
}
