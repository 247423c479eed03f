//! One device's connection on its way through workers. Its relay, the drivers of links and the mover share it: they tell
//! [`Route`] what happened, and the device does what that says. Locks are taken in this order: the way of a device, a link, a
//! mail. Nobody is woken and nothing of others is dropped under them.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use bytes::{Bytes, BytesMut};
use link::mux::{DevicePacket, NotSent, SendError};
use link::wire::{OpenBody, RefuseReason};
use link::{CloseCause, Outgoing, Passport, PassportSigner, TokenError};
use mqtt::{
    ConnAck, Disconnect, Frame, OwnedFrame, Packet, Property, PropertyId, ProtocolVersion, ReasonCode,
    Receiver,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Duration, Instant};

use super::agenda::Agenda;
use super::alias::Aliases;
use super::chance::Chance;
use super::link::{Carried, LeftBehind, Link, LinkStream};
use super::mail::Mail;
use super::metrics::{Metrics, MoveOutcome};
use super::route::{Declined, Moved, Next, Remains, Route, RouteInput, RouteOutputs, Step, Summary};
use super::worker::Worker;

/// Dropped when the worker knows that a connection is over, or never will.
pub(super) type Ended = Box<dyn Any + Send + Sync>;

/// All devices of an edge, and what they need of it.
pub(super) struct Devices {
    pub(super) metrics: Metrics,
    /// For passports that were made here.
    pub(super) signer: Option<PassportSigner>,
    pub(super) handoff_timeout: Duration,
    pub(super) chance: Chance,
    pub(super) agenda: Agenda<Device>,
    /// A worker did not take a device that was to relieve another.
    had_setback: AtomicBool,
    /// Connections of which a worker has to know something yet.
    count: AtomicUsize,
    empty: Notify,
}

/// One connection.
pub(super) struct Device {
    pub(super) devices: Arc<Devices>,
    pub(super) client_id: Arc<str>,
    version: ProtocolVersion,
    /// Topic Aliases that CONNACK allows.
    alias_max: AtomicU16,
    way: Mutex<Way>,
    pub(super) mail: Mutex<Mail>,
}

/// Where a device is, and what it shows the next worker.
pub(super) struct Way {
    pub(super) route: Route<LinkStream>,
    /// For a new connection; passport and resume are added to a copy.
    pub(super) open: Box<OpenBody>,
    /// The newest.
    pub(super) passport: Arc<Passport>,
    pub(super) aliases: Aliases,
    /// The right to ask, as long as no worker has answered.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// Of whoever waits until the end is known.
    ended: Option<Ended>,
}

/// What is done when the way of a device is no longer locked.
pub(super) struct Aftermath {
    before: Summary,
    next: Next,
    wakes: bool,
    is_permit_due: bool,
}

/// What a [`Route`] wants that only whoever knows the workers can do.
pub(super) enum Errand {
    /// To look at the circumstances again.
    LookAgain,
    /// To ask the best worker that is not passed over.
    Ask(Carried),
}

impl Devices {
    pub(super) fn new(
        metrics: Metrics,
        signer: Option<PassportSigner>,
        handoff_timeout: Duration,
        chance: Chance,
    ) -> Self {
        Self {
            metrics,
            signer,
            handoff_timeout,
            chance,
            agenda: Agenda::default(),
            had_setback: AtomicBool::new(false),
            count: AtomicUsize::new(0),
            empty: Notify::new(),
        }
    }

    /// Connections of which a worker has to know something yet.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Returns when there is none.
    pub(super) async fn emptied(&self) {
        loop {
            let notified = self.empty.notified();
            if self.count() == 0 {
                return;
            }
            notified.await;
        }
    }

    fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.empty.notify_waiters();
        }
    }

    /// The passport as the worker of `link` takes it: as it was signed where it was made, or else under what was signed for the
    /// link, or signed by the edge.
    pub(super) fn token_of(&self, passport: &Passport, link: &Link) -> Result<Bytes, TokenError> {
        match (&passport.token, link.voucher.get(), &self.signer) {
            (Some(token), ..) => Ok(token.0.clone()),
            (None, Some(voucher), _) => voucher.token(passport),
            (None, None, Some(signer)) => signer.sign(passport),
            (None, None, None) => Err(TokenError::NoKey),
        }
    }

    /// Whether a worker has not taken a device that was to relieve another, since this was asked last.
    pub(super) fn take_setback(&self) -> bool {
        self.had_setback.swap(false, Ordering::Relaxed)
    }

    fn note(&self, moved: Moved) {
        self.metrics.moves.count((moved.reason, moved.outcome));
        if let Some(took) = moved.took {
            self.metrics.move_seconds.observe(took.as_secs_f64());
        }
    }
}

impl Device {
    pub(super) fn new(
        devices: Arc<Devices>,
        client_id: Arc<str>,
        version: ProtocolVersion,
        open: Box<OpenBody>,
        passport: Arc<Passport>,
    ) -> Self {
        devices.count.fetch_add(1, Ordering::SeqCst);
        let way = Way {
            route: Route::new(),
            open,
            passport,
            aliases: Aliases::default(),
            permit: None,
            ended: None,
        };
        Self {
            devices,
            client_id,
            version,
            alias_max: AtomicU16::new(0),
            way: Mutex::new(way),
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

    /// The way of the device, and what is owed to others when it is no longer locked. To be given to [`Device::let_go`].
    pub(super) fn lock(&self) -> (MutexGuard<'_, Way>, Aftermath) {
        let way = self.way.lock();
        let before = way.route.summary();
        (way, Aftermath { before, next: Next::Nothing, wakes: false, is_permit_due: false })
    }

    /// Tells the route what happened and does what it says, up to what only the mover can do.
    pub(super) fn follow(
        &self,
        way: &mut Way,
        input: RouteInput<LinkStream>,
        after: &mut Aftermath,
    ) -> Option<Errand> {
        let now = Instant::now();
        let mut input = Some(input);
        while let Some(happened) = input.take() {
            let outputs = way.route.handle(happened, now);
            after.note(&outputs, &self.devices);
            match outputs.step {
                Step::Rest => {}
                Step::Send(packet) => input = self.give(way, packet, after),
                Step::Tell(cause) => {
                    way.route.place().into_iter().for_each(|place| place.link.close(place.stream, cause));
                }
                Step::GiveUp(why) => {
                    let left = way.route.place().and_then(|place| {
                        let within = place.link.worker.handoff_within(self.devices.handoff_timeout);
                        Some((place.link.give_up(place.stream)?, within))
                    });
                    input = left.map(|(left, within)| {
                        let remains = self.remains(self.take_rest(left), within);
                        RouteInput::GivenUp { why, remains }
                    });
                }
                Step::Abandon(place) => drop(place.link.give_up(place.stream)),
                Step::End(reason) => {
                    tracing::debug!(client_id = %self.client_id, ?reason, "no worker has the session");
                    self.end(reason, &Bytes::new(), after);
                }
                Step::LookAgain => return Some(Errand::LookAgain),
                Step::Ask(carried) => return Some(Errand::Ask(carried)),
            }
        }
        None
    }

    /// Gives a packet that has waited to the link.
    fn give(&self, way: &Way, packet: DevicePacket, after: &mut Aftermath) -> Option<RouteInput<LinkStream>> {
        let Some(place) = way.route.place() else { return Some(RouteInput::NotTaken(packet)) };
        let shown = packet.packet.clone();
        match place.link.send(place.stream, packet, shown.as_frame()) {
            Ok(()) => Some(RouteInput::Taken),
            Err(NotSent { error: SendError::Full | SendError::NoStream, packet }) => {
                Some(RouteInput::NotTaken(packet))
            }
            Err(NotSent { error: SendError::TooLarge { .. }, .. }) => {
                // This worker takes less than the one that the device was told of.
                place.link.close(place.stream, CloseCause::Abnormal);
                self.end(ReasonCode::PacketTooLarge, &Bytes::new(), after);
                None
            }
        }
    }

    /// Unlocks the way and does what is owed to others, but for what the mover is to do.
    pub(super) fn let_go(&self, mut way: MutexGuard<'_, Way>, after: &Aftermath) -> Next {
        let Summary { is_moving, is_closing, is_over } = way.route.summary();
        let has_ended = is_over && !after.before.is_over;
        let keeps_permit = way.route.is_asking() && !after.is_permit_due;
        let permit = way.permit.take_if(|_| !keeps_permit);
        let ended = way.ended.take_if(|_| has_ended);
        let metrics = &self.devices.metrics;
        metrics.moving.inc_by(i64::from(is_moving) - i64::from(after.before.is_moving));
        metrics.closing.inc_by(i64::from(is_closing) - i64::from(after.before.is_closing));
        drop(way);
        drop((permit, ended));
        if after.wakes {
            self.wake();
        }
        if has_ended {
            self.devices.leave();
        }
        after.next
    }

    /// As [`Device::let_go`], and puts the device on the agenda.
    pub(super) fn go_on(self: &Arc<Self>, way: MutexGuard<'_, Way>, after: &Aftermath) {
        let agenda = &self.devices.agenda;
        match self.let_go(way, after) {
            Next::Nothing => {}
            Next::Now => agenda.push([self.clone()]),
            Next::Later(delay) => agenda.push_later(self.clone(), delay),
            Next::BackOff(attempts) => {
                agenda.push_later(self.clone(), self.devices.chance.backoff(attempts));
            }
            Next::Check(at) => agenda.push_check(self, at),
            Next::Leave => agenda.push_leaving(self, self.devices.handoff_timeout),
        }
    }

    /// Tells the route what happened to the device's stream.
    fn tell(self: &Arc<Self>, input: RouteInput<LinkStream>) {
        let (mut way, mut after) = self.lock();
        self.follow(&mut way, input, &mut after);
        self.go_on(way, &after);
    }

    /// Whether the device is at `worker` and its move costs little now.
    fn is_movable(&self, way: &Way, worker: &Arc<Worker>) -> bool {
        let is_there = way.route.place().is_some_and(|place| Arc::ptr_eq(&place.link.worker, worker));
        is_there && self.is_idle(way)
    }

    /// Whether a move costs little now: nothing is under way in either direction that this end knows of.
    pub(super) fn is_idle(&self, way: &Way) -> bool {
        // The mail first: what comes in between is a flow on the link.
        way.route.is_settled()
            && self.mail.lock().is_settled()
            && way.route.place().is_some_and(|place| place.link.is_idle(place.stream))
    }

    /// Has the mover take the device away from `worker`, if it is there and that is cheap.
    pub(super) fn mark_excess(&self, worker: &Arc<Worker>) -> bool {
        let mut way = self.way.lock();
        let is_excess = self.is_movable(&way, worker);
        way.route.handle(RouteInput::Excess(is_excess), Instant::now());
        is_excess
    }

    /// Whether [`Device::mark_excess`] would mark the device.
    pub(super) fn may_leave(&self, worker: &Arc<Worker>) -> bool {
        self.is_movable(&self.way.lock(), worker)
    }

    fn wake(&self) {
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
        let mut way = self.way.lock();
        let replay_as = match self.version.is_v5() {
            true => way.aliases.resolve(frame, self.alias_max.load(Ordering::Acquire)),
            false => None,
        };
        let packet = DevicePacket { packet: self.copy(frame), replay_as };
        let sent = match way.route.way() {
            Some(place) => place.link.send(place.stream, packet, frame),
            None => Err(NotSent { error: SendError::Full, packet }),
        };
        match sent {
            Ok(()) => Ok(()),
            // What becomes of a stream that is over is not known here yet.
            Err(NotSent { error: SendError::Full | SendError::NoStream, packet }) => {
                let input = RouteInput::Sent(packet);
                if way.route.handle(input, Instant::now()).is_dropped {
                    self.devices.metrics.qos0_dropped.inc();
                }
                Ok(())
            }
            Err(NotSent { error: SendError::TooLarge { .. }, .. }) => {
                let reason = ReasonCode::PacketTooLarge;
                out.put_slice(&self.last_words(reason, true));
                Err(reason)
            }
        }
    }

    /// The packet for a link. Flags that MQTT 3.1 does not use say nothing, and are what later versions demand.
    fn copy(&self, frame: Frame<'_>) -> OwnedFrame {
        match self.version {
            ProtocolVersion::V31 => frame.copied_with_reserved_flags(),
            ProtocolVersion::V311 | ProtocolVersion::V5 => frame.copied(),
        }
    }

    /// Whether more packets of the device may come.
    pub(super) fn has_room(&self) -> bool {
        self.way.lock().route.has_room()
    }

    /// The device has taken packets that cost so much.
    pub(super) fn give_credit(&self, cost: u32) {
        let way = self.way.lock();
        if let Some(place) = way.route.place() {
            place.link.give_credit(place.stream, cost);
        }
    }

    /// Another passport.
    pub(super) fn renew(&self, passport: Arc<Passport>) {
        let mut way = self.way.lock();
        way.passport = passport;
        let Some(place) = way.route.place() else { return };
        let token = match self.devices.token_of(&way.passport, &place.link) {
            Ok(token) => token,
            Err(error) => return self.unsigned(&error),
        };
        if let Err(error) = place.link.renew(place.stream, token) {
            // The next worker gets it; a stream that is over says so otherwise.
            tracing::debug!(client_id = %self.client_id, %error, "passport not renewed");
        }
    }

    /// The passport of the device cannot be shown to a worker.
    pub(super) fn unsigned(&self, error: &TokenError) {
        tracing::warn!(client_id = %self.client_id, %error, "no signed passport for the worker");
    }

    /// The device is gone. Its worker learns it, whichever has the session then, and `ended` is dropped.
    pub(super) fn close(self: &Arc<Self>, cause: CloseCause, ended: Option<Ended>) {
        let (mut way, mut after) = self.lock();
        if way.route.is_ending() {
            drop(way);
            return;
        }
        way.ended = ended;
        let is_connected = {
            let mut mail = self.mail.lock();
            mail.close();
            mail.connack.is_some()
        };
        if let Some(place) = way.route.place() {
            place.link.give_credit(place.stream, u32::MAX);
        }
        self.follow(&mut way, RouteInput::Closed { cause, is_connected }, &mut after);
        self.go_on(way, &after);
    }

    /// The worker has the session.
    pub(super) fn opened(self: &Arc<Self>, at: LinkStream) {
        let (mut way, mut after) = self.lock();
        let worker = at.link.worker.address;
        let was_moving = way.route.summary().is_moving;
        self.follow(&mut way, RouteInput::Opened(at), &mut after);
        if was_moving && !way.route.summary().is_moving {
            tracing::debug!(client_id = %self.client_id, %worker, "moved");
        }
        // What waited went with the OPEN, so that there may be room.
        after.wakes |= way.route.has_room();
        self.go_on(way, &after);
    }

    /// There is room on the stream for what waits.
    pub(super) fn send_on(self: &Arc<Self>, at: LinkStream) {
        let (mut way, mut after) = self.lock();
        self.follow(&mut way, RouteInput::Sendable(at), &mut after);
        after.wakes |= way.route.has_room();
        self.go_on(way, &after);
    }

    /// The stream is over and nothing follows.
    pub(super) fn finished(self: &Arc<Self>, at: LinkStream) {
        self.tell(RouteInput::Finished(at));
    }

    /// The link is over. Whether the device is to look for another worker.
    pub(super) fn lost(&self, at: LinkStream, left: LeftBehind) -> bool {
        let (mut way, mut after) = self.lock();
        if way.route.is_at(&at) {
            let within = at.link.worker.handoff_within(self.devices.handoff_timeout);
            let remains = self.remains(self.take_rest(left), within);
            self.follow(&mut way, RouteInput::Lost { place: at, remains }, &mut after);
        }
        self.let_go(way, &after) == Next::Now
    }

    /// The worker did not take the session.
    pub(super) fn refused(
        self: &Arc<Self>,
        at: LinkStream,
        reason: RefuseReason,
        packet: &Bytes,
        carried: Carried,
    ) {
        let (mut way, mut after) = self.lock();
        if way.route.is_at(&at) {
            tracing::debug!(client_id = %self.client_id, worker = %at.link.worker.address, ?reason, "session not taken");
            let (code, declined) = judge(reason);
            let remains = self.remains(carried, self.devices.handoff_timeout);
            self.follow(&mut way, RouteInput::Refused { place: at, declined, remains }, &mut after);
            if matches!(declined, Declined::Final(_)) {
                self.end(code, packet, &mut after);
            }
        }
        self.go_on(way, &after);
    }

    fn remains(&self, carried: Carried, within: Duration) -> Remains<LinkStream> {
        Remains { carried, is_connected: self.is_connected(), within }
    }

    /// Has the device get what a stream has left for it; the rest is for the next stream.
    fn take_rest(&self, left: LeftBehind) -> Carried {
        let LeftBehind { packets, mut carried } = left;
        let mut mail = self.mail.lock();
        mail.forget_cost();
        for packet in packets {
            mail.put(packet, 0, &mut carried.flows);
        }
        carried
    }

    /// Has the relay end the connection; `packet` tells the device why, or else the edge does.
    fn end(&self, reason: ReasonCode, packet: &Bytes, after: &mut Aftermath) {
        let mut mail = self.mail.lock();
        let is_connected = mail.connack.is_some();
        match packet.is_empty() {
            true => mail.end(reason, &self.last_words(reason, is_connected)),
            false => mail.end(reason, packet),
        }
        after.wakes = true;
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

impl Way {
    /// Whether the passport of the device has ended.
    pub(super) fn is_stale(&self) -> bool {
        let now = || UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        self.passport.expires_at_s.is_some_and(|at_s| at_s <= now())
    }
}

impl Aftermath {
    fn note(&mut self, outputs: &RouteOutputs<LinkStream>, devices: &Devices) {
        if outputs.next != Next::Nothing {
            self.next = outputs.next;
        }
        self.wakes |= outputs.wakes;
        self.is_permit_due |= outputs.yields_permit;
        if outputs.had_setback {
            devices.had_setback.store(true, Ordering::Relaxed);
        }
        if let Some(moved) = outputs.moved {
            devices.note(moved);
        }
    }
}

/// What the device is told when it is not to go elsewhere, and what becomes of it.
fn judge(reason: RefuseReason) -> (ReasonCode, Declined) {
    if reason == RefuseReason::StoreAway {
        return (ReasonCode::ServerUnavailable, Declined::StoreAway);
    }
    if reason.is_retryable() {
        return (ReasonCode::ServerUnavailable, Declined::Elsewhere);
    }
    let (code, outcome) = match reason {
        // It may connect anew, which 0x9D would forbid.
        RefuseReason::SessionGone => (ReasonCode::ServerShuttingDown, MoveOutcome::SessionGone),
        // v5 [MQTT-3.1.4-3]
        RefuseReason::TakenOver => (ReasonCode::SessionTakenOver, MoveOutcome::TakenOver),
        RefuseReason::Passport => (ReasonCode::NotAuthorized, MoveOutcome::Passport),
        RefuseReason::Connect
        | RefuseReason::Draining
        | RefuseReason::Overloaded
        | RefuseReason::StoreAway => (ReasonCode::ServerUnavailable, MoveOutcome::Refused),
    };
    (code, Declined::Final(outcome))
}
