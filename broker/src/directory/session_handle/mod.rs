//! A session as others see it: the index points here, publishers post here, the connection that owns the session picks
//! up here. One short lock, never held while another is taken.

mod leaver;
mod routes;
mod unread;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use link::ConnectionId;
use mqtt::{PacketId, QoS, ReasonCode};
use parking_lot::Mutex;
use state::{Delivery, Number, Principal, StoreError, StoredSession};
use tokio::time::Instant;

use self::leaver::Leavers;
use self::routes::Routes;
pub(crate) use self::unread::{HEAVY_BYTES, thin_out};
use crate::session::{Answered, Input, RequestKind};

/// Something that waits for the connection that owns a session.
#[derive(Debug)]
pub(crate) enum Item {
    /// What the session is handed as it is: messages, answers of the store, the end; never a packet.
    Input(Input<'static>),
    /// The answer to a publish of this session, which came at that time.
    Published(Instant, Input<'static>),
    /// The store has done what this SUBSCRIBE or UNSUBSCRIBE asks for: which of its filters were subscribed to before.
    Request(PacketId, RequestKind, Result<Vec<bool>, StoreError>),
    /// A page of retained messages.
    Retained(Result<state::RetainedPage, StoreError>),
    /// A retained message has gone the way of the stored queue.
    RetainedQueued,
    /// An action of this session's client was asked about.
    Answered(Box<Answered>),
    /// The effect of this frame of the edge is in the store.
    Durable(u64),
}

impl From<Input<'static>> for Item {
    fn from(input: Input<'static>) -> Self {
        Self::Input(input)
    }
}

impl Item {
    /// What it counts against the bounds.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Input(Input::Deliver(delivery) | Input::DeliverStored(_, delivery)) => {
                delivery.message.size()
            }
            _ => 0,
        }
    }
}

/// What a publisher learns when it posts a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// It waits for the device.
    Yes,
    /// Likewise, and so much does by now that the session is to be listed.
    Heavy,
    /// Nobody is connected.
    Offline,
    /// More waits already than the bound allows.
    Full,
}

/// How a session can take a message, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Its device is connected and takes messages.
    Ready,
    /// It is connected, but messages wait for it.
    Busy,
    /// It is not connected here.
    Away,
}

/// With so many items in its mailbox a session is busy.
const BUSY_ITEMS: usize = 64;

/// One session, connected or not.
pub(crate) struct SessionHandle {
    /// Unique in this process.
    pub id: u64,
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// Set when the session is in the store.
    pub stored: Option<Arc<StoredSession>>,
    /// Whose it is, known when a connection here has had it.
    principal: OnceLock<Principal>,
    mailbox: Mutex<Mailbox>,
    routes: Mutex<Routes>,
    /// The last message for its stored queue found nobody connected to it, at any worker.
    is_away: AtomicBool,
    /// Messages with QoS 1 or 2 wait for its device.
    is_busy: AtomicBool,
    /// The store has said that it is this worker's since the route lease lapsed for the so many-th time.
    owned_since: AtomicU64,
    /// By the store's clock: what other workers published before with QoS 0 is not for its connection.
    listens_since: AtomicU64,
    /// Bytes of the messages that wait in the session itself.
    held_bytes: AtomicUsize,
    /// It is among those of which much waits.
    is_heavy: AtomicBool,
}

/// One time that a connection has a session here. A connection that comes back by another stream, after its edge gave the first up,
/// has the session another time: what the stream before is answered, or says at its end, is not about that. Unique in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Attachment(u64);

impl Attachment {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

#[derive(Default)]
struct Mailbox {
    connection: Option<ConnectionId>,
    /// That of `connection`, if it is there.
    attachment: Attachment,
    items: VecDeque<Item>,
    bytes: usize,
    /// Taken, but not used yet.
    backlog_bytes: usize,
    waker: Option<Waker>,
    /// The connection was asked to end.
    is_ending: bool,
    /// Why the connection is to end, if it is among the items.
    end: Option<ReasonCode>,
    /// The highest number of the stored queue that was told of while nobody was connected.
    noted: Number,
    /// The task is to be woken by the end of its ownership alone: the device takes nothing more now.
    awaits_end: bool,
    /// What was taken and not used yet is to be thinned out.
    is_shed: bool,
    /// When the connection loses the session, its edge is asked for what it said last.
    yields: bool,
    leavers: Option<Box<Leavers>>,
}

thread_local! {
    /// Emptied queues, so that a burst for a session that was idle does not begin with a chain of reallocations.
    static SPARE: RefCell<Vec<VecDeque<Item>>> = const { RefCell::new(Vec::new()) };
}

/// Spare queues kept per thread, and the largest one that is worth keeping.
const SPARE_QUEUES_MAX: usize = 64;
const SPARE_ITEMS_MAX: usize = 1024;

/// Gives an emptied queue back for reuse.
pub(crate) fn recycle(queue: VecDeque<Item>) {
    debug_assert!(queue.is_empty());
    if queue.capacity() == 0 || queue.capacity() > SPARE_ITEMS_MAX {
        return;
    }
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_QUEUES_MAX {
            spare.push(queue);
        }
    });
}

impl SessionHandle {
    /// A session that nobody is connected to yet.
    pub(crate) fn new(id: u64, client_id: Arc<str>, stored: Option<Arc<StoredSession>>) -> Self {
        Self {
            id,
            client_id,
            stored,
            principal: OnceLock::new(),
            mailbox: Mutex::default(),
            routes: Mutex::default(),
            is_away: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            owned_since: AtomicU64::new(0),
            listens_since: AtomicU64::new(0),
            held_bytes: AtomicUsize::new(0),
            is_heavy: AtomicBool::new(false),
        }
    }

    /// Makes `connection` the owner. A previous one notices when it looks; what waited for it is dropped: stored messages
    /// are read from the store. With `yields` the next one waits until this one is over.
    pub(crate) fn attach(&self, connection: ConnectionId, yields: bool) -> Attachment {
        let (waker, attachment) = {
            let mut mailbox = self.mailbox.lock();
            mailbox.lose(Some(connection));
            let (waker, noted, leavers) = (mailbox.waker.take(), mailbox.noted, mailbox.leavers.take());
            let attachment = Attachment::next();
            let connection = Some(connection);
            *mailbox = Mailbox { connection, attachment, yields, leavers, ..Mailbox::default() };
            self.is_busy.store(false, Ordering::Relaxed);
            if noted > Number(0) {
                // Another worker enqueued it after this one's claim, and its note was faster than the answer to the claim.
                mailbox.push(Input::Missed(noted).into());
            }
            (waker, attachment)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        attachment
    }

    /// Whether `connection` owns the session.
    pub(crate) fn is_owned_by(&self, connection: ConnectionId) -> bool {
        self.mailbox.lock().connection == Some(connection)
    }

    /// Whether the session is that of this attachment.
    pub(crate) fn is_attached(&self, attachment: Attachment) -> bool {
        self.mailbox.lock().has(attachment)
    }

    /// Ends an attachment, unless there is another by now. Answers whether there was not, and what nobody has taken.
    pub(crate) fn detach(&self, attachment: Attachment) -> (bool, VecDeque<Item>) {
        let mut mailbox = self.mailbox.lock();
        let was_owner = mailbox.has(attachment);
        let items = match mailbox.connection {
            Some(_) if was_owner => {
                let leavers = mailbox.leavers.take();
                std::mem::replace(&mut *mailbox, Mailbox { leavers, ..Mailbox::default() }).items
            }
            Some(_) => VecDeque::new(),
            None => std::mem::take(&mut mailbox.items),
        };
        (was_owner, items)
    }

    /// Takes the session away from whoever has it.
    pub(crate) fn evict(&self) {
        let waker = {
            let mut mailbox = self.mailbox.lock();
            mailbox.lose(None);
            if self.stored.is_some() {
                mailbox.items = VecDeque::new();
                mailbox.bytes = 0;
            }
            mailbox.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// It belongs to `principal`, unless it has one.
    pub(crate) fn belongs_to(&self, principal: &Principal) {
        self.principal.get_or_init(|| principal.clone());
    }

    /// Whether another principal is connected to it.
    pub(crate) fn is_foreign_to(&self, principal: &Principal) -> bool {
        self.is_connected() && self.principal.get().is_some_and(|whose| whose != principal)
    }

    /// The epoch that its last change had, if it is a stored one that has nothing here: neither a connection, nor something that waits
    /// for one, nor a filter.
    pub(crate) fn blank_since(&self) -> Option<u64> {
        self.stored.as_ref()?;
        let has_nobody = {
            let mailbox = self.mailbox.lock();
            mailbox.connection.is_none() && mailbox.items.is_empty() && mailbox.leavers.is_none()
        };
        if has_nobody { self.routes.lock().blank_since() } else { None }
    }

    /// Whether a device is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.mailbox.lock().connection.is_some()
    }

    /// How it can take a message with this QoS.
    pub(crate) fn readiness(&self, qos: QoS) -> Readiness {
        let mailbox = self.mailbox.lock();
        let is_busy = || self.is_busy.load(Ordering::Relaxed) || mailbox.items.len() >= BUSY_ITEMS;
        match mailbox.connection {
            None => Readiness::Away,
            Some(_) if qos != QoS::AtMostOnce && is_busy() => Readiness::Busy,
            Some(_) => Readiness::Ready,
        }
    }

    /// Whether messages with QoS 1 or 2 wait for its device.
    pub(crate) fn set_busy(&self, is_busy: bool) {
        if self.is_busy.load(Ordering::Relaxed) != is_busy {
            self.is_busy.store(is_busy, Ordering::Relaxed);
        }
    }

    /// Posts a message if a device is connected and no more than `bytes_max` wait for it.
    pub(crate) fn deliver(&self, delivery: Delivery, bytes_max: usize) -> Posted {
        let mut mailbox = self.mailbox.lock();
        if mailbox.connection.is_none() {
            return Posted::Offline;
        }
        if mailbox.bytes + mailbox.backlog_bytes > bytes_max {
            return Posted::Full;
        }
        mailbox.push(Input::Deliver(delivery).into());
        let (waker, bytes) = (mailbox.reader(), mailbox.bytes + mailbox.backlog_bytes);
        drop(mailbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        if self.becomes_heavy(bytes) { Posted::Heavy } else { Posted::Yes }
    }

    /// Tells the owner that a message is in its stored queue. Beyond `bytes_max` the body is not posted: the session
    /// reads its queue when it has drained. Answers whether so much waits by now that it is to be listed.
    pub(crate) fn deliver_stored(&self, number: Number, delivery: Delivery, bytes_max: usize) -> bool {
        let mut mailbox = self.mailbox.lock();
        if mailbox.connection.is_none() {
            mailbox.noted = mailbox.noted.max(number);
            return false;
        }
        if mailbox.bytes + mailbox.backlog_bytes <= bytes_max {
            mailbox.push(Input::DeliverStored(number, delivery).into());
        } else if let Some(Item::Input(Input::Missed(last))) = mailbox.items.back_mut() {
            *last = number;
        } else {
            mailbox.push(Input::Missed(number).into());
        }
        let (waker, bytes) = (mailbox.reader(), mailbox.bytes + mailbox.backlog_bytes);
        drop(mailbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.becomes_heavy(bytes)
    }

    /// Tells the owner that its stored queue goes as far as `last`, if it has one.
    pub(crate) fn tell_tail(&self, last: Number) {
        let mut mailbox = self.mailbox.lock();
        if mailbox.connection.is_none() {
            return;
        }
        mailbox.push(Input::Missed(last).into());
        let waker = mailbox.reader();
        drop(mailbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Posts an answer to who asked, if the session is still that one's.
    pub(crate) fn answer(&self, attachment: Attachment, item: Item) {
        let mut mailbox = self.mailbox.lock();
        if !mailbox.has(attachment) {
            return;
        }
        if let Item::Input(Input::End(reason)) = item {
            mailbox.end = Some(reason);
        }
        mailbox.push(item);
        let waker = if mailbox.end.is_some() { mailbox.waker.take() } else { mailbox.reader() };
        drop(mailbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Asks whoever is connected to end, for `reason`; once. Answers whether it did.
    pub(crate) fn end(&self, reason: ReasonCode) -> bool {
        let attached = {
            let mut mailbox = self.mailbox.lock();
            let is_ending = std::mem::replace(&mut mailbox.is_ending, true);
            mailbox.connection.filter(|_| !is_ending).map(|_| mailbox.attachment)
        };
        if let Some(attachment) = attached {
            self.answer(attachment, Input::End(reason).into());
        }
        attached.is_some()
    }

    /// Takes all that waits for the connection, and how many bytes it has, or registers its task. What cannot be used at once
    /// is to be counted by [`SessionHandle::set_backlog`]. `Err`: the session has another owner.
    pub(crate) fn poll_take(
        &self,
        attachment: Attachment,
        cx: &mut Context<'_>,
    ) -> Result<Option<(VecDeque<Item>, usize)>, Evicted> {
        let mut mailbox = self.mailbox.lock();
        if !mailbox.has(attachment) {
            return Err(Evicted);
        }
        if mailbox.items.is_empty() {
            mailbox.register(cx, false);
            return Ok(None);
        }
        let bytes = std::mem::take(&mut mailbox.bytes);
        Ok(Some((std::mem::take(&mut mailbox.items), bytes)))
    }

    /// Of what was taken, so many bytes still wait: they count against the bounds as if they had not been taken.
    pub(crate) fn set_backlog(&self, attachment: Attachment, bytes: usize) {
        let mut mailbox = self.mailbox.lock();
        if mailbox.has(attachment) {
            mailbox.backlog_bytes = bytes;
        }
    }

    /// Looks whether the connection is to end, or registers its task for that alone. `Err`: the session has another owner.
    pub(crate) fn poll_end(
        &self,
        attachment: Attachment,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ReasonCode, Evicted>> {
        let mut mailbox = self.mailbox.lock();
        if !mailbox.has(attachment) {
            return Poll::Ready(Err(Evicted));
        }
        if let Some(reason) = mailbox.end {
            return Poll::Ready(Ok(reason));
        }
        mailbox.register(cx, true);
        Poll::Pending
    }

    /// Whether the last message for its stored queue found nobody connected to it, at any worker.
    pub(crate) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// After how many lapses of the route lease the store said last that the session is this worker's.
    pub(crate) fn owned_since(&self) -> u64 {
        self.owned_since.load(Ordering::Acquire)
    }

    /// Sets what [`SessionHandle::owned_since`] says.
    pub(crate) fn set_owned_since(&self, lapses: u64) {
        self.owned_since.fetch_max(lapses, Ordering::AcqRel);
    }

    /// What was published before this with QoS 0, by the store's clock, its connection may have had at another worker.
    pub(crate) fn listens_since(&self) -> u64 {
        self.listens_since.load(Ordering::Acquire)
    }

    /// Sets what [`SessionHandle::listens_since`] says.
    pub(crate) fn set_listens_since(&self, at_us: u64) {
        self.listens_since.store(at_us, Ordering::Release);
    }

    /// Sets what [`SessionHandle::is_away`] says.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }
}

/// The session has another owner, or none.
#[derive(Debug)]
pub(crate) struct Evicted;

impl Mailbox {
    fn register(&mut self, cx: &Context<'_>, awaits_end: bool) {
        self.awaits_end = awaits_end;
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn has(&self, attachment: Attachment) -> bool {
        self.connection.is_some() && self.attachment == attachment
    }

    /// The task to wake because there is something to read.
    fn reader(&mut self) -> Option<Waker> {
        if self.awaits_end { None } else { self.waker.take() }
    }

    fn push(&mut self, item: Item) {
        if self.items.capacity() == 0 {
            self.items = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        self.bytes += item.bytes();
        self.items.push_back(item);
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle")
            .field("id", &self.id)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::session::testing::delivery;

    // ARCHITECTURE, rule 14: whoever enqueues after a claim tells the new owner, perhaps before that knows that it is.
    #[test]
    fn a_note_that_comes_before_the_owner_makes_it_read_its_queue() {
        let stored = Arc::new(StoredSession { client_id: "c".into(), incarnation: 1 });
        let session = SessionHandle::new(1, "c".into(), Some(stored));
        session.deliver_stored(Number(7), delivery("t", b"", QoS::AtLeastOnce), usize::MAX);
        let attachment = session.attach(ConnectionId(1), false);
        let mut cx = Context::from_waker(Waker::noop());
        let (items, _) = session.poll_take(attachment, &mut cx).unwrap().unwrap();
        assert!(matches!(items.iter().collect::<Vec<_>>()[..], [Item::Input(Input::Missed(Number(7)))]));
    }

    // ARCHITECTURE, rule 3: a connection whose edge gave the first stream up comes back by another one.
    #[test]
    fn the_stream_that_a_connection_has_left_takes_nothing_from_the_next() {
        let session = SessionHandle::new(1, "c".into(), None);
        let mut cx = Context::from_waker(Waker::noop());
        let [before, now] = [(); 2].map(|()| session.attach(ConnectionId(1), true));
        session.deliver(delivery("t", b"", QoS::AtLeastOnce), usize::MAX);
        assert!(session.poll_take(before, &mut cx).is_err());
        session.answer(before, Item::RetainedQueued);
        assert!(!session.detach(before).0 && session.is_attached(now));
        let (items, _) = session.poll_take(now, &mut cx).unwrap().unwrap();
        assert!(matches!(items.iter().collect::<Vec<_>>()[..], [Item::Input(Input::Deliver(_))]));
        assert!(session.detach(now).0 && !session.is_attached(now));
    }
}
