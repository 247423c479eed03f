//! A device's connection goes on here that was at another worker before: what the device has seen binds, and only what it
//! has not seen is sent. The edge says which flows are open, and hands in first what it does not know to be done.
//!
//! Until that backlog is taken, nothing of the queue is sent: acknowledgements of what looks unacknowledged may be in it.

use link::{FlowState, Resume};
use mqtt::{ConnAck, Packet, PacketId, ProtocolVersion, ReasonCode, Receiver};
use state::{Number, Owned, Queued, Record, UnixMs};

use super::number::{PACKET_IDS, packet_id};
use super::outbound::{Flight, Outbound};
use super::{Effect, Outputs, Session, StoreOp};

/// What is left to take of a connection that goes on.
#[derive(Debug)]
pub(crate) struct Resuming {
    /// Packets that come from before.
    backlog: u32,
    /// The session has sent no number from this on.
    sent: Number,
    /// QoS 2 flows from the device of which the edge has not seen the end.
    inbound: Vec<PacketId>,
}

impl Resuming {
    pub(super) fn new(resume: &Resume, sent: Number) -> Self {
        Self { backlog: resume.backlog, sent, inbound: resume.inbound_qos2.clone() }
    }
}

/// What a CONNACK promised that this worker might not promise today.
pub(crate) struct Promised {
    /// Receive Maximum.
    pub receive_maximum: u16,
    /// Topic Alias Maximum.
    pub topic_alias_max: u16,
}

impl Promised {
    /// Reads it, with the defaults of section 3.2.2.3; `None` when it is no CONNACK that accepts.
    pub(crate) fn read(connack: &[u8], version: ProtocolVersion) -> Option<Self> {
        let frame = mqtt::frame::split(connack, u32::MAX).ok()??;
        let Ok(Packet::ConnAck(connack)) = Packet::decode(version, Receiver::Client, frame) else {
            return None;
        };
        let ConnAck { reason: ReasonCode::Success, properties, .. } = connack else { return None };
        let mut promised = Self { receive_maximum: u16::MAX, topic_alias_max: 0 };
        for property in &properties {
            match property {
                mqtt::Property::ReceiveMaximum(max) => promised.receive_maximum = max,
                mqtt::Property::TopicAliasMaximum(max) => promised.topic_alias_max = max,
                _ => {}
            }
        }
        Some(promised)
    }
}

/// The flights of the open flows of a connection that goes on.
pub(super) fn flights(resume: &Resume) -> impl Iterator<Item = (PacketId, Flight)> {
    resume.flows.iter().map(|flow| {
        let flight = match flow.state {
            FlowState::AwaitingPuback => Flight::AwaitingPuback,
            FlowState::AwaitingPubrec => Flight::AwaitingPubrec,
            FlowState::OwingPubrel => Flight::OwingPubrel,
            FlowState::AwaitingPubcomp => Flight::AwaitingPubcomp,
        };
        (flow.packet_id, flight)
    })
}

/// The numbers of a queue in memory: behind the largest gap between the identifiers that are taken, so that the next ones
/// are free for as long as can be.
pub(super) fn outbound_in_memory(resume: &Resume) -> Outbound {
    let mut ids: Vec<u64> = resume.flows.iter().map(|flow| flow.packet_id.as_u16().into()).collect();
    ids.sort_unstable();
    let before = ids.iter().copied().cycle().skip(ids.len().saturating_sub(1));
    let gap = |(id, before): &(u64, u64)| (id + PACKET_IDS - before - 1) % PACKET_IDS;
    let first = ids.iter().copied().zip(before).max_by_key(gap).map_or(1, |(id, _)| id);
    let mut outbound = Outbound::resume(Number(first), flights(resume));
    let next = outbound.next();
    outbound.dispel(Number(first), next);
    outbound.advance_to(next);
    outbound
}

impl Session {
    /// Takes a session as its connection left it at another worker. Nothing is written.
    ///
    /// # Errors
    /// The device has got messages that the store has not: the queue cannot be gone on with.
    pub(super) fn go_on(
        &mut self,
        resume: &Resume,
        owned: &Owned,
        now: UnixMs,
        out: &mut Outputs<'_>,
    ) -> Result<(), ReasonCode> {
        let promised = Promised::read(&resume.connack, self.version).ok_or(ReasonCode::ProtocolError)?;
        self.receive_maximum = promised.receive_maximum;
        self.topic_alias_max = promised.topic_alias_max;
        self.expiry_s = owned.expiry_s;
        for alias in &resume.topic_aliases {
            self.client_aliases.get_or_insert_default().set(alias.alias, &alias.topic);
        }
        if self.stored.is_some() {
            self.outbound = Outbound::resume(owned.head, flights(resume));
            self.outbound.advance_to(owned.head);
            if !resume.flows.is_empty() && self.outbound.next() > owned.tail {
                return Err(ReasonCode::UnspecifiedError);
            }
        } else {
            self.outbound = outbound_in_memory(resume);
        }
        self.resuming = Some(Box::new(Resuming::new(resume, owned.sent.min(owned.tail))));
        if resume.backlog == 0 {
            self.backlog_taken(now, out);
        }
        Ok(())
    }

    /// Whether packets come from before the connection went on here.
    pub(crate) fn is_in_backlog(&self) -> bool {
        self.resuming.as_ref().is_some_and(|resuming| resuming.backlog > 0)
    }

    /// One packet more was taken.
    pub(super) fn count_backlog(&mut self, now: UnixMs, out: &mut Outputs<'_>) {
        let Some(resuming) = self.resuming.as_mut().filter(|resuming| resuming.backlog > 0) else { return };
        resuming.backlog -= 1;
        if resuming.backlog == 0 && !self.closed {
            self.backlog_taken(now, out);
        }
    }

    /// What the device has seen is known: the rest follows.
    fn backlog_taken(&mut self, now: UnixMs, out: &mut Outputs<'_>) {
        self.resuming.take_if(|resuming| resuming.inbound.is_empty());
        if self.stored.is_none() {
            for number in self.outbound.owing_pubrel() {
                self.go_on_with_pubrel(number, out);
            }
        }
        self.pump(now, out);
        self.ask_retained(out);
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses, and no open flow is known for it. In the backlog its record goes.
    pub(crate) fn acknowledged_before(&mut self, id: PacketId, out: &mut Outputs<'_>) {
        if self.stored.is_none() || !self.is_in_backlog() {
            return;
        }
        let Some(sent) = self.resuming.as_ref().map(|resuming| resuming.sent) else { return };
        if let Some(number) = self.outbound.find_doubted(id, sent) {
            self.complete(number, out);
        }
    }

    /// The device ends a QoS 2 flow that is not known here. Answers whether the edge had it open: then it was known to
    /// the worker before.
    pub(crate) fn was_received_before(&mut self, id: PacketId) -> bool {
        let Some(resuming) = &mut self.resuming else { return false };
        let Some(position) = resuming.inbound.iter().position(|open| *open == id) else { return false };
        resuming.inbound.swap_remove(position);
        if resuming.inbound.is_empty() && resuming.backlog == 0 {
            self.resuming = None;
        }
        true
    }

    /// The store has no records from `from` to before `to`.
    pub(super) fn pass_over(&mut self, from: Number, to: Number, out: &mut Outputs<'_>) {
        if from >= self.outbound.next() {
            return;
        }
        for number in self.outbound.owing_pubrel() {
            if from <= number && number < to {
                self.go_on_with_pubrel(number, out);
            }
        }
        self.outbound.dispel(from, to);
    }

    /// Takes a record in: to be sent, unless the device has it.
    pub(super) fn take_in(&mut self, queued: Queued, now: UnixMs, out: &mut Outputs<'_>) {
        let number = queued.number;
        match self.outbound.flight(number) {
            None | Some(Flight::Unknown) => return self.outbound.wait(queued),
            Some(Flight::OwingPubrel) => match queued.record {
                Record::Released => self.go_on_with_pubrel(number, out),
                Record::Message(_) => {
                    self.outbound.set(number, Flight::AwaitingStore);
                    out.effects.push(Effect::Store(StoreOp::MarkReleased(number)));
                }
            },
            Some(_) => {
                if let (Record::Message(delivery), Some(outdated)) = (&queued.record, &mut self.outdated) {
                    outdated.note_sent(delivery, now);
                }
            }
        }
        self.outbound.advance_to(Number(number.0 + 1));
    }

    fn go_on_with_pubrel(&mut self, number: Number, out: &mut Outputs<'_>) {
        self.outbound.set(number, Flight::AwaitingPubcomp);
        self.put_pubrel(packet_id(number), out);
    }
}
