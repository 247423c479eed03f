//! What a relay does for the next connection of its client: hands over what its socket has received, and lets go of a CONNECT that
//! has no answer. And what it does before it has its CONNACK: it sees that the device goes.

use std::pin::Pin;
use std::task::{Context, Poll};

use authsvc::Authenticator;
use link::{Outgoing, Stream};
use tokio::io::ReadBuf;

use super::{Relay, State};
use crate::connections::Tenancy;
use crate::reason::CloseReason;
use crate::transport::Wire;

/// Buffers read for the next connection; more is not waited for.
const READS_MAX: usize = 32;

/// Bytes taken from the socket before CONNACK.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

impl<T, S, A> Relay<T, S, A>
where
    T: Wire,
    S: Stream,
    A: Authenticator,
{
    /// Hands over what the socket has received by now. To be called when the worker may take something.
    pub(super) fn give_way(&mut self, cx: &mut Context<'_>, input: &mut [u8], out: &mut Outgoing, now: u32) {
        // The next one is not to wait for who is held back; it waits itself for what went too fast.
        self.lift_pace(true, now);
        self.hand_over(cx, input, out, now);
        if self.state == State::Serving {
            self.lift_pace(false, now);
        }
    }

    fn hand_over(&mut self, cx: &mut Context<'_>, input: &mut [u8], out: &mut Outgoing, now: u32) {
        for _ in 0..READS_MAX {
            if !self.stream.as_mut().is_some_and(|stream| stream.poll_ready(cx).is_ready()) {
                return;
            }
            if std::mem::take(&mut self.has_whole) {
                self.handle(&[], out, now);
            }
            if self.state != State::Serving || self.has_whole {
                return;
            }
            let mut buffer = ReadBuf::new(input);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                // The runtime will hear of it.
                Poll::Pending if self.io.has_unread() => return,
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.handle(buffer.filled(), out, now),
                Poll::Ready(Ok(())) => self.close(CloseReason::ConnectionClosed, out, now),
                Poll::Ready(Err(_)) => self.close(CloseReason::ConnectionLost, out, now),
            }
            if self.state != State::Serving {
                return;
            }
        }
        if self.is_taken_over {
            return self.close(CloseReason::TakenOver, out, now);
        }
        if let Some(tenancy) = &self.tenancy {
            if let Some(pace) = &self.pace {
                tenancy.owe_until(pace.owes_until_ms(now));
            }
            tenancy.has_read_out();
        }
    }

    /// Whether another connection, here or elsewhere, waits for what the socket has received.
    pub(super) fn is_to_give_way(&self) -> bool {
        self.is_taken_over || self.tenancy.as_ref().is_some_and(Tenancy::is_asked)
    }

    /// Reads what comes before CONNACK, without looking at it, so that the end of the connection is seen: a CONNECT whose device
    /// has gone is to have no effect. When more than CONNECT has come, that is to have its own, and waits.
    pub(super) fn read_ahead(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut [u8],
        out: &mut Outgoing,
        now: u32,
    ) {
        if self.tenancy.as_ref().is_some_and(Tenancy::is_dismissed) {
            return self.close(CloseReason::OpenTimeout, out, now);
        }
        while self.frames.buffered() < AHEAD_BYTES_MAX {
            let mut buffer = ReadBuf::new(input);
            let is_over = match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return,
                Poll::Ready(read) => read.is_err() || buffer.filled().is_empty(),
            };
            if is_over {
                if !self.has_whole {
                    self.close(CloseReason::ConnectionClosed, out, now);
                }
                return;
            }
            let max = self.admitted.shared().config.packet_bytes_max;
            drop(self.frames.frames(buffer.filled(), max));
            self.has_whole = true;
            self.received_bytes += buffer.filled().len() as u32;
            self.tell_held();
        }
    }
}
