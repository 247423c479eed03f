//! The worker's end of a link: takes streams, sends within the edge's windows, and reports what is durable before anything
//! that follows from it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;
use mqtt::{OwnedFrame, ReasonCode};

use super::credit::{Credit, Grant, packet_cost};
use super::done::Done;
use super::edge::follow;
use super::transport::Transport;
use super::{LinkError, OtherEnd, SendError, Settings, check};
use crate::Outgoing;
use crate::wire::{
    DURABLE_BEYOND_MAX, Ending, FEATURE_YIELD, Frame, OpenBody, RETAINED_BYTES_MAX, RefuseReason, StreamId,
};

/// What happened at the worker's end.
#[derive(Debug)]
pub enum WorkerEvent {
    /// HELLO came.
    Ready(OtherEnd),
    /// A device asks for its session; to be answered with [`WorkerEnd::accept`] or [`WorkerEnd::refuse`].
    Open {
        /// This stream.
        stream: StreamId,
        /// By whom and how.
        open: Box<OpenBody>,
    },
    /// A Control Packet from the device.
    Packet {
        /// On this stream.
        stream: StreamId,
        /// To be given to [`WorkerEnd::durable`] when its effect is (at QoS 0 that is done already).
        number: u64,
        /// The packet.
        packet: OwnedFrame,
        /// To be given to [`WorkerEnd::give_back`] when it has left memory.
        cost: u32,
    },
    /// A renewed passport.
    Passport {
        /// For this stream.
        stream: StreamId,
        /// The token.
        token: Bytes,
    },
    /// The device's connection ended, or moved to another worker ([`Ending::Moved`]: the stream is over).
    Close {
        /// This stream.
        stream: StreamId,
        /// To be given to [`WorkerEnd::durable`], with which the stream is over; 0 if it moved.
        number: u64,
        /// Which of the two.
        ending: Ending,
    },
    /// [`WorkerEnd::send`] answered [`SendError::Full`], and the device has taken something.
    Sendable {
        /// On this stream.
        stream: StreamId,
    },
    /// [`WorkerEnd::send`] answered [`SendError::Full`], perhaps because the link was, and the link has room again.
    LinkSendable,
}

#[derive(Debug)]
struct WorkerStream {
    credit: Credit,
    grant: Grant,
    done: Done,
    /// Done, kept by the edge, and not yet reported.
    unreported: Vec<u64>,
    /// What the last report said.
    reported_through: u64,
    /// Last numbers in each direction.
    sent: u64,
    received: u64,
    is_open: bool,
    is_reporting: bool,
    wants_room: bool,
    /// The number of the device's CLOSE.
    close: Option<u64>,
}

/// The worker's end of one link to one edge.
#[derive(Debug)]
pub struct WorkerEnd {
    transport: Transport,
    streams: HashMap<StreamId, WorkerStream, RandomState>,
    /// The highest identifier that was opened.
    last: u32,
    is_draining: bool,
    wants_room: bool,
    /// Streams with something durable to report.
    reporting: Vec<StreamId>,
    /// Streams with credit to give back.
    given_back: Vec<StreamId>,
    events: VecDeque<WorkerEvent>,
    dropped: u64,
    /// Devices that were not taken while draining, and not asked for yet.
    turned_away: u64,
}

impl WorkerEnd {
    /// One that says HELLO. `now` is the time since any moment that stays the same.
    pub fn new(settings: Settings, now: Duration) -> Self {
        Self {
            transport: Transport::new(settings, now),
            streams: HashMap::default(),
            last: 0,
            is_draining: false,
            wants_room: false,
            reporting: Vec::new(),
            given_back: Vec::new(),
            events: VecDeque::new(),
            dropped: 0,
            turned_away: 0,
        }
    }

    /// What came from the edge; whole frames are taken off `bytes`. To be called before [`WorkerEnd::tick`].
    ///
    /// # Errors
    /// The link is over, by a fault of the edge. Events of what came before are still to be had.
    pub fn receive(&mut self, now: Duration, bytes: &mut BytesMut) -> Result<(), LinkError> {
        self.transport.heard(now, bytes)?;
        let outcome = self.take_frames(bytes);
        self.transport.is_over |= outcome.is_err();
        outcome
    }

    fn take_frames(&mut self, bytes: &mut BytesMut) -> Result<(), LinkError> {
        while let Some((stream, frame)) = self.transport.take(bytes)? {
            match frame {
                Frame::Open(open) => self.take_open(stream, open)?,
                frame => self.take(stream, frame)?,
            }
        }
        Ok(())
    }

    fn take_open(&mut self, id: StreamId, open: Box<OpenBody>) -> Result<(), LinkError> {
        if id.0 <= self.last {
            return Err(LinkError::StreamReused(id));
        }
        self.last = id.0;
        let Some(peer) = self.transport.peer.as_ref().filter(|_| !self.is_draining) else {
            let refused = Frame::Refused { reason: RefuseReason::Draining, packet: Bytes::new() };
            self.transport.put(id, &refused);
            self.turned_away += 1;
            return Ok(());
        };
        let stream = WorkerStream {
            credit: Credit::new(peer.hello.window_bytes),
            grant: Grant::new(self.transport.settings.window_bytes),
            done: Done::default(),
            unreported: Vec::new(),
            reported_through: 0,
            sent: 0,
            received: 0,
            is_open: false,
            is_reporting: false,
            wants_room: false,
            close: None,
        };
        self.streams.insert(id, stream);
        self.events.push_back(WorkerEvent::Open { stream: id, open });
        Ok(())
    }

    fn take(&mut self, id: StreamId, frame: Frame) -> Result<(), LinkError> {
        let unexpected = LinkError::Unexpected { kind: frame.kind(), stream: id };
        if id == StreamId::LINK {
            return self.take_link(&frame).ok_or(unexpected);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            if id.0 > self.last {
                return Err(LinkError::UnknownStream(id));
            }
            // Refused or closed here; the edge did not know yet.
            self.dropped += 1;
            return Ok(());
        };
        match frame {
            Frame::Packet { number, packet } if stream.is_open && stream.close.is_none() => {
                follow(&mut stream.received, number, id)?;
                let cost = packet_cost(packet.len());
                if !stream.grant.take(cost) {
                    return Err(LinkError::WindowExceeded(id));
                }
                if packet.is_qos0_publish() {
                    stream.done.insert(number);
                }
                self.events.push_back(WorkerEvent::Packet { stream: id, number, packet, cost });
            }
            Frame::Close { number: 0, ending: Ending::Moved } => {
                self.streams.remove(&id);
                self.events.push_back(WorkerEvent::Close { stream: id, number: 0, ending: Ending::Moved });
            }
            Frame::Close { number, ending: ending @ Ending::Device(_) }
                if stream.is_open && stream.close.is_none() =>
            {
                follow(&mut stream.received, number, id)?;
                stream.close = Some(number);
                self.events.push_back(WorkerEvent::Close { stream: id, number, ending });
            }
            Frame::Passport { token } => self.events.push_back(WorkerEvent::Passport { stream: id, token }),
            Frame::Window { credit_bytes } => {
                if !stream.credit.add(credit_bytes) {
                    return Err(LinkError::CreditExceeded(id));
                }
                if stream.wants_room && stream.credit.is_some() {
                    stream.wants_room = false;
                    self.events.push_back(WorkerEvent::Sendable { stream: id });
                }
            }
            _ => return Err(unexpected),
        }
        Ok(())
    }

    fn take_link(&mut self, frame: &Frame) -> Option<()> {
        match frame {
            Frame::Hello(_) => self.events.push_back(WorkerEvent::Ready(self.transport.peer.clone()?)),
            _ => return None,
        }
        Some(())
    }

    /// Tells the edge whether this worker reaches its store.
    pub fn tell_store(&mut self, is_away: bool) {
        self.transport.put(StreamId::LINK, &Frame::Store { is_away });
    }

    /// Tells the edge which retained messages the device is still to get, for [`crate::Resume::retained_due`] if it goes on at another
    /// worker; with `is_more` beside those that it was told of before. Of more than [`RETAINED_BYTES_MAX`] it keeps what it was told first. An
    /// edge that does not know the frame keeps nothing.
    pub fn tell_retained(&mut self, id: StreamId, is_more: bool, due: Bytes) {
        debug_assert!(due.len() <= RETAINED_BYTES_MAX, "{} bytes", due.len());
        if self.streams.get(&id).is_some_and(|stream| stream.is_open && stream.close.is_none()) {
            self.transport.put(id, &Frame::Retained { is_more, due });
        }
    }

    /// The session is here. `connack` is for the device; a resume has none. Packets of the device follow.
    ///
    /// # Errors
    /// The edge has given the stream up, or it was answered before, or takes no packet as large as `connack`: the session is
    /// to be let go.
    pub fn accept(&mut self, id: StreamId, connack: Option<OwnedFrame>) -> Result<(), SendError> {
        if let Some(connack) = &connack {
            check(connack, self.packet_bytes_max())?;
        }
        let connack = bytes_of(connack);
        let stream = self.streams.get_mut(&id).filter(|stream| !stream.is_open).ok_or(SendError::NoStream)?;
        stream.is_open = true;
        self.transport.put(id, &Frame::Opened { connack });
        Ok(())
    }

    /// The session is not to be had here. `packet` is what the device is told; without one the edge says it.
    pub fn refuse(&mut self, id: StreamId, reason: RefuseReason, packet: Option<OwnedFrame>) {
        if self.streams.get(&id).is_some_and(|stream| !stream.is_open) {
            self.streams.remove(&id);
            let packet = self.sendable(packet);
            self.transport.put(id, &Frame::Refused { reason, packet });
        }
    }

    /// Sends a Control Packet to the device, behind what is to be reported of its stream: whoever has an answer knows that
    /// what it answers is durable.
    ///
    /// # Errors
    /// It was not taken.
    pub fn send(&mut self, id: StreamId, packet: &OwnedFrame) -> Result<(), SendError> {
        let max = self.packet_bytes_max();
        let is_link_full = self.transport.is_full();
        let stream = self.streams.get_mut(&id).filter(|stream| stream.is_open && stream.close.is_none());
        let Some(stream) = stream else { return Err(SendError::NoStream) };
        check(packet, max)?;
        if !stream.credit.is_some() {
            stream.wants_room = true;
            return Err(SendError::Full);
        }
        if is_link_full {
            self.wants_room = true;
            return Err(SendError::Full);
        }
        stream.credit.spend(packet_cost(packet.len()));
        stream.sent += 1;
        let number = stream.sent;
        self.report(id);
        self.transport.put_packet(id, number, packet);
        Ok(())
    }

    /// The effect of frame `number` is in the store, or it needs none. In any order.
    pub fn durable(&mut self, id: StreamId, number: u64) {
        if let Some(stream) = self.streams.get_mut(&id)
            && number <= stream.received
            && stream.done.insert(number)
        {
            stream.unreported.push(number);
            if !stream.is_reporting {
                stream.is_reporting = true;
                self.reporting.push(id);
            }
        }
    }

    /// Packets of the device that cost so much have left memory.
    pub fn give_back(&mut self, id: StreamId, cost: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.grant.give_back(cost)
        {
            self.given_back.push(id);
        }
    }

    /// Ends the device's connection. `packet` is the last for the device, if there is one; it needs no credit.
    pub fn close(&mut self, id: StreamId, reason: ReasonCode, packet: Option<OwnedFrame>) {
        if self.streams.get(&id).is_none_or(|stream| !stream.is_open) {
            return;
        }
        self.report(id);
        if let Some(stream) = self.streams.remove(&id) {
            let ending = Ending::Worker { reason, packet: self.sendable(packet) };
            self.transport.put(id, &Frame::Close { number: stream.sent + 1, ending });
        }
    }

    /// Another connection has the session of this stream: asks for what its device has sent already and for CLOSE. To be
    /// called where [`WorkerEnd::can_ask_to_yield`] only.
    pub fn ask_to_yield(&mut self, id: StreamId) {
        let is_open = self.streams.get(&id).is_some_and(|stream| stream.is_open && stream.close.is_none());
        if is_open && self.can_ask_to_yield() {
            self.transport.put(id, &Frame::Yield);
        }
    }

    /// Whether the edge knows [`Frame::Yield`].
    pub fn can_ask_to_yield(&self) -> bool {
        self.transport.peer.as_ref().is_some_and(|peer| peer.features & FEATURE_YIELD != 0)
    }

    /// This worker is about to leave: OPEN is refused from here on, and the edge moves what is open.
    pub fn drain(&mut self, within: Duration) {
        self.is_draining = true;
        let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        self.transport.put(StreamId::LINK, &Frame::Drain { within_ms });
    }

    /// Ends the link and answers the streams that were open or asked for, in order. Their devices did not leave.
    pub fn abandon(&mut self) -> Vec<StreamId> {
        self.transport.is_over = true;
        let mut streams: Vec<_> = self.streams.drain().map(|(id, _)| id).collect();
        streams.sort_unstable();
        streams
    }

    /// Asks for a sign of life when it is time.
    ///
    /// # Errors
    /// The edge was silent for too long; the link is over.
    pub fn tick(&mut self, now: Duration) -> Result<(), LinkError> {
        self.transport.tick(now)
    }

    /// When [`WorkerEnd::tick`] has something to do at the earliest.
    pub fn wake_at(&self) -> Duration {
        self.transport.wake_at()
    }

    /// What happened, in order. To be called after writing too.
    pub fn poll_event(&mut self) -> Option<WorkerEvent> {
        if self.wants_room && !self.transport.is_full() {
            self.wants_room = false;
            return Some(WorkerEvent::LinkSendable);
        }
        self.events.pop_front()
    }

    /// How many devices were refused since the last call, since this end drains.
    pub fn take_turned_away(&mut self) -> u64 {
        std::mem::take(&mut self.turned_away)
    }

    /// What is to be written, after adding reports and credit. To be called again when some was written.
    pub fn outgoing(&mut self) -> &mut Outgoing {
        for id in std::mem::take(&mut self.reporting) {
            self.report(id);
        }
        for id in std::mem::take(&mut self.given_back) {
            let due = self.streams.get_mut(&id).and_then(|stream| stream.grant.take_due());
            if let Some(credit_bytes) = due {
                self.transport.put(id, &Frame::Window { credit_bytes });
            }
        }
        &mut self.transport.out
    }

    /// Streams that are open or asked for.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Frames that came for streams that were over here.
    pub fn dropped_frames(&self) -> u64 {
        self.dropped
    }

    /// Largest packet that the edge takes.
    fn packet_bytes_max(&self) -> u32 {
        self.transport.peer.as_ref().map_or(0, |peer| peer.hello.packet_bytes_max)
    }

    /// `packet`, or nothing when the edge would not take it: a stream must end in any case.
    fn sendable(&self, packet: Option<OwnedFrame>) -> Bytes {
        let max = self.packet_bytes_max();
        bytes_of(packet.filter(|packet| check(packet, max).is_ok()))
    }

    /// Adds DURABLE for what is not yet reported of a stream, and ends the stream if that was all.
    fn report(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_reporting) else { return };
        stream.is_reporting = false;
        let through = stream.done.through();
        let mut numbers = std::mem::take(&mut stream.unreported);
        numbers.retain(|number| *number > through);
        numbers.sort_unstable();
        let is_news = through > stream.reported_through;
        stream.reported_through = through;
        if stream.close.is_some_and(|close| close <= through) {
            self.streams.remove(&id);
        }
        for beyond in numbers.chunks(DURABLE_BEYOND_MAX) {
            self.transport.put(id, &Frame::Durable { through, beyond: beyond.to_vec() });
        }
        if numbers.is_empty() && is_news {
            self.transport.put(id, &Frame::Durable { through, beyond: Vec::new() });
        }
    }
}

/// As a frame of the link has it: empty for none.
fn bytes_of(packet: Option<OwnedFrame>) -> Bytes {
    packet.map_or_else(Bytes::new, |packet| packet.raw)
}
