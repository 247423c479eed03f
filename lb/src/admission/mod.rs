//! Admission: whom an edge serves when more come than it can serve.
//!
//! Before anything is paid for a connection it has to be within rates for its listener and its source ([`SourceRates`]) and
//! within bounds on connections, in all and of its source ([`SourceConnections`]), and on handshakes under way ([`Handshakes`]). What a handshake costs, it pays when it has a turn ([`Turns`]), of
//! which there are as many as threads for them. Those who wait for one are served newest first: a client that has waited long
//! is about to give up, and what is paid for it is lost, so that first come, first served is an outage that feeds itself. Sources
//! take turns, so that nobody gets in the way of others by asking often. What they ask of a worker, a session, they ask for in the same
//! order, those first who say that they return to one, and as many at once as are answered without delay ([`Openings`]). Threads that let
//! connections in give way to those that serve connected devices ([`stretch`]).

mod admitted;
mod counts;
mod handshakes;
mod openings;
mod rates;
mod source;
mod source_connections;
pub(crate) mod stretch;
mod turns;
mod underway;

pub(crate) use self::admitted::{Admitted, Door};
pub(crate) use self::counts::{Admission, AdmissionMetrics};
#[cfg(test)]
pub(crate) use self::openings::OVERDUE;
pub(crate) use self::openings::{Gauges, Opening};
pub(crate) use self::source::Source;
pub(crate) use self::turns::{Line, Turn};
pub(crate) use self::underway::Underway;
