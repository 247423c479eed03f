//! The path of one PUBLISH: match, hand to sessions whose queue is in memory, enqueue for stored ones, and answer the
//! publisher when all that must be durable is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use link::ConnectionId;
use mqtt::{PacketId, QoS, ReasonCode};
use parking_lot::Mutex;
use state::{
    Delivery, DueWill, Enqueued, Fence, Message, Origin, Publish, Published, PublishingSession, StoreError,
};
use tokio::time::Instant;

use crate::cluster::{LastTurn, Told, Turn};
use crate::directory::SessionHandle;
use crate::hub::Hub;
use crate::hub::held::{Ticket, Work};
use crate::routing::route::{Found, Routed, Sent, Share};
pub(crate) use crate::routing::waiting::Waiting;
use crate::session::DropReason;

/// The connection that publishes.
pub(crate) struct Publisher<'a> {
    pub session: &'a Arc<SessionHandle>,
    pub connection: ConnectionId,
    /// Set when its session is stored.
    pub fence: Option<&'a Fence>,
}

/// A message that has to wait before it is matched.
pub(crate) struct Unmatched {
    message: Arc<Message>,
    /// Whose it is, for No Local.
    by: Option<u64>,
    /// Its publisher's, if the session is stored.
    fence: Option<Fence>,
    origin: Option<Origin>,
    /// Whether it is to be retained before it is matched.
    retains: bool,
    /// It is for the members of this share alone.
    share: Option<Arc<str>>,
    waiting: Arc<Waiting>,
}

impl Unmatched {
    /// The session that publishes it.
    pub(crate) fn publisher(&self) -> Option<u64> {
        self.waiting.publisher()
    }
}

/// What is to happen when a message is durable wherever it must be, for one that may come again until then.
pub(crate) struct Awaited {
    /// By this stored queues know it when it comes again.
    identity: Option<[u8; 16]>,
    then: Box<dyn FnOnce() + Send>,
}

impl Hub {
    /// Routes a message. `Some`: that is the answer already. `None`: the answer will be an [`crate::directory::session_handle::Item::Published`] for the
    /// publisher's connection.
    pub(crate) fn publish(
        self: &Arc<Self>,
        publisher: Option<Publisher<'_>>,
        packet_id: Option<PacketId>,
        message: &Arc<Message>,
    ) -> Option<ReasonCode> {
        let by = publisher.as_ref().map(|publisher| publisher.session.id);
        let fence = publisher.as_ref().and_then(|publisher| publisher.fence);
        let turn = match fence {
            // With QoS 0 nothing is told to the publisher, and what the worker has not read of a connection that went elsewhere
            // comes behind what it sends there.
            Some(fence) if message.qos() == QoS::AtMostOnce => self.cluster.turn_of(fence),
            _ => Turn::Its,
        };
        let last_turn = match turn {
            Turn::Its => None,
            Turn::Last(last_turn) => Some(last_turn),
            Turn::Over => return Some(ReasonCode::Success),
        };
        self.publish_then(publisher, packet_id, message, last_turn, by, None)
    }

    /// As [`Hub::publish`], for No Local as a message of session `by`, and does what is awaited when the message is durable. What
    /// keeps newer ones of its publisher back does so until it is matched.
    pub(crate) fn publish_then(
        self: &Arc<Self>,
        publisher: Option<Publisher<'_>>,
        packet_id: Option<PacketId>,
        message: &Arc<Message>,
        last_turn: Option<LastTurn<'_>>,
        by: Option<u64>,
        awaited: Option<Awaited>,
    ) -> Option<ReasonCode> {
        let identity = awaited.as_ref().and_then(|awaited| awaited.identity);
        let then = awaited.map(|awaited| awaited.then);
        // Written before matching: a new subscriber gets the retained message or the live one, never neither.
        let retain_first = message.retain() && !crate::hub::sys::is_own(message.topic());
        if retain_first && message.qos() == QoS::AtMostOnce && then.is_none() && !self.replace_held(message) {
            self.retain_aside(message, publisher.as_ref().map(|publisher| publisher.session));
        }
        let retain_waits = retain_first && (message.qos() != QoS::AtMostOnce || then.is_some());
        let has_to_wait = message.qos() != QoS::AtMostOnce
            && !(self.may_match() && publisher.as_ref().is_none_or(|it| self.is_certainly_ours(it)));
        // The publisher of one that has to wait may have replaced it by now, by way of another worker.
        let waiting_for_retain = (retain_waits && !has_to_wait).then(|| self.retain_begun(message));
        let origin = publisher.as_ref().and_then(|p| {
            let fence = p.fence.filter(|_| message.qos() == QoS::ExactlyOnce)?;
            Some(Origin { fence: fence.clone(), packet_id: packet_id? })
        });
        let fence = publisher.as_ref().and_then(|p| p.fence.cloned());
        let waiting = |matched, parts, then| {
            Arc::new(Waiting {
                publisher: publisher.and_then(|p| Some((Arc::clone(p.session), p.connection, packet_id?))),
                since: Instant::now(),
                fence: fence.clone().filter(|_| self.cluster.is_shared()),
                qos: message.qos(),
                identity,
                matched: AtomicBool::new(matched),
                parts: AtomicUsize::new(parts),
                failed: Mutex::default(),
                then: Mutex::new(then),
            })
        };
        let found = if has_to_wait { None } else { self.match_now(message, by) };
        drop(last_turn);
        let Some((matched, found)) = found else {
            let waiting = waiting(false, 1 + usize::from(waiting_for_retain.is_some()), then);
            if let Some(begun) = waiting_for_retain {
                begun.continue_with(self, message, &waiting);
            }
            let message = Arc::clone(message);
            let retains = retain_waits && has_to_wait;
            self.match_later(Unmatched { message, by, fence, origin, retains, share: None, waiting });
            return None;
        };
        let stored = self.split(found.stored, origin.is_some());
        let heard = found.sent.iter().filter(|sent| sent.qos > QoS::AtMostOnce).count();
        let parts = stored.len() + usize::from(waiting_for_retain.is_some()) + heard;
        if parts == 0 {
            self.send_to_peers(message, fence.as_ref(), found.sent, None);
            if let Some(then) = then {
                then();
            }
            return Some(if matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers });
        }
        let waiting = waiting(matched, parts, then);
        if let Some(begun) = waiting_for_retain {
            begun.continue_with(self, message, &waiting);
        }
        self.send_to_peers(message, fence.as_ref(), found.sent, Some(&waiting));
        for routed in stored {
            self.submit(Work::Enqueue(Arc::clone(message), origin.clone(), routed, Arc::clone(&waiting)));
        }
        None
    }

    /// Whether the publisher's session cannot be another worker's. After the route lease has lapsed it may be: this worker may
    /// have stood still, and the device have gone on elsewhere. What came from it before would come among what it sends there.
    fn is_certainly_ours(&self, publisher: &Publisher<'_>) -> bool {
        publisher.fence.is_none() || self.cluster.is_certainly_ours(publisher.session)
    }

    /// Matches a message and hands it to sessions whose queue is in memory. `None`: it has to wait, since what this worker
    /// knows of subscriptions may be old, or since others wait for that.
    fn match_now(&self, message: &Arc<Message>, by: Option<u64>) -> Option<(bool, Found)> {
        let mut found = Found::default();
        let index = self.directory.index();
        if message.qos() != QoS::AtMostOnce && !self.may_match() {
            return None;
        }
        let matches = index.matches(message.topic());
        let matched = self.route(&matches, message, by, &mut found);
        Some((matched, found))
    }

    /// Whether QoS 1 and 2 may be matched at once: this worker knows all routes, and none waits that is older.
    pub(crate) fn may_match(&self) -> bool {
        self.cluster.may_match()
    }

    fn match_later(self: &Arc<Self>, unmatched: Unmatched) {
        self.cluster.begin_wait();
        self.submit(Work::Match(unmatched));
    }

    /// The same for a message for the members of one share, whose publisher does not wait.
    pub(crate) fn match_share_later(
        self: &Arc<Self>,
        share: Arc<str>,
        message: Arc<Message>,
        waiting: Arc<Waiting>,
    ) {
        let (by, fence, origin, retains, share) = (None, None, None, false, Some(share));
        self.match_later(Unmatched { message, by, fence, origin, retains, share, waiting });
    }

    /// Matches a message that had to wait, in its place; or lets it wait on. Its publisher may have gone on at another worker
    /// and have sent it again there, and more after it: so the store is asked first whose the session is, unless it has said so
    /// since the last lapse. In one turn that is one question for each publisher, however much of it waits.
    pub(crate) fn run_match(self: &Arc<Self>, ticket: Ticket, unmatched: Unmatched) {
        let Some(fence) = unmatched.fence.clone() else { return self.match_held(ticket, unmatched) };
        let hub = Arc::clone(self);
        let lapses = self.cluster.lapses();
        if let Some((session, ..)) = &unmatched.waiting.publisher
            && session.owned_since() == lapses
            && !self.holds_older(session.id, ticket)
        {
            return self.match_held(ticket, unmatched);
        }
        let done = move |answer: Result<(), StoreError>| match answer {
            Ok(_) => {
                if let Some((session, ..)) = &unmatched.waiting.publisher {
                    session.set_owned_since(lapses);
                }
                hub.match_held(ticket, unmatched);
            }
            Err(error) if error.is_retryable() => hub.hold(Some(ticket), Work::Match(unmatched)),
            Err(error) => hub.end_match(ticket, &unmatched.waiting, Err(error)),
        };
        self.store.confirm(&fence, Box::new(done));
    }

    fn match_held(self: &Arc<Self>, ticket: Ticket, unmatched: Unmatched) {
        if unmatched.publisher().is_some_and(|publisher| self.holds_older(publisher, ticket)) {
            return self.hold(Some(ticket), Work::Match(unmatched));
        }
        let waiting = Arc::clone(&unmatched.waiting);
        if waiting.publisher.as_ref().is_some_and(|(session, by, _)| !session.is_owned_by(*by)) {
            // It was not acknowledged and will come again, if the device comes again.
            return self.end_match(ticket, &waiting, Ok(()));
        }
        let may_match = |unmatched: &Unmatched| {
            let publisher = waiting.publisher.as_ref().filter(|_| unmatched.fence.is_some());
            self.cluster.holds()
                && publisher.is_none_or(|(session, ..)| self.cluster.is_certainly_ours(session))
        };
        let mut unmatched = unmatched;
        if unmatched.retains && may_match(&unmatched) {
            unmatched.retains = false;
            waiting.parts.fetch_add(1, Ordering::AcqRel);
            self.retain(None, Arc::clone(&unmatched.message), Arc::clone(&waiting));
        }
        let mut found = Found::default();
        {
            let index = self.directory.index();
            if unmatched.retains || !may_match(&unmatched) {
                drop(index);
                return self.hold(Some(ticket), Work::Match(unmatched));
            }
            let message = &unmatched.message;
            let matched = match &unmatched.share {
                Some(share) => self.route_to_share(&index, message, share, &mut found),
                None => self.route(&index.matches(message.topic()), message, unmatched.by, &mut found),
            };
            waiting.matched.store(matched, Ordering::Release);
        }
        let Unmatched { message, fence, origin, .. } = unmatched;
        let heard = found.sent.iter().filter(|sent| sent.qos > QoS::AtMostOnce).count();
        let stored = self.split(found.stored, origin.is_some());
        waiting.parts.fetch_add(heard + stored.len(), Ordering::AcqRel);
        self.send_to_peers(&message, fence.as_ref(), found.sent, Some(&waiting));
        for (ticket, routed) in ticket.parts().zip(stored) {
            let (message, origin) = (Arc::clone(&message), origin.clone());
            self.run_enqueue(ticket, message, origin, routed, Arc::clone(&waiting));
        }
        self.end_match(ticket, &waiting, Ok(()));
    }

    /// A message that had to wait was matched, or will not be.
    fn end_match(&self, ticket: Ticket, waiting: &Waiting, result: Result<(), StoreError>) {
        self.leave_line(waiting.publisher(), ticket);
        self.cluster.end_wait();
        waiting.part_done(self, result);
    }

    /// Sends a message to other workers, whose publisher has its session here with `fence`; those parts that must not be lost are
    /// waited for.
    fn send_to_peers(
        self: &Arc<Self>,
        message: &Arc<Message>,
        fence: Option<&Fence>,
        sent: impl IntoIterator<Item = Sent>,
        waiting: Option<&Arc<Waiting>>,
    ) {
        let publisher = fence
            .map(|fence| PublishingSession { incarnation: fence.session.incarnation, epoch: fence.epoch });
        for Sent { id, worker, qos, is_plain, shares } in sent {
            let filters = shares.iter().map(|share| Arc::clone(&share.filter)).collect();
            let told = waiting.filter(|_| qos > QoS::AtMostOnce).map(|waiting| {
                let (hub, message) = (Arc::clone(self), Arc::clone(message));
                let waiting = Arc::clone(waiting);
                let told = move |heard| hub.peer_heard(&message, id, shares, &waiting, heard);
                Box::new(told) as Told
            });
            // What a server says of itself is for its own clients.
            if !crate::hub::sys::is_own(message.topic()) {
                self.cluster.note_message(worker, message, publisher, (is_plain, filters), told);
            } else if let Some(told) = told {
                told(Ok(false));
            }
        }
    }

    /// Another worker has the message in its inbox, or is gone: then other members are chosen for its shares.
    fn peer_heard(
        self: &Arc<Self>,
        message: &Arc<Message>,
        peer: u64,
        shares: Vec<Share>,
        waiting: &Arc<Waiting>,
        heard: Result<bool, StoreError>,
    ) {
        if matches!(heard, Ok(false)) && !shares.is_empty() {
            let mut again = Found::default();
            for mut share in shares {
                share.tried.push(peer);
                self.choose_again(message, &share, &mut again);
            }
            self.offer_again(message, again, waiting);
        }
        match heard {
            Ok(_) => self.part_stored(waiting),
            Err(error) => waiting.part_done(self, Err(error)),
        }
    }

    /// A part is where it must be. If it took so long that the publisher's session may be another worker's, the store is asked
    /// before anything is acknowledged on a connection that may have lost it.
    fn part_stored(self: &Arc<Self>, waiting: &Arc<Waiting>) {
        if self.may_acknowledge(waiting) {
            waiting.part_done(self, Ok(()));
        } else {
            self.submit(Work::Confirm(Arc::clone(waiting)));
        }
    }

    fn may_acknowledge(&self, waiting: &Waiting) -> bool {
        match &waiting.publisher {
            Some((session, ..)) if waiting.fence.is_some() => {
                self.cluster.holds() && self.cluster.is_certainly_ours(session)
            }
            _ => true,
        }
    }

    /// Asks whose the publisher's session is, if that is not known by now.
    pub(crate) fn run_confirm(self: &Arc<Self>, ticket: Ticket, waiting: Arc<Waiting>) {
        let Some(fence) = waiting.fence.clone().filter(|_| !self.may_acknowledge(&waiting)) else {
            return waiting.part_done(self, Ok(()));
        };
        let hub = Arc::clone(self);
        let lapses = self.cluster.lapses();
        let done = move |answer: Result<(), StoreError>| match answer {
            Err(error) if error.is_retryable() => hub.hold(Some(ticket), Work::Confirm(waiting)),
            answer => {
                if let (Ok(_), Some((session, ..))) = (&answer, &waiting.publisher) {
                    session.set_owned_since(lapses);
                }
                waiting.part_done(&hub, answer);
            }
        };
        self.store.confirm(&fence, Box::new(done));
    }

    /// Enqueues and sends what was chosen in place of members that are gone.
    pub(crate) fn offer_again(
        self: &Arc<Self>,
        message: &Arc<Message>,
        again: Found,
        waiting: &Arc<Waiting>,
    ) {
        let heard = again.sent.iter().filter(|sent| sent.qos > QoS::AtMostOnce).count();
        let stored = self.split(again.stored, false);
        waiting.parts.fetch_add(heard + stored.len(), Ordering::AcqRel);
        self.send_to_peers(message, waiting.fence.as_ref(), again.sent, Some(waiting));
        for routed in stored {
            // The store knows its origin by now.
            self.submit(Work::Enqueue(Arc::clone(message), None, routed, Arc::clone(waiting)));
        }
    }

    /// Publishes a Will that the store has handed out, and tells it when that is durable wherever it must be. Until then the store
    /// hands it out again, here or to another worker, since nobody knows whether this one lives: here it is known to be under way,
    /// and stored queues know it wherever it comes from.
    pub(crate) fn publish_will_of(self: &Arc<Self>, will: DueWill) {
        let DueWill { session, message, number, .. } = will.clone();
        if !self.wills.lock().insert((Arc::clone(&session), number)) {
            return;
        }
        let hub = Arc::clone(self);
        let identity = (u128::from(session.incarnation) << 64 | u128::from(number)).to_le_bytes();
        let client_id = Arc::clone(&session.client_id);
        let then = move || {
            let known = Arc::clone(&hub);
            let finished = move |_| {
                known.wills.lock().remove(&(session, number));
            };
            hub.store.finish_will(&will, Box::new(finished));
        };
        self.publish_will(
            &client_id,
            &message,
            Some(Awaited { identity: Some(identity), then: Box::new(then) }),
        );
    }

    /// Publishes a client's Will Message, and does what is awaited when it is durable wherever it must be.
    pub(crate) fn publish_will(
        self: &Arc<Self>,
        client_id: &str,
        message: &Arc<Message>,
        awaited: Option<Awaited>,
    ) {
        self.metrics.wills.inc();
        let by = self.directory.sessions().find(client_id).map(|session| session.id);
        self.publish_then(None, None, message, None, by, awaited);
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
        let identity = waiting.identity.filter(|_| origin.is_none());
        let publish = Publish { message: Arc::clone(&message), origin: origin.clone(), identity, targets };
        self.store.publish(
            publish,
            Box::new(move |result| match result {
                Err(error) if error.is_retryable() => {
                    hub.hold(Some(ticket), Work::Enqueue(message, origin, routed, waiting));
                }
                Err(error) => waiting.part_done(&hub, Err(error)),
                Ok(published) => {
                    let again = hub.enqueued(routed, &published);
                    hub.offer_again(&message, again, &waiting);
                    hub.part_stored(&waiting);
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
        let waiting = Waiting::of_nobody(delivery.qos, Some(then));
        let routed = vec![Routed { session: Arc::clone(session), delivery, share: None }];
        self.submit(Work::Enqueue(message, None, routed, waiting));
    }

    /// The store has the message in these queues: tell the sessions that are connected. Answers who is to get it instead of
    /// members of shares that are gone.
    fn enqueued(self: &Arc<Self>, routed: Vec<Routed>, published: &Published) -> Found {
        let mut again = Found::default();
        for (at, (routed, outcome)) in routed.into_iter().zip(&published.targets).enumerate() {
            if let Some(instead) = published.instead.iter().find(|instead| instead.target == at) {
                self.enqueued_instead(&instead.chosen, outcome);
                continue;
            }
            let Routed { session, delivery, share } = routed;
            match outcome {
                Enqueued::At(number) => {
                    session.set_away(!session.is_connected());
                    if session.deliver_stored(*number, delivery, self.config.queue_bytes_max) {
                        self.directory.list_heavy(&session);
                    }
                }
                Enqueued::Elsewhere(number, worker) => {
                    session.set_away(false);
                    if let Some(stored) = &session.stored {
                        self.cluster.note_queued(*worker, Arc::clone(stored), *number, delivery);
                    }
                }
                Enqueued::Full => {
                    // With QoS 2 the choice is remembered, and would hold for a repeat: it stays.
                    // v5 [MQTT-4.8.2-5]
                    let is_taken = match share.filter(|_| delivery.qos == QoS::AtLeastOnce) {
                        Some(mut share) => {
                            share.tried.push(session.id);
                            self.choose_again(&delivery.message, &share, &mut again)
                        }
                        None => false,
                    };
                    if !is_taken {
                        self.metrics.drop_message(DropReason::QueueFull, delivery.qos);
                    }
                }
                Enqueued::Gone => {
                    if let Some(stored) = session.stored.as_ref().filter(|_| self.cluster.is_shared()) {
                        // The log has not said it yet, or never will: its worker died.
                        self.directory.drop_routes(stored);
                    }
                    if let Some(mut share) = share {
                        share.tried.push(session.id);
                        self.choose_again(&delivery.message, &share, &mut again);
                    }
                }
            }
        }
        again
    }

    /// The message came before, and this member of a share was chosen then. A worker elsewhere that has it finds the message
    /// when it looks at its queues.
    fn enqueued_instead(&self, chosen: &state::StoredSession, outcome: &Enqueued) {
        if let Enqueued::At(number) = outcome
            && let Some(session) = self.directory.find_stored(chosen)
        {
            session.tell_tail(*number);
        }
    }
}
