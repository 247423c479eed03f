//! What has come from a worker for one device and was not taken by its relay yet, and what the edge has to remember of it. The
//! lock of a mail is the innermost: nothing else is locked under it.

use std::task::{Context, Waker};

use bytes::Bytes;
use link::Outgoing;
use link::mux::OpenFlows;
use mqtt::{OwnedFrame, ReasonCode};

/// For one device.
#[derive(Default)]
pub(super) struct Mail {
    /// For the device, in order.
    out: Outgoing,
    /// What that cost of the window of the present stream.
    cost: u32,
    /// The CONNACK that the device got, or will get before anything else.
    pub(super) connack: Option<Bytes>,
    /// How its worker ended the connection.
    end: Option<End>,
    /// Another connection has the session, and its worker waits for the device's last words.
    pub(super) yields: bool,
    /// The device is gone: nobody takes anything.
    is_closed: bool,
    waker: Option<Waker>,
}

/// The last of a connection.
pub(super) struct End {
    pub(super) reason: ReasonCode,
    /// For the device; empty for none.
    pub(super) packet: Bytes,
}

impl Mail {
    /// A packet from the worker, followed among the open flows. Whether somebody may take it.
    pub(super) fn put(&mut self, packet: OwnedFrame, cost: u32, flows: &mut OpenFlows) -> bool {
        if self.is_closed {
            return false;
        }
        flows.pass_to_device(packet.as_frame());
        self.out.put_bytes(packet.raw);
        self.cost = self.cost.saturating_add(cost);
        true
    }

    /// The CONNACK.
    pub(super) fn put_connack(&mut self, connack: &Bytes) {
        // A copy: what came shares a large buffer.
        let connack = Bytes::copy_from_slice(connack);
        self.out.put_slice(&connack);
        self.connack = Some(connack);
    }

    /// The worker, or the edge in its place, ends the connection.
    pub(super) fn end(&mut self, reason: ReasonCode, packet: &Bytes) {
        let packet = Bytes::copy_from_slice(packet);
        self.end.get_or_insert(End { reason, packet });
    }

    /// Moves what there is behind what is in `out`; its cost. `None` when there is nothing.
    pub(super) fn take(&mut self, out: &mut Outgoing) -> Option<u32> {
        if self.out.is_empty() {
            return None;
        }
        out.append(&mut self.out);
        self.out.shrink();
        Some(std::mem::take(&mut self.cost))
    }

    /// Whether the device is connected, and has read all that came.
    pub(super) fn is_settled(&self) -> bool {
        self.connack.is_some() && self.out.is_empty()
    }

    /// What waits for the device, bytes.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing waits for the device.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The end, once everything before it was taken or does not matter.
    pub(super) fn take_end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// The stream that it came on is over, and with it its window. What has come belongs to the device all the same.
    pub(super) fn forget_cost(&mut self) {
        self.cost = 0;
    }

    /// Nobody takes anything any more.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.out = Outgoing::new();
        self.waker = None;
    }

    /// Has the task woken when there is something.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// To be woken once no lock is held.
    pub(super) fn waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }
}
