//! Retained messages: publish many, then have wildcard subscribers receive all of them, one subscriber after the other.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use mqtt::{Packet, Publish, QoS};

use super::bulk::{self, Bulk};
use super::run_name;
use crate::measure::latency::Latency;
use crate::measure::payload::Stamp;
use crate::measure::sequence::Tally;
use crate::net::dial::Dial;
use crate::net::establish::{connect_all, disconnect_all};
use crate::net::packet::{self, ConnectOptions};
use crate::net::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::report::Report;
use crate::run::{self, Board, Meter};
use crate::scenario::publisher::answer;
use crate::target::{Target, parse_qos};

const TURN: Duration = Duration::from_millis(20);
const STANDSTILL: Duration = Duration::from_secs(5);

/// Options of `retained`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RetainedArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Retained messages, each on a topic of its own.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) topics: u32,
    /// Subscribers, one after the other.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) subscribers: u32,
    /// QoS of the subscriptions and of the messages, which are published at QoS 1 at least.
    #[arg(long, default_value = "0", value_parser = parse_qos)]
    pub(crate) qos: QoS,
    /// Payload in bytes.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..=131_072))]
    pub(crate) payload: u32,
    /// Unacknowledged messages of a publisher.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub(crate) window: u32,
}

/// Runs the scenario on one thread. The retained messages are removed at the end.
///
/// # Errors
/// When the broker refuses, closes or cannot be reached.
pub(crate) fn run(args: &RetainedArgs) -> Result<Report> {
    let dial = args.target.dial(false)?;
    let name = run_name();
    let (mut results, ()) =
        run::run(1, |_, board| work(args, &dial, &name, board), |board| board.wait_finished("retained"))?;
    results.pop().context("the worker returned nothing")
}

fn work(args: &RetainedArgs, dial: &Dial, name: &str, board: &Board) -> Result<Report> {
    let mut reactor = Reactor::new(board.started())?;
    let topics: Vec<String> =
        (0..args.topics).map(|topic| format!("tgl/{name}/r/{}/{}", topic / 100, topic % 100)).collect();
    let mut bulk = Bulk {
        version: args.target.version(),
        topics: &topics,
        rounds: 1,
        qos: args.qos.max(QoS::AtLeastOnce),
        retain: true,
        payload_bytes: args.payload as usize,
        publishers: 10,
        window: args.window,
        name,
    };
    let mut report = Report::new("retained");
    report.add("transport", args.target.transport());
    report.add("topics", args.topics);
    report.add("qos", args.qos.as_u8());
    report.add("payload_bytes", args.payload);
    let meter = Meter::start(&args.target.pids)?;
    bulk::publish(&bulk, dial, &mut reactor, board.counters(0))?;
    report.add_cost("publish_", "message", u64::from(args.topics), &meter.stop()?);

    let mut latency = Latency::new()?;
    let mut tally = Tally::default();
    let meter = Meter::start(&args.target.pids)?;
    for subscriber in 0..args.subscribers {
        let begun = Instant::now();
        let one = receive_all(args, dial, &format!("{name}-s{subscriber}"), name, &mut reactor)?;
        latency.record_ns(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        tally.merge(&one);
        board.counters(0).done.store(tally.delivered, std::sync::atomic::Ordering::Relaxed);
    }
    let expected = u64::from(args.topics) * u64::from(args.subscribers);
    report.add_cost("drain_", "message", tally.delivered, &meter.stop()?);
    report.add_latency("subscriber_", latency.summary());
    report.add("expected", expected);
    report.add_tally(expected, &tally);

    bulk.payload_bytes = 0;
    bulk::publish(&bulk, dial, &mut reactor, board.counters(0))?;
    Ok(report)
}

/// One subscriber, from its CONNECT to the last message.
fn receive_all(
    args: &RetainedArgs,
    dial: &Dial,
    client: &str,
    name: &str,
    reactor: &mut Reactor,
) -> Result<Tally> {
    let version = args.target.version();
    let options =
        ConnectOptions { version, client_id: format!("tgl-{client}"), clean: true, keep_alive_s: 0 };
    let subscriber = connect_all(reactor, dial, &[options], None)?.pop().context("no connection")?.id;
    let mut receiver = Receiver {
        seen: vec![false; args.topics as usize],
        tally: Tally::default(),
        subscribed: false,
        failure: None,
    };
    let subscribe = packet::subscribe(version, &format!("tgl/{name}/r/#"), args.qos);
    reactor.out(subscriber).context("the connection has gone")?.extend_from_slice(&subscribe);
    let (mut moved, mut before) = (Instant::now(), 0);
    while !receiver.subscribed || receiver.tally.delivered < u64::from(args.topics) {
        reactor.flush(&mut receiver);
        reactor.turn(&mut receiver, TURN)?;
        if let Some(failure) = receiver.failure.take() {
            bail!("{failure}");
        }
        if receiver.tally.delivered != before {
            (moved, before) = (Instant::now(), receiver.tally.delivered);
        }
        if moved.elapsed() > STANDSTILL {
            break;
        }
    }
    reactor.flush(&mut receiver);
    disconnect_all(reactor, &[subscriber])?;
    Ok(receiver.tally)
}

struct Receiver {
    seen: Vec<bool>,
    tally: Tally,
    subscribed: bool,
    failure: Option<String>,
}

impl Handler for Receiver {
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        answer(&packet, link.out);
        self.failure = self.failure.take().or_else(|| packet::refusal(&packet));
        match packet {
            Packet::SubAck(_) => self.subscribed = true,
            Packet::Publish(Publish { payload, .. }) => {
                let Some(seen) =
                    Stamp::read(payload).and_then(|stamp| self.seen.get_mut(stamp.publisher as usize))
                else {
                    return;
                };
                if std::mem::replace(seen, true) {
                    self.tally.duplicates += 1;
                } else {
                    self.tally.delivered += 1;
                }
            }
            _ => {}
        }
    }

    fn closed(&mut self, _id: ConnectionId, error: Option<io::Error>) {
        if let Some(error) = error {
            self.failure.get_or_insert_with(|| format!("connection lost: {error}"));
        }
    }
}
