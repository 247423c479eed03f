//! Connections that do nothing, and the growth of the broker's resident memory for each.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::{run_name, share};
use crate::net::dial::{Dial, fresh_source};
use crate::net::establish::connect_all;
use crate::net::packet::ConnectOptions;
use crate::net::reactor::Reactor;
use crate::report::Report;
use crate::run::{self, Meter, Phase};
use crate::target::Target;

/// Options of `idle`.
#[derive(Debug, Clone, Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) clients: u32,
    /// Seconds to wait before the second reading of the memory.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
}

/// Runs the scenario.
///
/// # Errors
/// When the broker refuses, closes or cannot be reached.
pub(crate) fn run(args: &IdleArgs) -> Result<Report> {
    let mut dial = args.target.dial(false)?;
    if dial.address.ip().is_loopback() && dial.address.is_ipv4() {
        dial.source = Some(fresh_source());
    }
    let name = run_name();
    let idle = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let meter = Meter::start(&args.target.pids)?;
    let (_, (opening, resting)) = run::run(
        args.target.threads,
        |worker, board| hold(args, &dial, &name, worker, board),
        |board| {
            board.wait_ready("connect")?;
            let opening = meter.stop()?;
            let resting = Meter::start(&args.target.pids)?;
            let end = board.started().elapsed() + idle;
            board.watch("idle", |_| board.started().elapsed() >= end)?;
            Ok((opening, resting.stop()?))
        },
    )?;
    let mut report = Report::new("idle");
    report.add("transport", args.target.transport());
    report.add("connections", args.clients);
    report.add_cost("open_", "connection", u64::from(args.clients), &opening);
    if let (Some(before), Some(after)) = (opening.broker, resting.broker) {
        let growth_kib = after.rss_after_kib.saturating_sub(before.rss_before_kib);
        report.add("idle_broker_rss_kib", after.rss_after_kib);
        report.add_some("broker_rss_kib_per_connection", Some(growth_kib as f64 / f64::from(args.clients)));
        report.add_some("idle_broker_cpu_s", Some(after.cpu_s));
    }
    Ok(report)
}

fn hold(args: &IdleArgs, dial: &Dial, name: &str, worker: u32, board: &run::Board) -> Result<()> {
    let mut reactor = Reactor::new(board.started())?;
    let mut dial = dial.clone();
    // Threads take source addresses from ranges of their own.
    dial.source = dial.source.map(|first| std::net::Ipv4Addr::from_bits(u32::from(first) + worker * 256));
    let clients: Vec<ConnectOptions> = (0..share(args.clients, worker, args.target.threads))
        .map(|client| ConnectOptions {
            version: args.target.version(),
            client_id: format!("tgl-{name}-{worker}-{client}"),
            clean: true,
            keep_alive_s: 0,
        })
        .collect();
    let counters = board.counters(worker);
    connect_all(&mut reactor, &dial, &clients, Some(counters))?;
    counters.set_ready();
    while board.phase() < Phase::Finish {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
