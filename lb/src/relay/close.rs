//! How a connection ends: last words, then the stream is shut down, then the peer may close first, all within a deadline.

use std::pin::Pin;
use std::task::{Context, Poll};

use authsvc::Authenticator;
use link::{CloseCause, Outgoing, Stream};
use mqtt::{FrameBuffer, ReasonCode};
use tokio::io::ReadBuf;

use super::scratch::Scratch;
use super::{Relay, State};
use crate::connections::Tenancy;
use crate::reason::CloseReason;
use crate::reply;
use crate::telemetry::report::Report;
use crate::transport::Wire;

/// Reads of discarded bytes in one turn; then others have theirs.
const DISCARDS_MAX: usize = 4;

impl CloseReason {
    /// What DISCONNECT tells the device; `None` when it knows, cannot hear, or was told by the worker.
    fn farewell(self) -> Option<ReasonCode> {
        match self {
            Self::OpenTimeout | Self::Worker(_) => None,
            // v5 [MQTT-3.1.4-3], for one
            reason => reason.code(),
        }
    }
}

impl<T, S, A> Relay<T, S, A>
where
    T: Wire,
    S: Stream,
    A: Authenticator,
{
    /// Ends the connection for `reason`, unless it is ending already.
    pub(super) fn close(&mut self, reason: CloseReason, out: &mut Outgoing, now: u32) {
        let is_lost = matches!(reason, CloseReason::ConnectionLost | CloseReason::WriteTimeout);
        if is_lost && self.has_whole && self.state == State::Serving {
            // What came before the end was received, a DISCONNECT perhaps.
            self.state = State::Deserted;
            self.lift_pace(true, now);
            return;
        }
        let Some(stream) = self.stream.take() else {
            // A socket that fails while it is closed is gone; nothing else makes a difference any more.
            if reason == CloseReason::ConnectionLost {
                self.state = State::Ended;
            }
            return;
        };
        self.opening = None;
        let is_shutdown = reason == CloseReason::Shutdown;
        let cause = match self.state {
            State::AwaitingConnAck => CloseCause::Unanswered,
            _ if is_shutdown => CloseCause::Shutdown,
            _ => CloseCause::Abnormal,
        };
        self.tell(reason);
        match self.tenancy.take() {
            Some(tenancy) => stream.close_then(cause, tenancy.into_end()),
            None => stream.close(cause),
        }
        // v5 [MQTT-3.2.0-1]: no DISCONNECT before CONNACK. Earlier versions have no DISCONNECT to the client.
        if let Some(code) = reason.farewell().filter(|_| self.version.is_v5() && self.state == State::Serving)
        {
            match self.shared().direction().filter(|_| is_shutdown && self.terms.takes_reference()) {
                Some(direction) => out.put_slice(&direction.disconnect()),
                None => reply::disconnect(code, out),
            }
        }
        if matches!(reason, CloseReason::Revoked(_)) && cause == CloseCause::Unanswered {
            out.put_slice(&reply::refusal(self.version, ReasonCode::Banned));
        }
        if reason == CloseReason::OpenTimeout {
            out.put_slice(&reply::refusal(self.version, ReasonCode::ServerUnavailable));
        }
        self.enhanced = None;
        self.tenure = None;
        // Nobody takes the rest of a packet any more.
        self.frames = FrameBuffer::new();
        self.tell_held();
        self.abandon_ms = now.wrapping_add(self.shared().config.linger_ms as u32);
        self.state = match reason {
            CloseReason::ConnectionLost | CloseReason::WriteTimeout => State::Ended,
            _ => State::Flushing,
        };
    }

    /// Counts the end, and says who it is whose connection ends.
    fn tell(&self, reason: CloseReason) {
        let listener = self.admitted.door();
        listener.shared.metrics.closes.count((reason.label(),));
        let Some(holder) = self.tenancy.as_ref().map(Tenancy::holder) else { return };
        let (client_id, peer) = (&*holder.client_id, holder.peer);
        tracing::debug!(listener = %listener.name, client_id, %peer, reason = reason.label(), "connection closed");
        let report = Report {
            listener: &listener.name,
            peer,
            client_id: Some(client_id),
            user: Some(&holder.subject),
        };
        listener.shared.reports.ended(&report, reason);
    }

    /// Hands the worker what a device had sent that is gone, as it takes it. Ready when the connection is closed. What the worker
    /// has for the device is for nobody.
    pub(super) fn poll_deserted(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        now: u32,
    ) -> Poll<()> {
        let out = &mut scratch.out;
        while self.state == State::Deserted {
            self.forget_leftover();
            *out = Outgoing::new();
            while self.receive(cx, out, now) {
                *out = Outgoing::new();
            }
            if self.state != State::Deserted {
                break;
            }
            if !self.stream.as_mut().is_some_and(|stream| stream.poll_ready(cx).is_ready()) {
                *out = Outgoing::new();
                return Poll::Pending;
            }
            if std::mem::take(&mut self.has_whole) {
                self.handle(&[], out, now);
            }
            if self.state == State::Deserted && !self.has_whole {
                self.close(CloseReason::ConnectionLost, out, now);
            }
        }
        Poll::Ready(())
    }

    /// Goes as far towards the end as the socket allows.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: u32) {
        if self.state == State::Flushing {
            self.write(cx, &mut scratch.out, now);
            if self.state == State::Flushing && !self.is_unsent() {
                self.state = State::ShuttingDown;
            }
        }
        if self.state == State::ShuttingDown {
            match Pin::new(&mut self.io).poll_shutdown(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.state = State::Lingering,
                Poll::Ready(Err(_)) => self.state = State::Ended,
            }
        }
        if self.state == State::Lingering {
            self.linger(cx, &mut scratch.input);
        }
        if (self.abandon_ms.wrapping_sub(now) as i32) <= 0 {
            self.state = State::Ended;
        }
    }

    fn linger(&mut self, cx: &mut Context<'_>, input: &mut [u8]) {
        for _ in 0..DISCARDS_MAX {
            let mut buffer = ReadBuf::new(input);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => {
                    self.state = State::Ended;
                    return;
                }
            }
        }
        cx.waker().wake_by_ref();
    }
}
