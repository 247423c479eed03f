//! Logs to standard error: readable on a terminal, one JSON object a line elsewhere. A standard error that cannot be written, or
//! that nobody reads, is no reason to end or to wait; see [`stderr`].

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

use crate::config::{LOG_LEVELS, LogConfig, LogFormat};
use crate::exit::Failure;
use crate::stderr;

/// What the store's library tells, and what rustls warns of when a client is at fault, is of no use to an operator.
/// Before the configured level, so that it can say otherwise.
const QUIET_LIBRARIES: &str = "fjall=warn,lsm_tree=warn,rustls=error";

/// How long a thread that panicked waits for its line to be written: the process may be gone right after.
const PANIC_WAIT: Duration = Duration::from_millis(200);

/// The configured levels, or those that the environment has.
fn filter(config: &LogConfig, environment: Option<OsString>) -> Result<EnvFilter, Failure> {
    let Some(given) = environment.filter(|given| !given.is_empty()) else {
        return Ok(EnvFilter::new(format!("{QUIET_LIBRARIES},{}", config.level)));
    };
    given.to_str().and_then(|given| given.parse().ok()).ok_or_else(|| {
        let name = EnvFilter::DEFAULT_ENV;
        Failure::usage(format!("{name} is {given:?}, expected {LOG_LEVELS}"))
    })
}

/// Starts logging. `RUST_LOG` takes precedence over the configured level.
pub(crate) fn start(config: &LogConfig) -> Result<(), Failure> {
    let filter = filter(config, std::env::var_os(EnvFilter::DEFAULT_ENV))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_environment_that_are_none_are_not_passed_over() {
        let config = LogConfig::default();
        let of = |given: &str| filter(&config, Some(given.into())).map(|filter| filter.to_string());
        assert_eq!(of("warn,lb=debug").ok().as_deref(), Some("lb=debug,warn"));
        for configured in [of("").ok(), filter(&config, None).ok().map(|filter| filter.to_string())] {
            assert!(configured.is_some_and(|filter| filter.contains("rustls=error")));
        }
        let told = filter(&config, Some("lb=loud".into())).map_err(|failure| format!("{failure:?}"));
        assert!(told.as_ref().is_err_and(|told| told.contains("code: 64") && told.contains("RUST_LOG")));
    }
}
