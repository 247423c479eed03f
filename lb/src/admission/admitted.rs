//! A connection that was let in.

use std::net::SocketAddr;
use std::sync::Arc;

use super::counts::Admission;
use super::source_connections::SourceConnection;
use crate::reason::ShedReason;

/// Where connections come in.
pub(crate) trait Door {
    /// Who is let in.
    fn admission(&self) -> &Arc<Admission>;
}

/// A connection within `connections_max` and `source_connections_max`, from accept to close.
pub(crate) struct Admitted<D: Door>(Arc<D>, Option<Box<SourceConnection>>);

impl<D: Door> Admitted<D> {
    /// Counts a connection in, or says why not.
    pub(crate) fn admit(door: &Arc<D>) -> Result<Self, ShedReason> {
        let admitted = Self(door.clone(), None);
        if door.admission().enter() { Ok(admitted) } else { Err(ShedReason::ConnectionsMax) }
    }

    /// Counts the connection in where it comes from, or says why not.
    pub(crate) fn comes_from(&mut self, peer: SocketAddr) -> Result<(), ShedReason> {
        let admission = self.0.admission();
        if admission.rates.as_ref().is_some_and(|rates| !rates.admits(peer)) {
            return Err(ShedReason::SourceRate);
        }
        if let Some(sources) = &admission.sources {
            self.1 = sources.take(peer).map_err(|_| ShedReason::SourceConnectionsMax)?;
        }
        Ok(())
    }

    /// Where the connection came in.
    pub(crate) fn door(&self) -> &Arc<D> {
        &self.0
    }
}

impl<D: Door> Drop for Admitted<D> {
    fn drop(&mut self) {
        self.0.admission().leave();
    }
}
