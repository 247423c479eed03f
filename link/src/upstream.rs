//! What the edge asks of a worker, whether it runs in the same process (calls, no socket) or behind a link.

use std::any::Any;
use std::sync::Arc;
use std::task::{Context, Poll};

use mqtt::ReasonCode;

use crate::{Open, Outgoing, Passport};

/// How a device's connection ended, as only the edge knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The socket closed, failed or timed out, or the device sent something unacceptable; the Will is due. A DISCONNECT
    /// packet is relayed before, so that its Reason Code decides about the Will.
    Abnormal,
    /// The device went, or was refused, before it had its CONNACK: as abnormal, but no Will is due.
    Unanswered,
    /// The edge is shutting down and the device will come back: as abnormal, but nothing is its fault.
    Shutdown,
}

/// What [`Stream::poll_recv`] has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes were appended; call again when they are written.
    Wrote,
    /// Another connection has the session: what the device has sent already is to be handed over, then the stream is to be
    /// closed, and the device told.
    TakenOver,
    /// The worker ends the connection: write what waits, then close. The reason is for logs and metrics; the packet that
    /// tells the device is among the bytes already.
    Closed(ReasonCode),
}

/// A worker, as the edge sees it.
pub trait Upstream: Clone + Send + Sync + 'static {
    /// One device's conversation with the worker.
    type Stream: Stream;

    /// Opens the session of a device. Never blocks; CONNACK comes through the stream.
    fn open(&self, open: Open) -> Self::Stream;
}

/// One device's conversation with a worker. Dropping it without [`Stream::close`] is an abnormal close.
pub trait Stream: Send + Unpin + 'static {
    /// A turn of the device begins: time may have passed, however long its process stood still. To be called before anything else of
    /// the turn.
    fn begin_turn(&mut self) {}

    /// Hands over one whole Control Packet (never CONNECT, PINGREQ or AUTH: those are the edge's). What can be answered
    /// at once is appended to `out`.
    ///
    /// # Errors
    /// The Reason Code with which the connection ends; a packet that tells the device is in `out` where the protocol has
    /// one.
    fn send(&mut self, packet: mqtt::frame::Frame<'_>, out: &mut Outgoing) -> Result<(), ReasonCode>;

    /// Whether it takes a packet of this type now. One that it does not take is kept back, with all that follows it, until
    /// [`Stream::poll_ready`] says that there is room, and is asked about again: what came before it has to be done first. To be
    /// asked before each packet.
    fn takes(&mut self, _packet: mqtt::PacketType) -> bool {
        true
    }

    /// Whether packets are to be shown whole to [`Stream::clears`] before they are handed over.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// As [`Stream::takes`], for one whole packet: what it says may have to be asked about first.
    fn clears(&mut self, _packet: mqtt::frame::Frame<'_>) -> bool {
        true
    }

    /// Whether it takes more packets now. While it is pending the edge stops reading from the device, so that TCP pushes
    /// back; the task is woken when that changes.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Appends what is ready for the device until `out`, with what was in it before, holds about `budget` bytes, and
    /// registers the task for more. Nothing is appended to an `out` that holds as much already.
    fn poll_recv(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, budget: usize) -> Poll<Event>;

    /// Looks whether the worker ends the conversation, while the device leaves bytes unread so that nothing is taken by
    /// [`Stream::poll_recv`]. Appends no more than the packet that tells the device, and otherwise registers the task
    /// for the end. A worker that does not say lets it be found by the next `poll_recv`.
    fn poll_end(&mut self, _cx: &mut Context<'_>, _out: &mut Outgoing) -> Poll<ReasonCode> {
        Poll::Pending
    }

    /// Bytes that wait in the edge itself for the device, which does not take them; so far as nobody else counts them.
    fn waiting_bytes(&self) -> usize {
        0
    }

    /// Replaces the passport after re-authentication.
    fn renew(&mut self, passport: Arc<Passport>);

    /// Ends the conversation.
    fn close(self, cause: CloseCause);

    /// As [`Stream::close`]; `ended` is dropped when the worker knows of it and of all that was sent before, or never will.
    fn close_then(self, cause: CloseCause, ended: Box<dyn Any + Send + Sync>)
    where
        Self: Sized,
    {
        self.close(cause);
        drop(ended);
    }
}
