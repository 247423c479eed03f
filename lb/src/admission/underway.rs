//! A handshake that is under way.

use std::sync::Arc;

use tokio::time::Instant;

use super::counts::Admission;
use super::handshakes::{GivenUp, Ticket};
use super::source::Source;
use crate::reason::ShedReason;

/// A handshake under way, from accept until the session is opened.
pub(crate) struct Underway {
    admission: Arc<Admission>,
    ticket: Ticket,
    since: Instant,
}

impl Underway {
    /// Begins a handshake from this source. Where there are too many, another one is given up for it, and why.
    pub(crate) fn begin(admission: &Arc<Admission>, source: Source) -> (Self, Option<ShedReason>) {
        let is_scarce = admission.is_scarce();
        let (ticket, is_instead) = admission.handshakes.begin(source, is_scarce);
        let reason = if is_scarce { ShedReason::ConnectionsMax } else { ShedReason::HandshakesMax };
        admission.metrics.handshakes.inc();
        let underway = Self { admission: admission.clone(), ticket, since: Instant::now() };
        (underway, is_instead.then_some(reason))
    }

    /// When the connection was accepted.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Where the connection comes from.
    pub(crate) fn source(&self) -> Source {
        self.ticket.source()
    }

    /// To be waited for beside the handshake.
    pub(crate) fn given_up(&self) -> Arc<GivenUp> {
        self.ticket.given_up()
    }

    /// The handshake has come further.
    pub(crate) fn progress(&mut self) {
        self.admission.handshakes.progress(&mut self.ticket);
    }

    /// It is known where the connection comes from: another one from there is given up if there are too many, and why.
    pub(crate) fn bound_source(&self) -> Option<ShedReason> {
        self.admission.handshakes.bound_source(&self.ticket).then_some(ShedReason::HandshakesMax)
    }

    /// The connection is from there, as a load balancer in front says.
    pub(crate) fn belongs_to(&mut self, source: Source) {
        self.admission.handshakes.belongs_to(&mut self.ticket, source);
    }

    /// The session is opened.
    pub(crate) fn succeed(self) {
        self.admission.metrics.handshake_seconds.observe(self.since.elapsed().as_secs_f64());
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.admission.handshakes.end(&self.ticket);
        self.admission.metrics.handshakes.dec();
    }
}
