//! What a route is told.

use link::CloseCause;
use tokio::time::Duration;

use super::place::Place;
use crate::upstream::metrics::{MoveOutcome, MoveReason};
use link::mux::DevicePacket;

/// What a [`super::Route`] is told.
pub(in crate::upstream) enum RouteInput<P: Place> {
    /// The device has sent this, and no link has taken it.
    Sent(DevicePacket),
    /// The link has taken the packet of [`super::Step::Send`].
    Taken,
    /// The link has not: it has no room, or the stream is over.
    NotTaken(DevicePacket),
    /// The device is gone.
    Closed { cause: CloseCause, is_connected: bool },
    /// The mover has come to the device.
    Turn(Circumstances),
    /// A link asks its worker for the session, as [`super::Step::Ask`] said. The worker has so long to answer.
    Placed { place: P, answer_within: Duration },
    /// A link of this worker opens no stream.
    NotPlaced { worker: P::Worker, carried: P::Carried },
    /// Every worker that there is was asked, or there is none.
    NoWorker(P::Carried),
    /// No passport can be made for the worker.
    Unsigned,
    /// The stream was taken off its link, as [`super::Step::GiveUp`] said.
    GivenUp { why: Option<MoveReason>, remains: Remains<P> },
    /// The worker has the session.
    Opened(P),
    /// The link has room for the stream.
    Sendable(P),
    /// The worker does not take the session.
    Refused { place: P, declined: Declined, remains: Remains<P> },
    /// The link is over.
    Lost { place: P, remains: Remains<P> },
    /// The stream is over and nothing follows.
    Finished(P),
    /// The time for an answer may be up.
    Check,
    /// The worker has too many devices, and whether this one may go.
    Excess(bool),
}

/// What remains of a stream that has ended under a device.
pub(in crate::upstream) struct Remains<P: Place> {
    /// For the next one.
    pub(in crate::upstream) carried: P::Carried,
    /// The device is there to go on.
    pub(in crate::upstream) is_connected: bool,
    /// How long a search that begins now may last.
    pub(in crate::upstream) within: Duration,
}

/// What a worker that does not take a session leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Declined {
    /// Another worker may take it now.
    Elsewhere,
    /// The worker is without its store; another would hardly say otherwise at once.
    StoreAway,
    /// None will ever take it.
    Final(MoveOutcome),
}

/// What the mover sees around a device when its turn comes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::upstream) struct Circumstances {
    /// The device has its CONNACK, or has it waiting: then the session is resumed and not opened anew.
    pub(in crate::upstream) is_connected: bool,
    /// Its passport has ended.
    pub(in crate::upstream) is_stale: bool,
    /// It has more unread than a resume is worth.
    pub(in crate::upstream) leaves_much_unread: bool,
    /// Its link is about to end.
    pub(in crate::upstream) is_draining: bool,
    /// Its worker has too many, and a move costs little.
    pub(in crate::upstream) is_crowded: bool,
    /// Its worker is without its store, and another is not.
    pub(in crate::upstream) is_forsaken: bool,
    /// There is a worker besides its own.
    pub(in crate::upstream) has_other: bool,
    /// How long a search may last, and how long a worker may take to hear of the end.
    pub(in crate::upstream) handoff_timeout: Duration,
}
