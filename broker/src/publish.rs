//! The path of one PUBLISH: match, hand to sessions whose queue is in memory, enqueue for stored ones, and answer the
//! publisher when all that must be durable is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use link::ConnectionId;
use mqtt::{PacketId, QoS, ReasonCode};
use parking_lot::Mutex;
use smallvec::SmallVec;
use state::{
    Delivery, Enqueued, Fence, Message, Origin, Publish, Published, StoreError, SubscriptionIds,
    SubscriptionOptions, Target,
};

use crate::held::{Ticket, Work};
use crate::hub::Hub;
use crate::index::{Entry, Matches};
use crate::session::DropReason;
use crate::session_handle::{Item, Posted, SessionHandle};

/// The connection that publishes.
pub(crate) struct Publisher<'a> {
    pub session: &'a Arc<SessionHandle>,
    pub connection: ConnectionId,
    /// Set when its session is stored.
    pub fence: Option<&'a Fence>,
}

/// A stored session that gets the message.
#[derive(Clone)]
pub(crate) struct Routed {
    session: Arc<SessionHandle>,
    delivery: Delivery,
    /// Set when it was chosen among the members of a share.
    share: Option<Box<Share>>,
}

/// A choice among the members of a share.
#[derive(Clone)]
struct Share {
    group: u64,
    /// Sessions that were chosen before and turned out to be gone.
    tried: Vec<u64>,
}

/// Who waits for the answer, until every part of the work is durable.
pub(crate) struct Waiting {
    /// `None`: nobody (QoS 0, the server's own messages).
    publisher: Option<(Arc<SessionHandle>, ConnectionId, PacketId)>,
    qos: QoS,
    matched: bool,
    parts: AtomicUsize,
    failed: Mutex<Option<StoreError>>,
    /// Runs once all of it is durable.
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Waiting {
    fn part_done(&self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            *self.failed.lock() = Some(error);
        }
        if self.parts.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let failed = self.failed.lock().take();
        // Not only if it went well: a Will that cannot be retained would be published again for ever. What a store that is
        // closed could not take comes again when it is open.
        if let Some(then) = self.then.lock().take()
            && !matches!(failed, Some(StoreError::Closed))
        {
            then();
        }
        let Some((session, connection, packet_id)) = &self.publisher else { return };
        let answer = match failed {
            None if self.matched => Ok(ReasonCode::Success),
            None => Ok(ReasonCode::NoMatchingSubscribers),
            Some(StoreError::RetainedQuota) => Ok(ReasonCode::QuotaExceeded),
            Some(StoreError::Fenced) => {
                session.answer(*connection, Item::End(ReasonCode::SessionTakenOver));
                return;
            }
            Some(error) => Err(error),
        };
        session.answer(*connection, Item::Published(*packet_id, self.qos, answer));
    }
}

impl Hub {
    /// Routes a message. `Some`: that is the answer already. `None`: the answer will be an [`Item::Published`] for the
    /// publisher's connection.
    pub(crate) fn publish(
        self: &Arc<Self>,
        publisher: Option<Publisher<'_>>,
        packet_id: Option<PacketId>,
        message: &Arc<Message>,
    ) -> Option<ReasonCode> {
        let by = publisher.as_ref().map(|publisher| publisher.session.id);
        self.publish_then(publisher, packet_id, message, by, None)
    }

    /// As [`Hub::publish`], for No Local as a message of session `by`, and runs `then` when the message is durable wherever it must be.
    pub(crate) fn publish_then(
        self: &Arc<Self>,
        publisher: Option<Publisher<'_>>,
        packet_id: Option<PacketId>,
        message: &Arc<Message>,
        by: Option<u64>,
        then: Option<Box<dyn FnOnce() + Send>>,
    ) -> Option<ReasonCode> {
        // Written before matching: a new subscriber gets the retained message or the live one, never neither.
        let retain_first = message.retain() && !crate::sys::is_own(message.topic());
        if retain_first && message.qos() == QoS::AtMostOnce && then.is_none() {
            self.store.retain(Arc::clone(message), Box::new(|_| ()));
        }
        let retain_waits = retain_first && (message.qos() != QoS::AtMostOnce || then.is_some());
        let waiting_for_retain = retain_waits.then(|| self.retain_begun(message));
        let mut stored = Vec::new();
        let matched = {
            let index = self.index.read();
            let matches = index.matches(message.topic());
            self.route(&matches, message, by, &mut stored)
        };
        let origin = publisher.as_ref().and_then(|p| {
            let fence = p.fence.filter(|_| message.qos() == QoS::ExactlyOnce)?;
            Some(Origin { fence: fence.clone(), packet_id: packet_id? })
        });
        let enqueue = !stored.is_empty() || origin.is_some();
        let parts = usize::from(enqueue) + usize::from(waiting_for_retain.is_some());
        if parts == 0 {
            if let Some(then) = then {
                then();
            }
            return Some(if matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers });
        }
        let waiting = Arc::new(Waiting {
            publisher: publisher.and_then(|p| Some((Arc::clone(p.session), p.connection, packet_id?))),
            qos: message.qos(),
            matched,
            parts: AtomicUsize::new(parts),
            failed: Mutex::default(),
            then: Mutex::new(then),
        });
        if let Some(begun) = waiting_for_retain {
            begun.continue_with(self, message, &waiting);
        }
        if enqueue {
            self.submit(Work::Enqueue(Arc::clone(message), origin, stored, waiting));
        }
        None
    }

    /// Publishes a client's Will Message, and runs `then` when it is durable wherever it must be.
    pub(crate) fn publish_will(
        self: &Arc<Self>,
        client_id: &str,
        message: &Arc<Message>,
        then: Option<Box<dyn FnOnce() + Send>>,
    ) {
        self.metrics.wills.inc();
        let by = self.sessions.find(client_id).map(|session| session.id);
        self.publish_then(None, None, message, by, then);
    }

    /// Sets the retained message; the answer is one part of what is waited for.
    pub(crate) fn run_retain(self: &Arc<Self>, ticket: Ticket, message: Arc<Message>, waiting: Arc<Waiting>) {
        let (hub, retained) = (Arc::clone(self), Arc::clone(&message));
        let done = move |result| hub.retain_done(Some(ticket), retained, &waiting, result);
        self.store.retain(message, Box::new(done));
    }

    /// Enqueues the message; the answer is one part of what is waited for.
    pub(crate) fn run_enqueue(
        self: &Arc<Self>,
        ticket: Ticket,
        message: Arc<Message>,
        origin: Option<Origin>,
        routed: Vec<Routed>,
        waiting: Arc<Waiting>,
    ) {
        let hub = Arc::clone(self);
        let targets = routed.iter().filter_map(Routed::target).collect();
        let publish = Publish { message: Arc::clone(&message), origin: origin.clone(), targets };
        self.store.publish(
            publish,
            Box::new(move |result| match result {
                Err(error) if error.is_retryable() => {
                    hub.hold(Some(ticket), Work::Enqueue(message, origin, routed, waiting));
                }
                Err(error) => waiting.part_done(Err(error)),
                Ok(published) => {
                    let again = hub.enqueued(routed, &published);
                    if again.is_empty() {
                        waiting.part_done(Ok(()));
                    } else {
                        // The store knows its origin by now.
                        hub.submit(Work::Enqueue(message, None, again, waiting));
                    }
                }
            }),
        );
    }

    /// Enqueues a message for one stored session, and runs `then` when it is there, or will not come there.
    pub(crate) fn enqueue_for(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        delivery: Delivery,
        then: Box<dyn FnOnce() + Send>,
    ) {
        let message = Arc::clone(&delivery.message);
        let waiting = Arc::new(Waiting {
            publisher: None,
            qos: delivery.qos,
            matched: true,
            parts: AtomicUsize::new(1),
            failed: Mutex::default(),
            then: Mutex::new(Some(then)),
        });
        let routed = vec![Routed { session: Arc::clone(session), delivery, share: None }];
        self.submit(Work::Enqueue(message, None, routed, waiting));
    }

    /// The store has the message in these queues: tell the sessions that are connected. Answers who is to get it instead of
    /// members of shares that are gone.
    fn enqueued(&self, routed: Vec<Routed>, published: &Published) -> Vec<Routed> {
        let mut again = Vec::new();
        for (Routed { session, delivery, share }, outcome) in routed.into_iter().zip(&published.targets) {
            match outcome {
                Enqueued::At(number) => {
                    session.deliver_stored(*number, delivery, self.config.queue_bytes_max);
                }
                // A store of one worker's own says this of nobody.
                Enqueued::Elsewhere(..) => {}
                Enqueued::Full => self.metrics.drop_message(DropReason::QueueFull, delivery.qos),
                Enqueued::Gone => {
                    if let Some(mut share) = share {
                        share.tried.push(session.id);
                        self.choose_again(&delivery.message, &share, &mut again);
                    }
                }
            }
        }
        again
    }

    /// Offers a message to the members of a share that were not tried.
    fn choose_again(&self, message: &Arc<Message>, share: &Share, stored: &mut Vec<Routed>) {
        let index = self.index.read();
        let matches = index.matches(message.topic());
        let mut groups = matches.iter().flat_map(|leaf| leaf.shared());
        let Some(group) = groups.find(|group| group.id() == share.group) else { return };
        group.offer(|entry| {
            !share.tried.contains(&entry.session.id) && self.offer_share(entry, message, share, stored)
        });
    }

    fn offer_share(
        &self,
        entry: &Entry,
        message: &Arc<Message>,
        share: &Share,
        stored: &mut Vec<Routed>,
    ) -> bool {
        let before = stored.len();
        let offered = self.offer(&entry.session, message, &Merged::of(&entry.options), stored);
        if let Some(routed) = stored.get_mut(before) {
            routed.share = Some(Box::new(share.clone()));
        }
        offered == Offered::Taken
    }

    /// Hands the message to every session that matches, or lists it as one for the store. Answers whether any
    /// subscription matched.
    fn route(
        &self,
        matches: &Matches<'_>,
        message: &Arc<Message>,
        publisher: Option<u64>,
        stored: &mut Vec<Routed>,
    ) -> bool {
        let mut matched = false;
        if let [leaf] = matches.as_slice() {
            for entry in leaf.plain() {
                matched |= self.offer_plain(&[entry], message, publisher, stored);
            }
        } else {
            // Several filters: each session gets one copy, with the highest QoS and all its identifiers.
            // v5 [MQTT-3.3.4-2], [MQTT-3.3.4-4]
            let mut entries: SmallVec<[&Entry; 16]> = matches.iter().flat_map(|leaf| leaf.plain()).collect();
            entries.sort_unstable_by_key(|entry| entry.session.id);
            for same in entries.chunk_by(|a, b| a.session.id == b.session.id) {
                matched |= self.offer_plain(same, message, publisher, stored);
            }
        }
        for group in matches.iter().flat_map(|leaf| leaf.shared()) {
            let share = Share { group: group.id(), tried: Vec::new() };
            matched |= group.offer(|entry| self.offer_share(entry, message, &share, stored));
        }
        matched
    }

    fn offer_plain(
        &self,
        same_session: &[&Entry],
        message: &Arc<Message>,
        publisher: Option<u64>,
        stored: &mut Vec<Routed>,
    ) -> bool {
        let Some(session) = same_session.first().map(|entry| &entry.session) else { return false };
        let local = publisher == Some(session.id);
        // v5 [MQTT-3.8.3-3]
        let mut options = same_session.iter().map(|entry| &entry.options).filter(|o| !(local && o.no_local));
        let Some(first) = options.next() else { return false };
        let merged = options.fold(Merged::of(first), Merged::with);
        self.offer(session, message, &merged, stored);
        true
    }

    fn offer(
        &self,
        session: &Arc<SessionHandle>,
        message: &Arc<Message>,
        merged: &Merged,
        stored: &mut Vec<Routed>,
    ) -> Offered {
        let delivery = Delivery {
            message: Arc::clone(message),
            // v5 [MQTT-3.8.4-8]
            qos: message.qos().min(merged.qos),
            // v5 [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            retain: message.retain() && merged.retain_as_published,
            subscription_ids: SubscriptionIds::from_slice(&merged.ids),
        };
        let qos = delivery.qos;
        if qos != QoS::AtMostOnce && session.stored.is_some() {
            stored.push(Routed { session: Arc::clone(session), delivery, share: None });
            return Offered::Taken;
        }
        let bytes_max =
            if qos == QoS::AtMostOnce { self.config.qos0_bytes_max } else { self.config.queue_bytes_max };
        match session.deliver(delivery, bytes_max) {
            Posted::Yes => Offered::Taken,
            Posted::Offline => Offered::Declined,
            Posted::Full => {
                let reason =
                    if qos == QoS::AtMostOnce { DropReason::SlowClient } else { DropReason::QueueFull };
                self.metrics.drop_message(reason, qos);
                Offered::Declined
            }
        }
    }

    fn retain_begun(self: &Arc<Self>, message: &Arc<Message>) -> RetainBegun {
        if self.holds_work() {
            return RetainBegun { slot: None };
        }
        let slot = Arc::new(Mutex::new(RetainSlot::Open));
        let filled = Arc::clone(&slot);
        let hub = Arc::clone(self);
        let retained = Arc::clone(message);
        self.store.retain(
            Arc::clone(message),
            Box::new(move |result| {
                let mut slot = filled.lock();
                match std::mem::replace(&mut *slot, RetainSlot::Done(Ok(()))) {
                    RetainSlot::Waited(waiting) => {
                        drop(slot);
                        hub.retain_done(None, retained, &waiting, result);
                    }
                    _ => *slot = RetainSlot::Done(result),
                }
            }),
        );
        RetainBegun { slot: Some(slot) }
    }

    fn retain_done(
        &self,
        ticket: Option<Ticket>,
        message: Arc<Message>,
        waiting: &Arc<Waiting>,
        result: Result<(), StoreError>,
    ) {
        match result {
            Err(error) if error.is_retryable() => {
                self.hold(ticket, Work::Retain(message, Arc::clone(waiting)));
            }
            result => waiting.part_done(result),
        }
    }
}

/// A write of the retained store that began before matching; who waits for it is known only after.
struct RetainBegun {
    /// `None`: it has to queue behind work that is held.
    slot: Option<Arc<Mutex<RetainSlot>>>,
}

enum RetainSlot {
    Open,
    Done(Result<(), StoreError>),
    Waited(Arc<Waiting>),
}

impl RetainBegun {
    fn continue_with(self, hub: &Arc<Hub>, message: &Arc<Message>, waiting: &Arc<Waiting>) {
        let Some(slot) = self.slot else {
            hub.submit(Work::Retain(Arc::clone(message), Arc::clone(waiting)));
            return;
        };
        let mut slot = slot.lock();
        match std::mem::replace(&mut *slot, RetainSlot::Waited(Arc::clone(waiting))) {
            RetainSlot::Done(result) => {
                drop(slot);
                hub.retain_done(None, Arc::clone(message), waiting, result);
            }
            _ => drop(slot),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Offered {
    Taken,
    Declined,
}

/// The options of all of a session's matching subscriptions together.
struct Merged {
    qos: QoS,
    retain_as_published: bool,
    ids: SmallVec<[u32; 2]>,
}

impl Merged {
    fn of(options: &SubscriptionOptions) -> Self {
        let none = Self { qos: QoS::AtMostOnce, retain_as_published: false, ids: SmallVec::new() };
        none.with(options)
    }

    fn with(mut self, options: &SubscriptionOptions) -> Self {
        self.qos = self.qos.max(options.qos);
        self.retain_as_published |= options.retain_as_published;
        if options.subscription_id != 0 {
            self.ids.push(options.subscription_id);
        }
        self
    }
}

impl Routed {
    fn target(&self) -> Option<Target> {
        let session = Arc::clone(self.session.stored.as_ref()?);
        Some(Target { session, delivery: self.delivery.clone() })
    }
}
