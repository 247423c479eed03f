//! The driver: what may happen at every step, and what must hold after it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use link::mux::{
    DEAD_AFTER, DevicePacket, EdgeEvent, LinkError, SendError, Unfinished, WorkerEnd, WorkerEvent,
};
use link::wire::{Ending, Frame, OpenBody, RefuseReason, StreamId};
use link::{CloseCause, Resume};
use mqtt::ReasonCode;
use testkit::connection::open_body;
use testkit::dice::{Dice, Throw as _, dice};

use super::cable::Cable;
use super::device::{CLOSE, Device, Message, Place, news, read_from_worker};
use crate::frame::packet;

pub(super) const WINDOW_BYTES: u32 = 300;
pub(super) const KEPT_BYTES_MAX: usize = 600;
pub(super) const KEPT_COUNT_MAX: usize = 12;

const STEP: Duration = Duration::from_millis(20);
const CABLES: usize = 3;
const DEVICES: usize = 8;

/// Steps within which everything has to come to rest.
const STEPS_TO_SETTLE: usize = 5_000;

/// What a worker knows of a stream.
struct Served {
    device: usize,
    is_resume: bool,
    is_open: bool,
    pending: Vec<Pending>,
    sent: u32,
    is_blocked: bool,
}

/// A frame from the edge that is not reported as durable.
struct Pending {
    number: u64,
    message: Message,
    cost: u32,
    step: Step,
}

/// What a worker does next with a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Store,
    Answer,
    Report,
    Done,
}

impl Served {
    /// Goes one step on with one of the frames that are not done; the message that is stored by it.
    fn advance(&mut self, id: StreamId, worker: &mut WorkerEnd, at: usize) -> Option<u32> {
        let pending = &mut self.pending[at];
        match pending.step {
            Step::Store => {
                pending.step = if pending.message.is_answered() { Step::Answer } else { Step::Report };
                return Some(pending.message.number);
            }
            Step::Answer => {
                let answer = pending.message.answer(self.sent + 1).unwrap();
                pending.step = Step::Report;
                match worker.send(id, &answer) {
                    Ok(()) => self.sent += 1,
                    Err(SendError::Full) => {
                        pending.step = Step::Answer;
                        self.is_blocked = true;
                    }
                    // The device has left.
                    Err(SendError::NoStream) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            Step::Report => {
                worker.durable(id, pending.number);
                worker.give_back(id, pending.cost);
                pending.step = Step::Done;
            }
            Step::Done => {}
        }
        self.pending.retain(|pending| pending.step != Step::Done);
        None
    }
}

pub(super) struct World {
    now: Duration,
    dice: Dice,
    cables: Vec<Cable>,
    served: Vec<BTreeMap<StreamId, Served>>,
    devices: Vec<Device>,
    messages: u32,
    /// Packets that went into a pipe, of those again, deaths by silence, links cut.
    pub(super) counts: [usize; 4],
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            dice: dice(seed),
            cables: (0..CABLES).map(|_| Cable::new(Duration::ZERO)).collect(),
            served: (0..CABLES).map(|_| BTreeMap::new()).collect(),
            devices: (0..DEVICES).map(|_| Device::default()).collect(),
            messages: 0,
            counts: [0; 4],
        }
    }

    pub(super) fn step(&mut self, with_faults: bool) {
        self.now += STEP;
        for device in 0..self.devices.len() {
            self.act(device, with_faults);
        }
        for at in 0..CABLES {
            self.serve(at, with_faults);
            self.carry(at);
            self.watch(at);
        }
        if with_faults {
            self.harm();
        }
    }

    /// Lets everything run without faults until nothing is left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..STEPS_TO_SETTLE {
            self.step(false);
            let is_done = |device: &Device| match device.is_over {
                true => true,
                false => {
                    device.undurable().count() == 0
                        && device.unanswered.is_empty()
                        && device.place.is_some()
                        && device.unread.is_empty()
                }
            };
            let none_blocked = !self.devices.iter().any(|device| device.is_blocked)
                && !self.served.iter().flat_map(BTreeMap::values).any(|served| served.is_blocked);
            if self.devices.iter().all(is_done) && none_blocked {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn act(&mut self, device: usize, with_faults: bool) {
        let Some((at, stream)) = self.devices[device].place else { return self.find_place(device) };
        let known = &mut self.devices[device];
        // The first device is slow: it reads only now and then.
        let reads = if device == 0 && with_faults { self.dice.one_in(100) } else { self.dice.one_in(2) };
        if reads {
            let cost = known.unread.drain(..).sum();
            self.cables[at].edge.give_back(stream, cost);
        }
        if known.is_closing || !with_faults {
            return;
        }
        if self.dice.one_in(400) {
            known.is_closing = true;
            known.accept(Message { number: CLOSE, is_qos0: false, has_alias: false });
            self.cables[at].edge.close(stream, CloseCause::Abnormal);
        } else if !known.is_blocked && self.dice.one_in(4) {
            self.messages += 1;
            let message = Message {
                number: self.messages,
                is_qos0: self.dice.one_in(3),
                has_alias: self.dice.one_in(4),
            };
            let padding = if self.dice.one_in(20) { 700 } else { self.dice.below(60) };
            let replay_as = message.has_alias.then(|| message.bytes(padding, true));
            let sent = self.cables[at]
                .edge
                .send(stream, DevicePacket { packet: message.bytes(padding, false), replay_as });
            match sent.map_err(|unsent| unsent.error) {
                Ok(()) => known.accept(message),
                Err(SendError::Full) => known.is_blocked = true,
                // The worker has closed it; the event that says so is not taken yet.
                Err(SendError::NoStream) => {}
                Err(other) => panic!("{other}"),
            }
            assert!(known.undurable().count() <= KEPT_COUNT_MAX);
        }
        if self.dice.one_in(1000) {
            // `None` as with a packet that is not taken.
            if let Some(unfinished) = self.cables[at].edge.give_up(stream) {
                self.uproot((at, stream), unfinished);
            }
        }
    }

    fn find_place(&mut self, device: usize) {
        let known = &mut self.devices[device];
        let at = self.dice.below(CABLES);
        if known.is_over || !self.cables[at].is_ready || self.dice.one_in(3) {
            return;
        }
        let connack = packet(0x20, &[0, 0]).raw;
        let resume = known.has_connack.then(|| Resume {
            connack,
            backlog: 0,
            flows: Vec::new(),
            inbound_qos2: Vec::new(),
            topic_aliases: Vec::new(),
            retained_due: Bytes::new(),
        });
        let asked = open_body(device as u128, Bytes::new(), packet(0x10, b"connect").raw);
        let open = Box::new(OpenBody { resume: resume.map(Box::new), ..asked });
        match self.cables[at].edge.open(open, known.replay.take().unwrap_or_default()) {
            Ok(stream) => known.begin_stream((at, stream)),
            Err(not_opened) => known.replay = Some(not_opened.replay),
        }
    }

    fn serve(&mut self, at: usize, with_faults: bool) {
        let (worker, dice) = (&mut self.cables[at].worker, &mut self.dice);
        let ids: Vec<StreamId> = self.served[at].keys().copied().collect();
        for id in ids {
            let Some(served) = self.served[at].get_mut(&id) else { continue };
            if !served.is_open {
                if with_faults && dice.one_in(20) {
                    worker.refuse(id, RefuseReason::Overloaded, None);
                    self.served[at].remove(&id);
                } else if dice.one_in(3) {
                    served.is_open = true;
                    let connack = (!served.is_resume).then(|| packet(0x20, &[0, 0]));
                    worker.accept(id, connack).unwrap();
                }
                continue;
            }
            if !served.pending.is_empty() && dice.one_in(2) {
                let at = dice.below(served.pending.len());
                let stored = served.advance(id, worker, at);
                self.devices[served.device].stored.extend(stored);
            }
            if with_faults && !served.is_blocked && dice.one_in(5) {
                match worker.send(id, &news(served.sent + 1, dice.below(80))) {
                    Ok(()) => served.sent += 1,
                    Err(SendError::Full) => served.is_blocked = true,
                    Err(SendError::NoStream) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            if with_faults && dice.one_in(2000) {
                worker.close(id, ReasonCode::SessionTakenOver, None);
                self.served[at].remove(&id);
            }
        }
    }

    /// Moves bytes, and takes what they bring.
    fn carry(&mut self, at: usize) {
        for _ in 0..1 + self.dice.below(6) {
            let cable = &mut self.cables[at];
            if self.now < cable.paused_until {
                return;
            }
            for (stream, frame) in cable.up.write(cable.edge.outgoing(), &mut self.dice) {
                self.note_written((at, stream), &frame);
            }
            let cable = &mut self.cables[at];
            cable.down.write(cable.worker.outgoing(), &mut self.dice);
            if let Some(frames) = cable.up.deliver(&mut self.dice) {
                cable.down.learn(&frames);
                cable.worker_heard_at = self.now;
                cable.worker.receive(self.now, cable.up.arrived()).unwrap();
            }
            while let Some(event) = self.cables[at].worker.poll_event() {
                self.at_worker(at, event);
            }
            let cable = &mut self.cables[at];
            if let Some(frames) = cable.down.deliver(&mut self.dice) {
                cable.up.learn(&frames);
                cable.edge_heard_at = self.now;
                cable.edge.receive(self.now, cable.down.arrived()).unwrap();
                for (stream, frame) in frames {
                    let Some(device) = self.device_at((at, stream)) else { continue };
                    match frame {
                        Frame::Durable { through, beyond } => {
                            self.devices[device].learn_durable(through, &beyond);
                        }
                        Frame::Packet { packet, .. } => {
                            let answered = read_from_worker(&packet.raw).1;
                            answered.into_iter().for_each(|n| self.devices[device].learn_answered(n));
                        }
                        _ => {}
                    }
                }
            }
            // A driver may be late to take what happened, and lose the link meanwhile.
            while !self.dice.one_in(10)
                && let Some(event) = self.cables[at].edge.poll_event()
            {
                self.at_edge(at, event);
            }
        }
    }

    fn note_written(&mut self, place: Place, frame: &Frame) {
        let number = match frame {
            Frame::Packet { packet, .. } => Message::read(&packet.raw).0,
            Frame::Close { ending: Ending::Device(_), .. } => CLOSE,
            _ => return,
        };
        // Of streams that were given up too, but those say nothing new.
        if let Some(device) = self.device_at(place) {
            self.counts[0] += 1;
            self.counts[1] += usize::from(!self.devices[device].write(number));
        }
    }

    fn at_worker(&mut self, at: usize, event: WorkerEvent) {
        match event {
            WorkerEvent::Open { stream, open } => {
                let device = usize::try_from(open.connection_id.0).unwrap();
                if let (Some(resume), true) = (&open.resume, self.devices[device].place == Some((at, stream)))
                {
                    self.devices[device].check_backlog(resume.backlog);
                }
                let is_resume = open.resume.is_some();
                let served = Served {
                    device,
                    is_resume,
                    is_open: false,
                    pending: Vec::new(),
                    sent: 0,
                    is_blocked: false,
                };
                self.served[at].insert(stream, served);
            }
            WorkerEvent::Packet { stream, number, packet, cost } => {
                let (message, is_replay) = Message::read(&packet.raw);
                let is_qos0 = packet.is_qos0_publish();
                let message = Message { number: message, is_qos0, has_alias: is_replay };
                self.take((at, stream), number, message, cost);
            }
            WorkerEvent::Close { stream, ending: Ending::Moved, .. } => {
                self.served[at].remove(&stream);
            }
            WorkerEvent::Close { stream, number, .. } => {
                let close = Message { number: CLOSE, is_qos0: false, has_alias: false };
                self.take((at, stream), number, close, 0);
            }
            WorkerEvent::Sendable { stream } => {
                self.served[at].entry(stream).and_modify(|served| served.is_blocked = false);
            }
            WorkerEvent::LinkSendable => {
                self.served[at].values_mut().for_each(|served| served.is_blocked = false);
            }
            WorkerEvent::Ready(_) | WorkerEvent::Passport { .. } => {}
        }
    }

    fn take(&mut self, place: Place, number: u64, message: Message, cost: u32) {
        let Some(served) = self.served[place.0].get_mut(&place.1) else { return };
        served.pending.push(Pending { number, message, cost, step: Step::Store });
        // A worker that has lost the device to another still gets what was under way; it is not the device's stream.
        if self.devices[served.device].place == Some(place) {
            self.devices[served.device].receive(message.number, message.has_alias);
        }
        if message.number == CLOSE {
            served.is_blocked = false;
        }
    }

    fn at_edge(&mut self, at: usize, event: EdgeEvent) {
        let stream = event.stream();
        let device = stream.and_then(|stream| self.device_at((at, stream)));
        let known = device.map(|device| &mut self.devices[device]);
        match (event, known) {
            (EdgeEvent::Ready(_), _) => self.cables[at].is_ready = true,
            (EdgeEvent::Draining { .. }, _) => self.move_all(at),
            (EdgeEvent::Store { .. }, _) => {}
            (EdgeEvent::Opened { connack, .. }, Some(known)) => {
                assert_eq!(connack.is_empty(), known.has_connack);
                known.has_connack = true;
            }
            (EdgeEvent::Refused { reason, replay, .. }, Some(known)) => {
                assert!(reason.is_retryable());
                known.replay = Some(replay);
                known.place = None;
            }
            (EdgeEvent::Packet { packet, cost, .. }, Some(known)) => {
                known.take_from_worker(&packet.raw, Some(cost));
            }
            (EdgeEvent::Sendable { .. }, Some(known)) => known.is_blocked = false,
            (EdgeEvent::Finished { .. }, Some(known)) => {
                assert!(known.is_closing);
                assert_eq!(known.undurable().count(), 0);
                known.end();
                self.devices.push(Device::default());
            }
            (EdgeEvent::Closed { reason, .. }, Some(known)) => {
                assert_eq!(reason, ReasonCode::SessionTakenOver);
                known.end();
                self.devices.push(Device::default());
            }
            (EdgeEvent::Yield { .. }, Some(_)) => panic!("nobody asks for last words"),
            (event, None) => panic!("{event:?} for no device"),
        }
    }

    fn device_at(&self, place: Place) -> Option<usize> {
        self.devices.iter().position(|device| device.place == Some(place))
    }

    fn uproot(&mut self, place: Place, unfinished: Unfinished) {
        let device = self.device_at(place).expect("streams have devices");
        assert_eq!(unfinished.is_open, self.devices[device].has_connack);
        unfinished.packets.iter().for_each(|packet| self.devices[device].take_from_worker(&packet.raw, None));
        self.devices[device].place = None;
        self.devices[device].replay = Some(unfinished.replay);
    }

    fn move_all(&mut self, at: usize) {
        for device in 0..self.devices.len() {
            let place = self.devices[device].place.filter(|place| place.0 == at);
            // Of a stream that is over already another event says so.
            if let Some(place) = place
                && let Some(unfinished) = self.cables[at].edge.give_up(place.1)
            {
                self.uproot(place, unfinished);
            }
        }
    }

    /// Silence ends a link in time, and only silence does.
    fn watch(&mut self, at: usize) {
        let cable = &mut self.cables[at];
        let outcomes = [
            (cable.edge.tick(self.now), cable.edge_heard_at),
            (cable.worker.tick(self.now), cable.worker_heard_at),
        ];
        let mut is_dead = false;
        for (outcome, heard_at) in outcomes {
            let is_silent = self.now - heard_at >= DEAD_AFTER;
            assert_eq!(outcome, if is_silent { Err(LinkError::Silent) } else { Ok(()) });
            is_dead |= is_silent;
        }
        if is_dead {
            let was_paused = self.now < cable.paused_until + DEAD_AFTER;
            assert!(was_paused, "a link that was not stopped is taken for dead");
            self.counts[2] += 1;
            self.replace(at);
        } else if self.cables[at].leaves_at.is_some_and(|at| at <= self.now) {
            self.replace(at);
        }
    }

    /// The edge gives a link up; whatever it still brings counts for nothing.
    fn replace(&mut self, at: usize) {
        for unfinished in self.cables[at].edge.abandon() {
            self.uproot((at, unfinished.stream), unfinished);
        }
        // Of streams that were over before.
        while let Some(event) = self.cables[at].edge.poll_event() {
            self.at_edge(at, event);
        }
        let cable = &mut self.cables[at];
        cable.down.write(cable.worker.outgoing(), &mut self.dice);
        cable.down.deliver(&mut self.dice);
        assert_eq!(cable.edge.receive(self.now, cable.down.arrived()), Err(LinkError::Over));
        assert!(cable.edge.poll_event().is_none());
        self.cables[at] = Cable::new(self.now);
        self.served[at].clear();
    }

    fn harm(&mut self) {
        let at = self.dice.below(CABLES);
        if self.dice.one_in(200) {
            self.counts[3] += 1;
            self.replace(at);
        } else if self.dice.one_in(100) {
            let pause = Duration::from_millis(100 * self.dice.below(40) as u64);
            self.cables[at].paused_until = self.now + pause;
        } else if self.dice.one_in(300) {
            self.cables[at].worker.drain(Duration::from_secs(1));
            self.cables[at].leaves_at = Some(self.now + Duration::from_secs(1));
        }
    }
}
