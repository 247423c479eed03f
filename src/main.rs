//! The tidegate binary. Start at `cli.rs` for what it can be told, at `process.rs` for the life of a
//! process, at `standalone.rs` for what it runs.

mod addresses;
mod admin;
mod asking;
mod authentication;
mod authsvc;
mod cli;
mod config;
mod descriptors;
mod dev_certs;
mod edge;
mod exit;
mod front;
mod healthcheck;
mod init;
mod logging;
mod memory;
mod output;
mod passport_keys;
mod passwd;
mod process;
mod process_metrics;
mod rules_check;
mod shutdown;
mod standalone;
mod stderr;
mod store_metrics;
mod threads;
mod upgrade;
mod watch;
mod welcome;
mod worker;

use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Journals and tables hold payloads: what is made here is for this user, but where somebody says otherwise.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    cli::run()
}
