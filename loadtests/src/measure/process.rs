//! What other processes use: CPU time (user and system, all threads) and resident memory, from `/proc`.

use anyhow::{Context, Result};
use serde::Serialize;

/// `/proc/PID/stat` counts in units of 1/100 s on every Linux that Rust supports (`USER_HZ`).
const TICK_US: u64 = 10_000;

/// One reading of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// CPU time since the process started, in microseconds; moves in steps of 10 ms.
    pub(crate) cpu_us: u64,
    /// Resident memory in KiB.
    pub(crate) rss_kib: u64,
}

/// The difference over a measured span, summed over the accounted processes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Usage {
    /// CPU time in seconds.
    pub(crate) cpu_s: f64,
    /// Resident memory at the start, KiB.
    pub(crate) rss_before_kib: u64,
    /// Resident memory at the end, KiB.
    pub(crate) rss_after_kib: u64,
}

impl Usage {
    /// What was used between two readings.
    #[must_use]
    pub(crate) fn between(before: Reading, after: Reading) -> Self {
        Self {
            cpu_s: after.cpu_us.saturating_sub(before.cpu_us) as f64 / 1e6,
            rss_before_kib: before.rss_kib,
            rss_after_kib: after.rss_kib,
        }
    }

    /// Microseconds of CPU for each of `count` things, or `None` without any.
    #[must_use]
    pub(crate) fn cpu_us_per(&self, count: u64) -> Option<f64> {
        (count > 0).then(|| self.cpu_s * 1e6 / count as f64)
    }
}

/// Reads and adds up the given processes.
///
/// # Errors
/// When a process has gone or `/proc` cannot be read.
pub(crate) fn read_all(pids: &[u32]) -> Result<Reading> {
    let mut sum = Reading::default();
    for pid in pids {
        let reading = read(&pid.to_string())?;
        sum.cpu_us += reading.cpu_us;
        sum.rss_kib += reading.rss_kib;
    }
    Ok(sum)
}

/// Reads this process.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn read_self() -> Result<Reading> {
    read("self")
}

fn read(process: &str) -> Result<Reading> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))
        .with_context(|| format!("read CPU time of process {process}"))?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))
        .with_context(|| format!("read memory of process {process}"))?;
    Ok(Reading {
        cpu_us: cpu_ticks(&stat).context("unexpected form of /proc/PID/stat")? * TICK_US,
        rss_kib: rss_kib(&status).context("no VmRSS in /proc/PID/status")?,
    })
}

/// `utime + stime`: fields 14 and 15, counted after the command name, which may contain spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn rss_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_command_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 9 1 2";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (x"), None);
    }

    #[test]
    fn resident_memory_is_read_in_kib() {
        assert_eq!(rss_kib("Name:\tx\nVmRSS:\t   5120 kB\nThreads: 1\n"), Some(5_120));
        assert_eq!(rss_kib("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(read_self().unwrap().rss_kib > 0);
    }

    #[test]
    fn cost_is_per_thing() {
        let usage = Usage { cpu_s: 2.0, ..Usage::default() };
        assert_eq!(usage.cpu_us_per(1_000_000), Some(2.0));
        assert_eq!(usage.cpu_us_per(0), None);
    }
}
