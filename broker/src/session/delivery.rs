//! Messages to the client: when each is sent, and what is read ahead of the stored queue.

use mqtt::QoS;
use state::{Delivery, Message, Number, Owned, QueuePage, Queued, Record, StoreError, UnixMs, Via};

use super::number::packet_id;
use super::outbound::Flight;
use super::outdated::Outdated;
use super::{DropReason, Effect, Filters, Outputs, Session, StoreOp};

/// Bytes on the wire from which on QoS 1 and 2 wait for [`super::Input::Writable`].
const WIRE_BYTES_MAX: usize = 256 << 10;

/// Records asked of the store at once, and read ahead at most.
const READ_MESSAGES_MAX: usize = 512;

/// Bytes read ahead of the stored queue.
const READ_BYTES_MAX: usize = 1 << 20;

/// Retained messages asked for at once.
const RETAINED_MESSAGES_MAX: u16 = 64;

/// Where a queue in the store stands.
#[derive(Debug)]
pub(crate) struct StoredQueue {
    /// Messages below this number are known to be in the queue.
    tail: Number,
    /// Messages below this number may have been sent before this worker had the session.
    sent_before: Number,
    /// Messages below this number may have been sent on an earlier connection of the client.
    repeats_before: Number,
    /// A read is under way.
    reading: bool,
}

impl StoredQueue {
    /// Messages below this number may have been sent before this worker had the session.
    pub(crate) fn sent_before(&self) -> Number {
        self.sent_before
    }
}

impl Session {
    /// Takes over what the store has of a session. What was in flight is sent again, in order, then what waits.
    ///
    /// Of a connection that goes on, what is to be sent was not sent before, unless on an earlier one.
    // v5 [MQTT-4.4.0-1], v5 [MQTT-4.6.0-1]
    pub(crate) fn restore(&mut self, owned: &Owned, is_stored: bool) {
        if !owned.subscriptions.is_empty() {
            let filters = self.filters.get_or_insert_with(Box::<Filters>::default);
            filters.restore(owned.subscriptions.iter().map(|subscription| &*subscription.filter));
        }
        for id in &owned.received {
            self.inbound().restore(*id);
        }
        if is_stored {
            let (tail, sent_before) = (owned.tail, owned.sent);
            let stored = StoredQueue { tail, sent_before, repeats_before: owned.repeats, reading: false };
            self.stored = Some(Box::new(stored));
        }
    }

    /// A message for a session in memory, or one of QoS 0.
    pub(crate) fn deliver(&mut self, delivery: Delivery, now: UnixMs, out: &mut Outputs<'_>) {
        if delivery.qos == QoS::AtMostOnce {
            self.send_at_most_once(&delivery, now, out);
            return;
        }
        debug_assert!(self.stored.is_none(), "QoS 1 and 2 of a stored session come by number");
        let number = self.outbound.expected();
        if self.outbound.waiting() == 0 && self.may_send(number, out) {
            self.outbound.advance_to(Number(number.0 + 1));
            self.send(number, &delivery, now, out);
            return;
        }
        let messages = self.outbound.waiting() + self.outbound.inflight() as usize;
        let bytes = self.outbound.waiting_bytes() + delivery.message.size();
        let bounds = self.bounds();
        if messages >= bounds.queue_messages_max() || bytes > bounds.queue_bytes_max() {
            out.effects.push(Effect::Dropped(DropReason::QueueFull, delivery.qos));
            return;
        }
        self.outbound.wait(Queued { number, record: Record::Message(delivery) });
    }

    /// A message that is in the stored queue. Sent, read ahead, or left there; a gap makes the session read.
    pub(crate) fn deliver_stored(
        &mut self,
        number: Number,
        delivery: Delivery,
        now: UnixMs,
        out: &mut Outputs<'_>,
    ) {
        let Some(stored) = &mut self.stored else { return };
        let expected = self.outbound.expected();
        if number < expected {
            return;
        }
        stored.tail = stored.tail.max(Number(number.0 + 1));
        let sent_before = stored.sent_before;
        self.retained_asked = self.retained_asked.saturating_sub(1);
        // The device may have it, and then only the queue knows whether it is released.
        // v5 [MQTT-4.3.3-6]
        if number < sent_before {
            return self.read_more(out);
        }
        let queued = |delivery| Queued { number, record: Record::Message(delivery) };
        if number == expected && number < self.outbound.next() {
            self.take_in(queued(delivery), now, out);
            return self.pump(now, out);
        }
        if number == expected {
            if self.outbound.waiting() == 0 && self.may_send(number, out) {
                self.outbound.advance_to(Number(number.0 + 1));
                self.send(number, &delivery, now, out);
                return;
            }
            let bytes = self.outbound.waiting_bytes() + delivery.message.size();
            if self.outbound.waiting() < READ_MESSAGES_MAX && bytes <= READ_BYTES_MAX {
                self.outbound.wait(queued(delivery));
                return;
            }
        }
        self.read_more(out);
    }

    /// Messages up to `number` are in the stored queue.
    pub(crate) fn on_missed(&mut self, number: Number, out: &mut Outputs<'_>) {
        if let Some(stored) = &mut self.stored {
            stored.tail = stored.tail.max(Number(number.0 + 1));
            self.read_more(out);
        }
    }

    /// A page of the stored queue. Numbers that it leaves out are gone.
    pub(crate) fn on_queue(
        &mut self,
        page: Result<QueuePage, StoreError>,
        now: UnixMs,
        out: &mut Outputs<'_>,
    ) {
        let Some(stored) = &mut self.stored else { return };
        stored.reading = false;
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.store_failed(&error, out),
        };
        let before = self.outbound.expected();
        let mut next = before;
        for queued in page.records {
            if queued.number >= self.outbound.expected() {
                self.pass_over(next, queued.number, out);
                next = Number(queued.number.0 + 1);
                self.take_in(queued, now, out);
            }
        }
        self.pass_over(next, page.next, out);
        if page.next > self.outbound.expected() {
            self.outbound.advance_to(page.next);
        }
        if self.outbound.expected() == before
            && let Some(stored) = &mut self.stored
        {
            // The store has no more, whatever was said before: asking again would never end.
            stored.tail = before;
        }
        self.pump(now, out);
    }

    /// Sends what waits as far as the client's Receive Maximum allows, then sees to it that more comes.
    pub(crate) fn pump(&mut self, now: UnixMs, out: &mut Outputs<'_>) {
        while let Some(first) = self.outbound.first_waiting()
            && !self.is_in_backlog()
        {
            let number = first.number;
            let may_send = match first.record {
                Record::Message(_) => self.may_send(number, out),
                // v5 [MQTT-4.9.0-3]: only PUBLISH is held back.
                Record::Released => self.outbound.has_identifier_for(number),
            };
            if !may_send {
                break;
            }
            match self.outbound.take_waiting().map(|queued| queued.record) {
                Some(Record::Message(delivery)) => self.send(number, &delivery, now, out),
                Some(Record::Released) => {
                    self.outbound.launch(number, Flight::AwaitingPubcomp);
                    self.put_pubrel(packet_id(number), out);
                }
                None => break,
            }
        }
        self.read_more(out);
    }

    /// Whether there is something to send as soon as the transport has room.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.outbound.waiting() > 0 && self.outbound.inflight() < u32::from(self.window)
    }

    /// Whether messages with QoS 1 or 2 wait for the client.
    pub(crate) fn is_busy(&self) -> bool {
        self.outbound.waiting() > 0 || self.outbound.inflight() >= u32::from(self.window) || self.is_behind()
    }

    /// Takes what other members of shares are to get when a session whose queue is in memory ends; not what was sent, if it
    /// goes on elsewhere (`goes_on`).
    pub(crate) fn take_shared(&mut self, goes_on: bool) -> Vec<Delivery> {
        if self.stored.is_some() {
            return Vec::new();
        }
        let all = self.outbound.take_all().into_iter();
        let is_left = |(is_sent, delivery): &(bool, Delivery)| {
            is_for_others(delivery, *is_sent) && !(*is_sent && goes_on)
        };
        all.filter(is_left).map(|(_, delivery)| delivery).collect()
    }

    /// Retained messages are asked for: what comes from now on outdates them. Returns the place of this request for
    /// [`Session::has_newer`].
    pub(crate) fn open_retained(&mut self, now: UnixMs) -> u64 {
        self.retained_open = true;
        self.outdated.get_or_insert_with(|| Box::new(Outdated::new(now))).place()
    }

    /// All retained messages that were asked for have been handed in.
    pub(crate) fn close_retained(&mut self) {
        self.retained_open = false;
    }

    /// A retained message that was asked for at this place is handed in, or is on its way into the session's stored queue.
    pub(crate) fn hand_in(&mut self, retained: &Delivery, asked_at: u64) {
        if let Some(outdated) = &mut self.outdated {
            outdated.hand_in(retained, asked_at);
        }
    }

    /// Whether a retained message that was asked for at this place, and is not handed in yet, would come after a newer one. `no_local`:
    /// of its subscription.
    pub(crate) fn has_newer(&self, retained: &Message, asked_at: u64, no_local: bool) -> bool {
        self.outdated.as_ref().is_some_and(|outdated| outdated.has_newer(retained, asked_at, no_local))
    }

    /// Changes when it was forgotten for some topics whether something newer has come.
    pub(crate) fn forgotten(&self) -> u64 {
        self.outdated.as_ref().map_or(0, |outdated| outdated.forgotten())
    }

    /// The client has published this.
    pub(crate) fn note_own(&mut self, message: &Message) {
        if let Some(outdated) = self.outdated.as_mut().filter(|_| message.retain()) {
            outdated.note_own(message);
        }
    }

    /// Forgets what has come when no retained message is left to be outdated.
    pub(super) fn forget_outdated(&mut self, now: UnixMs) {
        let is_over = self.outdated.as_ref().is_some_and(|outdated| outdated.is_over(now));
        if is_over && !self.retained_open && self.outbound.waiting() == 0 && !self.is_behind() {
            self.outdated = None;
        }
    }

    /// Whether the client has something newer, or the same already. Otherwise it is noted as sent.
    fn is_outdated(&mut self, delivery: &Delivery) -> bool {
        let Some(outdated) = &mut self.outdated else { return false };
        match delivery.via {
            Via::Retained => outdated.is_overtaken(delivery),
            Via::Subscription => outdated.takes_for_copy(delivery),
            Via::Share(_) => false,
        }
    }

    fn note_sent(&mut self, delivery: &Delivery, now: UnixMs) {
        if let Some(outdated) = &mut self.outdated {
            outdated.note_sent(delivery, now);
        }
    }

    /// What was handed in so far has numbers below this; in a queue in the store it is as good as sent.
    pub(crate) fn handed_in(&self) -> Number {
        if self.stored.is_some() { Number(0) } else { self.outbound.expected() }
    }

    /// Everything below this number is sent.
    pub(crate) fn first_unsent(&self) -> Number {
        self.outbound.first_waiting().map_or(self.outbound.expected(), |first| first.number)
    }

    /// Asks for retained messages while there is room for them, so that no more than a few are in memory.
    pub(crate) fn ask_retained(&mut self, out: &mut Outputs<'_>) {
        let may_ask = self.retained_open && self.retained_asked == 0 && !self.is_in_backlog();
        if may_ask && self.has_room_for_retained(out.wire) {
            self.retained_asked = RETAINED_MESSAGES_MAX;
            out.effects.push(Effect::MoreRetained(usize::from(RETAINED_MESSAGES_MAX)));
        }
    }

    /// Whether one more retained message may be handed in.
    pub(crate) fn has_room_for_retained(&self, wire: &link::Outgoing) -> bool {
        let max = usize::from(RETAINED_MESSAGES_MAX);
        !self.closed
            && wire.len() < WIRE_BYTES_MAX
            && self.outbound.waiting() < max
            && self.outbound.waiting_bytes() < READ_BYTES_MAX
            // In the store's queue they count against its bound until they are acknowledged.
            && (self.stored.is_none() || (self.outbound.inflight() as usize) < max)
            && !self.is_behind()
    }

    /// The flight of `number` is over and its record may go.
    pub(crate) fn complete(&mut self, number: Number, out: &mut Outputs<'_>) {
        self.outbound.complete(number);
        if self.stored.is_some() {
            out.effects.push(Effect::Store(StoreOp::Acknowledge(number)));
        }
    }

    /// Whether the store has messages that were not taken in.
    fn is_behind(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.tail > self.outbound.expected())
    }

    fn read_more(&mut self, out: &mut Outputs<'_>) {
        if !self.is_behind()
            || self.is_in_backlog()
            || self.outbound.waiting() > READ_MESSAGES_MAX / 2
            || self.outbound.waiting_bytes() > READ_BYTES_MAX / 2
        {
            return;
        }
        let Some(stored) = &mut self.stored else { return };
        if !std::mem::replace(&mut stored.reading, true) {
            out.effects.push(Effect::Store(StoreOp::ReadQueue(self.outbound.expected(), READ_MESSAGES_MAX)));
        }
    }

    /// Whether a QoS 1 or 2 message may be sent now.
    // v5 [MQTT-3.3.4-9], v5 [MQTT-4.9.0-2]
    fn may_send(&self, number: Number, out: &Outputs<'_>) -> bool {
        self.outbound.inflight() < u32::from(self.window)
            && !self.is_in_backlog()
            && self.outbound.has_identifier_for(number)
            && out.wire.len() < WIRE_BYTES_MAX
    }

    fn send_at_most_once(&mut self, delivery: &Delivery, now: UnixMs, out: &mut Outputs<'_>) {
        if self.is_outdated(delivery) {
            return;
        }
        let dropped = if !self.may_receive(&delivery.message) {
            DropReason::ReceiverNotAuthorized
        } else if delivery.message.is_expired(now) {
            // v5 [MQTT-3.3.2-5]
            DropReason::Expired
        } else if out.wire.len() > self.config.qos0_bytes_max {
            DropReason::SlowClient
        } else if self.put_publish(delivery, None, false, now, out) {
            return self.note_sent(delivery, now);
        } else {
            DropReason::TooLarge
        };
        out.effects.push(Effect::Dropped(dropped, QoS::AtMostOnce));
    }

    /// Sends a QoS 1 or 2 message, or drops it: then the record goes as if the client had acknowledged it.
    fn send(&mut self, number: Number, delivery: &Delivery, now: UnixMs, out: &mut Outputs<'_>) {
        // v5 [MQTT-3.3.1-1]
        let again = self.stored.as_ref().is_some_and(|stored| number < stored.repeats_before);
        if !again && self.is_outdated(delivery) {
            return self.abandon(number, out);
        }
        self.note_sent(delivery, now);
        // v5 [MQTT-4.3.3-7]: what may have been sent does not expire.
        let expires = !again || self.stored.as_ref().is_some_and(|stored| number >= stored.sent_before);
        let dropped = if !self.may_receive(&delivery.message) {
            DropReason::ReceiverNotAuthorized
        } else if expires && delivery.message.is_expired(now) {
            DropReason::Expired
        } else if self.put_publish(delivery, Some(packet_id(number)), again, now, out) {
            self.outbound.launch(number, Flight::after_publish(delivery.qos));
            if self.stored.is_none() && is_for_others(delivery, true) {
                self.outbound.keep_shared(number, delivery.clone());
            }
            return;
        } else {
            // v5 [MQTT-3.1.2-25]
            DropReason::TooLarge
        };
        out.effects.push(Effect::Dropped(dropped, delivery.qos));
        self.withhold(number, delivery.qos, again, out);
    }

    /// A QoS 1 or 2 message goes unsent; `again` if the client may have it from an earlier connection.
    fn withhold(&mut self, number: Number, qos: QoS, again: bool, out: &mut Outputs<'_>) {
        if again && qos == QoS::ExactlyOnce {
            // It waits for PUBREL then: unless that comes, it takes a later message with the same Packet Identifier for this one.
            self.outbound.launch(number, Flight::AwaitingStore);
            out.effects.push(Effect::Store(StoreOp::MarkReleased(number)));
        } else {
            self.abandon(number, out);
        }
    }

    /// The record of a message that is not sent goes as if the client had acknowledged it.
    fn abandon(&mut self, number: Number, out: &mut Outputs<'_>) {
        self.outbound.launch(number, Flight::Done);
        if self.stored.is_some() {
            out.effects.push(Effect::Store(StoreOp::Acknowledge(number)));
        }
    }
}

/// Whether a session that ends leaves this to the other members of its share. `is_begun`: it was sent, or may have been.
pub(crate) fn is_for_others(delivery: &Delivery, is_begun: bool) -> bool {
    matches!(delivery.via, Via::Share(_))
        && match delivery.qos {
            QoS::AtMostOnce => false,
            QoS::AtLeastOnce => true,
            QoS::ExactlyOnce => !is_begun,
        }
}
