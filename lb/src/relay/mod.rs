//! The relay of one connected device: a single hand-written future that frames Control Packets, hands them to the worker,
//! and writes what the worker has for the device. It answers PINGREQ, owns Keep Alive, pushes back, and says how a connection
//! ended; payloads are not parsed.
//!
//! A turn is: read, hand over, take what the worker has, write once. Buffers are the thread's: what a connection owns is the
//! incomplete packet that it sent and the bytes that it did not take.

mod close;
mod enhanced;
mod giving_way;
mod pace;
mod packet;
mod renewal;
mod scratch;
mod tenure;
mod terms;
#[cfg(test)]
mod tests;
mod time;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use authsvc::Authenticator;
use bytes::Bytes;
use link::{Event, Outgoing, Stream};
use mqtt::{FrameBuffer, ProtocolVersion};
use tokio::io::ReadBuf;
use tokio::time::Sleep;

pub(crate) use self::enhanced::Enhanced;
pub(crate) use self::pace::Pace;
use self::scratch::{READ_BYTES, Scratch};
pub(crate) use self::tenure::{Asker, Tenure};
pub(crate) use self::terms::{Terms, asks_for_expiry};
use crate::admission::{Admitted, Opening};
use crate::connections::STEP_BYTES;
use crate::connections::Tenancy;
use crate::io::poll_write_all;
use crate::listener::Listener;
use crate::reason::CloseReason;
use crate::shared::{Phase, Shared};
use crate::transport::Wire;

/// Buffers read in one turn, and about so many packets; then others have theirs. Small packets are many in one buffer, and each of
/// them is work.
const READS_MAX: usize = 2;
const PACKETS_MAX: u32 = 256;

/// Bytes read at once by a connection of which nothing is known, and the fewest.
const READ_BYTES_FIRST: usize = 16 * 1024;
const READ_BYTES_MIN: usize = 2 * 1024;

/// Bytes taken from the worker before a write.
const WRITE_BYTES: usize = 64 * 1024;

/// Writes in one turn; then others have theirs.
const WRITES_MAX: usize = 4;

/// No slot among the wakers yet.
const NO_SLOT: u32 = u32::MAX;

/// What the handshake hands over, socket and session apart.
pub(crate) struct Handover<A: Authenticator> {
    /// The connection's place among `connections_max`.
    pub(crate) admitted: Admitted<Listener>,
    /// Its place among those of its client.
    pub(crate) tenancy: Tenancy,
    /// Of the connection.
    pub(crate) version: ProtocolVersion,
    /// Keep Alive in force, seconds; 0 for none.
    pub(crate) keep_alive_s: u16,
    /// What CONNECT says that counts later.
    pub(crate) terms: Terms,
    /// What the device sent after CONNECT already.
    pub(crate) pipelined: Bytes,
    /// What re-authentication needs, if CONNECT had an Authentication Method.
    pub(crate) enhanced: Option<Box<Enhanced<A>>>,
    /// Of a passport that ends, or whose rules may become others.
    pub(crate) tenure: Option<Box<Tenure<A>>>,
    /// Of a passport that bounds it.
    pub(crate) pace: Option<Box<Pace>>,
    /// Its session's place among those that are asked for.
    pub(crate) opening: Option<Opening>,
}

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The worker's CONNACK. Nothing is looked at before it: answers must follow it. v5 [MQTT-3.2.0-1]
    AwaitingConnAck,
    /// Packets from either side.
    Serving,
    /// That the worker takes what the device had sent. The device is gone.
    Deserted,
    /// That the last bytes leave.
    Flushing,
    /// That the stream is shut down.
    ShuttingDown,
    /// That the peer closes too: closing a socket with unread bytes resets it, and the peer would lose our last words.
    Lingering,
    /// Nothing.
    Ended,
}

impl State {
    fn is_open(self) -> bool {
        matches!(self, Self::AwaitingConnAck | Self::Serving)
    }
}

/// What a device did not take.
struct Leftover {
    out: Outgoing,
    /// How much the device leaves unread, as it was told last.
    told_steps: usize,
}

/// The connection of one device. Ready when it is over.
pub(crate) struct Relay<T, S: Stream, A: Authenticator> {
    io: T,
    /// `None` once closed.
    stream: Option<S>,
    frames: FrameBuffer,
    /// What the device did not take yet.
    leftover: Option<Box<Leftover>>,
    timer: Option<Pin<Box<Sleep>>>,
    enhanced: Option<Box<Enhanced<A>>>,
    tenure: Option<Box<Tenure<A>>>,
    pace: Option<Box<Pace>>,
    /// Until CONNACK.
    opening: Option<Opening>,
    admitted: Admitted<Listener>,
    /// `None` once closed.
    tenancy: Option<Tenancy>,
    /// Received since the last addition to the metrics.
    received_bytes: u32,
    received_packets: u32,
    sent_bytes: u32,
    counted_ms: u32,
    /// When the last packet came; Keep Alive counts from here.
    received_ms: u32,
    /// When bytes last left; the write timeout counts from here.
    written_ms: u32,
    /// When the timer fires, if there is one.
    armed_ms: u32,
    /// When a closing connection is dropped.
    abandon_ms: u32,
    /// One and a half times Keep Alive; 0 for none.
    silence_ms_max: u32,
    slot: u32,
    version: ProtocolVersion,
    state: State,
    /// Nothing is read: the worker or the device does not take more.
    is_paused: bool,
    /// Another connection has the session: what has come is handed over, then this one ends.
    is_taken_over: bool,
    /// Others have had their turn since the worker had something.
    is_deferred: bool,
    /// Written bytes may still be inside the stream.
    is_unflushed: bool,
    /// Whole packets may wait in `frames`: they came with CONNECT, or behind one that the worker did not take yet.
    has_whole: bool,
    terms: Terms,
}

impl<T, S, A> Relay<T, S, A>
where
    T: Wire,
    S: Stream,
    A: Authenticator,
{
    /// A relay between a device and its session; to be spawned on the runtime that `io` is registered with.
    pub(crate) fn new(io: T, stream: S, handover: Handover<A>) -> Self {
        let Handover {
            admitted,
            tenancy,
            version,
            keep_alive_s,
            terms,
            pipelined,
            enhanced,
            tenure,
            pace,
            opening,
        } = handover;
        let now = admitted.shared().now_ms();
        admitted.door().connected.inc();
        let mut frames = FrameBuffer::new();
        drop(frames.frames(&pipelined, admitted.shared().config.packet_bytes_max));
        Self {
            io,
            stream: Some(stream),
            leftover: None,
            timer: None,
            enhanced,
            tenure,
            pace,
            opening,
            received_bytes: pipelined.len() as u32,
            received_packets: 0,
            sent_bytes: 0,
            counted_ms: now,
            received_ms: now,
            written_ms: now,
            armed_ms: now,
            abandon_ms: now,
            silence_ms_max: u32::from(keep_alive_s) * 1_500,
            slot: NO_SLOT,
            version,
            state: State::AwaitingConnAck,
            is_paused: false,
            is_taken_over: false,
            is_deferred: false,
            is_unflushed: false,
            has_whole: !pipelined.is_empty(),
            terms,
            frames,
            admitted,
            tenancy: Some(tenancy),
        }
    }

    fn shared(&self) -> &Shared {
        self.admitted.shared()
    }

    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<()> {
        if self.slot == NO_SLOT {
            self.slot = self.shared().relays.insert(cx.waker().clone());
            if let Some(tenancy) = &self.tenancy {
                tenancy.settle(self.slot);
            }
            self.tell_held();
        }
        if let Some(stream) = &mut self.stream {
            stream.begin_turn();
        }
        let now = self.shared().now_ms();
        if self.state.is_open()
            && let Some(reason) = self.tenancy.as_ref().and_then(Tenancy::revoked)
        {
            self.close(CloseReason::Revoked(reason), &mut scratch.out, now);
        }
        if self.has_told_unsent()
            && self.state.is_open()
            && self.shared().relays.unread.is_condemned(self.slot)
        {
            self.shared().metrics.limited.count(("memory_max_bytes",));
            self.close(CloseReason::OutOfMemory, &mut scratch.out, now);
        }
        if self.is_to_make_room() {
            self.close(CloseReason::ReceiveBufferFull, &mut scratch.out, now);
        }
        if self.state.is_open() {
            match self.shared().phase() {
                Phase::Draining if self.shared().relays.is_dismissed(self.slot) => self.go(cx, scratch, now),
                Phase::Serving | Phase::Draining => self.serve(cx, scratch, now),
                Phase::Aborting => self.close(CloseReason::Shutdown, &mut scratch.out, now),
            }
        }
        if self.shared().phase() == Phase::Aborting {
            self.state = State::Ended;
        }
        if self.state == State::Deserted && self.poll_deserted(cx, scratch, now).is_pending() {
            return Poll::Pending;
        }
        if !self.state.is_open() {
            if self.state != State::Ended {
                self.poll_close(cx, scratch, now);
            }
            if self.state == State::Ended {
                // What could not be sent belongs to nobody else.
                scratch.out = Outgoing::new();
                self.count(now, true);
                return Poll::Ready(());
            }
        }
        self.count(now, false);
        self.arm(cx, now);
        Poll::Pending
    }

    /// Ends a connection that has to go. Where another process has the sockets, nobody is left without an answer to CONNECT.
    fn go(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: u32) {
        if self.state == State::AwaitingConnAck && self.shared().is_succeeded() {
            self.serve(cx, scratch, now);
            if self.state != State::Serving {
                return;
            }
        }
        self.close(CloseReason::Shutdown, &mut scratch.out, now);
    }

    fn serve(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: u32) {
        let Scratch { input, out } = scratch;
        if self.state == State::AwaitingConnAck {
            self.receive(cx, out, now);
        }
        if self.state == State::AwaitingConnAck {
            self.read_ahead(cx, input, out, now);
        }
        if self.state == State::Serving && self.is_to_give_way() {
            self.give_way(cx, input, out, now);
        }
        if self.state == State::Serving {
            let has_read = self.read(cx, input, out, now);
            if !has_read
                && out.is_empty()
                && !self.is_unsent()
                && !std::mem::replace(&mut self.is_deferred, true)
            {
                // Woken by a publisher, probably the first of many whose turn comes in this round: they go first, so that
                // one write carries what all of them have for this device.
                cx.waker().wake_by_ref();
                return;
            }
            self.is_deferred = false;
            self.re_authenticate(cx, out, now);
            self.check_tenure(cx, out, now);
            self.check_silence(out, now);
        }
        for writes in 1..=WRITES_MAX {
            // A device that has taken what it was left with gets more in the same turn: the worker was not asked while
            // it had not, so nothing else would wake the task.
            let was_unsent = self.is_unsent();
            let may_have_more = was_unsent || self.receive_in_turn(cx, out, now);
            self.write(cx, out, now);
            if !may_have_more || self.is_unsent() || !self.state.is_open() {
                break;
            }
            if writes == WRITES_MAX {
                cx.waker().wake_by_ref();
            }
        }
        if self.is_unsent() || self.is_sent_held() {
            self.look_for_end(cx, out, now);
            // More may have come to the edge for it.
            self.tell_unsent();
        }
        if self.state == State::Serving && self.is_taken_over {
            self.give_way(cx, input, out, now);
        }
        if self.is_paused && self.state == State::Serving && self.can_read(cx, out, now) {
            // What this turn took or wrote made room, so that nothing else would wake the task to read on.
            cx.waker().wake_by_ref();
        }
        self.check_opening(out, now);
        self.check_write_timeout(now);
    }

    /// Reads what has come, and hands it to the worker. Whether there was anything, or the connection ended.
    fn read(&mut self, cx: &mut Context<'_>, input: &mut [u8], out: &mut Outgoing, now: u32) -> bool {
        let before = self.received_packets;
        for reads in 0..READS_MAX {
            if self.received_packets - before >= PACKETS_MAX {
                break;
            }
            if !self.may_read(cx, out, now) {
                return reads > 0;
            }
            if std::mem::take(&mut self.has_whole) {
                self.handle(&[], out, now);
                if self.state != State::Serving || self.has_whole {
                    return true;
                }
            }
            let bytes = self.read_bytes();
            let mut buffer = ReadBuf::new(&mut input[..bytes]);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return reads > 0,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.handle(buffer.filled(), out, now);
                }
                // TLS and WebSocket want their end answered.
                Poll::Ready(Ok(())) => self.close(CloseReason::ConnectionClosed, out, now),
                Poll::Ready(Err(_)) => self.close(CloseReason::ConnectionLost, out, now),
            }
            if self.state != State::Serving || self.has_whole {
                return true;
            }
        }
        cx.waker().wake_by_ref();
        true
    }

    /// Bytes to be read at once: by the packets of late, so many that they make no long turn.
    fn read_bytes(&self) -> usize {
        match self.received_packets {
            // Part of a large one has come.
            0 if self.received_bytes > 0 => READ_BYTES,
            0 => READ_BYTES_FIRST,
            packets => {
                let bytes = u64::from(self.received_bytes) * u64::from(PACKETS_MAX) / u64::from(packets);
                usize::try_from(bytes).unwrap_or(READ_BYTES).clamp(READ_BYTES_MIN, READ_BYTES)
            }
        }
    }

    /// Whether the device may send more now.
    fn may_read(&mut self, cx: &mut Context<'_>, out: &Outgoing, now: u32) -> bool {
        let can_read = self.can_read(cx, out, now);
        if can_read && self.is_paused {
            // Keep Alive stood still.
            self.received_ms = now;
        }
        self.is_paused = !can_read;
        can_read
    }

    /// Not while the worker is full, nor while the device leaves our answers unread, nor while it is held back.
    fn can_read(&mut self, cx: &mut Context<'_>, out: &Outgoing, now: u32) -> bool {
        let unsent = out.len() + self.leftover.as_ref().map_or(0, |leftover| leftover.out.len());
        unsent <= self.shared().config.outgoing_bytes_max
            && self.pace.as_ref().is_none_or(|pace| pace.may_read(now))
            && self.stream.as_mut().is_some_and(|stream| stream.poll_ready(cx).is_ready())
    }

    /// Takes what the worker has for the device. Whether it may have more. Not to be called while the device leaves bytes
    /// unread: then the session queues, by its own bounds and policy.
    fn receive(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, now: u32) -> bool {
        self.receive_up_to(WRITE_BYTES, cx, out, now)
    }

    /// The same until `out` holds so many bytes.
    fn receive_up_to(&mut self, budget: usize, cx: &mut Context<'_>, out: &mut Outgoing, now: u32) -> bool {
        while out.len() < budget {
            let Some(stream) = &mut self.stream else { return false };
            let used = out.len();
            match stream.poll_recv(cx, out, budget) {
                Poll::Pending => return false,
                Poll::Ready(Event::Wrote) if self.state == State::AwaitingConnAck => {
                    self.state = State::Serving;
                    self.received_ms = now;
                    if let Some(opening) = self.opening.take() {
                        opening.answered();
                    }
                }
                Poll::Ready(Event::Wrote) if out.len() == used => break,
                Poll::Ready(Event::Wrote) => {}
                Poll::Ready(Event::TakenOver) => self.is_taken_over = true,
                Poll::Ready(Event::Closed(reason)) => {
                    self.close(CloseReason::Worker(reason), out, now);
                    return false;
                }
            }
        }
        true
    }

    /// Sees that the worker ends the session of a device that leaves bytes unread, so that a takeover need not wait for
    /// the write timeout.
    fn look_for_end(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, now: u32) {
        let Some(stream) = &mut self.stream else { return };
        if let Poll::Ready(reason) = stream.poll_end(cx, out) {
            self.close(CloseReason::Worker(reason), out, now);
        } else if stream.poll_recv(cx, out, 0) == Poll::Ready(Event::TakenOver) {
            self.is_taken_over = true;
        }
    }

    /// Whether the device has not taken all that was meant for it.
    fn is_unsent(&self) -> bool {
        self.leftover.is_some() || self.is_unflushed
    }

    /// Writes what waits and `out`, in this order, and keeps what the device does not take.
    fn write(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, now: u32) {
        let was_unsent = self.is_unsent();
        if out.is_empty() && !was_unsent {
            return;
        }
        let mut written = 0;
        let result = if let Some(leftover) = &mut self.leftover {
            leftover.out.append(out);
            poll_write_all(&mut self.io, cx, &mut leftover.out, &mut written)
        } else {
            poll_write_all(&mut self.io, cx, out, &mut written)
        };
        self.sent_bytes = self.sent_bytes.saturating_add(written as u32);
        if written > 0 || !was_unsent {
            self.written_ms = now;
        }
        match result {
            Poll::Ready(Ok(())) => {
                self.forget_leftover();
                self.is_unflushed = false;
            }
            Poll::Ready(Err(_)) => {
                self.close(CloseReason::ConnectionLost, out, now);
            }
            Poll::Pending => {
                self.is_unflushed = true;
                let leftover = self
                    .leftover
                    .get_or_insert_with(|| Box::new(Leftover { out: Outgoing::new(), told_steps: 0 }));
                leftover.out.append(out);
            }
        }
        self.tell_unsent();
    }

    /// Says how much the device leaves unread, if that is another number of steps than it was: of what it was to be sent, and of
    /// what waits behind that in the edge.
    fn tell_unsent(&mut self) {
        let Some(leftover) = &mut self.leftover else { return };
        let behind = self.stream.as_ref().map_or(0, Stream::waiting_bytes);
        let steps = (leftover.out.len() + behind) / STEP_BYTES;
        if steps != leftover.told_steps {
            leftover.told_steps = steps;
            self.shared().relays.unread.note(self.slot, steps * STEP_BYTES);
        }
    }

    /// There is nothing that the device does not take.
    fn forget_leftover(&mut self) {
        if self.has_told_unsent() {
            self.shared().relays.unread.note(self.slot, 0);
        }
        self.leftover = None;
    }
}

impl<T, S: Stream, A: Authenticator> Relay<T, S, A> {
    /// Whether it has said that its device leaves something unread.
    fn has_told_unsent(&self) -> bool {
        self.leftover.as_ref().is_some_and(|leftover| leftover.told_steps > 0)
    }

    /// Says how much of incomplete packets it holds.
    fn tell_held(&self) {
        if self.slot != NO_SLOT {
            self.admitted.shared().hold(self.slot, self.frames.buffered());
        }
    }

    /// Whether others need the room of the incomplete packet that it holds.
    fn is_to_make_room(&self) -> bool {
        self.frames.buffered() > 0 && self.admitted.shared().relays.incomplete.is_condemned(self.slot)
    }
}

impl<T, S, A> Future for Relay<T, S, A>
where
    T: Wire,
    S: Stream,
    A: Authenticator,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        scratch::with(|scratch| this.turn(cx, scratch))
    }
}

impl<T, S: Stream, A: Authenticator> Drop for Relay<T, S, A> {
    fn drop(&mut self) {
        let shared = self.admitted.shared();
        if self.has_told_unsent() {
            shared.relays.unread.note(self.slot, 0);
        }
        if self.slot != NO_SLOT {
            shared.relays.incomplete.hold(self.slot, 0);
            shared.relays.remove(self.slot);
        }
        self.admitted.door().connected.dec();
    }
}
