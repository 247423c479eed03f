//! The edge's end of a link: opens streams, sends within the worker's windows, keeps what is not durable, and hands it back
//! when a stream has to go elsewhere.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;
use mqtt::{OwnedFrame, ReasonCode};

use super::answer::answered_by;
use super::credit::{Credit, Grant, packet_cost};
use super::replay::{DevicePacket, Item, Kept, Replay};
use super::transport::Transport;
use super::{LinkError, OtherEnd, SendError, Settings, WORN_PART, check};
use crate::wire::{Ending, FEATURE_RETAINED, Frame, OpenBody, RefuseReason, StreamId};
use crate::{CloseCause, Outgoing};

/// What happened at the edge's end.
#[derive(Debug)]
pub enum EdgeEvent {
    /// HELLO came; streams may be opened.
    Ready(OtherEnd),
    /// The worker has the session. Everything that waited is being sent.
    Opened {
        /// This stream.
        stream: StreamId,
        /// For the device, and to be kept for a resume; empty if this was one.
        connack: Bytes,
    },
    /// The worker does not take the session; the stream is over.
    Refused {
        /// This stream.
        stream: StreamId,
        /// Why.
        reason: RefuseReason,
        /// What the device is told, if the worker knows.
        packet: Bytes,
        /// For another worker.
        replay: Replay,
    },
    /// A Control Packet for the device.
    Packet {
        /// On this stream.
        stream: StreamId,
        /// The packet.
        packet: OwnedFrame,
        /// To be given to [`EdgeEnd::give_back`] when the device has it.
        cost: u32,
    },
    /// [`EdgeEnd::send`] answered [`SendError::Full`], and there is room again.
    Sendable {
        /// On this stream.
        stream: StreamId,
    },
    /// The close of the device's connection is durable, and all before it; the stream is over.
    Finished {
        /// This stream.
        stream: StreamId,
    },
    /// The worker ends the connection; the stream is over, and nothing is replayed.
    Closed {
        /// This stream.
        stream: StreamId,
        /// For logs and metrics.
        reason: ReasonCode,
        /// The last Control Packet for the device; empty for none.
        packet: Bytes,
    },
    /// Another connection has the session: what the device has sent already is to be sent, then [`EdgeEnd::close`].
    Yield {
        /// This stream.
        stream: StreamId,
    },
    /// The worker is about to leave: no more streams are opened, those that are open want to be moved.
    Draining {
        /// In this time.
        within: Duration,
    },
    /// The worker says whether it reaches its store. Until it does it has it.
    Store {
        /// It is without it for now.
        is_away: bool,
    },
}

/// A stream that the link left behind.
#[derive(Debug)]
pub struct Unfinished {
    /// This stream.
    pub stream: StreamId,
    /// Whether the device got its CONNACK, from this worker or an earlier one, so that the next OPEN is a resume; otherwise
    /// its CONNECT is repeated.
    pub is_open: bool,
    /// For another worker.
    pub replay: Replay,
    /// Packets for the device that no event has told of. It gets them before anything else: what they answer is not
    /// replayed.
    pub packets: Vec<OwnedFrame>,
}

/// A packet that [`EdgeEnd::send`] did not take.
#[derive(Debug, thiserror::Error)]
#[error("a packet was not taken")]
pub struct NotSent {
    /// Why.
    #[source]
    pub error: SendError,
    /// As it was given.
    pub packet: DevicePacket,
}

/// OPEN was not sent.
#[derive(Debug, thiserror::Error)]
#[error("the link opens no stream: not ready, draining, over, out of identifiers, or a field out of bounds")]
pub struct NotOpened {
    /// As it was given.
    pub open: Box<OpenBody>,
    /// As it was given.
    pub replay: Replay,
}

#[derive(Debug)]
struct EdgeStream {
    credit: Credit,
    grant: Grant,
    kept: Kept,
    /// Last numbers in each direction.
    sent: u64,
    received: u64,
    durable: u64,
    is_resume: bool,
    is_open: bool,
    is_closing: bool,
    is_in_turn: bool,
    wants_room: bool,
}

impl EdgeStream {
    /// Puts this stream among those that may send, if it may.
    fn enter_turn(&mut self, id: StreamId, turn: &mut VecDeque<StreamId>) {
        if !self.is_in_turn && self.may_send() {
            self.is_in_turn = true;
            turn.push_back(id);
        }
    }

    /// Whether another packet may be kept; where none may, room is announced later.
    fn take_room(&mut self, settings: &Settings) -> Result<(), SendError> {
        if self.kept.is_full(settings.kept_bytes_max, settings.kept_count_max) {
            self.wants_room = true;
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// Tells of the room that there is, if there was none.
    fn announce_room(&mut self, id: StreamId, settings: &Settings, events: &mut VecDeque<EdgeEvent>) {
        if self.wants_room && !self.kept.is_full(settings.kept_bytes_max, settings.kept_count_max) {
            self.wants_room = false;
            events.push_back(EdgeEvent::Sendable { stream: id });
        }
    }

    /// Whether the next item may go now.
    fn may_send(&self) -> bool {
        self.is_open
            && match self.kept.next() {
                Some(Item::Packet(..)) => self.credit.is_some(),
                Some(Item::Close(_)) => true,
                None => false,
            }
    }
}

/// The edge's end of one link to one worker.
#[derive(Debug)]
pub struct EdgeEnd {
    transport: Transport,
    streams: HashMap<StreamId, EdgeStream, RandomState>,
    /// The next identifier; `None` when all are used up.
    next: Option<u32>,
    is_draining: bool,
    /// Streams that may send, the next one first: one packet each in turn.
    turn: VecDeque<StreamId>,
    /// Streams with credit to give back.
    given_back: Vec<StreamId>,
    events: VecDeque<EdgeEvent>,
    dropped: u64,
}

impl EdgeEnd {
    /// One that says HELLO. `now` is the time since any moment that stays the same.
    pub fn new(settings: Settings, now: Duration) -> Self {
        Self {
            transport: Transport::new(settings, now),
            streams: HashMap::default(),
            next: Some(1),
            is_draining: false,
            turn: VecDeque::new(),
            given_back: Vec::new(),
            events: VecDeque::new(),
            dropped: 0,
        }
    }

    /// What came from the worker; whole frames are taken off `bytes`. To be called before [`EdgeEnd::tick`], so that what
    /// came while this process stood still counts as a sign of life.
    ///
    /// # Errors
    /// The link is over, by a fault of the worker. Events of what came before are still to be had.
    pub fn receive(&mut self, now: Duration, bytes: &mut BytesMut) -> Result<(), LinkError> {
        self.transport.heard(now, bytes)?;
        let outcome = self.take_frames(bytes);
        self.transport.is_over |= outcome.is_err();
        outcome
    }

    fn take_frames(&mut self, bytes: &mut BytesMut) -> Result<(), LinkError> {
        while let Some((stream, frame)) = self.transport.take(bytes)? {
            self.take(stream, frame)?;
        }
        Ok(())
    }

    fn take(&mut self, id: StreamId, frame: Frame) -> Result<(), LinkError> {
        let kind = frame.kind();
        let unexpected = LinkError::Unexpected { kind, stream: id };
        if id == StreamId::LINK {
            return self.take_link(&frame).ok_or(unexpected);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            // A stream that was given up: the worker does not know yet, or was stopped and does not know that its device
            // has moved.
            if self.next.is_some_and(|next| id.0 >= next) {
                return Err(LinkError::UnknownStream(id));
            }
            self.dropped += 1;
            return Ok(());
        };
        match frame {
            Frame::Opened { connack } if !stream.is_open && connack.is_empty() == stream.is_resume => {
                stream.is_open = true;
                stream.enter_turn(id, &mut self.turn);
                self.events.push_back(EdgeEvent::Opened { stream: id, connack });
            }
            Frame::Refused { reason, packet } if !stream.is_open => {
                if let Some(stream) = self.streams.remove(&id) {
                    let replay = stream.kept.into_replay();
                    self.events.push_back(EdgeEvent::Refused { stream: id, reason, packet, replay });
                }
            }
            Frame::Packet { number, packet } if stream.is_open => {
                follow(&mut stream.received, number, id)?;
                let cost = packet_cost(packet.len());
                if !stream.grant.take(cost) {
                    return Err(LinkError::WindowExceeded(id));
                }
                if let Some(asked) = answered_by(packet.as_frame()) {
                    stream.kept.answered(asked);
                }
                if !stream.is_closing {
                    self.events.push_back(EdgeEvent::Packet { stream: id, packet, cost });
                } else if stream.grant.give_back(cost) {
                    // Nobody takes it, and the worker may need the room to answer what came before the close.
                    self.given_back.push(id);
                }
                stream.announce_room(id, &self.transport.settings, &mut self.events);
            }
            Frame::Durable { through, beyond } => self.take_durable(id, through, &beyond)?,
            Frame::Close { number, ending: Ending::Worker { reason, packet } } if stream.is_open => {
                follow(&mut stream.received, number, id)?;
                self.streams.remove(&id);
                self.events.push_back(EdgeEvent::Closed { stream: id, reason, packet });
            }
            Frame::Window { credit_bytes } => {
                if !stream.credit.add(credit_bytes) {
                    return Err(LinkError::CreditExceeded(id));
                }
                stream.enter_turn(id, &mut self.turn);
            }
            Frame::Retained { is_more, due } if stream.is_open => stream.kept.take_retained(is_more, &due),
            Frame::Yield if stream.is_open => {
                if !stream.is_closing {
                    self.events.push_back(EdgeEvent::Yield { stream: id });
                }
            }
            _ => return Err(unexpected),
        }
        Ok(())
    }

    fn take_link(&mut self, frame: &Frame) -> Option<()> {
        match frame {
            Frame::Hello(_) => self.events.push_back(EdgeEvent::Ready(self.transport.peer.clone()?)),
            Frame::Drain { within_ms } => {
                self.is_draining = true;
                let within = Duration::from_millis(u64::from(*within_ms));
                self.events.push_back(EdgeEvent::Draining { within });
            }
            Frame::Store { is_away } => self.events.push_back(EdgeEvent::Store { is_away: *is_away }),
            _ => return None,
        }
        Some(())
    }

    fn take_durable(&mut self, id: StreamId, through: u64, beyond: &[u64]) -> Result<(), LinkError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let last = beyond.last().copied().unwrap_or(through);
        if through < stream.durable || last > stream.sent {
            return Err(LinkError::ImpossibleDurable(id));
        }
        stream.durable = through;
        stream.kept.durable(through, beyond);
        if stream.is_closing && stream.kept.is_empty() {
            self.streams.remove(&id);
            self.events.push_back(EdgeEvent::Finished { stream: id });
        } else {
            stream.announce_room(id, &self.transport.settings, &mut self.events);
        }
        Ok(())
    }

    /// Asks for a session. With `open.resume` the session is taken as it is, and `replay` comes first; a CONNECT that is
    /// repeated at another worker may bring a `replay` too, of packets that were never sent.
    ///
    /// # Errors
    /// It cannot be asked for here.
    pub fn open(&mut self, mut open: Box<OpenBody>, mut replay: Replay) -> Result<StreamId, Box<NotOpened>> {
        let peer = self.transport.peer.as_ref().filter(|_| !self.is_draining && !self.transport.is_over);
        let (Some(peer), Some(next)) = (peer, self.next) else {
            return Err(Box::new(NotOpened { open, replay }));
        };
        if peer.features & FEATURE_RETAINED == 0 {
            // It would never say that the device has them.
            replay.retained = Box::default();
        }
        if let Some(resume) = &mut open.resume {
            resume.backlog = u32::try_from(replay.len()).unwrap_or(u32::MAX);
            resume.retained_due = Bytes::copy_from_slice(&replay.retained);
        }
        let fits = replay.packet_len_max() <= peer.hello.packet_bytes_max as usize
            && open.is_encodable(&self.transport.settings.limits);
        if !fits {
            return Err(Box::new(NotOpened { open, replay }));
        }
        let id = StreamId(next);
        self.next = next.checked_add(1).filter(|next| *next <= self.transport.settings.streams_max);
        let stream = EdgeStream {
            credit: Credit::new(peer.hello.window_bytes),
            grant: Grant::new(self.transport.settings.window_bytes),
            is_closing: replay.ends_with_close(),
            kept: Kept::resume(replay),
            sent: 0,
            received: 0,
            durable: 0,
            is_resume: open.resume.is_some(),
            is_open: false,
            is_in_turn: false,
            wants_room: false,
        };
        self.streams.insert(id, stream);
        self.transport.put(id, &Frame::Open(open));
        Ok(id)
    }

    /// Sends a Control Packet of the device, now or when the worker has opened the stream and has room. At QoS 1 and 2, and
    /// of every other type, it is kept until it is durable.
    ///
    /// # Errors
    /// It was not taken, and comes back.
    pub fn send(&mut self, id: StreamId, packet: DevicePacket) -> Result<(), NotSent> {
        let max = self.transport.peer.as_ref().map_or(0, |peer| peer.hello.packet_bytes_max);
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closing) else {
            return Err(NotSent { error: SendError::NoStream, packet });
        };
        let taken = [Some(&packet.packet), packet.replay_as.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(|packet| check(packet, max))
            .and_then(|()| stream.take_room(&self.transport.settings));
        if let Err(error) = taken {
            return Err(NotSent { error, packet });
        }
        stream.kept.push(Item::packet(packet));
        stream.enter_turn(id, &mut self.turn);
        Ok(())
    }

    /// Sends a renewed passport.
    ///
    /// # Errors
    /// It was not sent: it is longer than both ends allow, or the stream is over.
    pub fn renew(&mut self, id: StreamId, token: Bytes) -> Result<(), SendError> {
        let max = self.transport.settings.limits.passport_bytes_max;
        if !self.streams.contains_key(&id) {
            return Err(SendError::NoStream);
        }
        if token.len() > max as usize {
            return Err(SendError::TooLarge { max });
        }
        self.transport.put(id, &Frame::Passport { token });
        Ok(())
    }

    /// The device's connection ended. The stream goes on until that is durable ([`EdgeEvent::Finished`]), through other
    /// workers if need be; its packets are no longer handed out.
    pub fn close(&mut self, id: StreamId, cause: CloseCause) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_closing) {
            stream.is_closing = true;
            stream.kept.push(Item::Close(cause));
            stream.enter_turn(id, &mut self.turn);
            self.events.retain(|event| !matches!(event, EdgeEvent::Packet { stream, .. } if *stream == id));
            self.give_back(id, u32::MAX);
        }
    }

    /// The device has taken packets that cost so much. Of a stream that was closed everything counts as taken.
    pub fn give_back(&mut self, id: StreamId, cost: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.grant.give_back(cost)
        {
            self.given_back.push(id);
        }
    }

    /// Whether the worker has the session, everything that was sent on the stream is durable or answered, and the device is to
    /// get no retained messages any more.
    pub fn is_idle(&self, id: StreamId) -> bool {
        let is_idle = |stream: &EdgeStream| {
            stream.is_open && !stream.is_closing && stream.kept.is_empty() && !stream.kept.has_retained_due()
        };
        self.streams.get(&id).is_some_and(is_idle)
    }

    /// Gives up one stream, to open it elsewhere. Whatever the worker still sends on it is dropped; no event of it follows.
    /// `None` when the stream is over; an event says how.
    pub fn give_up(&mut self, id: StreamId) -> Option<Unfinished> {
        let stream = self.streams.remove(&id)?;
        self.transport.put(id, &Frame::Close { number: 0, ending: Ending::Moved });
        Some(self.unfinished(id, stream))
    }

    /// Ends the link and gives up all its streams, in the order in which they were opened. Events of streams that were over
    /// before are still to be had.
    pub fn abandon(&mut self) -> Vec<Unfinished> {
        self.transport.is_over = true;
        self.turn.clear();
        let mut streams: Vec<_> = self.streams.drain().collect();
        streams.sort_unstable_by_key(|(id, _)| *id);
        streams.into_iter().map(|(id, stream)| self.unfinished(id, stream)).collect()
    }

    /// Asks for a sign of life when it is time.
    ///
    /// # Errors
    /// The worker was silent for too long; the link is over.
    pub fn tick(&mut self, now: Duration) -> Result<(), LinkError> {
        self.transport.tick(now)
    }

    /// When [`EdgeEnd::tick`] has something to do at the earliest.
    pub fn wake_at(&self) -> Duration {
        self.transport.wake_at()
    }

    /// What happened, in order. To be called after writing too.
    pub fn poll_event(&mut self) -> Option<EdgeEvent> {
        self.events.pop_front()
    }

    /// What is to be written, after adding what windows and bounds allow now. To be called again when some was written.
    pub fn outgoing(&mut self) -> &mut Outgoing {
        while !self.transport.is_full()
            && let Some(id) = self.turn.pop_front()
        {
            self.send_one(id);
        }
        for id in std::mem::take(&mut self.given_back) {
            let due = self.streams.get_mut(&id).and_then(|stream| stream.grant.take_due());
            if let Some(credit_bytes) = due {
                self.transport.put(id, &Frame::Window { credit_bytes });
            }
        }
        &mut self.transport.out
    }

    /// Whether few identifiers are left: it is time for another link. This one goes on with the streams that it has.
    pub fn is_worn(&self) -> bool {
        let max = self.transport.settings.streams_max;
        self.next.is_none_or(|next| next > max - max / WORN_PART)
    }

    /// Streams that are open or asked for.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Frames that came for streams that were given up.
    pub fn dropped_frames(&self) -> u64 {
        self.dropped
    }

    fn send_one(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.is_in_turn = false;
        if !stream.may_send() {
            return;
        }
        let number = stream.sent + 1;
        match stream.kept.next() {
            Some(Item::Packet(DevicePacket { packet, .. }, _)) => {
                stream.credit.spend(packet_cost(packet.len()));
                self.transport.put_packet(id, number, packet);
            }
            Some(Item::Close(cause)) => {
                self.transport.put(id, &Frame::Close { number, ending: Ending::Device(*cause) });
            }
            None => return,
        }
        stream.sent = number;
        stream.kept.sent(number);
        stream.enter_turn(id, &mut self.turn);
        stream.announce_room(id, &self.transport.settings, &mut self.events);
    }

    /// Takes the events of `stream` back: what they had for the device goes along, unless it does not even know that it is
    /// connected.
    fn unfinished(&mut self, id: StreamId, stream: EdgeStream) -> Unfinished {
        let mut is_open = stream.is_open;
        let mut packets = Vec::new();
        self.events.retain_mut(|event| {
            if event.stream() != Some(id) {
                return true;
            }
            match event {
                EdgeEvent::Opened { .. } => is_open = false,
                EdgeEvent::Packet { packet, .. } => packets.push(packet.clone()),
                _ => {}
            }
            false
        });
        let is_open = is_open || stream.is_resume;
        if !is_open {
            packets.clear();
        }
        Unfinished { stream: id, is_open, replay: stream.kept.into_replay(), packets }
    }
}

impl EdgeEvent {
    /// The stream that it is about.
    pub fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Ready(_) | Self::Draining { .. } | Self::Store { .. } => None,
            Self::Opened { stream, .. }
            | Self::Refused { stream, .. }
            | Self::Packet { stream, .. }
            | Self::Sendable { stream }
            | Self::Finished { stream }
            | Self::Yield { stream }
            | Self::Closed { stream, .. } => Some(*stream),
        }
    }
}

/// Counts a numbered frame that came.
pub(super) fn follow(received: &mut u64, found: u64, stream: StreamId) -> Result<(), LinkError> {
    let expected = *received + 1;
    if found != expected {
        return Err(LinkError::NumberGap { stream, expected, found });
    }
    *received = found;
    Ok(())
}
