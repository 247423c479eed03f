//! Logs to standard error: readable on a terminal, one JSON object a line elsewhere. A standard error that cannot be written, or
//! that nobody reads, is no reason to end or to wait; see [`stderr`].

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};
use crate::exit::Failure;
use crate::stderr;

/// What the store's library tells, and what rustls warns of when a client is at fault, is of no use to an operator.
/// Before the configured level, so that it can say otherwise.
const QUIET_LIBRARIES: &str = "fjall=warn,lsm_tree=warn,rustls=error";

/// How long a thread that panicked waits for its line to be written: the process may be gone right after.
const PANIC_WAIT: Duration = Duration::from_millis(200);

/// Starts logging. `RUST_LOG` takes precedence over the configured level.
pub(crate) fn start(config: &LogConfig) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{QUIET_LIBRARIES},{}", config.level)));
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let lines = stderr::start().map_err(|error| {
        Failure::unavailable(format!("cannot start the thread that writes the log: {error}"))
    })?;
    let shape = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone())
        .log_internal_errors(false);
    // A second start can only come from a test in the same process, and the first one then stands.
    let _ = if json {
        shape.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        shape.with_ansi(terminal).try_init()
    };
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        // There is room for it then.
        lines.flush_until(Instant::now() + PANIC_WAIT);
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(%panic, %backtrace, "panicked");
        } else {
            lines.push(format!("{panic}\n{backtrace}\n").into_bytes());
        }
        lines.flush_until(Instant::now() + PANIC_WAIT);
    }));
    Ok(())
}
