//! Subscriptions: each client asks for one filter after the other, each new to the broker, and waits for its SUBACK.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use mqtt::{Packet, ProtocolVersion, QoS};

use super::run_name;
use crate::measure::latency::Latency;
use crate::net::establish::{connect_all, disconnect_all};
use crate::net::packet::{self, ConnectOptions};
use crate::net::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::report::Report;
use crate::run::{self, Board, Meter};
use crate::target::{Target, parse_qos};

const TURN: Duration = Duration::from_millis(20);
const STANDSTILL: Duration = Duration::from_secs(10);

/// Options of `subscribe`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SubscribeArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Clients, each with one request under way.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// Filters that each client subscribes to, one after the other.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) filters: u32,
    /// QoS of the subscriptions.
    #[arg(long, default_value = "1", value_parser = parse_qos)]
    pub(crate) qos: QoS,
    /// Clients have stored sessions, which stay behind.
    #[arg(long)]
    pub(crate) stored: bool,
}

/// Runs the scenario on one thread.
///
/// # Errors
/// When the broker refuses, closes, stops answering or cannot be reached.
pub(crate) fn run(args: &SubscribeArgs) -> Result<Report> {
    let (mut results, ()) =
        run::run(1, |_, board| work(args, board), |board| board.wait_finished("subscribe"))?;
    results.pop().context("the worker returned nothing")
}

fn work(args: &SubscribeArgs, board: &Board) -> Result<Report> {
    let name = run_name();
    let version = args.target.version();
    let dial = args.target.dial(false)?;
    let mut reactor = Reactor::new(board.started())?;
    let options: Vec<_> = (0..args.clients)
        .map(|client| ConnectOptions {
            version,
            client_id: format!("tgl-{name}-{client}"),
            clean: !args.stored,
            keep_alive_s: 0,
        })
        .collect();
    let ids: Vec<_> =
        connect_all(&mut reactor, &dial, &options, None)?.into_iter().map(|connected| connected.id).collect();
    let highest = ids.iter().copied().max().unwrap_or(0);
    let mut asking = Asking {
        version,
        qos: args.qos,
        name,
        filters: args.filters,
        asked: vec![(0, 0); highest + 1],
        answered: 0,
        latency: Latency::new()?,
        failure: None,
    };
    let meter = Meter::start(&args.target.pids)?;
    for &id in &ids {
        let now_ns = reactor.now_ns();
        asking.ask(id, now_ns, reactor.out(id).context("a connection has gone")?);
    }
    let total = u64::from(args.clients) * u64::from(args.filters);
    let (mut moved, mut before) = (Instant::now(), 0);
    while asking.answered < total {
        reactor.flush(&mut asking);
        reactor.turn(&mut asking, TURN)?;
        if let Some(failure) = asking.failure.take() {
            bail!("{failure}");
        }
        if asking.answered != before {
            (moved, before) = (Instant::now(), asking.answered);
            board.counters(0).done.store(before, Ordering::Relaxed);
        }
        if moved.elapsed() > STANDSTILL {
            bail!("no SUBACK for {} s", STANDSTILL.as_secs());
        }
    }
    let cost = meter.stop()?;
    reactor.flush(&mut asking);
    disconnect_all(&mut reactor, &ids)?;
    let mut report = Report::new("subscribe");
    report.add("transport", args.target.transport());
    report.add("clients", args.clients);
    report.add("filters", args.filters);
    report.add("qos", args.qos.as_u8());
    report.add_cost("", "subscription", total, &cost);
    report.add_latency("suback_", asking.latency.summary());
    Ok(report)
}

/// Who has asked for what.
struct Asking {
    version: ProtocolVersion,
    qos: QoS,
    name: String,
    filters: u32,
    /// By connection: how many filters it has asked for, and when it asked for the last, nanoseconds on the reactor's clock.
    asked: Vec<(u32, u64)>,
    answered: u64,
    latency: Latency,
    failure: Option<String>,
}

impl Asking {
    /// Appends the next request of a connection, if it has one.
    fn ask(&mut self, id: ConnectionId, now_ns: u64, out: &mut Vec<u8>) {
        let Some((asked, at_ns)) = self.asked.get_mut(id) else { return };
        if *asked == self.filters {
            return;
        }
        let filter = format!("tgl/{}/s/{id}/{asked}", self.name);
        out.extend_from_slice(&packet::subscribe(self.version, &filter, self.qos));
        (*asked, *at_ns) = (*asked + 1, now_ns);
    }
}

impl Handler for Asking {
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        self.failure = self.failure.take().or_else(|| packet::refusal(&packet));
        if let (Packet::SubAck(_), Some(&(_, at_ns))) = (&packet, self.asked.get(link.id)) {
            self.answered += 1;
            self.latency.record_ns(link.now_ns.saturating_sub(at_ns));
            self.ask(link.id, link.now_ns, link.out);
        }
    }

    fn closed(&mut self, _id: ConnectionId, error: Option<io::Error>) {
        if let Some(error) = error {
            self.failure.get_or_insert_with(|| format!("connection lost: {error}"));
        }
    }
}
