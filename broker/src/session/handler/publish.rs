//! PUBLISH, both ways: what a client sends is checked and handed on; what it is to get is written here.

use std::sync::Arc;

use link::SHARED_BYTES_MIN;
use mqtt::{AckKind, Frame, Packet, PacketId, Publish, PublishHead, QoS, ReasonCode, Receiver};
use state::{Delivery, Message, StoreError, UnixMs};

use crate::authorize::Publication;
use crate::authorize::authorizer::{AskedAction, Verdict};
use crate::authorize::bounds::Bound;
use crate::session::{AliasUse, DropReason, Effect, Fault, Manner, Outputs, Receipt, Session, StoreOp};

/// Why a message is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is acknowledged with this Reason Code, and goes nowhere.
    Drop(DropReason, ReasonCode),
    /// It is beyond this.
    Bound(Bound),
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepted {
    /// It is published.
    New,
    /// It came on an earlier connection and was routed: it is retained once more, in its place among what is sent again.
    Again,
    /// It came before, or may not come, and is acknowledged without being published.
    No,
}

/// Acknowledgements that may be owed to a client of MQTT 3, which knows no Receive Maximum.
const OWED_MAX: usize = 65_535;

/// As what a message with this Reason Code counts that is acknowledged, and goes nowhere.
fn dropped_for(code: ReasonCode) -> Option<DropReason> {
    match code {
        ReasonCode::NotAuthorized => Some(DropReason::NotAuthorized),
        ReasonCode::ImplementationSpecificError => Some(DropReason::Undecided),
        _ => None,
    }
}

/// Whether one message more may be under way than are.
// v5 [MQTT-3.3.4-7]
fn check_receive_maximum(messages: usize, max: usize) -> Result<(), Fault> {
    let code = ReasonCode::ReceiveMaximumExceeded;
    (messages < max).then_some(()).ok_or(Fault::Violation(code, "over the Receive Maximum"))
}

fn manner_of(publication: Publication<'_>) -> Manner {
    Manner { action: AskedAction::Publish, qos: publication.qos, retain: publication.retain }
}

impl Session {
    pub(crate) fn on_publish(
        &mut self,
        publish: &Publish<'_>,
        now: UnixMs,
        out: &mut Outputs<'_>,
    ) -> Result<(), Fault> {
        let properties = publish.properties.publish_summary();
        let topic = self.topic_of(publish.topic, properties.topic_alias)?;
        if let (Some(alias), false) = (properties.topic_alias, publish.topic.is_empty()) {
            self.check_room_for_alias(alias, publish.topic, out)?;
        }
        let publication = Publication { topic, qos: publish.qos, retain: publish.retain };
        let refused = self.refusal_of(publication);
        let message = || {
            let message = Message::new(
                topic,
                &properties.forwardable,
                publish.payload,
                publish.qos,
                publish.retain,
                now,
            );
            let message = message.with_expiry(properties.message_expiry_s);
            Arc::new(if publish.retain { message.with_owner(self.authority.owner()) } else { message })
        };
        match (publish.packet_id, refused) {
            // It was taken when it came first, whatever would be said of it now.
            (Some(id), Some(_)) if self.is_repeat(publish) => self.answer_repeat(id, out),
            (None, None) => {
                let message = message();
                self.note_own(&message);
                out.effects.push(Effect::Publish(None, message));
            }
            (None, Some(Refusal::Drop(reason, _))) => {
                out.effects.push(Effect::Dropped(reason, QoS::AtMostOnce));
            }
            (Some(id), None) => {
                // Built before the session changes, since the topic may be one of its aliases.
                let message = message();
                match self.accept(id, publish, out)? {
                    Accepted::New => {
                        self.note_own(&message);
                        out.effects.push(Effect::Publish(Some(id), message));
                    }
                    Accepted::Again => out.effects.push(Effect::RetainAgain(id, message)),
                    Accepted::No => {}
                }
            }
            (Some(id), Some(Refusal::Drop(_, code))) => self.refuse_message(id, publish, code, out)?,
            (_, Some(Refusal::Bound(bound))) => self.refuse_beyond(bound, publish, out)?,
        }
        if let (Some(alias), false) = (properties.topic_alias, publish.topic.is_empty()) {
            self.client_aliases.get_or_insert_default().set(alias, publish.topic);
        }
        Ok(())
    }

    /// A QoS 1 or 2 message is where it must be, or is not.
    pub(crate) fn on_published(
        &mut self,
        id: PacketId,
        qos: QoS,
        result: Result<ReasonCode, StoreError>,
        out: &mut Outputs<'_>,
    ) {
        let code = match result {
            Ok(code) => code,
            Err(StoreError::RetainedQuota | StoreError::SessionQuota | StoreError::SubscriptionQuota) => {
                ReasonCode::QuotaExceeded
            }
            Err(StoreError::Damaged { .. }) if self.version.is_v5() => ReasonCode::UnspecifiedError,
            // Not acknowledged: the client keeps it.
            Err(error) => return self.store_failed(&error, out),
        };
        if qos == QoS::ExactlyOnce && code.is_error() && self.keeps_received && self.version.is_v5() {
            // The client may use the identifier for another message at once, and the store may have it by now. v5 [MQTT-4.3.3-9]
            out.effects.push(Effect::Store(StoreOp::ForgetReceived(id)));
        }
        if let Some(inbound) = &mut self.inbound {
            inbound.answer(id, qos, code);
            self.put_owed(out);
        }
    }

    /// The Topic Name, which an alias may stand for.
    fn topic_of<'a>(&'a self, topic: &'a str, alias: Option<u16>) -> Result<&'a str, Fault> {
        let Some(alias) = alias else { return Ok(topic) };
        if alias == 0 || alias > self.topic_alias_max {
            // v5 [MQTT-3.3.2-8], v5 [MQTT-3.3.2-9]
            return Err(Fault::Violation(ReasonCode::TopicAliasInvalid, "Topic Alias over the maximum"));
        }
        if !topic.is_empty() {
            return Ok(topic);
        }
        let known = self.client_aliases.as_ref().and_then(|aliases| aliases.topic(alias));
        // v5 section 3.3.2.3.4
        known.ok_or(Fault::Violation(ReasonCode::ProtocolError, "unknown Topic Alias"))
    }

    /// A packet that is not carried out here, since it comes again elsewhere. What follows it may use the Topic Alias that it sets.
    pub(crate) fn skip(&mut self, frame: Frame<'_>) {
        let Ok(Packet::Publish(publish)) = Packet::decode(self.version, Receiver::Server, frame) else {
            return;
        };
        let Some(alias) = publish.properties.publish_summary().topic_alias else { return };
        if publish.topic.is_empty() || alias > self.topic_alias_max {
            return;
        }
        if self.has_room_for_alias(alias, publish.topic) {
            self.client_aliases.get_or_insert_default().set(alias, publish.topic);
        } else {
            // What follows by an alias ends the connection: better than a wrong topic.
            self.client_aliases = None;
        }
    }

    fn has_room_for_alias(&self, alias: u16, topic: &str) -> bool {
        let before = self.client_aliases.as_ref().and_then(|aliases| aliases.topic(alias));
        topic.len() <= self.bytes_left() + before.map_or(0, str::len)
    }

    /// Whether there is room for what `alias` is to stand for: nothing could tell the client that it does not.
    fn check_room_for_alias(&self, alias: u16, topic: &str, out: &mut Outputs<'_>) -> Result<(), Fault> {
        if self.has_room_for_alias(alias, topic) {
            return Ok(());
        }
        let bound = Bound::SessionBytes;
        out.effects.push(Effect::Limited(bound));
        Err(Fault::Violation(bound.reason_code(), bound.text()))
    }

    fn refusal_of(&self, publication: Publication<'_>) -> Option<Refusal> {
        if let Some(bound) = self.bounds().exceeded_by(publication) {
            return Some(Refusal::Bound(bound));
        }
        let effect = match self.authority.on_publish(publication) {
            link::Effect::Ask => match self.answer_to(publication.topic, manner_of(publication)) {
                Some(Verdict::Allow(_)) => link::Effect::Allow,
                Some(Verdict::Deny) => link::Effect::Deny,
                Some(Verdict::Ignore) => self.authority.on_publish_unasked(publication),
                // The specification has no code for it; the message is valid, and not accepted.
                Some(Verdict::Unavailable) | None => {
                    let code = ReasonCode::ImplementationSpecificError;
                    return Some(Refusal::Drop(DropReason::Undecided, code));
                }
            },
            effect => effect,
        };
        let denied = Refusal::Drop(DropReason::NotAuthorized, ReasonCode::NotAuthorized);
        (effect != link::Effect::Allow).then_some(denied)
    }

    /// What is to be asked about before this is handled, if anything is.
    pub(crate) fn question_of_publish<'a>(&'a self, publish: &Publish<'a>) -> Option<(&'a str, Manner)> {
        let topic = self.topic_of(publish.topic, publish.properties.publish_summary().topic_alias).ok()?;
        let publication = Publication { topic, qos: publish.qos, retain: publish.retain };
        // What came before is answered as it was, and at most retained once more.
        let is_settled = self.is_repeat(publish) && !publish.retain;
        let asks = !is_settled
            && self.authority.on_publish(publication) == link::Effect::Ask
            && self.bounds().exceeded_by(publication).is_none();
        asks.then(|| (topic, manner_of(publication)))
    }

    /// Tells the client that a message is beyond a bound: by its acknowledgement, where it has one that can say so.
    fn refuse_beyond(
        &mut self,
        bound: Bound,
        publish: &Publish<'_>,
        out: &mut Outputs<'_>,
    ) -> Result<(), Fault> {
        out.effects.push(Effect::Limited(bound));
        match publish.packet_id {
            Some(id) if !bound.ends_connection() => {
                self.refuse_message(id, publish, bound.reason_code(), out)
            }
            _ => Err(Fault::Violation(bound.reason_code(), bound.text())),
        }
    }

    /// Takes a Packet Identifier in use.
    fn accept(
        &mut self,
        id: PacketId,
        publish: &Publish<'_>,
        out: &mut Outputs<'_>,
    ) -> Result<Accepted, Fault> {
        let qos = publish.qos;
        let is_v5 = self.version.is_v5();
        let request = self.filters.as_ref().is_some_and(|filters| filters.uses(id));
        let receive_maximum = if is_v5 { usize::from(self.receive_maximum) } else { OWED_MAX };
        let is_repeat = self.is_repeat(publish);
        let inbound = self.inbound();
        match inbound.receipt(id) {
            Some(Receipt::AwaitingPubrel) if is_repeat && publish.retain && inbound.begin_again(id) => {
                return Ok(Accepted::Again);
            }
            Some(_) if is_repeat => {
                self.answer_repeat(id, out);
                return Ok(Accepted::No);
            }
            Some(_) => {
                self.reject(id, qos, ReasonCode::PacketIdentifierInUse, out)?;
                return Ok(Accepted::No);
            }
            None if request => {
                self.reject(id, qos, ReasonCode::PacketIdentifierInUse, out)?;
                return Ok(Accepted::No);
            }
            None => {}
        }
        check_receive_maximum(inbound.inflight(), receive_maximum)?;
        if qos == QoS::ExactlyOnce {
            inbound.begin(id);
        }
        inbound.owe(id, qos, None);
        Ok(Accepted::New)
    }

    /// Whether a QoS 2 message came before and has no PUBREL yet.
    fn is_repeat(&self, publish: &Publish<'_>) -> bool {
        let id = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce);
        let receipt = id.and_then(|id| self.inbound.as_ref()?.receipt(id));
        matches!(receipt, Some(Receipt::Publishing | Receipt::Refusing(_) | Receipt::AwaitingPubrel))
    }

    /// Acknowledges a QoS 2 message that came before.
    // v5 [MQTT-4.3.3-10]
    fn answer_repeat(&mut self, id: PacketId, out: &mut Outputs<'_>) {
        // Else PUBREC is on its way and answers both.
        if self.inbound().receipt(id) == Some(Receipt::AwaitingPubrel) {
            // At once: behind others it could come after PUBCOMP, and be taken for the answer to a new message.
            self.put_ack(AckKind::PubRec, id, ReasonCode::Success, out);
        }
    }

    /// Refuses a message. If it may have come before, the store may have its identifier, as that of a message that was not routed to
    /// the end: it forgets it before PUBREC, behind which the client may use it for another message.
    fn refuse_message(
        &mut self,
        id: PacketId,
        publish: &Publish<'_>,
        code: ReasonCode,
        out: &mut Outputs<'_>,
    ) -> Result<(), Fault> {
        // Before MQTT 5 PUBREC says nothing, and PUBREL has the identifier forgotten.
        let is_freed = publish.qos == QoS::ExactlyOnce && self.version.is_v5();
        let may_be_known = self.keeps_received && (publish.dup || self.is_in_backlog());
        let receive_maximum = usize::from(self.receive_maximum);
        if !is_freed || !may_be_known || self.inbound().uses(id) {
            return self.reject(id, publish.qos, code, out);
        }
        check_receive_maximum(self.inbound().inflight(), receive_maximum)?;
        self.inbound().refuse(id, code);
        out.effects.push(Effect::Store(StoreOp::ForgetReceived(id)));
        out.effects.extend(dropped_for(code).map(|reason| Effect::Dropped(reason, publish.qos)));
        Ok(())
    }

    /// Acknowledges a message that is not published: with its Reason Code, or without a word before MQTT 5, which has none
    /// ([MQTT-3.3.5-2] of v3.1.1 allows that, or to close).
    fn reject(
        &mut self,
        id: PacketId,
        qos: QoS,
        code: ReasonCode,
        out: &mut Outputs<'_>,
    ) -> Result<(), Fault> {
        let dropped = dropped_for(code);
        if !self.version.is_v5() && dropped.is_none() {
            return Err(Fault::Violation(code, "refused"));
        }
        let inbound = self.inbound();
        check_receive_maximum(inbound.owed(), OWED_MAX)?;
        inbound.owe(id, qos, Some(code));
        self.put_owed(out);
        if let Some(reason) = dropped {
            out.effects.push(Effect::Dropped(reason, qos));
        }
        Ok(())
    }

    /// Writes the acknowledgements whose turn has come, and SUBACK and UNSUBACK packets between them.
    pub(super) fn put_owed(&mut self, out: &mut Outputs<'_>) {
        while !self.closed
            && let Some((id, qos, code)) = self.inbound.as_mut().and_then(|inbound| inbound.next_answer())
        {
            let kind = if qos == QoS::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
            mqtt::Ack::new(id, code).encode(kind, self.version, out.wire.buffer());
            if let Some(filters) = self.filters.as_mut().filter(|filters| filters.has_requests()) {
                filters.count_ack();
                self.put_answers(out);
            }
        }
    }

    /// Writes a PUBLISH to the client. `false`, and nothing written, when it is over the client's Maximum Packet Size.
    pub(crate) fn put_publish(
        &mut self,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        now: UnixMs,
        out: &mut Outputs<'_>,
    ) -> bool {
        let message = &*delivery.message;
        let topic = message.topic();
        let mut alias = self.plan_alias(topic);
        let payload = message.payload_slice();
        let mut head = PublishHead {
            dup,
            qos: delivery.qos,
            retain: delivery.retain,
            topic: if alias.known { "" } else { topic },
            packet_id,
            alias: alias.alias,
            message_expiry_remaining_s: message.expiry_remaining_s(now),
            subscription_ids: delivery.subscription_ids.as_slice(),
            properties: message.properties(),
            payload_len: payload.len(),
        };
        if self.packet_bytes_max != u32::MAX && !self.fits(head.encoded_len(self.version)) {
            if alias.alias.is_none() || alias.known {
                return false;
            }
            // To introduce an alias takes bytes that the message itself does not need.
            (alias, head.alias) = (AliasUse::NONE, None);
            if !self.fits(head.encoded_len(self.version)) {
                return false;
            }
        }
        if !head.encode_into(self.version, out.wire.buffer()) {
            return false;
        }
        if payload.len() < SHARED_BYTES_MIN {
            out.wire.put_slice(payload);
        } else {
            out.wire.put_bytes(message.payload());
        }
        crate::metrics::tally::sent(delivery.qos, payload.len());
        if alias.alias.is_some() && !alias.known {
            self.server_aliases.get_or_insert_default().commit(topic, alias);
        }
        true
    }

    fn plan_alias(&self, topic: &str) -> AliasUse {
        match &self.server_aliases {
            // v5 [MQTT-3.1.2-27]
            _ if self.alias_max == 0 => AliasUse::NONE,
            Some(aliases) if aliases.is_full(self.alias_max) => aliases.plan(topic, self.alias_max, 0),
            Some(aliases) => aliases.plan(topic, self.alias_max, self.bytes_left()),
            None => crate::session::ServerAliases::default().plan(topic, self.alias_max, self.bytes_left()),
        }
    }
}
