//! One device among workers that refuse, fall silent, drain, lose their store and their links, in any order, without sockets: what
//! a [`super::super::device::Device`], its links and the mover do is played here. `TIDEGATE_SEED=n` replays
//! one seed, and `TIDEGATE_SEEDS=n` tries so many.

use std::collections::VecDeque;

use link::CloseCause;
use rand::Rng as _;
use testkit::dice::{Dice, dice};
use testkit::seeds;
use tokio::time::{Duration, Instant};

use super::*;

const SEEDS: u64 = 3_000;
const STEPS: usize = 250;
const WORKERS: usize = 3;

/// What a link takes of a stream at most, packets.
const ROOM: usize = 4;

const HANDOFF_TIMEOUT: Duration = Duration::from_secs(10);
const RESUME_TIMEOUT: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

/// A stream of a worker; each has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    worker: usize,
    stream: u32,
}

/// What goes to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Packet(u32),
    Disconnect,
    End(CloseCause),
}

impl Place for Spot {
    type Worker = usize;
    type Carried = VecDeque<Said>;

    fn worker(&self) -> usize {
        self.worker
    }

    fn tells_end(carried: &VecDeque<Said>) -> bool {
        matches!(carried.back(), Some(Said::End(_)))
    }
}

/// The one stream that the device has.
#[derive(Debug)]
struct Held {
    spot: Spot,
    /// Taken by the link and not durable.
    kept: VecDeque<Said>,
    is_open: bool,
    wants_room: bool,
}

#[derive(Clone, Copy, Default)]
struct Mood {
    is_down: bool,
    is_mute: bool,
    is_draining: bool,
    is_store_away: bool,
    refuses: bool,
}

#[derive(Clone, Copy)]
enum Item {
    Turn,
    Check,
}

struct World {
    dice: Dice,
    now: Instant,
    route: Route<Spot>,
    moods: [Mood; WORKERS],
    held: Option<Held>,
    streams: u32,
    agenda: Vec<(Instant, Item)>,
    is_connected: bool,
    gone: Option<CloseCause>,
    /// A worker or the edge has ended the connection.
    is_ended: bool,
    sent: u32,
    durable: Vec<Said>,
}

fn packet(number: u32) -> DevicePacket {
    let mut packet = vec![0x32, 4];
    packet.extend_from_slice(&number.to_be_bytes());
    OwnedFrame::from_bytes(packet.into(), u32::MAX).unwrap().unwrap().into()
}

fn read(packet: &[u8]) -> Said {
    match packet {
        [0x32, 4, number @ ..] => Said::Packet(u32::from_be_bytes(number.try_into().unwrap())),
        other => {
            assert_eq!(other, DISCONNECT);
            Said::Disconnect
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            dice: dice(seed),
            now,
            route: Route::new(),
            moods: [Mood::default(); WORKERS],
            held: None,
            streams: 0,
            agenda: Vec::new(),
            is_connected: false,
            gone: None,
            is_ended: false,
            sent: 0,
            durable: Vec::new(),
        };
        if world.chance(2) {
            let input = world.ask(VecDeque::new());
            if matches!(input, RouteInput::Placed { .. }) {
                world.follow(input);
                return world;
            }
        }
        world.agenda.push((now, Item::Turn));
        world
    }

    /// One time in so many.
    fn chance(&mut self, of: u32) -> bool {
        self.dice.random_range(0..of) == 0
    }

    fn usable(&self, not: &[usize]) -> Vec<usize> {
        let is_usable = |worker: &usize| {
            let mood = self.moods[*worker];
            !mood.is_down && !mood.is_draining && !not.contains(worker)
        };
        (0..WORKERS).filter(is_usable).collect()
    }

    fn ask(&mut self, carried: VecDeque<Said>) -> RouteInput<Spot> {
        assert!(self.held.is_none(), "it is asked for beside a stream that there is");
        let usable = self.usable(self.route.passed_over());
        if usable.is_empty() {
            return RouteInput::NoWorker(carried);
        }
        let worker = usable[self.dice.random_range(0..usable.len())];
        if self.chance(10) {
            return RouteInput::NotPlaced { worker, carried };
        }
        self.streams += 1;
        let spot = Spot { worker, stream: self.streams };
        self.held = Some(Held { spot, kept: carried, is_open: false, wants_room: false });
        RouteInput::Placed { place: spot, answer_within: RESUME_TIMEOUT }
    }

    fn around(&mut self) -> Circumstances {
        let mood = self.held.as_ref().map(|held| (held.spot.worker, self.moods[held.spot.worker]));
        let has_other = mood.is_some_and(|(worker, _)| !self.usable(&[worker]).is_empty());
        Circumstances {
            is_connected: self.is_connected,
            is_stale: self.chance(8),
            leaves_much_unread: self.chance(8),
            is_draining: mood.is_some_and(|(_, mood)| mood.is_draining),
            is_crowded: self.held.as_ref().is_some_and(|held| held.kept.is_empty()),
            is_forsaken: mood.is_some_and(|(_, mood)| mood.is_store_away) && has_other,
            has_other,
            handoff_timeout: HANDOFF_TIMEOUT,
        }
    }

    /// The link of the stream takes this, if it has room.
    fn take(&mut self, said: Said) -> bool {
        let held = self.held.as_mut().expect("a stream");
        let is_taken = held.kept.len() < ROOM || matches!(said, Said::End(_));
        if is_taken {
            assert!(!matches!(held.kept.back(), Some(Said::End(_))), "something behind the end");
            held.kept.push_back(said);
        } else {
            held.wants_room = true;
        }
        is_taken
    }

    fn leave(&mut self) -> Remains<Spot> {
        let carried = self.held.take().expect("a stream").kept;
        Remains { carried, is_connected: self.is_connected, within: HANDOFF_TIMEOUT }
    }

    /// As the device does.
    fn follow(&mut self, input: RouteInput<Spot>) {
        let mut input = Some(input);
        while let Some(happened) = input.take() {
            let outputs = self.route.handle(happened, self.now);
            match outputs.next {
                Next::Nothing => {}
                Next::Now => self.agenda.push((self.now, Item::Turn)),
                Next::Later(delay) => self.agenda.push((self.now + delay, Item::Turn)),
                Next::BackOff(attempts) => {
                    let delay = TICK * 2_u32.pow(attempts.min(4));
                    self.agenda.push((self.now + delay, Item::Turn));
                }
                Next::Check(at) => self.agenda.push((at, Item::Check)),
                Next::Leave => self.agenda.push((self.now + HANDOFF_TIMEOUT, Item::Turn)),
            }
            input = match outputs.step {
                Step::Rest => None,
                Step::Send(unsent) => Some(match self.take(read(&unsent.packet.raw)) {
                    true => RouteInput::Taken,
                    false => RouteInput::NotTaken(unsent),
                }),
                Step::Tell(cause) => {
                    assert!(self.take(Said::End(cause)));
                    None
                }
                Step::GiveUp(why) => Some(RouteInput::GivenUp { why, remains: self.leave() }),
                Step::Abandon(spot) => {
                    assert_eq!(self.held.take().map(|held| held.spot), Some(spot));
                    None
                }
                Step::End(_) => {
                    self.is_ended = true;
                    None
                }
                Step::LookAgain => Some(RouteInput::Turn(self.around())),
                Step::Ask(carried) => Some(self.ask(carried)),
            };
        }
        self.check();
    }

    /// What holds after everything that happens.
    fn check(&mut self) {
        assert_eq!(self.route.place(), self.held.as_ref().map(|held| &held.spot), "exactly one place");
        let numbers = self.durable.iter().filter_map(|said| match said {
            Said::Packet(number) => Some(*number),
            Said::Disconnect | Said::End(_) => None,
        });
        assert!(numbers.eq(1..=self.packets() as u32), "lost, doubled or out of order: {:?}", self.durable);
        if self.route.summary().is_over {
            assert!(self.held.is_none());
            let nothing = RouteInput::Sent(packet(0));
            for input in [RouteInput::Turn(Circumstances::default()), RouteInput::Check, nothing] {
                let outputs = self.route.handle(input, self.now);
                assert!(matches!(outputs.step, Step::Rest) && outputs.next == Next::Nothing, "over is final");
            }
            assert!(self.route.summary().is_over && !self.route.summary().is_closing);
        }
    }

    fn packets(&self) -> usize {
        self.durable.iter().filter(|said| matches!(said, Said::Packet(_))).count()
    }

    /// The device sends one packet, if it may.
    fn send(&mut self) {
        if self.gone.is_some() || self.is_ended || !self.route.has_room() {
            return;
        }
        self.sent += 1;
        let unsent = packet(self.sent);
        if self.route.way().is_none() || !self.take(Said::Packet(self.sent)) {
            self.follow(RouteInput::Sent(unsent));
        }
    }

    fn close(&mut self) {
        let causes = [CloseCause::Abnormal, CloseCause::Shutdown, CloseCause::Unanswered];
        let cause = causes[self.dice.random_range(0..causes.len())];
        let was_over = self.route.summary().is_over;
        self.follow(RouteInput::Closed { cause, is_connected: self.is_connected });
        if self.gone.is_none() && !was_over {
            self.gone = Some(cause);
        }
    }

    /// The worker does what it is in the mood for.
    fn work(&mut self) {
        let Some(Held { spot, is_open, .. }) = self.held else { return };
        let mood = self.moods[spot.worker];
        if mood.is_mute {
            return;
        }
        if !is_open {
            return self.answer(spot, mood);
        }
        if mood.is_store_away {
            return;
        }
        let held = self.held.as_mut().expect("a stream");
        let Some(said) = held.kept.pop_front() else { return };
        self.durable.push(said);
        if let Said::End(cause) = said {
            assert_eq!(Some(cause), self.gone, "the end that there was");
            self.held = None;
            self.follow(RouteInput::Finished(spot));
        } else if std::mem::take(&mut self.held.as_mut().expect("a stream").wants_room) {
            self.follow(RouteInput::Sendable(spot));
        }
    }

    fn answer(&mut self, spot: Spot, mood: Mood) {
        let is_final = self.chance(200);
        let declined = match () {
            () if is_final => Some(Declined::Final(MoveOutcome::SessionGone)),
            () if mood.is_store_away => Some(Declined::StoreAway),
            () if mood.refuses || mood.is_draining => Some(Declined::Elsewhere),
            () => None,
        };
        let Some(declined) = declined else {
            self.held.as_mut().expect("a stream").is_open = true;
            self.is_connected = true;
            return self.follow(RouteInput::Opened(spot));
        };
        let remains = self.leave();
        self.is_ended |= is_final;
        self.follow(RouteInput::Refused { place: spot, declined, remains });
    }

    fn lose(&mut self) {
        let Some(spot) = self.held.as_ref().map(|held| held.spot) else { return };
        let remains = self.leave();
        self.follow(RouteInput::Lost { place: spot, remains });
        if !self.route.summary().is_over {
            assert!(!self.agenda.is_empty(), "nobody looks for another worker");
        }
    }

    /// What an earlier stream has to say comes late.
    fn hear_of_the_past(&mut self) {
        let spot = Spot { worker: self.dice.random_range(0..WORKERS), stream: 0 };
        let before = (self.route.place().copied(), self.route.summary());
        let carried = VecDeque::from([Said::Packet(0)]);
        let remains = Remains { carried, is_connected: self.is_connected, within: HANDOFF_TIMEOUT };
        let input = match self.dice.random_range(0..5) {
            0 => RouteInput::Opened(spot),
            1 => RouteInput::Sendable(spot),
            2 => RouteInput::Finished(spot),
            3 => RouteInput::Lost { place: spot, remains },
            _ => {
                let declined = Declined::Final(MoveOutcome::Passport);
                RouteInput::Refused { place: spot, declined, remains }
            }
        };
        self.follow(input);
        assert_eq!((self.route.place().copied(), self.route.summary()), before);
    }

    /// The clock goes on, and the mover does what is due.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        let due: Vec<_> = self.agenda.extract_if(.., |(at, _)| *at <= self.now).collect();
        for (_, item) in due {
            let input = match item {
                Item::Turn => RouteInput::Turn(self.around()),
                Item::Check => RouteInput::Check,
            };
            self.follow(input);
        }
    }

    /// A worker changes its mood; its devices are looked at.
    fn change_mood(&mut self) {
        let worker = self.dice.random_range(0..WORKERS);
        let mood = Mood {
            is_down: self.chance(4),
            is_mute: self.chance(4),
            is_draining: self.chance(5),
            is_store_away: self.chance(4),
            refuses: self.chance(4),
        };
        self.moods[worker] = mood;
        if self.held.as_ref().is_some_and(|held| held.spot.worker == worker) {
            if mood.is_down {
                return self.lose();
            }
            self.agenda.push((self.now, Item::Turn));
        }
    }

    fn step(&mut self) {
        match self.dice.random_range(0..100) {
            0..30 => self.send(),
            30..60 => self.work(),
            60..70 => self.lose_now_and_then(),
            70..75 => self.change_mood(),
            75..80 => self.hear_of_the_past(),
            80..83 => {
                self.follow(RouteInput::Excess(true));
                self.agenda.push((self.now, Item::Turn));
            }
            83 if self.chance(3) => self.close(),
            _ => {
                let ticks = self.dice.random_range(1..10);
                self.pass(TICK * ticks);
            }
        }
    }

    fn lose_now_and_then(&mut self) {
        if self.chance(3) {
            self.lose();
        }
    }

    /// The chaos is over: everything that was sent gets to a worker, or without one the device is told.
    fn calm(&mut self) {
        let is_dark = self.chance(4);
        let mood = Mood { is_down: is_dark, ..Mood::default() };
        self.moods = [mood; WORKERS];
        if is_dark {
            self.lose();
        }
        // Twice the time for a search, since one may have stood still.
        for _ in 0..4 * HANDOFF_TIMEOUT.as_millis() / TICK.as_millis() {
            self.pass(TICK);
            (0..2 * ROOM).for_each(|_| self.work());
        }
        let summary = self.route.summary();
        if self.is_ended || self.gone.is_some() && !self.is_connected {
            assert!(summary.is_over, "it has ended");
        } else if is_dark {
            // As long as the device has no CONNACK, its handshake has the deadline.
            assert!(summary.is_over || !self.is_connected, "the search ends");
        } else if let Some(cause) = self.gone {
            assert_eq!(self.durable.last(), Some(&Said::End(cause)), "the worker knows of the end");
            assert!(summary.is_over && self.packets() == self.sent as usize, "all before the end");
        } else {
            assert!(self.route.is_settled(), "it has a worker");
            assert_eq!(self.packets(), self.sent as usize, "everything has come");
        }
    }
}

#[test]
fn a_device_has_one_place_at_a_time_and_loses_nothing_over_moves() {
    let [settled, over] = seeds::run(SEEDS, ["settled", "over"], |seed| {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        world.calm();
        let is_settled = world.route.is_settled();
        [usize::from(is_settled), usize::from(!is_settled)]
    });
    assert!(seeds::replayed().is_some() || settled > 100 && over > 100, "{settled} settled, {over} over");
}
