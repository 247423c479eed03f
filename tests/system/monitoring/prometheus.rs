//! Prometheus with the rules and the configuration of `deploy/monitoring`, but for where the processes are and how fast time passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{FIRES_WITHIN, INTERVAL, deployed, hasten};
use crate::harness::{Server, let_pass};
use crate::servers::{free_port, until};

/// A running Prometheus, ended with its handle or with the test.
pub(super) struct Prometheus {
    watcher: Child,
    port: u16,
    _dir: TempDir,
}

impl Prometheus {
    /// Watches these processes of each job, by the deployed configuration but for where they are and how often.
    pub(super) fn start(jobs: &[(&str, Vec<&Server>)]) -> Self {
        const WATCH: &str = "prometheus \"$@\" </dev/null >&2 & cat >/dev/null; kill -9 $!";
        let dir = TempDir::new().unwrap();
        let mut config = fs::read_to_string(deployed("prometheus.yml")).unwrap();
        for (job, servers) in jobs {
            let targets: Vec<String> =
                servers.iter().map(|server| server.address_of("admin").to_string()).collect();
            let lines = config.lines().map(|line| match line.trim_start().strip_prefix("dns_sd_configs:") {
                Some(rest) if rest.contains(&format!("[{job}]")) => {
                    format!("    static_configs: [{{ targets: {targets:?} }}]")
                }
                _ => line.to_owned(),
            });
            config = lines.collect::<Vec<_>>().join("\n");
        }
        assert!(!config.contains("dns_sd_configs"), "a job without processes:\n{config}");
        let often = config.lines().map(|line| match line.trim().split_once(": ") {
            Some((key @ ("scrape_interval" | "evaluation_interval" | "scrape_timeout"), _)) => {
                format!("  {key}: {INTERVAL}")
            }
            _ => line.to_owned(),
        });
        let config = often.collect::<Vec<_>>().join("\n");
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let rules = fs::read_to_string(deployed("alerts.yml")).unwrap();
        fs::write(dir.path().join("alerts.yml"), hasten(&rules)).unwrap();
        let port = free_port();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let watcher = Command::new("sh")
            .args(["-c", WATCH, "watch", "--log.level=warn"])
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Self { watcher, port, _dir: dir };
        until("Prometheus is ready", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok() && prometheus.get("/-/ready").0 == 200
        });
        prometheus
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.expect("a status"), body.to_owned())
    }

    /// What an expression is now: labels and value of each series.
    pub(super) fn query(&self, expression: &str) -> Vec<Value> {
        let mut path = String::new();
        for byte in expression.bytes() {
            path.push_str(&format!("%{byte:02x}"));
        }
        let (_, body) = self.get(&format!("/api/v1/query?query={path}"));
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        let result = answer["data"]["result"].as_array();
        result.unwrap_or_else(|| panic!("{expression}: {answer}")).clone()
    }

    /// The alerts that fire, with what they are about.
    pub(super) fn firing(&self) -> BTreeMap<String, Value> {
        let firing = self.query("ALERTS{alertstate=\"firing\"}");
        firing
            .into_iter()
            .map(|one| (one["metric"]["alertname"].as_str().unwrap().to_owned(), one["metric"].clone()))
            .collect()
    }

    /// Waits until all of these fire.
    pub(super) fn expect(&self, alerts: &[&str], seen: &mut BTreeSet<String>) {
        let began = Instant::now();
        let mut missing: Vec<&str> = alerts.to_vec();
        while !missing.is_empty() {
            let firing = self.firing();
            for alert in missing.extract_if(.., |alert| firing.contains_key(*alert)) {
                println!("{alert} fires after {:.1} s", began.elapsed().as_secs_f64());
                seen.insert(alert.to_owned());
            }
            let all = || self.query("ALERTS");
            assert!(began.elapsed() < FIRES_WITHIN, "{missing:?} do not fire, others do: {:#?}", all());
            let_pass(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}
