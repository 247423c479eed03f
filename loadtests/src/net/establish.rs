//! Opens many connections, and subscribes them, before a measurement begins.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mqtt::{Packet, ProtocolVersion, QoS};

use super::dial::Dial;
use super::packet::{self, ConnectOptions};
use super::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::run::Counters;

/// Connections under way at a time while a scenario prepares itself.
const PENDING_MAX: usize = 64;
/// Without any progress for this long, preparing fails.
const STANDSTILL: Duration = Duration::from_secs(20);
const TURN: Duration = Duration::from_millis(100);

/// A connection that the broker accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Established {
    /// Its number in the reactor.
    pub(crate) id: ConnectionId,
    /// How many QoS 1 and 2 messages the broker takes at a time.
    pub(crate) receive_max: u16,
}

#[derive(Debug, Default)]
struct Preparing {
    accepted: Vec<Established>,
    answered: usize,
    failure: Option<String>,
}

impl Handler for Preparing {
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        match packet {
            Packet::ConnAck(connack) if !connack.reason.is_error() => {
                self.accepted.push(Established { id: link.id, receive_max: packet::receive_max(&connack) });
            }
            Packet::SubAck(_) => self.answered += 1,
            _ => {}
        }
        self.failure = self.failure.take().or_else(|| packet::refusal(&packet));
    }

    fn closed(&mut self, _id: ConnectionId, error: Option<io::Error>) {
        if let Some(error) = error {
            self.failure.get_or_insert_with(|| format!("connection lost: {error}"));
        }
    }
}

impl Preparing {
    /// Turns the reactor until `done` or nothing has moved for [`STANDSTILL`].
    fn turn_until(
        &mut self,
        reactor: &mut Reactor,
        mut done: impl FnMut(&Self, &mut Reactor) -> Result<bool>,
    ) -> Result<()> {
        let (mut moved, mut before) = (Instant::now(), (0, 0, 0));
        while !done(self, reactor)? {
            reactor.flush(self);
            reactor.turn(self, TURN)?;
            reactor.flush(self);
            if let Some(failure) = self.failure.take() {
                bail!("{failure}");
            }
            let progress = (self.accepted.len(), self.answered, reactor.live());
            if progress != before {
                (moved, before) = (Instant::now(), progress);
            }
            if moved.elapsed() > STANDSTILL {
                bail!("no answer from the broker for {} s", STANDSTILL.as_secs());
            }
        }
        Ok(())
    }
}

/// Opens a connection for each of `clients`, a few at a time, and returns them in the same order.
/// How far it is shows in `progress`.
///
/// # Errors
/// When a connection is refused or lost, or the broker stops answering.
pub(crate) fn connect_all(
    reactor: &mut Reactor,
    dial: &Dial,
    clients: &[ConnectOptions],
    progress: Option<&Counters>,
) -> Result<Vec<Established>> {
    let mut preparing = Preparing::default();
    let mut ids = Vec::with_capacity(clients.len());
    preparing.turn_until(reactor, |state, reactor| {
        while ids.len() < clients.len() && ids.len() - state.accepted.len() < PENDING_MAX {
            let id = reactor.open(dial, &clients[ids.len()]).context("open a connection")?;
            ids.push(id);
        }
        if let Some(counters) = progress {
            counters.begun.store(ids.len() as u64, Ordering::Relaxed);
            counters.done.store(state.accepted.len() as u64, Ordering::Relaxed);
        }
        Ok(state.accepted.len() == clients.len())
    })?;
    let highest = ids.iter().copied().max().unwrap_or(0);
    let mut by_id = vec![None; highest + 1];
    for established in preparing.accepted {
        by_id[established.id] = Some(established);
    }
    ids.iter().map(|id| by_id[*id].context("a connection has gone")).collect()
}

/// Subscribes each connection to one Topic Filter and waits for every SUBACK.
///
/// # Errors
/// As [`connect_all`].
pub(crate) fn subscribe_all(
    reactor: &mut Reactor,
    version: ProtocolVersion,
    filters: &[(ConnectionId, String)],
    qos: QoS,
) -> Result<()> {
    let mut preparing = Preparing::default();
    for (id, filter) in filters {
        let out = reactor.out(*id).context("a connection has gone")?;
        out.extend_from_slice(&packet::subscribe(version, filter, qos));
    }
    preparing.turn_until(reactor, |state, _| Ok(state.answered == filters.len()))
}

/// Sends DISCONNECT on the given connections and waits for the broker's closes.
///
/// # Errors
/// When the broker does not close.
pub(crate) fn disconnect_all(reactor: &mut Reactor, ids: &[ConnectionId]) -> Result<()> {
    let mut preparing = Preparing::default();
    let left = reactor.live() - ids.len();
    for id in ids {
        reactor.disconnect(*id);
    }
    preparing.turn_until(reactor, |_, reactor| Ok(reactor.live() <= left))
}
