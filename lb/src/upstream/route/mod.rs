//! Where one device is among the workers, as a pure core: [`Route::handle`] takes what happened and answers what is to be done
//! next. It holds no lock, wakes nobody and knows workers only by [`Place`]; [`super::device::Device`] does what it says.
//!
//! ```text
//! Arriving -- placed --> At -- refused, lost, given up --> Searching <--+
//!    |                    ^                                 |           | refused, lost,
//!    +-- its turn --------|---> Searching         placed <--+           | given up
//!                         +------- opened ------- Asking ---------------+
//! ```
//! From everywhere to `Over`: the end is known, the refusal is for good, or no worker took the session in time.

mod backlog;
mod input;
mod output;
mod place;
mod search;
#[cfg(test)]
mod simulation;

use bytes::Bytes;
use link::CloseCause;
use link::mux::DevicePacket;
use mqtt::{OwnedFrame, ReasonCode};
use tokio::time::{Duration, Instant};

use self::backlog::Backlog;
pub(super) use self::input::{Circumstances, Declined, Remains, RouteInput};
pub(super) use self::output::{Moved, Next, RouteOutputs, Step, Summary};
pub(super) use self::place::Place;
use self::search::Search;
use super::metrics::{MoveOutcome, MoveReason};

/// How long a device whose passport has ended waits for another one, before it is resumed with what it has.
const RENEWAL: Duration = Duration::from_secs(2);

/// How long a device whose worker leaves waits before it looks again for another.
const NOBODY_ELSE: Duration = Duration::from_millis(250);

/// DISCONNECT with Reason Code 0x00, in every version.
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// Where one device is, and what it has sent that no link has taken.
pub(super) struct Route<P: Place> {
    whereabouts: Whereabouts<P>,
    backlog: Backlog,
    /// The device is gone.
    farewell: Option<Box<Farewell>>,
    /// The worker of the device has too many, and this device may go.
    is_excess: bool,
}

enum Whereabouts<P: Place> {
    /// The device has just come, and no worker was asked.
    Arriving,
    /// A worker has the session, or is the first that was asked for it.
    At(P),
    /// After a search a worker is asked for the session.
    Asking(P, Box<Search<P>>),
    /// The device has no worker.
    Searching(Box<Search<P>>),
    /// Nothing more is to be done. Final.
    Over,
}

/// The end of the device's connection.
struct Farewell {
    cause: CloseCause,
    since: Instant,
    /// The link keeps it now.
    is_told: bool,
}

impl<P: Place> Route<P> {
    pub(super) fn new() -> Self {
        Self {
            whereabouts: Whereabouts::Arriving,
            backlog: Backlog::default(),
            farewell: None,
            is_excess: false,
        }
    }

    /// The stream that the device has.
    pub(super) fn place(&self) -> Option<&P> {
        match &self.whereabouts {
            Whereabouts::At(place) | Whereabouts::Asking(place, _) => Some(place),
            Whereabouts::Arriving | Whereabouts::Searching(_) | Whereabouts::Over => None,
        }
    }

    /// The stream that the next packet of the device can go to at once, since none is before it.
    pub(super) fn way(&self) -> Option<&P> {
        self.place().filter(|_| self.backlog.is_empty())
    }

    pub(super) fn is_at(&self, place: &P) -> bool {
        self.place() == Some(place)
    }

    /// Whether more packets of the device may come.
    pub(super) fn has_room(&self) -> bool {
        if self.place().is_some() { self.backlog.is_empty() } else { !self.backlog.is_full() }
    }

    /// Whether a worker has the session, and nothing that this end knows of is on its way there.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.whereabouts, Whereabouts::At(_)) && self.farewell.is_none() && self.backlog.is_empty()
    }

    /// Whether the device is gone, or has to go.
    pub(super) fn is_ending(&self) -> bool {
        self.farewell.is_some() || matches!(self.whereabouts, Whereabouts::Over)
    }

    /// Whether a worker is asked for the session after a search.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.whereabouts, Whereabouts::Asking(..))
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            is_moving: matches!(self.whereabouts, Whereabouts::Asking(..) | Whereabouts::Searching(_)),
            is_closing: self.farewell.is_some(),
            is_over: matches!(self.whereabouts, Whereabouts::Over),
        }
    }

    /// The workers that are not to be asked in this round.
    pub(super) fn passed_over(&self) -> &[P::Worker] {
        match &self.whereabouts {
            Whereabouts::Searching(search) | Whereabouts::Asking(_, search) => &search.passed_over,
            Whereabouts::Arriving | Whereabouts::At(_) | Whereabouts::Over => &[],
        }
    }

    /// Takes one input. When nothing more is to be done, none has any effect.
    pub(super) fn handle(&mut self, input: RouteInput<P>, now: Instant) -> RouteOutputs<P> {
        if matches!(self.whereabouts, Whereabouts::Over) {
            return RouteOutputs::default();
        }
        match input {
            RouteInput::Sent(unsent) => self.keep(unsent),
            RouteInput::Taken => self.send_on(),
            RouteInput::NotTaken(unsent) => {
                self.backlog.put_back(unsent);
                RouteOutputs::default()
            }
            RouteInput::Closed { cause, is_connected } => self.close(cause, is_connected, now),
            RouteInput::Turn(circumstances) => self.take_turn(&circumstances, now),
            RouteInput::Placed { place, answer_within } => self.settle(place, answer_within, now),
            RouteInput::NotPlaced { worker, carried } => self.ask_another(worker, carried),
            RouteInput::NoWorker(carried) => self.ask_later(carried),
            RouteInput::Unsigned => self.end(ReasonCode::ServerUnavailable),
            RouteInput::GivenUp { why, remains } => self.leave(why, remains, now),
            RouteInput::Opened(place) => self.open(&place, now),
            RouteInput::Sendable(place) if self.is_at(&place) => self.send_on(),
            RouteInput::Refused { place, declined, remains } if self.is_at(&place) => {
                self.refuse(declined, remains, now)
            }
            RouteInput::Lost { place, remains } if self.is_at(&place) => self.lose(remains, now),
            RouteInput::Finished(place) if self.is_at(&place) => self.finish(),
            RouteInput::Check => self.check(now),
            RouteInput::Excess(is_excess) => {
                self.is_excess = is_excess;
                RouteOutputs::default()
            }
            // Of a stream that the device has left.
            RouteInput::Sendable(_)
            | RouteInput::Refused { .. }
            | RouteInput::Lost { .. }
            | RouteInput::Finished(_) => RouteOutputs::default(),
        }
    }

    /// Has a packet wait. While the device is nowhere QoS 0 is dropped in time, so that it does not stop the rest.
    fn keep(&mut self, mut unsent: DevicePacket) -> RouteOutputs<P> {
        if self.place().is_none() {
            if unsent.is_qos0_publish() && self.backlog.is_half_full() {
                return RouteOutputs { is_dropped: true, ..RouteOutputs::default() };
            }
            unsent.unalias();
        }
        self.backlog.push(unsent);
        RouteOutputs::default()
    }

    /// Gives the link the first of what waits, and behind everything the end of the connection.
    fn send_on(&mut self) -> RouteOutputs<P> {
        if self.place().is_none() {
            return RouteOutputs::default();
        }
        if let Some(unsent) = self.backlog.pop() {
            return Step::Send(unsent).into();
        }
        match self.farewell.as_mut().filter(|farewell| !farewell.is_told) {
            Some(farewell) => {
                farewell.is_told = true;
                Step::Tell(farewell.cause).into()
            }
            None => RouteOutputs::default(),
        }
    }

    /// The device is gone. Its worker learns it, whichever has the session then.
    fn close(&mut self, cause: CloseCause, is_connected: bool, now: Instant) -> RouteOutputs<P> {
        if self.farewell.is_some() {
            return RouteOutputs::default();
        }
        if self.place().is_none() && !is_connected {
            // No worker has heard of it, or none has answered and none will.
            return self.finish();
        }
        if cause == CloseCause::Unanswered {
            // What its CONNECT may have had for an effect is to leave no Will.
            let disconnect = OwnedFrame::from_bytes(Bytes::from_static(&DISCONNECT), u32::MAX);
            disconnect.into_iter().flatten().for_each(|packet| drop(self.keep(packet.into())));
        }
        self.farewell = Some(Box::new(Farewell { cause, since: now, is_told: false }));
        // Its worker may never answer.
        let next = if is_connected { Next::Nothing } else { Next::Leave };
        RouteOutputs { next, ..self.send_on() }
    }

    fn take_turn(&mut self, around: &Circumstances, now: Instant) -> RouteOutputs<P> {
        let is_excess = std::mem::take(&mut self.is_excess);
        if self.place().is_some() {
            return self.consider_leaving(around, is_excess, now);
        }
        if self.farewell.is_some() && !around.is_connected {
            return self.finish();
        }
        if matches!(self.whereabouts, Whereabouts::Arriving) {
            let search = Search::new(now, now + around.handoff_timeout);
            self.whereabouts = Whereabouts::Searching(Box::new(search));
        }
        let Whereabouts::Searching(search) = &mut self.whereabouts else { return RouteOutputs::default() };
        search.go_on(now);
        if around.is_connected && now >= search.deadline {
            let moved = Moved { reason: search.reason, outcome: MoveOutcome::Timeout, took: None };
            let ended = self.end(ReasonCode::ServerShuttingDown);
            return RouteOutputs { moved: Some(moved), ..ended };
        }
        search.is_resume = around.is_connected;
        let waits_for_passport = around.is_stale && now.saturating_duration_since(search.since) < RENEWAL;
        if around.is_connected && (waits_for_passport || around.leaves_much_unread) {
            return search.back_off().into();
        }
        Step::Ask(std::mem::take(&mut search.carried)).into()
    }

    /// Leaves the worker if that is about to leave, has too many, or is without its store.
    fn consider_leaving(&mut self, around: &Circumstances, is_excess: bool, now: Instant) -> RouteOutputs<P> {
        if let Some(farewell) = self.farewell.as_ref().filter(|_| !around.is_connected) {
            let waited = now.saturating_duration_since(farewell.since);
            let left = around.handoff_timeout.saturating_sub(waited);
            if !left.is_zero() {
                return Next::Later(left).into();
            }
            return match self.be_over() {
                Whereabouts::At(place) | Whereabouts::Asking(place, _) => Step::Abandon(place).into(),
                Whereabouts::Arriving | Whereabouts::Searching(_) | Whereabouts::Over => {
                    RouteOutputs::default()
                }
            };
        }
        let reason = if around.is_draining {
            MoveReason::Drain
        } else if is_excess && around.is_crowded && self.is_settled() {
            MoveReason::Rebalance
        } else if around.is_forsaken {
            MoveReason::StoreAway
        } else {
            return RouteOutputs::default();
        };
        if !around.has_other {
            return Next::Later(NOBODY_ELSE).into();
        }
        Step::GiveUp(Some(reason)).into()
    }

    /// A worker is asked for the session.
    fn settle(&mut self, place: P, answer_within: Duration, now: Instant) -> RouteOutputs<P> {
        match std::mem::replace(&mut self.whereabouts, Whereabouts::Over) {
            Whereabouts::Searching(mut search) => {
                search.ask(now, now + answer_within);
                let next = Next::Check(search.answer_by);
                self.whereabouts = Whereabouts::Asking(place, search);
                RouteOutputs { next, ..self.send_on() }
            }
            Whereabouts::Arriving => {
                self.whereabouts = Whereabouts::At(place);
                self.send_on()
            }
            // Nobody is asked for a device that has a place.
            other => {
                self.whereabouts = other;
                RouteOutputs::default()
            }
        }
    }

    fn ask_another(&mut self, not: P::Worker, carried: P::Carried) -> RouteOutputs<P> {
        let Whereabouts::Searching(search) = &mut self.whereabouts else { return RouteOutputs::default() };
        search.passed_over.push(not);
        Step::Ask(carried).into()
    }

    fn ask_later(&mut self, carried: P::Carried) -> RouteOutputs<P> {
        let Whereabouts::Searching(search) = &mut self.whereabouts else { return RouteOutputs::default() };
        let is_renewed = std::mem::take(&mut search.is_store_away) && !search.passed_over.is_empty();
        search.passed_over.clear();
        if is_renewed {
            // The wait for those without their store is over already.
            return Step::Ask(carried).into();
        }
        search.carried = carried;
        search.back_off().into()
    }

    fn open(&mut self, at: &P, now: Instant) -> RouteOutputs<P> {
        if !self.is_at(at) {
            return RouteOutputs::default();
        }
        let mut moved = None;
        self.whereabouts = match std::mem::replace(&mut self.whereabouts, Whereabouts::Over) {
            Whereabouts::Asking(place, search) => {
                let took = now.saturating_duration_since(search.since);
                moved = search.is_resume.then_some(Moved {
                    reason: search.reason,
                    outcome: MoveOutcome::Moved,
                    took: Some(took),
                });
                Whereabouts::At(place)
            }
            other => other,
        };
        RouteOutputs { moved, ..self.send_on() }
    }

    fn refuse(&mut self, declined: Declined, remains: Remains<P>, now: Instant) -> RouteOutputs<P> {
        if let Declined::Final(outcome) = declined {
            let moved = remains.is_connected.then_some(Moved { reason: self.reason(), outcome, took: None });
            return RouteOutputs { moved, ..self.finish() };
        }
        let Some((worker, search)) = self.take_off(remains, now) else { return RouteOutputs::default() };
        search.passed_over.push(worker);
        let had_setback = search.reason == MoveReason::Rebalance;
        let next = match declined {
            Declined::StoreAway => search.stand_still(),
            Declined::Elsewhere | Declined::Final(_) => Next::Now,
        };
        RouteOutputs { next, had_setback, wakes: true, ..RouteOutputs::default() }
    }

    /// The stream is over, the device goes on.
    fn lose(&mut self, remains: Remains<P>, now: Instant) -> RouteOutputs<P> {
        let Some(_) = self.take_off(remains, now) else { return RouteOutputs::default() };
        RouteOutputs { next: Next::Now, wakes: true, ..RouteOutputs::default() }
    }

    /// The device has left its worker for this reason, or because that does not answer.
    fn leave(&mut self, why: Option<MoveReason>, remains: Remains<P>, now: Instant) -> RouteOutputs<P> {
        let Some((worker, search)) = self.take_off(remains, now) else { return RouteOutputs::default() };
        search.passed_over.push(worker);
        let mut outputs = RouteOutputs { wakes: true, ..RouteOutputs::default() };
        match why {
            Some(reason) => {
                search.reason = reason;
                outputs.step = Step::LookAgain;
            }
            None => {
                outputs.had_setback = search.reason == MoveReason::Rebalance;
                outputs.next = Next::Now;
            }
        }
        outputs
    }

    /// Has the device without a place, and makes what it has sent ready for the next worker. `None` where nobody looks for one,
    /// since the device has gone before it had a session.
    fn take_off(&mut self, remains: Remains<P>, now: Instant) -> Option<(P::Worker, &mut Search<P>)> {
        if self.farewell.is_some() && !remains.is_connected {
            self.finish();
            return None;
        }
        let (place, mut search) = match std::mem::replace(&mut self.whereabouts, Whereabouts::Over) {
            Whereabouts::At(place) => (place, Box::new(Search::new(now, now + remains.within))),
            Whereabouts::Asking(place, search) => (place, search),
            other => {
                self.whereabouts = other;
                return None;
            }
        };
        if let Some(farewell) = &mut self.farewell {
            // The link may have been over before it was told.
            farewell.is_told = P::tells_end(&remains.carried);
        }
        self.backlog.unalias();
        search.carried = remains.carried;
        self.whereabouts = Whereabouts::Searching(search);
        match &mut self.whereabouts {
            Whereabouts::Searching(search) => Some((place.worker(), search)),
            _ => None,
        }
    }

    /// Leaves a worker that has not answered a resume in time.
    fn check(&mut self, now: Instant) -> RouteOutputs<P> {
        match &self.whereabouts {
            Whereabouts::Asking(_, search) if now >= search.answer_by => match search.is_resume {
                true => Step::GiveUp(None).into(),
                // CONNECT may take as long as the edge lets it, but not at the expense of others.
                false => RouteOutputs { yields_permit: true, ..RouteOutputs::default() },
            },
            _ => RouteOutputs::default(),
        }
    }

    /// Why the device is moved.
    fn reason(&self) -> MoveReason {
        match &self.whereabouts {
            Whereabouts::Asking(_, search) | Whereabouts::Searching(search) => search.reason,
            Whereabouts::Arriving | Whereabouts::At(_) | Whereabouts::Over => MoveReason::Lost,
        }
    }

    fn end(&mut self, reason: ReasonCode) -> RouteOutputs<P> {
        self.finish();
        Step::End(reason).into()
    }

    fn finish(&mut self) -> RouteOutputs<P> {
        self.be_over();
        RouteOutputs::default()
    }

    /// Nothing more is to be done; where the device was.
    fn be_over(&mut self) -> Whereabouts<P> {
        self.backlog = Backlog::default();
        self.farewell = None;
        std::mem::replace(&mut self.whereabouts, Whereabouts::Over)
    }
}
