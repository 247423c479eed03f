//! Connect storm: TCP, TLS (full or resumed), CONNECT, CONNACK, DISCONNECT, as many at a time or per second as asked for.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use mqtt::Packet;

use super::{run_name, share};
use crate::measure::latency::Latency;
use crate::net::dial::{Dial, fresh_source};
use crate::net::packet::{self, ConnectOptions};
use crate::net::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::report::Report;
use crate::run::{self, Board, Meter, Phase};
use crate::target::Target;

const TURN: Duration = Duration::from_millis(5);
const STANDSTILL: Duration = Duration::from_secs(10);

/// Options of `connect`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Connections in the measurement.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) connections: u32,
    /// Connections before the measurement; they also collect the tickets for --resume.
    #[arg(long, default_value_t = 200)]
    pub(crate) warm_up: u32,
    /// Handshakes under way at a time.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,
    /// Connections begun per second, instead of as many as the concurrency allows.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    /// Resume TLS sessions; otherwise every handshake is full.
    #[arg(long, requires = "tls")]
    pub(crate) resume: bool,
    /// End after so many seconds even if connections are left.
    #[arg(long, default_value_t = 60.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug)]
struct Storm {
    latency: Latency,
    accepted: u64,
    resumed: u64,
    refused: u64,
    lost: u64,
    /// Connections that have got CONNACK in this turn.
    answered: Vec<ConnectionId>,
    /// Those of the turn before, which were told to go.
    leaving: Vec<ConnectionId>,
    first_error: Option<String>,
}

/// Runs the scenario.
///
/// # Errors
/// When the broker cannot be reached at all.
pub(crate) fn run(args: &ConnectArgs) -> Result<Report> {
    let mut dial = args.target.dial(args.resume)?;
    if dial.address.ip().is_loopback() && dial.address.is_ipv4() {
        dial.source = Some(fresh_source());
    }
    let name = run_name();
    let (storms, cost) = run::run(
        args.target.threads,
        |worker, board| work(args, &dial, &name, worker, board),
        |board| {
            board.wait_ready("warm-up")?;
            let meter = Meter::start(&args.target.pids)?;
            board.enter(Phase::Measure);
            board.wait_finished("connect")?;
            meter.stop()
        },
    )?;
    let mut latency = Latency::new()?;
    let sum = |count: fn(&Storm) -> u64| storms.iter().map(count).sum::<u64>();
    let (accepted, resumed) = (sum(|storm| storm.accepted), sum(|storm| storm.resumed));
    for storm in &storms {
        latency.merge(&storm.latency);
    }
    let mut report = Report::new("connect");
    report.add("transport", args.target.transport());
    report.add("concurrency", args.concurrency);
    report.add("accepted", accepted);
    report.add("resumed_handshakes", resumed);
    report.add("refused", sum(|storm| storm.refused));
    report.add("lost", sum(|storm| storm.lost));
    report.add_cost("", "connection", accepted, &cost);
    report.add_latency("latency_", latency.summary());
    if let Some(error) = storms.iter().find_map(|storm| storm.first_error.clone()) {
        report.add("first_error", error);
    }
    if accepted == 0 {
        bail!("no connection was accepted:\n{report}");
    }
    Ok(report)
}

fn work(args: &ConnectArgs, dial: &Dial, name: &str, worker: u32, board: &Board) -> Result<Storm> {
    let threads = args.target.threads;
    let mut reactor = Reactor::new(board.started())?;
    let mut dial = dial.clone();
    // Threads take source addresses from ranges of their own.
    dial.source = dial.source.map(|first| std::net::Ipv4Addr::from_bits(u32::from(first) + worker * 4_096));
    let name = format!("{name}-{worker}");
    let mut load = Load {
        concurrency: share(args.concurrency, worker, threads).max(1) as usize,
        interval_ns: args.rate.map(|rate| u64::from(threads) * 1_000_000_000 / u64::from(rate)),
        deadline: Instant::now() + Duration::try_from_secs_f64(args.seconds).context("--seconds")?,
        number: 0,
    };
    let counters = board.counters(worker);
    let mut opened = |id: u64| ConnectOptions {
        version: args.target.version(),
        client_id: format!("tgl-{name}-{id}"),
        clean: true,
        keep_alive_s: 60,
    };
    let warm = load.run(share(args.warm_up, worker, threads), &dial, &mut opened, &mut reactor, |_| {})?;
    if warm.accepted == 0 && args.warm_up > 0 {
        bail!("no connection was accepted: {}", warm.first_error.unwrap_or_default());
    }
    counters.set_ready();
    while board.phase() == Phase::Prepare {
        std::thread::sleep(Duration::from_millis(1));
    }
    load.run(share(args.connections, worker, threads), &dial, &mut opened, &mut reactor, |storm| {
        counters.done.store(storm.accepted, Ordering::Relaxed);
    })
}

/// How fast connections are begun.
struct Load {
    concurrency: usize,
    interval_ns: Option<u64>,
    deadline: Instant,
    number: u64,
}

impl Load {
    fn run(
        &mut self,
        connections: u32,
        dial: &Dial,
        options: &mut impl FnMut(u64) -> ConnectOptions,
        reactor: &mut Reactor,
        progress: impl Fn(&Storm),
    ) -> Result<Storm> {
        let mut storm = Storm::new()?;
        let started_ns = reactor.now_ns();
        let (mut begun, mut moved, mut before) = (0, Instant::now(), 0);
        while storm.ended() < u64::from(connections) || reactor.live() > 0 {
            while begun < u64::from(connections) && self.may_open(begun, &storm, started_ns, reactor.now_ns())
            {
                reactor.open(dial, &options(self.number)).context("open a connection")?;
                (begun, self.number) = (begun + 1, self.number + 1);
            }
            reactor.turn(&mut storm, TURN)?;
            storm.leaving = std::mem::take(&mut storm.answered);
            for id in &storm.leaving {
                reactor.disconnect(*id);
            }
            reactor.flush(&mut storm);
            progress(&storm);
            let state = storm.ended() as usize + reactor.live();
            if state != before {
                (moved, before) = (Instant::now(), state);
            }
            if moved.elapsed() > STANDSTILL || Instant::now() > self.deadline {
                break;
            }
        }
        Ok(storm)
    }

    fn may_open(&self, begun: u64, storm: &Storm, started_ns: u64, now_ns: u64) -> bool {
        match self.interval_ns {
            Some(interval_ns) => started_ns + begun * interval_ns <= now_ns,
            None => ((begun - storm.ended()) as usize) < self.concurrency,
        }
    }
}

impl Storm {
    fn new() -> Result<Self> {
        Ok(Self {
            latency: Latency::new()?,
            accepted: 0,
            resumed: 0,
            refused: 0,
            lost: 0,
            answered: Vec::new(),
            leaving: Vec::new(),
            first_error: None,
        })
    }

    fn ended(&self) -> u64 {
        self.accepted + self.refused + self.lost
    }
}

impl Handler for Storm {
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        let Packet::ConnAck(connack) = packet else {
            return;
        };
        if connack.reason.is_error() {
            self.refused += 1;
            self.first_error = self.first_error.take().or_else(|| packet::refusal(&packet));
        } else {
            self.accepted += 1;
            self.resumed += u64::from(link.resumed);
            self.latency.record_ns(link.now_ns.saturating_sub(link.opened_ns));
        }
        self.answered.push(link.id);
    }

    fn closed(&mut self, id: ConnectionId, error: Option<io::Error>) {
        // One that has its CONNACK is about to go anyway.
        let is_answered = self.answered.contains(&id) || self.leaving.contains(&id);
        if let Some(error) = error.filter(|_| !is_answered) {
            self.lost += 1;
            self.first_error.get_or_insert_with(|| error.to_string());
        }
    }
}
