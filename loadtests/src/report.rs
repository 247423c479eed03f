//! The figures of a run: a readable table on standard output and one JSON object in a file.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::measure::latency::LatencySummary;
use crate::measure::process::Usage;
use crate::measure::sequence::Tally;

/// Length of the longest bar of a chart.
const CHART_COLUMNS: f64 = 60.0;

/// Named figures in the order in which they were added. Names end in their unit.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    scenario: &'static str,
    figures: Vec<(String, Value)>,
}

impl Report {
    /// An empty report of `scenario`.
    #[must_use]
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self { scenario, figures: Vec::new() }
    }

    /// Adds one figure.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.figures.push((name.into(), value.into()));
    }

    /// Adds one figure if there is one, rounded to a thousandth.
    pub(crate) fn add_some(&mut self, name: impl Into<String>, value: Option<f64>) {
        if let Some(value) = value {
            self.add(name, (value * 1e3).round() / 1e3);
        }
    }

    /// Adds the percentiles under names that begin with `prefix`.
    pub(crate) fn add_latency(&mut self, prefix: &str, summary: Option<LatencySummary>) {
        let Some(summary) = summary else {
            return;
        };
        self.add_some(format!("{prefix}mean_us"), Some(summary.mean_us));
        for (name, value) in [
            ("p50_us", summary.p50_us),
            ("p90_us", summary.p90_us),
            ("p99_us", summary.p99_us),
            ("p999_us", summary.p999_us),
            ("max_us", summary.max_us),
        ] {
            self.add(format!("{prefix}{name}"), value);
        }
    }

    /// Adds what arrived and what should not have happened; `expected` counts deliveries.
    pub(crate) fn add_tally(&mut self, expected: u64, tally: &Tally) {
        self.add("delivered", tally.delivered);
        self.add("lost", expected.saturating_sub(tally.delivered));
        self.add("duplicates", tally.duplicates);
        self.add("reordered", tally.reordered);
    }

    /// Adds CPU and memory of the broker and CPU of this tool over `count` things named `each` in `elapsed_s` seconds.
    pub(crate) fn add_cost(&mut self, prefix: &str, each: &str, count: u64, cost: &Cost) {
        self.add_some(format!("{prefix}elapsed_s"), Some(cost.elapsed_s));
        self.add_some(format!("{prefix}{each}s_per_s"), Some(count as f64 / cost.elapsed_s.max(1e-9)));
        if let Some(broker) = cost.broker {
            self.add_some(format!("{prefix}broker_cpu_s"), Some(broker.cpu_s));
            self.add_some(format!("{prefix}broker_cpu_us_per_{each}"), broker.cpu_us_per(count));
            self.add(format!("{prefix}broker_rss_before_kib"), broker.rss_before_kib);
            self.add(format!("{prefix}broker_rss_after_kib"), broker.rss_after_kib);
        }
        self.add_some(format!("{prefix}generator_cpu_us_per_{each}"), cost.generator.cpu_us_per(count));
    }

    /// Writes the JSON object.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        let mut object: Map<String, Value> = self.figures.iter().cloned().collect();
        object.insert("scenario".to_owned(), self.scenario.into());
        let text = serde_json::to_string_pretty(&Value::Object(object))?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.figures.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        writeln!(out, "{}", self.scenario)?;
        for (name, value) in &self.figures {
            match value {
                Value::Array(per_s) => write_chart(out, name, per_s)?,
                Value::String(text) => writeln!(out, "  {name:width$}  {text:>14}")?,
                other => writeln!(out, "  {name:width$}  {:>14}", other.to_string())?,
            }
        }
        Ok(())
    }
}

/// A figure for each second as a line with a bar.
fn write_chart(out: &mut fmt::Formatter<'_>, name: &str, per_s: &[Value]) -> fmt::Result {
    let most = per_s.iter().filter_map(Value::as_f64).fold(1.0, f64::max);
    writeln!(out, "  {name}")?;
    for (second, value) in per_s.iter().enumerate() {
        let value = value.as_f64().unwrap_or(0.0);
        // Never negative, and never more than the width.
        let bar = "#".repeat((value / most * CHART_COLUMNS).round() as usize);
        writeln!(out, "  {second:>5} s {value:>8.0} {bar}")?;
    }
    Ok(())
}

/// What a measured span cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Wall-clock time.
    pub(crate) elapsed_s: f64,
    /// The accounted processes, if any were named.
    pub(crate) broker: Option<Usage>,
    /// This tool.
    pub(crate) generator: Usage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_holds_every_figure_by_name() {
        let mut report = Report::new("throughput");
        report.add("qos", 1);
        report.add_tally(10, &Tally { delivered: 8, duplicates: 1, reordered: 0 });
        let cost = Cost {
            elapsed_s: 2.0,
            broker: Some(Usage { cpu_s: 1.0, rss_before_kib: 1, rss_after_kib: 2 }),
            generator: Usage::default(),
        };
        report.add_cost("", "message", 8, &cost);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        report.write_json(&path).unwrap();
        let read: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(read["scenario"], "throughput");
        assert_eq!(read["lost"], 2);
        assert_eq!(read["broker_cpu_us_per_message"], 125_000.0);
        assert_eq!(read["messages_per_s"], 4.0);
    }

    #[test]
    fn figures_per_second_become_a_chart() {
        let mut report = Report::new("storm");
        report.add("admitted_per_s", vec![10, 0, 5]);
        let table = report.to_string();
        let bars: Vec<usize> = table.lines().skip(2).map(|line| line.matches('#').count()).collect();
        assert_eq!(bars, [60, 0, 30], "{table}");
    }

    #[test]
    fn the_table_keeps_the_order() {
        let mut report = Report::new("idle");
        report.add("zulu", 1);
        report.add("alpha", "text");
        let table = report.to_string();
        assert!(table.find("zulu") < table.find("alpha"));
    }
}
