//! The session core: everything that one connected client's session does, as a pure function of its inputs. No clock,
//! randomness, lock or socket is in here; see [`io`] for its whole contact with the world, `handler` for the packets from
//! the client, and [`delivery`] for the messages to it.

mod alias;
mod answers;
mod closing;
mod delivery;
mod filters;
pub(crate) mod handler;
mod handoff;
mod inbound;
pub(crate) mod io;
mod number;
mod outbound;
mod outdated;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mqtt::frame::Frame;
use mqtt::{Packet, ProtocolVersion, ReasonCode, Receiver};
use state::{Message, Number, StoreError, UnixMs};

use crate::authorize::Authority;
use crate::authorize::authorizer::{Ruling, Verdict};
use crate::authorize::bounds::Bounds;
use crate::config::BrokerConfig;
use crate::session::handler::connect::Terms;

use self::alias::ClientAliases;
use self::answers::Answers;
use self::delivery::StoredQueue;
use self::handoff::Resuming;
use self::outbound::Outbound;
use self::outdated::Outdated;

pub(crate) use self::alias::{AliasUse, ServerAliases};
pub(crate) use self::answers::{Answered, Manner};
pub(crate) use self::closing::Fault;
pub(crate) use self::delivery::is_for_others;
pub(crate) use self::filters::{Added, Answer, Filters, Noted};
pub(crate) use self::inbound::{Inbound, Receipt};
pub(crate) use self::io::{
    Closing, DropReason, Effect, Input, Opening, Outputs, Request, RequestKind, StoreOp, SubscribeItem,
    WillFate,
};
pub(crate) use self::number::packet_id;
pub(crate) use self::outbound::Flight;

/// A client's session while it is connected. What most idle sessions do not need is behind a box that exists only while
/// it is used.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) config: Arc<BrokerConfig>,
    pub(crate) authority: Authority,
    pub(crate) outbound: Outbound,
    /// Of a session whose queue is in the store.
    pub(crate) stored: Option<Box<StoredQueue>>,
    pub(crate) inbound: Option<Box<Inbound>>,
    /// Of a connection that goes on here, until nothing is left of what was before.
    resuming: Option<Box<Resuming>>,
    pub(crate) filters: Option<Box<Filters>>,
    /// What was answered about actions that are asked about, under this passport.
    answers: Option<Box<Answers>>,
    pub(crate) client_aliases: Option<Box<ClientAliases>>,
    pub(crate) server_aliases: Option<Box<ServerAliases>>,
    /// The client's Maximum Packet Size, bytes.
    pub(crate) packet_bytes_max: u32,
    /// The Session Expiry Interval in force, seconds.
    pub(crate) expiry_s: u32,
    /// CONNECT asked for none: DISCONNECT must not ask for more.
    pub(crate) wanted_no_expiry: bool,
    /// What may be in flight to the client: its Receive Maximum within our own bound.
    pub(crate) window: u16,
    /// The client's Topic Alias Maximum within our own bound.
    pub(crate) alias_max: u16,
    /// Our Receive Maximum and Topic Alias Maximum, as CONNACK told them.
    pub(crate) receive_maximum: u16,
    pub(crate) topic_alias_max: u16,
    /// Retained messages asked for that have not come.
    pub(crate) retained_asked: u16,
    /// Retained messages may wait for room.
    pub(crate) retained_open: bool,
    /// What has come since retained messages were asked for.
    pub(crate) outdated: Option<Box<Outdated>>,
    pub(crate) version: ProtocolVersion,
    /// The client is a bridge that cannot say how it means its subscriptions.
    pub(crate) is_bridge: bool,
    /// The client wants Reason Strings.
    pub(crate) wants_reasons: bool,
    /// The store keeps the identifiers of received QoS 2 messages.
    pub(crate) keeps_received: bool,
    /// [`Effect::Close`] was said.
    pub(crate) closed: bool,
    /// Messages may come that the passport does not allow: by subscriptions of before, see [`Session::vet`].
    vets: bool,
    /// Bytes of its Will Message.
    will_bytes: u32,
}

impl Session {
    /// Answers CONNECT and begins to send what a stored session has for the client; or goes on with a connection that was at
    /// another worker before.
    ///
    /// # Errors
    /// The Reason Code of the CONNACK that was written when the Will Message is not acceptable, or when the client does not
    /// take the one that would accept it; or why the connection cannot
    /// go on here; it ends.
    pub(crate) fn open(
        opening: Opening,
        terms: &Terms,
        config: &Arc<BrokerConfig>,
        out: &mut Outputs<'_>,
    ) -> Result<Self, ReasonCode> {
        let authority = Authority::new(Arc::clone(&opening.passport));
        if opening.resume.is_none()
            && let Err(reason) = Self::check_will(terms, &authority, config)
        {
            Self::refuse(terms, reason, out.wire);
            return Err(reason);
        }
        let is_stored = opening.stored.is_some() && !opening.memory_queue;
        let head = opening.stored.as_ref().filter(|_| is_stored).map_or(Number(1), |owned| owned.head);
        let mut session = Self {
            config: Arc::clone(config),
            authority,
            outbound: Outbound::new(head),
            stored: None,
            inbound: None,
            resuming: None,
            filters: None,
            answers: None,
            client_aliases: None,
            server_aliases: None,
            packet_bytes_max: terms.packet_bytes_max,
            expiry_s: terms.expiry_s,
            wanted_no_expiry: terms.expiry_wanted_s == Some(0),
            window: terms.receive_maximum.min(config.inflight_max),
            alias_max: terms.topic_alias_max.min(config.outgoing_topic_alias_max),
            receive_maximum: config.receive_maximum,
            topic_alias_max: config.topic_alias_max,
            retained_asked: 0,
            retained_open: false,
            outdated: None,
            version: terms.version,
            is_bridge: terms.is_bridge,
            wants_reasons: terms.wants_reasons,
            keeps_received: opening.stored.is_some(),
            closed: false,
            vets: is_stored,
            will_bytes: terms.will_bytes,
        };
        if opening.resume.is_none() {
            session
                .put_connack(&opening, terms, out)
                .inspect_err(|&reason| Self::refuse(terms, reason, out.wire))?;
        }
        let Some(owned) = opening.stored else { return Ok(session) };
        session.restore(&owned, is_stored);
        if is_stored && owned.head < owned.tail {
            // The connection before may have left retained messages in the queue.
            session.outdated = Some(Box::new(Outdated::new(opening.now)));
        }
        match opening.resume {
            Some(resume) => session.go_on(&resume, &owned, opening.now, out)?,
            None => session.pump(opening.now, out),
        }
        Ok(session)
    }

    /// Takes one input. After an [`Effect::Close`] nothing has any effect.
    pub(crate) fn handle(&mut self, input: Input<'_>, now: UnixMs, out: &mut Outputs<'_>) {
        if self.closed {
            return;
        }
        match input {
            Input::Packet(frame) => {
                if let Err(fault) = self.on_packet(frame, now, out) {
                    self.end_for(&fault, out);
                }
                self.count_backlog(now, out);
            }
            Input::Deliver(delivery) => self.deliver(delivery, now, out),
            Input::DeliverStored(number, delivery) => self.deliver_stored(number, delivery, now, out),
            Input::Missed(number) => self.on_missed(number, out),
            Input::Published(id, qos, result) => self.on_published(id, qos, result, out),
            Input::Responded(id, kind, codes) => self.on_responded(id, kind, &codes, out),
            Input::Retained(delivery) => {
                self.retained_asked = self.retained_asked.saturating_sub(1);
                self.deliver(delivery, now, out);
                self.ask_retained(out);
            }
            Input::Queue(page) => self.on_queue(page, now, out),
            Input::Released(number, result) => self.on_released(number, result, out),
            Input::Forgotten(id, result) => self.on_forgotten(id, result, out),
            Input::TakenOver => self.end(ReasonCode::SessionTakenOver, WillFate::TakenOver, out),
            Input::End(reason) => self.end(reason, WillFate::Publish, out),
            Input::Renewed(passport) => {
                self.vets |= !self.authority.is_as_before(&passport);
                self.authority = Authority::new(passport);
                self.answers = None;
            }
            Input::Writable => self.on_writable(now, out),
        }
        if self.outdated.is_some() {
            self.forget_outdated(now);
        }
    }

    /// One packet from the client.
    fn on_packet(&mut self, frame: Frame<'_>, now: UnixMs, out: &mut Outputs<'_>) -> Result<(), Fault> {
        match Packet::decode(self.version, Receiver::Server, frame)? {
            Packet::Publish(publish) => return self.on_publish(&publish, now, out),
            Packet::PubAck(ack) => self.on_puback(&ack, now, out),
            Packet::PubRec(ack) => self.on_pubrec(&ack, now, out),
            Packet::PubRel(ack) => return self.on_pubrel(&ack, out),
            Packet::PubComp(ack) => self.on_pubcomp(&ack, now, out),
            Packet::Subscribe(subscribe) => self.on_subscribe(&subscribe, now, out),
            Packet::Unsubscribe(unsubscribe) => return self.on_unsubscribe(&unsubscribe, out),
            Packet::Disconnect(disconnect) => return self.on_disconnect(&disconnect, out),
            // v5 [MQTT-3.1.0-2]; AUTH and PINGREQ are the edge's.
            _ => return Err(Fault::Violation(ReasonCode::ProtocolError, "unexpected packet")),
        }
        Ok(())
    }

    /// What of this packet is to be asked about and is not answered yet; and how many answers of it are known.
    pub(crate) fn questions(&self, frame: Frame<'_>, now: UnixMs) -> (Vec<(Arc<str>, Manner)>, u64) {
        let (mut open, mut known) = (Vec::new(), 0);
        let mut look = |topic: &str, manner: Manner| {
            if self.answers.as_ref().and_then(|answers| answers.find(topic, manner, now)).is_some() {
                known += 1;
            } else {
                open.push((Arc::from(topic), manner));
            }
        };
        match Packet::decode(self.version, Receiver::Server, frame) {
            Ok(Packet::Publish(publish)) => {
                if let Some((topic, manner)) = self.question_of_publish(&publish) {
                    look(topic, manner);
                }
            }
            Ok(Packet::Subscribe(subscribe)) => {
                for (filter, options) in subscribe.iter() {
                    if let Some((topic, manner)) = self.question_of_filter(filter, options.qos) {
                        look(topic, manner);
                    }
                }
            }
            // What is wrong with it is said when it is handled.
            _ => {}
        }
        (open, known)
    }

    /// What was answered about an action of the packet that is handled.
    pub(crate) fn answer_to(&self, topic: &str, manner: Manner) -> Option<Verdict> {
        self.answers.as_ref()?.known(topic, manner)
    }

    /// Takes an answer that a packet waits for.
    pub(crate) fn learn(&mut self, topic: &str, manner: Manner, ruling: Ruling, now: UnixMs) {
        let answers_max = self.config.answers_max;
        let answers = self.answers.get_or_insert_with(|| Box::new(Answers::new(answers_max)));
        answers.learn(topic, manner, ruling, now);
    }

    /// Another packet comes: none waits for answers any more.
    pub(crate) fn settle_answers(&mut self, now: UnixMs) {
        if let Some(answers) = &mut self.answers {
            answers.settle(now);
        }
    }

    /// From now on each message is looked at before it is sent. What comes by a subscription that this passport covers need
    /// not be; what a store kept for the session, or was on its way when the passport changed, may have come by another.
    pub(crate) fn vet(&mut self) {
        self.vets = true;
    }

    /// Whether the passport allows the client this message.
    pub(crate) fn may_receive(&self, message: &Message) -> bool {
        let is_looked_at = self.vets || self.authority.tells_messages_apart();
        !is_looked_at || self.authority.may_receive(message.topic())
    }

    /// What it holds besides filters and messages, bytes: its Will, and the topics that aliases stand for.
    pub(crate) fn bytes_beside_filters(&self) -> usize {
        let from_client = self.client_aliases.as_ref().map_or(0, |aliases| aliases.bytes());
        let to_client = self.server_aliases.as_ref().map_or(0, |aliases| aliases.bytes());
        self.will_bytes as usize + from_client + to_client
    }

    /// What it holds besides messages, bytes.
    pub(crate) fn bytes_held(&self) -> usize {
        self.filters.as_ref().map_or(0, |filters| filters.bytes()) + self.bytes_beside_filters()
    }

    /// So many bytes more it may hold.
    pub(crate) fn bytes_left(&self) -> usize {
        self.bounds().session_bytes_max().saturating_sub(self.bytes_held())
    }

    /// What bounds it.
    #[inline]
    pub(crate) fn bounds(&self) -> Bounds<'_> {
        Bounds::new(&self.config, self.authority.limits())
    }

    /// Messages below this number may have been sent, now or on an earlier connection: what [`state::Release::sent`] is
    /// to be.
    pub(crate) fn sent(&self) -> Number {
        let before = self.stored.as_ref().map_or(Number(0), |stored| stored.sent_before());
        self.outbound.next().max(before)
    }

    /// How the session leaves a connection that was lost.
    pub(crate) fn connection_lost(&self) -> Closing {
        Closing { reason: ReasonCode::UnspecifiedError, will: WillFate::Publish, expiry_s: self.expiry_s }
    }

    /// Whether this Topic Filter may still be subscribed to, for a look at the subscriptions after [`Input::Renewed`].
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        self.authority.may_subscribe(filter)
    }

    /// Whether this may still be published, for a look at the Will after [`Input::Renewed`].
    pub(crate) fn may_publish(&self, message: &Message) -> bool {
        self.authority.may_publish(message.into())
    }

    /// These subscriptions were ended by the server and count no more.
    pub(crate) fn forget_subscriptions(&mut self, filters: &[Arc<str>]) {
        if let Some(noted) = &mut self.filters {
            noted.forget(filters.iter().map(|filter| &**filter));
        }
    }

    /// The flows from the client, made when there is the first.
    pub(crate) fn inbound(&mut self) -> &mut Inbound {
        self.inbound.get_or_insert_default()
    }

    /// A store answered with an error that no packet can report. A newer owner ends the connection; what may pass is held
    /// back, so that a client that reconnects finds it unacknowledged.
    pub(crate) fn store_failed(&mut self, error: &StoreError, out: &mut Outputs<'_>) {
        match error {
            StoreError::Fenced | StoreError::NoSession => {
                self.end(ReasonCode::SessionTakenOver, WillFate::TakenOver, out);
            }
            StoreError::Unavailable(_) | StoreError::Closed => {}
            _ => self.end(ReasonCode::UnspecifiedError, WillFate::Publish, out),
        }
    }

    /// Gives memory back that an idle session does not need.
    pub(crate) fn shrink(&mut self) {
        self.outbound.shrink();
        if self.inbound.as_ref().is_some_and(|inbound| inbound.is_empty()) {
            self.inbound = None;
        }
        if self.filters.as_ref().is_some_and(|filters| filters.is_empty()) {
            self.filters = None;
        }
    }

    /// The transport has taken what was written.
    fn on_writable(&mut self, now: UnixMs, out: &mut Outputs<'_>) {
        self.shrink();
        self.pump(now, out);
        self.retained_asked = 0;
        self.ask_retained(out);
    }

    /// Panics where parts of the state contradict each other.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.outbound.check_invariants();
        if let Some(inbound) = &self.inbound {
            inbound.check_invariants();
        }
    }
}
