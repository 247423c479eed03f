//! Retained messages for new subscriptions: read in pages, only as fast as the device takes them.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use mqtt::QoS;
use parking_lot::Mutex;
use state::{
    Delivery, Message, Number, RetainedPage, StoreError, Subscription, SubscriptionIds, SubscriptionOptions,
    UnixMs, Via,
};

use super::due::{DueLedger, DueNews, Position};
use crate::directory::{Attachment, Item, SessionHandle};
use crate::hub::Hub;
use crate::hub::work::{PageRead, Ticket, Work};
use crate::session::Session;

/// Messages asked of the store at once; of large ones it gives fewer.
const PAGE_MESSAGES_MAX: usize = 256;

/// The retained messages that a session is still to get.
#[derive(Debug, Default)]
pub(crate) struct RetainedReader {
    waiting: VecDeque<Reading>,
    /// As many of them, the first ones, an earlier worker had begun with, or was about to.
    resumed: usize,
    /// Bytes of the filters that wait.
    bytes: usize,
    page: VecDeque<Arc<Message>>,
    /// Bytes of its messages.
    page_bytes: usize,
    /// There was something in it.
    has_page: bool,
    page_asked: PageAsked,
    /// Messages on their way into the session's own stored queue.
    queueing: usize,
    told: DueLedger,
}

/// Whether the store has been asked for a page of the first that waits.
#[derive(Debug, Default, PartialEq, Eq)]
enum PageAsked {
    #[default]
    No,
    Yes,
    /// It has, but nobody wants the answer any more.
    Forgotten,
}

#[derive(Debug)]
struct Reading {
    filter: Arc<str>,
    options: SubscriptionOptions,
    /// What [`Session::open_retained`] said then.
    asked_at: u64,
    begun: bool,
    place: Place,
    /// Where the page begins that is being handed in.
    page_at: Position,
    /// What [`Session::forgotten`] was when the page was asked for.
    forgotten: u64,
}

/// Where the next page begins.
#[derive(Clone, Debug)]
enum Place {
    At(Position),
    End,
}

/// What asking for more gave.
pub(crate) enum More {
    /// One to hand to the session, asked for at this place.
    Message { delivery: Delivery, asked_at: u64 },
    /// The store will answer with an [`Item::Retained`].
    Later,
    /// There are none.
    End,
}

impl RetainedReader {
    /// Lines up the retained messages of a new subscription, of which a session has at most `subscriptions_max`. Asking
    /// again and again for what has not begun does not make the line longer than twice that, nor than twice `bytes_max`.
    pub(crate) fn begin(
        &mut self,
        subscription: &Subscription,
        asked_at: u64,
        (subscriptions_max, bytes_max): (usize, usize),
    ) {
        let Subscription { filter, options } = subscription.clone();
        self.drop_resumed(&filter);
        if self.waiting.len() >= subscriptions_max || self.bytes > bytes_max {
            let mut same = self.waiting.iter_mut().filter(|reading| !reading.begun);
            if let Some(same) = same.find(|reading| reading.filter == filter) {
                (same.options, same.asked_at) = (options, asked_at);
                return;
            }
        }
        self.line_up(filter, options, asked_at, None);
        self.told.line_up();
    }

    /// What an earlier worker was still to send for this filter comes with all that it is asked for now.
    fn drop_resumed(&mut self, filter: &str) {
        let at = self.waiting.iter().take(self.resumed).position(|reading| &*reading.filter == filter);
        let Some(at) = at else { return };
        if at == 0 {
            self.drop_page();
        }
        self.waiting.remove(at);
        self.resumed -= 1;
        self.bytes -= filter.len();
        self.told.begin_again();
    }

    /// Goes on with what an earlier worker was still to send, which told the edge; these are subscribed to here.
    pub(crate) fn resume(&mut self, due: Vec<(Subscription, Position)>, asked_at: u64) {
        self.told = DueLedger::of_a_resume();
        self.resumed = due.len();
        for (Subscription { filter, options }, position) in due {
            self.line_up(filter, options, asked_at, position);
        }
    }

    fn line_up(&mut self, filter: Arc<str>, options: SubscriptionOptions, asked_at: u64, position: Position) {
        self.bytes += filter.len();
        self.waiting.push_back(Reading {
            filter,
            options,
            asked_at,
            begun: false,
            page_at: position.clone(),
            place: Place::At(position),
            forgotten: 0,
        });
    }

    /// Nobody wants what was read, or is being read, of the first that waits.
    fn drop_page(&mut self) {
        self.page.clear();
        self.page_bytes = 0;
        self.has_page = false;
        if self.page_asked == PageAsked::Yes {
            self.page_asked = PageAsked::Forgotten;
        }
    }

    /// What the edge is to be told of what is still to be sent, if there is news; it has everything below `sent` of the session's
    /// queue.
    pub(crate) fn news(&mut self, sent: Option<Number>) -> Option<DueNews> {
        let sent = sent.filter(|_| self.queueing == 0);
        self.told.news(sent, self.waiting.iter().map(|reading| (&reading.filter, &reading.page_at)))
    }

    /// These are subscribed to no more.
    // v5 [MQTT-3.10.4-2]
    pub(crate) fn forget(&mut self, filters: &[Arc<str>]) {
        let gone: HashSet<&str> = filters.iter().map(|filter| &**filter).collect();
        self.told.forget(|filter| gone.contains(filter));
        let Some(first) = self.waiting.front() else { return };
        if gone.contains(&*first.filter) {
            self.drop_page();
        }
        let resumed = self.waiting.iter().take(self.resumed);
        self.resumed = resumed.filter(|reading| !gone.contains(&*reading.filter)).count();
        self.waiting.retain(|reading| !gone.contains(&*reading.filter));
        self.bytes = self.waiting.iter().map(|reading| reading.filter.len()).sum();
        self.told.leave(self.waiting.len());
    }

    /// A message goes the way of the session's own stored queue; [`RetainedReader::queued`] follows.
    pub(crate) fn queue(&mut self) {
        self.queueing += 1;
    }

    /// One that went that way has arrived.
    pub(crate) fn queued(&mut self) {
        self.queueing = self.queueing.saturating_sub(1);
    }

    /// Whether some are still on their way into the stored queue.
    pub(crate) fn is_queueing(&self) -> bool {
        self.queueing > 0
    }

    /// The next one, read from the store when needed. The store is asked only when the session has room.
    pub(crate) fn next(
        &mut self,
        hub: &Arc<Hub>,
        (handle, attachment): (&Arc<SessionHandle>, Attachment),
        session: &Session,
        now: UnixMs,
    ) -> More {
        loop {
            let Some(reading) = self.waiting.front_mut() else { return More::End };
            if let Some(message) = self.page.pop_front() {
                self.page_bytes -= message.size();
                if session.has_newer(&message, reading.asked_at, reading.options.no_local) {
                    continue;
                }
                self.told.hand_in(message.size());
                let delivery = delivery(message, &reading.options);
                return More::Message { delivery, asked_at: reading.asked_at };
            }
            if self.page_asked != PageAsked::No {
                return More::Later;
            }
            // Alone there is nobody who could go on with it.
            if std::mem::take(&mut self.has_page) && hub.cluster.is_shared() {
                self.told.page_ends(&reading.filter, &reading.page_at, session.handed_in());
            }
            let Place::At(cursor) = reading.place.clone() else {
                self.bytes = self.bytes.saturating_sub(reading.filter.len());
                self.waiting.pop_front();
                self.resumed = self.resumed.saturating_sub(1);
                self.told.leave(self.waiting.len());
                continue;
            };
            reading.page_at.clone_from(&cursor);
            if !std::mem::replace(&mut reading.begun, true) && reading.filter.starts_with("$SYS") {
                let found = hub.sys_matching(&reading.filter);
                self.page_bytes += found.iter().map(|message| message.size()).sum::<usize>();
                self.page.extend(found);
                self.has_page = true;
            }
            reading.forgotten = session.forgotten();
            let filter = Arc::clone(&reading.filter);
            let asker = (Arc::clone(handle), attachment);
            match read_page(hub, PageRead { filter, cursor, asker }, now) {
                Some(page) => self.take_page(page, session.forgotten()),
                None => self.page_asked = PageAsked::Yes,
            }
        }
    }

    /// Takes a page that came later; `forgotten` as [`Session::forgotten`] says.
    pub(crate) fn take_page(&mut self, page: Result<RetainedPage, StoreError>, forgotten: u64) {
        if std::mem::take(&mut self.page_asked) == PageAsked::Forgotten {
            return;
        }
        let Some(reading) = self.waiting.front_mut() else { return };
        match page {
            // So much has come meanwhile that nobody knows what of the page is older: it is read again.
            Ok(_) if reading.forgotten != forgotten => {}
            Ok(page) => {
                self.has_page |= !page.messages.is_empty();
                self.page_bytes += page.messages.iter().map(|message| message.size()).sum::<usize>();
                self.page.extend(page.messages);
                reading.place = page.next.map_or(Place::End, |cursor| Place::At(Some(cursor)));
            }
            Err(error) => {
                tracing::warn!(%error, filter = &*reading.filter, "retained messages could not be read");
                reading.place = Place::End;
            }
        }
    }

    /// Bytes of the messages that were read and wait for the device.
    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Whether nothing is left, and nothing on its way into the stored queue.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.queueing == 0
    }

    /// Whether nothing is left to be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn delivery(message: Arc<Message>, options: &SubscriptionOptions) -> Delivery {
    let qos = message.qos().min(options.qos);
    let id = options.subscription_id;
    let subscription_ids = if id == 0 { SubscriptionIds::NONE } else { SubscriptionIds::from_slice(&[id]) };
    Delivery { qos, retain: true, subscription_ids, message, via: Via::Retained }
}

/// Where a page arrives: on the spot for a store that answers at once, in the mailbox otherwise.
enum PageSlot {
    Asking,
    Here(Result<RetainedPage, StoreError>),
    Later,
}

fn read_page(hub: &Arc<Hub>, read: PageRead, now: UnixMs) -> Option<Result<RetainedPage, StoreError>> {
    if hub.holds_work() {
        // Messages may wait that were matched before the session subscribed and are still to be retained.
        hub.submit(Work::Page(read));
        return None;
    }
    let slot = Arc::new(Mutex::new(PageSlot::Asking));
    let filled = Arc::clone(&slot);
    hub.ask_page(None, read, now, move |(session, attachment), page| {
        let mut slot = filled.lock();
        if matches!(*slot, PageSlot::Later) {
            drop(slot);
            session.answer(attachment, Item::Retained(page));
        } else {
            *slot = PageSlot::Here(page);
        }
    });
    let mut slot = slot.lock();
    match std::mem::replace(&mut *slot, PageSlot::Later) {
        PageSlot::Here(page) => Some(page),
        _ => None,
    }
}

impl Hub {
    /// Asks the store for a page that it could not give before.
    pub(crate) fn run_page(self: &Arc<Self>, ticket: Ticket, read: PageRead) {
        self.ask_page(Some(ticket), read, self.now(), |(session, attachment), page| {
            session.answer(attachment, Item::Retained(page));
        });
    }

    fn ask_page(
        self: &Arc<Self>,
        ticket: Option<Ticket>,
        read: PageRead,
        now: UnixMs,
        tell: impl FnOnce((Arc<SessionHandle>, Attachment), Result<RetainedPage, StoreError>) + Send + 'static,
    ) {
        let (hub, filter, cursor) = (Arc::clone(self), Arc::clone(&read.filter), read.cursor.clone());
        let done = move |page: Result<_, StoreError>| match page {
            Err(error) if error.is_retryable() => hub.hold(ticket, Work::Page(read)),
            page => tell(read.asker, page),
        };
        self.store.retained(&filter, cursor, PAGE_MESSAGES_MAX, now, Box::new(done));
    }

    /// The `$SYS` messages that match a filter.
    pub(crate) fn sys_matching(&self, filter: &str) -> Vec<Arc<Message>> {
        let sys = self.sys.read();
        sys.values().filter(|message| mqtt::topic::matches(filter, message.topic())).cloned().collect()
    }

    /// Enqueues a retained message in a stored session's own queue; it comes back like every message from there, and
    /// [`Item::RetainedQueued`] says that it has, or will not.
    pub(crate) fn enqueue_retained(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        attachment: Attachment,
        delivery: Delivery,
    ) {
        debug_assert!(delivery.qos != QoS::AtMostOnce);
        let told = Arc::clone(session);
        let then = Box::new(move || told.answer(attachment, Item::RetainedQueued));
        self.enqueue_for(session, delivery, then);
    }
}
