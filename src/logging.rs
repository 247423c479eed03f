//! Logs to standard error: readable on a terminal, one JSON object a line elsewhere.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// What the store's library tells, and what rustls warns of when a client is at fault, is of no use to an operator.
/// Before the configured level, so that it can say otherwise.
const QUIET_LIBRARIES: &str = "fjall=warn,lsm_tree=warn,rustls=error";

/// Starts logging. `RUST_LOG` takes precedence over the configured level.
pub(crate) fn start(config: &LogConfig) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{QUIET_LIBRARIES},{}", config.level)));
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start can only come from a test in the same process, and the first one then stands.
    let _ = if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        lines.with_ansi(terminal).try_init()
    };
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, %backtrace, "panicked");
    }));
}
