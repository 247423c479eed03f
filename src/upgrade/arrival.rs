//! How a process comes to its place: with sockets that were there before it, and perhaps with another process that has to make
//! room.

use std::path::Path;

use link::{Bind, Inherited};

use super::predecessor::Predecessor;
use super::successor::Door;
use super::{Outcome, Sockets, Upgrades, systemd};
use crate::exit::Failure;

/// What there is when a process starts.
pub(crate) struct Arrival {
    inherited: Inherited,
    predecessor: Option<Predecessor>,
    /// For the process after it.
    door: Option<Door>,
    /// Another process may still hold what this one needs, for a moment.
    follows: bool,
}

impl Arrival {
    /// Looks for another process at `upgrade_socket`, if there is to be one, and for sockets of systemd. `listened` is where this
    /// one is to listen.
    pub(crate) async fn come(
        upgrade_socket: Option<&Path>,
        command: &str,
        listened: &[(String, &Bind)],
    ) -> Result<Self, Failure> {
        let of_systemd = systemd::sockets(listened)?;
        let mut arrival = Self::with(Inherited::default(), upgrade_socket)?;
        if let Some(path) = upgrade_socket
            && let Some((predecessor, sockets)) = Predecessor::find(path, command).await?
        {
            arrival.follows = true;
            arrival.predecessor = Some(predecessor);
            arrival.inherited = sockets;
        }
        arrival.inherited.extend(of_systemd);
        Ok(arrival)
    }

    /// Comes back with its own sockets after another process has failed to take its place.
    pub(crate) fn again(sockets: Sockets, upgrade_socket: Option<&Path>) -> Result<Self, Failure> {
        Ok(Self { follows: true, ..Self::with(Inherited::new(sockets), upgrade_socket)? })
    }

    fn with(inherited: Inherited, upgrade_socket: Option<&Path>) -> Result<Self, Failure> {
        let make = |path: &Path| {
            Door::make(path).map_err(|error| {
                let path = path.display();
                Failure::unavailable(format!(
                    "runtime.upgrade_socket = \"{path}\": cannot be made: {error}; name a file in a directory of this user"
                ))
            })
        };
        let door = upgrade_socket.map(make).transpose()?;
        Ok(Self { inherited, predecessor: None, door, follows: false })
    }

    /// The sockets.
    pub(crate) fn inherited(&mut self) -> &mut Inherited {
        &mut self.inherited
    }

    /// Whether another process serves meanwhile.
    pub(crate) fn is_replacing(&self) -> bool {
        self.predecessor.as_ref().is_some_and(|predecessor| !predecessor.has_gone())
    }

    /// Whether what is taken now may be free in a moment.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }

    /// To be called when all that can be ready is: from then on this process may have what the other one had.
    pub(crate) async fn take_over(&mut self) -> Result<(), Failure> {
        match &mut self.predecessor {
            Some(predecessor) => predecessor.take_over().await,
            None => Ok(()),
        }
    }

    /// This process serves: whoever it replaces stops. Answers the door for the next one.
    pub(crate) async fn serving(self, upgrades: &Upgrades) -> Option<Door> {
        for (name, address) in self.inherited.left() {
            tracing::info!(name, ?address, "nobody listens there any more");
        }
        drop(self.inherited);
        if let Some(predecessor) = self.predecessor {
            predecessor.serving().await;
            upgrades.count(Outcome::TakenOver);
        }
        self.door
    }
}
