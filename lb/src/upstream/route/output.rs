//! What a route wants done.

use link::CloseCause;
use mqtt::ReasonCode;
use tokio::time::{Duration, Instant};

use super::place::Place;
use crate::upstream::metrics::{MoveOutcome, MoveReason};
use link::mux::DevicePacket;

/// What a [`super::Route`] wants done about its place before it is told anything else.
pub(in crate::upstream) enum Step<P: Place> {
    /// Nothing.
    Rest,
    /// To give a packet to the link; answered with [`super::RouteInput::Taken`] or [`super::RouteInput::NotTaken`].
    Send(DevicePacket),
    /// To tell the link of the end of the connection.
    Tell(CloseCause),
    /// To take the stream off its link; answered with [`super::RouteInput::GivenUp`], unless the stream is over already and an event says
    /// how.
    GiveUp(Option<MoveReason>),
    /// To take this stream off its link for nobody.
    Abandon(P),
    /// To look at the circumstances again; answered with [`super::RouteInput::Turn`].
    LookAgain,
    /// To ask the best worker that is not passed over; answered with [`super::RouteInput::Placed`], [`super::RouteInput::NotPlaced`],
    /// [`super::RouteInput::NoWorker`] or [`super::RouteInput::Unsigned`].
    Ask(P::Carried),
    /// To tell the device that its connection ends for this reason.
    End(ReasonCode),
}

/// What the mover has to do next about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Next {
    /// Nothing, until something happens.
    Nothing,
    /// To come to it as soon as may be.
    Now,
    /// To come to it after this time.
    Later(Duration),
    /// To come to it after a time that grows with these attempts.
    BackOff(u32),
    /// To see that there was an answer by then.
    Check(Instant),
    /// To come to it when its worker should have heard of the end, unless it is gone by then.
    Leave,
}

/// An attempt to move a device that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Moved {
    pub(in crate::upstream) reason: MoveReason,
    pub(in crate::upstream) outcome: MoveOutcome,
    /// From the loss of the worker until another had the session.
    pub(in crate::upstream) took: Option<Duration>,
}

/// What follows from one [`super::RouteInput`].
pub(in crate::upstream) struct RouteOutputs<P: Place> {
    /// What is to be done before the next input.
    pub(in crate::upstream) step: Step<P>,
    /// What the mover has to do.
    pub(in crate::upstream) next: Next,
    /// For the metrics.
    pub(in crate::upstream) moved: Option<Moved>,
    /// A worker did not take a device that was to relieve another.
    pub(in crate::upstream) had_setback: bool,
    /// The device may send more than before.
    pub(in crate::upstream) wakes: bool,
    /// The packet was dropped: QoS 0 that would stop the rest.
    pub(in crate::upstream) is_dropped: bool,
    /// The right to ask goes to others, though there is no answer.
    pub(in crate::upstream) yields_permit: bool,
}

impl<P: Place> Default for RouteOutputs<P> {
    fn default() -> Self {
        Self {
            step: Step::Rest,
            next: Next::Nothing,
            moved: None,
            had_setback: false,
            wakes: false,
            is_dropped: false,
            yields_permit: false,
        }
    }
}

impl<P: Place> From<Step<P>> for RouteOutputs<P> {
    fn from(step: Step<P>) -> Self {
        Self { step, ..Self::default() }
    }
}

impl<P: Place> From<Next> for RouteOutputs<P> {
    fn from(next: Next) -> Self {
        Self { next, ..Self::default() }
    }
}

/// What others count of a [`super::Route`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::upstream) struct Summary {
    /// The device has no worker, or asks for one after a search.
    pub(in crate::upstream) is_moving: bool,
    /// A worker has to hear yet that the device is gone.
    pub(in crate::upstream) is_closing: bool,
    /// Nothing more is to be done.
    pub(in crate::upstream) is_over: bool,
}
