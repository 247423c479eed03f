//! Where a device is and what it takes with it. Between two workers it has no place: then packets of the device wait here, and
//! [`Route::ask`] looks for the next worker.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use link::mux::{KEPT_BYTES_MAX, KEPT_COUNT_MAX, Replay, SendError, Unfinished};
use link::wire::{Open, StreamId};
use link::{CloseCause, Passport, Resume, TokenError};
use mqtt::ReasonCode;
use mqtt::frame::is_qos0_publish;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Duration, Instant};

use super::Shared;
use super::alias::Aliases;
use super::device::Device;
use super::link::Link;
use super::metrics::{MoveOutcome, MoveReason};
use super::worker::{Placed, Worker};

/// QoS 0 may fill one part in so many of what may wait during a move.
const QOS0_PART: usize = 2;

/// With more unread a device is not resumed before it has read: each worker may send it a whole window.
pub(super) const UNREAD_BYTES_MAX: usize = 256 * 1024;

/// How long a device whose passport has ended waits for another one, before it is resumed with what it has.
const RENEWAL: Duration = Duration::from_secs(2);

/// How long a device whose worker leaves waits before it looks again for another.
const NOBODY_ELSE: Duration = Duration::from_millis(250);

/// Where a device is.
pub(super) struct Route {
    /// For a new connection; passport and resume are added to a copy.
    pub(super) open: Box<Open>,
    /// The newest.
    pub(super) passport: Arc<Passport>,
    /// `None` while it is between two workers.
    pub(super) place: Option<Place>,
    pub(super) aliases: Aliases,
    /// Packets from the device that no link has taken, in order.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The device is gone.
    pub(super) closing: Option<Box<Closing>>,
    /// While it looks for a worker.
    pub(super) moving: Option<Box<Moving>>,
    /// Its worker has too many, and it may go.
    pub(super) is_excess: bool,
    /// Nothing more is to be done.
    pub(super) is_over: bool,
}

/// A stream.
pub(super) struct Place {
    pub(super) link: Arc<Link>,
    pub(super) stream: StreamId,
    _placed: Placed,
}

/// Dropped when the worker knows that a connection is over, or never will.
pub(super) type Ended = Box<dyn Any + Send + Sync>;

/// DISCONNECT with Reason Code 0x00, in every version.
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// The end of the device's connection.
pub(super) struct Closing {
    cause: CloseCause,
    _ended: Option<Ended>,
    since: Instant,
    /// The link keeps it now.
    is_told: bool,
}

/// A search for a worker, from the moment that the device has none until one has the session.
pub(super) struct Moving {
    pub(super) since: Instant,
    pub(super) reason: MoveReason,
    /// When it has failed; later when the store was away.
    deadline: Instant,
    /// When the worker that is being asked has to have answered.
    answer_by: Instant,
    asked_at: Instant,
    attempts: u32,
    /// Why the last worker did not take it: the deadline stands still.
    is_store_away: bool,
    /// The device has its CONNACK.
    pub(super) is_resume: bool,
    passed_over: Vec<Arc<Worker>>,
    replay: Replay,
    /// The right to ask; given back with the answer.
    permit: Option<OwnedSemaphorePermit>,
}

/// A packet that waits for a link.
pub(super) struct Waiting {
    pub(super) packet: Bytes,
    pub(super) replay_as: Option<Bytes>,
}

impl Waiting {
    fn len(&self) -> usize {
        self.packet.len() + self.replay_as.as_ref().map_or(0, Bytes::len)
    }

    /// As the next worker can read it: it knows the aliases as they stand behind everything that waits.
    fn unalias(&mut self) {
        if let Some(full) = self.replay_as.take() {
            self.packet = full;
        }
    }
}

/// What the mover has to do next about a device.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, until something happens.
    Nothing,
    /// Ask again after this time.
    Later(Duration),
    /// See that there was an answer by then.
    Check(Instant),
}

impl Route {
    pub(super) fn new(open: Box<Open>, passport: Arc<Passport>) -> Self {
        Self {
            open,
            passport,
            place: None,
            aliases: Aliases::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            closing: None,
            moving: None,
            is_excess: false,
            is_over: false,
        }
    }

    pub(super) fn is_at(&self, link: &Arc<Link>, stream: StreamId) -> bool {
        self.place.as_ref().is_some_and(|place| Arc::ptr_eq(&place.link, link) && place.stream == stream)
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether as much waits as may.
    pub(super) fn is_full(&self) -> bool {
        self.waiting_bytes >= KEPT_BYTES_MAX || self.waiting.len() >= KEPT_COUNT_MAX
    }

    /// Has a packet wait. While the device is nowhere QoS 0 is dropped in time, so that it does not stop the rest.
    pub(super) fn wait(&mut self, mut waiting: Waiting, device: &Device) {
        if self.is_over {
            return;
        }
        if self.place.is_none() {
            let is_much = self.waiting_bytes >= KEPT_BYTES_MAX / QOS0_PART
                || self.waiting.len() >= KEPT_COUNT_MAX / QOS0_PART;
            if is_much && is_qos0_publish(&waiting.packet) {
                device.shared.metrics.qos0_dropped.inc();
                return;
            }
            waiting.unalias();
        }
        self.waiting_bytes += waiting.len();
        self.waiting.push_back(waiting);
    }

    /// Gives what waits to the link, and the end of the connection behind it.
    pub(super) fn flush(&mut self, device: &Device) {
        let Some(place) = &self.place else { return };
        while let Some(waiting) = self.waiting.pop_front() {
            let len = waiting.len();
            let sent = place.link.send(place.stream, &waiting.packet, waiting.replay_as.clone(), device);
            match sent {
                Ok(()) => self.waiting_bytes -= len,
                Err(SendError::Full | SendError::NoStream) => {
                    self.waiting.push_front(waiting);
                    return;
                }
                Err(SendError::TooLarge { .. } | SendError::NotOnePacket) => {
                    // This worker takes less than the one that the device was told of.
                    self.waiting_bytes -= len;
                    place.link.close(place.stream, CloseCause::Abnormal);
                    return device.end(ReasonCode::PacketTooLarge, &Bytes::new());
                }
            }
        }
        if let Some(closing) = self.closing.as_mut().filter(|closing| !closing.is_told) {
            closing.is_told = true;
            place.link.close(place.stream, closing.cause);
        }
    }

    /// Gives a packet to the link, unless others wait.
    pub(super) fn send(
        &self,
        packet: &Bytes,
        replay_as: Option<&Bytes>,
        device: &Device,
    ) -> Result<(), SendError> {
        match &self.place {
            Some(place) if !self.is_waiting() => {
                place.link.send(place.stream, packet, replay_as.cloned(), device)
            }
            _ => Err(SendError::Full),
        }
    }

    /// The device goes before it had its CONNACK: what its CONNECT may have had for an effect is to leave no Will.
    pub(super) fn excuse(&mut self, device: &Device) {
        let packet = Bytes::from_static(&DISCONNECT);
        if self.send(&packet, None, device).is_err() {
            self.wait(Waiting { packet, replay_as: None }, device);
        }
    }

    /// The device is gone.
    pub(super) fn close(&mut self, cause: CloseCause, ended: Option<Ended>, device: &Arc<Device>) {
        let closing = Closing { cause, _ended: ended, since: Instant::now(), is_told: false };
        self.closing = Some(Box::new(closing));
        device.shared.metrics.closing.inc();
        match &self.place {
            Some(place) => {
                place.link.release(place.stream, u32::MAX);
                self.flush(device);
                if !device.is_connected() {
                    // Its worker may never answer.
                    let within = device.shared.config.handoff_timeout();
                    device.shared.mover.push_leaving(device, within);
                }
            }
            // No worker has heard of it, or none has answered and none will.
            None if !device.is_connected() => self.finish(device),
            None => {}
        }
    }

    /// The stream is over, the device goes on. Whether it is to look for another worker.
    pub(super) fn lose(&mut self, unfinished: Unfinished, device: &Device) -> bool {
        let own = device.shared.config.handoff_timeout();
        let within = self.place.take().map(|place| place.link.worker.handoff_within(own));
        device.take_rest(unfinished.packets);
        if self.closing.is_some() && !device.is_connected() {
            self.finish(device);
        }
        if self.is_over {
            return false;
        }
        let is_begun = self.moving.is_some();
        let moving = self.carry(unfinished.replay, device);
        if let Some(within) = within
            && !is_begun
        {
            moving.deadline = moving.since + within;
        }
        true
    }

    /// Makes what was given to a stream that is over ready for the next one.
    fn carry(&mut self, replay: Replay, device: &Device) -> &mut Moving {
        if let Some(closing) = &mut self.closing {
            // The link may have been over before it was told.
            closing.is_told = replay.ends_with_close();
        }
        self.waiting.iter_mut().for_each(Waiting::unalias);
        self.waiting_bytes = self.waiting.iter().map(Waiting::len).sum();
        // There may be room now: as long as it has no worker it is held back by other bounds.
        device.wake();
        let moving = self.search(device);
        moving.replay = replay;
        moving.permit = None;
        moving
    }

    /// A worker does not take the session now. How long to wait before another is asked.
    pub(super) fn pass_over(&mut self, replay: Replay, is_store_away: bool, device: &Device) -> Duration {
        let worker = self.place.take().map(|place| place.link.worker.clone());
        let moving = self.carry(replay, device);
        moving.passed_over.extend(worker);
        if moving.reason == MoveReason::Rebalance {
            device.shared.setbacks.note();
        }
        moving.is_store_away = is_store_away;
        if !is_store_away {
            return Duration::ZERO;
        }
        // Another worker would hardly say otherwise at once. The deadline stands still meanwhile.
        let delay = moving.back_off(&device.shared);
        moving.deadline += moving.asked_at.elapsed() + delay;
        delay
    }

    /// The search for a worker, begun now if there is none.
    fn search(&mut self, device: &Device) -> &mut Moving {
        let shared = &device.shared;
        self.moving.get_or_insert_with(|| {
            shared.metrics.moving.inc();
            let now = Instant::now();
            Box::new(Moving {
                since: now,
                reason: MoveReason::Lost,
                deadline: now + shared.config.handoff_timeout(),
                answer_by: now,
                asked_at: now,
                attempts: 0,
                is_store_away: false,
                is_resume: false,
                passed_over: Vec::new(),
                replay: Replay::default(),
                permit: None,
            })
        })
    }

    /// Opens the session of a device that has just come. `false` when it has to look for a worker.
    pub(super) fn begin(&mut self, device: &Arc<Device>) -> bool {
        let Some(link) = device.shared.choose(&device.client_id, &[]) else { return false };
        let placed = Placed::new(&link.worker);
        self.open.attempt += 1;
        let passport = match device.shared.token_of(&self.passport, &link) {
            Ok(token) => token,
            Err(error) => {
                self.refuse_unsigned(&error, device);
                return true;
            }
        };
        let open = Box::new(Open { passport, ..(*self.open).clone() });
        match link.open(open, Replay::default(), device) {
            Ok(stream) => {
                self.place = Some(Place { link, stream, _placed: placed });
                true
            }
            Err(_) => false,
        }
    }

    /// Looks for a worker, if the device is to have another.
    pub(super) fn ask(&mut self, device: &Arc<Device>, permit: OwnedSemaphorePermit) -> Next {
        if self.is_over {
            return Next::Nothing;
        }
        if let Some(next) = self.leave(device) {
            return next;
        }
        let now = Instant::now();
        let shared = &device.shared;
        let is_resume = device.is_connected();
        if self.closing.is_some() && !is_resume {
            self.finish(device);
            return Next::Nothing;
        }
        let is_stale = is_resume && self.has_expired();
        let resume = is_resume.then(|| self.resume(device)).flatten().map(Box::new);
        self.open.attempt += 1;
        let passport = self.passport.clone();
        let open = Open { resume, ..(*self.open).clone() };
        let moving = self.search(device);
        if is_resume && now >= moving.deadline {
            shared.metrics.moved(moving.reason, MoveOutcome::Timeout);
            tracing::debug!(client_id = %device.client_id, "no worker took the session in time");
            self.fail(ReasonCode::ServerShuttingDown, &Bytes::new(), device);
            return Next::Nothing;
        }
        moving.is_resume = is_resume;
        if is_stale && moving.since.elapsed() < RENEWAL {
            return Next::Later(moving.back_off(shared));
        }
        if is_resume && device.mail.lock().len() > UNREAD_BYTES_MAX {
            return Next::Later(moving.back_off(shared));
        }
        if moving.is_store_away && shared.choose(&device.client_id, &moving.passed_over).is_none() {
            // The wait is over already.
            moving.passed_over.clear();
        }
        while let Some(link) = shared.choose(&device.client_id, &moving.passed_over) {
            let placed = Placed::new(&link.worker);
            let passport = match shared.token_of(&passport, &link) {
                Ok(token) => token,
                Err(error) => {
                    self.refuse_unsigned(&error, device);
                    return Next::Nothing;
                }
            };
            let open = Box::new(Open { passport, ..open.clone() });
            match link.open(open, std::mem::take(&mut moving.replay), device) {
                Ok(stream) => {
                    moving.asked_at = now;
                    moving.is_store_away = false;
                    moving.answer_by = now + shared.config.resume_timeout();
                    moving.permit = Some(permit);
                    let check = Next::Check(moving.answer_by);
                    self.place = Some(Place { link, stream, _placed: placed });
                    self.flush(device);
                    return check;
                }
                Err(not_opened) => {
                    moving.replay = not_opened.replay;
                    moving.passed_over.push(link.worker.clone());
                }
            }
        }
        moving.passed_over.clear();
        Next::Later(moving.back_off(shared))
    }

    /// Leaves a worker that has not answered a resume in time. That worker, if another is to be asked.
    pub(super) fn expire(&mut self, device: &Device) -> Option<Arc<Worker>> {
        let place = self.place.as_ref()?;
        let moving = self.moving.as_mut().filter(|moving| moving.is_late())?;
        if !moving.is_resume {
            // CONNECT may take as long as the edge lets it, but not at the expense of others.
            moving.permit = None;
            return None;
        }
        let worker = place.link.worker.clone();
        // When it is over already, an effect says how.
        let unfinished = place.link.give_up(place.stream)?;
        if !self.lose(unfinished, device) {
            return None;
        }
        tracing::debug!(client_id = %device.client_id, worker = %worker.address, "no answer to a resume");
        let moving = self.search(device);
        moving.passed_over.push(worker.clone());
        if moving.reason == MoveReason::Rebalance {
            device.shared.setbacks.note();
        }
        Some(worker)
    }

    /// Whether a move costs little now: nothing is under way in either direction that this end knows of.
    fn is_idle(&self, device: &Device) -> bool {
        let Some(place) = &self.place else { return false };
        let is_settled = self.closing.is_none() && self.moving.is_none() && !self.is_waiting();
        is_settled && place.link.is_idle(place.stream) && device.mail.lock().is_settled()
    }

    /// Whether it is at `worker` and its move costs little now.
    pub(super) fn may_leave(&self, worker: &Arc<Worker>, device: &Device) -> bool {
        let is_there = self.place.as_ref().is_some_and(|place| Arc::ptr_eq(&place.link.worker, worker));
        is_there && self.is_idle(device)
    }

    /// Leaves the worker if that is about to leave, or has too many. What is to be done when the device stays.
    fn leave(&mut self, device: &Arc<Device>) -> Option<Next> {
        let is_excess = std::mem::take(&mut self.is_excess);
        let place = self.place.as_ref()?;
        let timeout = device.shared.config.handoff_timeout();
        if let Some(closing) = &self.closing
            && !device.is_connected()
        {
            let left = timeout.saturating_sub(closing.since.elapsed());
            if !left.is_zero() {
                return Some(Next::Later(left));
            }
            place.link.give_up(place.stream);
            self.finish(device);
            return Some(Next::Nothing);
        }
        let worker = place.link.worker.clone();
        let reason = if place.link.is_draining() {
            MoveReason::Drain
        } else if is_excess && device.shared.is_crowded(&worker) && self.is_idle(device) {
            MoveReason::Rebalance
        } else if device.shared.is_forsaken(&worker) {
            MoveReason::StoreAway
        } else {
            return Some(Next::Nothing);
        };
        if device.shared.choose(&device.client_id, std::slice::from_ref(&worker)).is_none() {
            return Some(Next::Later(NOBODY_ELSE));
        }
        // When it is over already, an effect says how.
        let Some(unfinished) = place.link.give_up(place.stream) else { return Some(Next::Nothing) };
        if !self.lose(unfinished, device) {
            return Some(Next::Nothing);
        }
        let moving = self.search(device);
        moving.passed_over.push(worker);
        moving.reason = reason;
        None
    }

    fn has_expired(&self) -> bool {
        let now = || UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        self.passport.expires_at_s.is_some_and(|at_s| at_s <= now())
    }

    /// What a resume adds to OPEN.
    fn resume(&self, device: &Device) -> Option<Resume> {
        let mail = device.mail.lock();
        Some(Resume {
            connack: mail.connack.clone()?,
            backlog: 0,
            flows: mail.flows.to_device(),
            inbound_qos2: mail.flows.from_device(),
            topic_aliases: self.aliases.list(),
        })
    }

    fn refuse_unsigned(&mut self, error: &TokenError, device: &Device) {
        device.unsigned(error);
        self.fail(ReasonCode::ServerUnavailable, &Bytes::new(), device);
    }

    /// The connection ends for `reason`; `packet` tells the device, or the edge says it itself.
    pub(super) fn fail(&mut self, reason: ReasonCode, packet: &Bytes, device: &Device) {
        device.end(reason, packet);
        self.finish(device);
    }

    /// Nothing more is to be done.
    pub(super) fn finish(&mut self, device: &Device) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.place = None;
        self.waiting = VecDeque::new();
        if self.moving.take().is_some() {
            device.shared.metrics.moving.dec();
        }
        if self.closing.take().is_some() {
            device.shared.metrics.closing.dec();
        }
        device.shared.leave();
    }
}

impl Moving {
    fn is_late(&self) -> bool {
        Instant::now() >= self.answer_by
    }

    /// How long to wait now: doubled each time, with jitter.
    fn back_off(&mut self, shared: &Shared) -> Duration {
        let delay = shared.backoff(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        delay
    }
}
