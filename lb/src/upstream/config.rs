//! The `[workers]` section: where workers are, how they are reached and watched, and what a move may take.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use link::{BindError, LinkTlsConfig, split_host_port};
use serde::{Deserialize, Serialize};

/// The `[workers]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkersConfig {
    /// Where links of workers are listened for, `host:port`. Every address that a name stands for is a worker. Default:
    /// none; at most 1,024.
    pub addresses: Vec<String>,
    /// What this edge calls itself towards workers, for their logs. Default `edge`; 1 to 255 bytes.
    pub edge_name: String,
    /// How often names are resolved again, milliseconds. Default 5,000; 100 to 3,600,000.
    pub resolve_interval_ms: u64,
    /// Links to each worker. Default 2; 1 to 16.
    pub links_per_worker: usize,
    /// How long connecting may take, TLS and HELLO included, milliseconds. Default 2,000; 100 to 60,000.
    pub connect_timeout_ms: u64,
    /// The longest wait before a link that failed is tried again, milliseconds; the first is an eighth of a second. Default
    /// 2,000; 125 to 60,000.
    pub backoff_max_ms: u64,
    /// A worker that would have more than so many times the mean of this edge's streams is passed over. Default 1.25; 1.01
    /// to 100.
    pub load_factor: f64,
    /// Sessions that are being resumed at once. Default 256; 1 to 65,536.
    pub moves_inflight_max: usize,
    /// Sessions that are moved in a second, at most, from workers that have more than `load_factor` allows to others; 0 for
    /// none. Default 100; 0 to 10,000.
    pub rebalance_per_s: usize,
    /// How long a device whose worker is gone waits for another, before it is told to connect anew, milliseconds. It stands
    /// still while the store is away. Default 30,000; 1,000 to 3,600,000.
    pub handoff_timeout_ms: u64,
    /// How long one worker may take to answer a resume before another is asked, milliseconds. Default 5,000; 100 to 60,000.
    pub resume_timeout_ms: u64,
    /// How workers are watched beyond their links.
    pub health: HealthConfig,
    /// How sessions are vouched for.
    pub passport: PassportConfig,
    /// Mutual TLS towards workers. Default: none, links are not encrypted.
    pub tls: Option<LinkTlsConfig>,
    /// The largest Control Packet, bytes: that of the edge.
    #[serde(skip)]
    pub packet_bytes_max: u32,
    /// Streams that one link opens in its life, before there has to be another: all that can be told apart.
    #[serde(skip)]
    pub streams_per_link_max: u32,
}

/// `[workers.health]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// The port of the workers' admin endpoint, whose `/readyz` is asked. Default: none, only links tell.
    pub admin_port: Option<u16>,
    /// How often, milliseconds. Default 1,000; 100 to 600,000.
    pub interval_ms: u64,
    /// How long an answer may take, milliseconds. Default 1,000; 50 to 60,000.
    pub timeout_ms: u64,
    /// Failures in a row after which no more sessions are opened there. Default 2; 1 to 100.
    pub failures_max: u32,
}

/// `[workers.passport]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PassportConfig {
    /// PEM file of the private key (PKCS #8; Ed25519 or P-256) that passports are signed with. Workers have the public one.
    /// Needed with `addresses`, unless a service of authentication signs them.
    pub signing_key_file: Option<PathBuf>,
    /// Passports are signed where they are made, elsewhere.
    #[serde(skip)]
    pub comes_signed: bool,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            edge_name: "edge".to_owned(),
            resolve_interval_ms: 5_000,
            links_per_worker: 2,
            connect_timeout_ms: 2_000,
            backoff_max_ms: 2_000,
            load_factor: 1.25,
            moves_inflight_max: 256,
            rebalance_per_s: 100,
            handoff_timeout_ms: 30_000,
            resume_timeout_ms: 5_000,
            health: HealthConfig::default(),
            passport: PassportConfig::default(),
            tls: None,
            packet_bytes_max: 1_179_648,
            streams_per_link_max: u32::MAX,
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { admin_port: None, interval_ms: 1_000, timeout_ms: 1_000, failures_max: 2 }
    }
}

/// A key of `[workers]` that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("workers.{key}: {problem}")]
pub struct WorkersConfigError {
    /// The key below `workers`, with dots.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Where one entry of `addresses` leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    /// `None` when it is a name.
    pub(super) address: Option<SocketAddr>,
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, BindError> {
        let (bare, port) = split_host_port(text)?;
        if port == 0 {
            return Err(BindError::NoPort(bare.to_owned()));
        }
        let address = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        // Names of certificates are asked for as they are written, with the brackets of an IPv6 address.
        let host = text.rsplit_once(':').map_or(bare, |(host, _)| host);
        Ok(Self { host: host.to_owned(), port, address })
    }
}

impl WorkersConfig {
    /// Checks every bound. Files are read by [`super::Workers::start`].
    ///
    /// # Errors
    /// The first key that is out of bounds.
    pub fn validate(&self) -> Result<(), WorkersConfigError> {
        if self.addresses.len() > 1_024 {
            return wrong("addresses", "has more than 1024 entries");
        }
        for text in &self.addresses {
            if let Err(error) = Endpoint::parse(text) {
                return wrong("addresses", format!("{text:?}: {error}"));
            }
        }
        if self.edge_name.is_empty() || self.edge_name.len() > 255 {
            return wrong("edge_name", "has 1 to 255 bytes");
        }
        within("resolve_interval_ms", self.resolve_interval_ms, 100, 3_600_000)?;
        within("links_per_worker", self.links_per_worker as u64, 1, 16)?;
        within("connect_timeout_ms", self.connect_timeout_ms, 100, 60_000)?;
        within("backoff_max_ms", self.backoff_max_ms, 125, 60_000)?;
        if !(1.01..=100.0).contains(&self.load_factor) {
            return wrong("load_factor", format!("{} is outside of 1.01 to 100", self.load_factor));
        }
        within("moves_inflight_max", self.moves_inflight_max as u64, 1, 65_536)?;
        within("rebalance_per_s", self.rebalance_per_s as u64, 0, 10_000)?;
        within("handoff_timeout_ms", self.handoff_timeout_ms, 1_000, 3_600_000)?;
        within("resume_timeout_ms", self.resume_timeout_ms, 100, 60_000)?;
        within("health.interval_ms", self.health.interval_ms, 100, 600_000)?;
        within("health.timeout_ms", self.health.timeout_ms, 50, 60_000)?;
        within("health.failures_max", self.health.failures_max.into(), 1, 100)?;
        let needs_key = !self.passport.comes_signed && !self.addresses.is_empty();
        if needs_key && self.passport.signing_key_file.is_none() {
            return wrong("passport.signing_key_file", "is needed");
        }
        Ok(())
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(super) fn handoff_timeout(&self) -> Duration {
        Duration::from_millis(self.handoff_timeout_ms)
    }

    pub(super) fn resume_timeout(&self) -> Duration {
        Duration::from_millis(self.resume_timeout_ms)
    }
}

fn wrong(key: &'static str, problem: impl Into<String>) -> Result<(), WorkersConfigError> {
    Err(WorkersConfigError { key, problem: problem.into() })
}

fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), WorkersConfigError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        wrong(key, format!("{value} is outside of {min} to {max}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        WorkersConfig::default().validate().expect("valid");
    }

    #[test]
    fn an_endpoint_is_a_name_or_an_address_with_a_port() {
        let parse = |text| {
            Endpoint::parse(text)
                .ok()
                .map(|endpoint| (endpoint.host, endpoint.port, endpoint.address.is_some()))
        };
        assert_eq!(parse("broker:7883"), Some(("broker".to_owned(), 7883, false)));
        assert_eq!(parse("10.0.0.1:7883"), Some(("10.0.0.1".to_owned(), 7883, true)));
        assert_eq!(parse("[::1]:7883"), Some(("[::1]".to_owned(), 7883, true)));
        for wrong in ["broker", ":7883", "broker:0", "broker:x", "::1:7883", "[broker]:7883", "broker:70000"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_an_address_lacks_is_said() {
        let config = WorkersConfig { addresses: vec!["broker".to_owned()], ..WorkersConfig::default() };
        let error = config.validate().expect_err("no port");
        let expected = "workers.addresses: \"broker\": the port is missing; write broker:PORT";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn an_error_names_its_key() {
        let config = WorkersConfig { addresses: vec!["broker:7883".to_owned()], ..WorkersConfig::default() };
        let error = config.validate().expect_err("no key");
        assert_eq!(error.to_string(), "workers.passport.signing_key_file: is needed");
        let config = WorkersConfig { load_factor: 1.0, ..WorkersConfig::default() };
        let error = config.validate().expect_err("out of bounds");
        assert_eq!(error.to_string(), "workers.load_factor: 1 is outside of 1.01 to 100");
    }
}
