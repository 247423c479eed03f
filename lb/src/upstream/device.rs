//! One device's connection on its way through workers. Its relay, the drivers of links and the mover share it. Locks are taken
//! in this order: the route of a device, a link, a mail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::{Bytes, BytesMut};
use link::mux::{Replay, SendError, Unfinished};
use link::wire::{Open, RefuseReason, StreamId};
use link::{CloseCause, Outgoing, Passport, TokenError};
use mqtt::{
    ConnAck, Disconnect, Frame, Packet, PacketType, Property, PropertyId, ProtocolVersion, ReasonCode,
    Receiver,
};
use parking_lot::Mutex;
use tokio::time::Duration;

use super::Shared;
use super::link::Link;
use super::mail::Mail;
use super::metrics::{MoveOutcome, MoveReason};
use super::route::{Ended, Route, Waiting};
use super::worker::Worker;

/// One connection.
pub(super) struct Device {
    pub(super) shared: Arc<Shared>,
    pub(super) client_id: Arc<str>,
    version: ProtocolVersion,
    /// Topic Aliases that CONNACK allows.
    alias_max: AtomicU16,
    pub(super) route: Mutex<Route>,
    pub(super) mail: Mutex<Mail>,
}

impl Device {
    pub(super) fn new(
        shared: Arc<Shared>,
        client_id: Arc<str>,
        version: ProtocolVersion,
        open: Box<Open>,
        passport: Arc<Passport>,
    ) -> Self {
        Self {
            shared,
            client_id,
            version,
            alias_max: AtomicU16::new(0),
            route: Mutex::new(Route::new(open, passport)),
            mail: Mutex::default(),
        }
    }

    /// Notes what CONNACK allows, before the device can have it.
    pub(super) fn learn_connack(&self, connack: &[u8]) {
        let Ok(Some(frame)) = mqtt::frame::split(connack, u32::MAX) else { return };
        if let Ok(Packet::ConnAck(connack)) = Packet::decode(self.version, Receiver::Client, frame)
            && let Some(Property::TopicAliasMaximum(max)) =
                connack.properties.find(PropertyId::TopicAliasMaximum)
        {
            self.alias_max.store(max, Ordering::Release);
        }
    }

    /// Whether the device has its CONNACK, or has it waiting: then the session is resumed and not opened anew.
    pub(super) fn is_connected(&self) -> bool {
        self.mail.lock().connack.is_some()
    }

    /// Has the mover take it away from `worker`, if it is there and that is cheap.
    pub(super) fn mark_excess(&self, worker: &Arc<Worker>) -> bool {
        let mut route = self.route.lock();
        route.is_excess = route.may_leave(worker, self);
        route.is_excess
    }

    /// Whether [`Device::mark_excess`] would mark it.
    pub(super) fn may_leave(&self, worker: &Arc<Worker>) -> bool {
        self.route.lock().may_leave(worker, self)
    }

    pub(super) fn wake(&self) {
        let waker = self.mail.lock().waker();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A packet of the device.
    ///
    /// # Errors
    /// The connection ends with this; the device is told by `out` where the protocol can.
    pub(super) fn send(&self, frame: Frame<'_>, out: &mut Outgoing) -> Result<(), ReasonCode> {
        let mut route = self.route.lock();
        let replay_as = match self.version.is_v5() {
            true => route.aliases.resolve(frame, self.alias_max.load(Ordering::Acquire)),
            false => None,
        };
        let packet = self.copy(frame);
        match route.send(&packet, replay_as.as_ref(), self) {
            Ok(()) => Ok(()),
            // What becomes of a stream that is over is not known here yet.
            Err(SendError::Full | SendError::NoStream) => {
                route.wait(Waiting { packet, replay_as }, self);
                Ok(())
            }
            Err(SendError::TooLarge { .. } | SendError::NotOnePacket) => {
                let reason = ReasonCode::PacketTooLarge;
                out.put_slice(&self.last_words(reason, true));
                Err(reason)
            }
        }
    }

    /// The packet for a link. Flags that MQTT 3.1 does not use say nothing, and are what later versions demand.
    fn copy(&self, frame: Frame<'_>) -> Bytes {
        let kind = frame.packet_type();
        if self.version != ProtocolVersion::V31 || kind == PacketType::Publish {
            return Bytes::copy_from_slice(frame.raw);
        }
        let mut packet = frame.raw.to_vec();
        packet[0] = kind.first_byte();
        packet.into()
    }

    /// Whether more packets of the device may come.
    pub(super) fn has_room(&self) -> bool {
        let route = self.route.lock();
        if route.place.is_some() { !route.is_waiting() } else { !route.is_full() }
    }

    /// There is room on the stream for what waits.
    pub(super) fn flush(&self, link: &Arc<Link>, stream: StreamId) {
        let mut route = self.route.lock();
        if route.is_at(link, stream) {
            route.flush(self);
        }
        let has_room = !route.is_waiting();
        drop(route);
        if has_room {
            self.wake();
        }
    }

    /// The device has taken packets that cost so much.
    pub(super) fn release(&self, cost: u32) {
        let route = self.route.lock();
        if let Some(place) = &route.place {
            place.link.release(place.stream, cost);
        }
    }

    /// Another passport.
    pub(super) fn renew(&self, passport: Arc<Passport>) {
        let mut route = self.route.lock();
        route.passport = passport;
        let Some(place) = &route.place else { return };
        let token = match self.shared.token_of(&route.passport, &place.link) {
            Ok(token) => token,
            Err(error) => return self.unsigned(&error),
        };
        if let Err(error) = place.link.renew(place.stream, token) {
            // The next worker gets it; a stream that is over says so otherwise.
            tracing::debug!(client_id = %self.client_id, %error, "passport not renewed");
        }
    }

    /// Its passport cannot be shown to a worker.
    pub(super) fn unsigned(&self, error: &TokenError) {
        tracing::warn!(client_id = %self.client_id, %error, "no signed passport for the worker");
    }

    /// The device is gone. Its worker learns it, whichever has the session then, and `ended` is dropped.
    pub(super) fn close(self: &Arc<Self>, cause: CloseCause, ended: Option<Ended>) {
        let mut route = self.route.lock();
        if route.is_over || route.closing.is_some() {
            return;
        }
        if cause == CloseCause::Unanswered {
            route.excuse(self);
        }
        self.mail.lock().close();
        route.close(cause, ended, self);
    }

    /// The worker has the session.
    pub(super) fn opened(&self, link: &Arc<Link>, stream: StreamId) {
        let mut route = self.route.lock();
        if !route.is_at(link, stream) {
            return;
        }
        if let Some(moving) = route.moving.take() {
            self.shared.metrics.moving.dec();
            if moving.is_resume {
                self.shared.metrics.moved(moving.reason, MoveOutcome::Moved);
                self.shared.metrics.move_seconds.observe(moving.since.elapsed().as_secs_f64());
                tracing::debug!(client_id = %self.client_id, worker = %link.worker.address, "moved");
            }
        }
        drop(route);
        // What waited went with the OPEN, so that there may be room.
        self.flush(link, stream);
    }

    /// The stream is over and nothing follows.
    pub(super) fn finished(&self, link: &Arc<Link>, stream: StreamId) {
        let mut route = self.route.lock();
        if route.is_at(link, stream) {
            route.finish(self);
        }
    }

    /// The link is over. Whether the device is to look for another worker.
    pub(super) fn lost(&self, link: &Arc<Link>, unfinished: Unfinished) -> bool {
        let mut route = self.route.lock();
        route.is_at(link, unfinished.stream) && route.lose(unfinished, self)
    }

    /// The worker did not take it. How long the device is to wait before it asks another, if it is to.
    pub(super) fn refused(
        &self,
        link: &Arc<Link>,
        stream: StreamId,
        reason: RefuseReason,
        packet: &Bytes,
        replay: Replay,
    ) -> Option<Duration> {
        let mut route = self.route.lock();
        if !route.is_at(link, stream) {
            return None;
        }
        let is_connected = self.is_connected();
        if route.closing.is_some() && !is_connected {
            route.finish(self);
            return None;
        }
        tracing::debug!(client_id = %self.client_id, worker = %link.worker.address, ?reason, "session not taken");
        if reason.is_retryable() {
            return Some(route.pass_over(replay, reason == RefuseReason::StoreAway, self));
        }
        let (code, outcome) = verdict(reason);
        if is_connected {
            let reason = route.moving.as_ref().map_or(MoveReason::Lost, |moving| moving.reason);
            self.shared.metrics.moved(reason, outcome);
        }
        route.fail(code, packet, self);
        None
    }

    /// Packets that a link which is over has left for the device.
    pub(super) fn take_rest(&self, packets: Vec<Bytes>) {
        let mut mail = self.mail.lock();
        mail.forget_cost();
        for packet in packets {
            mail.put(packet, 0);
        }
    }

    /// Has the relay end the connection.
    pub(super) fn end(&self, reason: ReasonCode, packet: &Bytes) {
        let mut mail = self.mail.lock();
        let is_connected = mail.connack.is_some();
        match packet.is_empty() {
            true => mail.end(reason, &self.last_words(reason, is_connected)),
            false => mail.end(reason, packet),
        }
        drop(mail);
        self.wake();
    }

    /// What tells the device why its connection ends: DISCONNECT in MQTT 5, and before CONNACK that.
    fn last_words(&self, reason: ReasonCode, is_connected: bool) -> Bytes {
        let mut packet = BytesMut::new();
        if !is_connected {
            ConnAck::new(false, reason).encode(self.version, &mut packet);
        } else if self.version.is_v5() {
            Disconnect::new(reason).encode(self.version, &mut packet);
        }
        packet.freeze()
    }
}

/// What the device is told, and what is counted.
fn verdict(reason: RefuseReason) -> (ReasonCode, MoveOutcome) {
    match reason {
        // It may connect anew, which 0x9D would forbid.
        RefuseReason::SessionGone => (ReasonCode::ServerShuttingDown, MoveOutcome::SessionGone),
        // v5 [MQTT-3.1.4-3]
        RefuseReason::TakenOver => (ReasonCode::SessionTakenOver, MoveOutcome::TakenOver),
        RefuseReason::Passport => (ReasonCode::NotAuthorized, MoveOutcome::Passport),
        RefuseReason::Connect
        | RefuseReason::Draining
        | RefuseReason::Overloaded
        | RefuseReason::StoreAway => (ReasonCode::ServerUnavailable, MoveOutcome::Refused),
    }
}
