//! What a link needs of a stream beyond [`link::Stream`].

use std::sync::Arc;

use link::Outgoing;
use mqtt::ReasonCode;
use mqtt::frame::Frame;

use super::last_words::is_last_word;
use super::{State, WorkerStream, take_effects};
use crate::hub::work::departure::Departure;
use crate::retained::due::DueNews;
use crate::serving::Serving;
use crate::session::{Input, Outputs};

/// How far a stream is, for whoever serves it over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The store has been asked for the session.
    Opening,
    /// It has its session.
    Serving,
    /// It is over, for this reason.
    Ended(ReasonCode),
}

/// What became of a packet that came by a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Its effect is in the store, or it has none, or an answer to the device tells.
    Done,
    /// The stream tells when its effect is in the store, see [`WorkerStream::take_durable`].
    Later,
}

impl WorkerStream {
    /// How far it is.
    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::AwaitingClaim(_) => Phase::Opening,
            State::Serving(_) => Phase::Serving,
            State::Ended(reason) => Phase::Ended(*reason),
        }
    }

    /// As [`link::Stream::send`], for a packet that came as frame `number`.
    pub(crate) fn take(&mut self, number: u64, packet: Frame<'_>, out: &mut Outgoing) -> Taken {
        if self.is_yielding() && !is_last_word(packet) {
            // It has no answer, and comes again on the connection that has the session now.
            if let State::Serving(serving) = &mut self.state {
                serving.session.skip(packet);
            }
            return Taken::Done;
        }
        let State::Serving(serving) = &mut self.state else { return Taken::Done };
        let (mut effects, spare) = take_effects();
        let outputs = &mut Outputs { wire: out, effects: &mut effects };
        serving.session.handle(Input::Packet(packet), self.hub.now(), outputs);
        if self.run_for(number, effects, spare, out) == 0 { Taken::Later } else { Taken::Done }
    }

    /// Calls `report` with the frames whose effect has come into the store.
    pub(crate) fn take_durable(&mut self, report: impl FnMut(u64)) {
        if let State::Serving(Serving { rare: Some(rare), .. }) = &mut self.state {
            rare.durable.drain(..).for_each(report);
        }
    }

    /// What the edge is to be told of retained messages that are still to be sent, if there is news; with `is_sent` it has all that
    /// was written.
    pub(crate) fn retained_news(&mut self, is_sent: bool) -> Option<DueNews> {
        match &mut self.state {
            State::Serving(serving) => serving.retained_news(&self.hub, is_sent),
            _ => None,
        }
    }

    /// Who is to be told when the session is let go, whatever ends the stream.
    pub(crate) fn tell_departure(&mut self, departure: Arc<Departure>) {
        self.departure = Some(departure);
    }

    /// The device's connection ended.
    pub(crate) fn leave_for_good(&mut self) {
        self.lost(0);
        // It was over before.
        if let Some(departure) = self.departure.take() {
            departure.finish();
        }
    }

    /// The device's connection may go on at another worker, for `grace_ms`.
    pub(crate) fn hand_over(mut self, grace_ms: u64) {
        self.lost(grace_ms);
    }

    /// Ends the connection for a reason of ours.
    pub(crate) fn end_for(&mut self, reason: ReasonCode, out: &mut Outgoing) {
        self.drive(Input::End(reason), out);
    }
}
