//! tidegate-load: load scenarios for MQTT brokers, and what they cost the broker.

mod measure;
mod net;
mod options;
mod report;
mod run;
mod scenario;
mod target;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use options::{Cli, Command};

fn main() -> ExitCode {
    match run_command(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(command: Command) -> Result<()> {
    let (report, json) = match command {
        Command::Connect(args) => (scenario::connect::run(&args)?, args.target.json),
        Command::Storm(args) => (scenario::storm::run(&args)?, args.target.json),
        Command::Throughput(args) => (scenario::throughput::run(&args)?, args.target.json),
        Command::Stored(args) => (scenario::stored::run(&args)?, args.target.json),
        Command::Retained(args) => (scenario::retained::run(&args)?, args.target.json),
        Command::Subscribe(args) => (scenario::subscribe::run(&args)?, args.target.json),
        Command::Authenticate(args) => (scenario::authenticate::run(&args)?, args.json),
        Command::Idle(args) => (scenario::idle::run(&args)?, args.target.json),
    };
    print!("{report}");
    if let Some(path) = json {
        report.write_json(&path)?;
    }
    Ok(())
}
