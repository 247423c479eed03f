//! The path of one PUBLISH: match, hand to sessions whose queue is in memory, enqueue for stored ones, and answer the
//! publisher when all that must be durable is.

use std::sync::Arc;

use mqtt::{PacketId, QoS, ReasonCode};
use state::{Delivery, Enqueued, Fence, Message, Origin, Publish, Published, PublishingSession, StoreError};

use super::route::{Found, Sent};
use crate::cluster::{LastTurn, NoteDone, Turn};
use crate::directory::{Attachment, SessionHandle};
use crate::hub::Hub;
use crate::hub::work::latch::{Latch, Part, Then};
use crate::hub::work::message::{Routed, Share, Unmatched};
use crate::hub::work::{Ticket, Work};
use crate::session::DropReason;

/// The connection that publishes.
pub(crate) struct Publisher<'a> {
    pub session: &'a Arc<SessionHandle>,
    pub attachment: Attachment,
    /// Set when its session is stored.
    pub fence: Option<&'a Fence>,
}

/// What is to happen when a message is durable wherever it must be, for one that may come again until then.
pub(crate) struct Awaited {
    /// By this stored queues know it when it comes again.
    pub identity: Option<[u8; 16]>,
    pub then: Then,
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
        if retain_first && message.qos() == QoS::AtMostOnce && then.is_none() {
            let by = publisher.as_ref().map(|publisher| (publisher.session, publisher.attachment));
            if !self.retain_behind_held(message, by) {
                self.retain_aside(message, by.map(|(session, _)| session));
            }
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
        let begin = |matched, then| {
            let waits = publisher.and_then(|p| Some((Arc::clone(p.session), p.attachment, packet_id?)));
            let mut latch = Latch::new(waits, message.qos()).and_then(then);
            latch.fence = fence.clone().filter(|_| self.cluster.is_shared());
            latch.identity = identity;
            latch.set_matched(matched);
            latch.begin()
        };
        let found = if has_to_wait { None } else { self.match_now(message, by) };
        drop(last_turn);
        let Some((matched, found)) = found else {
            let part = begin(false, then);
            if let Some(begun) = waiting_for_retain {
                begun.continue_with(self, message, part.another());
            }
            let message = Arc::clone(message);
            let retains = retain_waits && has_to_wait;
            self.match_later(Unmatched { by, fence, origin, retains, ..Unmatched::new(message, part) });
            return None;
        };
        let stored = self.split(found.stored, origin.is_some());
        let is_heard = found.sent.iter().any(|sent| sent.qos > QoS::AtMostOnce);
        if stored.is_empty() && waiting_for_retain.is_none() && !is_heard {
            self.send_to_peers(message, fence.as_ref(), found.sent, None);
            if let Some(then) = then {
                then();
            }
            return Some(if matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers });
        }
        let part = begin(matched, then);
        if let Some(begun) = waiting_for_retain {
            begun.continue_with(self, message, part.another());
        }
        self.send_to_peers(message, fence.as_ref(), found.sent, Some(&part));
        for routed in stored {
            self.submit(Work::Enqueue(Arc::clone(message), origin.clone(), routed, part.another()));
        }
        self.part_done(part, Ok(()));
        None
    }

    /// Retains a message that its publisher sends again, and that was routed when it came before. The answer comes as that of
    /// [`Hub::publish`].
    pub(crate) fn retain_again(
        self: &Arc<Self>,
        publisher: &Publisher<'_>,
        packet_id: PacketId,
        message: &Arc<Message>,
    ) {
        let waits = Some((Arc::clone(publisher.session), publisher.attachment, packet_id));
        let fence = publisher.fence.cloned();
        let mut latch = Latch::new(waits, message.qos());
        latch.fence = fence.clone().filter(|_| self.cluster.is_shared());
        latch.set_matched(true);
        let (part, message) = (latch.begin(), Arc::clone(message));
        if crate::hub::sys::is_own(message.topic()) {
            self.part_done(part, Ok(()));
        } else if self.may_match() && self.is_certainly_ours(publisher) {
            self.submit(Work::Retain(message, part));
        } else {
            let (retains, is_routed) = (true, true);
            self.match_later(Unmatched { fence, retains, is_routed, ..Unmatched::new(message, part) });
        }
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
    pub(crate) fn match_share_later(self: &Arc<Self>, share: Arc<str>, message: Arc<Message>, part: Part) {
        self.match_later(Unmatched { share: Some(share), ..Unmatched::new(message, part) });
    }

    /// Matches a message that had to wait, in its place; or lets it wait on. Its publisher may have gone on at another worker
    /// and have sent it again there, and more after it: so the store is asked first whose the session is, unless it has said so
    /// since the last lapse. In one turn that is one question for each publisher, however much of it waits.
    pub(crate) fn run_match(self: &Arc<Self>, ticket: Ticket, unmatched: Unmatched) {
        let Some(fence) = unmatched.fence.clone() else { return self.match_held(ticket, unmatched) };
        let publisher = unmatched.part.publisher.as_ref().map(|(session, ..)| Arc::clone(session));
        if let Some(session) = &publisher
            && self.cluster.is_certainly_ours(session)
            && !self.holds_older(session.id, ticket)
        {
            return self.match_held(ticket, unmatched);
        }
        let hub = Arc::clone(self);
        self.confirm_ours(&fence, publisher, move |answer| match answer {
            Ok(()) => hub.match_held(ticket, unmatched),
            Err(error) if error.is_retryable() => hub.hold(Some(ticket), Work::Match(unmatched)),
            Err(error) => hub.end_match(ticket, unmatched.part, Err(error)),
        });
    }

    /// Asks the store whether the session of a publisher is this worker's, which is certain then until the route lease lapses again.
    pub(crate) fn confirm_ours(
        &self,
        fence: &Fence,
        publisher: Option<Arc<SessionHandle>>,
        then: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        let lapses = self.cluster.lapses();
        let done = move |answer: Result<(), StoreError>| {
            if let (Ok(()), Some(session)) = (&answer, publisher) {
                session.set_owned_since(lapses);
            }
            then(answer);
        };
        self.store.confirm(fence, Box::new(done));
    }

    fn match_held(self: &Arc<Self>, ticket: Ticket, mut unmatched: Unmatched) {
        if unmatched.publisher().is_some_and(|publisher| self.holds_older(publisher, ticket)) {
            return self.hold(Some(ticket), Work::Match(unmatched));
        }
        let publisher = unmatched.part.publisher.as_ref();
        if publisher.is_some_and(|(session, by, _)| !session.is_attached(*by)) {
            // It was not acknowledged and will come again, if the device comes again.
            return self.end_match(ticket, unmatched.part, Ok(()));
        }
        let may_match = |unmatched: &Unmatched| {
            let publisher = unmatched.part.publisher.as_ref().filter(|_| unmatched.fence.is_some());
            self.cluster.holds()
                && publisher.is_none_or(|(session, ..)| self.cluster.is_certainly_ours(session))
        };
        if unmatched.retains && may_match(&unmatched) {
            unmatched.retains = false;
            let message = Arc::clone(&unmatched.message);
            self.retain(ticket.of_retained(), message, unmatched.part.another());
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
                _ if unmatched.is_routed => true,
                Some(share) => self.route_to_share(&index, message, share, &mut found),
                None => self.route(&index.matches(message.topic()), message, unmatched.by, &mut found),
            };
            unmatched.part.set_matched(matched);
        }
        let Unmatched { message, fence, origin, part, .. } = unmatched;
        let stored = self.split(found.stored, origin.is_some());
        self.send_to_peers(&message, fence.as_ref(), found.sent, Some(&part));
        for (ticket, routed) in ticket.parts().zip(stored) {
            self.run_enqueue(ticket, Arc::clone(&message), origin.clone(), routed, part.another());
        }
        self.end_match(ticket, part, Ok(()));
    }

    /// A message that had to wait was matched, or will not be.
    fn end_match(&self, ticket: Ticket, part: Part, result: Result<(), StoreError>) {
        self.leave_line(part.publisher(), ticket);
        self.cluster.end_wait();
        self.part_done(part, result);
    }

    /// Sends a message to other workers, whose publisher has its session here with `fence`; those parts that must not be lost are
    /// waited for.
    fn send_to_peers(
        self: &Arc<Self>,
        message: &Arc<Message>,
        fence: Option<&Fence>,
        sent: impl IntoIterator<Item = Sent>,
        part: Option<&Part>,
    ) {
        let Some(cluster) = self.cluster.shared() else { return };
        let publisher = fence
            .map(|fence| PublishingSession { incarnation: fence.session.incarnation, epoch: fence.epoch });
        for Sent { id, worker, qos, is_plain, shares } in sent {
            let filters = shares.iter().map(|share| Arc::clone(&share.filter)).collect();
            let told = part.filter(|_| qos > QoS::AtMostOnce).map(|part| {
                let (hub, message) = (Arc::clone(self), Arc::clone(message));
                let part = part.another();
                let told = move |heard| hub.peer_heard(&message, id, shares, part, heard);
                Box::new(told) as NoteDone
            });
            // What a server says of itself is for its own clients.
            if !crate::hub::sys::is_own(message.topic()) {
                cluster.note_message(worker, message, publisher, (is_plain, filters), told);
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
        part: Part,
        heard: Result<bool, StoreError>,
    ) {
        if matches!(heard, Ok(false)) && !shares.is_empty() {
            let mut again = Found::default();
            for mut share in shares {
                share.tried.push(peer);
                self.choose_again(message, &share, &mut again);
            }
            self.offer_again(message, again, &part);
        }
        match heard {
            Ok(_) => self.part_stored(part),
            Err(error) => self.part_done(part, Err(error)),
        }
    }

    /// A part is where it must be. If it took so long that the publisher's session may be another worker's, the store is asked
    /// before anything is acknowledged on a connection that may have lost it.
    fn part_stored(self: &Arc<Self>, part: Part) {
        if self.may_acknowledge(&part) {
            self.part_done(part, Ok(()));
        } else {
            self.submit(Work::Confirm(part));
        }
    }

    fn may_acknowledge(&self, latch: &Latch) -> bool {
        match &latch.publisher {
            Some((session, ..)) if latch.fence.is_some() => {
                self.cluster.holds() && self.cluster.is_certainly_ours(session)
            }
            _ => true,
        }
    }

    /// Asks whose the publisher's session is, if that is not known by now.
    pub(crate) fn run_confirm(self: &Arc<Self>, ticket: Ticket, part: Part) {
        let Some(fence) = part.fence.clone().filter(|_| !self.may_acknowledge(&part)) else {
            return self.part_done(part, Ok(()));
        };
        let hub = Arc::clone(self);
        let publisher = part.publisher.as_ref().map(|(session, ..)| Arc::clone(session));
        self.confirm_ours(&fence, publisher, move |answer| match answer {
            Err(error) if error.is_retryable() => hub.hold(Some(ticket), Work::Confirm(part)),
            answer => hub.part_done(part, answer),
        });
    }

    /// Enqueues and sends what was chosen in place of members that are gone.
    pub(crate) fn offer_again(self: &Arc<Self>, message: &Arc<Message>, again: Found, part: &Part) {
        let stored = self.split(again.stored, false);
        self.send_to_peers(message, part.fence.as_ref(), again.sent, Some(part));
        for routed in stored {
            // The store knows its origin by now.
            self.submit(Work::Enqueue(Arc::clone(message), None, routed, part.another()));
        }
    }

    /// Enqueues the message; the answer is one part of what is waited for.
    pub(crate) fn run_enqueue(
        self: &Arc<Self>,
        ticket: Ticket,
        message: Arc<Message>,
        origin: Option<Origin>,
        routed: Vec<Routed>,
        part: Part,
    ) {
        let hub = Arc::clone(self);
        let targets = routed.iter().filter_map(Routed::target).collect();
        let identity = part.identity.filter(|_| origin.is_none());
        let publish = Publish { message: Arc::clone(&message), origin: origin.clone(), identity, targets };
        self.store.publish(
            publish,
            Box::new(move |result| match result {
                Err(error) if error.is_retryable() => {
                    hub.hold(Some(ticket), Work::Enqueue(message, origin, routed, part));
                }
                Err(error) => hub.part_done(part, Err(error)),
                Ok(published) => {
                    let again = hub.enqueued(routed, &published);
                    hub.offer_again(&message, again, &part);
                    hub.part_stored(part);
                }
            }),
        );
    }

    /// Enqueues a message for one stored session, and runs `then` when it is there, or will not come there.
    pub(crate) fn enqueue_for(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        delivery: Delivery,
        then: Then,
    ) {
        let message = Arc::clone(&delivery.message);
        let part = Part::of_nobody(delivery.qos, Some(then));
        let routed = vec![Routed { session: Arc::clone(session), delivery, share: None }];
        self.submit(Work::Enqueue(message, None, routed, part));
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
                    if let (Some(cluster), Some(stored)) = (self.cluster.shared(), &session.stored) {
                        cluster.note_queued(*worker, Arc::clone(stored), *number, delivery);
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
