//! What a relay does because of the clock: Keep Alive, the life of the passport, the write timeout, the end of lingering, and
//! counting. One timer serves them all; it is never reset by a packet, but looks again when it fires.

use std::future::Future;
use std::task::Context;

use authsvc::Authenticator;
use link::{Outgoing, Stream};

use super::{Relay, State};
use crate::reason::CloseReason;
use crate::shared::Shared;
use crate::transport::Wire;

/// How long counts may stay in a connection that goes on, milliseconds.
const COUNT_MS: u32 = 1_000;

/// When it is looked again after what is due while the runtime has not heard yet of what the system knows, milliseconds.
const LOOK_AGAIN_MS: u32 = 50;

/// How much a connection counts by itself before it adds to the metrics, bytes.
const COUNT_BYTES: u32 = 1 << 20;

/// Milliseconds from `now` until `since` lies `period` back; 0 if it does.
fn left(since: u32, period: u32, now: u32) -> u32 {
    period.saturating_sub(now.wrapping_sub(since))
}

/// The same for what is not done yet though it is due.
fn left_or_again(since: u32, period: u32, now: u32) -> u32 {
    match left(since, period, now) {
        0 => LOOK_AGAIN_MS,
        left => left,
    }
}

impl<T, S, A> Relay<T, S, A>
where
    T: Wire,
    S: Stream,
    A: Authenticator,
{
    /// Refuses a device whose session the worker has not opened in time: it has probably given up, which cannot be seen
    /// while nothing is read.
    pub(super) fn check_opening(&mut self, out: &mut Outgoing, now: u32) {
        if self.state == State::AwaitingConnAck && left(self.received_ms, self.open_timeout_ms(), now) == 0 {
            self.close(CloseReason::OpenTimeout, out, now);
        }
    }

    fn open_timeout_ms(&self) -> u32 {
        self.shared().config.open_timeout_ms
    }

    // After a stop of the process or the machine timers fire before the runtime has heard of all sockets, as it takes a bounded
    // number of events at once. A device that has sent something by then was not silent. v5 [MQTT-3.1.2-22]
    pub(super) fn check_silence(&mut self, out: &mut Outgoing, now: u32) {
        let is_watched = self.silence_ms_max > 0 && !self.is_paused && self.state == State::Serving;
        let is_due = is_watched && left(self.received_ms, self.silence_ms_max, now) == 0;
        if is_due && !self.io.has_unread() {
            self.close(CloseReason::KeepAliveTimeout, out, now);
        }
    }

    pub(super) fn check_write_timeout(&mut self, now: u32) {
        let is_watched = self.state.is_open() && self.is_unsent();
        let is_due = is_watched && left(self.written_ms, self.write_timeout_ms(), now) == 0;
        // As with silence: it may have read meanwhile.
        if is_due && !self.io.has_room() {
            // It does not read: there is nobody to tell.
            self.close(CloseReason::WriteTimeout, &mut Outgoing::new(), now);
        }
    }

    fn write_timeout_ms(&self) -> u32 {
        u32::from(self.shared().config.write_timeout_s) * 1_000
    }

    /// Sees to it that the timer fires no later than the next thing that is due.
    pub(super) fn arm(&mut self, cx: &mut Context<'_>, now: u32) {
        let mut due = u32::MAX;
        if !self.state.is_open() {
            due = self.abandon_ms.wrapping_sub(now);
        } else {
            if self.state == State::AwaitingConnAck {
                due = left(self.received_ms, self.open_timeout_ms(), now);
            } else if self.silence_ms_max > 0 && !self.is_paused {
                due = left_or_again(self.received_ms, self.silence_ms_max, now);
            }
            if self.state == State::Serving
                && let Some(tenure) = &self.tenure
            {
                due = due.min((tenure.look_ms.wrapping_sub(now) as i32).max(0) as u32);
            }
            if self.state == State::Serving
                && let Some(at) = self.pace.as_ref().and_then(|pace| pace.due_ms(now))
            {
                due = due.min(at);
            }
            if self.is_unsent() {
                due = due.min(left_or_again(self.written_ms, self.write_timeout_ms(), now));
            }
        }
        if due == u32::MAX {
            return;
        }
        let wanted_ms = now.wrapping_add(due);
        let is_armed = self.timer.is_some() && (self.armed_ms.wrapping_sub(now) as i32) > 0;
        if is_armed && (wanted_ms.wrapping_sub(self.armed_ms) as i32) >= 0 {
            return;
        }
        let at = Shared::instant_in(due);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        timer.as_mut().reset(at);
        self.armed_ms = wanted_ms;
        // Registers the task, whose waker stays the same; later turns read the clock only.
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Adds to the metrics what was counted, if it is much or old enough, or the last.
    pub(super) fn count(&mut self, now: u32, is_last: bool) {
        let much = self.received_bytes.max(self.sent_bytes) >= COUNT_BYTES;
        if !much && !is_last && now.wrapping_sub(self.counted_ms) < COUNT_MS {
            return;
        }
        self.counted_ms = now;
        let metrics = &self.admitted.shared().metrics;
        if self.received_bytes > 0 {
            metrics.received_bytes.inc_by(self.received_bytes.into());
            metrics.received_packets.inc_by(self.received_packets.into());
        }
        if self.sent_bytes > 0 {
            metrics.sent_bytes.inc_by(self.sent_bytes.into());
        }
        self.received_bytes = 0;
        self.received_packets = 0;
        self.sent_bytes = 0;
    }
}
