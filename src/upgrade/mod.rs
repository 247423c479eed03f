//! How a process takes the place of another one at the same addresses, so that nobody who connects is refused: the listening
//! sockets go from one to the other by a Unix socket (`runtime.upgrade_socket`), or are held by systemd. `predecessor.rs` is
//! the new process's side, `successor.rs` that of the one before; `wire.rs` is what they say.
//!
//! Who connects waits in the queue of the listening socket, which both have, so that it makes no difference which of them
//! accepts. Until the new one serves, the one before keeps its sockets: when the new one fails or is killed, it goes on.

mod arrival;
mod predecessor;
mod successor;
mod systemd;
mod wire;

use std::net::TcpListener;

use prometheus_client::metrics::counter::Counter;

pub(crate) use self::arrival::Arrival;
pub(crate) use self::successor::{Door, Successor, Successors, Way};
pub(crate) use self::systemd::receive;

/// Listening sockets by name.
pub(crate) type Sockets = Vec<(String, TcpListener)>;

/// The same sockets again, for somebody else.
pub(crate) fn duplicate(sockets: &[(String, TcpListener)]) -> std::io::Result<Sockets> {
    sockets.iter().map(|(name, socket)| Ok((name.clone(), socket.try_clone()?))).collect()
}

link::labels! {
    /// How an upgrade went.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) enum Outcome {
        /// This process has taken the place of another one.
        TakenOver = "taken_over",
        /// Another process has begun to take the place of this one, and has gone before it served.
        GivenUp = "given_up",
        /// Another process was not let, since it is none that may, or one is at it already.
        Refused = "refused",
    }
}

link::metrics! {
    /// What is counted.
    #[derive(Clone, Debug)]
    pub(crate) struct Upgrades in "tidegate" {
        /// Processes that took another one's place at its addresses, or began to.
        upgrades: Counter[outcome: Outcome];
    }
}

impl Upgrades {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.upgrades.count((outcome,));
    }
}
