//! Sessions that are offline while messages for them arrive: create and leave them, queue messages, reconnect and drain.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use mqtt::{Packet, Publish, QoS};

use super::bulk::{self, Bulk};
use super::publisher::answer;
use super::run_name;
use crate::measure::payload::Stamp;
use crate::measure::sequence::{SequenceCheck, Tally};
use crate::net::dial::Dial;
use crate::net::establish::{connect_all, disconnect_all, subscribe_all};
use crate::net::packet::{self, ConnectOptions};
use crate::net::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::report::Report;
use crate::run::{self, Board, Counters, Meter};
use crate::target::{Target, parse_qos};

const TURN: Duration = Duration::from_millis(20);
const STANDSTILL: Duration = Duration::from_secs(5);
/// Sessions that are opening at a time while draining.
const OPENING_MAX: usize = 32;

/// Options of `stored`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoredArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Sessions.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub(crate) sessions: u32,
    /// Messages for each session.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) messages: u32,
    /// QoS of messages and subscriptions.
    #[arg(long, default_value = "1", value_parser = parse_qos)]
    pub(crate) qos: QoS,
    /// Payload in bytes.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..=131_072))]
    pub(crate) payload: u32,
    /// Publishing clients.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) publishers: u32,
    /// Unacknowledged messages of a publisher.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub(crate) window: u32,
}

/// Runs the scenario on one thread. The sessions are removed at the end.
///
/// # Errors
/// When the broker refuses, closes or cannot be reached.
pub(crate) fn run(args: &StoredArgs) -> Result<Report> {
    if args.qos == QoS::AtMostOnce {
        bail!("--qos 0: nothing is stored at QoS 0");
    }
    let dial = args.target.dial(false)?;
    let name = run_name();
    let (mut results, ()) =
        run::run(1, |_, board| work(args, &dial, &name, board), |board| board.wait_finished("stored"))?;
    results.pop().context("the worker returned nothing")
}

fn work(args: &StoredArgs, dial: &Dial, name: &str, board: &Board) -> Result<Report> {
    let mut reactor = Reactor::new(board.started())?;
    let counters = board.counters(0);
    let mut clients: Vec<ConnectOptions> = (0..args.sessions)
        .map(|session| ConnectOptions {
            version: args.target.version(),
            client_id: format!("tgl-{name}-{session}"),
            clean: false,
            keep_alive_s: 0,
        })
        .collect();
    let topics: Vec<String> = (0..args.sessions).map(|session| format!("tgl/{name}/s/{session}")).collect();
    create(args, dial, &clients, &topics, &mut reactor)?;

    let mut report = Report::new("stored");
    report.add("transport", args.target.transport());
    report.add("sessions", args.sessions);
    report.add("messages_per_session", args.messages);
    report.add("qos", args.qos.as_u8());
    report.add("payload_bytes", args.payload);
    let expected = u64::from(args.sessions) * u64::from(args.messages);
    let bulk = Bulk {
        version: args.target.version(),
        topics: &topics,
        rounds: args.messages,
        qos: args.qos,
        retain: false,
        payload_bytes: args.payload as usize,
        publishers: args.publishers,
        window: args.window,
        name,
    };
    let meter = Meter::start(&args.target.pids)?;
    bulk::publish(&bulk, dial, &mut reactor, counters)?;
    report.add_cost("queue_", "message", expected, &meter.stop()?);

    let meter = Meter::start(&args.target.pids)?;
    let tally = drain(&clients, expected, dial, &mut reactor, counters)?;
    report.add_cost("drain_", "message", tally.delivered, &meter.stop()?);
    report.add("expected", expected);
    report.add_tally(expected, &tally);

    for client in &mut clients {
        client.clean = true;
    }
    let removed = connect_all(&mut reactor, dial, &clients, None)?;
    disconnect_all(&mut reactor, &removed.iter().map(|client| client.id).collect::<Vec<_>>())?;
    Ok(report)
}

fn create(
    args: &StoredArgs,
    dial: &Dial,
    clients: &[ConnectOptions],
    topics: &[String],
    reactor: &mut Reactor,
) -> Result<()> {
    let established = connect_all(reactor, dial, clients, None)?;
    let filters: Vec<_> = established.iter().map(|client| client.id).zip(topics.iter().cloned()).collect();
    subscribe_all(reactor, args.target.version(), &filters, args.qos)?;
    disconnect_all(reactor, &established.iter().map(|client| client.id).collect::<Vec<_>>())
}

/// Reconnects the sessions, a few at a time, and receives until all is there or nothing comes any more.
fn drain(
    clients: &[ConnectOptions],
    expected: u64,
    dial: &Dial,
    reactor: &mut Reactor,
    counters: &Counters,
) -> Result<Tally> {
    let mut draining = Draining {
        checks: vec![SequenceCheck::default(); clients.len()],
        tally: Tally::default(),
        accepted: 0,
        failure: None,
    };
    let (mut moved, mut before) = (Instant::now(), 0);
    let mut ids = Vec::with_capacity(clients.len());
    while draining.tally.delivered < expected && moved.elapsed() < STANDSTILL {
        while ids.len() < clients.len() && ids.len() - draining.accepted < OPENING_MAX {
            ids.push(reactor.open(dial, &clients[ids.len()])?);
        }
        reactor.turn(&mut draining, TURN)?;
        reactor.flush(&mut draining);
        if let Some(failure) = draining.failure.take() {
            bail!("{failure}");
        }
        let delivered = draining.tally.delivered;
        counters.done.store(delivered, Ordering::Relaxed);
        if delivered != before {
            (moved, before) = (Instant::now(), delivered);
        }
    }
    disconnect_all(reactor, &ids)?;
    Ok(draining.tally)
}

struct Draining {
    checks: Vec<SequenceCheck>,
    tally: Tally,
    accepted: usize,
    failure: Option<String>,
}

impl Handler for Draining {
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        answer(&packet, link.out);
        match packet {
            Packet::Publish(Publish { payload, .. }) => {
                // The stamp's publisher is the topic, and each session has one.
                if let Some(stamp) = Stamp::read(payload)
                    && let Some(check) = self.checks.get_mut(stamp.publisher as usize)
                {
                    self.tally.add(&check.observe(stamp.sequence));
                }
            }
            Packet::ConnAck(connack) if connack.session_present => self.accepted += 1,
            Packet::ConnAck(_) => self.failure = Some("a session was not kept".to_owned()),
            _ => {}
        }
        if let Some(refusal) = packet::refusal(&packet) {
            self.failure = Some(refusal);
        }
    }

    fn closed(&mut self, _id: ConnectionId, error: Option<io::Error>) {
        if let Some(error) = error {
            self.failure.get_or_insert_with(|| format!("connection lost: {error}"));
        }
    }
}
