//! Connected pairs that exchange QoS 1 messages at a steady rate while the storm blows: their latency before and during it.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use mqtt::{Packet, QoS};

use super::StormArgs;
use crate::measure::latency::Latency;
use crate::measure::payload::{STAMP_BYTES, Stamp};
use crate::net::dial::Dial;
use crate::net::establish::{connect_all, subscribe_all};
use crate::net::packet::{ConnectOptions, PublishTemplate};
use crate::net::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::run::{Board, Counters, Phase};
use crate::scenario::publisher::{Publisher, answer};

const TURN_MAX: Duration = Duration::from_millis(20);
/// How long messages may take at the end before they are taken for lost.
const DRAIN_NS: u64 = 10_000_000_000;
const UNACKED_MAX: u32 = 1_024;
const KEEP_ALIVE_S: u16 = 60;

/// What the pairs saw.
#[derive(Debug)]
pub(super) struct Outcome {
    /// From when a message was due until it was delivered, before the storm.
    pub(super) calm: Latency,
    /// The same for messages that were due during the storm.
    pub(super) storm: Latency,
    /// By how much later than due this tool itself sent the messages of the storm, for want of its core.
    pub(super) late: Latency,
    /// Messages sent and not delivered.
    pub(super) lost: u64,
    /// Connections of pairs that ended.
    pub(super) closed: u64,
}

struct Pairs {
    senders: Vec<(ConnectionId, Publisher)>,
    templates: Vec<PublishTemplate>,
    /// By connection: its pair, if it publishes.
    publishes: Vec<Option<usize>>,
    /// When the storm began, on the clock of the reactor.
    storm_ns: u64,
    sent: u64,
    delivered: u64,
    outcome: Outcome,
}

/// Connects the pairs and has them talk until the storm is over.
///
/// # Errors
/// When they cannot connect and subscribe while all is calm.
pub(super) fn work(
    args: &StormArgs,
    dial: &Dial,
    name: &str,
    counters: &Counters,
    board: &Board,
) -> Result<Outcome> {
    let mut reactor = Reactor::new(board.started())?;
    let mut pairs = prepare(args, dial, name, &mut reactor)?;
    counters.set_ready();
    while board.phase() == Phase::Prepare {
        reactor.turn(&mut pairs, Duration::from_millis(1))?;
    }
    let interval_ns = (1e9 / (args.pair_rate * f64::from(args.pairs))) as u64;
    let mut due_ns = reactor.now_ns();
    while board.phase() < Phase::Finish {
        let now_ns = reactor.now_ns();
        if pairs.storm_ns == u64::MAX && board.phase() == Phase::Measure {
            pairs.storm_ns = now_ns;
        }
        while due_ns <= now_ns {
            if due_ns >= pairs.storm_ns {
                pairs.outcome.late.record_ns(reactor.now_ns().saturating_sub(due_ns));
            }
            pairs.send(due_ns, &mut reactor);
            due_ns += interval_ns.max(1);
        }
        reactor.flush(&mut pairs);
        let wait = Duration::from_nanos(due_ns.saturating_sub(reactor.now_ns()));
        reactor.turn(&mut pairs, wait.min(TURN_MAX))?;
        reactor.flush(&mut pairs);
    }
    let end_ns = reactor.now_ns() + DRAIN_NS;
    while pairs.delivered < pairs.sent && reactor.now_ns() < end_ns {
        reactor.turn(&mut pairs, TURN_MAX)?;
        reactor.flush(&mut pairs);
    }
    pairs.outcome.lost = pairs.sent.saturating_sub(pairs.delivered);
    Ok(pairs.outcome)
}

fn prepare(args: &StormArgs, dial: &Dial, name: &str, reactor: &mut Reactor) -> Result<Pairs> {
    let version = args.target.version();
    let clients: Vec<ConnectOptions> = (0..2 * args.pairs)
        .map(|client| ConnectOptions {
            version,
            client_id: format!("tgl-{name}-pair-{client}"),
            clean: true,
            keep_alive_s: KEEP_ALIVE_S,
        })
        .collect();
    let established = connect_all(reactor, dial, &clients, None).context("connect the pairs")?;
    let topic = |pair: usize| format!("tgl/{name}/{pair}");
    let (publishers, subscribers) = established.split_at(args.pairs as usize);
    let filters: Vec<_> =
        subscribers.iter().enumerate().map(|(pair, client)| (client.id, topic(pair))).collect();
    subscribe_all(reactor, version, &filters, QoS::AtLeastOnce).context("subscribe the pairs")?;
    let highest = established.iter().map(|client| client.id).max().unwrap_or(0);
    let mut publishes = vec![None; highest + 1];
    for (pair, client) in publishers.iter().enumerate() {
        publishes[client.id] = Some(pair);
    }
    let publisher =
        |receive_max: u16| Publisher::new(QoS::AtLeastOnce, UNACKED_MAX.min(u32::from(receive_max)));
    Ok(Pairs {
        senders: publishers.iter().map(|client| (client.id, publisher(client.receive_max))).collect(),
        templates: (0..publishers.len())
            .map(|pair| PublishTemplate::new(version, &topic(pair), QoS::AtLeastOnce, false, STAMP_BYTES))
            .collect(),
        publishes,
        storm_ns: u64::MAX,
        sent: 0,
        delivered: 0,
        outcome: Outcome {
            calm: Latency::new()?,
            storm: Latency::new()?,
            late: Latency::new()?,
            lost: 0,
            closed: 0,
        },
    })
}

impl Pairs {
    /// One message of the pair whose turn it is. A pair that waits for too many acknowledgements, or has gone, sends none: these
    /// messages count as sent and lost.
    fn send(&mut self, due_ns: u64, reactor: &mut Reactor) {
        let sequence = self.sent;
        let pair = (sequence % self.senders.len().max(1) as u64) as usize;
        self.sent += 1;
        let Some((id, publisher)) = self.senders.get_mut(pair) else {
            return;
        };
        if !publisher.is_open() {
            return;
        }
        if let Some(out) = reactor.out(*id) {
            let stamp = Stamp { publisher: u32::try_from(pair).unwrap_or(0), sequence, due_ns };
            publisher.send(&self.templates[pair], &stamp, out);
        }
    }
}

impl Handler for Pairs {
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        if let Some((_, publisher)) =
            self.publishes.get(link.id).copied().flatten().and_then(|pair| self.senders.get_mut(pair))
        {
            publisher.acknowledge(&packet, link.out);
            return;
        }
        answer(&packet, link.out);
        if let Packet::Publish(publish) = packet
            && let Some(stamp) = Stamp::read(publish.payload)
        {
            self.delivered += 1;
            let latency =
                if stamp.due_ns < self.storm_ns { &mut self.outcome.calm } else { &mut self.outcome.storm };
            latency.record_ns(link.now_ns.saturating_sub(stamp.due_ns));
        }
    }

    fn closed(&mut self, _id: ConnectionId, _error: Option<io::Error>) {
        self.outcome.closed += 1;
    }
}
