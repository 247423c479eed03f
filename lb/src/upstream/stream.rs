//! A device's conversation with whichever worker has its session, as its relay sees it.

use std::sync::Arc;
use std::task::{Context, Poll};

use link::{CloseCause, Event, Outgoing, Passport, Stream};
use mqtt::{Frame, ReasonCode};

use super::device::{Device, Ended};

/// Credit is given back in portions of this, bytes: a quarter of the window, so that a few packets do not cost a lock each.
const CREDIT_BYTES: u32 = link::mux::WINDOW_BYTES / 4;

/// The stream of a relay. Dropped, it is closed.
pub struct WorkerStream {
    pub(super) device: Arc<Device>,
    /// Of the window, taken by the device and not given back.
    owed: u32,
}

impl WorkerStream {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self { device, owed: 0 }
    }
}

impl Stream for WorkerStream {
    fn send(&mut self, packet: Frame<'_>, out: &mut Outgoing) -> Result<(), ReasonCode> {
        self.device.send(packet, out)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.device.has_room() {
            return Poll::Ready(());
        }
        self.device.mail.lock().register(cx);
        // There may be room since the first look.
        if self.device.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, budget: usize) -> Poll<Event> {
        let mut mail = self.device.mail.lock();
        if out.len() < budget {
            if let Some(cost) = mail.take(out) {
                drop(mail);
                self.owed = self.owed.saturating_add(cost);
                if self.owed >= CREDIT_BYTES {
                    self.device.give_credit(std::mem::take(&mut self.owed));
                }
                return Poll::Ready(Event::Wrote);
            }
            if let Some(end) = mail.take_end() {
                out.put_bytes(end.packet);
                return Poll::Ready(Event::Closed(end.reason));
            }
        }
        if std::mem::take(&mut mail.yields) {
            return Poll::Ready(Event::TakenOver);
        }
        mail.register(cx);
        Poll::Pending
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, out: &mut Outgoing) -> Poll<ReasonCode> {
        let mut mail = self.device.mail.lock();
        if let Some(end) = mail.take_end() {
            out.put_bytes(end.packet);
            return Poll::Ready(end.reason);
        }
        mail.register(cx);
        Poll::Pending
    }

    fn waiting_bytes(&self) -> usize {
        self.device.mail.lock().len()
    }

    fn renew(&mut self, passport: Arc<Passport>) {
        self.device.renew(passport);
    }

    fn close(self, cause: CloseCause) {
        self.device.close(cause, None);
    }

    fn close_then(self, cause: CloseCause, ended: Ended) {
        self.device.close(cause, Some(ended));
    }
}

impl Drop for WorkerStream {
    fn drop(&mut self) {
        // Does nothing after a close.
        self.device.close(CloseCause::Abnormal, None);
    }
}
