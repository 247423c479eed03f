//! One device's stream on a link: hands its packets to the session, cuts what the session writes into packets within the
//! edge's window, and says which frames are done. What an idle device does not need is behind a box.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use link::mux::{Asked, SendError, WorkerEnd, answered_by, asked_by};
use link::wire::{RefuseReason, StreamId};
use link::{Event, Outgoing, Passport, SHARED_BYTES_MIN, Stream};
use mqtt::{Frame, OwnedFrame, PacketType, ReasonCode};

use super::blocked::BlockedAt;
use super::cut::take_packet;
use super::ready::StreamWaker;
use super::server::Counted;
use crate::hub::work::departure::Departure;
use crate::retained::due::DueNews;
use crate::serving::stream::{Phase, Taken, WorkerStream};

/// Bytes asked of a session at once. What of it the window does not take waits here.
const BUDGET_BYTES: usize = 16 << 10;

/// How often a session is asked in one turn of the link, so that one with much to say delays nobody.
const ROUNDS_MAX: usize = 4;

/// Bytes that wait for the edge to take them, from which on the device's packets wait too.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// Whether a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Stays,
    /// It was refused, for this reason.
    Refused(RefuseReason),
    /// It is over, and the edge knows or will know.
    Over,
}

/// One stream.
pub(super) struct Slot {
    id: StreamId,
    stream: WorkerStream,
    waker: Arc<StreamWaker>,
    /// Whom its passports must be for, and until when the present one is good, seconds since the Unix epoch.
    pub(super) client_id: Arc<str>,
    pub(super) expires_at_s: Option<u64>,
    is_resume: bool,
    is_open: bool,
    /// Its place among the streams of the link that wait for room.
    pub(super) blocked_at: BlockedAt,
    /// Something went to the edge, and the link was not told.
    has_sent: bool,
    busy: Option<Box<Busy>>,
    /// The edge has been asked for the device's last words, and the link not been told.
    has_asked: bool,
    /// The last look found it waiting for them.
    has_waited: bool,
    _counted: Counted,
}

/// What is under way.
#[derive(Default)]
struct Busy {
    inbox: VecDeque<Incoming>,
    unsent: VecDeque<OwnedFrame>,
    unsent_bytes: usize,
    /// Frames that are not done.
    owed: VecDeque<Owed>,
    departing: Option<Departing>,
    /// The device is gone: nobody takes anything any more.
    is_deserted: bool,
}

enum Incoming {
    Packet {
        number: u64,
        packet: OwnedFrame,
        cost: u32,
        /// Its bytes are its own.
        is_copy: bool,
    },
    Close {
        number: u64,
    },
}

/// A frame that is done when an answer has gone to the edge, or when the session says so.
struct Owed {
    asked: Option<Asked>,
    number: u64,
}

/// The session is being let go, and the edge is told when that is durable.
struct Departing {
    departure: Arc<Departure>,
    reason: ReasonCode,
    /// For the device, if its CLOSE does not come first.
    last: Option<OwnedFrame>,
    is_closed: bool,
}

impl Busy {
    /// Small packets that wait are copied: each would keep the whole buffer that it came in.
    fn copy_small(&mut self) {
        for incoming in self.inbox.iter_mut().rev() {
            match incoming {
                // So are all before it.
                Incoming::Packet { is_copy: true, .. } => return,
                Incoming::Packet { packet, is_copy, .. } => {
                    if packet.len() < SHARED_BYTES_MIN {
                        *packet = packet.as_frame().copied();
                    }
                    *is_copy = true;
                }
                Incoming::Close { .. } => {}
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.inbox.is_empty() && self.unsent.is_empty() && self.owed.is_empty() && self.departing.is_none()
    }
}

impl Slot {
    pub(super) fn new(
        id: StreamId,
        stream: WorkerStream,
        waker: Arc<StreamWaker>,
        passport: &Passport,
        is_resume: bool,
        counted: Counted,
    ) -> Self {
        Self {
            id,
            stream,
            waker,
            client_id: Arc::clone(&passport.client_id),
            expires_at_s: passport.expires_at_s,
            is_resume,
            is_open: false,
            blocked_at: BlockedAt::default(),
            has_sent: false,
            busy: None,
            has_asked: false,
            has_waited: false,
            _counted: counted,
        }
    }

    /// It has something to do.
    pub(super) fn list(&self) {
        self.waker.list();
    }

    /// The device's packet is to be handed to the session.
    pub(super) fn push_packet(&mut self, number: u64, packet: OwnedFrame, cost: u32) {
        self.busy().inbox.push_back(Incoming::Packet { number, packet, cost, is_copy: false });
        self.list();
    }

    /// The device's connection has ended, behind what came before.
    pub(super) fn push_close(&mut self, number: u64) {
        let busy = self.busy();
        busy.inbox.push_back(Incoming::Close { number });
        busy.is_deserted = true;
        busy.unsent.clear();
        busy.unsent_bytes = 0;
        self.list();
    }

    /// Whether packets wait for the edge to take them.
    pub(super) fn is_blocked(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| !busy.unsent.is_empty())
    }

    /// Replaces the passport.
    pub(super) fn renew(&mut self, passport: Arc<Passport>) {
        self.expires_at_s = passport.expires_at_s;
        self.stream.renew(passport);
    }

    /// Ends the connection for a reason of ours.
    pub(super) fn end(&mut self, reason: ReasonCode, end: &mut WorkerEnd, scratch: &mut Outgoing) -> Outcome {
        if !self.is_open || self.busy.as_ref().is_some_and(|busy| busy.departing.is_some()) {
            return Outcome::Stays;
        }
        self.stream.end_for(reason, scratch);
        self.finish(reason, end, scratch)
    }

    /// The device may go on at another worker, for `grace_ms`.
    pub(super) fn hand_over(self, grace_ms: u64) {
        self.stream.hand_over(grace_ms);
    }

    /// Whether it waits for the last words of a device that another connection took over.
    pub(super) fn is_yielding(&self) -> bool {
        self.stream.is_yielding()
    }

    /// Whether the edge has been asked for them since this was called last.
    pub(super) fn take_asked(&mut self) -> bool {
        std::mem::take(&mut self.has_asked)
    }

    /// Whether a packet has gone to the edge since this was called last.
    pub(super) fn take_sent(&mut self) -> bool {
        std::mem::take(&mut self.has_sent)
    }

    /// The connection that took it over waits for them no longer.
    pub(super) fn let_next_begin(&self) {
        self.stream.let_next_begin();
    }

    /// To be called now and then: ends a stream that another connection took over, and whose edge has not handed over the
    /// device's last words since the look before.
    pub(super) fn look(&mut self, end: &mut WorkerEnd, scratch: &mut Outgoing) -> Outcome {
        if !self.stream.is_yielding() || !std::mem::replace(&mut self.has_waited, true) {
            return Outcome::Stays;
        }
        self.stream.end_yielding(scratch);
        self.finish(ReasonCode::SessionTakenOver, end, scratch)
    }

    /// Does what there is to do. `scratch` is empty before and after.
    pub(super) fn serve(&mut self, end: &mut WorkerEnd, scratch: &mut Outgoing) -> Outcome {
        let outcome = self.try_serve(end, scratch);
        if let Some(busy) = &mut self.busy {
            busy.copy_small();
        }
        if self.busy.as_ref().is_some_and(|busy| busy.is_empty()) {
            self.busy = None;
        }
        outcome
    }

    fn try_serve(&mut self, end: &mut WorkerEnd, scratch: &mut Outgoing) -> Outcome {
        let waker = Waker::from(Arc::clone(&self.waker));
        let mut cx = Context::from_waker(&waker);
        self.stream.begin_turn();
        if !self.is_open {
            match self.open(end, scratch, &mut cx) {
                Outcome::Stays if self.is_open => {}
                outcome => return outcome,
            }
        }
        self.flush(end);
        if let Some(outcome) = self.take_in(end, scratch, &mut cx, &waker) {
            return outcome;
        }
        if self.busy.as_ref().is_some_and(|busy| busy.departing.is_some()) {
            return self.depart(end);
        }
        self.put_out(end, scratch, &mut cx)
    }

    /// Answers OPEN, once the session knows how.
    fn open(&mut self, end: &mut WorkerEnd, scratch: &mut Outgoing, cx: &mut Context<'_>) -> Outcome {
        let _polled = self.stream.poll_recv(cx, scratch, BUDGET_BYTES);
        let phase = self.stream.phase();
        if phase == Phase::Opening {
            return Outcome::Stays;
        }
        let connack = if self.is_resume { None } else { take_packet(scratch) };
        if let Phase::Ended(reason) = phase
            && !connack.as_ref().is_some_and(|connack| accepts(connack.as_frame()))
        {
            *scratch = Outgoing::new();
            let reason = refusal(reason, self.is_resume);
            end.refuse(self.id, reason, connack);
            return Outcome::Refused(reason);
        }
        if let Err(error) = end.accept(self.id, connack) {
            tracing::warn!(%error, "an edge does not take a CONNACK");
            *scratch = Outgoing::new();
            end.refuse(self.id, RefuseReason::Connect, None);
            return Outcome::Refused(RefuseReason::Connect);
        }
        self.is_open = true;
        if let Phase::Ended(reason) = phase {
            return self.finish(reason, end, scratch);
        }
        self.offer_all(end, scratch);
        Outcome::Stays
    }

    /// Hands packets of the device to the session while it takes them.
    fn take_in(
        &mut self,
        end: &mut WorkerEnd,
        scratch: &mut Outgoing,
        cx: &mut Context<'_>,
        waker: &Waker,
    ) -> Option<Outcome> {
        loop {
            let busy = self.busy.as_mut()?;
            let is_departing = busy.departing.is_some();
            match busy.inbox.front()? {
                Incoming::Packet { .. } if is_departing => {}
                Incoming::Packet { packet, .. }
                    if busy.unsent_bytes >= UNSENT_BYTES_MAX
                        || self.stream.poll_ready(cx).is_pending()
                        || !takes(&mut self.stream, packet.as_frame()) =>
                {
                    return None;
                }
                _ => {}
            }
            match busy.inbox.pop_front()? {
                Incoming::Close { number } => {
                    busy.owed.push_back(Owed { asked: None, number });
                    self.leave(waker);
                    return None;
                }
                Incoming::Packet { number, cost, .. } if is_departing => {
                    busy.owed.push_back(Owed { asked: None, number });
                    end.give_back(self.id, cost);
                }
                Incoming::Packet { number, packet, cost, .. } => {
                    let outcome = self.hand_in(number, packet.as_frame(), end, scratch, waker);
                    end.give_back(self.id, cost);
                    if outcome.is_some() {
                        return outcome;
                    }
                }
            }
        }
    }

    /// The device's connection has ended.
    fn leave(&mut self, waker: &Waker) {
        let departing = self.busy().departing.get_or_insert_with(|| Departing {
            departure: Arc::new(Departure::new(waker.clone())),
            reason: ReasonCode::Success,
            last: None,
            is_closed: true,
        });
        departing.is_closed = true;
        let departure = Arc::clone(&departing.departure);
        if let Phase::Serving = self.stream.phase() {
            self.stream.tell_departure(departure);
            self.stream.leave_for_good();
        }
    }

    /// Has the session take a packet of the device.
    fn hand_in(
        &mut self,
        number: u64,
        packet: Frame<'_>,
        end: &mut WorkerEnd,
        scratch: &mut Outgoing,
        waker: &Waker,
    ) -> Option<Outcome> {
        let leaves = packet.packet_type() == PacketType::Disconnect;
        let departure = leaves.then(|| Arc::new(Departure::new(waker.clone())));
        if let Some(departure) = &departure {
            self.stream.tell_departure(Arc::clone(departure));
        }
        let asked = asked_by(packet);
        let taken = self.stream.take(number, packet, scratch);
        if asked.is_some() || taken == Taken::Later || leaves {
            self.busy().owed.push_back(Owed { asked, number });
        } else {
            end.durable(self.id, number);
        }
        match (self.stream.phase(), departure) {
            (Phase::Ended(reason), Some(departure)) => {
                let last = take_packet(scratch);
                *scratch = Outgoing::new();
                self.busy().departing = Some(Departing { departure, reason, last, is_closed: false });
                None
            }
            (Phase::Ended(reason), None) => Some(self.finish(reason, end, scratch)),
            _ => {
                self.offer_all(end, scratch);
                None
            }
        }
    }

    /// Tells the edge that the session was let go, once that is durable.
    fn depart(&mut self, end: &mut WorkerEnd) -> Outcome {
        let Some(busy) = &mut self.busy else { return Outcome::Over };
        let Some(departing) = busy.departing.take_if(|departing| departing.departure.is_done()) else {
            return Outcome::Stays;
        };
        for owed in busy.owed.drain(..) {
            end.durable(self.id, owed.number);
        }
        if !departing.is_closed {
            end.close(self.id, departing.reason, departing.last);
        }
        Outcome::Over
    }

    /// Sends what the session has for the device, as far as there is room.
    fn put_out(&mut self, end: &mut WorkerEnd, scratch: &mut Outgoing, cx: &mut Context<'_>) -> Outcome {
        for _ in 0..ROUNDS_MAX {
            if self.is_blocked() {
                // The device may be taken over while it does not read.
                let polled = self.stream.poll_end(cx, scratch);
                self.ask(end);
                return match polled {
                    Poll::Ready(reason) => self.finish(reason, end, scratch),
                    Poll::Pending => Outcome::Stays,
                };
            }
            let polled = self.stream.poll_recv(cx, scratch, BUDGET_BYTES);
            self.report(end);
            self.ask(end);
            match polled {
                Poll::Ready(Event::Closed(reason)) => return self.finish(reason, end, scratch),
                Poll::Ready(Event::Wrote) => self.offer_all(end, scratch),
                Poll::Ready(Event::TakenOver) | Poll::Pending => {
                    self.tell_retained(true, end);
                    // An answer may have made room for what waited.
                    if self.busy.as_ref().is_some_and(|busy| !busy.inbox.is_empty())
                        && self.stream.poll_ready(cx).is_ready()
                    {
                        self.list();
                    }
                    return Outcome::Stays;
                }
            }
        }
        self.list();
        Outcome::Stays
    }

    /// Asks the edge for the device's last words if another connection has the session.
    fn ask(&mut self, end: &mut WorkerEnd) {
        if self.stream.take_question() {
            end.ask_to_yield(self.id);
            self.has_asked = true;
        }
    }

    /// Ends the device's connection: the last packet of `scratch` goes with CLOSE, which needs no room.
    fn finish(&mut self, reason: ReasonCode, end: &mut WorkerEnd, scratch: &mut Outgoing) -> Outcome {
        self.flush(end);
        let mut last = take_packet(scratch);
        while let Some(packet) = take_packet(scratch) {
            let before = last.replace(packet);
            if let Some(before) = before.filter(|_| !self.is_blocked()) {
                self.offer(before, end);
            }
        }
        end.close(self.id, reason, last);
        Outcome::Over
    }

    /// Reports frames whose effect the session says is in the store.
    fn report(&mut self, end: &mut WorkerEnd) {
        let (id, busy) = (self.id, &mut self.busy);
        self.stream.take_durable(|number| {
            end.durable(id, number);
            if let Some(busy) = busy {
                busy.owed.retain(|owed| owed.number != number);
            }
        });
    }

    fn offer_all(&mut self, end: &mut WorkerEnd, scratch: &mut Outgoing) {
        // Before the SUBACK that they follow.
        self.tell_retained(false, end);
        while let Some(packet) = take_packet(scratch) {
            self.offer(packet, end);
        }
        self.tell_retained(!self.is_blocked(), end);
    }

    /// Tells the edge which retained messages are still to be sent; with `is_sent` it has all that the session has written.
    fn tell_retained(&mut self, is_sent: bool, end: &mut WorkerEnd) {
        if let Some(DueNews { is_more, due }) = self.stream.retained_news(is_sent) {
            end.tell_retained(self.id, is_more, due);
        }
    }

    /// Sends a packet, or keeps it until there is room.
    fn offer(&mut self, packet: OwnedFrame, end: &mut WorkerEnd) {
        if self.is_blocked() || !self.try_send(&packet, end) {
            let busy = self.busy();
            if !busy.is_deserted {
                busy.unsent_bytes += packet.len();
                busy.unsent.push_back(packet);
            }
        }
    }

    /// Sends what waits, as far as there is room.
    fn flush(&mut self, end: &mut WorkerEnd) {
        while let Some(packet) = self.busy.as_mut().and_then(|busy| busy.unsent.pop_front()) {
            if !self.try_send(&packet, end) {
                self.busy().unsent.push_front(packet);
                return;
            }
            self.busy().unsent_bytes -= packet.len();
        }
    }

    /// Sends a packet and reports the frames that it answers. `false`: there is no room.
    fn try_send(&mut self, packet: &OwnedFrame, end: &mut WorkerEnd) -> bool {
        match end.send(self.id, packet) {
            Ok(()) => self.has_sent = true,
            Err(SendError::Full) => return false,
            // The stream is over, or the edge takes no such packet, although it has named its bound: nothing else can be
            // done.
            Err(error) => {
                tracing::debug!(%error, "a packet for a device was not taken");
                return true;
            }
        }
        if let Some(busy) = &mut self.busy
            && !busy.owed.is_empty()
            && let Some(answered) = answered_by(packet.as_frame())
        {
            let id = self.id;
            busy.owed.retain(|owed| {
                let is_answered = owed.asked == Some(answered);
                if is_answered {
                    end.durable(id, owed.number);
                }
                !is_answered
            });
        }
        true
    }

    fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }
}

/// Whether the session takes this packet now, or has something to do before.
fn takes(stream: &mut WorkerStream, packet: Frame<'_>) -> bool {
    stream.takes(packet.packet_type()) && (!stream.looks_ahead() || stream.clears(packet))
}

/// Whether a CONNACK accepts the connection.
fn accepts(connack: Frame<'_>) -> bool {
    connack.body().get(1) == Some(&0)
}

fn refusal(reason: ReasonCode, is_resume: bool) -> RefuseReason {
    match reason {
        ReasonCode::ServerUnavailable | ReasonCode::ServerShuttingDown => RefuseReason::StoreAway,
        ReasonCode::SessionTakenOver => RefuseReason::TakenOver,
        _ if is_resume => RefuseReason::SessionGone,
        _ => RefuseReason::Connect,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn a_small_packet_that_waits_does_not_keep_the_buffer_that_it_came_in() {
        let large = [&b"\x30\x80\x20"[..], &[0; 4096]].concat();
        let mut buffer = BytesMut::with_capacity(65_536);
        buffer.extend_from_slice(b"\xC0\0\x30\x04\0\x01tx");
        buffer.extend_from_slice(&large);
        let within = buffer.as_ptr_range();
        let mut busy = Busy::default();
        while let Some(packet) = mqtt::frame::split_bytes(&mut buffer, u32::MAX).expect("whole packets") {
            busy.inbox.push_back(Incoming::Packet { number: 1, packet, cost: 1, is_copy: false });
            busy.copy_small();
        }
        let is_shared = |incoming: &Incoming| {
            let Incoming::Packet { packet, .. } = incoming else { panic!("a packet") };
            within.contains(&packet.raw.as_ptr())
        };
        assert_eq!(busy.inbox.iter().map(is_shared).collect::<Vec<_>>(), [false, false, true]);
    }
}
