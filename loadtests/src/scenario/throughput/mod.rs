//! Publishers to subscribers: pairs, fan-in, fan-out. Both ends live in this process, so that a publisher knows what has
//! arrived and keeps a fixed number of messages under way, or follows a rate from which latency is counted.

mod group;
mod worker;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use mqtt::QoS;

use crate::measure::latency::Latency;
use crate::measure::sequence::Tally;
use crate::report::Report;
use crate::run::{self, Meter, Phase};
use crate::target::{Target, parse_qos};

/// Options of `throughput`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ThroughputArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Who publishes to whom.
    #[arg(long, value_enum, default_value = "pairs")]
    pub(crate) shape: Shape,
    /// Pairs, publishers of a fan-in or subscribers of a fan-out.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub(crate) clients: u32,
    /// How many fan-ins or fan-outs of that size.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) groups: u32,
    /// QoS of messages and subscriptions.
    #[arg(long, default_value = "0", value_parser = parse_qos)]
    pub(crate) qos: QoS,
    /// Payload in bytes.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..=131_072))]
    pub(crate) payload: u32,
    /// Messages of a publisher that are not yet delivered and acknowledged.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub(crate) window: u32,
    /// Subscribers have sessions that outlive their connections, so that QoS 1 and 2 messages go through the broker's store.
    /// They are discarded at the end.
    #[arg(long)]
    pub(crate) stored: bool,
    /// Messages per second over all publishers, instead of as many as the window allows.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: Option<u32>,
    /// Never sleep, so that the broker does not pay for waking this tool; needs cores of its own.
    #[arg(long)]
    pub(crate) spin: bool,
    /// Seconds of load before the measurement.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warm_up: f64,
    /// Seconds of measurement.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// End the measurement after so many deliveries, if that is sooner.
    #[arg(long)]
    pub(crate) messages: Option<u64>,
}

/// Who publishes to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// Each publisher has a topic and a subscriber of its own.
    Pairs,
    /// Many publishers, each on a topic of its own, and one subscriber to all of them.
    FanIn,
    /// One publisher and many subscribers.
    FanOut,
}

impl ThroughputArgs {
    /// Groups of clients that talk to each other; a group stays on one thread.
    fn group_count(&self) -> u32 {
        if self.shape == Shape::Pairs { self.clients } else { self.groups }
    }

    fn publishers(&self) -> u32 {
        if self.shape == Shape::FanIn { self.clients } else { 1 }
    }

    fn subscribers(&self) -> u32 {
        if self.shape == Shape::FanOut { self.clients } else { 1 }
    }
}

/// What one thread counted.
#[derive(Debug)]
struct Outcome {
    tally: Tally,
    latency: Latency,
    acknowledged: Latency,
    expected: u64,
    refused: u64,
    standstills: u64,
}

/// Runs the scenario.
///
/// # Errors
/// When the broker refuses, closes or cannot be reached.
pub(crate) fn run(args: &ThroughputArgs) -> Result<Report> {
    if args.threads_max() < args.target.threads {
        bail!("--threads {}: there are only {} groups of clients", args.target.threads, args.threads_max());
    }
    let dial = args.target.dial(false)?;
    let name = super::run_name();
    let (outcomes, (cost, delivered)) = run::run(
        args.target.threads,
        |worker, board| worker::work(args, &dial, &name, worker, board),
        |board| {
            board.wait_ready("connect")?;
            board.enter(Phase::WarmUp);
            let warm = board.started().elapsed() + Duration::try_from_secs_f64(args.warm_up)?;
            board.watch("warm-up", |_| board.started().elapsed() >= warm)?;
            let meter = Meter::start(&args.target.pids)?;
            let before = board.totals().done;
            board.enter(Phase::Measure);
            let end = board.started().elapsed() + Duration::try_from_secs_f64(args.seconds)?;
            board.watch("measure", |totals| {
                board.started().elapsed() >= end
                    || args.messages.is_some_and(|most| totals.done - before >= most)
            })?;
            let delivered = board.totals().done - before;
            let cost = meter.stop()?;
            board.enter(Phase::Finish);
            board.wait_finished("finish")?;
            Ok((cost, delivered))
        },
    )?;
    let mut report = Report::new("throughput");
    describe(args, &mut report);
    let (mut latency, mut acknowledged) = (Latency::new()?, Latency::new()?);
    let (mut tally, mut expected, mut refused, mut standstills) = (Tally::default(), 0, 0, 0);
    for outcome in &outcomes {
        latency.merge(&outcome.latency);
        acknowledged.merge(&outcome.acknowledged);
        tally.merge(&outcome.tally);
        expected += outcome.expected;
        refused += outcome.refused;
        standstills += outcome.standstills;
    }
    report.add("measured_messages", delivered);
    report.add_cost("", "message", delivered, &cost);
    report.add_latency("latency_", latency.summary());
    report.add_latency("acknowledged_", acknowledged.summary());
    report.add("expected", expected);
    report.add_tally(expected, &tally);
    report.add("refused", refused);
    report.add("standstills", standstills);
    Ok(report)
}

impl ThroughputArgs {
    fn threads_max(&self) -> u32 {
        self.group_count()
    }
}

fn describe(args: &ThroughputArgs, report: &mut Report) {
    let shape = match args.shape {
        Shape::Pairs => format!("{} pairs", args.clients),
        Shape::FanIn => format!("{} to 1, {} times", args.clients, args.groups),
        Shape::FanOut => format!("1 to {}, {} times", args.clients, args.groups),
    };
    report.add("shape", shape);
    report.add("transport", args.target.transport());
    report.add("qos", args.qos.as_u8());
    report.add("payload_bytes", args.payload);
    match args.rate {
        Some(rate) => report.add("rate_messages_per_s", rate),
        None => report.add("window_messages", args.window),
    }
}
