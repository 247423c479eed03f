//! The command line: parses it, does the small commands, hands the rest to `process`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use files::private::Readers;

use crate::authsvc::Authsvc;
use crate::config::{self, Config, Tier};
use crate::edge::EdgeTier;
use crate::exit::Failure;
use crate::init::{Init, Welcome};
use crate::output::print;
use crate::passwd::Passwd;
use crate::rules_check::RulesCheck;
use crate::standalone::Standalone;
use crate::worker::Worker;
use crate::{dev_certs, healthcheck, init, logging, passwd, process, shutdown, stderr, upgrade};

/// An MQTT 3.1, 3.1.1 and 5 broker over TCP, TLS, WebSocket and WSS. Without a command it runs standalone.
///
/// Every setting can also come from the environment: TIDEGATE__SECTION__KEY=value.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = false)]
struct Cli {
    /// Configuration file (TOML); docs/configuration.md lists every key.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration that is in force, secrets hidden, and exit.
    #[arg(long, global = true)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Edge, worker and authentication in one process, on the embedded store (default).
    Standalone,
    /// An edge: holds the devices' connections and hands their sessions to workers, which may come and go meanwhile.
    Lb,
    /// A worker: speaks MQTT to edges over links, and keeps everything in Redis.
    Broker,
    /// The service of authentication: tells edges who may connect and what they may do, and signs passports for workers.
    /// With --check-rules it only tells what rules allow.
    Authsvc(RulesCheck),
    /// Ask a process on this machine whether it is ready, by its admin endpoint; exits with 0 or 1. It takes the same
    /// configuration as the process.
    Healthcheck {
        /// The command that the process was started with.
        #[arg(value_name = "COMMAND", default_value = "standalone", value_parser = tier_parser())]
        tier: Tier,
    },
    /// Set or delete a user's password in a password file.
    Passwd(Passwd),
    /// Make certificates and keys for development: for devices, for links between tiers, for passports; what is there already
    /// is kept.
    Certs {
        /// Where to put them.
        dir: PathBuf,
    },
    /// Make what a stack of several processes needs, for a start: what `certs` makes, a secret for TLS tickets, an operator's token,
    /// and a first user; what is there already is kept.
    Init(Init),
    /// Say how the first user that `init` has made connects.
    Welcome(Welcome),
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let code = match run_with(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    stderr::finish();
    code
}

fn run_with(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return Err(Failure::usage(usage_line(&error))),
        Err(help) => return print(&help.to_string()),
    };
    let tier = match &cli.command {
        Some(Command::Passwd(arguments)) => return passwd::run(arguments),
        Some(Command::Certs { dir }) => return certs(dir),
        Some(Command::Init(arguments)) => return init::run(arguments),
        Some(Command::Welcome(arguments)) => return init::welcome(arguments),
        Some(Command::Healthcheck { tier }) => return healthcheck(&cli, *tier),
        None | Some(Command::Standalone) => Tier::Standalone,
        Some(Command::Lb) => Tier::Edge,
        Some(Command::Broker) => Tier::Worker,
        Some(Command::Authsvc(check)) => match check.run() {
            Some(told) => return told,
            None => Tier::Authsvc,
        },
    };
    upgrade::receive();
    shutdown::outlive_others().map_err(Failure::unavailable)?;
    let config = load(&cli, tier)?;
    if cli.check {
        return print(&config.shown().map_err(Failure::software)?);
    }
    logging::start(config.log())?;
    match config {
        Config::Standalone(config) => process::run::<Standalone>(&config, &config.process),
        Config::Edge(config) => process::run::<EdgeTier>(&config, &config.process),
        Config::Worker(config) => process::run::<Worker>(&config, &config.process),
        Config::Authsvc(config) => process::run::<Authsvc>(&config, &config.process),
    }
}

fn load(cli: &Cli, tier: Tier) -> Result<Config, Failure> {
    let environment = config::environment(std::env::vars_os()).map_err(|problem| problem.failure())?;
    Config::load(tier, cli.config.as_deref(), environment).map_err(|problem| problem.failure())
}

fn healthcheck(cli: &Cli, tier: Tier) -> Result<(), Failure> {
    let environment = config::environment(std::env::vars_os()).map_err(|problem| problem.failure())?;
    let listen = Config::admin_address(tier, cli.config.as_deref(), environment)
        .map_err(|problem| problem.failure())?;
    healthcheck::run(&listen)
}

/// Takes the command that runs a tier.
fn tier_parser() -> impl TypedValueParser<Value = Tier> {
    let named = |name: String| Tier::ALL.into_iter().find(|tier| tier.command() == name);
    PossibleValuesParser::new(Tier::ALL.map(Tier::command))
        .map(move |name| named(name).unwrap_or(Tier::Standalone))
}

fn certs(dir: &std::path::Path) -> Result<(), Failure> {
    let mut made = dev_certs::ensure(dir, Readers::Everybody).map_err(Failure::io)?;
    made.extend(dev_certs::ensure_links(dir, Readers::Everybody).map_err(Failure::io)?);
    let mut text = String::new();
    for (file, meaning) in dev_certs::FILES {
        let state = if made.contains(&file) { "made" } else { "kept" };
        text.push_str(&format!("{state}  {}  {meaning}\n", dir.join(file).display()));
    }
    print(&text)
}

/// The first paragraph of clap's message, which says what is wrong with which arguments, as one line; the rest is help.
fn usage_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = paragraph.collect::<Vec<_>>().join(" ");
    format!("{} (see tidegate --help)", line.strip_prefix("error: ").unwrap_or(&line))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from(["tidegate", "standalone", "--config", "a.toml", "--check"]).unwrap();
        assert!(cli.check && cli.config.is_some());
        let cli = Cli::try_parse_from(["tidegate"]).unwrap();
        assert!(cli.command.is_none());
    }

    #[test]
    fn a_wrong_command_line_is_one_line() {
        let line = |arguments: &[&str]| {
            let error = Cli::try_parse_from(["tidegate"].iter().chain(arguments)).unwrap_err();
            usage_line(&error)
        };
        for (arguments, says) in [
            (&["standalnoe"][..], "unrecognized subcommand 'standalnoe'"),
            (&["certs"], "the following required arguments were not provided: <DIR>"),
            (&["passwd"], "the following required arguments were not provided: <FILE> <USER>"),
            (
                &["healthcheck", "foo"],
                "invalid value 'foo' for '[COMMAND]' [possible values: standalone, lb, broker, authsvc]",
            ),
        ] {
            assert_eq!(line(arguments), format!("{says} (see tidegate --help)"));
        }
    }
}
