//! A session that is being served: what its effects do to the hub and the store, and what comes back from there.

pub(crate) mod asking;
pub(crate) mod connect;
pub(crate) mod disconnect;
pub(crate) mod request;
pub(crate) mod stream;
pub(crate) mod succession;

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt::{PacketId, QoS, ReasonCode};
use state::{Delivery, Fence, Subscription, UnixMs, Will};

use crate::authorize::bounds::Bound;
use crate::directory::{Attachment, Item, SessionHandle, thin_out};
use crate::hub::Hub;
use crate::hub::work::Work;
use crate::hub::work::call::{Call, Op};
use crate::metrics::tally;
use crate::retained::due::{self, DueNews, Position};
use crate::retained::read::{More, RetainedReader};
use crate::routing::publish::Publisher;
use crate::serving::asking::Asking;
use crate::serving::request::UnderWay;
use crate::session::{DropReason, Effect, Input, Outputs, Request, RequestKind, Session, SubscribeItem};

/// Bytes of retained messages handed to a session at once.
const RETAINED_BYTES_MAX: usize = 256 << 10;

/// What a session may hold besides messages when the process has too much memory, bytes: nearly every honest one does.
const FEW_BYTES: usize = 64 << 10;

/// A session with its connection.
pub(crate) struct Serving {
    pub session: Session,
    pub handle: Arc<SessionHandle>,
    /// As which the connection has it.
    pub attachment: Attachment,
    /// QoS 1 and 2 publishes without an answer yet.
    pub awaiting_store: u32,
    /// What the store is busy with.
    pub under_way: Option<RequestKind>,
    /// A packet of the device waits for that, see [`Serving::takes`].
    pub is_holding: bool,
    /// Another connection has the session, and this one hands over its last words.
    pub is_taken_over: bool,
    pub rare: Option<Box<Rare>>,
}

/// What most idle sessions do not have.
#[derive(Default)]
pub(crate) struct Rare {
    /// Set for a stored session.
    pub fence: Option<Fence>,
    pub will: Option<Will>,
    /// SUBSCRIBE and UNSUBSCRIBE packets that the store is busy with, in the order in which they came.
    pub requests: Vec<UnderWay>,
    /// What the packet waits for that is asked about.
    pub asking: Asking,
    /// They were let through by an earlier passport.
    pub is_to_revoke: bool,
    pub retained: RetainedReader,
    /// Taken from the mailbox, but the device has no room yet; and its bytes.
    pub backlog: (VecDeque<Item>, usize),
    /// Frames of the edge whose effect is in the store, and that it has not been told of.
    pub durable: Vec<u64>,
}

/// Nothing is subscribed to now.
fn refuse_all(items: &mut [SubscribeItem]) {
    for item in items {
        if item.subscription.is_ok() {
            item.subscription = Err(ReasonCode::QuotaExceeded);
        }
    }
}

impl Serving {
    /// A session whose connection begins.
    pub(crate) fn new(
        session: Session,
        handle: Arc<SessionHandle>,
        attachment: Attachment,
        rare: Option<Box<Rare>>,
    ) -> Self {
        Self {
            session,
            handle,
            attachment,
            awaiting_store: 0,
            under_way: None,
            is_holding: false,
            is_taken_over: false,
            rare,
        }
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn fence(&self) -> Option<&Fence> {
        self.rare.as_ref()?.fence.as_ref()
    }

    pub(crate) fn take_backlog(&mut self) -> Option<(VecDeque<Item>, usize)> {
        let backlog = &mut self.rare.as_mut()?.backlog;
        (!backlog.0.is_empty()).then(|| std::mem::take(backlog))
    }

    /// Says how much waits in the session.
    pub(crate) fn tell_waiting(&self, hub: &Hub) {
        self.handle.set_busy(self.session.is_busy());
        // Where the store is in this process, a page takes nothing that the store does not have.
        let rare = self.rare.as_ref().filter(|_| hub.cluster.is_shared());
        let page_bytes = rare.map_or(0, |rare| rare.retained.page_bytes());
        if self.handle.set_held(self.session.outbound.waiting_bytes() + page_bytes) {
            hub.directory.list_heavy(&self.handle);
        }
    }

    /// Lets go of what was taken and need not be kept, if it is to.
    pub(crate) fn shed(&mut self, hub: &Hub) {
        let Some(rare) = self.rare.as_mut().filter(|rare| !rare.backlog.0.is_empty()) else { return };
        if !self.handle.take_shed(self.attachment) {
            return;
        }
        let mut dropped = Vec::new();
        let left = thin_out(std::mem::take(&mut rare.backlog.0), &mut dropped);
        let bytes = left.iter().map(Item::bytes).sum();
        rare.backlog = (left, bytes);
        self.handle.set_backlog(self.attachment, bytes);
        for delivery in dropped {
            hub.metrics.drop_message(DropReason::OutOfMemory, delivery.qos);
        }
    }

    /// Asks the store on behalf of this session, if it is stored.
    pub(crate) fn call(&self, hub: &Arc<Hub>, frame: u64, op: Op) {
        let Some(fence) = self.fence().cloned() else { return };
        let asker = Some((Arc::clone(&self.handle), self.attachment));
        hub.submit(Work::Call(Call { fence, asker, frame, op }));
    }

    pub(crate) fn publish(
        &mut self,
        hub: &Arc<Hub>,
        packet_id: Option<PacketId>,
        message: &Arc<state::Message>,
        out: &mut Outputs<'_>,
    ) {
        let qos = message.qos();
        tally::received(qos, message.payload_slice().len());
        let publisher = Publisher { session: &self.handle, attachment: self.attachment, fence: self.fence() };
        let answer = hub.publish(Some(publisher), packet_id, message);
        let Some(packet_id) = packet_id else { return };
        match answer {
            Some(code) => {
                tally::acknowledged();
                self.session.handle(Input::Published(packet_id, qos, Ok(code)), hub.now(), out);
            }
            None => self.awaiting_store += 1,
        }
    }

    /// Every effect but publishing and closing. `frame` is that of the edge which is done when a call of the store is; 0 for
    /// none.
    pub(crate) fn perform(&mut self, hub: &Arc<Hub>, frame: u64, effect: Effect, out: &mut Outputs<'_>) {
        match effect {
            Effect::Request(packet_id, mut request) => {
                if let Request::Subscribe(items) = &mut request
                    && hub.is_short_of_memory()
                    && self.session.bytes_held() > FEW_BYTES
                {
                    hub.metrics.limit(Bound::Memory);
                    refuse_all(items);
                }
                self.request(hub, packet_id, request, out);
            }
            Effect::MoreRetained(count) => self.more_retained(hub, count, out),
            Effect::Store(op) => self.call(hub, frame, Op::Session(op)),
            Effect::Dropped(reason, qos) => hub.metrics.drop_message(reason, qos),
            Effect::Limited(bound) => {
                hub.metrics.limit(bound);
                let (client_id, limit) = (&*self.handle.client_id, bound.label());
                tracing::debug!(client_id, limit, "a client is refused what is beyond its bounds");
            }
            Effect::RetainAgain(packet_id, message) => {
                let (session, attachment, fence) = (&self.handle, self.attachment, self.fence());
                hub.retain_again(&Publisher { session, attachment, fence }, packet_id, &message);
                self.awaiting_store += 1;
            }
            Effect::Publish(..) | Effect::Close(_) => {}
        }
    }

    /// Ends the subscriptions, and the Will, that the passport does not cover, when it was renewed or the session is older than
    /// it.
    pub(crate) fn revoke(&mut self, hub: &Arc<Hub>) {
        if !self.handle.is_attached(self.attachment) {
            return;
        }
        self.revoke_will(hub);
        if let Some(rare) = &mut self.rare {
            rare.is_to_revoke = rare.requests.iter().any(UnderWay::subscribes);
        }
        let mut filters = self.handle.filters();
        filters.retain(|filter| !self.session.may_subscribe(filter));
        if filters.is_empty() {
            return;
        }
        for filter in &filters {
            hub.directory.unsubscribe(&self.handle, filter);
        }
        // What they matched before may be on its way.
        self.session.vet();
        self.session.forget_subscriptions(&filters);
        if let Some(rare) = &mut self.rare {
            rare.retained.forget(&filters);
        }
        self.tell_store(hub, Op::Revoke(filters));
    }

    fn revoke_will(&mut self, hub: &Arc<Hub>) {
        if self.may_publish_will() {
            return;
        }
        let Some(will) = self.rare.as_mut().and_then(|rare| rare.will.take()) else { return };
        hub.metrics.drop_message(DropReason::NotAuthorized, will.message.qos());
        // Whatever ends the connection: this process may die before it could say.
        self.tell_store(hub, Op::DropWill);
    }

    /// Asks the store for what nobody waits for, if the session is stored.
    fn tell_store(&self, hub: &Arc<Hub>, op: Op) {
        if let Some(fence) = self.fence().cloned() {
            hub.submit(Work::Call(Call { fence, asker: None, frame: 0, op }));
        }
    }

    /// The same once more, when the store has answered SUBSCRIBE packets that an earlier passport let through.
    pub(crate) fn revoke_late(&mut self, hub: &Arc<Hub>) {
        let is_due = |rare: &Rare| rare.is_to_revoke && !rare.requests.iter().any(UnderWay::subscribes);
        if self.rare.as_deref().is_some_and(is_due) {
            self.revoke(hub);
        }
    }

    /// Whether the Will Message, if there is one, may be published.
    fn may_publish_will(&self) -> bool {
        let will = self.rare.as_ref().and_then(|rare| rare.will.as_ref());
        will.is_none_or(|will| self.session.may_publish(&will.message))
    }

    fn more_retained(&mut self, hub: &Arc<Hub>, count: usize, out: &mut Outputs<'_>) {
        let now = hub.now();
        let queueing = self.rare.as_ref().is_some_and(|rare| rare.retained.is_queueing());
        let mut bytes = 0;
        for _ in 0..count {
            if bytes > RETAINED_BYTES_MAX {
                return;
            }
            let Some(rare) = self.rare.as_mut().filter(|rare| !rare.retained.is_empty()) else { break };
            if queueing || !self.session.has_room_for_retained(out.wire) {
                return;
            }
            match rare.retained.next(hub, (&self.handle, self.attachment), &self.session, now) {
                More::Message { delivery, asked_at } => {
                    bytes += delivery.message.size();
                    self.session.hand_in(&delivery, asked_at);
                    self.offer_retained(hub, delivery, now, out);
                }
                More::Later => return,
                More::End => break,
            }
        }
        let subscribes = |rare: &Rare| rare.requests.iter().any(UnderWay::subscribes);
        let is_busy = |rare: &Rare| !rare.retained.is_done() || subscribes(rare);
        if !self.rare.as_deref().is_some_and(is_busy) {
            self.session.close_retained();
        }
    }

    /// Goes on with retained messages that the device was still to get when another worker had it, as far as it is subscribed.
    pub(crate) fn resume_retained(&mut self, hub: &Hub, due: &[u8]) {
        let options = |filter: &str| hub.directory.options(&self.handle, filter);
        let subscription = |(filter, position): (Arc<str>, Position)| {
            let options = options(&filter)?;
            Some((Subscription { filter, options }, position))
        };
        let due: Vec<_> = due::decode(due).into_iter().filter_map(subscription).collect();
        let asked_at = self.session.open_retained(hub.now());
        self.rare().retained.resume(due, asked_at);
    }

    /// What the edge is to be told of retained messages that the device is still to get, if there is news; with `is_sent` the edge
    /// has all that the session has written.
    pub(crate) fn retained_news(&mut self, hub: &Hub, is_sent: bool) -> Option<DueNews> {
        let rare = self.rare.as_mut().filter(|_| hub.cluster.is_shared())?;
        rare.retained.news(is_sent.then(|| self.session.first_unsent()))
    }

    fn offer_retained(&mut self, hub: &Arc<Hub>, delivery: Delivery, now: UnixMs, out: &mut Outputs<'_>) {
        if delivery.qos != QoS::AtMostOnce && self.handle.stored.is_some() {
            self.rare().retained.queue();
            hub.enqueue_retained(&self.handle, self.attachment, delivery);
        } else {
            self.session.handle(Input::Retained(delivery), now, out);
        }
    }

    pub(crate) fn take_item(&mut self, hub: &Arc<Hub>, item: Item, mut out: Outputs<'_>) {
        let now = hub.now();
        let out = &mut out;
        match item {
            Item::Input(input) => self.session.handle(input, now, out),
            Item::Published(since, answer) => {
                if matches!(answer, Input::Published(_, _, Ok(_))) {
                    hub.metrics.acknowledge_seconds.observe(since.elapsed());
                }
                self.awaiting_store = self.awaiting_store.saturating_sub(1);
                self.session.handle(answer, now, out);
            }
            Item::Request(id, kind, result) => {
                self.take_answer(hub, id, kind, result.as_deref(), out);
            }
            Item::Retained(page) => {
                let forgotten = self.session.forgotten();
                self.rare().retained.take_page(page, forgotten);
                self.session.handle(Input::Writable, now, out);
            }
            Item::RetainedQueued => {
                let retained = &mut self.rare().retained;
                retained.queued();
                if !retained.is_queueing() {
                    self.session.handle(Input::Writable, now, out);
                }
            }
            Item::Answered(answered) => self.take_ruling(hub, &answered),
            Item::Durable(frame) => self.rare().durable.push(frame),
        }
    }
}
