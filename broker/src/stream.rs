//! One device's conversation with this worker, in the same process: drives the session, has its effects done, and feeds
//! it what comes back. The edge's connection task runs it; there is no task, channel or socket of its own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use link::{CloseCause, ConnectionId, Event, Open, Outgoing, Passport};
use mqtt::frame::Frame;
use mqtt::{PacketId, QoS, ReasonCode, RetainHandling};
use state::{Fence, Release, StoreError, Will};

use crate::connect::{self, ClaimSlot, Granted, Wanted};
use crate::hub::Hub;
use crate::publish::Publisher;
use crate::retained::{More, RetainedReader};
use crate::session::{Closing, Effect, Input, Opening, Outputs, Session, SubscribeItem, WillFate};
use crate::session_handle::{Item, SessionHandle, recycle};
use crate::tally;

thread_local! {
    /// Two lists of effects, reused by every session that this thread drives.
    static EFFECTS: RefCell<(Vec<Effect>, Vec<Effect>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// A device's stream. See [`link::Stream`].
pub struct WorkerStream {
    hub: Arc<Hub>,
    connection: ConnectionId,
    state: State,
}

enum State {
    /// The store has been asked for the session.
    AwaitingClaim(Box<Pending>),
    Serving(Serving),
    Ended(ReasonCode),
}

struct Pending {
    open: Open,
    will: Option<Will>,
    expiry_s: u32,
    slot: ClaimSlot,
}

struct Serving {
    session: Session,
    handle: Arc<SessionHandle>,
    /// QoS 1 and 2 publishes without an answer yet.
    awaiting_store: u32,
    rare: Option<Box<Rare>>,
}

/// What most idle sessions do not have.
#[derive(Default)]
struct Rare {
    /// Set for a stored session.
    fence: Option<Fence>,
    will: Option<Will>,
    /// SUBSCRIBE and UNSUBSCRIBE packets that the store is busy with.
    subscribes: Vec<(PacketId, Vec<SubscribeItem>)>,
    unsubscribes: Vec<(PacketId, Vec<Arc<str>>)>,
    retained: RetainedReader,
    /// Taken from the mailbox, but the device has no room yet.
    backlog: VecDeque<Item>,
}

impl WorkerStream {
    pub(crate) fn open(hub: Arc<Hub>, open: Open) -> Self {
        hub.clock.tick();
        let now = hub.now();
        let connection = open.connection_id;
        let state = match connect::decode(&open.connect) {
            Ok(Some(packet)) => {
                let wanted = Wanted::new(&open, &packet, &hub.config, now);
                let slot = ClaimSlot::default();
                hub.claim(&wanted, &slot, now);
                State::AwaitingClaim(Box::new(Pending { open, will: wanted.will, expiry_s: wanted.expiry_s, slot }))
            }
            _ => State::Ended(ReasonCode::MalformedPacket),
        };
        Self { hub, connection, state }
    }

    /// Opens the session once the store has granted it.
    fn begin(&mut self, granted: Result<Granted, StoreError>, out: &mut Outgoing) {
        let State::AwaitingClaim(pending) = std::mem::replace(&mut self.state, State::Ended(ReasonCode::Success))
        else {
            return;
        };
        let Ok(Some(connect)) = connect::decode(&pending.open.connect) else { return };
        let granted = match granted {
            Ok(granted) => granted,
            Err(error) => {
                let reason = refusal(&error);
                tracing::warn!(client_id = connect.client_id, %error, "no session from the store");
                Session::refuse(&connect, reason, out);
                self.state = State::Ended(reason);
                return;
            }
        };
        let fence = granted.owned.as_ref().map(|owned| owned.fence.clone());
        let opening = Opening {
            client_id: Arc::clone(&granted.handle.client_id),
            assigned: pending.open.assigned_client_id.is_some(),
            passport: Arc::clone(&pending.open.passport),
            server_keep_alive_s: pending.open.server_keep_alive_s,
            authentication: pending.open.authentication.clone(),
            stored: granted.owned,
            now: self.hub.now(),
        };
        let will = pending.will.clone();
        let rare =
            (fence.is_some() || will.is_some()).then(|| Box::new(Rare { fence, will, ..Rare::default() }));
        let (mut effects, spare) = take_effects();
        let opened =
            Session::open(opening, &connect, &self.hub.config, &mut Outputs { wire: out, effects: &mut effects });
        match opened {
            Ok(session) => {
                self.hub.metrics.opened.inc();
                let connected = self.hub.metrics.connected.inc() + 1;
                let connected = u64::try_from(connected).unwrap_or(0);
                self.hub.metrics.connected_max.fetch_max(connected, Ordering::Relaxed);
                let serving = Serving { session, handle: granted.handle, awaiting_store: 0, rare };
                serving.revoke(&self.hub);
                self.state = State::Serving(serving);
                self.run(effects, spare, out);
            }
            Err(reason) => {
                put_effects(effects, spare);
                let closing = Closing { reason, will: WillFate::Drop, expiry_s: 0 };
                self.leave(&granted.handle, rare, &closing, state::Number(0));
                self.state = State::Ended(reason);
            }
        }
    }

    fn drive(&mut self, input: Input<'_>, out: &mut Outgoing) {
        let State::Serving(serving) = &mut self.state else { return };
        let (mut effects, spare) = take_effects();
        serving.session.handle(input, self.hub.now(), &mut Outputs { wire: out, effects: &mut effects });
        self.run(effects, spare, out);
    }

    /// Has effects done, and what they lead to at once.
    fn run(&mut self, mut effects: Vec<Effect>, mut next: Vec<Effect>, out: &mut Outgoing) {
        while !effects.is_empty() {
            for effect in effects.drain(..) {
                let State::Serving(serving) = &mut self.state else { break };
                let mut outputs = Outputs { wire: out, effects: &mut next };
                match effect {
                    Effect::Publish(packet_id, message) => {
                        serving.publish(&self.hub, self.connection, packet_id, &message, &mut outputs);
                    }
                    Effect::Close(closing) => self.end(&closing),
                    effect => serving.perform(&self.hub, self.connection, effect, &mut outputs),
                }
            }
            std::mem::swap(&mut effects, &mut next);
        }
        put_effects(effects, next);
    }

    /// Ends the session's connection.
    fn end(&mut self, closing: &Closing) {
        let ended = State::Ended(closing.reason);
        let State::Serving(serving) = std::mem::replace(&mut self.state, ended) else { return };
        self.hub.metrics.connected.dec();
        tracing::debug!(client_id = &*serving.handle.client_id, reason = ?closing.reason, "session left");
        let sent = serving.session.sent();
        self.leave(&serving.handle, serving.rare, closing, sent);
    }

    fn leave(&self, handle: &Arc<SessionHandle>, rare: Option<Box<Rare>>, closing: &Closing, sent: state::Number) {
        let Rare { fence, will, .. } = rare.map(|rare| *rare).unwrap_or_default();
        let hub = &self.hub;
        handle.detach(self.connection);
        let Some(fence) = fence else {
            hub.sessions.remove(handle);
            hub.remove_filters(handle);
            if let Some(will) = will.filter(|_| closing.will != WillFate::Drop) {
                hub.publish_will(&will.message, None);
            }
            return;
        };
        if closing.will == WillFate::TakenOver {
            // The claim has answered the new owner's worker what becomes of the Will.
            return;
        }
        let ends = closing.expiry_s == 0;
        let will = will.filter(|_| closing.will == WillFate::Publish);
        let (now_due, later): (Option<Will>, bool) = match will {
            Some(will) if ends || will.delay_s == 0 => (Some(will), false),
            Some(_) => (None, true),
            None => (None, false),
        };
        let release = Release { expiry_s: closing.expiry_s, keep_will: later, sent, now: hub.now() };
        if ends {
            hub.sessions.remove(handle);
            hub.remove_filters(handle);
        }
        if let Some(will) = now_due {
            hub.publish_will(&will.message, None);
        }
        let client_id = Arc::clone(&handle.client_id);
        hub.store.release(
            &fence,
            release,
            Box::new(move |result| match result {
                Ok(()) | Err(StoreError::Fenced | StoreError::NoSession) => {}
                Err(error) => tracing::warn!(client_id = &*client_id, %error, "session could not be released"),
            }),
        );
    }

    /// Hands the session what waits in its mailbox, as far as the device has room.
    fn take_items(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, budget: usize) -> Poll<()> {
        loop {
            let State::Serving(serving) = &mut self.state else { return Poll::Ready(()) };
            let mut items = match serving.take_backlog() {
                Some(backlog) => backlog,
                None => match serving.handle.poll_take(self.connection, cx) {
                    Ok(Some(items)) => items,
                    Ok(None) => return Poll::Pending,
                    Err(_) => {
                        self.drive(Input::TakenOver, out);
                        return Poll::Ready(());
                    }
                },
            };
            let (mut effects, spare) = take_effects();
            while let Some(item) = items.pop_front() {
                serving.take_item(&self.hub, self.connection, item, Outputs { wire: out, effects: &mut effects });
                if out.len() >= budget {
                    break;
                }
            }
            self.run(effects, spare, out);
            if items.is_empty() {
                recycle(items);
            } else if let State::Serving(serving) = &mut self.state {
                serving.rare().backlog = items;
            }
            if out.len() >= budget {
                return Poll::Ready(());
            }
        }
    }
}

fn refusal(error: &StoreError) -> ReasonCode {
    match error {
        StoreError::SessionQuota => ReasonCode::QuotaExceeded,
        StoreError::Closed => ReasonCode::ServerShuttingDown,
        _ => ReasonCode::ServerUnavailable,
    }
}

fn take_effects() -> (Vec<Effect>, Vec<Effect>) {
    EFFECTS.with_borrow_mut(std::mem::take)
}

fn put_effects(effects: Vec<Effect>, spare: Vec<Effect>) {
    debug_assert!(effects.is_empty() && spare.is_empty());
    EFFECTS.with_borrow_mut(|kept| *kept = (effects, spare));
}

impl Serving {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn fence(&self) -> Option<&Fence> {
        self.rare.as_ref()?.fence.as_ref()
    }

    fn take_backlog(&mut self) -> Option<VecDeque<Item>> {
        let backlog = &mut self.rare.as_mut()?.backlog;
        (!backlog.is_empty()).then(|| std::mem::take(backlog))
    }

    fn publish(
        &mut self,
        hub: &Arc<Hub>,
        connection: ConnectionId,
        packet_id: Option<PacketId>,
        message: &Arc<state::Message>,
        out: &mut Outputs<'_>,
    ) {
        let qos = message.qos();
        tally::received(qos, message.payload_slice().len());
        let publisher = Publisher { session: &self.handle, connection, fence: self.fence() };
        let answer = hub.publish(Some(publisher), packet_id, message);
        let Some(packet_id) = packet_id else { return };
        match answer {
            Some(code) => self.session.handle(Input::Published(packet_id, qos, Ok(code)), hub.now(), out),
            None => self.awaiting_store += 1,
        }
    }

    /// Every effect but publishing and closing.
    fn perform(&mut self, hub: &Arc<Hub>, connection: ConnectionId, effect: Effect, out: &mut Outputs<'_>) {
        match effect {
            Effect::Subscribe(packet_id, items) => self.subscribe(hub, connection, packet_id, items, out),
            Effect::Unsubscribe(packet_id, filters) => self.unsubscribe(hub, connection, packet_id, filters, out),
            Effect::MoreRetained(count) => self.more_retained(hub, connection, count, out),
            Effect::ReadQueue(from, count) => {
                let Some(fence) = self.fence() else { return };
                let handle = Arc::clone(&self.handle);
                let bytes_max = hub.config.qos0_bytes_max;
                hub.store.read_queue(
                    fence,
                    from,
                    count,
                    bytes_max,
                    Box::new(move |page| handle.answer(connection, Item::Queue(page))),
                );
            }
            Effect::Acknowledge(number) => {
                let Some(fence) = self.fence() else { return };
                hub.store.acknowledge(fence, number, Box::new(|_| ()));
            }
            Effect::MarkReleased(number) => {
                let Some(fence) = self.fence() else { return };
                let handle = Arc::clone(&self.handle);
                hub.store.mark_released(
                    fence,
                    number,
                    Box::new(move |result| handle.answer(connection, Item::Released(number, result))),
                );
            }
            Effect::ForgetReceived(packet_id) => {
                let Some(fence) = self.fence() else { return };
                let handle = Arc::clone(&self.handle);
                hub.store.forget_received(
                    fence,
                    packet_id,
                    Box::new(move |result| handle.answer(connection, Item::Forgotten(packet_id, result))),
                );
            }
            Effect::Dropped(reason, qos) => hub.metrics.drop_message(reason, qos),
            Effect::Publish(..) | Effect::Close(_) => {}
        }
    }

    fn subscribe(
        &mut self,
        hub: &Arc<Hub>,
        connection: ConnectionId,
        packet_id: PacketId,
        items: Vec<SubscribeItem>,
        out: &mut Outputs<'_>,
    ) {
        let Some(fence) = self.fence() else {
            self.subscribed(hub, packet_id, &items, &[], out);
            return;
        };
        let subscriptions = items.iter().filter_map(|item| item.subscription.clone().ok()).collect();
        let handle = Arc::clone(&self.handle);
        hub.store.subscribe(
            fence,
            subscriptions,
            Box::new(move |result| handle.answer(connection, Item::Subscribed(packet_id, result))),
        );
        self.rare().subscribes.push((packet_id, items));
    }

    /// Subscriptions are where they must be: into the index with them, then SUBACK, then retained messages. `existed` is
    /// the store's word on which filters were there; a session in memory asks the index.
    fn subscribed(
        &mut self,
        hub: &Arc<Hub>,
        packet_id: PacketId,
        items: &[SubscribeItem],
        existed: &[bool],
        out: &mut Outputs<'_>,
    ) {
        let mut codes = Vec::with_capacity(items.len());
        let mut stored = existed.iter().copied();
        for SubscribeItem { subscription, retain_handling } in items {
            match subscription {
                Ok(subscription) => {
                    let in_index = hub.subscribe(&self.handle, subscription);
                    let existed = stored.next().unwrap_or(in_index);
                    let wanted = match retain_handling {
                        RetainHandling::Send => true,
                        RetainHandling::SendIfNew => !existed,
                        RetainHandling::DoNotSend => false,
                    };
                    if wanted {
                        self.rare().retained.begin(subscription);
                    }
                    codes.push(ReasonCode::granted(subscription.options.qos));
                }
                Err(code) => codes.push(*code),
            }
        }
        self.session.handle(Input::Subscribed(packet_id, codes), hub.now(), out);
    }

    fn unsubscribe(
        &mut self,
        hub: &Arc<Hub>,
        connection: ConnectionId,
        packet_id: PacketId,
        filters: Vec<Arc<str>>,
        out: &mut Outputs<'_>,
    ) {
        // No new message for them from here on: v5 [MQTT-3.10.4-2].
        let existed: Vec<bool> = filters.iter().map(|filter| hub.unsubscribe(&self.handle, filter)).collect();
        let Some(fence) = self.fence() else {
            self.unsubscribed(hub, packet_id, &existed, out);
            return;
        };
        let handle = Arc::clone(&self.handle);
        hub.store.unsubscribe(
            fence,
            filters.clone(),
            Box::new(move |result| handle.answer(connection, Item::Unsubscribed(packet_id, result))),
        );
        self.rare().unsubscribes.push((packet_id, filters));
    }

    /// Ends the subscriptions that the passport does not cover, when it was renewed or the session is older than it.
    fn revoke(&self, hub: &Arc<Hub>) {
        let mut filters = self.handle.filters();
        filters.retain(|filter| !self.session.may_subscribe(filter));
        if filters.is_empty() {
            return;
        }
        for filter in &filters {
            hub.unsubscribe(&self.handle, filter);
        }
        if let Some(fence) = self.fence() {
            hub.store.unsubscribe(fence, filters, Box::new(|_| ()));
        }
    }

    fn unsubscribed(&mut self, hub: &Hub, packet_id: PacketId, existed: &[bool], out: &mut Outputs<'_>) {
        let code = |&existed: &bool| {
            if existed { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted }
        };
        let codes = existed.iter().map(code).collect();
        self.session.handle(Input::Unsubscribed(packet_id, codes), hub.now(), out);
    }

    fn more_retained(&mut self, hub: &Arc<Hub>, connection: ConnectionId, count: usize, out: &mut Outputs<'_>) {
        let now = hub.now();
        for _ in 0..count {
            let Some(rare) = &mut self.rare else { return };
            if rare.retained.is_empty() {
                return;
            }
            match rare.retained.next(hub, &self.handle, connection, now) {
                More::Message(delivery) => self.offer_retained(hub, delivery, now, out),
                More::Later | More::End => return,
            }
        }
    }

    fn offer_retained(&mut self, hub: &Arc<Hub>, delivery: state::Delivery, now: u64, out: &mut Outputs<'_>) {
        if delivery.qos != QoS::AtMostOnce && self.handle.stored.is_some() {
            hub.enqueue_retained(&self.handle, delivery);
        } else {
            self.session.handle(Input::Retained(delivery), now, out);
        }
    }

    fn take_item(&mut self, hub: &Arc<Hub>, connection: ConnectionId, item: Item, mut out: Outputs<'_>) {
        let now = hub.now();
        let out = &mut out;
        match item {
            Item::Deliver(delivery) => {
                tally::sent(delivery.qos, delivery.message.payload_slice().len());
                self.session.handle(Input::Deliver(delivery), now, out);
            }
            Item::DeliverStored(number, delivery) => {
                tally::sent(delivery.qos, delivery.message.payload_slice().len());
                self.session.handle(Input::DeliverStored(number, delivery), now, out);
            }
            Item::Missed(number) => self.session.handle(Input::Missed(number), now, out),
            Item::Published(packet_id, qos, result) => {
                self.awaiting_store = self.awaiting_store.saturating_sub(1);
                self.session.handle(Input::Published(packet_id, qos, result), now, out);
            }
            Item::Subscribed(packet_id, result) => self.store_subscribed(hub, packet_id, result, out),
            Item::Unsubscribed(packet_id, result) => self.store_unsubscribed(hub, packet_id, result, out),
            Item::Queue(page) => self.session.handle(Input::Queue(page), now, out),
            Item::Released(number, result) => self.session.handle(Input::Released(number, result), now, out),
            Item::Forgotten(packet_id, result) => {
                self.session.handle(Input::Forgotten(packet_id, result), now, out);
            }
            Item::Retained(page) => {
                self.rare().retained.take_page(page);
                self.more_retained(hub, connection, usize::from(hub.config.inflight_max), out);
            }
            Item::End(reason) => self.session.handle(Input::End(reason), now, out),
        }
    }

    fn store_subscribed(
        &mut self,
        hub: &Arc<Hub>,
        packet_id: PacketId,
        result: Result<Vec<bool>, StoreError>,
        out: &mut Outputs<'_>,
    ) {
        let waiting = &mut self.rare().subscribes;
        let Some(position) = waiting.iter().position(|(waits, _)| *waits == packet_id) else { return };
        let (_, mut items) = waiting.remove(position);
        let existed = match result {
            Ok(existed) => existed,
            Err(error) => {
                let code = match error {
                    StoreError::SubscriptionQuota => ReasonCode::QuotaExceeded,
                    _ => ReasonCode::UnspecifiedError,
                };
                for item in &mut items {
                    item.subscription = item.subscription.clone().and(Err(code));
                }
                Vec::new()
            }
        };
        self.subscribed(hub, packet_id, &items, &existed, out);
    }

    fn store_unsubscribed(
        &mut self,
        hub: &Hub,
        packet_id: PacketId,
        result: Result<Vec<bool>, StoreError>,
        out: &mut Outputs<'_>,
    ) {
        let waiting = &mut self.rare().unsubscribes;
        let Some(position) = waiting.iter().position(|(waits, _)| *waits == packet_id) else { return };
        let (_, filters) = waiting.remove(position);
        match result {
            Ok(existed) => self.unsubscribed(hub, packet_id, &existed, out),
            Err(_) => {
                let codes = vec![ReasonCode::UnspecifiedError; filters.len()];
                self.session.handle(Input::Unsubscribed(packet_id, codes), hub.now(), out);
            }
        }
    }
}

impl link::Stream for WorkerStream {
    fn send(&mut self, packet: Frame<'_>, out: &mut Outgoing) -> Result<(), ReasonCode> {
        self.drive(Input::Packet(packet), out);
        match &self.state {
            State::Ended(reason) => Err(*reason),
            _ => Ok(()),
        }
    }

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        // The answers arrive in the mailbox, which wakes the task.
        match &self.state {
            State::AwaitingClaim(_) => Poll::Pending,
            State::Serving(serving) if serving.awaiting_store >= u32::from(self.hub.config.receive_maximum) => {
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, budget: usize) -> Poll<Event> {
        self.hub.clock.tick();
        let before = out.len();
        if let State::AwaitingClaim(pending) = &self.state {
            let granted = std::task::ready!(pending.slot.poll(cx));
            self.begin(granted, out);
        } else if before < budget {
            self.drive_if_waiting(out);
        }
        if before < budget {
            let _pending = self.take_items(cx, out, budget);
        }
        tally::flush(&self.hub.metrics);
        match &self.state {
            State::Ended(reason) => Poll::Ready(Event::Closed(*reason)),
            _ if out.len() > before => Poll::Ready(Event::Wrote),
            _ => Poll::Pending,
        }
    }

    fn renew(&mut self, passport: Arc<Passport>) {
        let mut none = Outgoing::new();
        self.drive(Input::Renewed(passport), &mut none);
        if let State::Serving(serving) = &mut self.state {
            serving.revoke(&self.hub);
        }
    }

    fn close(mut self, _cause: CloseCause) {
        self.lost();
    }
}

impl WorkerStream {
    /// Retained messages that wait for room: the device has taken what was written.
    fn drive_if_waiting(&mut self, out: &mut Outgoing) {
        let State::Serving(serving) = &self.state else { return };
        if serving.rare.as_ref().is_some_and(|rare| !rare.retained.is_empty()) || serving.session.waits_for_room() {
            self.drive(Input::Writable, out);
        }
    }

    fn lost(&mut self) {
        match &self.state {
            State::Serving(serving) => {
                let closing = serving.session.connection_lost();
                self.end(&closing);
            }
            State::AwaitingClaim(_) => self.abandon(),
            State::Ended(_) => {}
        }
    }

    /// The device went before the store answered: the session is let go when it does.
    fn abandon(&mut self) {
        let ended = State::Ended(ReasonCode::Success);
        let State::AwaitingClaim(pending) = std::mem::replace(&mut self.state, ended) else { return };
        if let Some(granted) = pending.slot.abandon() {
            self.hub.let_go(&granted, self.connection, pending.expiry_s);
        }
    }
}

impl Drop for WorkerStream {
    fn drop(&mut self) {
        self.lost();
    }
}
