//! Devices that all come back at once, with the habits of real clients, beside connected pairs that go on talking: how long until all
//! are in, how evenly they get in, and what that costs everybody.

mod device;
mod edge;
mod pairs;
mod series;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{run_name, share};
use crate::measure::latency::{Latency, LatencySummary};
use crate::net::dial::{Dial, fresh_source};
use crate::report::{Cost, Report};
use crate::run::{self, Board, Meter, Phase};
use crate::target::Target;
use device::Plan;
use series::Series;

/// Options of `storm`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StormArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Devices that come back.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) devices: u32,
    /// Seconds from the beginning of an attempt after which a device gives it up for want of a CONNACK.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) timeout: f64,
    /// Seconds between an attempt that came to nothing and the next one.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) retry: f64,
    /// Up to so many seconds more between attempts, by chance.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) jitter: f64,
    /// Devices have stored sessions, which stay behind.
    #[arg(long)]
    pub(crate) stored: bool,
    /// Resume TLS sessions of earlier connections; otherwise every handshake is full.
    #[arg(long, requires = "tls")]
    pub(crate) resume: bool,
    /// Devices that share a source address (with a broker on 127.0.0.0/8).
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) per_address: u32,
    /// Pairs of clients that are connected before and exchange QoS 1 messages.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) pairs: u32,
    /// Messages per second of each pair.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) pair_rate: f64,
    /// Seconds in which only the pairs talk, before the storm.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) calm: f64,
    /// Seconds that devices stay after the last one is back; who is thrown out then counts too.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) hold: f64,
    /// End so many seconds after the start of the storm even if devices are still out.
    #[arg(long, default_value_t = 120.0)]
    pub(crate) seconds: f64,
    /// Admin address of the edge, to read how many sessions it opened.
    #[arg(long)]
    pub(crate) admin: Option<String>,
}

enum Outcome {
    Devices(device::Outcome),
    Pairs(pairs::Outcome),
}

/// The storm itself, as the watching thread saw it.
struct Watched {
    cost: Cost,
    done_before: Option<edge::Done>,
}

/// Runs the scenario.
///
/// # Errors
/// When the pairs cannot connect, sockets cannot be made or the edge cannot be asked.
pub(crate) fn run(args: &StormArgs) -> Result<Report> {
    let storm = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let calm = Duration::try_from_secs_f64(args.calm).context("--calm")?;
    Duration::try_from_secs_f64(args.hold).context("--hold")?;
    ensure!(args.pair_rate.is_finite() && args.pair_rate > 0.0, "--pair-rate is not above 0");
    let mut dial = args.target.dial(args.resume)?;
    if dial.address.ip().is_loopback() && dial.address.is_ipv4() {
        dial.source = Some(fresh_source());
    }
    let name = run_name();
    let threads = args.target.threads + u32::from(args.pairs > 0);
    let (outcomes, watched) = run::run(
        threads,
        |worker, board| work(args, &dial, &name, worker, board),
        |board| {
            board.wait_ready("connect")?;
            board.enter(Phase::WarmUp);
            if args.pairs > 0 {
                let end = board.started().elapsed() + calm;
                board.watch("calm", |_| board.started().elapsed() >= end)?;
            }
            let done_before = args.admin.as_deref().map(edge::done).transpose()?;
            let meter = Meter::start(&args.target.pids)?;
            board.enter(Phase::Measure);
            let end = board.started().elapsed() + storm;
            board.watch("storm", |totals| {
                totals.done >= u64::from(args.devices) || board.started().elapsed() >= end
            })?;
            Ok(Watched { cost: meter.stop()?, done_before })
        },
    )?;
    report(args, outcomes, &watched)
}

fn work(args: &StormArgs, dial: &Dial, name: &str, worker: u32, board: &Board) -> Result<Outcome> {
    let counters = board.counters(worker);
    let threads = args.target.threads;
    if worker == threads {
        return Ok(Outcome::Pairs(pairs::work(args, dial, name, counters, board)?));
    }
    let before: u32 = (0..worker).map(|worker| share(args.devices, worker, threads)).sum();
    let numbers = before..before + share(args.devices, worker, threads);
    let clients = numbers.map(|number| device::client(args, name, number)).collect();
    let plan = Plan { args, dial, clients, first: before };
    Ok(Outcome::Devices(device::work(&plan, counters, board)?))
}

fn report(args: &StormArgs, outcomes: Vec<Outcome>, watched: &Watched) -> Result<Report> {
    let (mut devices, mut pairs) = (Vec::new(), None);
    for outcome in outcomes {
        match outcome {
            Outcome::Devices(outcome) => devices.push(outcome),
            Outcome::Pairs(outcome) => pairs = Some(outcome),
        }
    }
    let changes = devices.iter_mut().flat_map(|outcome| std::mem::take(&mut outcome.changes)).collect();
    let series = Series::new(changes, args.devices);
    let mut report = Report::new("storm");
    report.add("transport", args.target.transport());
    report.add("devices", args.devices);
    add_return(&mut report, &series, watched.cost.elapsed_s);
    add_attempts(&mut report, &devices)?;
    let admitted: u64 = devices.iter().map(|outcome| outcome.admitted).sum();
    if let (Some(admin), Some(before)) = (&args.admin, watched.done_before) {
        let done = edge::done(admin)?.since(&before);
        add_nobody(&mut report, ["sessions_opened", "opened_for_nobody"], done.opened, admitted);
        if let Some(handshakes) = done.handshakes {
            add_nobody(&mut report, ["handshakes", "handshakes_for_nobody"], handshakes, admitted);
        }
    }
    report.add_cost("", "connection", admitted, &watched.cost);
    if let Some(pairs) = &pairs {
        add_pairs(&mut report, args, pairs);
    }
    report.add("admitted_per_s", series.admitted_per_s());
    Ok(report)
}

/// How many were done, and how many of these for nobody: all but those for devices that were let in.
fn add_nobody(report: &mut Report, [all, name]: [&str; 2], done: u64, admitted: u64) {
    let nobody = done.saturating_sub(admitted);
    report.add(all, done);
    report.add(name, nobody);
    report.add_some(format!("{name}_percent"), Some(nobody as f64 * 100.0 / done.max(1) as f64));
}

fn add_return(report: &mut Report, series: &Series, elapsed_s: f64) {
    report.add("back", series.up());
    for (name, percent) in [("back_50_s", 50), ("back_90_s", 90), ("back_all_s", 100)] {
        report.add_some(name, series.back_s(percent));
    }
    if let Some((least, mean)) = series.least_and_mean(elapsed_s) {
        report.add("admitted_per_s_least", least);
        report.add_some("admitted_per_s_mean", Some(mean));
        report.add_some("admitted_per_s_least_to_mean", Some(least as f64 / mean.max(1e-9)));
    }
}

fn add_attempts(report: &mut Report, devices: &[device::Outcome]) -> Result<()> {
    let sum = |count: fn(&device::Outcome) -> u64| devices.iter().map(count).sum::<u64>();
    report.add("attempts", sum(|outcome| outcome.attempts));
    report.add("admitted", sum(|outcome| outcome.admitted));
    report.add("timed_out", sum(|outcome| outcome.timed_out));
    report.add("broken", sum(|outcome| outcome.broken));
    report.add("thrown_out", sum(|outcome| outcome.thrown_out));
    let mut refused: BTreeMap<u8, u64> = BTreeMap::new();
    let mut latency = Latency::new()?;
    for outcome in devices {
        latency.merge(&outcome.latency);
        for (code, count) in &outcome.refused {
            *refused.entry(*code).or_default() += count;
        }
    }
    report.add("refused", refused.values().sum::<u64>());
    for (code, count) in refused {
        report.add(format!("refused_{code:#04x}"), count);
    }
    report.add_latency("connect_", latency.summary());
    if let Some(error) = devices.iter().find_map(|outcome| outcome.first_error.clone()) {
        report.add("first_error", error);
    }
    Ok(())
}

fn add_pairs(report: &mut Report, args: &StormArgs, pairs: &pairs::Outcome) {
    report.add("pairs", args.pairs);
    report.add("pairs_closed", pairs.closed);
    report.add("pairs_lost", pairs.lost);
    let (calm, storm) = (pairs.calm.summary(), pairs.storm.summary());
    report.add_latency("pairs_calm_", calm);
    report.add_latency("pairs_storm_", storm);
    report.add_latency("pairs_late_", pairs.late.summary());
    let ratio = |figure: fn(&LatencySummary) -> u64| {
        Some(figure(storm.as_ref()?) as f64 / figure(calm.as_ref()?).max(1) as f64)
    };
    report.add_some("pairs_p50_ratio", ratio(|summary| summary.p50_us));
    report.add_some("pairs_p99_ratio", ratio(|summary| summary.p99_us));
}

#[cfg(test)]
mod tests;
